"""How alike two images are: PSNR, SSIM, ZNCC, SSD. Batched and differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(image: Tensor, reference: Tensor, *, peak: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio in dB, `10 log10(peak² / MSE)`.

    Args:
        image, reference: `(..., C, H, W)`.
        peak: largest value an image can have.

    Returns:
        `(...)`; infinite where the images are equal.

    Raises:
        ValueError: the shapes differ or have fewer than three axes.
    """
    _same_shape(image, reference, 3)
    error = (image - reference).square().mean((-3, -2, -1))
    return 10 * torch.log10(peak**2 / error)


def ssim(
    image: Tensor,
    reference: Tensor,
    *,
    peak: float = 1.0,
    window: int = 11,
    sigma: float | None = 1.5,
    full: bool = False,
) -> Tensor:
    """Structural similarity, the mean over channels and over all windows that lie inside the image.

    Args:
        image, reference: `(..., C, H, W)`.
        peak: largest value an image can have.
        window: side of the window in pixels, odd.
        sigma: width of a Gaussian window in pixels (Wang et al. 2004); None for a uniform one.
        full: return the map `(..., C, H - window + 1, W - window + 1)` and not its mean.

    Returns:
        `(...)`, at most 1, which equal images reach.

    Raises:
        ValueError: shapes that differ, an even window, or one larger than the image.
    """
    _same_shape(image, reference, 3)
    height, width = image.shape[-2:]
    if window % 2 == 0 or window > min(height, width):
        raise ValueError(f"ssim: the window must be odd and fit a {height}x{width} image; got {window}")
    place = torch.arange(window, dtype=image.dtype, device=image.device) - window // 2
    weights = torch.ones_like(place) if sigma is None else torch.exp(-0.5 * (place / sigma) ** 2)
    weights = weights / weights.sum()

    def blur(x: Tensor) -> Tensor:
        x = x.reshape(-1, 1, height, width)
        x = F.conv2d(F.conv2d(x, weights.reshape(1, 1, -1, 1)), weights.reshape(1, 1, 1, -1))
        return x.reshape(*image.shape[:-2], *x.shape[-2:])

    mean_x, mean_y = blur(image), blur(reference)
    var_x = blur(image * image) - mean_x**2
    var_y = blur(reference * reference) - mean_y**2
    covariance = blur(image * reference) - mean_x * mean_y
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return similarity if full else similarity.mean((-3, -2, -1))


def zncc(first: Tensor, second: Tensor, *, eps: float = 1e-12) -> Tensor:
    """Zero-mean normalised cross-correlation of patches, blind to gain and offset of brightness.

    Args:
        first, second: `(..., H, W)`.
        eps: added to the product of variances; a patch without texture then gives 0.

    Returns:
        `(...)` from -1 to 1.

    Raises:
        ValueError: the shapes differ or have fewer than two axes.
    """
    _same_shape(first, second, 2)
    a = first - first.mean((-2, -1), keepdim=True)
    b = second - second.mean((-2, -1), keepdim=True)
    return (a * b).mean((-2, -1)) / (a.square().mean((-2, -1)) * b.square().mean((-2, -1)) + eps).sqrt()


def ssd(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of patches `(..., H, W)`, `(...)`.

    Raises:
        ValueError: the shapes differ or have fewer than two axes.
    """
    _same_shape(first, second, 2)
    return (first - second).square().mean((-2, -1))


def _same_shape(a: Tensor, b: Tensor, axes: int) -> None:
    if a.shape != b.shape or a.ndim < axes:
        raise ValueError(
            f"need two images of one shape with at least {axes} axes; got {tuple(a.shape)}, {tuple(b.shape)}"
        )
