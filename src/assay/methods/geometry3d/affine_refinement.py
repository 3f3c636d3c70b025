"""Refinement of an affine match: fit the tangent plane of a surface point to two pictures with known poses.

Source: ours, on the affine map of 2602.06805.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay.geometry.cameras import homogeneous
from assay.geometry.patches import patch_offsets, sample
from assay.methods.geometry3d.affine_cameras import affine_between


class RefinedMatch(NamedTuple):
    """A match after refinement; one row per point.

    Attributes:
        n: unit normal away from camera 1, `(N, 3)`; d: distance of the tangent plane, `(N,)`.
        depth: z in camera 1, `(N,)`.
        p2, A: point in image 2 and affine map, pixels, `(N, 2)` and `(N, 2, 2)`.
        zncc: correlation of the patches, before and after, `(N, 2)`.
        converged: whether the last steps no longer changed anything, `(N,)`.
    """

    n: Tensor
    d: Tensor
    depth: Tensor
    p2: Tensor
    A: Tensor
    zncc: Tensor
    converged: Tensor


def refine_match(
    image1: Tensor,
    image2: Tensor,
    p1: Tensor,
    R: Tensor,
    t: Tensor,
    K1: Tensor,
    K2: Tensor,
    n0: Tensor,
    depth0: Tensor,
    *,
    radius: int = 10,
    iterations: int = 15,
    free_point: bool = False,
) -> RefinedMatch:
    """Fit the tangent plane to the pictures: damped Gauss-Newton on the ZNCC of the patch and its affine image.

    The patch of image 2 is sampled at `p2(m) + A(m) o`, so the six numbers of an affine match are driven by the three
    of m = n/d, which keep p2 on its epipolar line; with `free_point` p2 has two of its own, for poses a little off.
    Patches are compared after removing their mean and length, so gain and offset of brightness do not matter; a step is
    taken only if the correlation rises.

    Args:
        image1, image2: one channel, `(H, W)`.
        p1: `(N, 2)` pixels. R, t, K1, K2: one pose and intrinsics, `(3, 3)`, `(3,)`.
        n0, depth0: starting normals `(N, 3)` and depths `(N,)`.
        radius: the patch has 2 radius + 1 pixels a side.
        iterations: at most so many steps.

    Raises:
        ValueError: no baseline (the pictures do not depend on the plane), or as for `affine_between`.
    """
    if bool(t.norm() == 0):
        raise ValueError("no baseline: with t = 0 the map does not depend on the surface")
    q1 = (p1 - K1[:2, 2]) @ torch.linalg.inv(K1[:2, :2]).T
    start = affine_between(R, t, q1, n0, depth=depth0)
    scale = depth0.reshape(-1)[:, None]
    m = scale * n0 / (depth0 * (n0 * homogeneous(q1)).sum(-1))[:, None]  # in units of 1/depth0, so all about 1
    lifted = _Lifted(R, t / scale, q1, K1, K2, patch_offsets(2 * radius + 1, p1), image2)
    target = _unit_patch(sample(image1[None], p1[:, None, None, :] + lifted.offsets)[:, 0])[0]
    unknowns = torch.cat([m, start.p2], -1) if free_point else m

    patch, J = lifted.linearise(unknowns)
    score = (patch * target).sum(-1)
    first = score
    damping = torch.full_like(score, 1e-3)
    moved = torch.ones_like(score, dtype=torch.bool)
    for _ in range(iterations):
        JtJ = J.mT @ J
        diagonal = torch.diag_embed(JtJ.diagonal(dim1=-2, dim2=-1) + 1e-12)
        downhill = J.mT @ (target - patch)[..., None]
        step = torch.linalg.solve(JtJ + damping[:, None, None] * diagonal, downhill)[..., 0]
        trial_patch, trial_J = lifted.linearise(unknowns + step)
        trial_score = (trial_patch * target).sum(-1)
        better = trial_score > score
        moved = better & (step.norm(dim=-1) > 1e-4)
        unknowns = torch.where(better[:, None], unknowns + step, unknowns)
        patch = torch.where(better[:, None], trial_patch, patch)
        J = torch.where(better[:, None, None], trial_J, J)
        score = torch.where(better, trial_score, score)
        damping = torch.where(better, damping / 5, damping * 10).clamp(1e-9, 1e6)
    m = unknowns[:, :3] / scale
    m = torch.where((m * homogeneous(q1)).sum(-1, keepdim=True) < 0, -m, m)
    size = m.norm(dim=-1)
    _, p2, A, _, _ = lifted.warp(unknowns)
    return RefinedMatch(
        m / size[:, None],
        1 / size,
        1 / (m * homogeneous(q1)).sum(-1),
        p2 @ K2[:2, :2].T + K2[:2, 2],
        K2[:2, :2] @ A @ torch.linalg.inv(K1[:2, :2]),
        torch.stack([first, score], -1),
        ~moved,
    )


class _Lifted:
    """Patches of image 2 as functions of the plane, with derivatives."""

    def __init__(self, R, t, q1, K1, K2, offsets, image2) -> None:
        self.R, self.t, self.q1, self.K2, self.offsets = R, t, q1, K2, offsets
        self.local = offsets @ torch.linalg.inv(K1[:2, :2]).T  # offsets in normalised coordinates
        dy, dx = torch.gradient(image2)
        self.images = torch.stack([image2, dx, dy])

    def warp(self, unknowns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """s, p2, A and the derivatives of p2 and A by the unknowns, `(N, 2, P)` and `(N, 2, 2, P)`; normalised."""
        R, t, m = self.R, self.t, unknowns[:, :3]
        ray = homogeneous(self.q1)
        turned = ray @ R.T
        w = (m * ray).sum(-1)
        s = turned[:, 2] + t[:, 2] * w
        tied = unknowns.shape[1] == 3
        p2 = (turned[:, :2] + t[:, :2] * w[:, None]) / s[:, None] if tied else unknowns[:, 3:]
        e = t[:, :2] - t[:, 2:] * p2
        A = (R[:2, :2] - p2[:, :, None] * R[2, :2] + e[:, :, None] * m[:, None, :2]) / s[:, None, None]
        count = unknowns.shape[1]
        ds = torch.zeros(len(m), count).to(m)
        ds[:, :3] = t[:, 2:] * ray
        dp2 = torch.zeros(len(m), 2, count).to(m)
        if tied:
            dp2 = e[:, :, None] * ray[:, None, :] / s[:, None, None]
        else:
            dp2[:, 0, 3] = dp2[:, 1, 4] = 1
        tilt = R[2, :2] + t[:, 2:] * m[:, :2]
        dA = -dp2[:, :, None, :] * tilt[:, None, :, None] - A[..., None] * ds[:, None, None, :]
        for axis in range(2):
            dA[:, :, axis, axis] = dA[:, :, axis, axis] + e
        return s, p2, A, dp2, dA / s[:, None, None, None]

    def linearise(self, unknowns: Tensor) -> tuple[Tensor, Tensor]:
        """Unit patch of image 2, `(N, size²)`, and its derivative, `(N, size², P)`."""
        _, p2, A, dp2, dA = self.warp(unknowns)
        focal = self.K2[:2, :2]
        where = p2[:, None, None, :] + (A[:, None, None] @ self.local[..., None])[..., 0]
        values = sample(self.images, where @ focal.T + self.K2[:2, 2])
        patch, length = _unit_patch(values[:, 0])
        flow = dp2[:, None, None] + torch.einsum("nijp,hwj->nhwip", dA, self.local)
        slope = torch.einsum("nkhw,kl,nhwlp->nhwp", values[:, 1:], focal, flow).flatten(1, 2)
        slope = slope - slope.mean(1, keepdim=True)
        slope = slope - patch[..., None] * (patch[..., None] * slope).sum(1, keepdim=True)
        return patch, slope / length[:, None, None]


def _unit_patch(patch: Tensor) -> tuple[Tensor, Tensor]:
    """Patches `(N, h, w)` without mean and of length 1, `(N, h w)`, and their lengths, `(N,)`."""
    flat = patch.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    length = flat.norm(dim=1).clamp(min=1e-9)
    return flat / length[:, None], length
