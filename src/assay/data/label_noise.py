"""Wrong labels put on purpose into labels that are right, as (noisy labels) with the truth kept by the caller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


def symmetric_noise(labels: Labels, rate: float, classes: int, rng: np.random.Generator) -> Labels:
    """Exactly `round(rate * N)` rows, drawn uniformly, get another class, drawn uniformly.

    Raises:
        ValueError: a rate outside [0, 1] or fewer than two classes.
    """
    _check_rate(rate)
    if classes < 2:
        raise ValueError(f"symmetric noise needs at least two classes, got {classes}")
    noisy = labels.copy()
    rows = rng.choice(len(labels), size=round(rate * len(labels)), replace=False)
    noisy[rows] = (noisy[rows] + rng.integers(1, classes, size=len(rows))) % classes
    return noisy


def pair_noise(labels: Labels, pairs: Sequence[tuple[int, int]], rate: float, rng: np.random.Generator) -> Labels:
    """In each pair (a, b), a share `rate` of the rows of a become b, and of b become a.

    Raises:
        ValueError: a rate outside [0, 1], or a class in two pairs.
    """
    _check_rate(rate)
    if len({c for pair in pairs for c in pair}) < 2 * len(pairs):
        raise ValueError(f"each class may stand in one pair only, got {list(pairs)}")
    noisy = labels.copy()
    for pair in pairs:
        for source, target in (pair, pair[::-1]):
            rows = np.nonzero(labels == source)[0]
            noisy[rng.choice(rows, size=round(rate * len(rows)), replace=False)] = target
    return noisy


def boundary_noise(
    labels: Labels, video: NDArray, frame: NDArray, rate: float, rng: np.random.Generator, *, reach: int = 2
) -> Labels:
    """Frames near the start or end of a run get the label from across the border, each with probability `rate`.

    A frame at distance 1..`reach` from a change of label in its video (distance 1 touches it) takes the label on the
    other side: an annotator who marks a finding too early or too late.

    Raises:
        ValueError: a rate outside [0, 1], a reach below 1, or vectors of different length.
    """
    _check_rate(rate)
    if reach < 1 or not len(labels) == len(video) == len(frame):
        raise ValueError("reach must be at least 1, and labels, video and frame equally long")
    noisy = labels.copy()
    for name in np.unique(video):
        rows = np.nonzero(video == name)[0]
        rows = rows[np.argsort(frame[rows], kind="stable")]
        run = labels[rows]
        for border in np.nonzero(np.diff(run))[0] + 1:  # first frame after each change
            before = range(border - 1, max(border - 1 - reach, -1), -1)
            after = range(border, min(border + reach, len(run)))
            for side, other in ((before, run[border]), (after, run[border - 1])):
                for at in side:
                    if run[at] != run[side[0]]:
                        break  # another run begins
                    if rng.random() < rate:
                        noisy[rows[at]] = other
    return noisy


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}")
