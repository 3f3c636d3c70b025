import copy

import pytest
import torch
from torch import nn

from assay.nn import flow


def test_the_path_runs_from_data_to_noise_with_the_target_as_its_slope():
    g = torch.Generator().manual_seed(0)
    x, e = torch.randn(3, 2, 4, generator=g).double(), torch.randn(3, 2, 4, generator=g).double()
    t = torch.tensor([0.1, 0.5, 0.9]).double()
    torch.testing.assert_close(flow.path_point(x, e, torch.zeros(3).double()), x)
    torch.testing.assert_close(flow.path_point(x, e, torch.ones(3).double()), e)
    slope = (flow.path_point(x, e, t + 1e-6) - flow.path_point(x, e, t - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, flow.velocity_target(x, e), atol=1e-6, rtol=1e-6)


def test_data_noise_and_score_are_read_back_from_the_velocity():
    x, e, t = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0.2, 0.4, 0.6, 0.8])
    point, v = flow.path_point(x, e, t), flow.velocity_target(x, e)
    torch.testing.assert_close(flow.clean_from_velocity(point, v, t), x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(flow.noise_from_velocity(point, v, t), e, atol=1e-5, rtol=1e-5)
    score = flow.score_from_velocity(point, v, t)
    torch.testing.assert_close(flow.velocity_from_score(point, score, t), v, atol=1e-4, rtol=1e-4)


def gaussian_velocity(mean, std):
    """Exact velocity for data N(mean, std^2): E[e - x | x_t]."""

    def velocity(x, t):
        t = flow.expand_time(t, x)
        variance = (1 - t) ** 2 * std**2 + t**2
        return -mean + (t - (1 - t) * std**2) / variance * (x - (1 - t) * mean)

    return velocity


def test_score_of_a_gaussian_is_exact():
    x, t = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None], torch.full((6,), 0.3, dtype=torch.float64)
    v = gaussian_velocity(2.0, 0.5)(x, t)
    expected = -(x - 0.7 * 2.0) / (0.49 * 0.25 + 0.09)
    torch.testing.assert_close(flow.score_from_velocity(x, v, t), expected)


def test_the_solvers_reach_the_closed_form_flow_at_their_order():
    noise = torch.linspace(-2, 2, 9)[:, None].double()
    truth = 2.0 + 0.5 * noise
    velocity = gaussian_velocity(2.0, 0.5)

    def error(steps, method):
        return float((flow.integrate(velocity, noise, flow.time_steps(steps).double(), method) - truth).abs().max())

    assert error(256, "euler") < 0.02
    assert error(64, "heun") < 1e-3
    assert 1.7 < error(64, "euler") / error(128, "euler") < 2.3
    assert 3.3 < error(32, "heun") / error(64, "heun") < 4.7
    assert error(32, "heun") < error(64, "euler")


def test_solving_there_and_back_returns_to_the_start():
    x = torch.randn(5, 1).double()
    times = flow.time_steps(400).double()
    velocity = gaussian_velocity(1.0, 0.7)
    data = flow.integrate(velocity, x, times, "heun")
    torch.testing.assert_close(flow.integrate(velocity, data, times.flip(0), "heun"), x, atol=1e-4, rtol=1e-4)


def test_schedules_fall_from_one_to_zero_and_the_shift_favours_noise():
    plain, shifted = flow.time_steps(10), flow.time_steps(10, shift=3.0)
    for times in (plain, shifted):
        assert times[0] == 1
        assert times[-1] == 0
        assert (times.diff() < 0).all()
    assert (shifted[1:-1] > plain[1:-1]).all()


def test_drawn_times_follow_their_law():
    g = torch.Generator().manual_seed(0)
    uniform = flow.draw_times(20_000, g)
    normal = torch.logit(flow.draw_times(20_000, g, "logit-normal", mean=0.5, std=0.8))
    assert abs(uniform.mean() - 0.5) < 0.01
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(normal.mean() - 0.5) < 0.02
    assert abs(normal.std() - 0.8) < 0.02


def test_the_loss_is_zero_for_the_true_velocity_and_weights_count():
    x, e, t = torch.zeros(4, 3), torch.ones(4, 3), torch.full((4,), 0.5)
    assert flow.flow_loss(lambda a, b: torch.ones_like(a), x, e, t) == 0
    weight = torch.tensor([2.0, 0, 0, 0])
    assert flow.flow_loss(lambda a, b: torch.zeros_like(a), x, e, t, weight) == pytest.approx(0.5)


def test_guidance_of_one_is_the_conditional_and_of_zero_the_free():
    a, b = torch.randn(3), torch.randn(3)
    torch.testing.assert_close(flow.guided(a, b, 1.0), a)
    torch.testing.assert_close(flow.guided(a, b, 0.0), b)


def test_the_average_of_weights_follows_its_recurrence():
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    average, expected = flow.EMA(net, decay=0.9), 0.0
    for step in range(200):
        with torch.no_grad():
            net.weight.fill_(float(step % 3))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 3)
        average.update(net)
    assert average.average.weight.item() == pytest.approx(expected, rel=1e-5)
    before = copy.deepcopy(average.average.weight)
    nn.init.ones_(net.weight)
    torch.testing.assert_close(average.average.weight, before)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="steps 0"):
        flow.time_steps(0)
    with pytest.raises(ValueError, match="unknown solver"):
        flow.integrate(lambda x, t: x, torch.zeros(1, 1), flow.time_steps(2), "midpoint")
    with pytest.raises(ValueError, match="unknown kind"):
        flow.draw_times(2, kind="cosine")
