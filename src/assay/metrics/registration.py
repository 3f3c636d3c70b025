"""How well two volumes were aligned: target registration error, overlap of labels, folding."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def target_registration_error(
    found: ArrayLike, truth: ArrayLike, spacing: float | ArrayLike = 1.0
) -> NDArray[np.float64]:
    """Distance in mm between where landmarks were carried and where they are: (N,).

    Args:
        found, truth: (N, 3), in voxels.
        spacing: mm per voxel, one number or one for each axis; 1 where points are in mm already.

    Raises:
        ValueError: shapes that do not fit, or no landmark.
    """
    a, b = np.asarray(found, float), np.asarray(truth, float)
    if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3 or len(a) == 0:
        raise ValueError(f"expected two sets of landmarks (N, 3), N >= 1, got {a.shape} and {b.shape}")
    return np.linalg.norm((a - b) * np.asarray(spacing, float), axis=1)


def dice(a: ArrayLike, b: ArrayLike) -> float:
    """Dice overlap `2 |A ∩ B| / (|A| + |B|)` of two masks; 1 when both are empty.

    Raises:
        ValueError: masks of different shapes.
    """
    first, second = np.asarray(a, bool), np.asarray(b, bool)
    if first.shape != second.shape:
        raise ValueError(f"expected masks of one shape, got {first.shape} and {second.shape}")
    total = int(first.sum() + second.sum())
    return 1.0 if total == 0 else 2.0 * float((first & second).sum()) / total


def folding_share(determinant: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Share of voxels (of the mask) whose Jacobian determinant is not positive.

    Raises:
        ValueError: an empty mask.
    """
    folded = np.asarray(determinant) <= 0
    if mask is not None:
        folded = folded[np.asarray(mask, bool)]
    if folded.size == 0:
        raise ValueError("expected at least one voxel, the mask is empty")
    return float(folded.mean())
