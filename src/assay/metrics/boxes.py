"""Axis-aligned boxes `(x0, y0, x1, y1)`: overlap, one-to-one matching, average precision.

Overlaps take NumPy arrays and PyTorch tensors alike and keep gradients; matching and average precision are NumPy.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T", bound=Any)  # np.ndarray or torch.Tensor; torch is never imported from here
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Matches(NamedTuple):
    """Pairs of a matching: rows of the first and of the second set, and their overlap, each `(M,)`."""

    first: Ints
    second: Ints
    overlap: Floats


def box_area(boxes: T) -> T:
    """Areas of boxes `(..., 4)`, shape `(...)`; 0 where a box is inside out."""
    return (boxes[..., 2] - boxes[..., 0]).clip(min=0) * (boxes[..., 3] - boxes[..., 1]).clip(min=0)


def box_iou(a: T, b: T, *, paired: bool = False) -> T:
    """Intersection over union, |a and b| / |a or b|; 0 for two boxes without area.

    Args:
        a, b: boxes `(..., N, 4)` and `(..., M, 4)`; with `paired`, of one shape `(..., 4)`.
        paired: compare row by row in place of every a with every b.

    Returns:
        `(..., N, M)`, or `(...)` when paired.
    """
    a, b = _against(a, b, paired)
    intersection, union = _intersection_union(a, b)
    return intersection / _positive(union)


def box_giou(a: T, b: T, *, paired: bool = False) -> T:
    """Generalised IoU, IoU - (|C| - |a or b|) / |C| with C the smallest box around both; in (-1, 1].

    Falls with distance also where boxes do not touch. Arguments and shapes as in `box_iou`.
    """
    a, b = _against(a, b, paired)
    lower, upper = _extremes(a)
    intersection, union = _intersection_union(a, b)
    sides = upper(a[..., 2:], b[..., 2:]) - lower(a[..., :2], b[..., :2])
    hull = sides[..., 0] * sides[..., 1]
    return intersection / _positive(union) - (hull - union) / _positive(hull)


def match_boxes(
    first: ArrayLike,
    second: ArrayLike,
    *,
    first_images: ArrayLike | None = None,
    second_images: ArrayLike | None = None,
    threshold: float = 0.5,
) -> Matches:
    """One-to-one matching within each image that maximises the summed IoU of pairs with IoU > `threshold`.

    Pairs at or below the threshold count nothing and are left out (Hungarian algorithm).

    Args:
        first, second: boxes `(N, 4)` and `(M, 4)`.
        first_images, second_images: image of each box, `(N,)` and `(M,)`; one image when not given.
        threshold: overlap that a pair must exceed.

    Returns:
        Matches in the order of their image and first row.

    Raises:
        ValueError: shapes do not fit.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = _boxes(first), _boxes(second)
    found: list[tuple[Ints, Ints, Floats]] = []
    for rows, columns in _same_image(a, b, first_images, second_images):
        overlap = box_iou(a[rows], b[columns])
        overlap[overlap <= threshold] = 0.0
        i, j = linear_sum_assignment(overlap, maximize=True)
        kept = overlap[i, j] > 0
        found.append((rows[i[kept]], columns[j[kept]], overlap[i, j][kept]))
    if not found:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    return Matches(*(np.concatenate(part) for part in zip(*found, strict=True)))


def greedy_matches(
    boxes: ArrayLike,
    scores: ArrayLike,
    gold: ArrayLike,
    *,
    images: ArrayLike | None = None,
    gold_images: ArrayLike | None = None,
    threshold: float = 0.5,
) -> Ints:
    """Gold row that each detection is given, `(N,)`, or -1: the rule of Pascal VOC and COCO.

    Within an image detections choose by falling score (ties: by row) the gold box of highest IoU >= `threshold` that
    no earlier detection took.

    Raises:
        ValueError: shapes do not fit, or a score is NaN.
    """
    a, b = _boxes(boxes), _boxes(gold)
    score = _scores(scores, len(a))
    taken = np.full(len(a), -1, dtype=np.int64)
    for rows, columns in _same_image(a, b, images, gold_images):
        rows = rows[np.argsort(-score[rows], kind="stable")]
        overlap = box_iou(a[rows], b[columns])
        for row, line in zip(rows, overlap, strict=True):
            best = int(line.argmax())
            if line[best] >= threshold:
                taken[row] = columns[best]
                overlap[:, best] = -1.0  # a view of the lines still to come
    return taken


def box_average_precision(
    boxes: ArrayLike,
    scores: ArrayLike,
    gold: ArrayLike,
    *,
    images: ArrayLike | None = None,
    gold_images: ArrayLike | None = None,
    threshold: float = 0.5,
    points: int | None = 101,
) -> float:
    """Average precision of one class at one IoU threshold.

    Precision is made falling in recall (its maximum over higher recalls) and averaged over `points` equally spaced
    recalls (101 as in COCO, 11 as in VOC 2007), or integrated exactly with `points=None` (VOC 2010 on).

    Args:
        boxes, scores: detections `(N, 4)` and `(N,)`.
        gold: `(G, 4)`.
        images, gold_images: image of each detection and gold box.
        threshold: least IoU of a hit.
        points: recalls to average over.

    Raises:
        ValueError: shapes do not fit, or there is no gold box (AP is undefined).
    """
    gold_boxes = _boxes(gold)
    if not len(gold_boxes):
        raise ValueError("average precision is undefined: no gold box")
    hits = greedy_matches(boxes, scores, gold_boxes, images=images, gold_images=gold_images, threshold=threshold) >= 0
    order = np.argsort(-np.asarray(scores, dtype=float), kind="stable")
    found = np.cumsum(hits[order])
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall = found / len(gold_boxes)
    if points is None:
        return float(np.sum(np.diff(recall, prepend=0.0) * envelope))
    at = np.searchsorted(recall, np.linspace(0, 1, points), side="left")
    return float(np.append(envelope, 0.0)[at].mean())


def mean_average_precision(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    gold: ArrayLike,
    gold_labels: ArrayLike,
    *,
    images: ArrayLike | None = None,
    gold_images: ArrayLike | None = None,
    thresholds: ArrayLike = (0.5,),
    points: int | None = 101,
) -> float:
    """Mean of `box_average_precision` over the classes that have gold boxes and over IoU thresholds.

    `thresholds=np.linspace(0.5, 0.95, 10)` gives the measure of COCO, without its limit of 100 detections an image.

    Raises:
        ValueError: shapes do not fit, or there is no gold box.
    """
    a, b = _boxes(boxes), _boxes(gold)
    score, mine, theirs = _scores(scores, len(a)), _vector(labels, len(a)), _vector(gold_labels, len(b))
    where, gold_where = _images(images, len(a)), _images(gold_images, len(b))
    if not len(b):
        raise ValueError("average precision is undefined: no gold box")
    return float(
        np.mean(
            [
                box_average_precision(
                    a[mine == label],
                    score[mine == label],
                    b[theirs == label],
                    images=where[mine == label],
                    gold_images=gold_where[theirs == label],
                    threshold=float(threshold),
                    points=points,
                )
                for label in np.unique(theirs)
                for threshold in np.atleast_1d(np.asarray(thresholds, dtype=float))
            ]
        )
    )


def _against(a: T, b: T, paired: bool) -> tuple[T, T]:
    if a.shape[-1] != 4 or b.shape[-1] != 4:
        raise ValueError(f"boxes must have four coordinates, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if isinstance(a, np.ndarray):
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    return (a, b) if paired else (a[..., :, None, :], b[..., None, :, :])


def _extremes(a: Any) -> tuple[Any, Any]:
    if isinstance(a, np.ndarray):
        return np.minimum, np.maximum
    torch = sys.modules["torch"]  # a tensor was given, so torch is loaded
    return torch.minimum, torch.maximum


def _intersection_union(a: T, b: T) -> tuple[T, T]:
    lower, upper = _extremes(a)
    sides = (lower(a[..., 2:], b[..., 2:]) - upper(a[..., :2], b[..., :2])).clip(min=0)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection, box_area(a) + box_area(b) - intersection


def _positive(area: T) -> T:
    return area + (area <= 0)  # 0 / 0 becomes 0 / 1


def _boxes(given: ArrayLike) -> Floats:
    boxes = np.asarray(given, dtype=float)
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (N, 4), got {boxes.shape}")
    return boxes


def _vector(given: ArrayLike, size: int) -> NDArray[Any]:
    values = np.asarray(given)
    if values.shape != (size,):
        raise ValueError(f"one value per box expected: {size} boxes, got shape {values.shape}")
    return values


def _scores(given: ArrayLike, size: int) -> Floats:
    scores = _vector(given, size).astype(float)
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} scores are NaN")
    return scores


def _images(given: ArrayLike | None, size: int) -> NDArray[Any]:
    return np.zeros(size, np.int64) if given is None else _vector(given, size)


def _same_image(
    a: Floats, b: Floats, first_images: ArrayLike | None, second_images: ArrayLike | None
) -> Iterator[tuple[Ints, Ints]]:
    """Rows of both sets for every image that has boxes in both."""
    where, other = _images(first_images, len(a)), _images(second_images, len(b))
    rows, columns = _by_value(where), _by_value(other)
    yield from ((rows[image], columns[image]) for image in rows if image in columns)


def _by_value(values: NDArray[Any]) -> dict[Any, Ints]:
    names, member = np.unique(values, return_inverse=True)
    order = np.argsort(member, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(member, minlength=len(names)))[:-1]) if len(names) else []
    return dict(zip(names.tolist(), parts, strict=True))
