"""Correlation pyramid: invariances, slow oracles, the package convexAdam, and recovery of known motions."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from assay.geometry.warp import identity_grid, rigid_field, warp
from assay.methods.geometry3d._soft_information import mutual_information
from assay.methods.geometry3d.correlation_pyramid import (
    WEIGHTS,
    correlate,
    coupled_convex,
    inverse_consistent,
    label_grid,
    largest_search,
    match_level,
    memory_bytes,
    mind_ssc,
    pool,
    refine_field,
    register,
    replicate_outside,
)


def blobs(shape: tuple[int, int, int], seed: int = 0, sigma: float = 2.0) -> torch.Tensor:
    """A smooth random volume in 0..1 that wraps around."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = gaussian_filter(noise, sigma, mode="wrap")
    low, high = smooth.min(), smooth.max()
    return torch.from_numpy((smooth - low) / (high - low) + 0.01).float()


def features(shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return mind_ssc(blobs(shape, seed)[None, None], 1, 1)


def test_features_are_blind_to_contrast() -> None:
    img = blobs((14, 13, 12))[None, None].double()
    m = mind_ssc(img, 2, 2)
    assert m.shape == (1, 12, 14, 13, 12)
    for a, b in ((3.0, -2.0), (-0.5, 7.0)):
        torch.testing.assert_close(mind_ssc(a * img + b, 2, 2), m, rtol=1e-4, atol=1e-6)
    assert float(m.min()) > 0
    torch.testing.assert_close(m.amax(1), torch.ones_like(m[:, 0]))
    assert torch.equal(mind_ssc(torch.ones(1, 1, 8, 8, 8)), torch.ones(1, 12, 8, 8, 8))  # nothing there, nothing NaN


def test_features_equal_a_slow_voxel() -> None:
    img, r, d = blobs((12, 12, 12), 3).double(), 1, 2
    m = mind_ssc(img[None, None], r, d)[0]
    neighbours = [v for v in product((-1, 0, 1), repeat=3) if sum(map(abs, v)) == 1]
    pairs = [
        (a, b) for i, a in enumerate(neighbours) for b in neighbours[:i] if math.dist(a, b) ** 2 == pytest.approx(2)
    ]
    assert len(pairs) == 12

    def ssd(x: tuple[int, ...], a: tuple[int, ...], b: tuple[int, ...]) -> float:
        cells = []
        for o in product(range(-r, r + 1), repeat=3):
            c = np.clip(np.array(x) + o, 0, 11)
            first, second = (np.clip(c + d * np.array(n), 0, 11) for n in (a, b))
            cells.append(float(img[tuple(first)] - img[tuple(second)]) ** 2)
        return float(np.mean(cells))

    for x in ((6, 5, 6), (0, 3, 11)):
        slow = np.array([ssd(x, a, b) for a, b in pairs])
        slow = slow - slow.min()
        np.testing.assert_allclose(np.sort(m[:, *x].numpy()), np.sort(np.exp(-slow / slow.mean())), rtol=1e-6)


def test_costs_equal_four_loops() -> None:
    torch.manual_seed(0)
    fix, mov, q = torch.rand(1, 3, 6, 5, 7), torch.rand(1, 3, 6, 5, 7), 2
    raw = torch.zeros(125, 6, 5, 7)
    for k, delta in enumerate(product(range(-q, q + 1), repeat=3)):
        for x in product(range(6), range(5), range(7)):
            y = [a + b for a, b in zip(x, delta, strict=True)]
            inside = all(0 <= a < n for a, n in zip(y, (6, 5, 7), strict=True))
            other = mov[0, :, *y] if inside else torch.zeros(3)
            raw[(k, *x)] = (fix[0, :, *x] - other).square().sum()
    slow = raw[:, None]
    for _ in range(2):
        slow = F.avg_pool3d(slow, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(correlate(fix, mov, q), slow[:, 0], rtol=1e-4, atol=1e-5)
    assert label_grid(q)[7].tolist() == [-2, -1, 0]


def test_identical_volumes_stay() -> None:
    f = features((10, 10, 10))
    cost = correlate(f, f, 2)
    assert len(cost) == 5**3
    centre = len(cost) // 2
    assert float(cost[centre].abs().max()) < 1e-6
    assert bool((cost[:, 3:-3, 3:-3, 3:-3].argmin(0) == centre).all())


@pytest.mark.parametrize("shift", [(4, -8, 0), (-4, 4, 8)])
def test_a_whole_shift_is_found_exactly(shift: tuple[int, int, int]) -> None:
    fixed, g, q = blobs((32, 32, 32), 1), 4, 2
    moving = torch.roll(fixed, shift, (0, 1, 2))  # so moving(x + shift) = fixed(x)
    pooled = [pool(mind_ssc(v[None, None], 1, 1), g) for v in (fixed, moving)]
    best = label_grid(q)[correlate(*pooled, q).argmin(0)]
    inner = best[3:-3, 3:-3, 3:-3]
    assert torch.equal(inner, (torch.tensor(shift) / g).expand_as(inner))
    result = register(fixed, moving, strides=(4, 3), q=q, radius=1, dilation=1)
    x = identity_grid(fixed.shape)[:, 9:-9, 9:-9, 9:-9].reshape(3, -1).T
    error = (result.map_points(x) - x - torch.tensor(shift)).norm(dim=1)
    assert float(error.mean()) < 0.5


def test_coupling_at_its_limits() -> None:
    cost = correlate(features((10, 9, 11), 1), features((10, 9, 11), 2), 2)
    labels = label_grid(2)

    def box(v: torch.Tensor) -> torch.Tensor:
        return F.avg_pool3d(v, 3, 1, 1, count_include_pad=False)

    plain = box(labels[cost.argmin(0)].permute(3, 0, 1, 2)[None])
    torch.testing.assert_close(coupled_convex(cost, 2, (0.0,)), plain)
    inner = (..., *[slice(2, -2)] * 3)  # at the border means over an even number can lie between two labels
    torch.testing.assert_close(coupled_convex(cost, 2, (math.inf,))[inner], box(plain.round())[inner])


def test_coupling_equals_the_formula() -> None:
    cost = correlate(features((7, 6, 5), 1), features((7, 6, 5), 2), 1).double()
    labels = label_grid(1).double()
    u = F.avg_pool3d(labels[cost.argmin(0)].permute(3, 0, 1, 2)[None], 3, 1, 1, count_include_pad=False)
    fields = []
    for weight in WEIGHTS:
        distance = (labels[:, :, None, None, None] - u).square().sum(1)
        chosen = labels[(cost + weight * distance).argmin(0)].permute(3, 0, 1, 2)[None]
        u = F.avg_pool3d(chosen, 3, 1, 1, count_include_pad=False)
        fields.append(u)
    torch.testing.assert_close(coupled_convex(cost, 1), torch.stack(fields).mean(0))
    torch.testing.assert_close(coupled_convex(cost, 1, average=False), fields[-1])


def test_inverse_consistency() -> None:
    c = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, 8, 8, 8)
    u, v = inverse_consistent(c, -c)
    torch.testing.assert_close(u, c)
    torch.testing.assert_close(v, -c)
    shape, generator = (16, 16, 16), np.random.default_rng(0)
    u, v = (
        torch.from_numpy(np.stack([gaussian_filter(generator.normal(size=shape), 4) for _ in range(3)]) * 20)[None]
        for _ in range(2)
    )

    def gap(u: torch.Tensor, v: torch.Tensor) -> float:
        return float((u + warp(v, u)).abs().max())

    assert gap(*inverse_consistent(u, v)) * 10 < gap(u, v)


def test_flipping_both_volumes_flips_the_field() -> None:
    fixed, moving = blobs((32, 32, 32), 4), blobs((32, 32, 32), 4).roll((2, 1, 0), (0, 1, 2)) ** 1.5
    kw = {"strides": (4,), "q": 2, "radius": 1, "dilation": 1, "refine": 0, "chain": "deformable"}
    u = register(fixed, moving, **kw).u
    flipped = register(fixed.flip(1), moving.flip(1), **kw).u.flip(2)
    flipped[1] *= -1
    torch.testing.assert_close(flipped, u, rtol=1e-3, atol=1e-3)


def test_the_released_information_term_is_nothing() -> None:
    torch.manual_seed(1)
    for _ in range(5):
        a, b = (torch.randn(40).double().softmax(0) for _ in range(2))
        joint = a[:, None] * b
        entropy = [-(p * p.log()).sum() for p in (a, b, joint)]
        assert abs(float(entropy[0] + entropy[1] - entropy[2])) < 1e-12


def test_our_information_term_is_something() -> None:
    torch.manual_seed(2)
    a = torch.rand(4000, dtype=torch.float64)
    alike, unrelated = mutual_information(a, (3 * a).sin()), mutual_information(a, torch.rand(4000).double())
    assert float(alike) > 1.5 > 0.5 > float(unrelated) > 0
    x = torch.rand(30, dtype=torch.float64, requires_grad=True)
    ends = torch.tensor([-0.5, 1.5]).double()  # keep the range, and with it the windows, fixed
    other = torch.rand(32).double()
    assert torch.autograd.gradcheck(lambda v: mutual_information(torch.cat([v, ends]), other, 8), x, atol=1e-4)
    with pytest.raises(ValueError, match="samples"):
        mutual_information(torch.rand(3), torch.rand(4))


def test_information_helps_where_features_are_left_out() -> None:
    fixed = blobs((24, 24, 24), 5, 3.0)[None, None]
    moving = 1.2 - fixed.roll(1, 2)  # M(x + 1) = F(x), contrast turned around
    flat = torch.zeros(1, 1, 12, 12, 12)
    u = refine_field(torch.zeros(1, 3, 24, 24, 24), flat, flat, 15, 0.1, images=(fixed, moving), mi_weight=5.0)
    assert 0.3 < float(u[0, 0, 8:-8, 8:-8, 8:-8].mean()) < 1.8


def test_outside_the_mask_the_nearest_value_is_held() -> None:
    img = torch.zeros(1, 1, 9, 9, 9)
    img[..., 2:7, 2:7, 2:7] = torch.rand(5, 5, 5) + 1
    held = replicate_outside(img, img > 0)
    core = (..., slice(3, 6), slice(3, 6), slice(3, 6))
    assert torch.equal(held[core], img[core])
    assert held[0, 0, 0, 4, 4] == img[0, 0, 3, 4, 4]
    assert float(held.min()) >= 1
    alone = torch.zeros(1, 1, 5, 5, 5)
    alone[0, 0, 2, 2, 2] = 3.0
    assert torch.equal(replicate_outside(alone, alone > 0), torch.full_like(alone, 3.0))  # too small to erode
    with pytest.raises(ValueError, match="empty"):
        replicate_outside(alone, torch.zeros_like(alone))


def test_rigid_chain_recovers_a_rotation_under_a_fan_mask() -> None:
    shape = (40, 44, 41)  # no multiple of the strides
    a = math.radians(7)
    motion = torch.eye(4, dtype=torch.float64)
    motion[:2, :2] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    centre = torch.tensor([20.0, 22.0, 20.0]).double()
    motion[:3, 3] = centre - motion[:3, :3] @ centre + torch.tensor([2.0, -1.5, 1.0]).double()
    moving = blobs(shape, 6, 2.5)
    fixed = (1.2 - warp(moving[None, None], rigid_field(motion, shape))) ** 2  # another contrast
    ball = (identity_grid(shape) - centre.float().view(3, 1, 1, 1)).norm(dim=0) < 16
    fixed = fixed[0, 0] * ball
    strides = (5, 4, 3, 2, 1)
    result = register(fixed, moving, mask_fixed=ball, strides=strides, q=2, radius=1, dilation=1, refine=0)
    x = ball.nonzero()[::7].double()
    truth = x @ motion[:3, :3].T + motion[:3, 3]
    errors = [float((level.map_points(x) - truth).norm(dim=1).mean()) for level in result.per_level]
    assert errors == sorted(errors, reverse=True), errors
    assert errors[-1] < 0.4, errors
    assert errors[-1] < float((x - truth).norm(dim=1).mean()) / 7
    torch.testing.assert_close(result.map_points(x), result.per_level[-1].map_points(x), atol=1e-3, rtol=0)
    assert [level.stride for level in result.per_level] == list(strides)
    deformable = register(
        fixed, moving, mask_fixed=ball, strides=(5, 4), q=2, radius=1, dilation=1, refine=0, chain="deformable"
    )
    torch.testing.assert_close(deformable.per_level[-1].map_points(x), deformable.map_points(x))


def test_same_step_as_the_package() -> None:
    """The convex step of convexAdam at its stride and search radius: within a label step, in the middle much closer."""
    package = pytest.importorskip("convexAdam.convex_adam_MIND")
    fixed = blobs((32, 32, 32), 7, 3.0)
    grid = identity_grid(fixed.shape)
    bend = torch.stack([2.5 * torch.sin(grid[1] / 9), 1.5 + 0 * grid[0], 2 * torch.cos(grid[0] / 11)])[None]
    moving = warp(fixed[None, None], bend)[0, 0]
    g, q = 4, 2
    theirs = package.convex_adam_pt(
        fixed, moving, mind_r=1, mind_d=2, lambda_weight=0, grid_sp=g, disp_hw=q, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    pooled = [pool(mind_ssc(v[None, None], 1, 2), g) for v in (fixed, moving)]
    ours = F.interpolate(match_level(*pooled, q, average=False) * g, scale_factor=g, mode="trilinear")[0]
    gap = (ours - torch.from_numpy(theirs).permute(3, 0, 1, 2)).norm(dim=0)
    assert float(gap.mean()) < 1.0, float(gap.mean())  # a label step is 4
    assert float(gap[8:-8, 8:-8, 8:-8].mean()) < 0.6, float(gap[8:-8, 8:-8, 8:-8].mean())
    np.testing.assert_allclose(  # the features themselves, in any order
        np.sort(package.MINDSSC(fixed[None, None], 1, 2, device="cpu").numpy(), axis=1),
        np.sort(mind_ssc(fixed[None, None], 1, 2).numpy(), axis=1), atol=1e-5,
    )  # fmt: skip


def test_bad_input() -> None:
    good = blobs((24, 24, 24))
    kw = {"strides": (3,), "q": 1}
    with pytest.raises(ValueError, match="one grid"):
        register(good, good[:-1], **kw)
    with pytest.raises(ValueError, match="8 x 6"):
        register(good, good)
    with pytest.raises(ValueError, match="not finite"):
        register(good, torch.where(good > 0.9, math.nan, good), **kw)
    with pytest.raises(ValueError, match="fixed mask is empty"):
        register(good, good, mask_fixed=torch.zeros(24, 24, 24), **kw)
    with pytest.raises(ValueError, match="chain"):
        register(good, good, chain="affine", **kw)
    with pytest.raises(ValueError, match="costs"):
        coupled_convex(torch.zeros(26, 3, 3, 3), 1)
    with pytest.raises(ValueError, match="features"):
        correlate(torch.zeros(1, 2, 3, 3, 3), torch.zeros(1, 2, 3, 3, 4), 1)
    with pytest.raises(ValueError, match="points"):
        register(good, good, refine=0, **kw).map_points(torch.zeros(3))


def test_the_largest_search_fits() -> None:
    for q in (1, 3, 6):
        assert largest_search((256, 256, 256), (6, 5, 4, 3), memory_bytes((256, 256, 256), (6, 5, 4, 3), q)) == q
    assert largest_search((256, 256, 256), (3,), 1000) == 0
