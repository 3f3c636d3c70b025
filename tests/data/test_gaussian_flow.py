import pytest
import torch
from scipy.stats import kstest, norm

from assay.data.gaussian_flow import GaussianMixture, MonotonePairs, ring


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_gaussian_has_the_linear_velocity_and_map():
    law = GaussianMixture(torch.zeros(1, 3, dtype=torch.float64), 0.5)
    x = torch.randn(50, 3, generator=seeded(), dtype=torch.float64)
    t = torch.rand(50, generator=seeded(1), dtype=torch.float64)
    slope = (t - (1 - t) * 0.25) / ((1 - t) ** 2 * 0.25 + t**2)
    assert torch.allclose(law.velocity(x, t), slope[:, None] * x)
    assert torch.allclose(law.flow_map(x), 0.5 * x, atol=1e-4)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.7, 0.2, 0.1])])
def test_the_velocity_is_the_mean_over_the_data_that_may_have_led_there(weights):
    law = GaussianMixture(torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]), 0.3, weights)
    x, t = torch.randn(6, 2, generator=seeded()), torch.tensor([0.2, 0.4, 0.5, 0.7, 0.9, 1.0])
    x0 = law.posterior_sample(x, t, 40_000, seeded(1))
    pairs = (x - x0) / t[:, None]
    error = pairs.std(dim=0) / 200
    assert ((pairs.mean(dim=0) - law.velocity(x, t)).abs() < 4 * error + 1e-4).all()


def test_the_flow_carries_noise_to_the_law():
    law = ring()
    drawn = law.flow_map(torch.randn(4000, 2, generator=seeded()), steps=100)
    nearest = torch.cdist(drawn, law.means).min(dim=1)
    assert torch.bincount(nearest[1], minlength=8).float().div(500).sub(1).abs().max() < 0.2
    assert float(nearest[0].square().mean()) == pytest.approx(2 * law.std**2, rel=0.1)
    straight = law.sample(4000, seeded(1))
    assert float(straight.norm(dim=1).mean()) == pytest.approx(float(drawn.norm(dim=1).mean()), rel=0.02)


def test_monotone_pairs_follow_their_law_and_never_cross():
    pairs = MonotonePairs(mode=1.0, std=0.3)
    noise = torch.randn(5000, 2, generator=seeded())
    data = pairs.pair(noise)
    mixed = lambda v: 0.5 * norm.cdf(v, -1, 0.3) + 0.5 * norm.cdf(v, 1, 0.3)  # noqa: E731
    assert kstest(data[:, 0].numpy(), mixed).pvalue > 0.01
    order = noise[:, 0].argsort()
    for t in (0.0, 0.3, 0.7):
        path = (1 - t) * data + t * noise
        assert (path[order, 0].diff() >= 0).all()
    assert torch.allclose(pairs.pair(torch.zeros(1, 2)), torch.zeros(1, 2), atol=1e-3)


def test_laws_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="above 0"):
        GaussianMixture(torch.zeros(1, 2), 0.0)
    with pytest.raises(ValueError, match="sum to 1"):
        GaussianMixture(torch.zeros(2, 2), 1.0, torch.tensor([0.5, 0.6]))
    with pytest.raises(ValueError, match="above 0"):
        MonotonePairs(std=0)
