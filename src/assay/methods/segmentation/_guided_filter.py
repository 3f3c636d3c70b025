"""Guided image filter.

Source: He, Sun and Tang 2013; used here for 2602.06912
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def guided_filter(guide: Tensor, values: Tensor, radius: int, epsilon: float = 1e-3) -> Tensor:
    """Values smoothed so that their edges follow the guide's.

        q = mean(a) I + mean(b),   a = cov(I, p) / (var(I) + epsilon),   b = mean(p) - a mean(I)

    with all means over windows of 2 radius + 1 pixels, cut off at the border.

    Args:
        guide: I `(H, W)`, grey values, usually in [0, 1].
        values: p `(H, W)`.
        radius: of a window in pixels.
        epsilon: variance of the guide below which it counts as flat.

    Raises:
        ValueError: shapes that differ, a radius below 1 or an epsilon that is not positive.
    """
    if guide.ndim != 2 or guide.shape != values.shape:
        raise ValueError(f"guide and values must be (H, W) alike, got {tuple(guide.shape)} and {tuple(values.shape)}")
    if radius < 1 or not epsilon > 0:
        raise ValueError(f"expected a radius of at least 1 and a positive epsilon, got {radius} and {epsilon}")

    def mean(x: Tensor) -> Tensor:
        side = 2 * radius + 1
        wide = F.avg_pool2d(x[None, None], (1, side), 1, (0, radius), count_include_pad=False)
        return F.avg_pool2d(wide, (side, 1), 1, (radius, 0), count_include_pad=False)[0, 0]

    guide = guide.to(values)
    mean_guide, mean_values = mean(guide), mean(values)
    slope = (mean(guide * values) - mean_guide * mean_values) / (mean(guide * guide) - mean_guide**2 + epsilon)
    return mean(slope) * guide + mean(mean_values - slope * mean_guide)
