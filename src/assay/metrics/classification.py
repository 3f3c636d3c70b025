"""Figures of a binary classifier, and how sure one can be of them with the rows at hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Figure = Callable[[NDArray[np.bool_], Array], float]


def roc_auc(positive: ArrayLike, score: ArrayLike) -> float:
    """Chance that a positive scores above a negative, ties counted half: the area under the ROC curve.

    Args:
        positive: (N,) of booleans or 0/1.
        score: (N,).

    Raises:
        ValueError: shapes differ, a score is NaN, or one of the classes is missing.
    """
    y, s = _check(positive, score)
    if y.all() or not y.any():
        raise ValueError("the area under the ROC curve is undefined: one class is missing")
    _, tie, size = np.unique(s, return_inverse=True, return_counts=True)
    rank = (np.cumsum(size) - (size - 1) / 2)[tie]  # mean rank of a tie, from 1
    n = int(y.sum())
    return float((rank[y].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))


def f1_score(positive: ArrayLike, score: ArrayLike, threshold: float = 0.5) -> float:
    """2 TP / (2 TP + FP + FN) where `score >= threshold` says positive; 0 where there is no positive at all.

    Raises:
        ValueError: shapes differ or a score is NaN.
    """
    y, s = _check(positive, score)
    said = s >= threshold
    wrong = int((said != y).sum())
    hits = int((said & y).sum())
    return 2 * hits / (2 * hits + wrong) if hits + wrong else 0.0


def best_f1_threshold(positive: ArrayLike, score: ArrayLike) -> float:
    """The score from which on calling rows positive gives the highest F1; the highest such score.

    Raises:
        ValueError: as `f1_score`, or no rows.
    """
    y, s = _check(positive, score)
    if not len(y):
        raise ValueError("no rows to choose a threshold on")
    order = np.argsort(-s, kind="stable")
    hits = np.cumsum(y[order])
    f1 = 2 * hits / (np.arange(1, len(y) + 1) + y.sum())
    last_of_tie = np.append(np.diff(s[order]) != 0, True)
    return float(s[order][np.argmax(np.where(last_of_tie, f1, -1.0))])


def bootstrap_interval(
    figure: Figure, positive: ArrayLike, score: ArrayLike, *, samples: int = 400, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of a figure over rows drawn with replacement, within each class.

    Drawing within classes keeps every resample one on which the figure is defined.

    Args:
        figure: such as `roc_auc`, called with (positive, score).
        samples: resamples.
        level: share of resamples inside.

    Raises:
        ValueError: shapes differ, a score is NaN, no rows, or samples and level out of range.
    """
    y, s = _check(positive, score)
    if not len(y) or samples < 1 or not 0 < level < 1:
        raise ValueError(f"need rows, samples and a level in (0, 1), got {len(y)}, {samples} and {level}")
    rng = np.random.default_rng(seed)
    classes = [np.nonzero(y)[0], np.nonzero(~y)[0]]
    values = []
    for _ in range(samples):
        rows = np.concatenate([rng.choice(rows, len(rows)) for rows in classes if len(rows)])
        values.append(figure(y[rows], s[rows]))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(positive: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], Array]:
    y, s = np.asarray(positive).astype(bool), np.asarray(score, dtype=float)
    if y.ndim != 1 or y.shape != s.shape:
        raise ValueError(f"positive and score must be vectors of one length, got {y.shape} and {s.shape}")
    if np.isnan(s).any():
        raise ValueError(f"{int(np.isnan(s).sum())} scores are NaN")
    return y, s
