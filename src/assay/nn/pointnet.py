"""Networks on point sets: PointNet, and the set abstraction and feature propagation of PointNet++.

Point sets are `xyz (B, N, 3)` with features `(B, N, F)`. Distances are in the unit of xyz.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SharedMLP(nn.Module):
    """Linear, batch normalisation and ReLU, applied to every row alike: `(..., inputs)` -> `(..., widths[-1])`."""

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [inputs, *widths]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for b in widths)
        self.width = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        for layer, norm in zip(self.layers, self.norms, strict=True):
            if self.training:
                flat = norm(layer(flat)).relu()
            else:  # normalisation with known statistics is part of the linear map
                scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
                flat = F.linear(flat, layer.weight * scale[:, None], norm.bias - norm.running_mean * scale).relu_()
        return flat.reshape(*x.shape[:-1], self.width)


class PointNet(nn.Module):
    """A shared MLP and the maximum over points.

    Forward: points `(B, N, inputs)` -> features of each point `(B, N, W)` and of the set `(B, W)`, W = `widths[-1]`.
    The set's features do not depend on the order of the points.
    """

    def __init__(self, inputs: int, widths: Sequence[int] = (64, 128, 256)) -> None:
        super().__init__()
        self.mlp = SharedMLP(inputs, widths)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        features = self.mlp(points)
        return features, features.amax(1)


def farthest_points(xyz: Tensor, count: int) -> Tensor:
    """Farthest point sampling: rows `(B, count)`, each the point farthest from those chosen before; starts at row 0.

    Raises:
        ValueError: more points asked for than there are.
    """
    B, N, _ = xyz.shape
    if not 1 <= count <= N:
        raise ValueError(f"farthest_points: {count} of {N} points asked for")
    chosen = torch.zeros(B, count, dtype=torch.long, device=xyz.device)
    nearest = torch.full((B, N), torch.inf, dtype=xyz.dtype, device=xyz.device)
    batch = torch.arange(B, device=xyz.device)
    for i in range(1, count):
        last = xyz[batch, chosen[:, i - 1]]
        nearest = torch.minimum(nearest, (xyz - last[:, None]).square().sum(-1))
        chosen[:, i] = nearest.argmax(1)
    return chosen


def ball_query(centres: Tensor, xyz: Tensor, radius: float, count: int) -> Tensor:
    """Rows of up to `count` points within `radius` of each centre, `(B, M, count)`: the first ones by row.

    Where a ball holds fewer, its first point is repeated; where it holds none, the nearest point is taken.
    """
    distance = torch.cdist(centres, xyz)
    N = xyz.shape[1]
    rows = torch.arange(N, device=xyz.device).expand_as(distance)
    rows = torch.where(distance <= radius, rows, N).topk(min(count, N), dim=-1, largest=False, sorted=True).values
    first = torch.where(rows[..., :1] == N, distance.argmin(-1, keepdim=True), rows[..., :1])
    rows = torch.where(rows == N, first, rows)
    return torch.cat([rows, first.expand(*first.shape[:-1], count - rows.shape[-1])], -1)


def gather_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows of `values (B, N, F)` by index `(B, ...)`: `(B, ..., F)`."""
    flat = rows.reshape(rows.shape[0], -1, 1).expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).reshape(*rows.shape, values.shape[-1])


class SetAbstraction(nn.Module):
    """Summaries of balls around sampled centroids, at one or several radii (PointNet++ SSG and MSG).

    Args:
        features: F, columns beside xyz.
        centroids: M; cut to the number of points where there are fewer.
        radii: of the balls.
        samples: points taken from each ball, one number per radius.
        widths: MLP of each radius.

    Forward: xyz `(B, N, 3)`, features `(B, N, F)` -> `(B, M, 3)`, `(B, M, width)`.
    """

    def __init__(
        self,
        features: int,
        centroids: int,
        radii: Sequence[float],
        samples: Sequence[int],
        widths: Sequence[Sequence[int]],
    ) -> None:
        super().__init__()
        if not len(radii) == len(samples) == len(widths):
            raise ValueError(f"one radius, sample count and MLP each; got {len(radii)}, {len(samples)}, {len(widths)}")
        self.centroids, self.radii, self.samples = centroids, tuple(radii), tuple(samples)
        self.mlps = nn.ModuleList(SharedMLP(features + 3, w) for w in widths)
        self.width = sum(w[-1] for w in widths)

    def forward(self, xyz: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        centres = gather_rows(xyz, farthest_points(xyz, min(self.centroids, xyz.shape[1])))
        found = []
        for radius, count, mlp in zip(self.radii, self.samples, self.mlps, strict=True):
            rows = ball_query(centres, xyz, radius, count)
            local = gather_rows(xyz, rows) - centres[:, :, None]
            found.append(mlp(torch.cat([local, gather_rows(features, rows)], -1)).amax(2))
        return centres, torch.cat(found, -1)


class GlobalAbstraction(nn.Module):
    """One summary of the whole set: `(B, N, 3)`, `(B, N, F)` -> `(B, 1, 3)` zeros, `(B, 1, widths[-1])`."""

    def __init__(self, features: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.mlp = SharedMLP(features + 3, widths)
        self.width = self.mlp.width

    def forward(self, xyz: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(xyz[:, :1]), self.mlp(torch.cat([xyz, features], -1)).amax(1, keepdim=True)


class FeaturePropagation(nn.Module):
    """Features of a coarse set carried to a fine one by the inverse squared distances of the three nearest points.

    Forward: fine xyz `(B, N, 3)`, coarse xyz `(B, M, 3)`, fine features `(B, N, F)`, coarse features `(B, M, G)`
    -> `(B, N, widths[-1])`. The MLP sees both.
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.mlp = SharedMLP(inputs, widths)

    def forward(self, fine: Tensor, coarse: Tensor, fine_features: Tensor, coarse_features: Tensor) -> Tensor:
        distance, rows = torch.cdist(fine, coarse).topk(min(3, coarse.shape[1]), dim=-1, largest=False)
        weight = 1 / (distance.square() + 1e-8)
        weight = weight / weight.sum(-1, keepdim=True)
        carried = (gather_rows(coarse_features, rows) * weight[..., None]).sum(2)
        return self.mlp(torch.cat([carried, fine_features], -1))
