"""How far apart two clouds of embeddings lie: between their means, and between their distributions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def mean_gap(img: ArrayLike, txt: ArrayLike) -> float:
    """Length of the difference of the two means; for unit rows between 0 and 2.

    Args:
        img, txt: `(n, d)` and `(m, d)`.

    Raises:
        ValueError: no rows, widths that differ, or values that are not finite.
    """
    a, b = _clouds(img, txt)
    return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0)))


def sliced_wasserstein(img: ArrayLike, txt: ArrayLike, rng: np.random.Generator, projections: int = 128) -> float:
    """Sliced 2-Wasserstein distance: sqrt of the mean over random unit directions u of W_2^2(<img, u>, <txt, u>).

    Sees shape as well as place: 0 only where both clouds are the same, as far as the directions tell. W_2 along a line
    is the distance of the quantile functions, read at `max(n, m)` levels.

    Args:
        img, txt: `(n, d)` and `(m, d)`.
        rng: draws the directions.

    Raises:
        ValueError: as `mean_gap`, or no projection.
    """
    a, b = _clouds(img, txt)
    if projections < 1:
        raise ValueError(f"at least one projection expected, got {projections}")
    u = rng.normal(size=(a.shape[1], projections))
    u /= np.linalg.norm(u, axis=0)
    first, second = np.sort(a @ u, axis=0), np.sort(b @ u, axis=0)
    if len(a) != len(b):
        levels = (np.arange(max(len(a), len(b))) + 0.5) / max(len(a), len(b))
        first, second = first[(levels * len(a)).astype(int)], second[(levels * len(b)).astype(int)]
    return float(np.sqrt(((first - second) ** 2).mean()))


def _clouds(img: ArrayLike, txt: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = np.asarray(img, dtype=np.float64), np.asarray(txt, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or not len(a) or not len(b) or a.shape[1] != b.shape[1]:
        raise ValueError(f"two tables of rows of one width expected, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("embeddings must be finite")
    return a, b
