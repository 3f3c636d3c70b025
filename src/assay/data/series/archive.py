"""Sets of the UCR and UEA archives: .ts files, as aeon and sktime carry and write them.

The files do not say who wore the sensor, so the subject of every window is "" (unknown).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.data.series.windows import Windows
from assay.errors import InputError


def read_ts_set(paths: Sequence[Path], rate: float = 0.0) -> Windows:
    """The windows of several .ts files (of training and of testing, say); unequal lengths are stretched to the median.

    Raises:
        InputError: an unreadable file, or other channels in one series than in another.
    """
    parts = [read_ts(path) for path in paths]
    series = [s for part in parts for s in part[0]]
    labels = [label for part in parts for label in part[1]]
    if not series or len({len(s) for s in series}) > 1:
        raise InputError(f"{', '.join(map(str, paths))}: expected series of one number of channels, and at least one")
    lengths = {s.shape[1] for s in series}
    steps = round(float(np.median([s.shape[1] for s in series])))
    x = np.stack([stretch(s, steps) if len(lengths) > 1 else s for s in series]).astype(np.float32)
    classes, y = np.unique(labels, return_inverse=True)
    notes = (f"series of {min(lengths)} to {max(lengths)} samples, stretched to {steps}",) if len(lengths) > 1 else ()
    channels = tuple(f"channel {i}" for i in range(x.shape[1]))
    unknown = np.full(len(y), "")
    return Windows(x, y.astype(np.int64), unknown, tuple(map(str, classes)), channels, rate, notes)


def read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Series `(C, T)` and labels of a .ts file: channels separated by colons, the label last.

    Raises:
        InputError: no such file, or a line that is no series.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    series, labels = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line[0] in "#@":
            continue
        *channels, label = line.strip().split(":")
        try:
            values = [np.array([float(v) for v in c.split(",")]) for c in channels]
            kept = [v[~np.isnan(v)] for v in values]  # NaN pads unequal lengths
            series.append(np.stack(kept))
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no series of channels of one length") from error
        if not series[-1].size or not np.isfinite(series[-1]).all():
            raise InputError(f"{path}: line {number} holds no finite numbers")
        labels.append(label)
    return series, labels


def stretch(series: np.ndarray, steps: int) -> np.ndarray:
    """A series (C, T) linearly resampled to (C, steps), both ends kept."""
    at = np.linspace(0, series.shape[1] - 1, steps)
    return np.stack([np.interp(at, np.arange(series.shape[1]), row) for row in series])
