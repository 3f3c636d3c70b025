"""Image patches sampled under affine maps.

Image points are in pixels with their origin at the outer corner of the first pixel, whose centre is (0.5, 0.5).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def warp_patch(image: Tensor, centre: Tensor, A: Tensor, size: int, *, mode: str = "bilinear") -> Tensor:
    """Patches sampled at `centre + A o` for the offsets o of a `size` x `size` pixel grid around 0.

    With the point p2 and the map A of `affine_between`, the patch of image 2 lies on that of image 1 pixel by pixel.

    Args:
        image: `(C, H, W)`.
        centre: `(..., 2)`, pixels, the first pixel's centre at (0.5, 0.5).
        A: `(..., 2, 2)`, pixels.
        size: side of the patch, odd for a grid with a middle.
        mode: `"bilinear"` or `"bicubic"`.

    Returns:
        `(..., C, size, size)`; beyond its edge the image is continued.
    """
    grid = centre[..., None, None, :] + (A[..., None, None, :, :] @ patch_offsets(size, A)[..., None])[..., 0]
    return sample(image, grid, mode=mode)


def patch_offsets(size: int, like: Tensor) -> Tensor:
    """Offsets (x, y) of a pixel grid from its middle, `(size, size, 2)`, of the type of `like`."""
    line = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def sample(image: Tensor, where: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Values of an image `(C, H, W)` at pixels `(..., h, w, 2)`; `(..., C, h, w)`."""
    channels, height, width = image.shape
    grid = 2 * where / where.new_tensor([width, height]) - 1
    lead, (h, w) = where.shape[:-3], where.shape[-3:-1]
    flat = grid.reshape(1, -1, w, 2).to(image.dtype)
    values = F.grid_sample(image[None], flat, mode=mode, padding_mode="border", align_corners=False)
    return values.reshape(channels, -1, h, w).transpose(0, 1).reshape(*lead, channels, h, w)
