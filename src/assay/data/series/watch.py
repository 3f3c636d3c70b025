"""Shoulder exercises under a smartwatch: real recordings that travel inside the `seglearn` wheel.

Twenty people did sets of seven physiotherapy exercises: 140 recordings of an accelerometer and a gyroscope, 50 samples
a second. The wheel stores them as a pickle. No pickle is run here: the file must be the one known by its checksum, and
`pickletools` lists its strings, which hold the numbers.

Source of the data: Burns et al., arXiv 1802.01489 (BSD licence, as seglearn).
"""

from __future__ import annotations

import hashlib
import pickletools
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from assay.data.series.windows import Recording
from assay.errors import InputError, MissingExtra

SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
RATE = 50.0
CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
EXERCISES = (
    "pendulum", "abduction", "forward elevation", "internal rotation", "external rotation", "trapezius", "row",
)  # fmt: skip
HEADER = 128  # bytes of the .npy header before the pickle


def installed() -> Path | None:
    """The file inside the installed wheel, or None."""
    try:
        path = Path(str(distribution("seglearn").locate_file("seglearn/data/watch_dataset.npy")))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


@lru_cache(maxsize=1)
def read_watch(path: Path | None = None) -> tuple[Recording, ...]:
    """The 140 recordings.

    Args:
        path: the file; None: that of the installed wheel.

    Raises:
        MissingExtra: seglearn is not installed. InputError: another file than the known one.
    """
    path = path or installed()
    if path is None:
        raise MissingExtra("seglearn is not installed; install it with: pip install 'assay[adaptation]'")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise InputError(f"{path}: not the file known here (its SHA-256 differs); expected that of seglearn 1.2.5")
    # A string that begins with a reference to the encoder (memo 3) is the Latin-1 text of an array's bytes.
    arrays, before = [], None
    for code, argument, _ in pickletools.genops(data[HEADER:]):
        if code.name == "BINUNICODE" and before == ("BINGET", 3):
            arrays.append(argument.encode("latin-1"))
        before = (code.name, argument)
    *signals, exercises, people, _side = arrays
    exercise, person = np.frombuffer(exercises, "<i8"), np.frombuffer(people, "<i8")
    found = []
    for signal, kind, who in zip(signals, exercise, person, strict=True):
        values = np.frombuffer(signal, "<f8").reshape(len(CHANNELS), -1).T
        labels = np.full(len(values), EXERCISES[kind])
        times = np.arange(len(values)) / RATE
        found.append(Recording(times, values, labels, f"{who:02d}", CHANNELS, f"person {who}, {EXERCISES[kind]}"))
    return tuple(found)
