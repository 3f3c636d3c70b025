"""Two-tower contrastive models: small encoders of two sides, the multi-positive CLIP loss, and a short training loop.

`clip_towers` loads published CLIP and SigLIP models with the same two functions, `encode_image` and `encode_text`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLPTower(nn.Module):
    """Rows `(B, in_dim)` to rows `(B, out_dim)`: linear layers with GELU between them; one layer when `depth` is 1."""

    def __init__(self, in_dim: int, out_dim: int, hidden: int = 256, depth: int = 2) -> None:
        super().__init__()
        widths = [in_dim, *[hidden] * (depth - 1), out_dim]
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            layers += [nn.GELU()] if i else []
            layers.append(nn.Linear(a, b))
        self.layers = nn.Sequential(*layers)
        self.head: nn.Linear = self.layers[-1]  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvTower(nn.Module):
    """Small pictures `(B, C, H, W)`, H and W from 8 up, to rows `(B, out_dim)`: four strided blocks and a mean."""

    def __init__(self, channels: int, out_dim: int, width: int = 32) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 4 * width]
        blocks: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            stride = 1 if i == 0 else 2
            blocks += [nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.GroupNorm(min(8, b), b), nn.GELU()]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


class TwoTowers(nn.Module):
    """Two encoders into one space, with a learnt temperature.

    Args:
        image, text: encoders into rows of one width, each with a linear `head` as its last layer.
        temperature: at the start; exp(logit_scale) = 1 / temperature, kept at most 100 as in CLIP.
        learn_temperature: whether it is trained.

    Raises:
        ValueError: a temperature below 0.01.
    """

    def __init__(
        self, image: nn.Module, text: nn.Module, temperature: float = 0.07, learn_temperature: bool = True
    ) -> None:
        super().__init__()
        if temperature < 0.01:
            raise ValueError(f"temperature must be at least 0.01, got {temperature}")
        self.image, self.text = image, text
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learn_temperature)

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), at most 100."""
        return self.logit_scale.clamp(max=math.log(100)).exp()

    def encode_image(self, x: Tensor) -> Tensor:
        """Unit rows `(B, D)`."""
        return F.normalize(self.image(x), dim=1)

    def encode_text(self, x: Tensor) -> Tensor:
        """Unit rows `(B, D)`."""
        return F.normalize(self.text(x), dim=1)

    @torch.no_grad()
    def separate(self, length: float, generator: torch.Generator) -> TwoTowers:
        """Start each side in a cone of its own: a random bias of that length in its last layer.

        Deep networks start so by themselves; shallow ones do not, and without cones there is no modality gap.
        """
        for tower in (self.image, self.text):
            bias = tower.head.bias
            bias.copy_(F.normalize(torch.randn(bias.shape, generator=generator), dim=0) * length)
        return self


def contrastive_loss(img: Tensor, txt: Tensor, scale: Tensor | float, positives: Tensor | None = None) -> Tensor:
    """The symmetric CLIP loss with any number of positives.

        S = scale * img txt^T;   L = (CE(S, P) + CE(S^T, P^T)) / 2,   targets P: positives over their number in the row

    Args:
        img, txt: `(B, D)` unit rows.
        scale: 1 / temperature.
        positives: `(B, B)` booleans, which texts belong to a picture; None for the diagonal.

    Raises:
        ValueError: rows that do not correspond, or a row or column without a positive.
    """
    if img.shape != txt.shape:
        raise ValueError(f"as many texts as pictures expected, got {tuple(img.shape)} and {tuple(txt.shape)}")
    scores = scale * img @ txt.T
    if positives is None:
        target = torch.arange(len(img), device=img.device)
        return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
    wanted = positives.to(scores.dtype)
    if (wanted.sum(0) == 0).any() or (wanted.sum(1) == 0).any():
        raise ValueError("every picture and every text needs a positive")
    rows, columns = wanted / wanted.sum(1, keepdim=True), (wanted / wanted.sum(0, keepdim=True)).T
    return (F.cross_entropy(scores, rows) + F.cross_entropy(scores.T, columns)) / 2


@dataclass(frozen=True)
class TowerTraining:
    """How towers are trained: AdamW with a one-cycle schedule.

    Attributes:
        epochs, batch, learning_rate, weight_decay: as usual.
        noise: standard deviation of noise added to inputs, a cheap augmentation.
    """

    epochs: int = 20
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    noise: float = 0.0


def train_towers(
    model: TwoTowers, images: Tensor, texts: Tensor, concepts: Tensor, how: TowerTraining, seed: int = 0
) -> list[float]:
    """Train on pairs; rows of one concept are positives of each other. Returns the mean loss of each epoch.

    Args:
        images, texts: `(n, ...)`, row i of one a pair with row i of the other.
        concepts: `(n,)` whole numbers.

    Raises:
        ValueError: rows that do not correspond.
    """
    if not len(images) == len(texts) == len(concepts):
        raise ValueError(f"pairs expected, got {len(images)} images, {len(texts)} texts, {len(concepts)} concepts")
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    steps = how.epochs * math.ceil(len(images) / how.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, how.learning_rate, total_steps=max(steps, 2))
    losses = []
    model.train()
    for _ in range(how.epochs):
        parts = torch.randperm(len(images), generator=generator).split(how.batch)
        total = 0.0
        for rows in parts:
            x, y, which = images[rows], texts[rows], concepts[rows]
            if how.noise:
                x = x + how.noise * torch.randn(x.shape, generator=generator)
                y = y + how.noise * torch.randn(y.shape, generator=generator)
            same = which[:, None] == which[None, :]
            loss = contrastive_loss(model.encode_image(x), model.encode_text(y), model.scale, same)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        losses.append(total / len(parts))
    model.eval()
    return losses
