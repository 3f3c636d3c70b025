"""Real sensor series that travel inside a library: files of the `aeon` wheel, read without importing it.

BasicMotions (smartwatch, 6 channels, 80 windows of four activities), GunPoint (hand position, 200 windows),
PickupGestureWiimoteZ (one axis of a controller, 100 windows of unequal length; the classes are the ten persons).
The files say nothing about who wore the watch or moved the hand.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from assay.data.series.windows import Windows
from assay.errors import InputError, MissingExtra

NAMES = ("BasicMotions", "GunPoint", "PickupGestureWiimoteZ")
RATES = {"BasicMotions": 10.0}


def read_archive(name: str, steps: int | None = None) -> Windows:
    """A set of the wheel, training and test file joined; the subject of each window is unknown ("").

    Args:
        name: one of `NAMES`. steps: length to stretch every series to, linearly; None: all have one length already.

    Raises:
        InputError: an unknown name. MissingExtra: aeon is not installed.
    """
    if name not in NAMES:
        raise InputError(f"no set {name!r} in the wheel; choose from: {', '.join(NAMES)}")
    try:
        folder = Path(str(distribution("aeon").locate_file("aeon/datasets/data"))) / name
    except PackageNotFoundError as error:
        raise MissingExtra("aeon is not installed; install it with: pip install --no-deps aeon") from error
    parts = [read_ts(folder / f"{name}_{part}.ts") for part in ("TRAIN", "TEST")]
    series = [s for part in parts for s in part[0]]
    labels = [label for part in parts for label in part[1]]
    classes, y = np.unique(labels, return_inverse=True)
    x = np.stack([stretch(s, steps) if steps else s for s in series]).astype(np.float32)
    channels = tuple(f"channel {i}" for i in range(x.shape[1]))
    return Windows(x, y.astype(np.int64), np.full(len(y), ""), tuple(map(str, classes)), channels, RATES.get(name, 0.0))


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Series `(C, T)` and labels of a .ts file: channels separated by colons, the label last.

    Raises:
        InputError: no such file, or a line that is no series.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    series, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line[0] in "#@":
            continue
        *channels, label = line.strip().split(":")
        try:
            values = [np.array([float(v) for v in c.split(",")]) for c in channels]
            kept = [v[~np.isnan(v)] for v in values]  # NaN pads unequal lengths
            series.append(np.stack(kept))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no series of channels of one length") from error
        labels.append(label)
    return series, labels


def stretch(series: np.ndarray, steps: int) -> np.ndarray:
    """A series (C, T) linearly resampled to (C, steps), both ends kept."""
    at = np.linspace(0, series.shape[1] - 1, steps)
    return np.stack([np.interp(at, np.arange(series.shape[1]), row) for row in series])
