"""Sparse autoencoders: codes, unit rows, and matching pursuit against a plain loop and scikit-learn."""

import itertools

import pytest
import torch
from sklearn.linear_model import orthogonal_mp

from assay.nn.sae import SparseAutoencoder, matching_pursuit


def plain_pursuit(a: torch.Tensor, dictionary: torch.Tensor, k: int) -> tuple[torch.Tensor, list[float]]:
    """Matching pursuit of one vector, as in a textbook, with the graph through all projections."""
    residual, z, norms = a, torch.zeros(len(dictionary), dtype=a.dtype), [float(a.detach().norm())]
    for _ in range(k):
        projections = dictionary @ residual
        j = int(projections.argmax())
        c = projections[j].clamp(min=0)
        z = z + c * torch.eye(len(dictionary), dtype=a.dtype)[j]
        residual = residual - c * dictionary[j]
        norms.append(float(residual.detach().norm()))
    return z, norms


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.parametrize("n", [3, 60])  # few rows: from the residual; many: through the Gram matrix
def test_pursuit_and_its_gradient_equal_the_plain_loop(n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    dictionary = unit(torch.randn(40, 12, generator=generator, dtype=torch.float64)).requires_grad_()
    a = unit(torch.randn(n, 12, generator=generator, dtype=torch.float64))
    weight = torch.randn(n, 40, generator=generator, dtype=torch.float64)
    found = matching_pursuit(a, dictionary, 6)
    (gradient,) = torch.autograd.grad((weight * found).sum(), dictionary)
    rows = [plain_pursuit(row, dictionary, 6) for row in a]
    expected = torch.stack([z for z, _ in rows])
    (plain,) = torch.autograd.grad((weight * expected).sum(), dictionary)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, plain)
    for _, norms in rows:
        assert all(after <= before + 1e-12 for before, after in itertools.pairwise(norms))


def test_on_orthonormal_atoms_the_largest_projections_are_taken() -> None:
    generator = torch.Generator().manual_seed(1)
    dictionary = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))[0]
    codes = torch.rand(9, 16, generator=generator, dtype=torch.float64)
    a = codes @ dictionary
    found = matching_pursuit(a, dictionary, 5)
    values, atoms = codes.topk(5, dim=1)
    torch.testing.assert_close(found, torch.zeros_like(codes).scatter(1, atoms, values))
    peer = orthogonal_mp(dictionary.T.numpy(), a.T.numpy(), n_nonzero_coefs=5)
    assert ((peer.T != 0) == (found.numpy() > 0)).all()


@pytest.mark.parametrize("kind", ["topk", "mp"])
def test_codes_are_sparse_and_not_negative(kind: str) -> None:
    sae = SparseAutoencoder(10, 30, 4, kind, seed=3)
    a = unit(torch.randn(200, 10, generator=torch.Generator().manual_seed(2)))
    pre, z = sae.encode(a)
    assert pre.shape == z.shape == (200, 30)
    assert (z >= 0).all()
    assert (z > 0).sum(1).max() <= 4
    torch.testing.assert_close(sae(a), z @ sae.dictionary)
    torch.testing.assert_close(sae.dictionary.norm(dim=1), torch.ones(30))


def test_both_kinds_start_alike_and_a_seed_decides() -> None:
    one, two = SparseAutoencoder(8, 20, 3, "topk", 5), SparseAutoencoder(8, 20, 3, "mp", 5)
    assert torch.equal(one.dictionary, two.dictionary)
    assert not torch.equal(one.dictionary, SparseAutoencoder(8, 20, 3, "mp", 6).dictionary)
    with torch.no_grad():
        two.dictionary *= 3
    two.unit_rows_()
    torch.testing.assert_close(two.dictionary, one.dictionary)


@pytest.mark.parametrize(("k_atoms", "k", "kind"), [(8, 9, "topk"), (8, 0, "mp"), (8, 2, "jumprelu")])
def test_impossible_options(k_atoms: int, k: int, kind: str) -> None:
    with pytest.raises(ValueError):
        SparseAutoencoder(4, k_atoms, k, kind)
