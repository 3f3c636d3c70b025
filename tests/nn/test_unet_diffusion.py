"""U-Net, control branch, schedules and DDIM: limit cases, gradients, and diffusers' scheduler as the oracle."""

import pytest
import torch

from assay.nn.control import ControlBranch, ControlledUNet, zero_conv
from assay.nn.diffusion import CLEAN, Schedule, ddim, ddim_step, even_times, quadratic_times
from assay.nn.unet import UNet, timestep_features


def a_unet(**more) -> UNet:
    torch.manual_seed(0)
    net = UNet(3, 3, widths=(8, 12), time_width=16, **more)
    for p in net.parameters():  # zero-initialised layers would hide faults
        torch.nn.init.normal_(p, std=0.2)
    return net


def test_unet_takes_any_size_time_and_condition() -> None:
    net = a_unet(condition_channels=2)
    x, c = torch.randn(2, 3, 13, 10), torch.randn(2, 2, 13, 10)
    out = net(x, torch.tensor([3, 500]), c)
    assert out.shape == x.shape
    assert not torch.allclose(out, net(x, torch.tensor([3, 900]), c)[:, :])
    other = net(x, torch.tensor([3, 900]), c)
    assert torch.allclose(out[0], other[0], atol=1e-5)  # rows do not see each other
    assert not torch.allclose(out[1], other[1])
    assert not torch.allclose(out, net(x, torch.tensor([3, 500]), c + 1))
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_unet_starts_at_zero_and_refuses() -> None:
    net = UNet(1, 2, widths=(4,), time_width=0)
    assert net(torch.randn(1, 1, 5, 5)).abs().max() == 0
    with pytest.raises(ValueError, match="takes none"):
        net(torch.randn(1, 1, 5, 5), torch.tensor([1]))
    with pytest.raises(ValueError, match="widths"):
        UNet(1, 1, widths=())
    with pytest.raises(ValueError, match="even"):
        timestep_features(torch.tensor([1]), 3)
    encoded = net.encode(torch.randn(1, 1, 5, 5))
    with pytest.raises(ValueError, match="2 control"):
        encoded.plus([encoded.middle])


def test_time_features_are_the_usual_ones() -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([0, 1, 37, 999])
    ours = timestep_features(t, 32)
    theirs = embeddings.get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_control_branch_starts_as_the_base_and_alone_learns() -> None:
    base = a_unet()
    x, t, hint = torch.randn(2, 3, 12, 12), torch.tensor([1, 7]), torch.randn(2, 5, 12, 12)
    before = base(x, t)
    net = ControlledUNet(base, ControlBranch.from_unet(base, 5))
    assert torch.equal(net(x, t, hint), before)
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # the first step moves the outgoing zeros, the second also what lies behind them
        optimiser.zero_grad()
        net(x, t, hint).square().mean().backward()
        optimiser.step()
    assert all(p.grad is None for p in base.parameters())
    assert all(p.grad is not None for p in net.branch.parameters())
    assert net.branch.enter.weight.abs().sum() > 0
    assert not torch.allclose(net(x, t, hint), before)
    assert not torch.allclose(net(x, t, hint), net(x, t, 2 * hint))
    assert torch.equal(base(x, t), before)
    assert zero_conv(3)(torch.randn(1, 3, 4, 4)).abs().max() == 0


@pytest.mark.parametrize("prediction", ["eps", "v", "x"])
def test_what_is_predicted_and_what_it_stands_for(prediction) -> None:
    schedule, g = Schedule.cosine(50), torch.Generator().manual_seed(0)
    x, noise = (torch.randn(4, 3, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.tensor([0, 10, 30, 48])
    x_t = schedule.noisy(x, noise, t)
    clean, found = schedule.split(x_t, schedule.target(x, noise, t, prediction), t, prediction)
    assert torch.allclose(clean, x, atol=1e-6)
    assert torch.allclose(found, noise, atol=1e-6)


@pytest.mark.parametrize(("prediction", "named"), [("eps", "epsilon"), ("v", "v_prediction"), ("x", "sample")])
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_ddim_against_diffusers(prediction, named, eta) -> None:
    diffusers = pytest.importorskip("diffusers")
    peer = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_start=1e-3, beta_end=0.05, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, prediction_type=named, steps_offset=0, timestep_spacing="leading",
    )  # fmt: skip
    peer.set_timesteps(7)
    schedule = Schedule.scaled_linear(100, 1e-3, 0.05)
    assert torch.allclose(schedule.kept, peer.alphas_cumprod, rtol=1e-5)
    times = even_times(7, 100)
    assert times == peer.timesteps.tolist()
    start = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))

    def predict(x, t):
        return torch.sin(3 * x) + t[:, None, None, None] / 100

    ours = ddim(schedule, predict, start, times, prediction, eta, torch.Generator().manual_seed(5))
    x, g = start, torch.Generator().manual_seed(5)
    for t in peer.timesteps:
        x = peer.step(predict(x, t.repeat(2)), t, x, eta=eta, generator=g).prev_sample
    assert torch.allclose(ours, x, atol=2e-4)
    again = ddim(schedule, predict, start, times, prediction, eta, torch.Generator().manual_seed(5))
    assert torch.equal(ours, again)


def test_a_perfect_network_is_followed_to_the_data() -> None:
    schedule = Schedule.linear(1000)
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    noise = torch.randn_like(x)

    def oracle(x_t, t):
        return schedule.target(x, (x_t - schedule.scales(t, x)[0] * x) / schedule.scales(t, x)[1], t, "v")

    times = quadratic_times(5, 600)
    assert times == [600, 384, 216, 96, 24]
    assert torch.allclose(ddim(schedule, oracle, schedule.noisy(x, noise, 600), times), x, atol=1e-6)
    assert torch.allclose(ddim_step(schedule, schedule.noisy(x, noise, 9), oracle(schedule.noisy(x, noise, 9), 9), 9,
                                    CLEAN), x, atol=1e-6)  # fmt: skip


def test_refusals() -> None:
    schedule = Schedule.linear(10)
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="must fall"):
        Schedule(torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Schedule(torch.tensor([1.5, 0.6]))
    with pytest.raises(ValueError, match="steps must lie"):
        schedule.noisy(x, x, 10)
    with pytest.raises(ValueError, match="sampling steps"):
        even_times(11, 10)
    with pytest.raises(ValueError, match="times must fall"):
        ddim(schedule, lambda x, t: x, x, [3, 5])
