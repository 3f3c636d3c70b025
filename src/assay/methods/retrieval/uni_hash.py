"""UniHash: one short code for classes seen in training and for new ones.

Two hash heads stand on one backbone: the centre branch pulls items to binary class centres, the pair branch is trained
on which pairs share a label. A loss aligns their codes, and both draw on a shared pool of small experts.

    L = l1 L_C(u^c) + l2 L_P(u^p) + l3 L_M(u^c, u^p) + lq L_Q + lb L_balance,    code = sign(u^c + u^p)

    model = UniHash(backbone, d=256, q=64, classes=40)
    fit(model, tensor_batches(x, y, 128), Training(epochs=60))
    codes = model.codes(x)                                # bytes (N, 8)
    distance, index = hamming_search(codes[:5], codes, k=20)

Source: 2601.09828. L_C and the sum of the three losses are known from public reviews of the paper; the form of L_P,
the wiring of the experts, the quantisation term and the code used for search are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.methods.retrieval._hash_experts import Exchange, SplitMergeExperts
from assay.methods.retrieval._hash_losses import (
    Direction,
    HashCenters,
    mutual_loss,
    pairwise_loss,
    quantization_loss,
)
from assay.metrics.hamming import HammingIndex, hamming_search, pack_codes
from assay.metrics.retrieval import mean_average_precision

__all__ = [
    "Exchange",
    "HammingIndex",
    "HashCenters",
    "Hashed",
    "SplitMergeExperts",
    "Training",
    "UniHash",
    "Weights",
    "fit",
    "hamming_search",
    "mean_average_precision",
    "mutual_loss",
    "pack_codes",
    "pairwise_loss",
    "quantization_loss",
    "tensor_batches",
]

Which = Literal["both", "centre", "pair"]
Batches = Callable[[torch.Generator], Iterable[tuple[Tensor, Tensor]]]
BLOCK = 1024  # rows coded at once


@dataclass(frozen=True)
class Weights:
    """Weights of the losses. A branch of weight 0 is not quantised, and what has weight 0 is not computed.

    Attributes:
        centre, pair, align: l1, l2, l3.
        quantise: lq, for each branch that is trained.
        balance: lb, of the experts' load-balance loss.
        direction: which branch learns from the other.
    """

    centre: float = 1.0
    pair: float = 1.0
    align: float = 0.5
    quantise: float = 0.1
    balance: float = 0.01
    direction: Direction = "both"


@dataclass(frozen=True)
class Training:
    """How a network is trained: Adam with decoupled weight decay, rates that fall to 0 along a cosine.

    Attributes:
        epochs: passes over the data.
        learning_rate: of heads, experts and centres.
        backbone_rate: of the backbone; None: as the heads, 0: the backbone stays as it is.
        weight_decay: of all weights but the centres.
        weights: of the losses.
        seed: of batches, dropout and the noise of gates.
    """

    epochs: int = 60
    learning_rate: float = 1e-3
    backbone_rate: float | None = 1e-4
    weight_decay: float = 0.0
    weights: Weights = field(default_factory=Weights)
    seed: int = 0


class Hashed(NamedTuple):
    """Features `(B, d)`, continuous codes of the branches `(B, q)` and their exchange."""

    features: Tensor
    centre: Tensor
    pair: Tensor
    exchange: Exchange


class UniHash(nn.Module):
    """Backbone, two hash heads with shared experts, and class centres.

    Args:
        backbone: any module that turns a batch of inputs into features `(B, d)`.
        d: width of the features.
        q: bits of a code, a multiple of 8.
        classes: number of classes C in training.
        experts, top, hidden, dropout, noise, tied, private: of `SplitMergeExperts`.

    Raises:
        ValueError: q no positive multiple of 8, fewer than 2 classes, or what `SplitMergeExperts` refuses.
    """

    def __init__(
        self,
        backbone: nn.Module,
        d: int,
        q: int,
        classes: int,
        *,
        experts: int = 4,
        top: int = 2,
        hidden: int | None = None,
        dropout: float = 0.0,
        noise: float | None = None,
        tied: bool = False,
        private: bool = True,
    ) -> None:
        super().__init__()
        if q < 8 or q % 8:
            raise ValueError(f"{q} bits: a code has a positive multiple of 8, so that it packs into bytes")
        self.q, self.classes = q, classes
        self.backbone = backbone
        self.heads = SplitMergeExperts(d, q, experts, top, hidden, dropout, noise, tied, private)
        self.centers = HashCenters(classes, q)

    def forward(self, x: Tensor) -> Hashed:
        """Features and continuous codes of a batch."""
        v = self.backbone(x)
        return Hashed(v, *self.heads(v))

    def loss(self, out: Hashed, y: Tensor, weights: Weights | None = None) -> Tensor:
        """The weighted sum of the losses.

        Args:
            out: what `forward` gave.
            y: classes `(B,)`, or rows `(B, C)` with 1 for every class an item has.
            weights: of the losses; None: their defaults.

        Raises:
            ValueError: rows of another width, or no loss with weight.
        """
        w = Weights() if weights is None else weights
        if not (w.centre or w.pair or w.align):
            raise ValueError("all losses have weight 0")
        rows = F.one_hot(y, self.classes).to(out.centre.dtype) if y.ndim == 1 else y.to(out.centre.dtype)
        total = out.centre.new_zeros(())
        if w.centre:
            total = total + w.centre * self.centers.loss(out.centre, rows) + w.quantise * quantization_loss(out.centre)
        if w.pair:
            similar = (rows @ rows.T > 0).to(rows.dtype)
            total = total + w.pair * pairwise_loss(out.pair, similar) + w.quantise * quantization_loss(out.pair)
        if w.align:
            total = total + w.align * mutual_loss(out.centre, out.pair, w.direction)
        if w.balance and out.exchange.centre is not None:
            total = total + w.balance * out.exchange.balance
        return total

    @torch.no_grad()
    def signs(self, x: Tensor, which: Which = "both") -> Tensor:
        """Continuous codes `(B, q)` whose signs are the bits: u^c + u^p, or one branch's. Evaluation mode, in blocks.

        Raises:
            ValueError: an unknown choice.
        """
        if which not in get_args(Which):
            raise ValueError(f"which {which!r}: expected one of {', '.join(get_args(Which))}")

        def code(out: Hashed) -> Tensor:
            return {"both": out.centre + out.pair, "centre": out.centre, "pair": out.pair}[which]

        return torch.cat([code(out) for out in self._blocks(x)])

    def codes(self, x: Tensor, which: Which = "both") -> NDArray[np.uint8]:
        """Packed codes `(B, q/8)`: a bit is set where the sum of the branches (or the branch) is positive."""
        return pack_codes(self.signs(x, which).cpu().numpy())

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Features `(B, d)` in evaluation mode."""
        return torch.cat([out.features for out in self._blocks(x)])

    def _blocks(self, x: Tensor) -> Iterator[Hashed]:
        was = self.training
        self.eval()
        try:
            for part in x.split(BLOCK):
                yield self(part)
        finally:
            self.train(was)


def tensor_batches(x: Tensor, y: Tensor, size: int = 128) -> Batches:
    """Shuffled batches of tensors; a last batch of one item is left out (it holds no pair).

    Args:
        x: inputs `(N, ...)`.
        y: classes `(N,)` or rows `(N, C)`.
        size: items of a batch.

    Raises:
        ValueError: tensors of different length, or fewer than two items.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"two or more items with a label each expected, got {len(x)} and {len(y)}")

    def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(x), generator=generator).split(size):
            if len(rows) > 1:
                yield x[rows], y[rows]

    return batches


def fit(model: UniHash, batches: Batches, training: Training | None = None, device: str = "cpu") -> list[float]:
    """Train a network in place.

    Args:
        model: the network; it is moved to `device`.
        batches: called once an epoch with the generator of shuffles; yields inputs with classes `(B,)` or rows
            `(B, C)`. Every epoch has as many batches.
        training: how; None: the defaults.
        device: where.

    Returns:
        mean loss of every epoch.

    Raises:
        FloatingPointError: the loss became infinite or NaN.
    """
    how = Training() if training is None else training
    model.to(device).train()
    backbone_rate = how.learning_rate if how.backbone_rate is None else how.backbone_rate
    backbone = [p for p in model.backbone.parameters() if p.requires_grad] if backbone_rate else []
    model.backbone.train(bool(backbone))
    groups = [
        {"params": list(model.heads.parameters()), "lr": how.learning_rate, "weight_decay": how.weight_decay},
        {"params": list(model.centers.parameters()), "lr": how.learning_rate, "weight_decay": 0.0},
    ]
    if backbone:
        groups.insert(0, {"params": backbone, "lr": backbone_rate, "weight_decay": how.weight_decay})
    optimiser = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(how.epochs, 1))
    order = torch.Generator().manual_seed(how.seed)
    history = []
    with torch.random.fork_rng():
        torch.manual_seed(how.seed)
        for epoch in range(how.epochs):
            losses = []
            for x, y in batches(order):
                optimiser.zero_grad()
                loss = model.loss(model(x.to(device)), y.to(device), how.weights)
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
            history.append(float(torch.stack(losses).mean()))
            if not np.isfinite(history[-1]):
                raise FloatingPointError(f"the loss is {history[-1]} in epoch {epoch + 1}; a smaller rate may help")
            schedule.step()
    model.eval()
    return history
