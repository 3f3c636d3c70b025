"""Focus stacks of GMFF's study: scenes from photographs, with a focal plane left out or not; and real pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assay.data import photos
from assay.data.focus_stack import (
    FocusStack,
    Layer,
    Lens,
    Take,
    focus_planes,
    layered_scene,
    layers_of_depth,
    photograph,
)

TRAIN = ("astronaut", "coffee", "rocket", "ihc", "chelsea", "camera", "brick", "grass", "gravel")
TEST = ("china", "flower")  # and the motorcycle with its measured disparity
PLANES = focus_planes(5)
LENS = Lens()
MARGIN = 12
MISSING = 2.5  # pixels of blur from which a place counts as in no frame's focus
LEAST = 0.05  # share of the picture that must be so in the condition `missing`

Scene = Callable[[np.random.Generator, int], tuple[list[Layer], list[int]]]


def from_photos(names: Sequence[str]) -> Scene:
    """Scenes of layers cut from these photographs."""
    return layers_from(photos.cropper(names))


def layers_from(take: Take) -> Scene:
    """Scenes of layers cut from crops."""

    def scene(rng: np.random.Generator, size: int) -> tuple[list[Layer], list[int]]:
        return layered_scene(take, PLANES, size, rng)

    return scene


def motorcycle(rng: np.random.Generator, size: int) -> tuple[list[Layer], list[int]]:
    """A window of the motorcycle; its disparity sets the depth."""
    from skimage import data

    disparity = data.stereo_motorcycle()[2].astype(np.float32)
    image = photos.photo("motorcycle_left")
    y, x = (int(rng.integers(0, side - size + 1)) for side in disparity.shape)
    window = np.s_[y : y + size, x : x + size]
    pixels = torch.from_numpy(image[window].astype(np.float32) / 255).permute(2, 0, 1).contiguous()
    known = torch.from_numpy(np.where(np.isfinite(disparity[window]), disparity[window], np.nan))
    return layers_of_depth(pixels, known, PLANES), list(range(len(PLANES)))


def judged_scene(rng: np.random.Generator, size: int) -> tuple[list[Layer], list[int]]:
    """One in three shows the motorcycle, the others are layered."""
    return motorcycle(rng, size) if rng.integers(3) == 0 else from_photos(TEST)(rng, size)


def draw(scene: Scene, rng: np.random.Generator, size: int, missing: bool) -> FocusStack:
    """A stack of all five planes, or of four, the one left out being a layer's own.

    Scenes in which the missing plane would hardly show are drawn again.
    """
    while True:
        layers, chosen = scene(rng, size + 2 * MARGIN)
        left_out = int(rng.choice(chosen)) if missing else -1
        planes = [plane for index, plane in enumerate(PLANES) if index != left_out]
        breathing = 0.3 if rng.random() < 0.3 else 0.0
        stack = photograph(layers, planes, LENS, rng, noise=0.01, breathing=breathing, margin=MARGIN)
        if not missing or stack.missing(MISSING).float().mean() >= LEAST:
            return stack


def training_stacks(scene: Scene, rng: np.random.Generator, size: int, count: int) -> list[FocusStack]:
    """Stacks of four frames: a plane is left out at random, seen or not."""
    found = []
    for _ in range(count):
        layers, chosen = scene(rng, size + 2 * MARGIN)
        left_out = int(rng.choice(chosen)) if rng.random() < 0.6 else int(rng.integers(len(PLANES)))
        planes = [plane for index, plane in enumerate(PLANES) if index != left_out]
        breathing = 0.3 if rng.random() < 0.3 else 0.0
        found.append(photograph(layers, planes, LENS, rng, noise=0.01, breathing=breathing, margin=MARGIN))
    return found


def fusion_batches(
    stacks: Sequence[FocusStack], rng: np.random.Generator, batch: int, side: int
) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """Random crops for stage 1: stacks, truth, frame of least blur; frames in random order."""

    def one() -> tuple[Tensor, Tensor, Tensor]:
        stack = stacks[int(rng.integers(len(stacks)))]
        place = window(stack.truth.shape[-2:], side, rng)
        order = torch.from_numpy(rng.permutation(len(stack.frames)))
        frames, truth, blur = stack.frames[order][place], stack.truth[place], stack.blur[order][place]
        if rng.random() < 0.5:
            frames, truth, blur = (x.flip(-1) for x in (frames, truth, blur))
        if rng.random() < 0.5:
            frames, truth, blur = (x.transpose(-1, -2) for x in (frames, truth, blur))
        return frames, truth, blur.argmin(0)

    def batches() -> tuple[Tensor, Tensor, Tensor]:
        frames, truth, nearest = zip(*(one() for _ in range(batch)), strict=True)
        return torch.stack(frames), torch.stack(truth), torch.stack(nearest)

    return batches


def restoration_batches(
    fused: Sequence[Tensor], stacks: Sequence[FocusStack], rng: np.random.Generator, batch: int, side: int
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Random crops of fused pictures and truth; of three places the one with most missing focus is taken."""
    lacking = [stack.missing(MISSING).float() for stack in stacks]

    def batches() -> tuple[Tensor, Tensor]:
        rows = []
        for _ in range(batch):
            k = int(rng.integers(len(stacks)))
            places = [window(fused[k].shape[-2:], side, rng) for _ in range(3)]
            place = max(places, key=lambda p: float(lacking[k][p].mean()))
            pair = torch.stack([fused[k][place], stacks[k].truth[place]])
            pair = pair.flip(-1) if rng.random() < 0.5 else pair
            rows.append(pair.transpose(-1, -2) if rng.random() < 0.5 else pair)
        return tuple(torch.stack(rows, dim=1))

    return batches


def window(shape: Sequence[int], side: int, rng: np.random.Generator) -> tuple:
    """A random square of the last two axes."""
    top, left = (int(rng.integers(0, length - side + 1)) for length in shape)
    return (..., slice(top, top + side), slice(left, left + side))


def real_stacks(folder: Path, side: int) -> list[Tensor]:
    """Pairs and triples of the Lytro multi-focus set, halved, the middle square: `(N, 3, side, side)` each."""
    from PIL import Image

    groups: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("lytro-*.jpg")):
        groups.setdefault(str(file.parent / file.stem[:-2]), []).append(file)
    found = []
    for files in groups.values():
        frames = []
        for file in files:
            with Image.open(file) as image:
                small = image.convert("RGB").reduce(2)
            left, top = ((length - side) // 2 for length in small.size)
            frames.append(np.asarray(small.crop((left, top, left + side, top + side)), dtype=np.float32) / 255)
        found.append(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous())
    return found
