"""Oriented point clouds as binary .ply, the form that surface reconstruction tools read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def write_oriented_points(
    path: Path,
    points: NDArray[np.floating],
    normals: NDArray[np.floating],
    colours: NDArray[np.uint8] | None = None,
) -> None:
    """Write x y z, nx ny nz (float32) and, if given, red green blue (uint8), little-endian.

    Args:
        path: the file.
        points, normals: `(N, 3)`.
        colours: `(N, 3)`.

    Raises:
        ValueError: the lengths differ.
    """
    if points.shape != normals.shape or (colours is not None and colours.shape != points.shape):
        raise ValueError(f"points {points.shape}, normals {normals.shape} and colours differ in length")
    fields = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    if colours is not None:
        fields += [(name, "u1") for name in ("red", "green", "blue")]
    table = np.empty(len(points), np.dtype(fields))
    for column, name in enumerate(("x", "y", "z")):
        table[name], table[f"n{name}"] = points[:, column], normals[:, column]
    if colours is not None:
        for column, name in enumerate(("red", "green", "blue")):
            table[name] = colours[:, column]
    kinds = {"<f4": "float", "u1": "uchar"}
    properties = "".join(f"property {kinds[kind]} {name}\n" for name, kind in fields)
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{properties}end_header\n"
    Path(path).write_bytes(head.encode() + table.tobytes())
