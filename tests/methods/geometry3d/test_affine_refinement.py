"""Refinement of a match on ray-cast planes, whose normals and depths are known."""

from __future__ import annotations

import math

import pytest
import torch

from assay.data.scenes.ray_cast import Rectangle, Scene, Texture, photo
from assay.geometry.cameras import Camera, homogeneous, intrinsics, look_at, relative_pose
from assay.methods.geometry3d.affine_cameras import affine_between, affine_from_homography
from assay.methods.geometry3d.affine_refinement import _Lifted, refine_match

DOUBLE = torch.float64


@pytest.fixture(scope="module")
def pair():
    """Two views of a tilted photo: images, cameras, and points with their normals and depths."""
    K = intrinsics(160, 120, fov=45, dtype=DOUBLE)
    cameras = []
    for eye in ([0.0, -1.0, 2.6], [0.9, -0.7, 2.4]):
        R, t = look_at(torch.tensor(eye, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE))
        cameras.append(Camera(R, t, K, 160, 120))
    scene = Scene([Rectangle(torch.zeros(3), torch.tensor([2.0, 2, 1]), paint=Texture(photo("coffee", 400), 2.0))])
    views = [scene.render(camera, 3) for camera in cameras]
    rows, columns = torch.meshgrid(torch.arange(40, 90, 12), torch.arange(50, 120, 12), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    p1 = cameras[0].pixel_centres()[rows, columns]
    n = -(views[0].normal[rows, columns] @ cameras[0].R.T)
    R, t = relative_pose(*cameras)
    return [v.image.mean(-1) for v in views], p1, R, t, K, n, views[0].depth[rows, columns]


def turned(n: torch.Tensor, degrees: float, seed: int = 0) -> torch.Tensor:
    side = torch.linalg.cross(n, torch.randn(n.shape, generator=torch.Generator().manual_seed(seed), dtype=n.dtype))
    side = side / side.norm(dim=-1, keepdim=True)
    return math.cos(math.radians(degrees)) * n + math.sin(math.radians(degrees)) * side


def angles(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.rad2deg(torch.acos((a * b).sum(-1).clamp(-1, 1)))


def test_wrong_normals_and_depths_are_mended(pair):
    (image1, image2), p1, R, t, K, n, depth = pair
    found = refine_match(image1, image2, p1, R, t, K, K, turned(n, 20), 1.01 * depth, iterations=25)
    assert float(angles(found.n, n).median()) < 2
    assert float((angles(found.n, n) < 5).double().mean()) > 0.8
    assert float((found.depth / depth - 1).abs().median()) < 2e-3  # from 1e-2; a tenth of a pixel is about 1e-3
    assert bool((found.zncc[:, 1] >= found.zncc[:, 0]).all())
    assert float(found.zncc[:, 1].median()) > 0.98
    ok = angles(found.n, n) < 2
    truth = affine_between(R, t, p1, n, depth=depth, K1=K, K2=K)
    assert torch.allclose(found.p2[ok], truth.p2[ok], atol=0.3)
    again = affine_between(R, t, p1, found.n, found.d, K1=K, K2=K)
    assert torch.allclose(found.A, again.A, atol=1e-9)


def test_a_free_point_absorbs_an_error_of_the_pose(pair):
    (image1, image2), p1, R, t, K, n, depth = pair
    wrong = K.clone()
    wrong[1, 2] += 1.5  # the second camera's rows are off: p2 leaves the epipolar line
    tied = refine_match(image1, image2, p1, R, t, K, wrong, turned(n, 10), depth)
    free = refine_match(image1, image2, p1, R, t, K, wrong, turned(n, 10), depth, free_point=True)
    assert float(free.zncc[:, 1].median()) > float(tied.zncc[:, 1].median())
    truth = affine_between(R, t, p1, n, depth=depth, K1=K, K2=K)
    assert float((free.p2 - truth.p2).norm(dim=-1).median()) < 0.2


@pytest.mark.parametrize("free", [False, True])
def test_derivatives_are_those_of_the_warp(pair, free):
    (_, image2), p1, R, t, K, n, depth = pair
    q = (p1 - K[:2, 2]) @ torch.linalg.inv(K[:2, :2]).T
    lifted = _Lifted(R, t / depth[:, None], q, K, K, torch.zeros(1, 1, 2, dtype=DOUBLE), image2)
    m = n / (n * homogeneous(q)).sum(-1, keepdim=True)
    unknowns = torch.cat([m, q + 0.01], -1) if free else m
    _, _, A, dp2, dA = lifted.warp(unknowns)
    if not free:
        H = R + (t / depth[:, None])[:, :, None] * m[:, None, :]
        assert torch.allclose(A, affine_from_homography(H, q).A)
    for k in range(unknowns.shape[1]):
        step = torch.zeros_like(unknowns)
        step[:, k] = 1e-6
        ahead, behind = lifted.warp(unknowns + step), lifted.warp(unknowns - step)
        assert torch.allclose((ahead[1] - behind[1]) / 2e-6, dp2[..., k], atol=1e-8)
        assert torch.allclose((ahead[2] - behind[2]) / 2e-6, dA[..., k], atol=1e-8)


def test_brightness_does_not_matter(pair):
    (image1, image2), p1, R, t, K, n, depth = pair
    plain = refine_match(image1, image2, p1, R, t, K, K, turned(n, 10), depth)
    dimmed = refine_match(image1, 0.5 * image2 + 0.2, p1, R, t, K, K, turned(n, 10), depth)
    assert torch.allclose(plain.n, dimmed.n, atol=1e-6)


def test_without_baseline_nothing_can_be_found(pair):
    (image1, image2), p1, R, _, K, n, depth = pair
    with pytest.raises(ValueError, match="no baseline"):
        refine_match(image1, image2, p1, R, torch.zeros(3, dtype=DOUBLE), K, K, n, depth)
