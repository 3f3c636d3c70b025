"""Detection of objects as peaks of a heat map over a grid, for images and for maps seen from above.

Each class has a map that is high where an object of it has its centre; at that cell further maps hold what else the
task asks for (offset within the cell, size, height, heading). Training spreads a Gaussian around each centre and
weighs the cells by the penalty-reduced focal loss; decoding takes local maxima.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CenterTargets(NamedTuple):
    """What a batch of grids should show.

    Attributes:
        heat: `(B, C, H, W)`, 1 at centres.
        cells: `(K, 3)` batch row, row and column of each object's cell.
        values: `(K, V)` what the other maps should hold there.
    """

    heat: Tensor
    cells: Tensor
    values: Tensor


class Peaks(NamedTuple):
    """Local maxima of one grid by falling score: rows, columns, labels `(K,)` int64 and scores `(K,)`."""

    rows: Tensor
    columns: Tensor
    labels: Tensor
    scores: Tensor


class CenterNet(nn.Module):
    """A small U of convolutions with a heat map and value maps at the resolution of its input.

    Args:
        inputs: channels.
        classes: C heat maps.
        values: V further maps.
        width: feature maps at full resolution; twice and three times that one and two halvings below.
        stem_strides: strides of the convolutions before the U; the grid is the input shrunk by their product.

    Forward: `(B, inputs, H, W)` -> heat logits `(B, C, h, w)`, values `(B, V, h, w)`. h and w must be multiples of 4.
    """

    def __init__(
        self, inputs: int, classes: int, values: int, *, width: int = 16, stem_strides: Sequence[int] = (1,)
    ) -> None:
        super().__init__()
        stem = [_block(inputs if i == 0 else width, width, s) for i, s in enumerate(stem_strides)]
        self.stem = nn.Sequential(*stem)
        self.down = nn.Sequential(_block(width, 2 * width, 2), _block(2 * width, 2 * width))
        self.low = nn.Sequential(_block(2 * width, 3 * width, 2), _block(3 * width, 3 * width))
        self.up = _block(5 * width, 2 * width)
        self.top = _block(3 * width, width)
        self.heat = nn.Sequential(_block(width, width), nn.Conv2d(width, classes, 1))
        self.values = nn.Conv2d(width, values, 1)
        nn.init.constant_(self.heat[-1].bias, -math.log(99))  # start at a probability of 1 %

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(x)
        middle = self.down(fine)
        coarse = self.low(middle)
        middle = self.up(torch.cat([middle, F.interpolate(coarse, scale_factor=2.0)], 1))
        top = self.top(torch.cat([fine, F.interpolate(middle, scale_factor=2.0)], 1))
        return self.heat(top), self.values(top)


def center_targets(
    shape: tuple[int, int, int, int],
    batch: Tensor,
    labels: Tensor,
    centres: Tensor,
    radii: Tensor,
    values: Tensor,
) -> CenterTargets:
    """Targets of K objects in B grids.

    Args:
        shape: (B, C, H, W).
        batch, labels: grid and class of each object, `(K,)`.
        centres: `(K, 2)` as (column, row), in cells, continuous; cell (0, 0) covers [0, 1).
        radii: standard deviation of each Gaussian in cells, `(K,)`.
        values: `(K, V)`.

    Objects outside the grid are left out.
    """
    B, C, H, W = shape
    column, row = centres.floor().long().unbind(1)
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
    batch, labels, column, row = batch[inside], labels[inside], column[inside], row[inside]
    sigma = radii[inside].clamp(min=0.3)[:, None, None]
    y = torch.arange(H, device=centres.device)[None, :, None] - row[:, None, None]
    x = torch.arange(W, device=centres.device)[None, None, :] - column[:, None, None]
    bumps = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    heat = torch.zeros(B * C, H, W, device=centres.device)
    place = (batch * C + labels)[:, None, None].expand(-1, H, W)
    heat.scatter_reduce_(0, place, bumps.to(heat), "amax")
    return CenterTargets(heat.view(B, C, H, W), torch.stack([batch, row, column], 1), values[inside].float())


def center_loss(heat: Tensor, values: Tensor, targets: CenterTargets, *, value_weight: float = 1.0) -> Tensor:
    """Penalty-reduced focal loss of the heat logits plus the mean absolute error of the values at objects' cells.

    With p the sigmoid of the logit and g the target: `-(1 - p)² log p` where g = 1, `-(1 - g)⁴ p² log(1 - p)`
    elsewhere, summed and divided by the number of objects.
    """
    count = max(len(targets.cells), 1)
    p = heat.sigmoid()
    positive = targets.heat >= 1
    found = -((1 - p) ** 2) * F.logsigmoid(heat)
    missed = -((1 - targets.heat) ** 4) * p**2 * F.logsigmoid(-heat)
    focal = torch.where(positive, found, missed).sum() / count
    if not len(targets.cells):
        return focal
    b, r, c = targets.cells.unbind(1)
    return focal + value_weight * (values[b, :, r, c] - targets.values).abs().sum(1).mean()


def find_peaks(heat: Tensor, *, least: float = 0.05, most: int = 60) -> Peaks:
    """Local maxima (in 3x3 cells) of heat logits `(C, H, W)` with probability >= `least`, at most `most` of them."""
    p = heat.sigmoid()
    p = torch.where(p == F.max_pool2d(p[None], 3, 1, 1)[0], p, 0.0)
    scores, flat = p.flatten().topk(min(most, p.numel()))
    kept = scores >= least
    scores, flat = scores[kept], flat[kept]
    _, H, W = heat.shape
    return Peaks(flat % (H * W) // W, flat % W, flat // (H * W), scores)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
