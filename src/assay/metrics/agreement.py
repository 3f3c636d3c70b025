"""Agreement of annotators beyond chance."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Weights = Literal["linear", "quadratic"]
Level = Literal["nominal", "ordinal", "interval"]


def cohen_kappa(a: ArrayLike, b: ArrayLike, *, weights: Weights | None = None) -> float:
    """Cohen's kappa of two annotators who labelled the same items.

        kappa = 1 - sum(w * observed) / sum(w * expected)

    with `observed` the shares of label pairs, `expected` the product of the two marginals, and w = 1 off the diagonal
    (or |i - j|, (i - j)**2 over the ranks of the sorted labels when weighted).

    Args:
        a, b: labels `(N,)`.
        weights: for ordered labels.

    Returns:
        1 for full agreement, 0 for agreement by chance; NaN when no disagreement is possible (one label only).

    Raises:
        ValueError: no items, or vectors of different length.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(f"two non-empty vectors of one length expected, got {first.shape} and {second.shape}")
    names, index = np.unique(np.concatenate([first, second]), return_inverse=True)
    observed = np.zeros((len(names), len(names)))
    np.add.at(observed, (index[: len(first)], index[len(first) :]), 1 / len(first))
    cost = _cost(len(names), weights)
    chance = float((cost * np.outer(observed.sum(1), observed.sum(0))).sum())
    return 1 - float((cost * observed).sum()) / chance if chance else np.nan


def fleiss_kappa(counts: ArrayLike) -> float:
    """Fleiss' kappa: agreement of a fixed number of raters per item.

    Args:
        counts: `(N, K)`, how many raters gave item n the label k; every row has the same sum, at least 2.

    Returns:
        (P - Pe) / (1 - Pe) with P the share of agreeing pairs and Pe the sum of squared label shares; NaN if Pe is 1.

    Raises:
        ValueError: no items, unequal row sums, or fewer than two raters.
    """
    table = np.asarray(counts, dtype=float)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"counts must have shape (N, K), got {table.shape}")
    raters = table.sum(axis=1)
    if (raters != raters[0]).any() or raters[0] < 2:
        raise ValueError("every item must have the same number of raters, at least two; see krippendorff_alpha")
    agreed = ((table * (table - 1)).sum(axis=1) / (raters * (raters - 1))).mean()
    chance = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return float((agreed - chance) / (1 - chance)) if chance < 1 else np.nan


def krippendorff_alpha(ratings: ArrayLike, *, level: Level = "nominal") -> float:
    """Krippendorff's alpha: agreement of any number of raters with missing ratings.

    alpha = 1 - observed / expected disagreement over the coincidences of values within items. Items with fewer than
    two ratings carry no information and are left out.

    Args:
        ratings: `(raters, items)` of numbers, NaN where missing.
        level: squared distance of two values: 0/1, of their rank sums, or of the values themselves.

    Returns:
        1 for full agreement; NaN when all ratings are one value or no item has two.

    Raises:
        ValueError: not a matrix, or an unknown level.
    """
    table = np.asarray(ratings, dtype=float)
    if table.ndim != 2:
        raise ValueError(f"ratings must have shape (raters, items), got {table.shape}")
    if level not in ("nominal", "ordinal", "interval"):
        raise ValueError(f"level must be nominal, ordinal or interval, got {level!r}")
    table = table[:, np.isfinite(table).sum(axis=0) >= 2]
    values, index = np.unique(table[np.isfinite(table)], return_inverse=True)
    item = np.nonzero(np.isfinite(table))[1]
    counts = np.zeros((table.shape[1], len(values)))
    np.add.at(counts, (item, index), 1.0)
    per_item = counts.sum(axis=1)
    coincidence = (counts / (per_item - 1)[:, None]).T @ counts
    coincidence -= np.diag((counts / (per_item - 1)[:, None]).sum(axis=0))  # a rating is no pair with itself
    total = coincidence.sum(axis=0)
    cost = _distance(values, total, level)
    n = total.sum()
    expected = float((cost * np.outer(total, total)).sum()) / (n - 1) if n > 1 else 0.0
    return 1 - float((cost * coincidence).sum()) / expected if expected else np.nan


def _cost(size: int, weights: Weights | None) -> NDArray[np.float64]:
    apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(float)
    if weights is None:
        return (apart > 0).astype(float)
    if weights not in ("linear", "quadratic"):
        raise ValueError(f"weights must be linear, quadratic or None, got {weights!r}")
    return apart if weights == "linear" else apart**2


def _distance(values: NDArray[np.float64], total: NDArray[np.float64], level: Level) -> NDArray[np.float64]:
    if level == "nominal":
        return 1 - np.eye(len(values))
    # Ordinal: the number of ratings between two values, each end counted by half.
    place = np.cumsum(total) - total / 2 if level == "ordinal" else values
    return np.subtract.outer(place, place) ** 2
