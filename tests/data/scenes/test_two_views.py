"""Surfaces of a view from sparse points and from depth maps, where the truth is a known plane."""

from __future__ import annotations

import pytest
import torch

from assay.data.scenes.two_views import TwoViews, planes_at, read_picture
from assay.errors import InputError
from assay.geometry.cameras import Camera, homogeneous, intrinsics

DOUBLE = torch.float64


@pytest.fixture
def camera() -> Camera:
    K = intrinsics(200, 160, fov=50, dtype=DOUBLE)
    return Camera(torch.eye(3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE), K, 200, 160)


def on_plane(camera: Camera, pixels: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    """z of the plane mᵀX = 1."""
    return 1 / (homogeneous(camera.normalise(pixels)) @ m)


def test_sparse_points_give_their_plane_in_spite_of_an_outlier(camera):
    g = torch.Generator().manual_seed(0)
    m = torch.tensor([0.1, -0.2, 0.4], dtype=DOUBLE)
    seen = torch.rand(80, 2, generator=g, dtype=DOUBLE) * torch.tensor([200, 160])
    points = camera.unproject(seen, on_plane(camera, seen, m))
    points[7] *= 1.4
    asked = torch.tensor([[100.0, 80], [60, 70]], dtype=DOUBLE)
    asked = torch.cat([asked, seen[7:8]])  # right beside the outlier
    z, n = planes_at(TwoViews(camera, camera, sparse=points, keypoints=seen), asked)
    assert torch.allclose(z[:2], on_plane(camera, asked[:2], m), atol=1e-9)
    assert torch.allclose(n, (m / m.norm()).expand_as(n), atol=1e-9)


def test_what_is_no_plane_has_no_normal(camera):
    g = torch.Generator().manual_seed(0)
    seen = torch.rand(60, 2, generator=g, dtype=DOUBLE) * torch.tensor([200, 160])
    rough = camera.unproject(seen, 1 + 3 * torch.rand(60, generator=g, dtype=DOUBLE))
    z, _ = planes_at(TwoViews(camera, camera, sparse=rough, keypoints=seen), seen[:20])
    assert bool(z.isnan().all())
    line = torch.stack([torch.linspace(10, 190, 60, dtype=DOUBLE), torch.full((60,), 80, dtype=DOUBLE)], -1)
    flat = camera.unproject(line, torch.full((60,), 2.0, dtype=DOUBLE))
    z, _ = planes_at(TwoViews(camera, camera, sparse=flat, keypoints=line), line[:5])
    assert bool(z.isnan().all())
    with pytest.raises(InputError, match="sees 5 3D points; 12 are needed"):
        planes_at(TwoViews(camera, camera, sparse=flat[:5], keypoints=line[:5]), line)


def test_a_depth_map_gives_depth_and_normal(camera):
    m = torch.tensor([0.1, -0.2, 0.4], dtype=DOUBLE)
    depth = on_plane(camera, camera.pixel_centres(), m)
    depth[100, 100] = torch.nan
    asked = torch.tensor([[50.5, 40.5], [100.2, 100.9], [-3.0, 5.0], [3.0, 3.0]], dtype=DOUBLE)
    z, n = planes_at(TwoViews(camera, camera, depth=depth), asked)
    assert z.isnan().tolist() == [False, True, True, True]
    assert float(z[0]) == pytest.approx(float(on_plane(camera, asked[:1], m)))
    assert torch.allclose(n[0], m / m.norm(), atol=1e-9)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_picture(tmp_path / "a.png")
    with pytest.raises(InputError, match="no such picture"):
        read_picture(tmp_path / "b.png")
