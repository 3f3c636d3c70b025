import math

import pytest
import torch
from torch import nn

from assay.data.gaussian_flow import GaussianMixture, ring
from assay.methods.generation.flow_consist import (
    FlowConsist,
    consistency_target,
    forward_kernel,
    jump,
    own_velocity,
    path_point,
    rectify,
    sample,
)
from assay.nn.flow import integrate
from assay.nn.two_time import TwoTimeMLP

STD = 0.6


def spread(t):
    """Standard deviation of x_t for data N(0, STD^2)."""
    return ((1 - t) ** 2 * STD**2 + t**2).sqrt()


def exact(x, t, r, condition=None):
    """Average velocity of the flow of N(0, STD^2 I): the map scales by the ratio of the spreads."""
    t, r = t[:, None], r[:, None]
    now = (t - (1 - t) * STD**2) / spread(t) ** 2
    return x * torch.where(t - r > 1e-9, (1 - spread(r) / spread(t)) / (t - r).clamp(min=1e-9), now)


def marginal(x, tau, r, condition=None):
    return exact(x, tau, tau)


def times(n, generator):
    pair = torch.rand(2, n, generator=generator, dtype=torch.float64)
    return pair.max(dim=0)[0], pair.min(dim=0)[0]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_net(dim=2, **settings):
    torch.manual_seed(3)
    net = TwoTimeMLP(dim, hidden=24, blocks=2, **settings)
    nn.init.normal_(net.leave.weight, std=0.3)
    return net


def draws(n, dim=2, seed=0):
    g = seeded(seed)
    x, v = (torch.randn(n, dim, generator=g, dtype=torch.float64) for _ in range(2))
    return x, v, *times(n, g)


def test_a_step_that_reaches_r_has_the_velocity_itself_as_target():
    x, v, t, r = draws(64)
    assert torch.equal(consistency_target(random_net().double(), x, t, r, v, step=1.0), v)
    assert torch.equal(consistency_target(random_net().double(), x, t, t, v), v)


def test_the_exact_average_velocity_is_a_fixed_point_of_the_derivative_form():
    x, _, t, r = draws(200)
    v = exact(x, t, t)
    t = t.clamp(min=0.05)
    r = torch.minimum(r, t - 0.02)
    target = consistency_target(exact, x, t, r, exact(x, t, t), form="jvp")
    assert (target - exact(x, t, r)).abs().max() < 1e-5
    assert v.shape == target.shape


def test_the_discrete_target_comes_nearer_to_the_exact_one_as_the_square_of_its_step():
    x, _, t, r = draws(400)
    far = t - r > 0.25
    x, t, r = x[far], t[far], r[far]
    off = [
        (consistency_target(exact, x, t, r, exact(x, t, t), step=step) - exact(x, t, r)).abs().mean()
        for step in (0.2, 0.1, 0.05)
    ]
    assert 3 < off[0] / off[1] < 5
    assert 3 < off[1] / off[2] < 5


def test_jvp_agrees_with_central_differences():
    net = random_net().double()
    x, v, t, r = draws(50)
    h = 1e-5
    with torch.no_grad():
        change = (net(x + h * v, t + h, r) - net(x - h * v, t - h, r)) / (2 * h)
        slow = v - (t - r)[:, None] * change
    fast = consistency_target(net, x, t, r, v, form="jvp")
    assert (fast - slow).norm() / slow.norm() < 1e-3
    assert not fast.requires_grad


def bias_of_random_velocities(net, form, step=0.25):
    """Mean over x0 given x_t of the target of the pair's velocity, less the target of their mean; and its error."""
    mixture, n = ring(), 10_000
    g = seeded(1)
    t, r = torch.full((4,), 0.9), torch.tensor([0.0, 0.2, 0.4, 0.6])
    x = torch.randn(4, 2, generator=g)
    x0 = mixture.posterior_sample(x, t, n, g)
    pairs = (x - x0) / t[:, None]  # e - x0, for the e that leads x0 to x
    flat = [row.expand(n, *row.shape).flatten(0, 1) for row in (x, t, r)]
    targets = consistency_target(net, *flat, pairs.flatten(0, 1), step, form).view(n, 4, 2)
    single = consistency_target(net, x, t, r, mixture.velocity(x, t), step, form)
    return targets.mean(dim=0) - single, targets.std(dim=0) / math.sqrt(n)


def test_random_velocities_leave_the_mean_target_of_the_derivative_form_alone():
    bias, error = bias_of_random_velocities(random_net(), "jvp")
    assert (bias.abs() < 3.5 * error + 1e-4).all()


def test_random_velocities_bias_the_discrete_target_the_less_the_smaller_the_step():
    def curved(x, t, r, condition=None):
        return (1.5 * x).sin() * 2

    big, error = bias_of_random_velocities(curved, "discrete", 0.25)
    small, _ = bias_of_random_velocities(curved, "discrete", 0.05)
    assert (big.abs() / error).max() > 20
    assert small.abs().mean() < 0.5 * big.abs().mean()


def test_a_jump_to_the_same_time_is_the_identity_and_jumps_of_the_exact_flow_compose():
    x, v, t, _ = draws(32)
    assert torch.equal(jump(v, x, t, t), x)
    one, half, zero = torch.ones_like(t), torch.full_like(t, 0.5), torch.zeros_like(t)
    middle = jump(exact(x, one, half), x, one, half)
    assert torch.allclose(jump(exact(middle, half, zero), middle, half, zero), STD * x)
    assert torch.allclose(path_point(x, v, half), (x + v) / 2)


def test_sampling_calls_the_net_once_a_step_and_is_exact_for_the_exact_flow():
    calls = []

    def counted(x, t, r, condition=None):
        calls.append((float(t[0]), float(r[0])))
        return exact(x, t, r)

    noise = torch.randn(16, 2, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(sample(counted, noise), STD * noise)
    assert calls == [(1.0, 0.0)]
    assert torch.allclose(sample(counted, noise, steps=4), STD * noise)
    assert len(calls) == 5
    solved = integrate(own_velocity(exact), noise, torch.linspace(1, 0, 401), "heun")
    assert torch.allclose(solved, STD * noise, atol=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        sample(exact, noise, steps=0)


def test_the_forward_kernel_keeps_the_law_of_the_path_and_composes():
    r, m, tau = (torch.tensor([x]) for x in (0.2, 0.5, 0.8))
    a, b = forward_kernel(r, tau)
    assert torch.allclose(a * (1 - r), 1 - tau)
    assert torch.allclose(a**2 * r**2 + b**2, tau**2)
    (a1, b1), (a2, b2) = forward_kernel(r, m), forward_kernel(m, tau)
    assert torch.allclose(a1 * a2, a)
    assert torch.allclose(a2**2 * b1**2 + b2**2, b**2)
    a, b = forward_kernel(0.0, 0.3)
    assert (float(a), float(b)) == pytest.approx((0.7, 0.3))
    for bad in ((0.5, 0.5), (0.5, 0.4)):
        with pytest.raises(ValueError, match="later"):
            forward_kernel(*bad)


def test_rectification_vanishes_for_a_true_law_and_points_back_for_a_shifted_one():
    n, r = 20_000, 0.3
    g = seeded(2)
    noise = torch.randn(n, 2, generator=g, dtype=torch.float64)
    at = torch.full((n,), r, dtype=torch.float64)
    real = spread(at)[:, None] * noise
    shift = torch.tensor([0.5, -0.25], dtype=torch.float64)

    def shifted(x, tau, r, condition=None):
        """Velocity of the law of `real + shift`, noised: its mean is a shift, and moves as -a shift' does."""
        a = (1 - tau) / (1 - r)
        moved = exact(x - a[:, None] * shift, tau, tau)
        return moved - (shift / (1 - r[:, None]))

    same = rectify(exact, marginal, real, at, seeded(3))
    assert torch.allclose(same.gradient, torch.zeros_like(real))
    found = rectify(exact, shifted, real + shift, at, seeded(3))
    mean = found.gradient.mean(dim=0)
    assert torch.nn.functional.cosine_similarity(mean, shift, dim=0) > 0.99  # descent goes along -shift
    # The true velocity of the generated law has the least denoising loss; any other does worse.
    wrong = rectify(exact, marginal, real + shift, at, seeded(3))
    assert found.auxiliary_loss < wrong.auxiliary_loss


def test_the_velocity_of_real_data_minimises_the_auxiliary_loss_at_r_zero():
    data = STD * torch.randn(20_000, 2, generator=seeded(), dtype=torch.float64)
    at = torch.zeros(len(data), dtype=torch.float64)

    def scaled(factor):
        return rectify(exact, lambda x, tau, r, c=None: factor * exact(x, tau, tau), data, at, seeded(4)).auxiliary_loss

    assert scaled(1.0) < min(scaled(0.9), scaled(1.1))


def test_gradients_of_the_parts_reach_the_nets_they_are_for():
    flow = FlowConsist(random_net(), rectify_weight=0.5, warm=0.0, steps=10, generator=seeded())
    losses = flow.loss(torch.randn(32, 2, generator=seeded()), 5)
    total = float(sum(v for k, v in losses.items() if k != "loss"))
    assert float(losses["loss"]) == pytest.approx(total, abs=1e-6)
    grads = {
        part: [
            any(g is not None and bool(g.any()) for g in torch.autograd.grad(losses[part], list(net.parameters()),
                retain_graph=True, allow_unused=True))
            for net in (flow.net, flow.auxiliary)
        ]
        for part in ("flow", "consistency", "rectification", "auxiliary")
    }  # fmt: skip
    assert grads == {
        "flow": [True, False], "consistency": [True, False], "rectification": [True, False], "auxiliary": [False, True]
    }  # fmt: skip
    assert all(p.grad is None for p in flow.ema.average.parameters())


def test_the_schedule_is_flow_matching_then_consistency_then_rectification():
    flow = FlowConsist(random_net(), rectify_weight=0.5, warm=0.4, steps=20, generator=seeded())
    x = torch.randn(16, 2, generator=seeded())
    seen = {step: {k for k, v in flow.loss(x, step).items() if float(v) != 0} - {"loss"} for step in (7, 8, 9, 10)}
    assert seen[7] == {"flow"}
    assert seen[8] == seen[9] == {"flow", "consistency", "auxiliary"}
    assert seen[10] == {"flow", "consistency", "auxiliary", "rectification"}


def test_the_auxiliary_net_starts_as_the_averaged_weights():
    flow = FlowConsist(random_net(), auxiliary=TwoTimeMLP(2, 24, 2), rectify_weight=0.5, warm=0.0, steps=10)
    flow.loss(torch.randn(16, 2), 0)
    for mine, theirs in zip(flow.auxiliary.parameters(), flow.ema.average.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def trained(steps):
    law, g = GaussianMixture(torch.tensor([[2.0, 0.0]]), 0.3), seeded(5)
    torch.manual_seed(5)
    flow = FlowConsist(TwoTimeMLP(2, 32, 2), rectify_weight=0.6, steps=steps, generator=g, rectify_batch=32)
    flow.fit(lambda: (law.sample(128, g), None, None), 3e-3)
    return flow, law


def test_fitting_learns_the_flow_map_of_a_gaussian_up_to_its_step():
    flow, law = trained(400)
    noise = torch.randn(500, 2, generator=seeded(6))
    drawn = sample(flow.ema.average, noise)
    steps = integrate(law.velocity, noise, torch.linspace(1, 0, 5), "euler")  # what targets with steps of 0.25 lead to
    assert (drawn - steps).norm(dim=1).mean() < 0.15
    assert (drawn - law.flow_map(noise, 50)).norm(dim=1).mean() < 0.35  # noise itself is 2.1 away


def test_fitting_repeats_to_the_bit():
    for a, b in zip(trained(20)[0].parameters(), trained(20)[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_function_as_velocity_is_what_targets_follow():
    mixture = ring()
    asked = []

    def closed(x, t):
        asked.append(len(x))
        return mixture.velocity(x, t)

    flow = FlowConsist(random_net(), velocity=closed, warm=0.0, steps=4, generator=seeded())
    x0 = mixture.sample(32, seeded())
    given = flow.loss(x0, 0)
    assert asked == [16]
    # The averaged weights are the exact velocity here, so that both arms must see the same target.
    flow = FlowConsist(
        random_net(), velocity=lambda x, t: flow.ema.average(x, t, t), warm=0.0, steps=4, generator=seeded()
    )
    same = FlowConsist(random_net(), velocity="marginal", warm=0.0, steps=4, generator=seeded())
    assert torch.equal(flow.loss(x0, 0)["consistency"], same.loss(x0, 0)["consistency"])
    assert float(given["consistency"]) != float(same.loss(x0, 0)["consistency"])


def test_paired_noise_is_used_as_given():
    flow = FlowConsist(random_net(), warm=1.0, steps=4, generator=seeded())
    with torch.no_grad():
        for p in flow.net.parameters():
            p.zero_()
    x0 = torch.randn(64, 2, generator=seeded())
    assert float(flow.loss(x0, 0, noise=x0.clone())["flow"]) == 0  # e - x0 = 0


def test_guidance_is_learned_into_the_velocity_of_rows_that_keep_their_class():
    net = random_net(classes=3)
    flow = FlowConsist(net, guidance=2.0, null=net.null, class_dropout=0.3, warm=1.0, steps=4, generator=seeded())
    x, t = torch.randn(8, 2, generator=seeded()), torch.full((8,), 0.5)
    pair, labels = torch.randn(8, 2, generator=seeded(1)), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    target = flow._flow_target(x, t, pair, labels)
    with torch.no_grad():
        free = flow.ema.average(x, t, t)
    assert torch.equal(target[3], pair[3])
    assert torch.allclose(target[0], free[0] + 2 * (pair[0] - free[0]))
    lost = flow._dropped(torch.zeros(4000, dtype=torch.long)) == net.null
    assert 0.25 < float(lost.float().mean()) < 0.35
    assert torch.isfinite(flow.loss(x, 0, labels)["loss"])


class OneTime(nn.Module):
    def forward(self, x, t, condition=None):
        return x


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"net": OneTime()}, TypeError, "second time"),
        ({"velocity": "mean"}, ValueError, "marginal, conditional"),
        ({"form": "exact"}, ValueError, "discrete or jvp"),
        ({"step": 0.0}, ValueError, "step"),
        ({"warm": 1.5}, ValueError, "warm"),
        ({"guidance": 2.0}, ValueError, "null"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, error, says):
    with pytest.raises(error, match=says):
        FlowConsist(**{"net": random_net(), **change})


def test_times_that_cannot_be_are_refused():
    x, v, t, r = draws(4)
    with pytest.raises(ValueError, match="not be later"):
        consistency_target(exact, x, r, t, v)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        consistency_target(exact, x, t + 1, r, v)
    with pytest.raises(ValueError, match="unknown form"):
        consistency_target(exact, x, t, r, v, form="other")
    with pytest.raises(ValueError, match="must be above 0"):
        consistency_target(exact, x, t, r, v, step=-1)
    with pytest.raises(ValueError, match="later"):
        rectify(exact, exact, x, t, tau=t * 0.5)
