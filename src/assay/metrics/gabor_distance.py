"""How different two pictures look: distance of local Gabor energies over a pyramid, with filters fixed by a seed.

A stand-in for learnt perceptual distances where no trained network is at hand: like them it compares the strength of
local structure and not the place of every edge, but it has not been fitted to what people see.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-3  # energy of a filter's answer that is hardly seen: of noise of 1.3 % in each of three channels


def gabor_distance(
    image: Tensor,
    reference: Tensor,
    *,
    levels: int = 3,
    filters: int = 12,
    pool: int = 7,
    seed: int = 0,
    full: bool = False,
) -> Tensor:
    """Distance of Gabor energies, from 0 (equal) to 1 (structure on one side only).

    At each level of the pyramid, and for each of the colour channels, amplitudes A_k of random Gabor pairs (even and
    odd part) are compared, energies A_k^2 being first averaged over a small window:
    `d = sum_k (A_k - B_k)^2 / (sum_k A_k^2 + B_k^2 + c)`. Levels count alike.

    Args:
        image, reference: `(B, C, H, W)` in [0, 1].
        levels: of the pyramid; each halves the resolution.
        filters: random pairs; wavelengths from 2.5 to 6 pixels, any direction.
        pool: side of that window in pixels, odd; 1 compares pixel by pixel, so that structure out of place costs more.
        seed: of the filters.
        full: return the map `(B, H, W)` and not its mean.

    Returns:
        `(B,)`.

    Raises:
        ValueError: other shapes, an even window, or a picture that is too small for the levels.
    """
    if image.shape != reference.shape or image.ndim != 4:
        raise ValueError(f"need two batches (B, C, H, W) alike, got {tuple(image.shape)} and {tuple(reference.shape)}")
    if pool % 2 == 0:
        raise ValueError(f"the window must be odd, got {pool}")
    height, width = image.shape[-2:]
    if min(height, width) < 8 * 2 ** (levels - 1):
        raise ValueError(f"{height}x{width} pixels are too few for {levels} levels; each needs 8 pixels a side")
    total = torch.zeros_like(image[:, 0])
    a, b = image, reference
    for level in range(levels):
        if level:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        energy_a, energy_b = (_energies(x, filters, seed, pool) for x in (a, b))
        apart = (energy_a.sqrt() - energy_b.sqrt()).square().sum(1)
        scale = (energy_a + energy_b).sum(1) + FLOOR * filters
        d = apart / scale
        total = total + (d if level == 0 else F.interpolate(d[:, None], (height, width), mode="bilinear")[:, 0])
    total = total / levels
    return total if full else total.mean((-2, -1))


def _energies(x: Tensor, filters: int, seed: int, pool: int) -> Tensor:
    """Squared amplitudes, summed over colour channels: `(B, K, H, W)`."""
    bank = _bank(filters, seed).to(x)
    batch, channels, height, width = x.shape
    flat = F.pad(x.reshape(batch * channels, 1, height, width), (4, 4, 4, 4), mode="reflect")
    answers = F.conv2d(flat, bank).unflatten(0, (batch, channels))
    even, odd = answers.chunk(2, dim=2)
    energy = (even.square() + odd.square() + 1e-12).sum(1)
    return F.avg_pool2d(energy, pool, 1, pool // 2, count_include_pad=False) if pool > 1 else energy


@lru_cache(maxsize=4)
def _bank(filters: int, seed: int) -> Tensor:
    """Even parts, then odd parts, `(2 K, 1, 9, 9)`: no answer to a flat picture, unit norm."""
    g = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(filters, generator=g)
    wavelength = 2.5 * (6 / 2.5) ** torch.rand(filters, generator=g)
    y, x = torch.meshgrid(torch.arange(-4.0, 5), torch.arange(-4.0, 5), indexing="ij")
    along = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    window = torch.exp(-(x**2 + y**2) / (2 * 1.8**2))
    phase = 2 * math.pi * along / wavelength[:, None, None]
    bank = torch.cat([phase.cos(), phase.sin()])
    bank = (bank - (bank * window).sum((1, 2), keepdim=True) / window.sum()) * window
    return (bank / bank.norm(dim=(1, 2), keepdim=True))[:, None]
