"""A camera beside a lidar: projection of points and upright boxes, and viewing directions in lidar axes.

Image coordinates are those of `cam_to_img`, whichever pixel convention it was made for; boxes in the image must follow
the same one (KITTI's files agree with one another).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from assay.geometry.boxes3d import EDGES, box_corners, check_boxes

NEAR = 0.1
"""Depth in metres in front of which the edges of a box are cut off before they are projected."""


@dataclass(frozen=True)
class Calibration:
    """How a lidar point reaches the image: `[u w, v w, w] = cam_to_img lidar_to_cam [x, y, z, 1]`.

    Attributes:
        cam_to_img: `(3, 4)`, pixels; camera axes are x right, y down, z ahead.
        lidar_to_cam: `(4, 4)`, metres.
        image_size: (height, width) in pixels.

    Raises:
        ValueError: wrong shapes, values that are not finite, an image without pixels, or a camera matrix or pose that
            cannot be inverted.
    """

    cam_to_img: Tensor
    lidar_to_cam: Tensor
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        P, T = (torch.as_tensor(m, dtype=torch.float64) for m in (self.cam_to_img, self.lidar_to_cam))
        if P.shape != (3, 4) or T.shape != (4, 4):
            raise ValueError(
                f"expected cam_to_img (3, 4) and lidar_to_cam (4, 4); got {tuple(P.shape)}, {tuple(T.shape)}"
            )
        if not bool(torch.isfinite(P).all() and torch.isfinite(T).all()):
            raise ValueError("calibration matrices must be finite")
        if min(self.image_size) < 1:
            raise ValueError(f"image_size (height, width) must be positive; got {self.image_size}")
        for name, square in (("camera matrix", P[:, :3]), ("pose of the lidar", T[:3, :3])):
            if torch.linalg.matrix_rank(square) < 3:
                raise ValueError(f"the {name} is singular")
        object.__setattr__(self, "cam_to_img", P)
        object.__setattr__(self, "lidar_to_cam", T)

    @property
    def matrix(self) -> Tensor:
        """Lidar to image in one step, `(3, 4)` float64."""
        return self.cam_to_img @ self.lidar_to_cam

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Image coordinates `(..., 2)` and depths `(...)` of lidar points `(..., 3 + f)`.

        Where the depth is not positive the point is behind the camera and its coordinates mean nothing.
        """
        M = self.matrix.to(points)
        local = points[..., :3] @ M[:, :3].T + M[:, 3]
        depth = local[..., 2]
        return local[..., :2] / torch.where(depth.abs() < 1e-9, 1e-9, depth)[..., None], depth

    def viewing_direction(self, pixels: Tensor) -> Tensor:
        """Direction, in lidar axes, in which image positions `(..., 2)` are seen, `(..., 3)`, not scaled."""
        K, R = self.cam_to_img[:, :3].to(pixels), self.lidar_to_cam[:3, :3].to(pixels)
        rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
        return rays @ torch.linalg.inv(K).T @ torch.linalg.inv(R).T


def project_boxes(boxes: Tensor, calib: Calibration, *, min_visible: float = 0.0) -> tuple[Tensor, Tensor]:
    """Rectangle in the image that holds a box, and whether the box is in view.

    In view: its deepest corner lies ahead of the camera, at least one corner ahead falls into the image, the
    rectangle cut to the image has an area, and at least the share `min_visible` of its width is left by the cut.
    Boxes that reach behind the camera are cut at `NEAR` first, so that their rectangles stay finite.

    Args:
        boxes: `(N, 7)` in lidar axes.
        min_visible: share of the rectangle's width that must lie in the image.

    Returns:
        rectangles `(N, 4)` as (x1, y1, x2, y2) in pixels, cut to the image (zero where nothing lies ahead), float64;
        in view `(N,)` bool.

    Raises:
        ValueError: boxes of the wrong width or not finite.

    Source: 2601.09812 (the rule of being in view).
    """
    check_boxes(boxes)
    corners = box_corners(boxes.double())
    M = calib.matrix.to(corners.device)
    local = corners @ M[:, :3].T + M[:, 3]  # (N, 8, 3), third column is depth
    height, width = calib.image_size
    depth = local[..., 2]
    uv = local[..., :2] / depth.clamp(min=NEAR)[..., None]
    size = uv.new_tensor([width, height])
    inside = ((uv >= 0) & (uv <= size)).all(-1) & (depth > NEAR)

    edges = torch.tensor(EDGES, device=local.device)
    a, b = local[:, edges[:, 0]], local[:, edges[:, 1]]
    rise = b[..., 2] - a[..., 2]
    at_near = ((NEAR - a[..., 2]) / torch.where(rise.abs() < 1e-12, 1.0, rise))[..., None].clamp(0, 1)
    cut = a + at_near * (b - a)
    ends = torch.cat([torch.where(a[..., 2:] > NEAR, a, cut), torch.where(b[..., 2:] > NEAR, b, cut)], 1)
    ahead = torch.cat([torch.maximum(a[..., 2], b[..., 2]) > NEAR] * 2, 1)[..., None]
    flat = ends[..., :2] / ends[..., 2:].clamp(min=NEAR)
    low = torch.where(ahead, flat, torch.inf).amin(1)
    high = torch.where(ahead, flat, -torch.inf).amax(1)
    seen = ahead.any(1)[:, 0]
    full = torch.where(seen[:, None], torch.cat([low, high], -1), 0.0)
    rects = torch.minimum(full.clamp(min=0), torch.cat([size, size]))
    extent = rects[:, 2:] - rects[:, :2]
    visible = extent[:, 0] >= min_visible * (full[:, 2] - full[:, 0])
    in_view = (depth.amax(1) > 0) & inside.any(1) & (extent > 0).all(1) & visible
    return rects, in_view
