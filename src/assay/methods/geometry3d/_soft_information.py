"""Mutual information of two samples of intensities, with Parzen windows, so that it has a gradient."""

from __future__ import annotations

import torch
from torch import Tensor


def mutual_information(a: Tensor, b: Tensor, bins: int = 32) -> Tensor:
    """Mutual information in nats of two samples (N,), counted in `bins` linear windows over each one's range.

    Every value gives weight to the two nearest bins, so that the joint table, and with it the result, is continuous
    in `a` and `b`.

    Raises:
        ValueError: samples of different size, an empty one, or fewer than two bins.
    """
    if a.numel() != b.numel() or a.numel() == 0 or bins < 2:
        raise ValueError(
            f"expected two samples of one size and at least two bins, got {a.numel()}, {b.numel()}, {bins}"
        )
    joint = _windows(a.flatten(), bins).T @ _windows(b.flatten(), bins) / a.numel()
    product = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    tiny = torch.finfo(joint.dtype).tiny
    return (joint * (joint.clamp(min=tiny).log() - product.clamp(min=tiny).log())).sum()


def _windows(values: Tensor, bins: int) -> Tensor:
    """Weights (N, bins) of triangular windows; each row sums to 1."""
    low, high = values.detach().min(), values.detach().max()
    position = (values - low) / (high - low).clamp(min=1e-12) * (bins - 1)
    centres = torch.arange(bins, dtype=values.dtype, device=values.device)
    return (1 - (position[:, None] - centres).abs()).clamp(min=0)
