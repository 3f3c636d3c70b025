"""Confident learning: which labels are wrong, and how often, from out-of-sample probabilities.

A sample counts as class j when p_j exceeds t_j, the mean probability that samples labelled j give to j; of several such
classes, as the most probable. The table of (given, counted) pairs, scaled to the label counts, estimates the joint
distribution of given and true labels; samples off its diagonal are suspects.

Written from the published algorithm (Northcutt, Jiang and Chuang, "Confident Learning", JAIR 2021).

Source: arXiv 1911.00068.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

TIE = 1e-6  # a probability this little under the threshold still passes: thresholds are means of the same floats

Prob = NDArray[np.float64]


def class_thresholds(prob: ArrayLike, labels: ArrayLike) -> Prob:
    """t_j, the mean of p_j over samples labelled j; infinite for a class without samples. Shape (K,).

    Args:
        prob: (N, K) out-of-sample probabilities.
        labels: (N,) given class indices.

    Raises:
        ValueError: shapes differ, entries outside [0, 1], or labels out of range.
    """
    p, y = check_probabilities(prob, labels)
    own = p[np.arange(len(y)), y]
    count = np.bincount(y, minlength=p.shape[1])
    total = np.bincount(y, weights=own, minlength=p.shape[1])
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def confident_class(prob: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Class each sample is counted as, (N,); -1 where no class passes its threshold.

    Raises:
        ValueError: as `class_thresholds`.
    """
    p, y = check_probabilities(prob, labels)
    passes = p >= class_thresholds(p, y) - TIE
    best = np.where(passes, p, -1.0).argmax(axis=1)
    return np.where(passes.any(axis=1), best, -1)


def confident_joint(prob: ArrayLike, labels: ArrayLike) -> Prob:
    """Estimated counts of (given i, true j), (K, K): rows sum to the label counts, the whole to N.

    Raises:
        ValueError: as `class_thresholds`.
    """
    p, y = check_probabilities(prob, labels)
    classes = p.shape[1]
    counted = confident_class(p, y)
    sure = counted >= 0
    raw = np.bincount(y[sure] * classes + counted[sure], minlength=classes**2).reshape(classes, classes).astype(float)
    size = np.bincount(y, minlength=classes)
    unseen = (raw.sum(axis=1) == 0) & (size > 0)
    raw[unseen, unseen] = 1  # nothing confident is known of the class: take its labels as they are
    return raw * (size / np.maximum(raw.sum(axis=1), 1))[:, None]


def noise_rates(prob: ArrayLike, labels: ArrayLike) -> Prob:
    """P(true = j | given = i), (K, K); rows sum to 1 (to 0 for a class without samples).

    Raises:
        ValueError: as `class_thresholds`.
    """
    joint = confident_joint(prob, labels)
    total = joint.sum(axis=1, keepdims=True)
    return np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)


def find_label_issues(prob: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Suspects, (N,): counted as another class than given, and that class is not the given one by argmax either.

    Raises:
        ValueError: as `class_thresholds`.
    """
    p, y = check_probabilities(prob, labels)
    counted = confident_class(p, y)
    return (counted >= 0) & (counted != y) & (p.argmax(axis=1) != y)


def self_confidence(prob: ArrayLike, labels: ArrayLike) -> Prob:
    """p of the given label, (N,); low is suspicious."""
    p, y = check_probabilities(prob, labels)
    return p[np.arange(len(y)), y]


def normalized_margin(prob: ArrayLike, labels: ArrayLike) -> Prob:
    """(p_given - max over other classes of p + 1) / 2, (N,) in [0, 1]; low is suspicious."""
    p, y = check_probabilities(prob, labels)
    rows = np.arange(len(y))
    others = p.copy()
    others[rows, y] = -np.inf
    return (p[rows, y] - others.max(axis=1) + 1) / 2


def check_probabilities(prob: ArrayLike, labels: ArrayLike) -> tuple[Prob, NDArray[np.int64]]:
    """Both as arrays of fitting shape.

    Raises:
        ValueError: shapes differ, fewer than two classes, entries outside [0, 1] or NaN, or labels out of range.
    """
    p, y = np.asarray(prob, dtype=float), np.asarray(labels)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1] or len(y) == 0:
        raise ValueError(f"expected probabilities (N, K) with K >= 2 and labels (N,), got {p.shape} and {y.shape}")
    if not ((p >= 0) & (p <= 1 + 1e-6)).all():
        raise ValueError("probabilities must lie in [0, 1]")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"labels must be integers in 0..{p.shape[1] - 1}")
    return p, y.astype(np.int64)
