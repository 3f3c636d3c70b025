"""Upright boxes: corners against trigonometry, overlap against polygon clipping, suppression against a plain loop."""

import math

import numpy as np
import pytest
import torch

from assay.geometry.boxes3d import (
    EDGES,
    bev_intersection,
    bev_iou,
    box3d_iou,
    box_corners,
    check_boxes,
    nms_bev,
    points_in_boxes,
    rotate_z,
    wrap_angle,
)


def random_boxes(count, seed, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    r = torch.rand(count, 7, generator=g, dtype=torch.float64)
    return torch.cat([(r[:, :3] - 0.5) * spread, 0.3 + 3 * r[:, 3:6], (r[:, 6:] - 0.5) * 4 * math.pi], 1)


def clipped_area(a, b):
    """Sutherland-Hodgman clipping of one rectangle by the other, in plain Python."""

    def corners(box):
        x, y, _, l, w, _, yaw = box
        c, s = math.cos(yaw), math.sin(yaw)
        return [(x + c * p * l / 2 - s * q * w / 2, y + s * p * l / 2 + c * q * w / 2)
                for p, q in ((1, 1), (-1, 1), (-1, -1), (1, -1))]  # fmt: skip

    shape, clip = corners(a), corners(b)
    for (ax, ay), (bx, by) in zip(clip, clip[1:] + clip[:1], strict=True):
        side = [(bx - ax) * (y - ay) - (by - ay) * (x - ax) for x, y in shape]
        new = []
        for i, point in enumerate(shape):
            j = (i + 1) % len(shape)
            if side[i] >= 0:
                new.append(point)
            if (side[i] >= 0) != (side[j] >= 0):
                t = side[i] / (side[i] - side[j])
                new.append(tuple(p + t * (q - p) for p, q in zip(point, shape[j], strict=True)))
        shape = new
        if not shape:
            return 0.0
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(shape, shape[1:] + shape[:1], strict=True))) / 2


def test_intersection_equals_clipping():
    a, b = random_boxes(200, 0), random_boxes(200, 1)
    expected = [clipped_area(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]
    np.testing.assert_allclose(bev_intersection(a, b), expected, atol=1e-9)
    assert sum(x > 0 for x in expected) > 100


@pytest.mark.parametrize("turn", [0.0, math.pi / 2, math.pi, 0.3])
def test_overlap_with_itself_and_its_turns(turn):
    a = random_boxes(20, 2)
    b = a.clone()
    b[:, 6] += turn
    if turn in (0.0, math.pi):
        torch.testing.assert_close(bev_iou(a, b, paired=True), torch.ones(20, dtype=torch.float64))
    squares = a.clone()
    squares[:, 4] = squares[:, 3]
    turned = squares.clone()
    turned[:, 6] += math.pi / 2
    torch.testing.assert_close(box3d_iou(squares, turned, paired=True), torch.ones(20, dtype=torch.float64))


def test_overlap_does_not_depend_on_the_frame_of_reference():
    a, b = random_boxes(30, 3), random_boxes(40, 4)

    def moved(boxes):
        out = rotate_z(boxes, 0.7) + torch.tensor([4.0, -2.0, 1.0, 0, 0, 0, 0])
        out[:, 6] += 0.7
        return out

    torch.testing.assert_close(box3d_iou(moved(a), moved(b)), box3d_iou(a, b), atol=1e-9, rtol=0)
    torch.testing.assert_close(bev_iou(a, b), bev_iou(b, a).T, atol=1e-9, rtol=0)


def test_volume_overlap_of_shifted_boxes():
    a = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0.4]])
    b = a + torch.tensor([[0.0, 0, 1, 0, 0, 0, 0]])
    assert float(box3d_iou(a, b)) == pytest.approx(1 / 3)
    assert float(bev_iou(a, b)) == pytest.approx(1.0)


def test_boxes_without_area_overlap_nothing():
    a = torch.zeros(2, 7)
    assert bev_iou(a, a).tolist() == [[0, 0], [0, 0]]
    assert bev_iou(a[:0], a).shape == (0, 2)


def test_corners_have_the_sizes_as_distances():
    boxes = random_boxes(50, 5)
    corners = box_corners(boxes)
    torch.testing.assert_close(corners.mean(1), boxes[:, :3])
    lengths = torch.stack([(corners[:, i] - corners[:, j]).norm(dim=-1) for i, j in EDGES], 1)
    torch.testing.assert_close(lengths[:, [0, 1, 8]], boxes[:, [3, 4, 5]])
    heading = (corners[:, 0] + corners[:, 3] - corners[:, 1] - corners[:, 2])[:, :2]
    torch.testing.assert_close(torch.atan2(heading[:, 1], heading[:, 0]), wrap_angle(boxes[:, 6]))


def test_corners_have_the_right_gradient():
    box = random_boxes(1, 6).requires_grad_()
    assert torch.autograd.gradcheck(box_corners, (box,))


def test_suppression_equals_a_plain_loop():
    boxes, labels = random_boxes(40, 7, spread=5.0), torch.arange(40) % 2
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for given in (None, labels):
        kept = []
        for i in scores.argsort(descending=True).tolist():
            rivals = [j for j in kept if given is None or given[j] == given[i]]
            if all(float(bev_iou(boxes[i : i + 1], boxes[j : j + 1])) <= 0.2 for j in rivals):
                kept.append(i)
        assert nms_bev(boxes, scores, 0.2, given).tolist() == kept
    assert nms_bev(boxes[:0], scores[:0], 0.2).tolist() == []


def test_points_in_boxes_by_the_box_frame():
    boxes = random_boxes(6, 8)
    inner = box_corners(boxes) * 0.99 + boxes[:, None, :3] * 0.01
    outer = box_corners(boxes) * 1.01 - boxes[:, None, :3] * 0.01
    for i in range(6):
        assert points_in_boxes(inner[i], boxes[i : i + 1]).all()
        assert not points_in_boxes(outer[i], boxes[i : i + 1]).any()


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 6), torch.full((1, 7), torch.nan), torch.tensor([[0.0, 0, 0, -1, 1, 1, 0]])]
)
def test_bad_boxes(bad):
    with pytest.raises(ValueError, match="boxes"):
        check_boxes(bad)
