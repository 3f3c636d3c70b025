"""LCF3D: join the detections of a trained lidar detector and a trained image detector.

Late fusion projects the 3-D boxes to the image and matches them one to one with the 2-D boxes; a 3-D box in view
without a partner is taken for a false alarm and goes. A matched pair shares what it knows of the class: if both agree,
`s = s3 s2 / prior` (independent evidence), else the image decides. Cascade fusion turns every 2-D box without a partner
into a 3-D box: the points in its frustum, seen in a frame that looks along it, go to a Frustum Localizer, and the box
it proposes is kept if its projection agrees with the 2-D box.

No joint training: the two detectors and the calibration may be changed at any time.

Source: 2601.09812.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from assay.geometry.boxes3d import bev_iou, check_boxes, nms_bev, points_in_boxes, rotate_z
from assay.geometry.lidar_camera import Calibration, project_boxes
from assay.methods.driving.frustum_localizer import Crops, FrustumLocalizer, jitter_rects, turned_back
from assay.metrics.boxes import box_iou

SOURCES = ("matched", "recovered", "out_of_view", "unmatched")


@dataclass
class Boxes3D:
    """Boxes `(N, 7)` (x, y, z, l, w, h, yaw; lidar axes, metres, radians), scores `(N,)`, labels `(N,)` int64.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        check_boxes(self.boxes)
        _check_detections(self.boxes, self.scores, self.labels)

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass
class Boxes2D:
    """Boxes `(M, 4)` (x1, y1, x2, y2 in pixels), scores `(M,)`, labels `(M,)` int64.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or a box inside out.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(f"2-D boxes must have shape (M, 4); got {tuple(self.boxes.shape)}")
        _check_detections(self.boxes, self.scores, self.labels)
        if bool((self.boxes[:, 2:] < self.boxes[:, :2]).any()):
            raise ValueError("2-D boxes must have x1 <= x2 and y1 <= y2")

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass
class FusedBoxes(Boxes3D):
    """Fused boxes; `source` says where each came from (`SOURCES`), `partner` is the row of its 2-D box or -1."""

    source: list[str] = field(default_factory=list)
    partner: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))


@dataclass(frozen=True)
class FusionOptions:
    """How to fuse.

    Attributes:
        least3d, least2d: scores below which 3-D and 2-D boxes are left out, one per class.
        prior: probability of each class; even when None.
        match_iou: overlap a matched pair must exceed.
        match_classes: match boxes of equal class only.
        fuse_labels: rescore and relabel matched boxes.
        unmatched_factor: scores of 3-D boxes in view without partner are multiplied by this; 0 removes them.
        out_of_view: least score of a 3-D box out of view that is kept; None removes all.
        cluster: match groups of overlapping 3-D boxes of one class in place of single boxes; the best-scored stays.
        cluster_iou: overlap from above that joins two boxes.
        enlarge: share by which a 2-D box is widened before points are taken.
        min_points: a frustum needs more points than this.
        forward_only: take points with x > 0 only; for lidars whose x axis looks the way of the one camera.
        use_likelihood: give the localizer each point's likelihood (else ones).
        recover_iou: overlap with the 2-D box that the projection of a recovered box must exceed.
        nms_iou: overlap from above left among boxes of one class at the end; None suppresses nothing.
        min_visible: share of a projected width inside the image from which a box counts as in view.
    """

    least3d: tuple[float, ...] = (0.2, 0.3, 0.3)
    least2d: tuple[float, ...] = (0.4, 0.4, 0.5)
    prior: tuple[float, ...] | None = None
    match_iou: float = 0.4
    match_classes: bool = False
    fuse_labels: bool = True
    unmatched_factor: float = 0.0
    out_of_view: float | None = None
    cluster: Literal["components", "cliques"] | None = None
    cluster_iou: float = 0.5
    enlarge: float = 0.05
    min_points: int = 10
    forward_only: bool = True
    use_likelihood: bool = True
    recover_iou: float = 0.3
    nms_iou: float | None = None
    min_visible: float = 0.0

    @property
    def classes(self) -> int:
        """How many classes."""
        return len(self.least3d)

    def __post_init__(self) -> None:
        prior = self.prior if self.prior is not None else (1 / len(self.least3d),) * len(self.least3d)
        if not len(self.least3d) == len(self.least2d) == len(prior) > 0:
            raise ValueError("least3d, least2d and prior need one number for each class")
        if not all(p > 0 for p in prior):
            raise ValueError(f"prior probabilities must be positive; got {prior}")
        object.__setattr__(self, "prior", tuple(prior))


KITTI = FusionOptions()
"""One camera, classes pedestrian, cyclist, car."""

NUSCENES = FusionOptions(
    least3d=(0.05,) * 10, least2d=(0.2,) * 10, match_iou=0.5, out_of_view=0.1, cluster="components", enlarge=0.0,
    nms_iou=0.3, forward_only=False,
)  # fmt: skip
"""Six cameras, ten classes; the lidar detector's own suppression loosened to 0.9."""


class Frustum(NamedTuple):
    """Points in the view through a 2-D box.

    Attributes:
        points: `(P, 3 + f)` turned so that the box's centre lies along +x.
        likelihood: `(P,)` in (0, 1].
        yaw: angle in radians to turn back by.
    """

    points: Tensor
    likelihood: Tensor
    yaw: float


class LateCascadeFusion:
    """Late and cascade fusion of one frame.

    Args:
        localizer: a trained `FrustumLocalizer`; None fuses late only.
        options: thresholds and switches.
        localizer_points: points a frustum is cut or filled to.
    """

    def __init__(
        self, localizer: FrustumLocalizer | None = None, options: FusionOptions = KITTI, *, localizer_points: int = 256
    ) -> None:
        if localizer is not None and localizer.num_classes != options.classes:
            raise ValueError(f"the localizer knows {localizer.num_classes} classes, the options {options.classes}")
        self.localizer, self.options, self.localizer_points = localizer, options, localizer_points

    @torch.no_grad()
    def __call__(
        self,
        points: Tensor,
        boxes3d: Boxes3D,
        boxes2d: Boxes2D | Sequence[Boxes2D],
        calib: Calibration | Sequence[Calibration],
    ) -> FusedBoxes:
        """Fuse a frame; several cameras are matched one by one, and their findings put together.

        Args:
            points: `(P, 3 + f)` lidar points; read only where a localizer is there.
            boxes3d: the lidar detector's boxes.
            boxes2d: the image detector's boxes, one set per camera.
            calib: one calibration per camera.

        Returns:
            matched, recovered, then other boxes; a box matched in two cameras stays once, with its better pair.
            `partner` counts through the cameras' boxes in order.

        Raises:
            ValueError: labels outside the classes, points of the wrong width, or unequal numbers of cameras.
        """
        o = self.options
        views = [boxes2d] if isinstance(boxes2d, Boxes2D) else list(boxes2d)
        calibs = [calib] if isinstance(calib, Calibration) else list(calib)
        if len(views) != len(calibs):
            raise ValueError(f"{len(views)} sets of 2-D boxes but {len(calibs)} calibrations")
        if points.ndim != 2 or points.shape[1] < 3:
            raise ValueError(f"points must have shape (P, 3 + f); got {tuple(points.shape)}")
        kept = _gate(boxes3d, o.least3d)
        b3, s3, c3 = boxes3d.boxes[kept], boxes3d.scores[kept], boxes3d.labels[kept]
        scores3 = s3.tolist()
        clusters = cluster_boxes(b3, c3, o.cluster_iou, o.cluster) if o.cluster else [[i] for i in range(len(b3))]
        leaders = [_leader(group, scores3) for group in clusters]

        seen = torch.zeros(len(b3), dtype=torch.bool)
        best: dict[int, tuple[float, float, int, int]] = {}  # 3-D row -> overlap, score, label, 2-D row
        recovered: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        offset = 0
        for view, camera in zip(views, calibs, strict=True):
            rows = _gate(view, o.least2d).nonzero()[:, 0]
            b2, s2, c2 = view.boxes[rows], view.scores[rows], view.labels[rows]
            rects, in_view = project_boxes(b3, camera, min_visible=o.min_visible)
            seen |= in_view
            visible = set(in_view.nonzero()[:, 0].tolist())
            groups = [[i for i in group if i in visible] for group in clusters]
            groups = [group for group in groups if group]
            allowed = (c3[:, None] == c2[None]) if o.match_classes else None
            pairs, overlaps = _assign(rects, b2, o.match_iou, groups, allowed)
            i = torch.tensor([_leader(groups[g], scores3) for g in pairs[:, 0].tolist()], dtype=torch.long)
            j = pairs[:, 1]
            score, label = s3[i], c3[i]
            if o.fuse_labels:
                score, label = fuse_labels(score, label, s2[j], c2[j], o.prior)
            partner = (offset + rows[j]).tolist()
            for pair in zip(i.tolist(), overlaps.tolist(), score.tolist(), label.tolist(), partner, strict=True):
                if pair[0] not in best or pair[1] > best[pair[0]][0]:
                    best[pair[0]] = pair[1:]
            if self.localizer is not None:
                free = torch.ones(len(rows), dtype=torch.bool)
                free[j] = False
                found = self.recover(points, Boxes2D(b2[free], s2[free], c2[free]), camera)
                recovered.append((found[0], found[1], c2[free][found[2]], offset + rows[free][found[2]]))
            offset += len(view)
        taken = list(best)
        rest = [i for i, group in zip(leaders, clusters, strict=True) if best.keys().isdisjoint(group)]
        rest = list(dict.fromkeys(rest))
        hidden = [i for i in rest if not seen[i] and o.out_of_view is not None and scores3[i] >= o.out_of_view]
        alone = [i for i in rest if seen[i]] if o.unmatched_factor > 0 else []
        parts = [
            (b3[taken], s3.new_tensor([best[i][1] for i in taken]), c3.new_tensor([best[i][2] for i in taken]),
             torch.tensor([best[i][3] for i in taken], dtype=torch.long)),
            *recovered,
            (b3[hidden], s3[hidden], c3[hidden], torch.full((len(hidden),), -1)),
            (b3[alone], s3[alone] * o.unmatched_factor, c3[alone], torch.full((len(alone),), -1)),
        ]  # fmt: skip
        words = ["matched", *["recovered"] * len(recovered), "out_of_view", "unmatched"]
        source = [word for word, part in zip(words, parts, strict=True) for _ in range(len(part[0]))]
        boxes, scores, labels, partner = (torch.cat([part[k].to(parts[0][k]) for part in parts]) for k in range(4))
        if o.nms_iou is not None:
            order = nms_bev(boxes, scores, o.nms_iou, labels)
            boxes, scores, labels, partner = boxes[order], scores[order], labels[order], partner[order]
            source = [source[i] for i in order.tolist()]
        return FusedBoxes(boxes, scores, labels, source, partner)

    @torch.no_grad()
    def recover(self, points: Tensor, boxes2d: Boxes2D, calib: Calibration) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `(K, 7)` from 2-D boxes alone, scores `s2 IoU` `(K,)`, and the rows of their 2-D boxes `(K,)`."""
        assert self.localizer is not None
        o = self.options
        nothing = boxes2d.boxes.new_zeros(0, 7), boxes2d.scores[:0], torch.zeros(0, dtype=torch.long)
        if not len(boxes2d):
            return nothing
        found = frustums(points, boxes2d.boxes, calib, o.enlarge, o.min_points, o.forward_only)
        rows = torch.tensor([i for i, f in enumerate(found) if f is not None], dtype=torch.long)
        if not len(rows):
            return nothing
        chosen = [found[i] for i in rows.tolist()]
        crops = torch.stack([crop_points(f, self.localizer_points, o.use_likelihood)[0] for f in chosen])
        turns = torch.tensor([f.yaw for f in chosen], dtype=crops.dtype)
        onehot = F.one_hot(boxes2d.labels[rows], self.localizer.num_classes).to(crops)
        was_training = self.localizer.training
        self.localizer.eval()
        boxes = turned_back(
            self.localizer.decode(self.localizer(crops[..., : self.localizer.point_features], onehot)), turns
        )
        self.localizer.train(was_training)
        rects, in_view = project_boxes(boxes, calib)
        iou = box_iou(rects, boxes2d.boxes[rows].to(rects), paired=True)
        good = in_view & (iou > o.recover_iou)
        scores = boxes2d.scores[rows][good] * iou[good].to(boxes2d.scores)
        return boxes[good].to(boxes2d.boxes), scores, rows[good]


def match(
    rects: Tensor,
    rects2d: Tensor,
    iou_threshold: float,
    clusters: Sequence[Sequence[int]] | None = None,
    allowed: Tensor | None = None,
) -> Tensor:
    """One-to-one pairs of greatest summed IoU, of which those above the threshold are kept.

    Args:
        rects: projections `(N, 4)`; rects2d: 2-D boxes `(M, 4)`.
        iou_threshold: overlap a pair must exceed.
        clusters: groups of rows of `rects`; a group's overlap is the greatest of its members. Single rows by default.
        allowed: `(N, M)` bool, which pairs may be formed; all when None.

    Returns:
        `(K, 2)` int64: group (row, without clusters) and row of `rects2d`.

    Source: 2601.09812.
    """
    return _assign(rects, rects2d, iou_threshold, clusters, allowed)[0]


def cluster_boxes(
    boxes: Tensor, labels: Tensor, bev_iou_threshold: float, method: Literal["components", "cliques"] = "components"
) -> list[list[int]]:
    """Groups of boxes `(N, 7)` of one label that overlap from above by more than a threshold.

    `"components"`: connected components, every box in one group. `"cliques"`: maximal cliques, in which every two
    overlap; a box may be in several.

    Raises:
        ValueError: an unknown method.

    Source: 2601.09812.
    """
    near = (bev_iou(boxes, boxes) > bev_iou_threshold) & (labels[:, None] == labels[None])
    near = near.cpu().numpy()
    np.fill_diagonal(near, False)
    if method == "components":
        count, member = connected_components(near, directed=False)
        groups: list[list[int]] = [[] for _ in range(count)]
        for i, group in enumerate(member.tolist()):
            groups[group].append(i)
        return groups
    if method == "cliques":
        from assay.errors import require

        networkx = require("networkx", "driving")
        return sorted(sorted(clique) for clique in networkx.find_cliques(networkx.from_numpy_array(near)))
    raise ValueError(f"method is 'components' or 'cliques', not {method!r}")


def fuse_labels(
    s3: Tensor, c3: Tensor, s2: Tensor, c2: Tensor, prior: Sequence[float] | Tensor
) -> tuple[Tensor, Tensor]:
    """Scores and labels of matched pairs, each `(K,)`.

    Equal labels: `s = s3 s2 / prior[c]`, the odds of independent evidence up to a factor; it may exceed 1.
    Different labels: score and label of the 2-D box.

    Raises:
        ValueError: a label outside the prior.

    Source: 2601.09812.
    """
    prior = torch.as_tensor(prior, dtype=s3.dtype, device=s3.device)
    for labels in (c3, c2):
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(prior):
            raise ValueError(f"labels must lie in 0..{len(prior) - 1}; got {labels.unique().tolist()}")
    return torch.where(c3 == c2, s3 * s2.to(s3) / prior[c2], s2.to(s3)), c2


def point_likelihood(pixels: Tensor, rect: Tensor) -> Tensor:
    """How likely pixels `(P, 2)` belong to the object of a 2-D box `(4,)`: `(P,)` in (0, 1].

    `exp(-(u - uc)² / 2w² - (v - vc)² / 2h²)` with the box's centre (uc, vc) and size (w, h).

    Source: 2601.09812.
    """
    centre, size = (rect[:2] + rect[2:]) / 2, (rect[2:] - rect[:2]).clamp(min=1e-6)
    return torch.exp(-0.5 * ((pixels - centre.to(pixels)) / size.to(pixels)).square().sum(-1))


def frustum(
    points: Tensor,
    rect: Tensor,
    calib: Calibration,
    enlarge: float = 0.05,
    min_points: int = 10,
    forward_only: bool = True,
) -> Frustum | None:
    """Points before the camera whose projection lies in a widened 2-D box, turned to look along it.

    Args:
        points: `(P, 3 + f)` in lidar axes.
        rect: `(4,)` pixels.
        enlarge: share of width and height added.
        min_points: None is returned unless there are more points than this.
        forward_only: leave out points with x <= 0.

    Source: 2601.09812.
    """
    return frustums(points, rect[None], calib, enlarge, min_points, forward_only)[0]


def frustums(
    points: Tensor,
    rects: Tensor,
    calib: Calibration,
    enlarge: float = 0.05,
    min_points: int = 10,
    forward_only: bool = True,
) -> list[Frustum | None]:
    """`frustum` of several boxes `(M, 4)`; the points are projected once."""
    rects = rects.to(points.dtype)
    centre, size = (rects[:, :2] + rects[:, 2:]) / 2, rects[:, 2:] - rects[:, :2]
    low, high = centre - size / 2 * (1 + enlarge), centre + size / 2 * (1 + enlarge)
    if not len(rects):
        return []
    M = calib.matrix.to(points)
    u, v, depth = (M[:, :3] @ points[:, :3].T + M[:, 3:]).unbind()
    u, v = u / depth, v / depth  # behind the camera this means nothing, and is left out
    (left, top), (right, bottom) = low.amin(0).tolist(), high.amax(0).tolist()
    inside = (depth > 0) & (u >= left) & (u <= right) & (v >= top) & (v <= bottom)
    if forward_only:
        inside &= points[:, 0] > 0
    ahead = inside.nonzero()[:, 0]
    uv = torch.stack([u[ahead], v[ahead]], 1)
    order = torch.from_numpy(np.argsort(uv[:, 0].cpu().numpy())).to(uv.device)  # quicker than torch's sort
    column = uv[order, 0]
    ray = calib.viewing_direction(centre)
    yaw = torch.atan2(ray[:, 1], ray[:, 0])
    first = torch.searchsorted(column, low[:, 0].contiguous())
    last = torch.searchsorted(column, high[:, 0].contiguous(), right=True)
    found: list[Frustum | None] = []
    for i, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        rows = order[a:b]
        rows = rows[(uv[rows, 1] >= low[i, 1]) & (uv[rows, 1] <= high[i, 1])].sort().values
        if len(rows) <= min_points:
            found.append(None)
            continue
        turned = rotate_z(points[ahead[rows]], -yaw[i])
        found.append(Frustum(turned, point_likelihood(uv[rows], rects[i]), float(yaw[i])))
    return found


def crop_points(found: Frustum, count: int, use_likelihood: bool = True) -> tuple[Tensor, Tensor]:
    """A frustum as `count` points `(count, 5)` (xyz, intensity, likelihood) and their rows.

    More points are thinned evenly in their order, fewer are repeated. Points without intensity get 0.
    """
    total = len(found.points)
    rows = torch.arange(count) * total // count if total > count else torch.arange(count) % total
    points = found.points[rows]
    intensity = points[:, 3:4] if points.shape[1] > 3 else torch.zeros_like(points[:, :1])
    likelihood = found.likelihood[rows, None] if use_likelihood else torch.ones_like(intensity)
    return torch.cat([points[:, :3], intensity, likelihood.to(points)], 1), rows


def training_crops(
    points: Tensor,
    boxes: Tensor,
    labels: Tensor,
    rects: Tensor,
    calib: Calibration,
    *,
    copies: int = 10,
    jitter: float = 0.05,
    count: int = 256,
    options: FusionOptions = KITTI,
    generator: torch.Generator,
) -> Crops | None:
    """Frustums of one labelled frame to train a localizer with.

    Args:
        boxes: true 3-D boxes `(K, 7)`; labels `(K,)`; rects: their 2-D boxes `(K, 4)`.
        copies: frustums for each object, each with its box shifted and scaled at random.
        jitter: largest shift and scale, share of the box.
        count: points of a frustum.

    Returns:
        None when no object has enough points in its 2-D box.

    Source: 2601.09812.
    """
    rows = torch.arange(len(boxes)).repeat_interleave(copies)
    shaken = jitter_rects(rects[rows].double(), jitter, generator)
    crops, kinds, truth, inside = [], [], [], []
    for row, found in zip(
        rows.tolist(), frustums(points, shaken, calib, options.enlarge, options.min_points), strict=True
    ):
        if found is None:
            continue
        box = turned_back(boxes[row : row + 1].to(points), -torch.tensor([found.yaw], dtype=points.dtype))
        crop, _ = crop_points(found, count, options.use_likelihood)
        mask = points_in_boxes(crop, box)[:, 0]
        if not bool(mask.any()):
            continue  # hidden behind something else: nothing to learn from
        crops.append(crop)
        kinds.append(labels[row])
        truth.append(box[0])
        inside.append(mask)
    return Crops(torch.stack(crops), torch.stack(kinds), torch.stack(truth), torch.stack(inside)) if crops else None


def join_crops(parts: Iterable[Crops | None]) -> Crops | None:
    """Frustums of several frames as one set; None when there is none."""
    there = [part for part in parts if part is not None]
    return Crops(*(torch.cat(columns) for columns in zip(*there, strict=True))) if there else None


def _assign(rects, rects2d, iou_threshold, clusters, allowed) -> tuple[Tensor, Tensor]:
    """Pairs `(K, 2)` of `match` and their overlaps `(K,)`."""
    table = box_iou(rects.cpu().double().numpy(), rects2d.cpu().double().numpy())
    if allowed is not None:
        table = np.where(allowed.cpu().numpy(), table, 0.0)
    if clusters is not None:
        if clusters and all(len(group) == 1 for group in clusters):
            table = table[[group[0] for group in clusters]]
        else:
            table = np.array([table[list(group)].max(0) for group in clusters]).reshape(len(clusters), len(rects2d))
    i, j = linear_sum_assignment(-table)
    good = table[i, j] > iou_threshold
    return torch.as_tensor(np.stack([i[good], j[good]], 1), dtype=torch.long), torch.as_tensor(table[i, j][good])


def _leader(group: Sequence[int], scores: Sequence[float]) -> int:
    """The best-scored of a group; the first of equals."""
    return group[0] if len(group) == 1 else max(group, key=lambda i: (scores[i], -i))


def _gate(detections: Boxes3D | Boxes2D, least: Sequence[float]) -> Tensor:
    labels = detections.labels
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(least):
        raise ValueError(f"labels must lie in 0..{len(least) - 1}; got {labels.unique().tolist()}")
    return detections.scores >= torch.tensor(least, dtype=detections.scores.dtype)[labels]


def _check_detections(boxes: Tensor, scores: Tensor, labels: Tensor) -> None:
    if scores.shape != (len(boxes),) or labels.shape != (len(boxes),):
        raise ValueError(
            f"{len(boxes)} boxes need as many scores and labels; got {tuple(scores.shape)} and {tuple(labels.shape)}"
        )
    if not bool(torch.isfinite(boxes).all() and torch.isfinite(scores).all()):
        raise ValueError("boxes and scores must be finite")
    if labels.dtype != torch.long:
        raise ValueError(f"labels must be int64; got {labels.dtype}")
