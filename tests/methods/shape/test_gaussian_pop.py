"""The removal error against leave-one-out rendering, its limits and invariances; pruning in rounds and in training."""

import math

import pytest
import torch

from assay.geometry.cameras import Camera, intrinsics, look_at, sphere_of_views
from assay.geometry.splats import SH_0, Splats, dense_weights, moved, render_dense, rotation_matrices
from assay.methods.shape import gaussian_pop
from assay.methods.shape.gaussian_pop import TrainingPruner, importance, keep_highest, prune, removal_error, schedule

F64 = torch.float64
BACKGROUND = torch.tensor([0.3, 0.1, 0.6], dtype=F64)


def scene(n=50, degree=0, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=F64)

    return Splats(
        0.5 * normal(n, 3), normal(n, 4), 0.3 * normal(n, 3) - 1.8, 2 * normal(n), 0.5 * normal(n, (degree + 1) ** 2, 3)
    )


def views(count=3, width=30, height=26):
    K = intrinsics(width, height, fov=50.0, dtype=F64)
    return sphere_of_views(count, radius=3.0, K=K, width=width, height=height)


def row(*at, opacity=0.6, color=(1.0, 1, 1), scale=0.12):
    """Round Gaussians at the given points."""
    n = len(at)
    color = torch.as_tensor(color, dtype=F64).expand(n, 3)
    return Splats(
        torch.tensor(at, dtype=F64),
        torch.tensor([[1.0, 0, 0, 0]], dtype=F64).repeat(n, 1),
        torch.full((n, 3), math.log(scale), dtype=F64),
        torch.as_tensor(opacity, dtype=F64).expand(n).logit(),
        ((color - 0.5) / SH_0)[:, None],
    )


def facing():
    R, t = look_at(
        torch.tensor([0.0, 0, -4], dtype=F64), torch.zeros(3, dtype=F64), torch.tensor([0.0, -1, 0], dtype=F64)
    )
    return [Camera(R, t, intrinsics(40, 40, focal=40.0, dtype=F64), 40, 40)]


def without(splats, k):
    return splats.select(torch.arange(len(splats)) != k)


def leave_one_out(splats, cameras, background=BACKGROUND, target=None):
    def loss(part):
        images = [render_dense(part, camera, background) for camera in cameras]
        against = target or [render_dense(splats, camera, background) for camera in cameras]
        return sum(((i - a) ** 2).sum() for i, a in zip(images, against, strict=True))

    return torch.stack([loss(without(splats, k)) - loss(splats) for k in range(len(splats))])


@pytest.mark.parametrize("degree", [0, 2])
def test_equals_leave_one_out_for_every_gaussian(degree):
    splats, cameras = scene(degree=degree), views()
    truth = leave_one_out(splats, cameras)
    torch.testing.assert_close(removal_error(splats, cameras, background=BACKGROUND), truth, rtol=1e-9, atol=1e-14)
    single = removal_error(splats.to(dtype=torch.float32), cameras, background=BACKGROUND)
    torch.testing.assert_close(single, truth, rtol=1e-4, atol=1e-9)
    assert single.dtype == F64


def test_equals_leave_one_out_behind_an_opaque_stack():
    depths = torch.linspace(-1, 1, 12).tolist()
    splats = row(*[(0.0, 0.0, z) for z in depths], opacity=0.98)
    found = removal_error(splats, facing(), background=BACKGROUND)
    torch.testing.assert_close(found, leave_one_out(splats, facing()), rtol=1e-8, atol=1e-30)
    # at the middle pixel 0.02^11 of the last one is left; sums from the back do not lose it in float32
    single = removal_error(splats.to(dtype=torch.float32), facing(), background=BACKGROUND)
    torch.testing.assert_close(single, found, rtol=1e-4, atol=0)


def test_target_variant_is_the_change_of_squared_error():
    splats, cameras = scene(), views()
    g = torch.Generator().manual_seed(5)
    target = [torch.rand(c.height, c.width, 3, generator=g, dtype=F64) for c in cameras]
    found = removal_error(splats, cameras, background=BACKGROUND, target=target)
    truth = leave_one_out(splats, cameras, target=target)
    torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-10)
    assert (found < 0).any()


def test_target_variant_with_the_own_render_is_the_plain_score():
    splats, cameras = scene(), views()
    own = [render_dense(splats, c, BACKGROUND) for c in cameras]
    torch.testing.assert_close(
        removal_error(splats, cameras, background=BACKGROUND, target=own),
        removal_error(splats, cameras, background=BACKGROUND),
        rtol=1e-9,
        atol=1e-13,
    )


def test_target_variant_rewards_the_removal_that_reaches_the_target():
    splats, cameras, k = scene(), views(), 7
    target = [render_dense(without(splats, k), c, BACKGROUND) for c in cameras]
    found = removal_error(splats, cameras, background=BACKGROUND, target=target)[k]
    gap = sum(((render_dense(splats, c, BACKGROUND) - i) ** 2).sum() for c, i in zip(cameras, target, strict=True))
    torch.testing.assert_close(found, -gap, rtol=1e-9, atol=0)


def test_nothing_is_lost_with_what_cannot_be_seen():
    splats = row((0.0, 0, 0), (0.3, 0, -9.0), (50.0, 0, 0), (0.2, 0, 0), opacity=[0.6, 0.6, 0.6, 0.001])
    found = removal_error(splats, facing())
    assert found[0] > 0
    assert (found[1:] == 0).all()


def test_a_gaussian_in_the_colour_behind_it_is_free():
    splats = row((0.0, 0, 0), color=BACKGROUND.tolist())
    assert removal_error(splats, facing(), background=BACKGROUND) < 1e-25
    stack = row((0.0, 0, -0.5), (0.0, 0, 0.5), color=BACKGROUND.tolist())
    assert removal_error(stack, facing(), background=BACKGROUND).max() < 1e-25
    assert importance(stack, facing(), "blend", background=BACKGROUND).min() > 1


def test_one_gaussian_on_black():
    color = torch.tensor([0.9, 0.4, 0.2], dtype=F64)
    splats = row((0.0, 0, 0), color=color.tolist())
    (weights,) = (w.weight for w in dense_weights(splats, facing()[0]))
    torch.testing.assert_close(removal_error(splats, facing()), (weights**2).sum()[None] * (color**2).sum())
    torch.testing.assert_close(importance(splats, facing(), "blend"), weights.sum()[None])
    torch.testing.assert_close(importance(splats, facing(), "max_weight"), weights.max()[None])


def test_disjoint_gaussians_add_up_and_others_do_not():
    def of_pair(splats):
        empty = render_dense(splats, facing()[0]) - 0
        return (empty**2).sum()

    apart, together = row((-1.0, 0, 0), (1.0, 0, 0)), row((0.0, 0, 0), (0.05, 0, 0.1))
    torch.testing.assert_close(removal_error(apart, facing()).sum(), of_pair(apart))
    assert removal_error(together, facing()).sum() < 0.8 * of_pair(together)


def test_permutation_motion_and_repeated_views():
    splats, cameras = scene(), views()
    score = removal_error(splats, cameras, background=BACKGROUND)
    order = torch.randperm(len(splats), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(removal_error(splats.select(order), cameras, background=BACKGROUND), score[order])
    torch.testing.assert_close(removal_error(splats, cameras * 2, background=BACKGROUND), 2 * score)
    R = rotation_matrices(torch.tensor([[0.9, 0.3, -0.2, 0.5]], dtype=F64))[0]
    t = torch.tensor([3.0, 1, -2], dtype=F64)
    turned = [Camera(c.R @ R.T, c.t - c.R @ R.T @ t, c.K, c.width, c.height) for c in cameras]
    torch.testing.assert_close(
        removal_error(moved(splats, R, t), turned, background=BACKGROUND), score, rtol=1e-6, atol=1e-10
    )


def test_one_compositing_pass_per_view_whatever_the_number_of_gaussians(monkeypatch):
    calls = []
    real = gaussian_pop.blocks
    monkeypatch.setattr(gaussian_pop, "blocks", lambda *a, **k: calls.append(1) or real(*a, **k))
    for n in (10, 200):
        calls.clear()
        removal_error(scene(n), views(4))
        assert len(calls) == 4


def test_memory_bound_does_not_change_the_score():
    splats, cameras = scene(150), views()
    torch.testing.assert_close(removal_error(splats, cameras, chunk=500), removal_error(splats, cameras))


def test_sensitivity_is_the_gauss_newton_determinant():
    splats, cameras = scene(5, seed=4), views(2, 12, 10)
    wide = Splats(splats.means, splats.quats, splats.log_scales + 0.5, splats.opacity_logit.clamp(-1, 3), splats.sh)

    def images(shape):
        part = Splats(shape[:, :3], wide.quats, shape[:, 3:], wide.opacity_logit, wide.sh)
        return torch.cat([render_dense(part, c, BACKGROUND).reshape(-1) for c in cameras])

    J = torch.autograd.functional.jacobian(images, torch.cat([wide.means, wide.log_scales], 1))
    normal = torch.einsum("pki,pkj->kij", J, J)
    torch.testing.assert_close(
        importance(wide, cameras, "sensitivity", background=BACKGROUND), torch.logdet(normal), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["pop", "blend", "max_weight", "opacity", "sensitivity"])
def test_prune_keeps_whole_rows_in_order(kind):
    splats, cameras = scene(), views()
    small, kept = prune(splats, cameras, 0.37, rounds=3, kind=kind)
    assert len(small) == len(kept) == round(0.37 * 50)
    assert (kept.diff() > 0).all()
    for name, x in small.tensors().items():
        assert torch.equal(x, splats.tensors()[name][kept])


def test_keeping_all_changes_nothing_and_a_number_is_a_number():
    splats, cameras = scene(), views()
    same, kept = prune(splats, cameras, 1.0)
    assert torch.equal(kept, torch.arange(50))
    assert torch.equal(same.means, splats.means)
    assert len(prune(splats, cameras, 13, rounds=2)[0]) == 13


def test_rounds_nest_score_the_survivors_and_follow_the_schedule():
    splats, cameras, seen = scene(), views(), []

    def record(part, number):
        seen.append(part)
        return part

    prune(splats, cameras, 0.2, rounds=4, refine=record)
    assert [len(part) for part in seen] == schedule(50, 0.2, 4) == [33, 22, 15, 10]
    for before, after in zip([splats, *seen], seen, strict=False):
        scores = removal_error(before, cameras)
        assert torch.equal(after.means, before.means[keep_highest(scores, len(after))])


def test_rounds_matter_for_gaussians_that_stand_in_for_one_another():
    # copies in one place: each alone is nearly free, all together are not; a lone faint one is dearer than any of them
    splats = row(*[(0.0, 0, 0.01 * i) for i in range(6)], (1.2, 0, 0), opacity=[0.9] * 6 + [0.12])
    cameras = facing()

    def error(part):
        return ((render_dense(part, cameras[0]) - render_dense(splats, cameras[0])) ** 2).sum()

    once, _ = prune(splats, cameras, 2, rounds=1)
    rounds, _ = prune(splats, cameras, 2, rounds=5)
    assert error(rounds) <= error(once)


def test_own_scores_and_refinements_are_taken():
    splats, cameras = scene(), views()
    small, kept = prune(
        splats,
        cameras,
        0.5,
        rounds=1,
        kind=lambda part: part.means[:, 0],
        refine=lambda part, number: Splats(**part.tensors() | {"opacity_logit": part.opacity_logit + 1}),
    )
    assert splats.means[kept, 0].min() >= splats.means[:, 0].median()
    torch.testing.assert_close(small.opacity_logit, splats.opacity_logit[kept] + 1)
    with pytest.raises(ValueError, match="refine returned 49"):
        prune(splats, cameras, 1.0, refine=lambda part, number: without(part, 0))


def test_ties_go_to_the_lower_index():
    assert keep_highest(torch.tensor([1.0, 2, 1, 2, 1]), 3).tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match="not a number"):
        keep_highest(torch.tensor([1.0, math.nan]), 1)


def test_training_pruner_prunes_at_its_steps_to_the_share():
    splats, cameras = scene(), views()
    pruner, left = TrainingPruner(0.2, at=(0.4, 0.6, 0.8)), {}
    for i in range(10):
        mask = pruner.step(i, 10, splats, cameras)
        if mask is not None:
            expected = keep_highest(removal_error(splats, cameras), int(mask.sum()))
            assert torch.equal(mask.nonzero()[:, 0], expected)
            splats = splats.select(mask)
            left[i] = len(splats)
    assert left == dict(zip([4, 6, 8], schedule(50, 0.2, 3), strict=True))
    with pytest.raises(ValueError, match="first pruning step"):
        TrainingPruner(0.2).step(6, 10, splats, cameras)


@pytest.mark.parametrize("keep", [0, -0.1, 0.001, 51, 2.5, math.nan, math.inf])
def test_shares_that_cannot_be_kept(keep):
    with pytest.raises(ValueError, match="keep must be"):
        prune(scene(), views(), keep)


def test_bad_input_is_refused():
    splats, cameras = scene(), views()
    with pytest.raises(ValueError, match="no cameras"):
        removal_error(splats, [])
    with pytest.raises(ValueError, match="no cameras"):
        prune(splats, [], 0.5)
    with pytest.raises(ValueError, match="unknown score"):
        importance(splats, cameras, "weight")
    with pytest.raises(ValueError, match="one target image per camera"):
        removal_error(splats, cameras, target=[torch.zeros(26, 30, 3)])
    with pytest.raises(ValueError, match="a target has shape"):
        removal_error(splats, cameras, target=[torch.zeros(3, 26, 30)] * 3)
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        prune(splats, cameras, 0.5, rounds=0)
    splats.means[3, 0] = math.inf
    with pytest.raises(ValueError, match="1 of 50 Gaussians have a means that is not finite"):
        removal_error(splats, cameras)
