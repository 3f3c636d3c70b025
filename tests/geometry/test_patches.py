"""Patches sampled under affine maps, against SciPy's interpolation."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from assay.geometry.patches import patch_offsets, sample, warp_patch


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_pixel_centres_give_the_pixels(image):
    patch = warp_patch(image, torch.tensor([10.5, 8.5], dtype=torch.float64), torch.eye(2, dtype=torch.float64), 5)
    assert torch.allclose(patch, image[:, 6:11, 8:13])


def test_interpolation_is_that_of_scipy(image):
    A = torch.tensor([[0.9, 0.3], [-0.2, 1.1]], dtype=torch.float64)
    centre = torch.tensor([[14.3, 9.1], [12.0, 10.0]], dtype=torch.float64)
    patch = warp_patch(image, centre, A, 7)
    assert patch.shape == (2, 2, 7, 7)
    where = centre[:, None, None] + patch_offsets(7, A) @ A.T
    for point in range(2):
        coordinates = where[point].flip(-1).permute(2, 0, 1).numpy() - 0.5  # rows, columns, counted from pixel centres
        for channel in range(2):
            expected = ndimage.map_coordinates(image[channel].numpy(), coordinates, order=1, mode="nearest")
            assert torch.allclose(patch[point, channel], torch.from_numpy(expected))


def test_a_linear_ramp_is_exact_whatever_the_map():
    ramp = (torch.arange(40.0) + 0.5).expand(1, 30, 40).double()
    A = torch.tensor([[1.2, 0.4], [0.1, 0.8]], dtype=torch.float64)
    centre = torch.tensor([20.2, 15.0], dtype=torch.float64)
    expected = centre[0] + (patch_offsets(9, A) @ A.T)[..., 0]
    assert torch.allclose(warp_patch(ramp, centre, A, 9)[0], expected)


def test_beyond_the_edge_the_image_goes_on(image):
    outside = sample(image, torch.tensor([[[-5.0, 0.5]]], dtype=torch.float64))
    assert torch.allclose(outside[:, 0, 0], image[:, 0, 0])


def test_gradients_reach_the_map(image):
    A = torch.tensor([[0.93, 0.31], [-0.22, 1.07]], dtype=torch.float64, requires_grad=True)
    centre = torch.tensor([14.3, 9.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, a: warp_patch(image, c, a, 3), (centre, A), eps=1e-7)
