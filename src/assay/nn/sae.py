"""Sparse autoencoders over vectors: TopK and matching pursuit, one dictionary of unit rows.

    z = encode(a) >= 0, at most k non-zeros        a_hat = z D,  D (K, d) with |D_j| = 1

TopK reads codes off one linear map, z = relu(top_k(W a + b)). Matching pursuit has no encoder weights: k times it takes
the atom that fits best what is left of the vector.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["topk", "mp"]


class SparseAutoencoder(nn.Module):
    """A dictionary of `k_atoms` directions in R^d and the way codes are found.

    Args:
        d: width of the vectors.
        k_atoms: atoms K.
        k: most atoms that describe one vector.
        kind: `"topk"` or `"mp"` (matching pursuit).
        seed: of the random start; both kinds start from the same dictionary.

    Raises:
        ValueError: an unknown kind, or sizes that are not positive, or k above K.

    Source: 2602.06218 (as used there)
    """

    def __init__(self, d: int, k_atoms: int, k: int, kind: Kind = "topk", seed: int = 0) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {kind!r}")
        if min(d, k) < 1 or k > k_atoms:
            raise ValueError(f"expected d >= 1 and 1 <= k <= k_atoms, got d={d}, k={k}, k_atoms={k_atoms}")
        self.d, self.k_atoms, self.k, self.kind = d, k_atoms, k, kind
        rows = torch.randn(k_atoms, d, generator=torch.Generator().manual_seed(seed))
        self.dictionary = nn.Parameter(F.normalize(rows, dim=1))
        if kind == "topk":
            self.weight = nn.Parameter(self.dictionary.detach().clone())
            self.bias = nn.Parameter(torch.zeros(k_atoms))

    def encode(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations and codes of rows `(n, d)`, both `(n, K)`.

        Pre-activations are W a + b (TopK) or the projections D a on all atoms (matching pursuit).
        """
        if self.kind == "topk":
            pre = F.linear(a, self.weight, self.bias)
            values, atoms = pre.topk(self.k, dim=1)
            return pre, torch.zeros_like(pre).scatter(1, atoms, values.relu())
        return a @ self.dictionary.T, matching_pursuit(a, self.dictionary, self.k)

    def decode(self, z: Tensor) -> Tensor:
        """Rows `(n, d)` of codes `(n, K)`."""
        return z @ self.dictionary

    def forward(self, a: Tensor) -> Tensor:
        """Reconstruction `(n, d)`."""
        return self.decode(self.encode(a)[1])

    @torch.no_grad()
    def unit_rows_(self) -> None:
        """Scale every atom to length 1; to be called after each step of an optimiser."""
        self.dictionary.copy_(F.normalize(self.dictionary, dim=1))


def matching_pursuit(a: Tensor, dictionary: Tensor, k: int) -> Tensor:
    """Non-negative matching pursuit: codes `(n, K)` of rows `(n, d)` on unit atoms `(K, d)`.

        r_0 = a;   j_t = argmax_j <r_t, D_j>,  c_t = max(0, <r_t, D_{j_t}>),  r_{t+1} = r_t - c_t D_{j_t},   t < k

    An atom may be taken again; its coefficients add up. Gradients flow through the coefficients and residuals, not
    through the choice, which is constant almost everywhere; so atoms are chosen first without a graph and only the k
    chosen ones of each row are walked with one.
    """
    atoms = _choose(a.detach(), dictionary.detach(), k)
    chosen = dictionary[atoms]
    residual, coefficients = a, []
    for t in range(k):
        c = (residual * chosen[:, t]).sum(1).relu()
        residual = residual - c[:, None] * chosen[:, t]
        coefficients.append(c)
    return a.new_zeros(len(a), len(dictionary)).scatter_add(1, atoms, torch.stack(coefficients, 1))


def _choose(a: Tensor, dictionary: Tensor, k: int) -> Tensor:
    """Atoms `(n, k)` in the order they are taken."""
    projections, atoms = a @ dictionary.T, []
    # Updating projections through the Gram matrix costs n K a step and K^2 d once; from the residual n K d a step.
    gram = dictionary @ dictionary.T if len(dictionary) < k * len(a) else None
    residual = a
    for _ in range(k):
        best, atom = projections.max(1)
        atoms.append(atom)
        c = best.relu()[:, None]
        if gram is not None:
            projections.addcmul_(gram[atom], c, value=-1)
        else:
            residual = residual - c * dictionary[atom]
            projections = residual @ dictionary.T
    return torch.stack(atoms, 1)
