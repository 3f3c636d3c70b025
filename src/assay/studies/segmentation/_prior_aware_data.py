"""Scenes, real photographs and annotated cells of the study of prior-aware cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.data.image.mask_pairs import MaskPair, find_pairs
from assay.data.scenes.textured import PAIRS, TexturedScene, textured_scene
from assay.methods.segmentation.prior_aware_cut import Backbone, PriorBank
from assay.nn.gabor_tokens import GaborTokens, gabor_energies

CELL, REAL_CELL = 8, 12
BANK_SCENES, BANK_PHOTOS, TEST_PHOTOS = 3, 4, 3
INSIDE = 0.5  # share of a cell from which on it belongs to an object
THIN = 0.15  # the same for cracks, which never fill a cell
CLEAR = 0.75  # share from which on an annotator would click a cell


@dataclass(frozen=True)
class Item:
    """One image: features `(h, w, D)` not yet scaled, the mask `(H, W)`, and which cells are what `(h, w)`.

    `target` and `distractor` are what masks are scored on; annotators click `clear`, `other` and `empty` cells.
    """

    image: Tensor
    features: Tensor
    mask: Tensor
    target: Tensor
    clear: Tensor
    other: Tensor
    distractor: Tensor
    empty: Tensor


@dataclass(frozen=True)
class Collection:
    """Images with one recurring target: some to annotate, others to test on."""

    bank: list[Item]
    test: list[Item]

    @property
    def spread(self) -> float:
        """Root mean square of the features."""
        return float(torch.cat([i.features.flatten(0, 1) for i in self.bank + self.test]).square().mean().sqrt())

    def tokens(self, noise: float, seed: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens of both parts, of length 1, after Gaussian noise of `noise` times the root mean square."""
        rng = np.random.default_rng(list(seed))
        level = noise * self.spread

        def noisy(item: Item) -> Tensor:
            return F.normalize(
                item.features + level * torch.from_numpy(rng.standard_normal(item.features.shape)), dim=-1
            )

        return [noisy(i) for i in self.bank], [noisy(i) for i in self.test]


def collections(kind: str, tests: int, rng: np.random.Generator) -> list[Collection]:
    """Drawn scenes, a collection per pair of textures: `scenes`, `plain` (no distractor) or `crack`."""
    found = []
    for target, background in (("brick", "grass"), ("brick", "gravel")) if kind == "crack" else PAIRS:
        more = {"shape": "crack" if kind == "crack" else None, "distractor": kind != "plain", "plain": kind == "plain"}
        scenes = [
            textured_scene(rng, target, background, part="bank" if i < BANK_SCENES else "test", **more)
            for i in range(BANK_SCENES + tests)
        ]
        energies = [gabor_energies(torch.from_numpy(scene.image), CELL) for scene in scenes]
        tokens = GaborTokens(CELL).fit_energies(energies)
        items = [of_scene(scene, tokens.project(e)) for scene, e in zip(scenes, energies, strict=True)]
        found.append(Collection(items[:BANK_SCENES], items[BANK_SCENES:]))
    return found


def of_scene(scene: TexturedScene, features: Tensor) -> Item:
    """A drawn scene with its cells."""
    grid = (features.shape[0], features.shape[1])
    thin = scene.shape == "crack"
    target, other = share_of(scene.target, grid), share_of(scene.distractor, grid)
    return Item(
        torch.from_numpy(scene.image)[None], features, torch.from_numpy(scene.target),
        target > (THIN if thin else INSIDE), target > (2 * THIN if thin else CLEAR), other > CLEAR,
        other > INSIDE, (target == 0) & (other == 0),
    )  # fmt: skip


def of_photo(image: Tensor, mask: np.ndarray, features: Tensor, thin: bool) -> Item:
    """A photograph with its cells."""
    share = share_of(mask, (features.shape[0], features.shape[1]))
    clear = share > (2 * THIN if thin else CLEAR)
    target = share > (THIN if thin else INSIDE)
    return Item(
        image, features, torch.from_numpy(mask), target, clear if bool(clear.any()) else target,
        torch.zeros_like(target), torch.zeros_like(target), share == 0,
    )  # fmt: skip


def photographs(root: Path, seed: int, backbone: Backbone | None, tests: int = TEST_PHOTOS) -> Collection:
    """Photographs with masks: `tests` of them, other ones for every seed while they last, and a few to annotate.

    Args:
        root: folder in a layout of `assay.data.image.mask_pairs`.
        backbone: image -> tokens; None takes Gabor tokens with the statistics of the photographs used.

    Raises:
        DataError: another layout.
        ValueError: too few images.
    """
    layout, pairs = find_pairs(root)
    count = min(tests, len(pairs) - BANK_PHOTOS)
    if count < 1:
        raise ValueError(f"{root}: {len(pairs)} images with masks, expected at least {BANK_PHOTOS + 1}")
    order = np.random.default_rng(2602_06912).permutation(len(pairs))
    place = (seed * count + np.arange(count)) % len(pairs)
    rest = np.setdiff1d(np.arange(len(pairs)), place)
    shown = np.random.default_rng([2602_06912, seed]).choice(rest, BANK_PHOTOS, replace=False)
    chosen: list[MaskPair] = [pairs[order[i]] for i in (*shown, *place)]
    read = [pair.read() for pair in chosen]
    images = [torch.from_numpy(image) for image, _ in read]
    if backbone is None:
        energies = [gabor_energies(image.mean(dim=0), REAL_CELL, 0.0) for image in images]
        tokens = GaborTokens(REAL_CELL, pool=0.0).fit_energies(energies)
        features = [tokens.project(e) for e in energies]
    else:
        features = [backbone(image).double() for image in images]
    thin = layout == "crackforest"
    items = [of_photo(i, mask, f, thin) for i, (_, mask), f in zip(images, read, features, strict=True)]
    return Collection(items[:BANK_PHOTOS], items[BANK_PHOTOS:])


def share_of(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """Share of each cell that a mask covers, `(h, w)`."""
    return F.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(mask)).double()[None], grid)[0]


def annotate(
    items: Sequence[Item], tokens: Sequence[Tensor], marks: int, seed: Sequence[int], *,
    wanted: str = "target", shuffled: bool = False,
) -> PriorBank:  # fmt: skip
    """The bank of `marks` clicks on each side, spread over the annotated images.

    A third of the background clicks, rounded down, go to the distractor where there is one: it stands out.

    Args:
        wanted: `target`, or `other` for the distractor (the target is then background).
        shuffled: give the labels to the clicks in random order, a bank that is wrong.
    """
    rng = np.random.default_rng([*seed, marks])
    target, other = _cells(items, "clear"), _cells(items, "other")
    inside, outside = (target, other) if wanted == "target" else (other, target)
    third = min(marks // 3, len(outside))
    clicks = [
        *_drawn(inside, marks, rng),
        *_drawn(outside, third, rng),
        *_drawn(_cells(items, "empty"), marks - third, rng),
    ]
    labels = np.array([True] * (len(clicks) - marks) + [False] * marks)
    if shuffled:
        labels = rng.permutation(labels)
    points = [(i, r, c, bool(label)) for (i, r, c), label in zip(clicks, labels, strict=True)]
    return PriorBank.from_points(tokens, points)


def _cells(items: Sequence[Item], kind: str) -> list[tuple[int, int, int]]:
    return [(i, r, c) for i, item in enumerate(items) for r, c in torch.nonzero(getattr(item, kind)).tolist()]


def _drawn(cells: list[tuple[int, int, int]], count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    return [cells[k] for k in rng.choice(len(cells), min(count, len(cells)), replace=False)]
