"""Pairs of landmarks in two volumes: MNI `.tag` files, and comma-separated tables."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.data.volumes.volume import Floats
from assay.errors import InputError

COLUMNS = ("fixed_x", "fixed_y", "fixed_z", "moving_x", "moving_y", "moving_z")


@dataclass(frozen=True)
class LandmarkPairs:
    """Points (N, 3) in the fixed and the moving volume, both in RAS millimetres."""

    fixed: Floats
    moving: Floats

    def __len__(self) -> int:
        return len(self.fixed)

    def swapped(self) -> LandmarkPairs:
        """The same pairs, fixed and moving exchanged."""
        return LandmarkPairs(self.moving, self.fixed)


def read_landmarks(path: Path) -> LandmarkPairs:
    """Read a `.tag` file (first volume fixed) or a CSV with the columns fixed_x .. moving_z, RAS millimetres.

    Raises:
        InputError: no such file, or a file that does not hold pairs of points.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    return read_tag(path) if path.suffix.lower() == ".tag" else read_csv(path)


def read_tag(path: Path) -> LandmarkPairs:
    """Read an MNI tag file of two volumes, as RESECT has them.

    Raises:
        InputError: not such a file.
    """
    text = _text(path)
    if not text.lstrip().startswith("MNI Tag Point File"):
        raise InputError(f"{path}: expected a file that starts with 'MNI Tag Point File'")
    volumes = re.search(r"Volumes\s*=\s*(\d+)\s*;", text)
    body = re.search(r"Points\s*=(.*)", text, re.S)
    if volumes is None or body is None or int(volumes[1]) != 2:
        raise InputError(f"{path}: expected points in two volumes ('Volumes = 2;', 'Points = ...')")
    rows = []
    for line in body[1].replace(";", "\n").splitlines():
        line = re.sub(r"[%#].*", "", line)
        words = re.sub(r'"[^"]*"', "", line).split()
        if not words:
            continue
        if len(words) < 6:
            raise InputError(f"{path}: a point with {len(words)} numbers, expected six: {line.strip()[:60]!r}")
        rows.append(words[:6])
    return _pairs(rows, path)


def write_tag(path: Path, pairs: LandmarkPairs) -> None:
    """Write pairs as an MNI tag file of two volumes."""
    lines = [" ".join(f"{v:.6f}" for v in row) + ' ""' for row in np.hstack([pairs.fixed, pairs.moving])]
    Path(path).write_text(
        "MNI Tag Point File\nVolumes = 2;\n\nPoints =\n " + "\n ".join(lines) + ";\n", encoding="ascii"
    )


def read_csv(path: Path) -> LandmarkPairs:
    """Read a table with the columns fixed_x, fixed_y, fixed_z, moving_x, moving_y, moving_z (others are ignored).

    Raises:
        InputError: a column is missing, a value is no number, or there is no row.
    """
    rows = list(csv.DictReader(_text(path).splitlines()))
    names = list(rows[0]) if rows else []
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; expected {', '.join(COLUMNS)} (mm, RAS) and a row a pair"
        )
    return _pairs([[row[name] or "" for name in COLUMNS] for row in rows], path)


def write_csv(path: Path, pairs: LandmarkPairs) -> None:
    """Write pairs as such a table."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(np.hstack([pairs.fixed, pairs.moving]).round(6).tolist())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file") from error


def _pairs(rows: list[list[str]], path: Path) -> LandmarkPairs:
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a coordinate is not a number") from error
    if table.ndim != 2 or len(table) == 0 or not np.isfinite(table).all():
        raise InputError(f"{path}: expected at least one pair of points with finite coordinates")
    return LandmarkPairs(table[:, :3], table[:, 3:6])
