"""Projection of points and boxes, against the pinhole formula written out."""

import math

import pytest
import torch

from assay.geometry.boxes3d import box_corners
from assay.geometry.lidar_camera import Calibration, project_boxes

AXES = torch.tensor([[0.0, -1, 0, 0.1], [0, 0, -1, 1.5], [1, 0, 0, -0.2], [0, 0, 0, 1]], dtype=torch.float64)
P = torch.tensor([[200.0, 0, 160, 9], [0, 210, 60, 0.3], [0, 0, 1, 0.002]], dtype=torch.float64)
CALIB = Calibration(P, AXES, (120, 320))


def by_hand(point):
    """One point through both matrices, number by number."""
    x, y, z = point
    X, Y, Z = -y + 0.1, -z + 1.5, x - 0.2
    w = Z + 0.002
    return (200 * X + 160 * Z + 9) / w, (210 * Y + 60 * Z + 0.3) / w, w


def test_projection_equals_the_formula_for_each_corner():
    g = torch.Generator().manual_seed(0)
    boxes = torch.rand(20, 7, generator=g, dtype=torch.float64) * torch.tensor([10, 6, 1, 3, 1, 1, 6.0])
    boxes = boxes + torch.tensor([8.0, -3, 0, 0.5, 0.5, 0.5, 0])
    uv, depth = CALIB.project(box_corners(boxes))
    rects, in_view = project_boxes(boxes, CALIB)
    for i, corners in enumerate(box_corners(boxes).tolist()):
        pixels = [by_hand(corner) for corner in corners]
        torch.testing.assert_close(uv[i], torch.tensor([p[:2] for p in pixels], dtype=torch.float64), atol=1e-5, rtol=0)
        torch.testing.assert_close(depth[i], torch.tensor([p[2] for p in pixels], dtype=torch.float64))
        us, vs = [p[0] for p in pixels], [p[1] for p in pixels]
        hull = [max(min(us), 0), max(min(vs), 0), min(max(us), 320), min(max(vs), 120)]
        inside = any(0 <= u <= 320 and 0 <= v <= 120 for u, v in zip(us, vs, strict=True))
        assert bool(in_view[i]) == inside
        if inside:
            assert rects[i].tolist() == pytest.approx(hull, abs=1e-5)
    assert int(in_view.sum()) > 5


def test_viewing_direction_runs_through_the_points_of_a_pixel():
    centre = torch.linalg.solve(AXES[:3, :3], -AXES[:3, 3] - torch.linalg.solve(P[:, :3], P[:, 3]))
    points = torch.tensor([[9.0, 2, 1], [20, -5, 0.3]], dtype=torch.float64)
    direction = CALIB.viewing_direction(CALIB.project(points)[0])
    torch.testing.assert_close(
        torch.linalg.cross(direction, points - centre), torch.zeros_like(points), atol=1e-9, rtol=0
    )
    assert bool((direction[:, 0] > 0).all())


def test_a_box_around_the_camera_has_a_finite_rectangle_and_one_behind_has_none():
    boxes = torch.tensor([[0.5, 0.0, 1.2, 4, 2, 1.5, 0], [-10, 0, 0, 4, 2, 1.5, 0], [1.4, 0, 0.6, 3, 1.0, 0.6, 0.2]])
    rects, in_view = project_boxes(boxes, CALIB)
    assert bool(torch.isfinite(rects).all())
    assert in_view.tolist()[1] is False
    assert rects[1].tolist() == [0, 0, 0, 0]


def test_least_visible_share_of_the_width():
    box = torch.tensor([[10.0, 7.8, 1.0, 0.5, 2.5, 1.5, 0]])
    rects, seen = project_boxes(box, CALIB)
    assert bool(seen)
    assert float(rects[0, 0]) == 0.0
    assert not bool(project_boxes(box, CALIB, min_visible=0.7)[1])


def test_scaling_all_lengths_changes_no_rectangle():
    k = 3.0
    T, Q = AXES.clone(), P.clone()
    T[:3, 3] *= k
    Q[:, 3] *= k
    box = torch.tensor([[12.0, 1, 1, 4, 2, 1.5, 0.3]], dtype=torch.float64)
    scaled = box * torch.tensor([k, k, k, k, k, k, 1])
    torch.testing.assert_close(project_boxes(scaled, Calibration(Q, T, (120, 320)))[0], project_boxes(box, CALIB)[0])


@pytest.mark.parametrize(
    ("cam", "pose", "size", "word"),
    [
        (torch.zeros(3, 4), AXES, (1, 1), "singular"),
        (P, torch.zeros(4, 4), (1, 1), "singular"),
        (P[:, :3], AXES, (1, 1), r"\(3, 4\)"),
        (P * math.nan, AXES, (1, 1), "finite"),
        (P, AXES, (0, 5), "image_size"),
    ],
)
def test_bad_calibration(cam, pose, size, word):
    with pytest.raises(ValueError, match=word):
        Calibration(cam, pose, size)
