"""A user's recordings: CSV files, an .npz of windows, .ts files, or a folder of a public set."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from assay.data.series.archive import read_ts_set
from assay.data.series.har_folders import read_folder
from assay.data.series.windows import Recording, Windows, cut
from assay.errors import InputError


def read_windows(path: Path, seconds: float, rate: float, overlap: float = 0.5) -> Windows:
    """Windows of a folder of CSV recordings, one CSV, an .npz, or a public set (then its own protocol holds).

    A .ts file of the UCR and UEA archives, or a folder of some, holds windows already; then `seconds` does not count.

    A CSV has the columns `time` (seconds), sensors, `label` and, if wanted, `subject`; without `subject` every file
    counts as one. An .npz holds `x` (N, C, T), `y` (N,) and, if wanted, `subject` (N,).

    Raises:
        InputError: nothing usable there, in one line.
    """
    if path.is_dir():
        known = read_folder(path)
        if known is not None:
            return known[1]
        if series := sorted(path.glob("*.ts")):
            return read_ts_set(series, rate)
        files = sorted(path.glob("*.csv"))
        if not files:
            raise InputError(f"{path}: no CSV recordings and no known set in it")
    elif path.suffix == ".npz":
        return read_npz(path, rate)
    elif path.suffix == ".ts":
        return read_ts_set([path], rate)
    elif path.is_file():
        files = [path]
    else:
        raise InputError(f"{path}: no such file or folder")
    return cut([part for file in files for part in read_csv(file)], seconds, rate, overlap)


def read_csv(path: Path, *, labelled: bool = True) -> list[Recording]:
    """The recordings of a CSV file, one per subject.

    Args:
        labelled: whether the column `label` must be there.

    Raises:
        InputError: columns missing, or a cell that is no number.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error
    header = [name.strip() for name in rows[0]] if rows else []
    needed = ("time", "label") if labelled else ("time",)
    missing = [name for name in needed if name not in header]
    channels = tuple(name for name in header if name not in ("time", "label", "subject"))
    if missing or not channels or len(set(header)) < len(header):
        raise InputError(
            f"{path}: columns {', '.join(header) or 'none'}; expected time, sensor columns of different names"
            + (", label" if labelled else "")
        )
    rows = [row for row in rows[1:] if row]
    if any(len(row) != len(header) for row in rows) or not rows:
        raise InputError(f"{path}: every row needs {len(header)} cells, and at least one row")
    at = {name: i for i, name in enumerate(header)}
    try:
        times = np.array([float(row[at["time"]]) for row in rows])
        values = np.array([[float(row[at[c]] or "nan") for c in channels] for row in rows])
    except ValueError as error:
        raise InputError(f"{path}: {error}; expected numbers in time and sensor columns") from error
    if not np.isfinite(times).all():
        raise InputError(f"{path}: a time is missing")
    labels = np.array([row[at["label"]].strip() if "label" in at else "" for row in rows])
    who = np.array([row[at["subject"]].strip() if "subject" in at else path.stem for row in rows])
    found = []
    for subject in dict.fromkeys(who.tolist()):
        mine = who == subject
        found.append(Recording(times[mine], values[mine], labels[mine], subject, channels, path.name))
    return found


def read_npz(path: Path, rate: float = 0.0) -> Windows:
    """Windows of an .npz with `x`, `y` and, if wanted, `subject`.

    Raises:
        InputError: arrays missing, of wrong shapes, of objects, or not finite.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ("x", "y", "subject")}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as .npz ({error})") from error
    if "x" not in arrays or "y" not in arrays:
        raise InputError(f"{path}: holds {', '.join(arrays) or 'neither x nor y'}; expected x (N, C, T) and y (N,)")
    x, y = arrays["x"], arrays["y"]
    if x.ndim != 3 or y.shape != (len(x),) or not len(x) or not np.issubdtype(x.dtype, np.number):
        raise InputError(f"{path}: x {x.shape} and y {y.shape}; expected numbers (N, C, T) and (N,)")
    if not np.isfinite(x).all():
        raise InputError(f"{path}: x has NaN or infinite values")
    who = arrays.get("subject", np.full(len(x), ""))
    if who.shape != (len(x),):
        raise InputError(f"{path}: subject {who.shape}, expected ({len(x)},)")
    classes, codes = np.unique(y.astype(str), return_inverse=True)
    channels = tuple(f"channel {i}" for i in range(x.shape[1]))
    return Windows(
        x.astype(np.float32), codes.astype(np.int64), who.astype(str), tuple(map(str, classes)), channels, rate
    )
