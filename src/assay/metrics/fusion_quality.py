"""How much of the edges of several source pictures a fused picture keeps; needs no truth.

Source: Xydeas and Petrovic, Objective image fusion performance measure, Electronics Letters 36(4), 2000
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def edge_preservation(sources: Tensor, fused: Tensor) -> Tensor:
    """Q^{AB/F}: preservation of gradient strength and direction, weighted by each source's gradient strength.

        Q = sum_n sum_x Q_n(x) |g_n(x)| / sum_n sum_x |g_n(x)|

    where Q_n is the product of two sigmoids, of the ratio of strengths and of the closeness of directions.

    Args:
        sources: `(N, H, W)` grey, in [0, 1].
        fused: `(H, W)`.

    Returns:
        from 0 to about 0.98, which a copy of the only source reaches.

    Raises:
        ValueError: other shapes, or pictures without any gradient.
    """
    if sources.ndim != 3 or fused.shape != sources.shape[1:]:
        raise ValueError(
            f"need sources (N, H, W) and a picture (H, W), got {tuple(sources.shape)}, {tuple(fused.shape)}"
        )
    strength, angle = _gradient(sources)
    fused_strength, fused_angle = _gradient(fused[None])
    larger = torch.maximum(strength, fused_strength)
    kept = torch.where(larger > 0, torch.minimum(strength, fused_strength) / larger.clamp(min=1e-12), 1.0)
    turned = 1 - (angle - fused_angle).abs() / (math.pi / 2)
    quality = 0.9994 / (1 + torch.exp(-15 * (kept - 0.5))) * 0.9879 / (1 + torch.exp(-22 * (turned - 0.8)))
    if not strength.sum() > 0:
        raise ValueError("the sources have no edges at all")
    return (quality * strength).sum() / strength.sum()


def _gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel strength, and direction of the edge in (-pi/2, pi/2]."""
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=x.dtype, device=x.device)
    padded = F.pad(x[:, None], (1, 1, 1, 1), mode="replicate")
    gx, gy = F.conv2d(padded, sobel[None, None])[:, 0], F.conv2d(padded, sobel.T[None, None])[:, 0]
    return (gx**2 + gy**2).sqrt(), torch.atan(gy / torch.where(gx == 0, torch.full_like(gx, 1e-12), gx))
