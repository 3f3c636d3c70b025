"""How well a score ranks what is sought above what is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def average_precision(relevant: ArrayLike, score: ArrayLike) -> float:
    """Area under the precision-recall curve, as the step-wise sum over thresholds.

        AP = sum over distinct scores t of (recall(t) - recall(t')) * precision(t),   t' the next higher score

    Samples of equal score enter together, so the order of ties does not matter. A constant score gives the share of
    relevant samples.

    Args:
        relevant: (N,) of booleans or 0/1.
        score: (N,), higher is ranked first.

    Raises:
        ValueError: shapes differ, a score is NaN, or nothing is relevant (AP is undefined).
    """
    hits, values = _check(relevant, score)
    if not hits.any():
        raise ValueError("average precision is undefined: no sample is relevant")
    order = np.argsort(-values, kind="stable")
    hits, values = hits[order], values[order]
    last_of_tie = np.append(np.nonzero(np.diff(values))[0], len(values) - 1)
    found = np.cumsum(hits)[last_of_tie]
    precision = found / (last_of_tie + 1)
    return float(np.sum(np.diff(found, prepend=0) * precision) / hits.sum())


def precision_at_k(relevant: ArrayLike, score: ArrayLike, k: int) -> float:
    """Share of relevant samples among the `k` highest scores; among all N when `k` exceeds N.

    A tie across the border counts with the share of relevant samples in the tie (its expectation over random orders).

    Raises:
        ValueError: as in `precision_curve`.
    """
    return float(precision_curve(relevant, score, [k])[0])


def precision_curve(relevant: ArrayLike, score: ArrayLike, ks: Sequence[int]) -> NDArray[np.float64]:
    """`precision_at_k` for several k, shape `(len(ks),)`.

    Raises:
        ValueError: shapes differ, a score is NaN, no samples, or a k below 1.
    """
    hits, values = _check(relevant, score)
    cut = np.minimum(np.asarray(ks, dtype=int), len(values))
    if len(values) == 0 or (cut < 1).any():
        raise ValueError(f"k must be at least 1 and samples must exist, got k {list(ks)} and {len(values)} samples")
    _, tie, size = np.unique(-values, return_inverse=True, return_counts=True)
    share = np.bincount(tie, weights=hits) / size  # every member of a tie counts as its tie's mean
    return np.cumsum(np.repeat(share, size))[cut - 1] / cut


def _check(relevant: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    hits, values = np.asarray(relevant).astype(bool), np.asarray(score, dtype=float)
    if hits.ndim != 1 or hits.shape != values.shape:
        raise ValueError(f"relevant and score must be vectors of one length, got {hits.shape} and {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} scores are NaN")
    return hits, values
