"""What the two branches of UniHash are trained on: class centres, pairs, each other, and codes near -1 and +1."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from scipy.linalg import hadamard
from torch import Tensor, nn

Init = Literal["hadamard", "random"]
Direction = Literal["both", "to-centre", "to-pair"]
LARGEST = -1e-7  # log-probabilities are kept below this, so that log(1 - P) stays finite


class HashCenters(nn.Module):
    """A learnable binary centre for every class.

        P_ic = softmax_c( sqrt(q) cos(u_i, h_c) )
        L_C = -(1/N) sum_i sum_c [ y_ic log P_ic + (1 - y_ic) log(1 - P_ic) ]

    Centres are kept as real numbers; their signs are used, and the gradient passes the sign unchanged. `hadamard`
    starts from rows of a Hadamard matrix, drawn without replacement and with a random sign each (any two differ in
    exactly q/2 bits, and no bit is the same for all); it needs C <= q and q a power of two, and where that does not
    hold the start is `random` signs, as with that choice.

    Args:
        classes: number of classes C.
        q: bits of a code.
        init: the start of the centres.
        generator: source of rows and signs; None: the global one.

    Raises:
        ValueError: fewer than 2 classes, no bit, or an unknown start.

    Source: 2601.09828 (loss, from a public review); Hadamard centres 1908.00347; straight-through signs are ours.
    """

    def __init__(self, classes: int, q: int, init: Init = "hadamard", generator: torch.Generator | None = None) -> None:
        super().__init__()
        if classes < 2 or q < 1:
            raise ValueError(f"centres need at least 2 classes and 1 bit, got {classes} and {q}")
        if init not in get_args(Init):
            raise ValueError(f"init {init!r}: expected one of {', '.join(get_args(Init))}")
        if init == "hadamard" and classes <= q and q & (q - 1) == 0:
            rows = torch.randperm(q, generator=generator)[:classes]
            sign = 2 * torch.randint(2, (classes, 1), generator=generator) - 1
            start = torch.from_numpy(hadamard(q))[rows] * sign
        else:
            start = 2 * torch.randint(2, (classes, q), generator=generator) - 1
        self.real = nn.Parameter(start.float())

    def binary(self) -> Tensor:
        """Centres of -1 and +1, `(C, q)`, through which gradients pass."""
        hard = torch.where(self.real > 0, 1.0, -1.0).to(self.real.dtype)
        return self.real + (hard - self.real).detach()

    def log_probabilities(self, u: Tensor) -> Tensor:
        """log P_ic, `(B, C)`, of continuous codes `u` `(B, q)`; the length of a code does not matter."""
        cosine = F.normalize(u, dim=1) @ F.normalize(self.binary(), dim=1).T
        return (u.shape[1] ** 0.5 * cosine).log_softmax(1)

    def loss(self, u: Tensor, y: Tensor) -> Tensor:
        """L_C of codes `u` `(B, q)` with labels `y` `(B, C)`, 1 for every class an item has, else 0.

        Raises:
            ValueError: labels that do not fit codes and centres.
        """
        if y.shape != (len(u), len(self.real)):
            raise ValueError(f"labels ({len(u)}, {len(self.real)}) expected, got {tuple(y.shape)}")
        log_p = self.log_probabilities(u).clamp(max=LARGEST)
        log_rest = torch.log(-torch.expm1(log_p))
        return -(y * log_p + (1 - y) * log_rest).sum(1).mean()


def pairwise_loss(u: Tensor, s: Tensor, alpha: float | None = None) -> Tensor:
    """Likelihood of which pairs of a batch are similar, given the inner products of their codes.

        Theta_ij = (alpha / 2) u_i . u_j
        L_P = mean over i != j of w_ij [ log(1 + exp Theta_ij) - s_ij Theta_ij ]

    w_ij gives similar and dissimilar pairs half of the weight each (all pairs the same where one kind is missing), and
    has mean 1. A batch without pairs gives 0.

    Args:
        u: continuous codes `(B, q)`.
        s: `(B, B)`, 1 where two items share a label, else 0.
        alpha: steepness; None: 16/q, so that Theta spans -8..8.

    Raises:
        ValueError: `s` does not fit `u`.

    Source: 2601.09828 (similarity and inner products, from a public review); the likelihood is that of DPSH
        (1511.03855) with the weights of HashNet (1702.00758), our choice.
    """
    batch, q = u.shape
    if s.shape != (batch, batch):
        raise ValueError(f"similarities ({batch}, {batch}) expected, got {tuple(s.shape)}")
    if batch < 2:
        return u.sum() * 0
    theta = (16 / q if alpha is None else alpha) / 2 * u @ u.T
    similar = s.to(u.dtype)
    other = 1 - torch.eye(batch, dtype=u.dtype, device=u.device)
    pairs, alike = batch * (batch - 1), (similar * other).sum()
    unlike = pairs - alike
    one_kind = (alike == 0) | (unlike == 0)
    weight = torch.where(
        one_kind,
        torch.ones_like(similar),
        pairs / 2 * (similar / alike.clamp(min=1) + (1 - similar) / unlike.clamp(min=1)),
    )
    return (weight * other * (F.softplus(theta) - similar * theta)).sum() / pairs


def mutual_loss(centre: Tensor, pair: Tensor, direction: Direction = "both") -> Tensor:
    """How far the branches' codes `(B, q)` of an item point apart; each learns from the other, held fixed.

        L_M = (1/N) sum_i [1 - cos(u^c_i, sg(u^p_i))] + [1 - cos(u^p_i, sg(u^c_i))]

    Args:
        direction: `to-centre` keeps only the first term (the centre branch learns), `to-pair` only the second.

    Raises:
        ValueError: codes of different shape, or an unknown direction.

    Source: 2601.09828 names the term; the cosine is that of the authors' earlier 2510.07703 (second-hand), the
        stopped gradients are ours.
    """
    if centre.shape != pair.shape:
        raise ValueError(f"codes of one shape expected, got {tuple(centre.shape)} and {tuple(pair.shape)}")
    if direction not in get_args(Direction):
        raise ValueError(f"direction {direction!r}: expected one of {', '.join(get_args(Direction))}")
    centre_learns = (1 - F.cosine_similarity(centre, pair.detach(), dim=1)).mean()
    pair_learns = (1 - F.cosine_similarity(pair, centre.detach(), dim=1)).mean()
    return {"both": centre_learns + pair_learns, "to-centre": centre_learns, "to-pair": pair_learns}[direction]


def quantization_loss(u: Tensor) -> Tensor:
    """How far continuous codes lie from -1 and +1: mean of (|u| - 1)^2."""
    return (u.abs() - 1).square().mean()
