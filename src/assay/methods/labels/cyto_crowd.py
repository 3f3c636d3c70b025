"""Merging the boxes of several annotators: group, fuse, label, and decide what is there at all.

CytoCrowd sets four pathologists' boxes beside a senior expert's gold boxes and compares rules that merge labels.
The pipeline here takes any multi-annotator boxes: boxes of different annotators that overlap form a group, its box is
fused, its class inferred (majority vote, Dawid-Skene, ZenCrowd, CATD, PM, LFC), and a group counts as existing by how
often its annotators are otherwise confirmed by their peers. No gold is used until `score`.

Source: 2602.06674
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from assay.methods.labels._truth_inference import RULES, Floats, Ints, LabelResult, Rule, Ties, infer_labels
from assay.metrics.boxes import box_iou, match_boxes

__all__ = [
    "RULES",
    "Aggregate",
    "LabelResult",
    "Rule",
    "Ties",
    "Votes",
    "aggregate",
    "annotator_reliability",
    "existence",
    "fuse_boxes",
    "group_boxes",
    "infer_labels",
    "pairwise_agreement",
    "repeated_boxes",
    "score",
    "vote_labels",
]

Fusion = Literal["median", "mean", "weighted"]

BLOCK = 2048  # rows of the overlap matrix held at once


@dataclass(frozen=True)
class Votes:
    """Boxes that annotators drew, with classes.

    Attributes:
        boxes: `(N, 4)`, x0, y0, x1, y1 in pixels.
        labels: `(N,)`, class 0..n_classes-1.
        annotators: `(N,)`, 0..A-1.
        images: `(N,)`, image of each box, any integers.
        n_classes: K.
    """

    boxes: Floats
    labels: Ints
    annotators: Ints
    images: Ints
    n_classes: int

    @property
    def n_annotators(self) -> int:
        """One more than the largest annotator index; 0 without boxes."""
        return int(self.annotators.max()) + 1 if len(self.annotators) else 0

    def validate(self) -> Votes:
        """These votes, when they can be used.

        Raises:
            ValueError: lengths differ, a coordinate is not finite, a box has no area, or an index is out of range.
        """
        n = len(self.labels)
        if self.boxes.shape != (n, 4) or len(self.annotators) != n or len(self.images) != n:
            raise ValueError(
                f"boxes must be (N, 4) and labels, annotators and images (N,), got {self.boxes.shape}, {n},"
                f" {len(self.annotators)} and {len(self.images)}"
            )
        if not np.isfinite(self.boxes).all():
            raise ValueError(f"{int((~np.isfinite(self.boxes)).any(axis=1).sum())} boxes have NaN or infinite corners")
        flat = (self.boxes[:, 2:] <= self.boxes[:, :2]).any(axis=1)
        if flat.any():
            raise ValueError(
                f"{int(flat.sum())} boxes have no area (x1 <= x0 or y1 <= y0), the first in row {int(flat.argmax())}"
            )
        if n and (self.labels.min() < 0 or self.labels.max() >= self.n_classes):
            raise ValueError(
                f"labels must lie in 0..{self.n_classes - 1}, got {self.labels.min()}..{self.labels.max()}"
            )
        if n and self.annotators.min() < 0:
            raise ValueError("annotators must not be negative")
        return self


@dataclass(frozen=True)
class Aggregate:
    """Merged boxes, one row per group.

    Attributes:
        boxes: `(G, 4)`.
        labels: `(G,)`.
        images: `(G,)`.
        posterior: `(G, K)`.
        existence: `(G,)` in [0, 1].
        voters: `(G, A)`, who drew a box of the group.
        groups: `(N,)`, row of each given box's group; -1 where the group was dropped.
        reliability: `(A,)`, share of each annotator's boxes that a peer confirmed (`annotator_reliability`).
    """

    boxes: Floats
    labels: Ints
    images: Ints
    posterior: Floats
    existence: Floats
    voters: NDArray[np.bool_]
    groups: Ints
    reliability: Floats

    def entropy(self) -> Floats:
        """Entropy of the class posterior in nats, `(G,)`."""
        p = self.posterior
        return -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)

    def keep(self, kept: NDArray[np.bool_]) -> Aggregate:
        """Only the groups where `kept` `(G,)` is true."""
        place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)  # last: what was dropped before
        rows = {f.name: getattr(self, f.name)[kept] for f in fields(self) if f.name not in ("groups", "reliability")}
        return replace(self, **rows, groups=place[self.groups])


def group_boxes(votes: Votes, iou: float = 0.5) -> Ints:
    """Group boxes that mean the same object: constrained average linkage within each image.

    Pairs of boxes of different annotators with IoU > `iou` are visited by falling IoU. Their groups are joined when
    they share no annotator and the mean IoU between their boxes is at least `iou`. So a group holds at most one box
    of an annotator, and the mean IoU of a group of several is at least `iou`.

    Ties in IoU are broken by the boxes themselves, so that the order of rows and the numbering of annotators play no
    part.

    Args:
        votes: N boxes.
        iou: least mean overlap, in [0, 1].

    Returns:
        Group of each box `(N,)`, dense 0..G-1 in the order in which groups first appear.

    Raises:
        ValueError: invalid votes, or `iou` outside [0, 1].
    """
    if not 0 <= iou <= 1:
        raise ValueError(f"iou must lie in [0, 1], got {iou}")
    votes.validate()
    n = len(votes.labels)
    group = list(range(n))
    members: list[list[int]] = [[i] for i in range(n)]
    corners = votes.boxes.tolist()
    who = votes.annotators.tolist()
    for i, j in _candidates(votes, iou):
        a, b = group[i], group[j]
        if a == b:
            continue
        mine, theirs = members[a], members[b]
        if not {who[m] for m in mine}.isdisjoint([who[m] for m in theirs]):
            continue
        if len(mine) + len(theirs) > 2:
            mean = sum(_overlap(corners[m], corners[t]) for m in mine for t in theirs) / (len(mine) * len(theirs))
            if mean < iou:
                continue
        mine.extend(theirs)
        for t in theirs:
            group[t] = a
    _, first, dense = np.unique(np.asarray(group, dtype=np.int64), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[dense]


def fuse_boxes(votes: Votes, groups: Ints, how: Fusion = "median", weights: Floats | None = None) -> Floats:
    """One box per group, coordinate by coordinate: median, mean, or mean weighted by annotator.

    Args:
        votes: N boxes.
        groups: `(N,)`, 0..G-1.
        how: the rule.
        weights: `(A,)` of `weighted`, such as `annotator_reliability`; a group whose weights are all 0 gets the mean.

    Returns:
        `(G, 4)`.

    Raises:
        ValueError: an unknown rule, or `weighted` without weights.
    """
    if how not in get_args(Fusion):
        raise ValueError(f"unknown fusion {how!r}; choose from: {', '.join(get_args(Fusion))}")
    size = np.bincount(groups)
    if how == "median":
        first = np.cumsum(size) - size
        fused = np.empty((len(size), 4))
        for c in range(4):
            value = votes.boxes[np.lexsort((votes.boxes[:, c], groups)), c]
            fused[:, c] = (value[first + (size - 1) // 2] + value[first + size // 2]) / 2
        return fused
    if how == "weighted":
        if weights is None:
            raise ValueError("weighted fusion needs weights, one per annotator")
        each = np.asarray(weights, dtype=float)[votes.annotators]
        each = np.where(np.bincount(groups, weights=each)[groups] > 0, each, 1.0)
    else:
        each = np.ones(len(groups))
    total = np.bincount(groups, weights=each)
    return np.stack([np.bincount(groups, weights=each * votes.boxes[:, c]) / total for c in range(4)], axis=1)


def vote_labels(
    votes: Votes,
    groups: Ints,
    how: Rule = "majority",
    *,
    rounds: int = 50,
    smoothing: float = 0.01,
    ties: Ties = "frequent",
    seed: int = 0,
) -> LabelResult:
    """The class of each group by one of the rules of `infer_labels`; arguments and errors as there."""
    return infer_labels(
        groups,
        votes.annotators,
        votes.labels,
        votes.n_classes,
        how,
        rounds=rounds,
        smoothing=smoothing,
        ties=ties,
        seed=seed,
    )


def annotator_reliability(votes: Votes, groups: Ints) -> Floats:
    """Share of each annotator's boxes that share a group with another annotator's, `(A,)`; 0 without boxes."""
    confirmed = np.bincount(groups)[groups] >= 2
    boxes = np.bincount(votes.annotators)
    return np.bincount(votes.annotators, weights=confirmed) / np.maximum(boxes, 1)


def existence(votes: Votes, groups: Ints, reliability: Floats) -> Floats:
    """Score that a group is an object, s = 1 - prod over its annotators of (1 - r_a), `(G,)` in [0, 1]."""
    with np.errstate(divide="ignore"):
        doubt = np.log1p(-np.clip(reliability, 0, 1))[votes.annotators]
    return 1 - np.exp(np.bincount(groups, weights=doubt))


def aggregate(
    votes: Votes,
    label: Rule = "majority",
    min_existence: float = 0.0,
    iou: float = 0.5,
    *,
    box: Fusion = "median",
    ties: Ties = "frequent",
    seed: int = 0,
    groups: Ints | None = None,
) -> Aggregate:
    """Merge annotators' boxes into one set.

    Args:
        votes: N boxes, at least one.
        label: rule of the class.
        min_existence: groups with a lower existence score are dropped.
        iou: overlap at which boxes are grouped.
        box: rule of the box; `weighted` weighs by `annotator_reliability`.
        ties, seed: of `infer_labels`.
        groups: of `group_boxes`, when they are known already.

    Raises:
        ValueError: invalid votes or options.
    """
    votes.validate()
    if not len(votes.labels):
        raise ValueError("there are no boxes to merge")
    groups = group_boxes(votes, iou) if groups is None else groups
    reliability = annotator_reliability(votes, groups)
    found = vote_labels(votes, groups, label, ties=ties, seed=seed)
    voters = np.zeros((len(found.labels), votes.n_annotators), dtype=bool)
    voters[groups, votes.annotators] = True
    merged = Aggregate(
        boxes=fuse_boxes(votes, groups, box, reliability),
        labels=found.labels,
        images=votes.images[np.unique(groups, return_index=True)[1]],
        posterior=found.posterior,
        existence=existence(votes, groups, reliability),
        voters=voters,
        groups=groups,
        reliability=reliability,
    )
    return merged.keep(merged.existence >= min_existence) if min_existence > 0 else merged


def score(
    pred: Aggregate | Votes,
    gold_boxes: Floats,
    gold_labels: Ints,
    gold_images: Ints,
    iou: float = 0.5,
    *,
    rare: float = 0.01,
) -> dict[str, float]:
    """Compare merged boxes with gold boxes after one-to-one matching within images (IoU > `iou`).

    Args:
        pred: what to score; raw votes are scored as they are.
        gold_boxes, gold_labels, gold_images: `(M, 4)`, `(M,)`, `(M,)`.
        iou: a matched pair must exceed it (a true positive).
        rare: a class is rare when its share of the gold boxes is below.

    Returns:
        `tp_accuracy`: share of true positives with the right class; `rare_accuracy`: the same where the gold class is
        rare; `precision`, `recall`, `box_f1` of the boxes; `joint_f1`: F1 that counts a true positive only when its
        class is right too. A share of nothing is NaN.
    """
    found = match_boxes(pred.boxes, gold_boxes, first_images=pred.images, second_images=gold_images, threshold=iou)
    truth = np.asarray(gold_labels)[found.second]
    right = pred.labels[found.first] == truth
    shares = np.bincount(gold_labels) / max(len(gold_labels), 1)
    hits, given, wanted = len(right), len(pred.labels), len(gold_labels)
    return {
        "tp_accuracy": _share(right.sum(), hits),
        "rare_accuracy": _share(right[shares[truth] < rare].sum(), (shares[truth] < rare).sum()),
        "precision": _share(hits, given),
        "recall": _share(hits, wanted),
        "box_f1": _share(2 * hits, given + wanted),
        "joint_f1": _share(2 * right.sum(), given + wanted),
    }


def pairwise_agreement(votes: Votes, groups: Ints) -> tuple[Floats, Floats, Ints]:
    """How each two annotators agree on the groups that both drew.

    Returns:
        Cohen's kappa of their classes, mean IoU of their boxes, and the number of common groups, each `(A, A)`;
        NaN where they have none in common (kappa also where both use one class only) and on the diagonals.
    """
    from assay.metrics.agreement import cohen_kappa

    a = votes.n_annotators
    row = np.full((int(groups.max()) + 1, a), -1)
    row[groups, votes.annotators] = np.arange(len(groups))
    kappa, overlap, common = np.full((a, a), np.nan), np.full((a, a), np.nan), np.zeros((a, a), dtype=np.int64)
    for i in range(a):
        for j in range(i + 1, a):
            both = row[(row[:, i] >= 0) & (row[:, j] >= 0)]
            common[i, j] = common[j, i] = len(both)
            if len(both):
                first, second = both[:, i], both[:, j]
                kappa[i, j] = kappa[j, i] = cohen_kappa(votes.labels[first], votes.labels[second])
                shared = box_iou(votes.boxes[first], votes.boxes[second], paired=True)
                overlap[i, j] = overlap[j, i] = shared.mean()
    return kappa, overlap, common


def repeated_boxes(votes: Votes, iou: float = 0.5) -> int:
    """How many pairs of boxes of one annotator overlap by more than `iou`; grouping keeps such boxes apart."""
    return len(_candidates(votes, iou, same=True))


def _candidates(votes: Votes, iou: float, *, same: bool = False) -> list[tuple[int, int]]:
    """Pairs of boxes of two annotators (of the same one) in an image with IoU > `iou`, by falling IoU."""
    order = np.argsort(votes.images, kind="stable")
    starts = np.concatenate([[0], np.nonzero(np.diff(votes.images[order]))[0] + 1, [len(order)]])
    first, second, shared = [], [], []
    for begin, end in pairwise(starts.tolist()):
        rows = order[begin:end]
        for block in range(0, len(rows), BLOCK):
            some = rows[block : block + BLOCK]
            overlap = box_iou(votes.boxes[some], votes.boxes[rows])
            one = votes.annotators[some][:, None] == votes.annotators[rows]
            i, j = np.nonzero((overlap > iou) & (one == same))
            once = some[i] < rows[j]
            first.append(some[i][once])
            second.append(rows[j][once])
            shared.append(overlap[i, j][once])
    if not first:
        return []
    i, j, overlap = np.concatenate(first), np.concatenate(second), np.concatenate(shared)
    key = np.concatenate([votes.boxes, votes.labels[:, None]], axis=1)
    rank = np.unique(key, axis=0, return_inverse=True)[1].ravel()
    low, high = np.minimum(rank[i], rank[j]), np.maximum(rank[i], rank[j])
    by = np.lexsort((high, low, votes.images[i], -overlap))
    return list(zip(i[by].tolist(), j[by].tolist(), strict=True))


def _overlap(a: list[float], b: list[float]) -> float:
    """IoU of two boxes as plain numbers: groups are small, and an array call would cost more than the sum."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan
