"""How far two scores put the same things in the same order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ranks(values: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1, the mean rank for ties; shape (N,).

    Raises:
        ValueError: no vector, or a NaN.
    """
    from scipy.stats import rankdata

    return np.asarray(rankdata(_vector(values)), dtype=float)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation, ties by mean ranks; 0 where a score is constant (it orders nothing).

    Raises:
        ValueError: shapes differ, fewer than two values, or a NaN.
    """
    a, b = (ranks(values) - (len(_vector(values)) + 1) / 2 for values in _pair(first, second))
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 0 else 0.0


def kendall(first: ArrayLike, second: ArrayLike) -> float:
    """Kendall's tau-b; 0 where a score is constant.

    Raises:
        ValueError: as for `spearman`.
    """
    a, b = _pair(first, second)
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(v[:, None] - v)[upper] for v in (a, b))
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / size) if size > 0 else 0.0


def rank_error(first: ArrayLike, second: ArrayLike, groups: ArrayLike | None = None) -> float:
    """Mean difference of ranks over pairs of things of different groups, as a share of the number of things.

    For each pair (i, j) the signed distance of their ranks under either score is compared; the mean of the absolute
    difference over pairs, divided by N. With `groups`, only pairs across groups count: does the score place one group
    rightly against another? 0: the same order.

    Raises:
        ValueError: as for `spearman`, or no pair counts.
    """
    a, b = (ranks(values) for values in _pair(first, second))
    apart = np.abs((a[:, None] - a) - (b[:, None] - b))
    counts = ~np.eye(len(a), dtype=bool)
    if groups is not None:
        names = np.asarray(groups)
        counts &= names[:, None] != names
    if not counts.any():
        raise ValueError("no pair of things lies in different groups")
    return float(apart[counts].mean() / len(a))


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = _vector(first), _vector(second)
    if a.shape != b.shape or len(a) < 2:
        raise ValueError(f"expected two vectors of one length, at least 2, got {a.shape} and {b.shape}")
    return a, b


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or np.isnan(found).any():
        raise ValueError(f"expected a vector without NaN, got shape {found.shape}")
    return found
