"""Fields in voxels: sampling against SciPy, composing, upsampling and folding against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from scipy.ndimage import map_coordinates

from assay.geometry.warp import compose, identity_grid, jacobian_determinant, rigid_field, sample, upsample_field, warp


def test_sampling_equals_scipy() -> None:
    rng = np.random.default_rng(0)
    volume, points = rng.normal(size=(6, 7, 9)), rng.uniform(-1, 9, (3, 5, 4, 3))
    for mode, order in (("bilinear", 1), ("nearest", 0)):
        ours = sample(torch.from_numpy(volume)[None, None], torch.from_numpy(points)[None], mode)[0, 0]
        theirs = map_coordinates(volume, points, order=order, mode="nearest")
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)
    shifted = warp(torch.from_numpy(volume)[None, None], torch.full((1, 3, 6, 7, 9), 2.0).double(), padding="zeros")
    torch.testing.assert_close(shifted[0, 0, :4, :5, :7], torch.from_numpy(volume)[2:, 2:, 2:])
    assert float(shifted[0, 0, 5].abs().max()) == 0.0


def test_composing_rigid_motions_is_their_product() -> None:
    a = math.radians(8)
    A = torch.eye(4, dtype=torch.float64)
    A[:2, :2] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    A[:3, 3] = torch.tensor([0.5, 1.0, -0.7])
    B = torch.eye(4, dtype=torch.float64)
    B[:3, 3] = torch.tensor([-1.0, 0.3, 0.4])
    shape = (20, 20, 20)
    like = torch.zeros(1, dtype=torch.float64)
    both = compose(rigid_field(A, shape, like), rigid_field(B, shape, like))
    inside = (slice(None), slice(None), *[slice(6, 14)] * 3)
    torch.testing.assert_close(both[inside], rigid_field(B @ A, shape, like)[inside], atol=1e-10, rtol=0)


def test_upsampling_keeps_a_linear_field() -> None:
    shape, stride = (24, 20, 28), 4
    slope = torch.tensor([0.1, -0.2, 0.05]).view(3, 1, 1, 1)
    pooled = [-(-n // stride) for n in shape]
    centres = identity_grid(pooled) * stride + (stride - 1) / 2
    full = upsample_field((slope * centres)[None] / stride, stride, shape)
    inner = (slice(None), slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(full[0][inner], (slope * identity_grid(shape))[inner], atol=1e-5, rtol=1e-5)


def test_determinant_of_known_fields() -> None:
    grid = identity_grid((6, 7, 8), torch.zeros(1, dtype=torch.float64))
    shear = torch.tensor([[0.2, 0.1, 0.0], [0.0, -0.3, 0.4], [0.1, 0.0, 0.5]], dtype=torch.float64)
    u = torch.einsum("ij,jhwd->ihwd", shear, grid)[None]
    expected = torch.linalg.det(torch.eye(3, dtype=torch.float64) + shear)
    torch.testing.assert_close(jacobian_determinant(u), expected.expand(1, 6, 7, 8))
    folded = torch.zeros(1, 3, 6, 7, 8)
    folded[0, 0] = -2 * grid[0].float()
    assert bool((jacobian_determinant(folded) < 0).all())


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="volume"):
        sample(torch.zeros(1, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="field"):
        jacobian_determinant(torch.zeros(1, 2, 4, 4, 4))
