"""Fusing a stack that need not fit in memory, tile by tile.

Source: 2512.21495
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.methods.imaging._focus_measures import (
    as_stack,
    classical_fuse,
    depth_edges,
    missing_focus_mask,
    noise_level,
    sharpest_ratio,
)
from assay.methods.imaging._focus_network import HALO, StackFusion, combine, luma

Read = Callable[[int, int, int, int], Tensor]


@dataclass(frozen=True)
class Tile:
    """One tile of the result.

    Attributes:
        top, left: of its first pixel.
        image: `(3, h, w)`.
        depth: mean index of the frames by their weights, `(h, w)`, from 0 to N - 1.
        missing: where no frame is in focus, bool `(h, w)`.
        edge: within reach of a depth edge, bool `(h, w)`.
    """

    top: int
    left: int
    image: Tensor
    depth: Tensor
    missing: Tensor
    edge: Tensor


@torch.no_grad()
def fuse_tiles(
    read: Read,
    height: int,
    width: int,
    fusion: StackFusion | None,
    *,
    tile: int = 512,
    reduce: int = 1,
    threshold: float = 0.2,
    reach: int = 5,
    noise: float | None = None,
    sharpest: float | None = None,
) -> Iterator[Tile]:
    """The tiles of a fused stack, row by row; memory does not grow with the picture.

    Weights are found on frames averaged over `reduce` x `reduce` pixels and drawn up to the full size, at which the
    frames are then combined: large photographs are rarely sharp to the pixel, and it costs that much less. With
    `reduce=1` the tiles are those of the whole picture.

    Args:
        read: `read(top, bottom, left, right)` gives the frames there, `(N, 3, h, w)` in [0, 1].
        height, width: of the picture.
        fusion: network of stage 1; None for the classical rule.
        tile: side of a tile in pixels after reduction.
        reduce: side of the blocks that weights are found on.
        threshold: of the missing-focus mask.
        reach: pixels (after reduction) around depth edges.
        noise, sharpest: of `missing_focus_mask`; None estimates them in the middle and in the four quarters of the
            picture.

    Raises:
        ValueError: a tile below 16 or not a multiple of 8, or a reduction below 1.
    """
    if tile < 16 or tile % 8 or reduce < 1:
        raise ValueError(f"expected a tile that is a multiple of 8 and a reduction of at least 1, got {tile}, {reduce}")
    patches = _patches(read, height, width, reduce) if noise is None or sharpest is None else []
    noise = min(noise_level(luma(patch)) for patch in patches) / 0.669 if noise is None else noise
    sharpest = max(sharpest_ratio(patch, noise=noise) for patch in patches) if sharpest is None else sharpest
    side, halo = tile * reduce, HALO * reduce
    for top in range(0, height, side):
        for left in range(0, width, side):
            y0, y1 = max(0, top - halo), min(height, top + side + halo)
            x0, x1 = max(0, left - halo), min(width, left + side + halo)
            stack = read(y0, y1, x0, x1)
            small = _shrunk(stack, reduce)
            found = fusion(small[None]) if fusion is not None else None
            weights = found.weights[0] if found is not None else classical_fuse(small).weights
            missing = missing_focus_mask(small, threshold, noise=noise, sharpest=sharpest)
            edge = F.max_pool2d(depth_edges(weights)[None].float(), 2 * reach + 1, 1, reach)[0] > 0
            maps = torch.cat([weights, missing[None].float(), edge[None].float()])
            if reduce > 1:
                maps = F.interpolate(maps[None], size=stack.shape[-2:], mode="bilinear", align_corners=False)[0]
            bottom, right = min(height, top + side), min(width, left + side)
            own = (..., slice(top - y0, bottom - y0), slice(left - x0, right - x0))
            stack, maps = stack[own], maps[own]
            weights = maps[:-2]
            index = torch.arange(len(weights), dtype=weights.dtype)[:, None, None]
            yield Tile(top, left, combine(stack, weights), (weights * index).sum(0), maps[-2] >= 0.5, maps[-1] >= 0.5)


def _patches(read: Read, height: int, width: int, reduce: int, side: int = 384) -> list[Tensor]:
    """Windows in the middle and in the quarters; the whole picture where it is small."""
    if max(height, width) <= 2 * side:
        return [_shrunk(as_stack(read(0, height, 0, width)), reduce)]
    found = []
    for v, h in ((0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        top, left = (max(0, int(share * length) - side // 2) for share, length in ((v, height), (h, width)))
        part = read(top, min(top + side, height), left, min(left + side, width))
        found.append(_shrunk(as_stack(part), reduce))
    return found


def _shrunk(stack: Tensor, reduce: int) -> Tensor:
    return F.avg_pool2d(stack, reduce, ceil_mode=True, count_include_pad=False) if reduce > 1 else stack
