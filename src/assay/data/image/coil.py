"""Small image sets kept as MATLAB files: COIL-20, COIL-100, ORL and cropped Extended Yale B.

| file | variables | pictures |
|---|---|---|
| `COIL20.mat`, `COIL100.mat` | `fea` (1440 or 7200, 1024), `gnd` (N, 1) | 32x32 |
| `ORL_32x32.mat` | `fea` (400, 1024), `gnd` (400, 1) | 32x32 |
| `YaleBCrop025.mat` | `Y` (2016, 64, 38): pixels, lightings, people | 48x42 |

MATLAB stores a picture column by column; it is turned upright here. Files of MATLAB up to version 7 are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError

YALE_SHAPE = (48, 42)
OFFICIAL = {"coil-20": "COIL20.mat", "coil-100": "COIL100.mat", "orl": "ORL_32x32.mat", "yale-b": "YaleBCrop025.mat"}


@dataclass(frozen=True)
class Pictures:
    """Grey pictures with their classes.

    Attributes:
        images: `(N, H, W)` float32 in [0, 1].
        labels: `(N,)` class 0..K-1; None where the file has none.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None


def find(folder: Path, name: str) -> Path | None:
    """The official file of a set (`coil-20`, `coil-100`, `orl`, `yale-b`) in a folder or its `Data`, or None."""
    places = (folder / OFFICIAL[name], folder / "Data" / OFFICIAL[name])
    return next((place for place in places if place.is_file()), None)


def read_mat(file: Path, shape: tuple[int, int] | None = None) -> Pictures:
    """Pictures of a `.mat` file in one of the layouts above.

    Args:
        file: the file.
        shape: height and width; None: square pictures (`fea`) or 48x42 (`Y`).

    Raises:
        InputError: unreadable, none of the layouts, pixels that do not fill the shape, or values that are not finite.
    """
    variables = mat_variables(file)
    if "fea" in variables:
        rows = variables["fea"]
        labels = variables.get("gnd")
        side = round(np.sqrt(rows.shape[-1]))
        shape = shape or (side, side)
    elif "Y" in variables and variables["Y"].ndim == 3:
        stack = variables["Y"]  # pixels, lightings, people
        rows = stack.transpose(2, 1, 0).reshape(-1, stack.shape[0])
        labels = np.repeat(np.arange(stack.shape[2]), stack.shape[1])
        shape = shape or YALE_SHAPE
    else:
        names = ", ".join(sorted(variables)) or "none"
        raise InputError(
            f"{file}: expected the variables fea and gnd, or Y (pixels, lightings, people); it has {names}"
        )
    rows = numeric_matrix(rows, file, "fea" if "fea" in variables else "Y")
    if shape[0] * shape[1] != rows.shape[1]:
        raise InputError(f"{file}: {rows.shape[1]} values a picture do not make {shape[0]}x{shape[1]} pixels")
    images = rows.reshape(len(rows), shape[1], shape[0]).transpose(0, 2, 1)  # column by column
    if images.max() > 1:
        images = images / (255 if images.max() > 128 else images.max())
    if labels is not None:
        labels = np.asarray(labels).ravel()
        if len(labels) != len(rows):
            raise InputError(f"{file}: {len(rows)} pictures but {len(labels)} labels")
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return Pictures(np.ascontiguousarray(np.clip(images, 0, 1), dtype=np.float32), labels)


def mat_variables(file: Path) -> dict[str, NDArray[np.float64]]:
    """Numeric arrays of a `.mat` file by name; structs, cells and text are left out.

    Raises:
        InputError: the file cannot be read.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(file, variable_names=None, appendmat=False)
    except Exception as error:  # SciPy raises many kinds for damaged files; version 7.3 is HDF5
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: not a MATLAB file up to version 7 ({words})") from None
    return {name: a for name, a in found.items() if isinstance(a, np.ndarray) and a.dtype.kind in "fiub"}


def numeric_matrix(array: NDArray, file: Path, name: str) -> NDArray[np.float64]:
    """`array` as a non-empty finite float matrix.

    Raises:
        InputError: it is none; `file` and `name` say which.
    """
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] == 0 or array.dtype.kind not in "fiub":
        raise InputError(f"{file}: expected {name} to be a numeric matrix with a row per sample, got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{file}: {name} holds values that are not finite")
    return array.astype(np.float64)
