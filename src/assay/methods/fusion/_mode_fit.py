"""Training of a network on sets of tokens: batches, class weight, and the epoch that did best on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from assay.methods.fusion.mode_experts import MEOut, mode_loss

Tokens = Mapping[str, Tensor]


@dataclass(frozen=True)
class Fit:
    """How a network is trained. AdamW, a batch of rows a step, cosine decay of the rate to zero.

    Attributes:
        epochs, batch, lr, decay: of the optimiser.
        rho1, rho2, eps, tau: of `mode_loss`; without effect on a network without experts.
        balance: weigh positives by n_negative / n_positive.
    """

    epochs: int = 40
    batch: int = 64
    lr: float = 5e-3
    decay: float = 1e-2
    rho1: float = 0.05
    rho2: float = 0.01
    eps: float = 0.25
    tau: float = 0.2
    balance: bool = True


def fit(
    model: nn.Module,
    tokens: Tokens,
    pad: Tokens,
    y: Tensor,
    how: Fit,
    generator: torch.Generator,
    after_epoch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train `model(tokens, pad) -> MEOut` in place.

    Args:
        tokens, pad: part -> (N, L, D) and (N, L).
        y: (N,) of 0 and 1, both present.
        generator: draws the order of rows.
        after_epoch: called with the epoch (from 0) and the model in evaluation mode.

    Raises:
        ValueError: one of the classes is missing.
    """
    positive = float(y.sum())
    if not 0 < positive < len(y):
        raise ValueError(f"training needs both outcomes, got {int(positive)} successes among {len(y)} rows")
    weight = (len(y) - positive) / positive if how.balance else None
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=how.lr, weight_decay=how.decay, fused=True)
    steps = how.epochs * -(-len(y) // how.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    for epoch in range(how.epochs):
        model.train()
        for rows in torch.randperm(len(y), generator=generator).split(how.batch):
            out: MEOut = model({k: v[rows] for k, v in tokens.items()}, {k: v[rows] for k, v in pad.items()})
            loss = mode_loss(
                out, y[rows], how.rho1, how.rho2, weight, eps=how.eps, tau=how.tau, generator=generator
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if after_epoch is not None:
            model.eval()
            with torch.inference_mode():
                after_epoch(epoch, model)
    return model.eval()


@torch.inference_mode()
def outputs(model: nn.Module, tokens: Tokens, pad: Tokens, batch: int = 2048) -> MEOut:
    """What the model says of all rows, in evaluation mode, batch by batch, on the processor."""
    model.eval()
    total = len(next(iter(tokens.values())))
    device = next(model.parameters()).device
    made = [
        model({k: v[a : a + batch].to(device) for k, v in tokens.items()},
              {k: v[a : a + batch].to(device) for k, v in pad.items()})
        for a in range(0, total, batch)
    ]  # fmt: skip
    if len(made) == 1 and device.type == "cpu":
        return made[0]
    first = made[0]

    def joined(field: str) -> dict:
        return {key: torch.cat([getattr(m, field)[key].cpu() for m in made]) for key in getattr(first, field)}

    logit = torch.cat([m.logit.cpu() for m in made])
    return MEOut(logit, joined("probs"), joined("keep"), joined("real"), joined("experts"), first.contrast)
