import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import wasserstein_distance

from assay.metrics.distribution import ClassifierFeatures, frechet_distance, sliced_wasserstein


def cloud(n, seed, shift=0.0, dim=4):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=g) @ torch.randn(dim, dim, generator=torch.Generator().manual_seed(9)) + shift


def test_frechet_agrees_with_the_matrix_square_root():
    x, y = cloud(300, 0).double(), 1.5 * cloud(200, 1, 0.3).double()
    c1, c2 = (np.cov(v.numpy().T) for v in (x, y))
    gap = (x.mean(0) - y.mean(0)).square().sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(x, y) == pytest.approx(float(gap), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 2) == pytest.approx(16, rel=1e-6)
    flat = torch.cat([x, torch.ones(300, 1)], dim=1)
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-6)


def test_sliced_wasserstein_in_one_dimension_is_wasserstein():
    x, y = cloud(400, 0, dim=1), cloud(400, 1, 1.0, dim=1)
    assert sliced_wasserstein(x, y, 3, p=1) == pytest.approx(
        wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()), rel=1e-4
    )


def test_sliced_wasserstein_of_a_shift_and_its_symmetry():
    x = cloud(500, 0, dim=2)
    shift = torch.tensor([3.0, 4.0])
    g = lambda: torch.Generator().manual_seed(1)  # noqa: E731
    found = sliced_wasserstein(x, x + shift, 4000, generator=g())
    assert found == pytest.approx(5 / 2**0.5, rel=0.03)  # mean square of a projection: |shift|^2 / d
    assert sliced_wasserstein(x, x) == 0
    other = cloud(700, 2, dim=2)
    assert sliced_wasserstein(x, other, generator=g()) == pytest.approx(sliced_wasserstein(other, x, generator=g()))
    assert sliced_wasserstein(x, other) < 0.5


def test_samples_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="one width"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 3))
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="order"):
        sliced_wasserstein(torch.zeros(3, 2), torch.zeros(3, 2), p=0.5)


def test_a_classifiers_features_tell_classes_apart_and_repeat():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    x = torch.randn(300, 6, generator=g) + 3 * torch.nn.functional.one_hot(labels, 6)
    net = ClassifierFeatures.trained(x, labels, width=8, hidden=16, steps=80)
    assert float((net.logits(x).argmax(1) == labels).float().mean()) > 0.9
    assert torch.equal(net(x), ClassifierFeatures.trained(x, labels, width=8, hidden=16, steps=80)(x))
    assert not any(p.requires_grad for p in net.parameters())
    assert frechet_distance(net(x[labels == 0]), net(x[labels == 1])) > 10 * frechet_distance(net(x[::2]), net(x[1::2]))
