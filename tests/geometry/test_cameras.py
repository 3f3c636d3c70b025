"""Cameras and lenses: projection against rays, views around a scene, distortion against its inverse."""

from __future__ import annotations

import math

import pytest
import torch

from assay.geometry.cameras import Camera, intrinsics, look_at, relative_pose, sphere_of_views
from assay.geometry.distortion import COLMAP_PARAMETERS, distort, split_parameters, undistort

DOUBLE = torch.float64


@pytest.fixture
def cameras() -> list[Camera]:
    K = torch.tensor([[50.0, 0.3, 31], [0, 48, 25], [0, 0, 1]], dtype=DOUBLE)
    return sphere_of_views(6, K=K, width=64, height=48, radius=2.5, turn=17.0)


def test_projection_inverts_unprojection_and_rays(cameras):
    g = torch.Generator().manual_seed(0)
    for camera in cameras:
        points = 0.5 * torch.randn(50, 3, generator=g, dtype=DOUBLE)
        pixels, depth = camera.project(points)
        assert torch.allclose(camera.unproject(pixels, depth), points)
        origin, directions = camera.rays()
        assert torch.allclose(origin, camera.centre)
        there, z = camera.project(origin + 1.7 * directions)
        assert torch.allclose(there, camera.pixel_centres())
        assert torch.allclose(z, torch.full_like(z, 1.7))
        assert torch.allclose(camera.to_world(camera.to_camera(points)), points)


def test_first_pixel_centre_is_at_a_half(cameras):
    assert cameras[0].pixel_centres()[0, 0].tolist() == [0.5, 0.5]
    assert cameras[0].pixel_centres()[-1, -1].tolist() == [63.5, 47.5]


def test_resized_view_sees_the_same(cameras):
    point = torch.tensor([[0.1, 0.2, -0.1]], dtype=DOUBLE)
    small = cameras[0].resized(32, 12)
    factor = torch.tensor([0.5, 0.25], dtype=DOUBLE)
    assert torch.allclose(small.project(point)[0], cameras[0].project(point)[0] * factor)


def test_look_at_puts_the_target_ahead_and_up_above():
    g = torch.Generator().manual_seed(0)
    eyes, targets = torch.randn(2, 20, 3, generator=g, dtype=DOUBLE)
    R, t = look_at(eyes, targets)
    ahead = (R @ targets[..., None])[..., 0] + t
    assert torch.allclose(ahead[:, :2], torch.zeros(20, 2, dtype=DOUBLE), atol=1e-12)
    assert torch.allclose(ahead[:, 2], (eyes - targets).norm(dim=-1))
    assert torch.allclose(torch.linalg.det(R), torch.ones(20, dtype=DOUBLE))
    above = (R @ (targets + torch.tensor([0, 0, 0.1], dtype=DOUBLE))[..., None])[..., 0] + t
    assert bool((above[:, 1] < 0).all())  # up in the world is up (negative y) in the image
    R, _ = look_at(torch.tensor([0.0, 0, 2]), torch.zeros(3))  # straight down: up is parallel
    assert torch.isfinite(R).all()
    with pytest.raises(ValueError, match="coincide"):
        look_at(torch.zeros(3), torch.zeros(3))


def test_views_lie_on_the_band_and_spread():
    centre = torch.tensor([1.0, 2, 3], dtype=DOUBLE)
    K = intrinsics(32, 32, fov=40, dtype=DOUBLE)
    views = sphere_of_views(200, centre=centre, radius=2.0, K=K, width=32, height=32, elevation=(-30, 60))
    offsets = torch.stack([v.centre for v in views]) - centre
    assert torch.allclose(offsets.norm(dim=-1), torch.full((200,), 2.0, dtype=DOUBLE))
    elevation = torch.rad2deg(torch.asin(offsets[:, 2] / 2))
    assert -30 <= float(elevation.min()) < -27
    assert 57 < float(elevation.max()) <= 60
    assert torch.allclose(views[3].project(centre)[0], torch.full((2,), 16.0, dtype=DOUBLE))
    nearest = (torch.cdist(offsets, offsets) + 9 * torch.eye(200, dtype=DOUBLE)).amin(1)
    assert float(nearest.min()) > 0.4 * float(nearest.max())


def test_relative_pose_maps_between_camera_axes(cameras):
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    R, t = relative_pose(cameras[0], cameras[3])
    assert torch.allclose(cameras[0].to_camera(points) @ R.T + t, cameras[3].to_camera(points))


def test_a_field_of_view_is_what_it_says():
    K = intrinsics(100, 80, fov=90)
    assert float(K[0, 0]) == pytest.approx(50)
    with pytest.raises(ValueError, match="exactly one"):
        intrinsics(10, 10)
    with pytest.raises(ValueError, match="180"):
        intrinsics(10, 10, fov=180)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": 2 * torch.eye(3)}, "not a rotation"),
        ({"R": torch.diag(torch.tensor([1.0, 1, -1]))}, "not a rotation"),
        ({"t": torch.zeros(2)}, r"t \(2,\)"),
        ({"width": 0}, "0x4"),
        ({"K": -torch.eye(3)}, "positive"),
    ],
)
def test_bad_cameras_are_named(change, message):
    good = {"R": torch.eye(3), "t": torch.zeros(3), "K": torch.eye(3), "width": 4, "height": 4}
    with pytest.raises(ValueError, match=message):
        Camera(**(good | change))


LENSES = [
    ("radtan", {"k1": -0.28, "k2": 0.07, "p1": 2e-4, "p2": -1e-4}),
    ("radtan", {"k1": 0.3, "k2": 0.1, "k3": 0.01, "k4": 0.2, "k5": 0.05, "k6": 0.01}),
    ("equidistant", {"k1": 0.01, "k2": -0.003, "k3": 0.002}),
]


@pytest.mark.parametrize(("kind", "coefficients"), LENSES)
def test_undistort_inverts_distort(kind, coefficients):
    x = torch.linspace(-0.7, 0.7, 9, dtype=DOUBLE)
    points = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)
    assert torch.allclose(undistort(distort(points, kind, coefficients), kind, coefficients), points, atol=1e-9)


def test_equidistant_maps_the_angle():
    points = torch.tensor([[math.tan(0.8), 0.0], [0.0, 0.0]], dtype=DOUBLE)
    assert torch.allclose(distort(points, "equidistant", {}), torch.tensor([[0.8, 0.0], [0.0, 0.0]], dtype=DOUBLE))


def test_models_are_split_by_name():
    lens = split_parameters("OPENCV", [500, 510, 320, 240, 0.1, 0.2, 0.01, 0.02])
    assert lens.kind == "radtan"
    assert lens.K[1].tolist() == [0, 510, 240]
    assert lens.coefficients == {"k1": 0.1, "k2": 0.2, "p1": 0.01, "p2": 0.02}
    assert split_parameters("SIMPLE_RADIAL", [500, 3, 2, 0.0]).kind == "pinhole"
    assert split_parameters("OPENCV_FISHEYE", [5, 5, 3, 2, 0, 0, 0, 0]).kind == "equidistant"
    assert set(COLMAP_PARAMETERS) > {"PINHOLE", "FOV", "THIN_PRISM_FISHEYE"}
    with pytest.raises(ValueError, match="known: SIMPLE_PINHOLE"):
        split_parameters("PINHOLE8", [1])
    with pytest.raises(ValueError, match="undistort"):
        distort(torch.zeros(2), "FOV", {"omega": 1.0})
