"""Which summary to take: what one costs to read, the front of loss against cost, the best within a budget."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_PIECE = re.compile(r"[^\W_]+|[^\w\s]|_")


@dataclass(frozen=True)
class Summary:
    """What stands for a video: words, frames, or both. A whole video is a summary with all its frames.

    Attributes:
        text: the words; None or empty: there are none.
        frames: pictures in the order of time, in whatever form the model that reads them takes.
    """

    text: str | None = None
    frames: Sequence[Any] | None = None

    @property
    def empty(self) -> bool:
        """Whether it tells nothing."""
        return not (self.text or "").strip() and not len(self.frames or ())


@dataclass(frozen=True)
class Candidate:
    """A summary with its cost (tokens or seconds) and its loss (nats per content word)."""

    summary: Summary
    cost: float
    loss: float


def cost(summary: Summary, frame_tokens: float = 256, tokens: Callable[[str], int] | None = None) -> float:
    """Tokens that a model reads of a summary: a constant for each frame, and those of the text.

    Args:
        frame_tokens: visual tokens of a frame.
        tokens: counts a text's tokens; without it words and signs are counted.

    Raises:
        ValueError: a negative `frame_tokens`.
    """
    if frame_tokens < 0:
        raise ValueError(f"frame_tokens {frame_tokens}: expected 0 or more")
    text = summary.text or ""
    return frame_tokens * len(summary.frames or ()) + (tokens(text) if tokens else len(_PIECE.findall(text)))


def pareto(points: ArrayLike) -> list[int]:
    """Rows of (cost, loss) that no other row dominates, in order of cost; of equal rows the first.

    A row dominates another if it is not worse in both and better in one.

    Args:
        points: (N, 2). Rows with NaN are never chosen.

    Raises:
        ValueError: another shape.
    """
    values = np.asarray(points, dtype=float)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"points of shape {values.shape}, expected (N, 2)")
    found, least = [], math.inf
    for row in np.lexsort((values[:, 1], values[:, 0])):  # by cost, then by loss
        if not np.isnan(values[row]).any() and values[row, 1] < least:
            found.append(int(row))
            least = values[row, 1]
    return found


def select(candidates: Sequence[Candidate], budget: float) -> Candidate:
    """The candidate of least loss whose cost is within the budget; of equal losses the cheapest.

    Raises:
        ValueError: none is cheap enough, or there is none with a loss.
    """
    front = pareto([(c.cost, c.loss) for c in candidates] or np.zeros((0, 2)))
    within = [row for row in front if candidates[row].cost <= budget]
    if not within:
        least = min((candidates[row].cost for row in front), default=math.nan)
        raise ValueError(f"budget {budget:g} is below the cheapest summary, which costs {least:g}")
    return candidates[within[-1]]


def uniform_keyframes(count: int, k: int) -> list[int]:
    """Numbers of k frames spread evenly: the middles of k equal parts.

    Raises:
        ValueError: k is not in 1..count.
    """
    _check(count, k)
    return [int((2 * part + 1) * count / (2 * k)) for part in range(k)]


def shot_keyframes(features: ArrayLike, k: int) -> list[int]:
    """Numbers of the middle frames of k shots, cut where consecutive frames differ most.

    Args:
        features: (T, D) a row for each frame.

    Raises:
        ValueError: k is not in 1..T.
    """
    rows = np.asarray(features, dtype=float).reshape(len(np.asarray(features)), -1)
    _check(len(rows), k)
    jumps = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    cuts = np.sort(np.argsort(-jumps, kind="stable")[: k - 1]) + 1
    edges = [0, *cuts.tolist(), len(rows)]
    return [(start + end - 1) // 2 for start, end in itertools.pairwise(edges)]


def medoid_keyframes(features: ArrayLike, k: int, rounds: int = 20) -> list[int]:
    """Numbers of k frames that lie nearest to all others: k-medoids on Euclidean distance, started farthest first.

    Raises:
        ValueError: k is not in 1..T.
    """
    rows = np.asarray(features, dtype=float).reshape(len(np.asarray(features)), -1)
    _check(len(rows), k)
    square = (rows**2).sum(1)
    distance = np.sqrt(np.maximum(square[:, None] + square - 2 * rows @ rows.T, 0))
    chosen = [int(distance.sum(1).argmin())]
    while len(chosen) < k:
        gap = distance[:, chosen].min(1)
        gap[chosen] = -1
        chosen.append(int(gap.argmax()))
    for _ in range(rounds):
        nearest = distance[:, chosen].argmin(1)
        nearest[chosen] = np.arange(k)
        better = [_medoid(distance, np.flatnonzero(nearest == group)) for group in range(k)]
        if better == chosen:
            break
        chosen = better
    return sorted(chosen)


def _medoid(distance: NDArray[np.float64], members: NDArray[np.int64]) -> int:
    return int(members[distance[np.ix_(members, members)].sum(1).argmin()])


def _check(count: int, k: int) -> None:
    if not 1 <= k <= count:
        raise ValueError(f"{k} keyframes of {count} frames: expected 1 to {count}")
