"""Two small detectors built on heat maps: boxes in an image, and upright boxes in a lidar scan seen from above.

They train in under a minute on a CPU core, for studies that need a detector of each kind and not the best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assay.nn.center_head import CenterNet, CenterTargets, center_loss, center_targets, find_peaks


class ImageDetector(nn.Module):
    """Boxes `(x1, y1, x2, y2)` in pixels from images `(B, 3, H, W)`, H and W multiples of 16; cells of 4 pixels."""

    stride = 4

    def __init__(self, classes: int, *, width: int = 16) -> None:
        super().__init__()
        self.classes = classes
        self.net = CenterNet(3, classes, 4, width=width, stem_strides=(2, 1, 2))

    def loss(self, images: Tensor, rects: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Loss of a batch with the rectangles `(K, 4)` and labels `(K,)` of each image."""
        heat, values = self.net(images)
        boxes, kinds, batch = torch.cat(list(rects)).float(), torch.cat(list(labels)), _batch_rows(labels)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / self.stride
        size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0.5) / self.stride
        wanted = torch.cat([centre - centre.floor(), size.log()], 1)
        sigma = 0.2 * size.prod(1).sqrt()
        targets = center_targets(tuple(heat.shape), batch, kinds, centre, sigma, wanted)
        return center_loss(heat, values, targets)

    @torch.no_grad()
    def detect(self, image: Tensor, *, least: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `(K, 4)`, scores and labels `(K,)` of one image `(3, H, W)` by falling score."""
        heat, values = self.net(image[None])
        peaks = find_peaks(heat[0], least=least)
        at = values[0, :, peaks.rows, peaks.columns].T
        cells = torch.stack([peaks.columns, peaks.rows], 1) + at[:, :2]
        half = at[:, 2:].clamp(max=6).exp() / 2
        return torch.cat([cells - half, cells + half], 1) * self.stride, peaks.scores, peaks.labels


@dataclass(frozen=True)
class BevGrid:
    """Ground cells seen from above: x from `x0`, y from `y0`, in metres."""

    x0: float = 3.0
    y0: float = -20.0
    cell: float = 0.5
    columns: int = 84
    rows: int = 80


class PillarDetector(nn.Module):
    """Boxes `(x, y, z, l, w, h, yaw)` from scans `(P, 4)` (x, y, z, reflectance), by features of upright columns.

    Every point is encoded with its place in its column by a linear layer, the columns take the maximum over their
    points (PointPillars), and a `CenterNet` looks for centres. Columns run along x, rows along y.
    """

    def __init__(self, classes: int, *, grid: BevGrid | None = None, features: int = 15, width: int = 16) -> None:
        super().__init__()
        self.classes, self.grid, self.features = classes, grid or BevGrid(), features
        self.encode = nn.Sequential(nn.Linear(7, features, bias=False), nn.BatchNorm1d(features), nn.ReLU())
        self.net = CenterNet(features + 1, classes, 8, width=width)

    def forward(self, scans: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Heat logits `(B, C, rows, columns)` and values `(B, 8, rows, columns)`."""
        return self.net(self.pillars(scans))

    def pillars(self, scans: Sequence[Tensor]) -> Tensor:
        """Column features and the logarithm of their point counts, `(B, features + 1, rows, columns)`."""
        g = self.grid
        points = torch.cat([scan[:, :4] for scan in scans])
        batch = _batch_rows(scans)
        u, v = (points[:, 0] - g.x0) / g.cell, (points[:, 1] - g.y0) / g.cell
        kept = (u >= 0) & (u < g.columns) & (v >= 0) & (v < g.rows) & (points[:, 2] < 5)
        points, batch, u, v = points[kept], batch[kept], u[kept], v[kept]
        place = (batch * g.rows + v.long()) * g.columns + u.long()
        x = torch.stack([points[:, 2], points[:, 3], u % 1 - 0.5, v % 1 - 0.5, points[:, 0] / 40, points[:, 1] / 20,
                         (points[:, 2] > 0.15).float()], 1)  # fmt: skip
        encoded = self.encode(x)
        cells = len(scans) * g.rows * g.columns
        maxima = encoded.new_zeros(cells, self.features).scatter_reduce(
            0, place[:, None].expand(-1, self.features), encoded, "amax"
        )
        count = torch.bincount(place, minlength=cells).to(encoded).log1p()
        grid = torch.cat([maxima, count[:, None]], 1)
        return grid.view(len(scans), g.rows, g.columns, -1).permute(0, 3, 1, 2).contiguous()

    def loss(self, scans: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Loss of a batch with the boxes `(K, 7)` and labels `(K,)` of each scan."""
        heat, values = self(scans)
        return center_loss(heat, values, self.targets(boxes, labels))

    def targets(self, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> CenterTargets:
        """Heat and values of labelled boxes."""
        g = self.grid
        b, kinds, batch = torch.cat(list(boxes)).float(), torch.cat(list(labels)), _batch_rows(labels)
        centre = torch.stack([(b[:, 0] - g.x0) / g.cell, (b[:, 1] - g.y0) / g.cell], 1)
        rest = [b[:, 2:3], b[:, 3:6].clamp(min=0.05).log(), b[:, 6:].cos(), b[:, 6:].sin()]
        wanted = torch.cat([centre - centre.floor(), *rest], 1)
        sigma = (b[:, 3:5].amin(1) / g.cell / 3).clamp(0.6, 2.0)
        return center_targets((len(boxes), self.classes, g.rows, g.columns), batch, kinds, centre, sigma, wanted)

    @torch.no_grad()
    def detect(self, scan: Tensor, *, least: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes `(K, 7)`, scores and labels `(K,)` of one scan, by falling score."""
        heat, values = self([scan])
        peaks = find_peaks(heat[0], least=least)
        at = values[0, :, peaks.rows, peaks.columns].T
        x = self.grid.x0 + (peaks.columns + at[:, 0]) * self.grid.cell
        y = self.grid.y0 + (peaks.rows + at[:, 1]) * self.grid.cell
        yaw = torch.atan2(at[:, 7], at[:, 6])
        boxes = torch.cat([x[:, None], y[:, None], at[:, 2:3], at[:, 3:6].clamp(-4, 4).exp(), yaw[:, None]], 1)
        return boxes, peaks.scores, peaks.labels


def _batch_rows(items: Sequence[Tensor]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(items)), torch.tensor([len(item) for item in items]))
