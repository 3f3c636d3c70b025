"""Two hash heads that share a pool of small experts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from assay.nn.moe import ExpertPool, Routing, TopKRouter, balance_loss, mix


class Exchange(NamedTuple):
    """What the branches did with the pool.

    Attributes:
        balance: load-balance loss, mean of both routers' (1 is even); 0 without pool.
        centre, pair: routing of each branch; None without pool.
    """

    balance: Tensor
    centre: Routing | None
    pair: Routing | None


class SplitMergeExperts(nn.Module):
    """SM-MoH: each branch splits an input among shared experts by its own gates and merges what they say with its own.

        g^b = gates of branch b, the `top` largest of W_b v
        u^b = tanh( P_b v + sum_k g^b_k e_k(v) ),   b = centre, pair

    The experts e_k: R^d -> R^q are networks of two layers that both branches train; P_b is the branch's private head.
    With `experts=0` the heads share nothing but v.

    Args:
        d: width of the features v.
        q: bits of a code.
        experts: size E of the pool; 0: no pool.
        top: experts an input goes to (at most E).
        hidden: hidden width of an expert; None: d/2, at least 1.
        dropout: dropout inside experts.
        noise: noise of the gates in training, see `TopKRouter`.
        tied: ablation: both branches use one router.
        private: False: ablation without private heads.

    Raises:
        ValueError: neither experts nor private heads, or what `TopKRouter` refuses.

    Source: 2601.09828 names the module and its purpose; the wiring is ours.
    """

    def __init__(
        self,
        d: int,
        q: int,
        experts: int = 4,
        top: int = 2,
        hidden: int | None = None,
        dropout: float = 0.0,
        noise: float | None = None,
        tied: bool = False,
        private: bool = True,
    ) -> None:
        super().__init__()
        if experts < 0 or not (experts or private):
            raise ValueError(f"{experts} experts{'' if private else ' and no private heads'}: nothing makes a code")
        self.private_centre = nn.Linear(d, q) if private else None
        self.private_pair = nn.Linear(d, q) if private else None
        self.pool = self.gate_centre = self.gate_pair = None
        if experts:
            top = min(top, experts)
            self.gate_centre = TopKRouter(d, experts, top, noise)
            self.gate_pair = None if tied else TopKRouter(d, experts, top, noise)
            self.pool = ExpertPool(d, max(1, d // 2) if hidden is None else hidden, q, experts, dropout)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor, Exchange]:
        """Continuous codes of the centre and the pair branch, `(B, q)` each, and the exchange, for `v` `(B, d)`."""
        centre = self.private_centre(v) if self.private_centre is not None else 0
        pair = self.private_pair(v) if self.private_pair is not None else 0
        if self.pool is None:
            return torch.tanh(centre), torch.tanh(pair), Exchange(v.new_zeros(()), None, None)
        said = self.pool(v)
        to_centre = self.gate_centre(v)
        to_pair = to_centre if self.gate_pair is None else self.gate_pair(v)
        exchange = Exchange((balance_loss(to_centre) + balance_loss(to_pair)) / 2, to_centre, to_pair)
        centre = torch.tanh(centre + mix(said, to_centre.gates))
        return centre, torch.tanh(pair + mix(said, to_pair.gates)), exchange
