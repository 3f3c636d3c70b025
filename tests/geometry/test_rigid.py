"""Rigid fits against SciPy, under outliers, and where a reflection would fit better."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from scipy.spatial.transform import Rotation

from assay.geometry.rigid import as_matrix, kabsch, least_trimmed_rigid


def points(n: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(n)
    R = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    return torch.from_numpy(rng.normal(0, 20, (n, 3))), torch.from_numpy(R), torch.tensor([3.0, -8.0, 5.0]).double()


def test_kabsch_equals_scipy_on_noisy_points() -> None:
    x, R, t = points()
    y = x @ R.T + t + torch.from_numpy(np.random.default_rng(1).normal(0, 2, x.shape))
    found, shift = kabsch(x, y)
    theirs, _ = Rotation.align_vectors((y - y.mean(0)).numpy(), (x - x.mean(0)).numpy())
    np.testing.assert_allclose(found.numpy(), theirs.as_matrix(), atol=1e-9)
    torch.testing.assert_close(shift, y.mean(0) - found @ x.mean(0))


def test_weights_choose_points() -> None:
    x, R, t = points()
    y = x @ R.T + t
    y[:20] += 30
    weights = torch.ones(60)
    weights[:20] = 0
    torch.testing.assert_close(kabsch(x, y, weights)[0], R)


def test_trimming_survives_gross_outliers() -> None:
    x, R, t = points(200)
    y = x @ R.T + t
    y[:80] = torch.from_numpy(np.random.default_rng(2).normal(0, 60, (80, 3)))  # 40 %
    found, shift = least_trimmed_rigid(x, y)
    torch.testing.assert_close(found, R, atol=1e-5, rtol=0)
    torch.testing.assert_close(shift, t, atol=1e-5, rtol=0)
    assert float((kabsch(x, y)[0] - R).abs().max()) > 0.05  # without trimming they matter
    torch.testing.assert_close(as_matrix(found, shift)[:3, 3], shift)


def test_keeping_all_is_kabsch() -> None:
    x, R, t = points()
    y = x @ R.T + t + torch.from_numpy(np.random.default_rng(3).normal(0, 2, x.shape))
    torch.testing.assert_close(least_trimmed_rigid(x, y, keep=1.0)[0], kabsch(x, y)[0])


def test_never_a_reflection() -> None:
    x, _, _ = points()
    y = x * torch.tensor([1.0, 1.0, -1.0]).double()
    for R, _ in (kabsch(x, y), least_trimmed_rigid(x, y)):
        torch.testing.assert_close(torch.linalg.det(R), torch.tensor(1.0).double())


def test_bad_input() -> None:
    x = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="matched"):
        kabsch(x, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="keep"):
        least_trimmed_rigid(x, x, keep=0)
    with pytest.raises(ValueError, match="leaves 2"):
        least_trimmed_rigid(torch.randn(5, 3), torch.randn(5, 3), keep=0.5)
