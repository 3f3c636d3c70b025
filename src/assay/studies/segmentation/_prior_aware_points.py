"""Clicks of users: CSV, LabelMe and COCO, checked against the pictures they belong to."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from assay.errors import InputError

FOREGROUND, BACKGROUND = {"fg", "foreground", "1"}, {"bg", "background", "0"}


@dataclass(frozen=True)
class Click:
    """One annotated point: file as written, position in pixels, class (`foreground`, `background` or a name)."""

    file: str
    x: float
    y: float
    label: str
    where: str


def read_clicks(path: Path) -> list[Click]:
    """Clicks of a CSV, a LabelMe or COCO json, or a folder of LabelMe files; both sides must be there.

    Raises:
        InputError: another format, a bad row, or one side missing.
    """
    if path.is_dir():
        clicks = [click for file in sorted(path.glob("*.json")) for click in _json_clicks(file)]
    elif not path.is_file():
        raise InputError(f"no such file or folder: {path}")
    elif path.suffix.lower() == ".csv":
        clicks = _csv_clicks(path)
    elif path.suffix.lower() == ".json":
        clicks = _json_clicks(path)
    else:
        raise InputError(f"{path}: expected a .csv, a .json, or a folder of LabelMe .json files")
    behind = sum(click.label == "background" for click in clicks)
    if not behind or behind == len(clicks):
        raise InputError(
            f"{path}: {len(clicks) - behind} foreground and {behind} background points, expected at least one of each"
        )
    return clicks


def owner_of(click: Click, names: list[str]) -> str:
    """The picture that a click belongs to: by its path, or by its file name where that is unique."""
    if click.file in names:
        return click.file
    alike = [name for name in names if Path(name).name == Path(click.file).name]
    if len(alike) != 1:
        many = f"{len(alike)} pictures" if alike else "no picture"
        raise InputError(f"{click.where}: {many} of the folder is called {click.file!r}")
    return alike[0]


def check_inside(click: Click, image: Tensor) -> None:
    """Refuse a click outside its picture."""
    height, width = image.shape[1:]
    if not (0 <= click.x < width and 0 <= click.y < height):
        raise InputError(
            f"{click.where}: point ({click.x:g}, {click.y:g}) lies outside the picture of {width}x{height}"
        )


def cell_at(click: Click, image: Tensor, tokens: Tensor) -> tuple[int, int]:
    """Row and column of the token under a click."""
    rows, columns = tokens.shape[:2]
    return int(click.y * rows / image.shape[1]), int(click.x * columns / image.shape[2])


def _csv_clicks(path: Path) -> list[Click]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            missing = [name for name in ("file", "x", "y", "label") if name not in header]
            if missing:
                raise InputError(f"{path}: no column {missing[0]!r}; expected file,x,y,label")
            return [
                _click(row["file"], row["x"], row["y"], row["label"], f"{path}, line {reader.line_num}")
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV ({error})") from error


def _json_clicks(path: Path) -> list[Click]:
    """LabelMe: shapes of type point. COCO: keypoints (x, y, visibility) of annotations, named by their category."""
    try:
        held = json.loads(path.read_text(encoding="utf-8-sig"))
        if "shapes" in held:
            file = held.get("imagePath") or path.with_suffix(".png").name
            return [
                _click(str(file).replace("\\", "/"), *shape["points"][0], shape["label"], f"{path}, shape {i}")
                for i, shape in enumerate(held["shapes"], 1)
                if shape.get("shape_type", "point") == "point"
            ]
        images = {entry["id"]: entry["file_name"] for entry in held["images"]}
        classes = {entry["id"]: entry["name"] for entry in held["categories"]}
        return [
            _click(images[a["image_id"]], a["keypoints"][i], a["keypoints"][i + 1], classes[a["category_id"]],
                   f"{path}, annotation {number}")
            for number, a in enumerate(held["annotations"], 1)
            for i in range(0, len(a["keypoints"]) - 2, 3)
            if a["keypoints"][i + 2]
        ]  # fmt: skip
    except (KeyError, TypeError, IndexError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: neither LabelMe points nor COCO keypoints ({type(error).__name__}: {error})"
        ) from error


def _click(file: Any, x: Any, y: Any, label: Any, where: str) -> Click:
    try:
        place = float(x), float(y)
    except (TypeError, ValueError):
        raise InputError(f"{where}: x and y must be numbers, got {x!r} and {y!r}") from None
    if not all(math.isfinite(v) for v in place):
        raise InputError(f"{where}: x and y must be finite numbers, got {x!r} and {y!r}")
    name, word = str(file or "").strip(), str(label or "").strip()
    if not name or not word:
        raise InputError(f"{where}: no file or no label")
    lower = word.lower()
    kind = "foreground" if lower in FOREGROUND else "background" if lower in BACKGROUND else word
    return Click(name, *place, kind, where)
