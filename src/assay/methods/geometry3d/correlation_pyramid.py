"""Registration of two volumes of different contrast by dense correlation at several scales; nothing is learnt.

    result = register(ultrasound, mri, mask_fixed=ultrasound > 0, mask_moving=mri > 0)
    result.map_points(landmarks)        # where points of the fixed volume lie in the moving one, in voxels

Each level pools self-similarity features (`mind_ssc`) by its stride, compares all displacements within a range
(`correlate`), chooses among them under smoothness (`coupled_convex`), makes both directions agree
(`inverse_consistent`), and keeps the rigid motion on which most of the fixed volume agrees. The moving volume is
always warped anew from the original. A field of displacements is refined at the end by gradient steps.

Where this differs from the authors' script: box filters average over the voxels that are there (zero padding pulls
displacements at the border towards 0); motions are fitted in voxels, not in coordinates scaled by the volume's sides,
so they are rigid for every shape; volumes are padded and not cut where a side is no multiple of the stride; the term
with a mutual information that is identically 0 is left out (`mi_weight` adds a real one).

Source: 2602.06288
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from assay.geometry.rigid import as_matrix, least_trimmed_rigid
from assay.geometry.warp import identity_grid, rigid_field, sample, upsample_field, warp
from assay.methods.geometry3d._pyramid_search import WEIGHTS, correlate, coupled_convex, mind_ssc, smooth_box
from assay.methods.geometry3d._pyramid_search import label_grid as label_grid
from assay.methods.geometry3d._soft_information import mutual_information

__all__ = [
    "WEIGHTS", "Level", "Registration", "correlate", "coupled_convex", "inverse_consistent", "label_grid",
    "largest_search", "least_trimmed_rigid", "match_level", "memory_bytes", "mind_ssc", "refine_field", "register",
    "replicate_outside", "warp",
]  # fmt: skip

STRIDES = (6, 5, 4, 3)
FINE = 2  # pooling of the final refinement
Chain = Literal["rigid", "deformable"]


@dataclass
class Level:
    """What one level of the pyramid ended with.

    Attributes:
        stride: pooling of the level, in voxels.
        rigid: the trimmed rigid motion (4, 4) of voxel coordinates, fixed to moving; float64.
        u: the field (3, H, W, D) in voxels that the next level starts from; None where it is the rigid motion.
        seconds: wall-clock time of the level.
    """

    stride: int
    rigid: Tensor
    u: Tensor | None
    seconds: float

    def map_points(self, points: Tensor) -> Tensor:
        """Points (N, 3) of the fixed volume, in voxels, carried into the moving volume."""
        if self.u is not None:
            return _map_by(self.u, points)
        motion = self.rigid.to(points)
        return points @ motion[:3, :3].T + motion[:3, 3]


@dataclass
class Registration:
    """Result of `register`.

    Attributes:
        u: displacement (3, H, W, D) in voxels on the fixed grid: `moving(x + u(x)) ~ fixed(x)`.
        rigid: the last level's trimmed rigid motion (4, 4) of voxel coordinates, fixed to moving; float64.
        per_level: the levels, coarse to fine.
        seconds: wall-clock time of the whole.
    """

    u: Tensor
    rigid: Tensor
    per_level: list[Level] = field(default_factory=list)
    seconds: float = 0.0

    def map_points(self, points: Tensor) -> Tensor:
        """Points (N, 3) of the fixed volume, in voxels, carried into the moving volume: `x + u(x)`.

        Raises:
            ValueError: points that are not (N, 3).
        """
        return _map_by(self.u, points)


def register(
    fixed: Tensor,
    moving: Tensor,
    *,
    mask_fixed: Tensor | None = None,
    mask_moving: Tensor | None = None,
    strides: Sequence[int] = STRIDES,
    q: int = 6,
    refine: int = 20,
    smooth: float = 1.25,
    chain: Chain = "rigid",
    radius: int = 3,
    dilation: int = 3,
    average: bool = True,
    inverse: bool = True,
    weights: Sequence[float] = WEIGHTS,
    data_weight: float = 15.0,
    final_smooth: bool = True,
    mi_weight: float = 0.0,
) -> Registration:
    """Align `moving` to `fixed`, both (H, W, D) on one grid.

    Args:
        mask_fixed, mask_moving: where a volume holds something, (H, W, D); what is above 0 when not given.
        strides: pooling of the levels in voxels, coarse to fine.
        q: search radius of a level in its pooled voxels; a level reaches `q * stride` voxels.
        refine: gradient steps of the final refinement; 0 leaves it out.
        smooth: weight of the smoothness term in the refinement.
        chain: whether a level hands on its `"rigid"` motion or its whole field (`"deformable"`, ours).
        radius, dilation: of the features, in voxels.
        average: mean over all smoothing weights (the paper) or the last one's field only.
        inverse: match in both directions and make them agree.
        weights: smoothing weights of the coupled optimisation, in the order they are used.
        data_weight: weight of the features' distance in the refinement.
        final_smooth: smooth the refined field by three 5³ box filters.
        mi_weight: weight of the mutual information of intensities in the refinement (ours, 0: none).

    Raises:
        ValueError: shapes that differ, values that are not finite, an empty mask, or a side shorter than eight times
            the largest stride.
    """
    start = time.perf_counter()
    strides = [int(g) for g in strides]
    _check(fixed, moving, strides, q, chain)
    fixed, moving = (v.detach().to(torch.float32)[None, None] for v in (fixed, moving))
    inside_fixed, inside_moving = _mask(mask_fixed, fixed, "fixed"), _mask(mask_moving, moving, "moving")
    shape = fixed.shape[2:]
    with torch.no_grad():
        pooled_fixed = _pooled_features(fixed, inside_fixed, radius, dilation, {*strides, FINE})
        fine_moving = pooled_fixed[FINE]
        levels: list[Level] = []
        u = torch.zeros(1, 3, *shape, device=fixed.device)
        for g in strides:
            begun = time.perf_counter()
            warped, there = moving, inside_moving
            if levels:
                warped = warp(moving, u, padding="zeros")
                there = warp(inside_moving.float(), u, "nearest", "zeros") > 0.5
                if not bool(there.any()):
                    raise ValueError(f"before stride {g} the moving volume was shifted out of view altogether")
            pooled = _pooled_features(warped, there, radius, dilation, {g} if levels else {g, FINE})
            fine_moving = fine_moving if levels else pooled[FINE]
            u = u + upsample_field(match_level(pooled_fixed[g], pooled[g], q, weights, average, inverse), g, shape)
            x = _grid_points(inside_fixed, g)
            motion = as_matrix(*least_trimmed_rigid(x, _map_by(u[0], x)))
            if chain == "rigid":
                u = rigid_field(motion, shape, u)
            whole = u[0].clone() if chain == "deformable" else None
            levels.append(Level(g, motion, whole, time.perf_counter() - begun))
    if refine:
        images = (fixed, moving) if mi_weight else None
        u = refine_field(
            u, pooled_fixed[FINE], fine_moving, refine, smooth, data_weight, final_smooth, images, mi_weight
        )
    return Registration(u[0], levels[-1].rigid, levels, time.perf_counter() - start)


def match_level(
    fix: Tensor,
    mov: Tensor,
    q: int,
    weights: Sequence[float] = WEIGHTS,
    average: bool = True,
    inverse: bool = True,
) -> Tensor:
    """Field (1, 3, h, w, d), in pooled voxels, between pooled features (1, C, h, w, d): one level's search."""
    u = coupled_convex(correlate(fix, mov, q), q, weights, average)
    if not inverse:
        return u
    back = coupled_convex(correlate(mov, fix, q), q, weights, average)
    return inverse_consistent(u, back)[0]


def inverse_consistent(u: Tensor, v: Tensor, iters: int = 15) -> tuple[Tensor, Tensor]:
    """Make two fields (1, 3, h, w, d) each other's inverse: at once `u <- (u - v∘(id+u))/2`, `v <- (v - u∘(id+v))/2`.

    Raises:
        ValueError: fields of different shapes.
    """
    if u.shape != v.shape:
        raise ValueError(f"expected two fields of one shape, got {tuple(u.shape)} and {tuple(v.shape)}")
    for _ in range(iters):
        u, v = (u - warp(v, u)) / 2, (v - warp(u, v)) / 2
    return u, v


def refine_field(
    u: Tensor,
    fix: Tensor,
    mov: Tensor,
    steps: int = 20,
    smooth: float = 1.25,
    data_weight: float = 15.0,
    final_smooth: bool = True,
    images: tuple[Tensor, Tensor] | None = None,
    mi_weight: float = 0.0,
) -> Tensor:
    """Adam steps (rate 1) on a field at half resolution, from `u` (1, 3, H, W, D) in voxels; the same shape again.

    The parameter `p` (1, 3, h, w, d) gives the field `s`, three 3³ box filters of `p`; the loss is
    `data_weight mean (f_M(x + s) - f_F(x))² + smooth sum_axes mean (∂s)² - mi_weight MI(M(x + s), F)`.

    Args:
        fix, mov: features (1, C, h, w, d) pooled by two.
        images: the volumes (1, 1, H, W, D), asked for where `mi_weight` is not 0.
    """
    shape = u.shape[2:]
    mov, fix = mov.detach(), fix.detach()
    p = (pool(u.detach(), FINE) / FINE).clone().requires_grad_()
    grid = identity_grid(p.shape[2:], p)
    greys = [pool(v, FINE) for v in images] if images is not None and mi_weight else None
    optimiser = torch.optim.Adam([p], lr=1.0)
    s = p
    with torch.enable_grad():
        for _ in range(steps):
            optimiser.zero_grad()
            s = _thrice(p, 3)
            loss = data_weight * (sample(mov, grid + s) - fix).square().mean()
            loss = loss + smooth * sum(s.diff(dim=axis).square().mean() for axis in (2, 3, 4))
            if greys is not None:
                there = greys[0] > 0
                loss = loss - mi_weight * mutual_information(sample(greys[1], grid + s)[there], greys[0][there])
            loss.backward()
            optimiser.step()
    full = upsample_field(s.detach(), FINE, shape)
    return _thrice(full, 5) if final_smooth else full


def replicate_outside(img: Tensor, mask: Tensor) -> Tensor:
    """Give voxels outside the mask, eroded by 3³, the value of the nearest voxel inside, so its edge makes no feature.

    Args:
        img: (1, 1, H, W, D).
        mask: (1, 1, H, W, D), not empty. Where erosion leaves nothing the mask itself is used.

    Raises:
        ValueError: an empty mask or one of another shape.
    """
    if mask.shape != img.shape or not bool(mask.any()):
        raise ValueError(f"expected a mask of shape {tuple(img.shape)} that is not empty, got {tuple(mask.shape)}")
    padded = F.pad(mask.float(), (1,) * 6, mode="replicate")
    core = F.max_pool3d(-padded, 3, stride=1) < -0.5  # the minimum over 3³, replicated at the border
    core = core if bool(core.any()) else mask.bool()
    if bool(core.all()):
        return img
    nearest = distance_transform_edt(~core[0, 0].cpu().numpy(), return_distances=False, return_indices=True)
    flat = torch.from_numpy(np.ravel_multi_index(tuple(nearest), img.shape[2:])).to(img.device)
    return img.flatten()[flat][None, None]


def pool(volume: Tensor, stride: int) -> Tensor:
    """Mean over cubes of `stride` voxels; sides that are no multiple are padded at their end by the last value."""
    short = [(-n) % stride for n in volume.shape[2:]]
    if any(short):
        volume = F.pad(volume, (0, short[2], 0, short[1], 0, short[0]), mode="replicate")
    return F.avg_pool3d(volume, stride)


def memory_bytes(shape: Sequence[int], strides: Sequence[int] = STRIDES, q: int = 6) -> int:
    """Bytes that `register` takes at its peak, to within about a third: one cost volume and what is beside it."""
    voxels = math.prod(shape)
    label = max(math.prod(-(-n // g) for n in shape) for g in strides)
    return 4 * (int(1.4 * (2 * q + 1) ** 3 * label) + 40 * voxels)


def largest_search(shape: Sequence[int], strides: Sequence[int], available: int) -> int:
    """The largest search radius `q` whose memory fits into `available` bytes; 0 when none does."""
    q = 0
    while q < 64 and memory_bytes(shape, strides, q + 1) <= available:
        q += 1
    return q


def _pooled_features(volume: Tensor, mask: Tensor, radius: int, dilation: int, strides: set[int]) -> dict[int, Tensor]:
    """Features pooled by each stride; those at full resolution are let go."""
    features = mind_ssc(replicate_outside(volume, mask), radius, dilation)
    return {g: pool(features, g) for g in strides if g > 1} | ({1: features} if 1 in strides else {})


def _thrice(u: Tensor, side: int) -> Tensor:
    for _ in range(3):
        u = smooth_box(u, side)
    return u


def _grid_points(mask: Tensor, stride: int) -> Tensor:
    """Centres (N, 3), in voxels and float64, of the pooled voxels that lie for more than half inside the mask."""
    shares = pool(mask.float(), stride)[0, 0]
    cells = (shares > 0.5).nonzero()
    if len(cells) < 8:  # a mask thinner than the pooling
        cells = (shares > 0).nonzero()
    return cells.double() * stride + (stride - 1) / 2


def _map_by(u: Tensor, points: Tensor) -> Tensor:
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"expected points (N, 3) in voxels, got {tuple(points.shape)}")
    moved = sample(u[None], points.to(u).T[None, :, :, None, None])[0, :, :, 0, 0].T
    return points + moved.to(points)


def _mask(mask: Tensor | None, volume: Tensor, name: str) -> Tensor:
    inside = volume > 0 if mask is None else mask.to(volume.device).bool()
    if inside.numel() != volume.numel() or inside.shape[-3:] != volume.shape[-3:]:
        raise ValueError(
            f"the {name} mask has the shape {tuple(inside.shape)}, expected that of the volume, "
            f"{tuple(volume.shape[2:])}"
        )
    if not bool(inside.any()):
        raise ValueError(f"the {name} mask is empty, expected voxels above 0")
    return inside.reshape(volume.shape)


def _check(fixed: Tensor, moving: Tensor, strides: Sequence[int], q: int, chain: str) -> None:
    if fixed.ndim != 3 or fixed.shape != moving.shape:
        raise ValueError(
            f"expected two volumes (H, W, D) on one grid, got {tuple(fixed.shape)} and {tuple(moving.shape)}"
        )
    if not strides or min(strides) < 1 or q < 1:
        raise ValueError(f"expected strides and q of at least 1, got {list(strides)} and {q}")
    if chain not in ("rigid", "deformable"):
        raise ValueError(f"chain must be 'rigid' or 'deformable', got {chain!r}")
    if min(fixed.shape) < 8 * max(strides):
        raise ValueError(
            f"a side of {tuple(fixed.shape)} is shorter than 8 x {max(strides)}, the largest stride;"
            f" the largest that fits is {min(fixed.shape) // 8}"
        )
    for name, volume in (("fixed", fixed), ("moving", moving)):
        if not bool(torch.isfinite(volume).all()):
            raise ValueError(f"the {name} volume holds values that are not finite")
