"""The tables of CytoCrowd: boxes of four pathologists, and the gold boxes of a senior expert.

The worker table names its annotators in a column that is never read: only the columns used here are parsed, and what
`download` writes has no such column. The data come without a licence: fetch them for your own use, do not pass them on.

    python -m assay.data.tables.cytocrowd FOLDER      # fetches both tables, 3.2 MB, checked by SHA-256

Source: 2602.06674
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from assay.data.tables.box_table import BoxTable, from_rows, share_names
from assay.errors import InputError, require

COMMIT = "c18d0aa724c99e11fd111f5665c4ad3cde586ab5"
ADDRESS = f"https://raw.githubusercontent.com/YHSI5358/CytoCrowd-Datasets/{COMMIT}/Datasets"
SHA256 = {
    "WorkerData.csv": "3dd23d3fcd303a279bde388cea6901abc418262a3153d067278bcf3033745150",
    "GroundTruth.csv": "5ab7446f7eec6b1bacfdc772082ca4462961d532f41ce29dc836773b7241fb38",
}
BYTES = 8_000_000

WORKER_COLUMNS = ["worker_bbox", "author_id", "img_name", "category"]
GOLD_COLUMNS = ["bbox", "img_name", "category"]

ENGLISH = {
    "其他正常细胞": "other normal",
    "宫颈管细胞": "endocervical",
    "化生细胞": "metaplastic",
    "糖原溶解细胞": "glycogenolytic",
    "不明分类": "unclear",
    "细菌性阴道病": "bacterial vaginosis",
    "深染细胞团": "hyperchromatic crowded group",
    "萎缩性改变": "atrophy",
    "修复细胞": "repair",
    "多核巨细胞": "multinucleated giant",
    "子宫内膜细胞": "endometrial",
    "滴虫": "trichomonas",
}

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def is_cytocrowd(folder: Path) -> bool:
    """Whether a folder holds the worker table, at its top or under `Datasets`."""
    return _find(folder, "WorkerData.csv") is not None


def read(folder: Path) -> tuple[BoxTable, BoxTable]:
    """Votes and gold of a CytoCrowd folder, with common names. Errors as in `read_workers`."""
    return share_names(read_workers(folder), read_gold(folder))


def read_workers(folder: Path) -> BoxTable:
    """The pathologists' boxes; they are called by their number (`author_id`).

    Args:
        folder: holds `Datasets/WorkerData.csv`, or `WorkerData.csv` itself.

    Raises:
        InputError: the table is missing or is not of that form.
        MissingExtra: pandas is not installed.
    """
    return _read(folder, "WorkerData.csv", WORKER_COLUMNS)


def read_gold(folder: Path) -> BoxTable:
    """The senior expert's boxes of `GroundTruth.csv`. Errors as in `read_workers`."""
    return _read(folder, "GroundTruth.csv", GOLD_COLUMNS)


def download(folder: Path) -> Path:
    """Fetch both tables of the pinned version into `FOLDER/Datasets`, without the column of names.

    Raises:
        InputError: what came is not what the pinned version holds, or nothing came.
    """
    pandas = require("pandas", "labels")
    place = folder.expanduser() / "Datasets"
    place.mkdir(parents=True, exist_ok=True)
    for name, digest in SHA256.items():
        try:
            with urllib.request.urlopen(f"{ADDRESS}/{name}", timeout=60) as answer:
                content = answer.read(BYTES)
        except OSError as error:
            raise InputError(f"{ADDRESS}/{name} cannot be fetched: {error}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"{ADDRESS}/{name} is not the file this reader was written for (SHA-256 differs)")
        table = pandas.read_csv(io.BytesIO(content), usecols=lambda column: column != "author")
        part = place / f".{name}.part"
        table.to_csv(part, index=False)
        os.replace(part, place / name)
    return folder


def _read(folder: Path, name: str, columns: list[str]) -> BoxTable:
    pandas = require("pandas", "labels")
    path = _find(folder, name)
    if path is None:
        raise InputError(f"{folder}: no {name}; expected the CytoCrowd folder with Datasets/WorkerData.csv")
    try:
        table = pandas.read_csv(path, usecols=columns, dtype=str, keep_default_na=False, encoding="utf-8")
    except (ValueError, pandas.errors.ParserError) as error:  # missing columns, broken quoting, wrong encoding
        raise InputError(f"{path}: expected a CSV table with the columns {', '.join(columns)}") from error
    if not len(table):
        raise InputError(f"{path}: no rows after the header")
    people = table["author_id"].tolist() if "author_id" in columns else None
    labels = [ENGLISH.get(label, label) for label in table["category"]]
    images = [unquote(image) for image in table["img_name"]]
    return from_rows(_corners(path, table[columns[0]]), labels, images, people)


def _corners(path: Path, texts: Any) -> NDArray[np.float64]:
    """Boxes from `[x0. y0. x1. y1.]` or `[x0, y0, x1, y1]`."""
    found = [_NUMBER.findall(text) for text in texts]
    for row, numbers in enumerate(found):
        if len(numbers) != 4:
            raise InputError(f"{path}, row {row + 1}: {texts.iloc[row][:60]!r} is not a box of four numbers")
    return np.array(found, dtype=float)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / "Datasets" / name, folder / name) if path.is_file()), None)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m assay.data.tables.cytocrowd FOLDER")
    try:
        print(download(Path(sys.argv[1])))
    except InputError as failure:
        sys.exit(str(failure))
