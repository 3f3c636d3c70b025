"""Samples of the conditions of the landmark study."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from assay.data import samples
from assay.data.image import coil
from assay.data.subspaces import gaussian_blobs, turntable, union_of_subspaces
from assay.errors import InputError

REAL = ("coil-20", "digits")
VECTORS = ("subspaces", "blobs", "crossing")
OBJECTS, DIGITS, ROWS = 10, 600, 600  # drawn for a seed


def here(name: str) -> bool:
    """Whether an official set lies among the samples."""
    folder = samples.locate(name)
    return folder is not None and coil.find(folder, name) is not None


def draw(
    name: str, scale: str, rng: np.random.Generator, data: Path | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Samples of a condition: pictures `(n, H, W)` or vectors `(n, D)`, their classes, their rows in the whole set.

    Raises:
        InputError: at full scale, when an official file is not at hand.
    """
    smoke = scale == "smoke"
    if name in VECTORS:
        n = 150 if smoke else ROWS
        if name == "blobs":
            made = gaussian_blobs(n, rng, distance=6.0)
        else:
            made = union_of_subspaces(n, rng, dim=4, angle=0.4 if name == "subspaces" else 0.1, noise=0.2)
        return made.rows.astype(np.float32), made.labels, np.arange(n)
    if name == "digits":
        images, truth = digits()
        rows = np.arange(len(truth)) if scale == "full" else rng.choice(len(truth), 150 if smoke else DIGITS, False)
        return images[rows], truth[rows], rows
    images, truth = pictures(name, data if scale == "full" else None, scale == "full")
    if scale == "full":
        return images, truth, np.arange(len(truth))
    objects = np.unique(truth)
    kept = rng.choice(objects, 4 if smoke else min(OBJECTS, len(objects)), replace=False)
    rows = np.flatnonzero(np.isin(truth, kept))[:: 2 if smoke else 1]
    return images[rows], np.unique(truth[rows], return_inverse=True)[1], rows


@lru_cache(maxsize=1)
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """scikit-learn's digits, 8x8 pixels in [0, 1]."""
    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target


@lru_cache(maxsize=4)
def pictures(name: str, data: Path | None, needed: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """An official image set, or turntable pictures in place of COIL-20.

    Raises:
        InputError: the file is `needed` and not at hand, or it holds no classes.
    """
    folders = [folder for folder in (data, samples.locate(name)) if folder is not None]
    file = next((file for folder in folders if (file := coil.find(folder, name))), None)
    if file is None:
        if needed:
            raise InputError(f"the full scale needs {coil.OFFICIAL[name]}: put it in a folder and pass --data FOLDER")
        return turntable(20, 72, np.random.default_rng(0))
    found = coil.read_mat(file)
    if found.labels is None:
        raise InputError(f"{file}: holds no classes to compare with; expected the variable gnd")
    return found.images, found.labels
