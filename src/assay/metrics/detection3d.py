"""Average precision of 3-D detections: by the distance of centres (nuScenes) and at forty recalls (KITTI)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NUSCENES_DISTANCES = (0.5, 1.0, 2.0, 4.0)
KITTI_DIFFICULTIES = ("easy", "moderate", "hard")


def distance_hits(
    centres: ArrayLike,
    scores: ArrayLike,
    frames: ArrayLike,
    gold: ArrayLike,
    gold_frames: ArrayLike,
    distance: float,
) -> Bools:
    """Which detections hit, in the order given: by falling score each takes the nearest free gold centre of its frame
    if that is nearer than `distance`.

    Args:
        centres: `(N, 2)` on the ground, metres; scores, frames `(N,)`.
        gold: `(G, 2)`; gold_frames `(G,)`.

    Raises:
        ValueError: shapes do not fit, or a score is NaN.
    """
    a, b = np.asarray(centres, float).reshape(-1, 2), np.asarray(gold, float).reshape(-1, 2)
    s, f, g = np.asarray(scores, float), np.asarray(frames), np.asarray(gold_frames)
    if s.shape != (len(a),) or f.shape != (len(a),) or g.shape != (len(b),):
        raise ValueError(f"{len(a)} centres and {len(b)} gold; got {s.shape} scores, {f.shape} and {g.shape} frames")
    if np.isnan(s).any():
        raise ValueError("a score is NaN")
    rows = {frame: np.flatnonzero(g == frame) for frame in np.unique(g)}
    free = np.ones(len(b), bool)
    hits = np.zeros(len(a), bool)
    for i in np.argsort(-s, kind="stable"):
        candidates = rows.get(f[i])
        if candidates is None:
            continue
        candidates = candidates[free[candidates]]
        if not len(candidates):
            continue
        away = np.linalg.norm(b[candidates] - a[i], axis=1)
        nearest = int(away.argmin())
        if away[nearest] < distance:
            hits[i], free[candidates[nearest]] = True, False
    return hits


def precision_recall(hits: ArrayLike, scores: ArrayLike, gold: int) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and score after each detection by falling score, `(N,)` each.

    Raises:
        ValueError: no gold box (recall is undefined).
    """
    if gold < 1:
        raise ValueError("recall is undefined: no gold box")
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    found = np.cumsum(np.asarray(hits, bool)[order])
    return found / np.arange(1, len(found) + 1), found / gold, np.asarray(scores, float)[order]


def nuscenes_average_precision(hits: ArrayLike, scores: ArrayLike, gold: int) -> float:
    """Area under the precision-recall curve beyond 10 % of both, as nuScenes defines it.

    Precision is interpolated at 101 recalls (0 beyond the last); of those above 0.1, `mean(max(p - 0.1, 0)) / 0.9`.

    Raises:
        ValueError: no gold box.
    """
    precision, recall, _ = precision_recall(hits, scores, gold)
    if not len(precision):
        return 0.0
    at = np.interp(np.linspace(0, 1, 101), recall, precision, right=0)
    return float(np.clip(at[11:] - 0.1, 0, None).mean() / 0.9)


def distance_average_precision(
    centres: ArrayLike,
    scores: ArrayLike,
    frames: ArrayLike,
    gold: ArrayLike,
    gold_frames: ArrayLike,
    distances: Sequence[float] = NUSCENES_DISTANCES,
) -> float:
    """Mean of `nuscenes_average_precision` over thresholds on the centre distance, for one class.

    Raises:
        ValueError: no gold box, no threshold, or shapes that do not fit.
    """
    if not len(distances):
        raise ValueError("give at least one distance")
    count = len(np.asarray(gold_frames))
    return float(
        np.mean(
            [
                nuscenes_average_precision(distance_hits(centres, scores, frames, gold, gold_frames, d), scores, count)
                for d in distances
            ]
        )
    )


def interpolated_average_precision(hits: ArrayLike, scores: ArrayLike, gold: int, points: int = 40) -> float:
    """Mean over the recalls 1/points, 2/points, ..., 1 of the best precision at that recall or a higher one.

    Raises:
        ValueError: no gold box.
    """
    precision, recall, _ = precision_recall(hits, scores, gold)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(recall, np.arange(1, points + 1) / points - 1e-12)].mean())


@dataclass
class KittiFrame:
    """One frame of the KITTI evaluation of one class.

    Attributes:
        overlap: detections against labels, `(D, G)`.
        scores: `(D,)`.
        detection_role, label_role: 0 counts, 1 neither rewards nor costs, -1 is of no account; `(D,)`, `(G,)`.
        forgiven: detections that lie in a DontCare region, `(D,)` bool.
    """

    overlap: Floats
    scores: Floats
    detection_role: NDArray[np.int64]
    label_role: NDArray[np.int64]
    forgiven: Bools


def kitti_roles(
    types: ArrayLike,
    heights: ArrayLike,
    wanted: str,
    difficulty: Literal["easy", "moderate", "hard"],
    *,
    occluded: ArrayLike | None = None,
    truncated: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """What part labels (with `occluded` and `truncated`) or detections (without) play for a class and difficulty.

    A label counts when it is of the class, more than 40, 25, 25 pixels high, occluded at most 0, 1, 2 and truncated at
    most 0.15, 0.3, 0.5. Labels of the class beyond that, and those of the class it is easily taken for (Van for Car,
    Person_sitting for Pedestrian), cost nothing. A detection lower than the limit costs nothing either.

    Returns:
        `(N,)` int64: 0 counts, 1 neither rewards nor costs, -1 of no account.
    """
    level = KITTI_DIFFICULTIES.index(difficulty)
    names = np.char.lower(np.asarray(types, dtype=str))
    height = np.asarray(heights, float)
    least = (40, 25, 25)[level]
    own = names == wanted.lower()
    if occluded is None or truncated is None:
        return np.where(height < least, 1, np.where(own, 0, -1))
    hard = (np.asarray(occluded, float) > level) | (np.asarray(truncated, float) > (0.15, 0.3, 0.5)[level])
    hard |= height <= least
    like = names == {"car": "van", "pedestrian": "person_sitting"}.get(wanted.lower(), "")
    return np.where(own & ~hard, 0, np.where(own | like, 1, -1))


def kitti_average_precision(frames: Sequence[KittiFrame], least_overlap: float, points: int = 40) -> float:
    """Average precision as KITTI's evaluation counts it: forty recalls, ignored labels and detections left out.

    Scores of correct detections are sampled so that recall rises by 1/40 from one to the next; at each such score
    precision is counted anew, made falling in recall, and averaged over the recalls above 0.

    Raises:
        ValueError: no label that counts.
    """
    count = sum(int((frame.label_role == 0).sum()) for frame in frames)
    if not count:
        raise ValueError("average precision is undefined: no label counts")
    scores = np.concatenate([_assign_by_score(frame, least_overlap) for frame in frames])
    precision = np.zeros(points + 1)
    for i, threshold in enumerate(_score_samples(scores, count, points)):
        right = wrong = 0
        for frame in frames:
            tp, fp = _count_at(frame, least_overlap, threshold)
            right, wrong = right + tp, wrong + fp
        precision[i] = right / max(right + wrong, 1)
    return float(np.maximum.accumulate(precision[::-1])[::-1][1:].mean())


def _assign_by_score(frame: KittiFrame, least: float) -> Floats:
    """Scores of correct detections when every label takes the best-scored one that overlaps it enough."""
    free = frame.detection_role >= 0
    found = []
    for g in np.flatnonzero(frame.label_role >= 0):
        fits = np.flatnonzero(free & (frame.overlap[:, g] > least))
        if not len(fits):
            continue
        d = fits[frame.scores[fits].argmax()]
        free[d] = False
        if frame.label_role[g] == 0 and frame.detection_role[d] == 0:
            found.append(frame.scores[d])
    return np.array(found, float)


def _score_samples(scores: Floats, count: int, points: int) -> Floats:
    scores = np.sort(scores)[::-1]
    samples, recall = [], 0.0
    for i, score in enumerate(scores):
        here = (i + 1) / count
        following = (i + 2) / count if i + 1 < len(scores) else here
        if following - recall < recall - here and i + 1 < len(scores):
            continue
        samples.append(score)
        recall += 1 / points
    return np.array(samples[: points + 1])


def _count_at(frame: KittiFrame, least: float, threshold: float) -> tuple[int, int]:
    """Right and wrong detections with a score of at least `threshold`; labels prefer the detection of most overlap."""
    free = (frame.detection_role >= 0) & (frame.scores >= threshold)
    right = 0
    for g in np.flatnonzero(frame.label_role >= 0):
        fits = np.flatnonzero(free & (frame.overlap[:, g] > least))
        if not len(fits):
            continue
        counting = fits[frame.detection_role[fits] == 0]
        d = counting[frame.overlap[counting, g].argmax()] if len(counting) else fits[0]
        free[d] = False
        right += int(frame.label_role[g] == 0 and frame.detection_role[d] == 0)
    return right, int((free & (frame.detection_role == 0) & ~frame.forgiven).sum())
