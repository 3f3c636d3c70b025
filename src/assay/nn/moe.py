"""Mixtures of experts: which experts an input goes to, how evenly they are used, and a pool of small experts.

routed = TopKRouter(d, experts=4, top=2)(v)          # v (B, d)
y = mix(ExpertPool(d, hidden, out, experts=4)(v), routed.gates)
loss = task_loss + 0.01 * balance_loss(routed)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Routing(NamedTuple):
    """Where inputs go.

    Attributes:
        gates: `(B, E)` weights of the experts, at least 0, sum 1; zero for experts not chosen.
        probabilities: `(B, E)` softmax over all experts, before the choice and without noise.
    """

    gates: Tensor
    probabilities: Tensor


class TopKRouter(nn.Module):
    """Gates of the `top` experts with the highest score W v, softmax over these alone.

    In training, normal noise of standard deviation `noise` is added to the scores before the choice, so that experts
    which fall behind are still tried.

    Args:
        d: width of the input.
        experts: number of experts E.
        top: experts an input goes to; None: all (dense).
        noise: standard deviation of the noise; None: 1/E, as in V-MoE.

    Raises:
        ValueError: no expert, `top` outside 1..E, or negative noise.

    Source: noisy top-k gating 1701.06538, fixed noise 2106.05974.
    """

    def __init__(self, d: int, experts: int, top: int | None = None, noise: float | None = None) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"a router needs at least one expert, got {experts}")
        self.top = experts if top is None else top
        if not 1 <= self.top <= experts:
            raise ValueError(f"top {top} must lie in 1..{experts}")
        self.noise = 1 / experts if noise is None else noise
        if self.noise < 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.score = nn.Linear(d, experts, bias=False)

    def forward(self, v: Tensor) -> Routing:
        """Gates of `v` `(B, d)`."""
        clean = self.score(v)
        noisy = clean + self.noise * torch.randn_like(clean) if self.training and self.noise else clean
        if self.top == clean.shape[-1]:
            return Routing(noisy.softmax(-1), clean.softmax(-1))
        best, chosen = noisy.topk(self.top, dim=-1)
        gates = torch.zeros_like(clean).scatter(-1, chosen, best.softmax(-1))
        return Routing(gates, clean.softmax(-1))


def balance_loss(routing: Routing) -> Tensor:
    """How unevenly experts are used: E * sum_k f_k p_k, 1 when even, E when one expert takes everything.

    f_k is the share of all choices that fell on expert k (no gradient), p_k its mean probability.

    Source: 2101.03961.
    """
    used = (routing.gates > 0).to(routing.gates.dtype)
    share = (used.sum(0) / used.sum()).detach()
    return routing.gates.shape[-1] * (share * routing.probabilities.mean(0)).sum()


def gate_entropy(gates: Tensor) -> Tensor:
    """Entropy of the mean gate `(B, E)` over log E: 1 when all experts carry equal weight, 0 when one carries all.

    Raises:
        ValueError: a single expert, for which it says nothing.
    """
    if gates.shape[-1] < 2:
        raise ValueError("the entropy of gates needs at least two experts")
    mean = gates.mean(0)
    return -torch.special.xlogy(mean, mean).sum() / math.log(gates.shape[-1])


class ExpertPool(nn.Module):
    """E networks of two layers, W2 relu(W1 v + b1) + b2, evaluated together.

    Meant for small experts: every expert sees every input, and gates of zero drop what was not chosen.

    Args:
        d, hidden, out: widths of input, hidden layer and output.
        experts: number of experts E.
        dropout: share of hidden units dropped in training.

    Raises:
        ValueError: no expert.
    """

    def __init__(self, d: int, hidden: int, out: int, experts: int, dropout: float = 0.0) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"a pool needs at least one expert, got {experts}")
        self.first = nn.Linear(d, experts * hidden)  # rows k*hidden..(k+1)*hidden belong to expert k
        self.second = nn.Parameter(torch.empty(experts, hidden, out))
        self.bias = nn.Parameter(torch.zeros(experts, out))
        self.dropout = nn.Dropout(dropout)
        nn.init.uniform_(self.second, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))

    def forward(self, v: Tensor) -> Tensor:
        """Outputs of all experts, `(B, E, out)`, for `v` `(B, d)`."""
        experts, hidden, _ = self.second.shape
        inner = self.dropout(torch.relu(self.first(v))).view(len(v), experts, hidden)
        return torch.einsum("bkh,kho->bko", inner, self.second) + self.bias


def mix(outputs: Tensor, gates: Tensor) -> Tensor:
    """Sum of the experts' outputs `(B, E, out)` weighted by gates `(B, E)`: `(B, out)`."""
    return torch.einsum("bko,bk->bo", outputs, gates)
