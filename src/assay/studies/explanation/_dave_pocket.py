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

from assay.data.image.digit_scenes import DigitScenes, digit_scenes
from assay.methods.explanation.dave import Transform
from assay.nn.vit import ViT, ViTOptions

HELD_OUT = ((3, 0), (0, -3), (2, 2), (-3, 1), (1, 3), (-1, -3))  # none is a shift that DAVE averages over (-2..1)
ZOOM = 0.95
PATCH = 4
RATE, DECAY, WARM_UP = 1e-3, 0.02, 0.05
DIGIT_BATCH, DIGIT_MATRIX_RATE = 32, 0.02
SCENE_BATCH, SCENE_MATRIX_RATE = 16, 0.015
POSITIONS = 0.3
Maps = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Size:
    """Model, training and explanations of a scale.

    Attributes:
        digits, scenes: pictures of the two steps of training, each shown once.
        mislabelled: scenes that the model of shuffled labels is trained on.
        width, depth: of the transformer.
        explained: scenes that are explained.
        probed: scenes of them whose maps are made again for moved and noisy copies.
    """

    digits: int
    scenes: int
    mislabelled: int
    width: int
    depth: int
    explained: int
    probed: int


def as_input(images: Tensor) -> Tensor:
    """Images in [0, 1] as the model takes them, in [-1, 1]."""
    return 2 * images - 1


def drawn(options: ViTOptions, seed: int) -> ViT:
    """A transformer before training, its positions as large as its patches: the usual 0.02 takes long to grow."""
    torch.manual_seed(seed)
    model = ViT(options)
    nn.init.normal_(model.positions, std=POSITIONS)
    return model


def train(size: Size, seed: int, *, shuffled: bool = False) -> ViT:
    """A multi-label transformer: first on single digits as one quarter of a scene, then on whole scenes.

    The first step takes a quarter of the tokens and teaches the digits; one cross-entropy over classes leaves the
    plateau of the start sooner than ten binary ones. The head reads the mean of the patch tokens.

    Args:
        shuffled: scenes get the labels of other scenes, and the first step is left out.
    """
    options = ViTOptions((32, 32), PATCH, size.width, size.depth, 4, 10, hidden=2 * size.width, readout="mean")
    model = drawn(options, seed)
    generator = np.random.default_rng((seed, 1 + shuffled))

    def digits(count: int) -> Tensor:
        single = digit_scenes(count, generator, size=16, grid=1, digits=(1, 1))
        return F.cross_entropy(_quarter(model, as_input(single.images), generator), single.classes)

    def scenes(count: int) -> Tensor:
        some = digit_scenes(count, generator)
        labels = some.labels[torch.from_numpy(generator.permutation(count))] if shuffled else some.labels
        return F.binary_cross_entropy_with_logits(model(as_input(some.images)), labels)

    if not shuffled:
        _fit(model, digits, size.digits, DIGIT_BATCH, DIGIT_MATRIX_RATE)
    _fit(model, scenes, size.mislabelled if shuffled else size.scenes, SCENE_BATCH, SCENE_MATRIX_RATE)
    return model.eval()


def randomised(model: ViT, seed: int) -> list[ViT]:
    """Copies whose weights are drawn anew from the head down, one part more each time: head, blocks, embedding."""
    fresh = drawn(model.options, seed + 1_000).state_dict()
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


def _fit(model: ViT, loss_of: Callable[[int], Tensor], pictures: int, batch: int, matrix_rate: float) -> None:
    """Muon for the matrices of the blocks, AdamW for the rest, one cycle each."""
    steps = pictures // batch
    if not steps:
        return
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimisers = (
        torch.optim.Muon(matrices, lr=matrix_rate, weight_decay=DECAY),
        torch.optim.AdamW(others, lr=RATE, weight_decay=DECAY),
    )
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            o, o.param_groups[0]["lr"], total_steps=steps, pct_start=max(WARM_UP, 2 / steps)
        )
        for o in optimisers
    ]
    model.train()
    for _ in range(steps):
        model.zero_grad()
        loss_of(batch).backward()
        for part in (*optimisers, *schedules):
            part.step()


def _quarter(model: ViT, x: Tensor, generator: np.random.Generator) -> Tensor:
    """Logits of 16-pixel images (B, 3, 16, 16), seen as a random quarter of a scene whose rest is absent."""
    row, column = (4 * generator.integers(0, 2, 2)).tolist()
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
