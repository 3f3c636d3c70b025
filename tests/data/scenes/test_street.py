"""The street simulator: exact ranges, consistent truth, corruptions."""

import math

import numpy as np
import pytest
import torch

from assay.data.scenes import street as s
from assay.geometry.boxes3d import points_in_boxes
from assay.geometry.lidar_camera import Calibration, project_boxes
from assay.metrics.boxes import box_iou

CLEAN = s.Lidar(noise=0.0, dropout=0.0)


def only(solid):
    return s.Street([solid], np.zeros((1, 7)), np.array([0]), np.array([solid.owner]), 3)


def test_points_lie_on_the_analytic_surfaces():
    ball = s.Solid("sphere", (10.0, 1.0, 1.5), (1.0, 1.0, 1.0), reflectivity=1.0)
    scan = s.scan_street(only(ball), CLEAN)
    on = scan.points[scan.owners == 0][:, :3]
    assert len(on) > 100
    np.testing.assert_allclose(np.linalg.norm(on - ball.centre, axis=1), 1.0, atol=1e-5)
    pole = s.Solid("cylinder", (8.0, -2.0, 1.0), (0.4, 0.4, 1.2), reflectivity=1.0)
    on = s.scan_street(only(pole), CLEAN)
    on = on.points[on.owners == 0][:, :3]
    side = np.isclose(np.hypot(on[:, 0] - 8, on[:, 1] + 2), 0.4, atol=1e-5)
    top = np.isclose(on[:, 2], 1.6, atol=1e-5)
    assert bool((side | top).all())
    assert side.sum() > 20
    yaw = 0.6
    box = s.Solid("box", (12.0, 2.0, 1.0), (3.0, 1.5, 1.4), yaw, reflectivity=1.0)
    on = s.scan_street(only(box), CLEAN)
    local = on.points[on.owners == 0][:, :3] - np.array(box.centre)
    turn = np.array([[math.cos(yaw), math.sin(yaw), 0], [-math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    scaled = np.abs(local @ turn.T) / (np.array(box.size) / 2)
    np.testing.assert_allclose(scaled.max(1), 1.0, atol=1e-4)


def test_the_road_is_flat_but_rough():
    empty = s.Street([], np.zeros((0, 7)), np.zeros(0, int), np.zeros(0, int), 1)
    z = s.scan_street(empty, CLEAN).points[:, 2]
    assert abs(z.mean()) < 0.005
    assert z.std() == pytest.approx(0.03, rel=0.1)


def test_labelled_boxes_hold_the_points_of_their_objects():
    for seed in range(4):
        street = s.make_street(seed)
        scan = s.scan_street(street, CLEAN)
        inside = points_in_boxes(torch.from_numpy(scan.points).double(), torch.from_numpy(street.boxes) * torch.tensor(
            [1, 1, 1, 1.02, 1.02, 1.02, 1]))  # fmt: skip
        for i, owner in enumerate(street.owners):
            assert bool(inside[scan.owners == owner, i].all())
        clutter = (scan.owners >= 0) & ~np.isin(scan.owners, street.owners)
        assert not bool(inside[clutter].any())


def test_outlines_lie_within_projected_boxes_and_fill_most_of_them():
    P, T = s.StreetCamera().matrices()
    calib = Calibration(torch.from_numpy(P), torch.from_numpy(T), (96, 320))
    overlaps = []
    for seed in range(6):
        street = s.make_street(seed)
        view = s.photograph(street)
        rects, seen = project_boxes(torch.from_numpy(street.boxes), calib)
        large = seen.numpy() & ((view.rects[:, 2:] - view.rects[:, :2]).min(1) > 5)
        outline = view.rects[large]
        assert bool((outline[:, :2] >= rects[large][:, :2].numpy() - 1).all())
        assert bool((outline[:, 2:] <= rects[large][:, 2:].numpy() + 1).all())
        overlaps += box_iou(torch.from_numpy(outline), rects[large], paired=True).tolist()
        assert bool(((view.visible >= 0) & (view.visible <= 1)).all())
    assert np.median(overlaps) > 0.7


def test_same_seed_same_street_and_sensors():
    a, b = s.make_street(5), s.make_street(5)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(s.scan_street(a).points, s.scan_street(b).points)
    np.testing.assert_array_equal(s.photograph(a).image, s.photograph(b).image)
    assert a.boxes.shape != s.make_street(6).boxes.shape or not np.allclose(a.boxes, s.make_street(6).boxes)


def test_objects_do_not_touch():
    from assay.geometry.boxes3d import bev_iou

    for seed in range(10):
        boxes = torch.from_numpy(s.make_street(seed).boxes)
        assert float((bev_iou(boxes, boxes) - torch.eye(len(boxes))).abs().max()) < 1e-9 if len(boxes) else True


def test_range_noise_dropout_and_beams():
    street = s.make_street(1)
    clean, noisy = s.scan_street(street, CLEAN), s.scan_street(street, s.Lidar(dropout=0.9))
    assert len(noisy.points) < len(clean.points)
    far = np.linalg.norm(noisy.points[:, :2], axis=1).mean()
    assert far < np.linalg.norm(clean.points[:, :2], axis=1).mean()
    thin = s.scan_street(street, s.fewer_beams(s.Lidar(), 16, lower=0.4))
    assert len(thin.points) == pytest.approx(len(s.scan_street(street).points) / 4, rel=0.2)


def test_corruptions():
    rng = np.random.default_rng(0)
    street = s.make_street(2)
    view, scan = s.photograph(street), s.scan_street(street)
    night = s.at_night(view.image, rng)
    assert night.shape == view.image.shape
    signal = np.corrcoef(night.ravel(), view.image.ravel())[0, 1]
    assert signal < np.corrcoef(s.at_night(view.image, rng, noise=0.001).ravel(), view.image.ravel())[0, 1]
    pale, left = s.in_fog(view.image, scan.points, rng)
    assert pale.std() < view.image.std()
    assert 0 < len(left) < len(scan.points)
    T = s.StreetCamera().matrices()[1]
    point = np.array([10.0, 0, 1, 1])
    turned = s.jittered(T, yaw=2.0) @ point
    assert math.degrees(math.atan2(-turned[0], turned[2])) == pytest.approx(2.0 * 10 / 9.8, rel=0.01)


@pytest.mark.parametrize("bad", [{"counts": (1, 2)}, {"distance": (9.0, 5.0)}, {"sector": 0.0}])
def test_bad_streets(bad):
    with pytest.raises(ValueError, match="make_street"):
        s.make_street(0, **bad)
    with pytest.raises(ValueError, match="lidar"):
        s.Lidar(beams=0)
