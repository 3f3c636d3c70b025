"""How well the edges of two pictures agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def edge_f1(edges: NDArray[np.bool_], reference: NDArray[np.bool_], tolerance: int = 1) -> float:
    """F1 of edge pixels: an edge pixel counts when the other map has one within `tolerance`.

    Args:
        edges, reference: bool `(H, W)`.
        tolerance: chessboard distance (pixels); 0 wants the same pixel.

    Returns:
        `2 P R / (P + R)` with precision P = share of `edges` near the reference, recall R the reverse;
        1 when both are empty, 0 when only one is.

    Raises:
        ValueError: the shapes differ or the tolerance is negative.
    """
    edges, reference = np.asarray(edges, dtype=bool), np.asarray(reference, dtype=bool)
    if edges.shape != reference.shape:
        raise ValueError(f"edges {edges.shape} and reference {reference.shape} differ in shape")
    if tolerance < 0:
        raise ValueError(f"tolerance {tolerance} is negative")
    if not edges.any() or not reference.any():
        return float(edges.any() == reference.any())
    precision = near(reference, tolerance)[edges].mean()
    recall = near(edges, tolerance)[reference].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def near(edges: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Pixels within a chessboard distance of a set one."""
    if not distance:
        return edges
    return ndimage.maximum_filter(edges, size=2 * distance + 1, mode="constant")
