"""How well a clustering agrees with known classes: accuracy, normalised mutual information, adjusted Rand index.

All three leave the numbering of clusters out of account.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

Counts = NDArray[np.int64]


def contingency(truth: ArrayLike, found: ArrayLike) -> Counts:
    """Samples of class i in cluster j, `(classes, clusters)`, both sorted by their labels.

    Args:
        truth, found: labels `(N,)`, integers or strings.

    Raises:
        ValueError: no samples, or vectors of different length.
    """
    a, b = np.asarray(truth), np.asarray(found)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"two non-empty vectors of one length expected, got {a.shape} and {b.shape}")
    classes, row = np.unique(a, return_inverse=True)
    clusters, column = np.unique(b, return_inverse=True)
    counts = np.bincount(row * len(clusters) + column, minlength=len(classes) * len(clusters))
    return counts.reshape(len(classes), len(clusters))


def best_matching(truth: ArrayLike, found: ArrayLike) -> tuple[Counts, NDArray[np.intp], NDArray[np.intp]]:
    """The contingency table, and the one-to-one matching of classes and clusters with most samples in common."""
    table = contingency(truth, found)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return table, rows, columns


def clustering_accuracy(truth: ArrayLike, found: ArrayLike) -> float:
    """Share of samples whose cluster is matched to their class, under the best one-to-one matching, in [0, 1]."""
    table, rows, columns = best_matching(truth, found)
    return float(table[rows, columns].sum() / table.sum())


def normalized_mutual_information(truth: ArrayLike, found: ArrayLike) -> float:
    """I(truth; found) over the mean of the two entropies, in [0, 1]; 1 where both have a single group."""
    p = contingency(truth, found) / np.asarray(truth).size
    a, b = p.sum(axis=1), p.sum(axis=0)
    shared = p > 0
    information = float((p[shared] * np.log(p[shared] / np.outer(a, b)[shared])).sum())
    mean = (_entropy(a) + _entropy(b)) / 2
    return 1.0 if mean == 0 else max(0.0, information / mean)


def adjusted_rand_index(truth: ArrayLike, found: ArrayLike) -> float:
    """Share of pairs on which both agree, corrected for chance: 1 for equal partitions, 0 on average for random ones.

    1 also where both partitions are trivial in the same way (one group, or each sample alone).
    """
    table = contingency(truth, found)
    both = float(_pairs(table).sum())
    a, b = float(_pairs(table.sum(axis=1)).sum()), float(_pairs(table.sum(axis=0)).sum())
    everything = float(_pairs(table.sum()))
    expected = a * b / everything if everything else 0.0
    most = (a + b) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _entropy(p: NDArray[np.float64]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def _pairs(count: ArrayLike) -> NDArray[np.float64]:
    n = np.asarray(count, dtype=float)
    return n * (n - 1) / 2
