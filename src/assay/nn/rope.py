"""Rotary positions on a grid: an attention score then depends on where two tokens lie relative to one another."""

from __future__ import annotations

import torch
from torch import Tensor


def grid_positions(grid: tuple[int, int], offset: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Row and column of every cell of a grid, row by row.

    Args:
        grid: rows and columns `(h, w)`.
        offset: added to every `(row, column)`; moves a second picture beside the first.

    Returns:
        `(h * w, 2)` float.
    """
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack([rows.flatten() + offset[0], columns.flatten() + offset[1]], dim=-1).float()


def rotary_angles(positions: Tensor, head_dim: int, base: float = 100.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotation of every channel pair.

    The channels are shared out evenly over the axes of `positions`. Pair i of an axis with d channels turns by
    `position * base**(-2 i / d)`; both channels of a pair carry the same angle (interleaved layout, as in FLUX).

    Args:
        positions: `(N, axes)`, in cells.
        head_dim: channels of one head; a multiple of twice the number of axes.
        base: the slowest turn is about `1 / base` radian per cell; small grids want a small base.

    Returns:
        cosine and sine, `(N, head_dim)` each.

    Raises:
        ValueError: `head_dim` cannot be shared out into pairs over the axes.

    Source: RoFormer (2104.09864).
    """
    axes = positions.shape[-1]
    if head_dim % (2 * axes):
        raise ValueError(f"head_dim {head_dim} is not a multiple of {2 * axes}, needed for {axes} axes")
    share = head_dim // axes
    speed = base ** (-torch.arange(0, share, 2, device=positions.device, dtype=torch.float32) / share)
    angle = (positions.float()[..., None] * speed).flatten(-2).repeat_interleave(2, dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn the channel pairs (2i, 2i+1) of queries or keys.

    Args:
        x: `(..., N, head_dim)`.
        rotary: cosine and sine from `rotary_angles`; None leaves `x` as it is.
    """
    if rotary is None:
        return x
    cosine, sine = (part.to(x.dtype) for part in rotary)
    crossed = torch.stack([-x[..., 1::2], x[..., 0::2]], dim=-1).flatten(-2)
    return x * cosine + crossed * sine
