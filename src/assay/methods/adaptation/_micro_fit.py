"""Training a window classifier: augmentation of sensor windows, class weights, cosine schedule.

The paper does not publish its recipe; this one is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Fit:
    """Settings of `fit`.

    Attributes:
        lr, weight_decay: of AdamW; lr follows half a cosine to 0.
        updates, batch: how long. smoothing: of labels. clip: largest gradient norm.
        jitter: standard deviation of added noise. scale: relative change of size. turn: degrees a triple of axes is
        rotated by. shift: largest shift in time, as a share of the window.
    """

    lr: float = 2e-3
    weight_decay: float = 1e-4
    updates: int = 300
    batch: int = 64
    smoothing: float = 0.05
    clip: float = 1.0
    jitter: float = 0.05
    scale: float = 0.1
    turn: float = 15.0
    shift: float = 0.1


def fit(model: nn.Module, x: Tensor, y: Tensor, how: Fit | None = None, *, generator: torch.Generator) -> nn.Module:
    """Train a classifier of windows in place.

    Class k weighs 1/sqrt(n_k), scaled to mean 1 over the sample.

    Args:
        model: (B, C, T) -> logits. x: standardised windows (N, C, T). y: classes (N,), int64.
        generator: order of windows and augmentation.

    Returns:
        The model in evaluation mode.

    Raises:
        ValueError: no windows, lengths that differ, or a loss that is not finite.
    """
    how = how or Fit()
    if not len(x) or len(x) != len(y):
        raise ValueError(f"training needs windows and as many labels, got {len(x)} and {len(y)}")
    classes = model.head.out_features if hasattr(model, "head") else int(y.max()) + 1
    count = torch.bincount(y, minlength=classes).float()
    weight = torch.where(count > 0, count.clamp(min=1).rsqrt(), torch.zeros_like(count))
    weight = weight / weight[y].mean()
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    model.train()
    order = torch.empty(0, dtype=torch.long)
    for update in range(how.updates):
        if not len(order):
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[: how.batch], order[how.batch :]
        if len(order) == 1:  # batch normalisation cannot learn from one window
            order = order[1:]
        for group in optimizer.param_groups:
            group["lr"] = how.lr * (1 + math.cos(math.pi * update / how.updates)) / 2
        logits = model(augment(x[rows], how, generator=generator))
        loss = F.cross_entropy(logits, y[rows], weight=weight, label_smoothing=how.smoothing)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss is not finite after {update} updates; check the input or lower lr {how.lr}")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), how.clip)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch: int = 256) -> Tensor:
    """Logits of windows in evaluation mode, (N, C, T) -> (N, K)."""
    training = model.training
    model.eval()
    out = torch.cat([model(part) for part in x.split(batch)])
    model.train(training)
    return out


def augment(x: Tensor, how: Fit, *, generator: torch.Generator) -> Tensor:
    """Windows with noise, another size, turned axes (where channels come in threes) and shifted in time."""
    n, channels, steps = x.shape
    x = x * (1 + how.scale * (2 * torch.rand(n, 1, 1, generator=generator) - 1))
    if how.turn and channels % 3 == 0:
        turns = rotations(n, math.radians(how.turn), generator=generator)
        x = torch.einsum("nij,ngjt->ngit", turns, x.reshape(n, channels // 3, 3, steps)).reshape(n, channels, steps)
    most = int(how.shift * steps)
    if most:
        start = torch.randint(-most, most + 1, (n, 1), generator=generator)
        at = (torch.arange(steps) + start).clamp(0, steps - 1)
        x = x.gather(2, at[:, None, :].expand(n, channels, steps))
    return x + how.jitter * torch.randn(x.shape, generator=generator)


def rotations(n: int, most: float, *, generator: torch.Generator) -> Tensor:
    """Rotation matrices (n, 3, 3) about random axes by angles uniform in [-most, most] radians."""
    axis = F.normalize(torch.randn(n, 3, generator=generator), dim=1)
    angle = (2 * torch.rand(n, generator=generator) - 1) * most
    zero = torch.zeros(n)
    a, b, c = axis.unbind(1)
    cross = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], dim=1).reshape(n, 3, 3)
    sin, cos = torch.sin(angle)[:, None, None], torch.cos(angle)[:, None, None]
    return torch.eye(3) + sin * cross + (1 - cos) * cross @ cross
