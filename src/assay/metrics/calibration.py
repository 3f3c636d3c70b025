"""Whether predicted probabilities mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def reliability(
    confidence: ArrayLike, correct: ArrayLike, bins: int = 15
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, share correct and count in equal bins ((b-1)/bins, b/bins] of confidence.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) of booleans or 0/1.
        bins: number of bins B.

    Returns:
        Three arrays of shape (B,); the first two are 0 where the bin is empty.

    Raises:
        ValueError: shapes differ, no samples, no bins, or a confidence outside [0, 1].
    """
    p, hit = np.asarray(confidence, dtype=float), np.asarray(correct, dtype=float)
    if p.ndim != 1 or p.shape != hit.shape or p.size == 0 or bins < 1:
        raise ValueError(f"need vectors of one length and at least one bin, got {p.shape}, {hit.shape} and {bins}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("confidences must lie in [0, 1]")
    index = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    safe = np.maximum(count, 1)
    return np.bincount(index, p, bins) / safe, np.bincount(index, hit, bins) / safe, count


def expected_calibration_error(prob: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """ECE = sum over bins of (n_b / N) * |share correct - mean confidence| of the predicted class.

    Args:
        prob: (N, K) class probabilities; or (N,) probabilities of the event that `labels` (0/1) says happened.
        labels: (N,) class indices.

    Raises:
        ValueError: as `reliability`, or labels out of range.
    """
    p, y = _check(prob, labels)
    confidence, correct = (p, y == 1) if p.ndim == 1 else (p.max(axis=1), p.argmax(axis=1) == y)
    mean, share, count = reliability(confidence, correct, bins)
    return float(np.sum(count * np.abs(share - mean)) / count.sum())


def brier_score(prob: ArrayLike, labels: ArrayLike) -> float:
    """Mean over samples of the squared distance between probabilities and the one-hot label.

    For (N,) probabilities of an event: the mean of (p - y)^2.

    Raises:
        ValueError: shapes differ or labels out of range.
    """
    p, y = _check(prob, labels)
    if p.ndim == 1:
        return float(np.mean((p - y) ** 2))
    return float(np.mean(np.sum((p - np.eye(p.shape[1])[y]) ** 2, axis=1)))


def _check(prob: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    p, y = np.asarray(prob, dtype=float), np.asarray(labels)
    if p.ndim not in (1, 2) or y.shape != p.shape[:1]:
        raise ValueError(f"probabilities (N, K) or (N,) need labels (N,), got {p.shape} and {y.shape}")
    classes = p.shape[1] if p.ndim == 2 else 2
    if y.size and (y.min() < 0 or y.max() >= classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}")
    return p, y.astype(int)
