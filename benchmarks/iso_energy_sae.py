"""Matching pursuit beside the plain way and beside scikit-learn, and what a penalty costs, on one thread in one run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from assay.methods.vision_language.iso_energy_sae import align_cosine
from assay.nn.sae import SparseAutoencoder, matching_pursuit
from benchmarks._measure import one_thread, ratio, row, side_by_side

ROWS, WIDTH, ATOMS, K = 256, 128, 1024, 12


def rows() -> list[dict[str, Any]]:
    """A training step's codes with their gradient, encoding, and a step with the penalty over one without."""
    generator = torch.Generator().manual_seed(0)
    dictionary = F.normalize(torch.randn(ATOMS, WIDTH, generator=generator), dim=1).requires_grad_()
    a = F.normalize(torch.randn(ROWS, WIDTH, generator=generator), dim=1)
    with one_thread():
        step = ratio(side_by_side(lambda: _gradient(matching_pursuit, a, dictionary),
                                  lambda: _gradient(plain_pursuit, a, dictionary), 5))  # fmt: skip
        same = (matching_pursuit(a, dictionary, K) - plain_pursuit(a, dictionary, K)).abs().max()
        sae = SparseAutoencoder(WIDTH, ATOMS, K, "topk")
        cost = ratio(side_by_side(lambda: _train(sae, a, True), lambda: _train(sae, a, False), 5))
        found = [
            row(f"matching pursuit and its gradient, {ROWS} rows on {ATOMS} atoms, {K} steps: time over a plain loop's",
                step, "times", at_most=0.7),
            row("the same: largest difference of a code", float(same.detach()), "", at_most=1e-4),
            row("a TopK training step with the cosine penalty: time over one without", cost, "times", at_most=2),
        ]  # fmt: skip
        return [*found, *_beside_sklearn(a, dictionary.detach())]


def _beside_sklearn(a: Tensor, dictionary: Tensor) -> list[dict[str, Any]]:
    """Encoding alone. Scikit-learn's pursuit is orthogonal: it fits better and is what its users would reach for."""
    try:
        from sklearn.linear_model import orthogonal_mp_gram
    except ImportError:
        return []
    atoms, vectors = dictionary.numpy().astype(np.float64), a.numpy().astype(np.float64)
    with torch.no_grad():
        took = ratio(
            side_by_side(
                lambda: matching_pursuit(a, dictionary, K),
                lambda: orthogonal_mp_gram(atoms @ atoms.T, atoms @ vectors.T, n_nonzero_coefs=K),
                3,
            )
        )
    return [row("encoding: time over scikit-learn's orthogonal pursuit", took, "times", at_most=0.5)]


def plain_pursuit(a: Tensor, dictionary: Tensor, k: int) -> Tensor:
    """Matching pursuit as it is written down: every step projects the residual on all atoms, with the graph."""
    residual, z = a, torch.zeros(len(a), len(dictionary))
    for _ in range(k):
        best, atom = (residual @ dictionary.T).max(1)
        c = best.relu()
        z = z.scatter_add(1, atom[:, None], c[:, None])
        residual = residual - c[:, None] * dictionary[atom]
    return z


def _gradient(pursuit: Any, a: Tensor, dictionary: Tensor) -> None:
    z = pursuit(a, dictionary, K)
    torch.autograd.grad((a - z @ dictionary).square().mean(), dictionary)


def _train(sae: SparseAutoencoder, a: Tensor, penalised: bool) -> None:
    z = sae.encode(a)[1]
    loss = (a - sae.decode(z)).square().mean()
    if penalised:
        loss = loss + 1e-3 * align_cosine(z[: ROWS // 2], z[ROWS // 2 :])
    torch.autograd.grad(loss, list(sae.parameters()))
