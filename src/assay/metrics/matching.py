"""One-to-one matching of what was found with what is true, and how well the matched ones agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Matching:
    """The best one-to-one matching.

    Attributes:
        score: mean agreement over the true items, in [0, 1].
        found: `(C,)` index of the found item matched to each true one.
        agreement: `(C,)` of each pair.
    """

    score: float
    found: NDArray[np.intp]
    agreement: NDArray[np.float64]


def match(agreement: ArrayLike) -> Matching:
    """The one-to-one matching of true items (rows) with found ones (columns) that has the highest mean agreement.

    Args:
        agreement: `(C, K)`, C <= K.

    Raises:
        ValueError: more true items than found ones, or values that are not finite.
    """
    table = np.asarray(agreement, dtype=np.float64)
    if table.ndim != 2 or not table.size or table.shape[0] > table.shape[1]:
        raise ValueError(f"a table (true, found) with at least as many found as true expected, got {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("agreements must be finite")
    rows, columns = linear_sum_assignment(table, maximize=True)
    return Matching(float(table[rows, columns].mean()), columns, table[rows, columns])


def mean_correlation(true: ArrayLike, found: ArrayLike) -> Matching:
    """MCC of latents: matched by |Pearson correlation| over samples.

    Args:
        true: `(n, C)` latents.
        found: `(n, K)` codes; a constant column agrees with nothing.

    Raises:
        ValueError: as `match`, or samples that do not correspond.
    """
    return match(correlations(true, found))


def mean_cosine(true: ArrayLike, found: ArrayLike) -> Matching:
    """MCC of directions: rows `(C, d)` and `(K, d)` matched by |cosine|.

    Raises:
        ValueError: as `match`, or widths that differ.
    """
    a, b = np.asarray(true, dtype=np.float64), np.asarray(found, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"rows of one width expected, got {a.shape} and {b.shape}")
    return match(np.abs(_unit(a) @ _unit(b).T))


def correlations(true: ArrayLike, found: ArrayLike) -> NDArray[np.float64]:
    """|Pearson correlation| of the columns of `(n, C)` and `(n, K)`: `(C, K)`; 0 where one is constant.

    Raises:
        ValueError: samples that do not correspond.
    """
    a, b = np.asarray(true, dtype=np.float64), np.asarray(found, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or not len(a):
        raise ValueError(f"two tables over the same samples expected, got {a.shape} and {b.shape}")
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return np.abs(_unit(a.T) @ _unit(b.T).T)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
