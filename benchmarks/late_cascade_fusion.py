"""Late-cascade fusion of a KITTI-sized frame: 50 boxes a side, 120,000 points, ten boxes on each side unmatched."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from assay.geometry.boxes3d import box_corners, rotate_z
from assay.methods.driving.frustum_localizer import FrustumLocalizer
from assay.methods.driving.late_cascade_fusion import KITTI, LateCascadeFusion, frustums
from assay.studies.driving.late_cascade_fusion import Frame, crowded_frame
from benchmarks._measure import one_thread, ratio, row, seconds, side_by_side

REPEATS = 25


def rows() -> list[dict[str, Any]]:
    """Milliseconds of one core, and the plain way in the same run."""
    with one_thread():
        return _rows()


def _rows() -> list[dict[str, Any]]:
    frame = crowded_frame()
    torch.manual_seed(0)
    localizer = FrustumLocalizer(3, backbone="pointnet").eval()
    late = LateCascadeFusion(None, KITTI)
    whole = LateCascadeFusion(localizer, KITTI, localizer_points=128)
    fused = late(frame.points, frame.lidar, frame.image, frame.calib)
    assert len(fused) == len(_plain_late(frame)), "the plain version must find the same pairs"
    free = torch.ones(len(frame.image), dtype=torch.bool)
    free[fused.partner] = False
    rects = frame.image.boxes[free]
    ours, plain = frustums(frame.points, rects, frame.calib), _plain_frustums(frame, rects)
    assert [f is None for f in ours] == [f is None for f in plain], "the plain version must cut the same frustums"

    def late_and_frustums() -> None:
        late(frame.points, frame.lidar, frame.image, frame.calib)
        frustums(frame.points, rects, frame.calib)

    def plainly() -> None:
        _plain_late(frame)
        _plain_frustums(frame, rects)

    def cascade() -> None:
        whole(frame.points, frame.lidar, frame.image, frame.calib)

    against = side_by_side(late_and_frustums, plainly, REPEATS, clock=time.thread_time)
    quick = 1000 * median(mine for mine, _ in against)
    with_localizer = 1000 * median(seconds(cascade, time.thread_time) for _ in range(REPEATS))
    return [
        row("matching, veto and frustums", quick, "ms", at_most=20),
        row("the same with the small localizer on what is left", with_localizer, "ms", at_most=20),
        row("matching, veto and frustums against the plain loops", ratio(against), "of the time", at_most=0.5),
    ]


def _plain_late(frame: Frame) -> list[tuple[int, int]]:
    """Projection corner by corner and overlap pair by pair."""
    height, width = frame.calib.image_size
    M = frame.calib.matrix.numpy()
    rects = []
    for corners in box_corners(frame.lidar.boxes.double()).numpy():
        uv = []
        for corner in corners:
            u, v, w = M @ np.append(corner, 1.0)
            uv.append((u / w, v / w))
        us, vs = zip(*uv, strict=True)
        rects.append((max(min(us), 0), max(min(vs), 0), min(max(us), width), min(max(vs), height)))
    table = np.zeros((len(rects), len(frame.image)))
    for i, a in enumerate(rects):
        for j, b in enumerate(frame.image.boxes.double().numpy()):
            shared = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
            areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
            table[i, j] = shared / max(areas - shared, 1e-9)
    return [(i, j) for i, j in zip(*linear_sum_assignment(-table), strict=True) if table[i, j] > 0.4]


def _plain_frustums(frame: Frame, rects: torch.Tensor) -> list[torch.Tensor | None]:
    """Every point projected anew for each box."""
    found: list[torch.Tensor | None] = []
    for rect in rects:
        centre, half = (rect[:2] + rect[2:]) / 2, (rect[2:] - rect[:2]) * 1.05 / 2
        uv, depth = frame.calib.project(frame.points)
        inside = ((uv - centre).abs() <= half).all(1) & (depth > 0) & (frame.points[:, 0] > 0)
        ray = frame.calib.viewing_direction(centre[None])[0]
        turned = rotate_z(frame.points[inside], -torch.atan2(ray[1], ray[0]))
        found.append(turned if len(turned) > 10 else None)
    return found
