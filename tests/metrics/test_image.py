"""Image measures against scikit-image and NumPy, their invariances and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage import data, metrics, util

from assay.metrics.image import psnr, ssd, ssim, zncc


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    clean = util.img_as_float(data.astronaut()[100:164, 200:280])
    noisy = np.clip(clean + 0.05 * np.random.default_rng(0).standard_normal(clean.shape), 0, 1)
    return torch.from_numpy(clean.transpose(2, 0, 1).copy()), torch.from_numpy(noisy.transpose(2, 0, 1).copy())


def test_psnr_is_that_of_skimage(pair):
    clean, noisy = pair
    expected = metrics.peak_signal_noise_ratio(clean.numpy(), noisy.numpy(), data_range=1)
    assert float(psnr(noisy, clean)) == pytest.approx(expected)
    assert float(psnr(noisy * 255, clean * 255, peak=255)) == pytest.approx(expected)
    assert float(psnr(clean, clean)) == math.inf


@pytest.mark.parametrize(("window", "sigma"), [(11, 1.5), (7, None)])
def test_ssim_is_that_of_skimage(pair, window, sigma):
    clean, noisy = pair
    gaussian = {"gaussian_weights": True, "sigma": sigma} if sigma else {"win_size": window}
    expected = metrics.structural_similarity(
        clean.numpy(), noisy.numpy(), data_range=1, channel_axis=0, use_sample_covariance=False, **gaussian
    )
    assert float(ssim(noisy, clean, window=window, sigma=sigma)) == pytest.approx(expected, abs=1e-9)
    assert float(ssim(clean, clean)) == pytest.approx(1)


def test_zncc_is_the_correlation_and_blind_to_brightness(pair):
    a, b = pair[0][0], pair[1][0]
    assert float(zncc(a, b)) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1], abs=1e-9)
    assert float(zncc(3 * a + 0.2, b)) == pytest.approx(float(zncc(a, b)), abs=1e-9)
    assert float(zncc(a, -a)) == pytest.approx(-1)
    assert float(zncc(torch.ones(5, 5), torch.rand(5, 5))) == 0


def test_batches_equal_single_images(pair):
    clean, noisy = pair
    first, second = torch.stack([clean, noisy]), torch.stack([noisy, noisy * 0.5])
    for measure in (psnr, ssim, zncc, ssd):
        together = measure(first, second)
        for i in range(2):
            assert torch.allclose(together[i], measure(first[i], second[i]))


def test_gradients():
    g = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 1, 9, 9, generator=g, dtype=torch.float64)
    a.requires_grad_()
    for measure in (psnr, lambda x, y: ssim(x, y, window=5), zncc, ssd):
        assert torch.autograd.gradcheck(measure, (a, b))


def test_bad_input_is_named(pair):
    clean, _ = pair
    with pytest.raises(ValueError, match="one shape"):
        psnr(clean, clean[:, 1:])
    with pytest.raises(ValueError, match="odd"):
        ssim(clean, clean, window=8)
    with pytest.raises(ValueError, match="fit a 64x80"):
        ssim(clean, clean, window=65)
