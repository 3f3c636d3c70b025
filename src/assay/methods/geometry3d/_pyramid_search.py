"""The search of one level: self-similarity features, costs of all displacements, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the coupling, weak to strong
NEIGHBOURS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
# The pairs of neighbours at squared distance 2: neither the same voxel nor opposite ones.
PAIRS = tuple(
    (a, b)
    for a in range(6)
    for b in range(a + 1, 6)
    if sum((i - j) ** 2 for i, j in zip(NEIGHBOURS[a], NEIGHBOURS[b], strict=True)) == 2
)
BLOCK = 1 << 22  # numbers of a cost volume worked on at once


def mind_ssc(img: Tensor, radius: int = 3, dilation: int = 3) -> Tensor:
    """Self-similarity context: how alike the neighbours of a voxel are to each other; blind to contrast.

    For each of the 12 pairs of neighbours, at `dilation` voxels, that share no line through the voxel: the squared
    difference, averaged over a box of `radius`, gives `ssd_c`, and `m_c = exp(-(ssd_c - min_c ssd) / v)` with `v` the
    mean over the channels of the exponent's numerator, held between 0.001 and 1000 times its mean over the volume.

    Args:
        img: (1, 1, H, W, D).

    Returns:
        (1, 12, H, W, D), values in (0, 1], the largest channel 1; unchanged by `a img + b` for any a other than 0.

    Raises:
        ValueError: another shape, or a radius or dilation below 1.
    """
    if img.ndim != 5 or img.shape[:2] != (1, 1) or radius < 1 or dilation < 1:
        raise ValueError(f"expected a volume (1, 1, H, W, D), got {tuple(img.shape)}, radius {radius}, {dilation=}")
    d = dilation
    H, W, D = img.shape[2:]
    padded = F.pad(img, (d,) * 6, mode="replicate")[0, 0]
    shifted = [
        padded[d + i * d : d + i * d + H, d + j * d : d + j * d + W, d + k * d : d + k * d + D]
        for i, j, k in NEIGHBOURS
    ]
    m = img.new_empty(12, H, W, D)
    for c, (a, b) in enumerate(PAIRS):
        m[c] = _box_replicated((shifted[a] - shifted[b]).square(), radius)
    m -= m.amin(0)
    v = m.mean(0)
    mean = float(v.mean())
    v = v.clamp(max(1e-3 * mean, 1e-30), max(1e3 * mean, 1e-30))
    return m.div_(v).neg_().exp_()[None]


def label_grid(q: int, like: Tensor | None = None) -> Tensor:
    """The displacements of a search radius `q`: ((2q+1)³, 3), the last axis fastest."""
    steps = torch.arange(-q, q + 1, dtype=torch.float32 if like is None else like.dtype)
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    return grid if like is None else grid.to(like.device)


def correlate(fix: Tensor, mov: Tensor, q: int) -> Tensor:
    """Cost of every displacement: `sum_c (f_F(x) - f_M(x + δ))²` for δ in [-q, q]³, smoothed by two 3³ box filters.

    Features outside the moving volume are 0. One slab of labels (those that share their first coordinate) is worked
    on at a time, so little memory is needed beside the result.

    Args:
        fix, mov: pooled features (1, C, h, w, d).

    Returns:
        ((2q+1)³, h, w, d), labels in the order of `label_grid`.

    Raises:
        ValueError: shapes that differ, or q below 1.
    """
    if fix.shape != mov.shape or fix.ndim != 5 or len(fix) != 1 or q < 1:
        raise ValueError(
            f"expected features (1, C, h, w, d) of one shape, got {tuple(fix.shape)}, {tuple(mov.shape)}, {q=}"
        )
    h, w, d = fix.shape[2:]
    side = 2 * q + 1
    padded = F.pad(mov[0], (q,) * 6)
    first = fix[0].contiguous()
    cost = fix.new_empty(side, side * side, h, w, d)
    difference = torch.empty_like(first)
    boxes = [_box_matrix(n, 3, fix.dtype).to(fix.device) for n in (h, w, d)]
    boxes = [box @ box for box in boxes]
    for i in range(side):
        for j in range(side):
            for k in range(side):
                torch.sub(first, padded[:, i : i + h, j : j + w, k : k + d], out=difference)
                torch.sum(difference.square_(), 0, out=cost[i, j * side + k])
        for part in cost[i].split(max(1, BLOCK // (h * w * d))):
            part.copy_(_along_axes(part, boxes))
    return cost.view(side**3, h, w, d)


def coupled_convex(cost: Tensor, q: int, weights: Sequence[float] = WEIGHTS, average: bool = True) -> Tensor:
    """Choose a displacement for every voxel such that neighbours agree, in turns under growing weights.

    `u⁰ = box3(δ[argmin cost])`; for each weight α: `label(x) = argmin_δ cost(x, δ) + α |δ - u(x)|²`, then
    `u = box3(δ[label])`, box3 being a 3³ box filter.

    Args:
        cost: ((2q+1)³, h, w, d), of `correlate`.
        weights: the α; `math.inf` takes the label nearest to `u`.
        average: give the mean of the `u` of all weights (the paper's balance), or the last.

    Returns:
        (1, 3, h, w, d) in voxels of the cost's grid.

    Raises:
        ValueError: another number of labels than q asks for, or no weight.
    """
    if len(cost) != (2 * q + 1) ** 3 or cost.ndim != 4:
        raise ValueError(f"expected {(2 * q + 1) ** 3} costs (q={q}) for each voxel, got the shape {tuple(cost.shape)}")
    if not weights:
        raise ValueError("expected at least one weight")
    shape = cost.shape[1:]
    labels = label_grid(q, cost)
    flat = cost.reshape(len(labels), -1)
    # |δ - u|² up to |u|², which is the same for all labels, as one product.
    terms = torch.cat([-2 * labels, labels.square().sum(1, keepdim=True)], 1)

    def field_of(chosen: Tensor) -> Tensor:
        return smooth_box(labels[chosen].T.reshape(1, 3, *shape), 3)

    u = field_of(flat.argmin(0))
    total = torch.zeros_like(u)
    columns = max(1, BLOCK // len(labels))
    for weight in weights:
        near = torch.cat([u.reshape(3, -1), torch.ones_like(u[0, :1]).reshape(1, -1)])
        chosen = [
            (terms @ n if weight == float("inf") else torch.addmm(c, terms, n, alpha=float(weight))).argmin(0)
            for c, n in zip(flat.split(columns, 1), near.split(columns, 1), strict=True)
        ]
        u = field_of(torch.cat(chosen))
        total += u
    return total / len(weights) if average else u


def smooth_box(volume: Tensor, side: int) -> Tensor:
    """Mean over a box of `side` (odd) voxels, of those that lie inside: (..., h, w, d), the same shape."""
    return _along_axes(volume, [_box_matrix(n, side, volume.dtype).to(volume.device) for n in volume.shape[-3:]])


def _along_axes(volume: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix along each of the last three axes; a box filter is such a product."""
    a, b, c = matrices
    *more, h, w, d = volume.shape
    volume = b @ (volume @ c.T)
    return (a @ volume.reshape(*more, h, w * d)).reshape(*more, h, w, d)


@lru_cache(maxsize=64)
def _box_matrix(n: int, side: int, dtype: torch.dtype) -> Tensor:
    """Matrix (n, n) of a running mean of `side`, over what lies inside."""
    index = torch.arange(n)
    near = ((index[:, None] - index[None]).abs() <= side // 2).to(dtype)
    return near / near.sum(1, keepdim=True)


def _box_replicated(volume: Tensor, radius: int) -> Tensor:
    """Mean over a box of `radius`, the border replicated: (H, W, D)."""
    for axis in range(3):
        n = volume.shape[axis]
        total = volume.clone()
        for step in range(1, radius + 1):
            for shift in (-step, step):
                inner = max(n - step, 0)
                source = volume.narrow(axis, min(step, n) if shift > 0 else 0, inner)
                total.narrow(axis, 0 if shift > 0 else min(step, n), inner).add_(source)
                edge = volume.narrow(axis, n - 1 if shift > 0 else 0, 1)
                total.narrow(axis, inner if shift > 0 else 0, n - inner).add_(edge)
        volume = total.div_(2 * radius + 1)
    return volume
