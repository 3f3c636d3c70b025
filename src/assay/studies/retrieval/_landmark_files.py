"""A user's samples for landmark clustering: a folder of pictures or a matrix."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.data.image.coil import mat_variables, numeric_matrix, read_mat
from assay.data.image.folder import IMAGE_SUFFIXES, DataError, load_image, read_array
from assay.errors import InputError


@dataclass(frozen=True)
class Given:
    """A user's samples.

    Attributes:
        names: file or row of each sample.
        inputs: pictures `(n, C, H, W)` in [0, 1] or rows `(n, D)`.
        paths: files of the pictures; None for a matrix.
        constant: names of pictures of a single colour, left out.
    """

    names: list[str]
    inputs: NDArray[np.float32]
    paths: list[Path] | None
    constant: list[str]


def read_samples(samples: Path, size: int, colour: bool) -> Given:
    """A folder of pictures or a matrix.

    Raises:
        InputError: nothing there, unreadable files, or values that are not finite.
    """
    if samples.is_dir():
        return _read_pictures(samples, size, colour)
    if not samples.is_file():
        raise InputError(f"{samples}: no such file or folder; expected a folder of pictures, .npy, .csv or .mat")
    suffix = samples.suffix.lower()
    if suffix == ".mat":
        variables = mat_variables(samples)
        if "fea" in variables or "Y" in variables:
            images = read_mat(samples).images
            return _without_constant([f"picture {i}" for i in range(len(images))], images[:, None], None)
        matrices = {name: a for name, a in variables.items() if a.ndim == 2 and min(a.shape) > 1}
        if len(matrices) != 1:
            names = ", ".join(sorted(matrices)) or "none"
            raise InputError(f"{samples}: expected the variable fea or one matrix, found {names}")
        name, found = next(iter(matrices.items()))
        rows = numeric_matrix(found, samples, name).astype(np.float32)
    elif suffix == ".npy":
        try:
            rows = read_array(samples)
        except DataError as error:
            raise InputError(str(error)) from None
    elif suffix == ".csv":
        rows = _read_csv(samples)
    else:
        raise InputError(f"{samples}: expected a folder of pictures, .npy, .csv or .mat")
    if len(rows) < 4:
        raise InputError(f"{samples}: {len(rows)} rows are too few to cluster")
    return Given([f"row {i}" for i in range(len(rows))], rows, None, [])


def _read_pictures(root: Path, size: int, colour: bool) -> Given:
    files = sorted(
        path for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )  # fmt: skip
    outside = next((path for path in files if not path.resolve().is_relative_to(root.resolve())), None)
    if outside is not None:
        raise InputError(f"{outside}: a link that leads out of {root}")
    if len(files) < 4:
        raise InputError(f"{root}: found {len(files)} pictures ({', '.join(IMAGE_SUFFIXES)}); at least 4 are expected")
    images = []
    for file in files:
        try:
            image = load_image(file, size)
        except DataError as error:
            raise InputError(str(error)) from None
        images.append(image if colour else image.mean(axis=0, keepdims=True))
    names = [path.relative_to(root).as_posix() for path in files]
    return _without_constant(names, np.stack(images), files)


def _without_constant(names: list[str], images: NDArray[np.float32], paths: list[Path] | None) -> Given:
    """Pictures of one colour say nothing of a subspace: they are listed and left out."""
    flat = images.reshape(len(images), -1)
    kept = np.flatnonzero(np.ptp(flat, axis=1) > 1e-4)
    constant = [name for i, name in enumerate(names) if i not in set(kept.tolist())]
    if len(kept) < 4:
        listed = ", ".join(constant[:5])
        raise InputError(f"{len(constant)} of {len(names)} pictures have a single colour ({listed}); 4 others expected")
    return Given([names[i] for i in kept], images[kept], paths and [paths[i] for i in kept], constant)


def _read_csv(file: Path) -> NDArray[np.float32]:
    """A numeric matrix; a first line that holds a name is taken as the header."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            lines = [row for row in csv.reader(handle) if row]
        header = bool(lines) and not all(_is_number(cell) for cell in lines[0])
        rows = np.array([[float(cell) for cell in row] for row in lines[header:]], dtype=np.float64)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise InputError(f"{file}: expected numbers, the same count in every row ({error})") from None
    return numeric_matrix(rows, file, "the table").astype(np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
