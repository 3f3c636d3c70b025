"""Whether the pixels that a map ranks high are those that the model's score depends on.

Source: insertion and deletion of RISE (1806.07421)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Score = Callable[[Tensor, Tensor], Tensor]


@torch.no_grad()
def perturbation_curve(
    score: Score,
    images: Tensor,
    maps: Tensor,
    *,
    mode: Literal["deletion", "insertion"] = "deletion",
    fill: Tensor | None = None,
    steps: int = 16,
    batch: int = 256,
) -> Tensor:
    """Score while the pixels are replaced from the highest of the map down.

    Deletion starts from the image and ends with the fill; insertion goes the other way. Pixels of equal value go in
    reading order.

    Args:
        score: `score(images (M, C, H, W), rows (M,)) -> (M,)`; `rows` says which of the N images each is made from.
        images: (N, C, H, W).
        maps: (N, H, W).
        fill: (N, C, H, W), or what broadcasts to it; the mean colour of each image when None.
        steps: equal portions of pixels; the curve has `steps + 1` points.
        batch: images scored at once.

    Returns:
        (N, steps + 1).

    Raises:
        ValueError: shapes differ, or fewer than one step.
    """
    count, _, height, width = images.shape
    if maps.shape != (count, height, width) or steps < 1:
        raise ValueError(f"maps must be {(count, height, width)} and steps positive, got {tuple(maps.shape)}, {steps}")
    fill = images.mean(dim=(2, 3), keepdim=True) if fill is None else fill
    fill = fill.expand_as(images)
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(height * width).to(order).expand_as(order))
    rank = rank.view(count, 1, height, width)
    start, end = (images, fill) if mode == "deletion" else (fill, images)
    rows = torch.arange(count, device=images.device)
    curve = []
    for step in range(steps + 1):
        replaced = rank < round(step * height * width / steps)
        mixed = torch.where(replaced, end, start)
        parts = [score(x, r) for x, r in zip(mixed.split(batch), rows.split(batch), strict=True)]
        curve.append(torch.cat(parts))
    return torch.stack(curve, dim=1)


def area_under(curve: Tensor) -> Tensor:
    """Mean height of curves (N, S + 1) by the trapezoid rule, (N,)."""
    return torch.trapezoid(curve, dim=1) / (curve.shape[1] - 1)
