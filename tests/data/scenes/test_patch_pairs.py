"""Patch pairs: the truth against independent geometry, and the sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.scenes.patch_pairs import (
    SIZE,
    ray_cast_patches,
    spread_over_tilts,
    stereo_candidates,
    stereo_patches,
)
from assay.data.stereo import motorcycle
from assay.geometry.cameras import homogeneous
from assay.geometry.patches import patch_offsets, sample
from assay.metrics.image import zncc


@pytest.mark.parametrize("kind", ["plane", "sphere", "rotation"])
def test_ray_cast_truth_is_consistent(kind):
    P = ray_cast_patches(kind, 40.0, 25, torch.Generator().manual_seed(3), width=200, height=150)
    assert 5 <= len(P) <= 25
    # The true positions carry the same picture, whatever the surface.
    left = sample(P.image1[None], P.p1[:, None, None] + patch_offsets(SIZE, P.p1))[:, 0]
    right = sample(P.image2[None], P.truth)[:, 0]
    assert float(zncc(left, right).median()) > 0.95
    # Depth and truth agree through the pose.
    ray = homogeneous((P.p1 - P.K1[:2, 2]) @ torch.linalg.inv(P.K1[:2, :2]).T)
    X2 = (ray * P.point_depth[:, None]) @ P.R.T + P.t
    p2 = (X2 @ P.K2.T)[:, :2] / X2[:, 2:]
    assert torch.allclose(p2, P.p2, atol=1e-9)
    angle = torch.rad2deg(torch.acos(((P.R.trace() - 1) / 2).clamp(-1, 1)))
    assert float(angle) <= 40
    assert (float(P.t.norm()) < 1e-12) == (kind == "rotation")
    if kind != "sphere":
        assert torch.allclose(P.tilt, torch.full_like(P.tilt, 40.0))
        # All points of a plane fulfil its equation.
        d = (P.n * ray * P.point_depth[:, None]).sum(-1)
        assert torch.allclose(d, d.mean().expand_as(d))
    assert bool(((P.n * ray).sum(-1) > 0).all())


def test_the_same_generator_gives_the_same_patches():
    a, b = (ray_cast_patches("plane", 20.0, 5, torch.Generator().manual_seed(1), width=160, height=120) for _ in "ab")
    assert torch.equal(a.truth, b.truth)
    assert torch.equal(a.image2, b.image2)
    with pytest.raises(ValueError, match="cube"):
        ray_cast_patches("cube", 20.0, 5, torch.Generator())


def test_real_patches_follow_the_disparity():
    pair = motorcycle()
    candidates = stereo_candidates(pair)
    chosen = spread_over_tilts(candidates.tilt, 60, np.random.default_rng(0))
    P = stereo_patches(pair, candidates, chosen)
    assert bool(torch.isfinite(P.truth).all())
    rows, columns = candidates.rows[chosen], candidates.columns[chosen]
    assert torch.equal(P.p1, torch.stack([columns, rows], -1) + 0.5)
    assert torch.allclose(P.p1[:, 0] - P.p2[:, 0], pair.disparity[rows, columns])
    assert torch.allclose(
        P.truth[..., 1] - P.p1[:, None, None, 1], patch_offsets(SIZE, P.p1)[..., 1].expand(60, SIZE, SIZE)
    )
    left = sample(P.image1[None], P.p1[:, None, None] + patch_offsets(SIZE, P.p1))[:, 0]
    assert float(zncc(left, sample(P.image2[None], P.truth)[:, 0]).median()) > 0.97
    apart = (candidates.rows[:, None] - candidates.rows).abs() + (
        candidates.columns[:, None] - candidates.columns
    ).abs()
    assert int((apart + 99 * torch.eye(len(apart), dtype=torch.long)).min()) == 7


def test_tilts_are_spread_evenly_as_far_as_there_are_any():
    tilt = torch.tensor([5.0] * 50 + [15.0] * 3 + [75.0] * 50)
    chosen = spread_over_tilts(tilt, 43, np.random.default_rng(0))
    assert len(chosen) == len(chosen.unique()) == 43
    counts = [int(((tilt[chosen] >= a) & (tilt[chosen] < a + 10)).sum()) for a in (0, 10, 70)]
    assert counts == [20, 3, 20]
    assert len(spread_over_tilts(tilt, 500, np.random.default_rng(0))) == 103
