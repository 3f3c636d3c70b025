"""Displacement fields of volumes, in voxels: sampling, warping, composing, and where a field folds.

A field `u` of shape (B, 3, H, W, D) lives on the grid of the fixed volume; the moving volume is read at `x + u(x)`,
`x` being voxel indices and the channels being the axes in order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def identity_grid(shape: tuple[int, ...] | torch.Size, like: Tensor | None = None) -> Tensor:
    """Voxel indices of every voxel: (3, H, W, D), of the dtype and on the device of `like` (float32, CPU)."""
    kind = {} if like is None else {"dtype": like.dtype, "device": like.device}
    axes = [torch.arange(n, **({"dtype": torch.float32} | kind)) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(volume: Tensor, points: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Values of `volume` (B, C, H, W, D) at voxel positions `points` (B, 3, h, w, d): (B, C, h, w, d).

    Args:
        mode: `"bilinear"` (trilinear here) or `"nearest"`.
        padding: outside the volume the nearest voxel (`"border"`) or 0 (`"zeros"`).

    Raises:
        ValueError: shapes that do not fit.
    """
    if volume.ndim != 5 or points.ndim != 5 or points.shape[1] != 3 or len(volume) != len(points):
        raise ValueError(
            f"expected a volume (B, C, H, W, D) and points (B, 3, h, w, d), got {tuple(volume.shape)} and"
            f" {tuple(points.shape)}"
        )
    size = torch.tensor(volume.shape[2:], dtype=points.dtype, device=points.device)
    scale = (2 / (size - 1).clamp(min=1)).view(1, 3, 1, 1, 1)
    grid = (points * scale - 1).flip(1).permute(0, 2, 3, 4, 1)
    return F.grid_sample(volume, grid, mode=mode, padding_mode=padding, align_corners=True)


def warp(volume: Tensor, u: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """The volume (B, C, H, W, D) read at `x + u(x)`; `u` (B, 3, h, w, d) in voxels. Result (B, C, h, w, d).

    Raises:
        ValueError: shapes that do not fit.
    """
    return sample(volume, identity_grid(u.shape[2:], u) + u, mode, padding)


def compose(u: Tensor, v: Tensor) -> Tensor:
    """The field of going by `u` first and then by `v`: `u + v∘(id + u)`, both (B, 3, H, W, D) in voxels."""
    return u + warp(v, u)


def upsample_field(u: Tensor, stride: int, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """A field on a grid pooled by `stride`, in voxels of that grid, as a field of the full `shape` in full voxels.

    The centre of pooled voxel `i` lies at `stride * i + (stride - 1) / 2`. Pooled grids that reach beyond `shape`
    are cut; beyond the outermost centres the value is held.
    """
    full = F.interpolate(u, scale_factor=float(stride), mode="trilinear", align_corners=False) * stride
    return full[:, :, : shape[0], : shape[1], : shape[2]]


def rigid_field(motion: Tensor, shape: tuple[int, ...] | torch.Size, like: Tensor | None = None) -> Tensor:
    """Field (1, 3, H, W, D) of a motion (4, 4) of voxel coordinates: `R x + t - x`."""
    grid = identity_grid(shape, like)
    motion = motion.to(grid)
    shift = motion[:3, :3] - torch.eye(3, dtype=grid.dtype, device=grid.device)
    return (torch.einsum("ij,jhwd->ihwd", shift, grid) + motion[:3, 3].view(3, 1, 1, 1))[None]


def jacobian_determinant(u: Tensor) -> Tensor:
    """Determinant of the Jacobian of `x + u(x)` (central differences): (B, 3, H, W, D) -> (B, H, W, D).

    1 where the field shifts, at most 0 where it folds.

    Raises:
        ValueError: not a field, or a side below two voxels.
    """
    if u.ndim != 5 or u.shape[1] != 3 or min(u.shape[2:]) < 2:
        raise ValueError(f"expected a field (B, 3, H, W, D) with sides of at least 2, got {tuple(u.shape)}")
    a, b, c = (torch.stack(torch.gradient(u[:, i], dim=(1, 2, 3)), 1) for i in range(3))  # rows of du, (B, 3, H, W, D)
    for i, row in enumerate((a, b, c)):
        row[:, i] += 1
    return (a * torch.linalg.cross(b, c, dim=1)).sum(1)
