"""The pocket transformer of the DAVE study, and how maps of it are measured."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from assay.data.image.digit_scenes import DigitScenes
from assay.methods.explanation.dave import Transform
from assay.nn.vit import ViT

HELD_OUT = ((3, 0), (0, -3), (2, 2), (-3, 1), (1, 3), (-1, -3))  # none is a shift that DAVE averages over (-2..1)
ZOOM = 0.95
Maps = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Size:
    """Scenes and training of a scale."""

    digits: int
    digit_epochs: int
    scenes: int
    epochs: int
    width: int
    depth: int
    explained: int
    probed: int
    learning_rate: float = 2e-3


def as_input(images: Tensor) -> Tensor:
    """Images in [0, 1] as the model takes them, in [-1, 1]."""
    return 2 * images - 1


def train(single: DigitScenes, scenes: DigitScenes, size: Size, seed: int, labels: Tensor | None = None) -> ViT:
    """A multi-label transformer: first on single digits as one quarter of a scene, then on whole scenes.

    The first step takes a quarter of the tokens and teaches the digits; without it 2,500 scenes are too few.

    Args:
        labels: (N, 10), used for the whole scenes instead of their own, and the first step is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = ViT(image_size=(32, 32), patch=4, width=size.width, depth=size.depth, heads=4, classes=10)
    if labels is None:
        _fit(model, lambda x: _quarter(model, x, generator), single.images, single.labels, size.digit_epochs,
             size.learning_rate, generator)  # fmt: skip
    goal = scenes.labels if labels is None else labels
    _fit(model, model, scenes.images, goal, size.epochs, 0.7 * size.learning_rate, generator)
    return model.eval()


def randomised(model: ViT, seed: int) -> list[ViT]:
    """Copies whose weights are drawn anew from the head down, one part more each time: head, blocks, embedding."""
    torch.manual_seed(seed)
    fresh = ViT(model.options).state_dict()
    parts = ["head", "norm", *(f"blocks.{i}" for i in reversed(range(model.options.depth)))]
    parts += ["patches", "special_tokens", "positions"]
    steps, now = [], copy.deepcopy(model)
    for group in ([parts[0], parts[1]], *([p] for p in parts[2:-3]), parts[-3:]):
        state = now.state_dict()
        state.update(
            {k: v for k, v in fresh.items() if k.split(".")[0] in group or ".".join(k.split(".")[:2]) in group}
        )
        now.load_state_dict(state)
        steps.append(copy.deepcopy(now).eval())
    return steps


def detection_f1(model: nn.Module, scenes: DigitScenes) -> float:
    """F1 of the labels at a probability of one half."""
    with torch.no_grad():
        found = torch.cat([model(as_input(x)) for x in scenes.images.split(250)]) > 0
    truth = scenes.labels.bool()
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()).clamp_min(1))


def choose_targets(model: nn.Module, scenes: DigitScenes, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Per scene a random label that is present and detected, and a second such label, (N,) each; -1 where none is."""
    with torch.no_grad():
        found = torch.cat([model(as_input(x)) for x in scenes.images.split(250)]) > 0
    right = (found & scenes.labels.bool()).numpy()
    first, second = np.full(len(scenes), -1), np.full(len(scenes), -1)
    for i, row in enumerate(right):
        drawn = generator.permutation(np.flatnonzero(row))
        first[i] = drawn[0] if len(drawn) else -1
        second[i] = drawn[1] if len(drawn) > 1 else -1
    return torch.from_numpy(first), torch.from_numpy(second)


def shift_stability(maps: Maps, x: Tensor, target: Tensor, passes: tuple[tuple[int, int], ...] = HELD_OUT) -> float:
    """Mean rank correlation of M(X) with M(T X) moved back, over shifts and a crop of 95 % blown up again."""
    plain, found = maps(x, target), []
    for down, right in passes:
        move = Transform(down, right)
        back, known = move.invert(maps(move.apply(x), target).unsqueeze(1))
        found += _rank_correlations(plain, back[:, 0], known[0, 0] > 0)
    if passes is HELD_OUT:
        back = _zoomed(maps(_zoomed(x, ZOOM), target).unsqueeze(1), 1 / ZOOM)
        inside = _zoomed(_zoomed(torch.ones_like(x[:1, :1]), ZOOM, "border"), 1 / ZOOM, "zeros") > 0.999
        found += _rank_correlations(plain, back[:, 0], inside[0, 0])
    return float(np.mean(found))


def noise_stability(maps: Maps, x: Tensor, target: Tensor, share: float = 0.05) -> float:
    """Mean rank correlation of M(X) with M(X + noise)."""
    generator = torch.Generator().manual_seed(20_260_206)
    noisy = x + share * 2 * torch.randn(x.shape[1:], generator=generator)
    everywhere = torch.ones(x.shape[-2:], dtype=torch.bool)
    return float(np.mean(_rank_correlations(maps(x, target), maps(noisy, target), everywhere)))


def overlap(first: Tensor, second: Tensor) -> float:
    """Mean common mass of two maps' positive parts, each of mass one."""
    a, b = (m.clamp_min(0) / m.clamp_min(0).sum(dim=(1, 2), keepdim=True).clamp_min(1e-12) for m in (first, second))
    return float(torch.minimum(a, b).sum(dim=(1, 2)).mean())


def axis_spectrum(maps: Tensor) -> list[float]:
    """Mean power (dB) of the maps on the horizontal frequency axis, from 0 to one half a pixel."""
    window = torch.hann_window(maps.shape[-1]).view(-1, 1) * torch.hann_window(maps.shape[-1])
    centred = maps - maps.mean(dim=(1, 2), keepdim=True)
    power = torch.fft.fft2(centred * window).abs().square().mean(dim=0)
    axis = (power[0] + power[:, 0])[: maps.shape[-1] // 2 + 1] / power.sum()
    return [float(v) for v in 10 * torch.log10(axis + 1e-12)]


def _fit(
    model: ViT, forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, epochs: int, rate: float,
    generator: torch.Generator, batch: int = 64,
) -> None:  # fmt: skip
    """AdamW, one cycle, on images with colours permuted and shifted by up to 2 pixels."""
    if not epochs:
        return
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    steps = epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(batch):
            x = images[rows][:, torch.randperm(3, generator=generator)]
            top, left = torch.randint(0, 5, (2,), generator=generator).tolist()
            side = x.shape[-1]
            x = F.pad(x, (2, 2, 2, 2), mode="reflect")[:, :, top : top + side, left : left + side]
            loss = F.binary_cross_entropy_with_logits(forward(as_input(x)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def _quarter(model: ViT, x: Tensor, generator: torch.Generator) -> Tensor:
    """Logits of 16-pixel images (B, 3, 16, 16), seen as a random quarter of a scene whose rest is absent."""
    row, column = (4 * torch.randint(0, 2, (2,), generator=generator)).tolist()
    learnt = model.positions[:, 1:].unflatten(1, model.grid)[:, row : row + 4, column : column + 4].flatten(1, 2)
    tokens = model.patches(x).flatten(2).transpose(1, 2) + learnt
    special = (model.special_tokens + model.positions[:, :1]).expand(len(x), -1, -1)
    return model.logits(model.encode(torch.cat([special, tokens], dim=1)))


def _rank_correlations(first: Tensor, second: Tensor, known: Tensor) -> list[float]:
    found = []
    for a, b in zip(first[:, known].numpy(), second[:, known].numpy(), strict=True):
        constant = np.ptp(a) == 0 or np.ptp(b) == 0
        found.append(0.0 if constant else float(spearmanr(a, b).statistic))
    return found


def _zoomed(x: Tensor, share: float, border: str = "border") -> Tensor:
    """The central `share` of each side, blown up to the full size."""
    theta = x.new_tensor([[share, 0, 0], [0, share, 0]]).expand(len(x), -1, -1)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode=border, align_corners=False)
