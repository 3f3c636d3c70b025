"""Upright 3-D boxes: corners, overlap seen from above, suppression, points inside.

A box is `(x, y, z, l, w, h, yaw)` in metres and radians: (x, y, z) its centre, l along its heading, w to its left,
h up; yaw turns the heading from +x towards +y about +z. The axes are those of a lidar (x ahead, y left, z up).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Corners by the signs of (l, w, h): the floor counter-clockwise from front left, then the roof in the same order.
CORNER_SIGNS = ((1, 1, -1), (-1, 1, -1), (-1, -1, -1), (1, -1, -1), (1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, 1))
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
"""Pairs of corners that a box's twelve edges join."""


def check_boxes(boxes: Tensor) -> Tensor:
    """`boxes` as they are, once they are known to be usable: shape `(..., 7)`, finite, sizes not negative.

    Raises:
        ValueError: they are not.
    """
    if boxes.ndim < 1 or boxes.shape[-1] != 7:
        raise ValueError(f"boxes must have seven numbers each, shape (..., 7); got {tuple(boxes.shape)}")
    if not bool(torch.isfinite(boxes).all()):
        raise ValueError("boxes must be finite; some are NaN or infinite")
    if bool((boxes[..., 3:6] < 0).any()):
        raise ValueError("sizes (l, w, h) of boxes must not be negative")
    return boxes


def wrap_angle(angle: Tensor) -> Tensor:
    """The same angle in [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def rotate_z(points: Tensor, angle: Tensor | float) -> Tensor:
    """Turn points `(..., 3 + f)` by `angle` radians about the z axis; further columns are kept."""
    angle = torch.as_tensor(angle, dtype=points.dtype, device=points.device)
    cos, sin = angle.cos(), angle.sin()
    x, y = points[..., 0], points[..., 1]
    return torch.cat([torch.stack([cos * x - sin * y, sin * x + cos * y], -1), points[..., 2:]], -1)


def box_corners(boxes: Tensor) -> Tensor:
    """The eight corners of boxes `(..., 7)`, shape `(..., 8, 3)`, in the order of `CORNER_SIGNS`; keeps gradients."""
    offsets = boxes[..., None, 3:6] * boxes.new_tensor(CORNER_SIGNS) / 2
    return rotate_z(offsets, boxes[..., None, 6]) + boxes[..., None, :3]


def bev_corners(boxes: Tensor) -> Tensor:
    """The floor's corners seen from above, counter-clockwise, `(..., 4, 2)`."""
    return box_corners(boxes)[..., :4, :2]


def bev_intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area shared by two rectangles seen from above, row by row: boxes `(K, 7)` and `(K, 7)` to `(K,)` m², float64.

    The shared region of two convex figures is the hull of the corners of each that lie in the other and of the points
    where edges cross; sorted by angle about their mean, they give the area by the shoelace formula.
    """
    a, b = a.double(), b.double()
    p, q = bev_corners(a), bev_corners(b)
    r, s = p.roll(-1, 1) - p, q.roll(-1, 1) - q
    between = q[:, None] - p[:, :, None]  # (K, edge of a, edge of b, 2)
    r, s = r[:, :, None], s[:, None]
    across = _cross(r, s)
    parallel = across.abs() < 1e-12
    safe = torch.where(parallel, 1.0, across)
    t, u = _cross(between, s) / safe, _cross(between, r) / safe
    crossing = p[:, :, None] + t[..., None] * r
    crosses = ~parallel & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    points = torch.cat([p, q, crossing.flatten(1, 2)], 1)
    counts = torch.cat([_in_rectangle(p, b), _in_rectangle(q, a), crosses.flatten(1)], 1)
    number = counts.sum(1)
    centre = (points * counts[..., None]).sum(1) / number.clamp(min=1)[:, None]
    around = points - centre[:, None]
    angle = torch.where(counts, torch.atan2(around[..., 1], around[..., 0]), math.inf)
    angle, order = angle.sort(1)
    ring = around.gather(1, order[..., None].expand(-1, -1, 2))
    ring = torch.where(torch.isinf(angle)[..., None], ring[:, :1], ring)  # repeat the first point: adds no area
    area = _cross(ring, ring.roll(-1, 1)).sum(1).abs() / 2
    return torch.where(number > 2, area, 0.0)


def bev_iou(a: Tensor, b: Tensor, *, paired: bool = False) -> Tensor:
    """Intersection over union seen from above, rotation included.

    Args:
        a, b: boxes `(N, 7)` and `(M, 7)`; of one length with `paired`.
        paired: compare row by row in place of every a with every b.

    Returns:
        float64, `(N, M)`, or `(N,)` when paired; 0 for boxes without area.
    """
    return _overlap(a, b, paired, height=False)


def box3d_iou(a: Tensor, b: Tensor, *, paired: bool = False) -> Tensor:
    """Intersection over union of volumes. Arguments and shapes as in `bev_iou`."""
    return _overlap(a, b, paired, height=True)


def nms_bev(boxes: Tensor, scores: Tensor, iou: float, labels: Tensor | None = None) -> Tensor:
    """Greedy suppression: by falling score a box goes when its overlap from above with a kept one exceeds `iou`.

    Args:
        boxes: `(N, 7)`; scores `(N,)`.
        iou: overlap that a survivor must not exceed.
        labels: `(N,)`; boxes of different labels do not suppress one another.

    Returns:
        Rows that stay, by falling score, `(K,)` int64.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    above = bev_iou(boxes[order], boxes[order]) > iou
    if labels is not None:
        above &= labels[order][:, None] == labels[order][None]
    clash = above.cpu().numpy()
    alive = [True] * len(clash)
    kept = []
    for i in range(len(clash)):
        if alive[i]:
            kept.append(i)
            for j in clash[i, i + 1 :].nonzero()[0]:
                alive[i + 1 + j] = False
    return order[torch.as_tensor(kept, dtype=torch.long, device=order.device)]


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points `(P, 3 + f)` lie in which boxes `(N, 7)`, faces included: `(P, N)` bool."""
    local = rotate_z(points[:, None, :3] - boxes[None, :, :3], -boxes[:, 6].to(points.dtype))
    return (local.abs() <= boxes[None, :, 3:6] / 2).all(-1)


def _overlap(a: Tensor, b: Tensor, paired: bool, height: bool) -> Tensor:
    check_boxes(a)
    check_boxes(b)
    if paired:
        return _paired_overlap(a, b, height)
    reach = (a[:, 3:5].norm(dim=1)[:, None] + b[:, 3:5].norm(dim=1)[None]) / 2
    near = torch.cdist(a[:, :2].double(), b[:, :2].double()) < reach
    rows, columns = near.nonzero(as_tuple=True)
    result = torch.zeros(len(a), len(b), dtype=torch.float64, device=a.device)
    if len(rows):
        result[rows, columns] = _paired_overlap(a[rows], b[columns], height)
    return result


def _paired_overlap(a: Tensor, b: Tensor, height: bool) -> Tensor:
    shared = bev_intersection(a, b)
    a, b = a.double(), b.double()
    size_a, size_b = a[:, 3] * a[:, 4], b[:, 3] * b[:, 4]
    if height:
        top = torch.minimum(a[:, 2] + a[:, 5] / 2, b[:, 2] + b[:, 5] / 2)
        bottom = torch.maximum(a[:, 2] - a[:, 5] / 2, b[:, 2] - b[:, 5] / 2)
        shared = shared * (top - bottom).clamp(min=0)
        size_a, size_b = size_a * a[:, 5], size_b * b[:, 5]
    union = size_a + size_b - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, 1.0), 0.0)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _in_rectangle(points: Tensor, boxes: Tensor) -> Tensor:
    """Points `(K, C, 2)` inside rectangles of the same row, a hair beyond the border included: `(K, C)`."""
    local = rotate_z(torch.nn.functional.pad(points - boxes[:, None, :2], (0, 1)), -boxes[:, None, 6])
    return (local[..., :2].abs() <= boxes[:, None, 3:5] / 2 + 1e-9).all(-1)
