"""How well an attribution map finds the region that is known to matter.

Maps are (N, H, W), signed; only their positive part counts, except for ranking. Masks are boolean of the same shape.
Every function gives one number per map.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay.metrics.ranking import average_precision

Floats = NDArray[np.float64]


def energy_in_mask(maps: ArrayLike, masks: ArrayLike) -> Floats:
    """Share of the positive attribution that lies in the mask, (N,); a map without any counts as spread evenly.

    Raises:
        ValueError: shapes differ or a value is not finite.
    """
    positive, inside = _checked(maps, masks)
    positive = np.where(positive.sum(axis=(1, 2), keepdims=True) > 0, positive, 1.0)
    return (positive * inside).sum(axis=(1, 2)) / positive.sum(axis=(1, 2))


def area_share(masks: ArrayLike) -> Floats:
    """Share of the image that the mask covers, (N,): what a map without knowledge gets as `energy_in_mask`."""
    return np.asarray(masks, dtype=bool).mean(axis=(1, 2))


def pointing_game(maps: ArrayLike, masks: ArrayLike, tolerance: float = 0.0) -> Floats:
    """1 where the highest value lies in the mask or within `tolerance` pixels of it, else 0, (N,).

    Among several highest values the share of hits counts.

    Raises:
        ValueError: shapes differ, a value is not finite, or the tolerance is negative.
    """
    from scipy.ndimage import distance_transform_edt

    _, inside = _checked(maps, masks)
    values = np.asarray(maps, dtype=float)
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    hits = []
    for value, mask in zip(values, inside, strict=True):
        near = mask if not tolerance or not mask.any() else distance_transform_edt(~mask) <= tolerance
        hits.append(near[value == value.max()].mean())
    return np.asarray(hits)


def pixel_average_precision(maps: ArrayLike, masks: ArrayLike) -> Floats:
    """Average precision of the pixels of the mask when all are ranked by the map, (N,).

    Raises:
        ValueError: shapes differ, a value is not finite, or a mask is empty.
    """
    _, inside = _checked(maps, masks)
    values = np.asarray(maps, dtype=float)
    return np.asarray([average_precision(m.ravel(), v.ravel()) for v, m in zip(values, inside, strict=True)])


def grid_pointing_game(maps: ArrayLike, cells: ArrayLike, grid: int) -> Floats:
    """Share of the positive attribution in one cell of a grid x grid layout, (N,).

    Args:
        maps: (N, H, W), H and W multiples of `grid`.
        cells: (N,), the cell that holds the explained class, row by row.
        grid: cells along a side.

    Raises:
        ValueError: sizes that do not fit, or a cell outside the grid.
    """
    values = np.asarray(maps, dtype=float)
    index = np.asarray(cells, dtype=np.int64)
    if values.ndim != 3 or values.shape[1] % grid or values.shape[2] % grid:
        raise ValueError(f"maps must be (N, H, W) with H and W multiples of {grid}, got {values.shape}")
    if index.shape != values.shape[:1] or (index < 0).any() or (index >= grid * grid).any():
        raise ValueError(f"cells must be one of 0..{grid * grid - 1} per map")
    owner = np.arange(grid * grid).reshape(grid, grid)
    owner = np.kron(owner, np.ones((values.shape[1] // grid, values.shape[2] // grid), dtype=np.int64))
    return energy_in_mask(values, owner[None] == index[:, None, None])


def _checked(maps: ArrayLike, masks: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """The positive part of the maps, and the masks."""
    values, inside = np.asarray(maps, dtype=float), np.asarray(masks, dtype=bool)
    if values.ndim != 3 or values.shape != inside.shape:
        raise ValueError(f"maps and masks must both be (N, H, W), got {values.shape} and {inside.shape}")
    if not np.isfinite(values).all():
        raise ValueError("maps hold values that are not finite")
    return np.clip(values, 0, None), inside
