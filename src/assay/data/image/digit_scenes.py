"""Scenes of real handwritten digits on real textures, with the mask of every digit.

    image = (1 - a) * texture + a * ink,        a = the digit's own grey values, scaled up and placed with jitter

Digits are scikit-learn's (8x8, from NIST), textures are crops of photographs inside the scikit-image wheel. A scene is
a grid of cells with at most one digit each, all of different classes. Textures are dimmed to `DIM` of their brightness
and ink is a random light colour, chalk on a dark ground; the condition `inverted` shows the reverse. Training and test
scenes share neither digits nor parts of a photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import require

TEXTURES = ("brick", "grass", "gravel", "astronaut", "chelsea", "coffee", "camera", "rocket")
CONDITIONS = ("plain", "inverted", "blur", "noise", "gradient")
DIM = 0.6
LIGHT = (0.6, 1.0)  # range of each colour channel of the ink
CLASSES = 10
INK = 0.35  # share of ink from which on a pixel belongs to a digit

Part = Literal["train", "test"]


@dataclass(frozen=True)
class DigitScenes:
    """N scenes.

    Attributes:
        images: (N, 3, H, W) float32 in [0, 1].
        masks: (N, 10, H, W) bool, pixels of each class; empty where the class is not in the scene.
        cells: (N, 10) int64, the cell (row by row) of each class; -1 where it is not in the scene.
    """

    images: Tensor
    masks: Tensor
    cells: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Tensor) -> DigitScenes:
        return DigitScenes(self.images[rows], self.masks[rows], self.cells[rows])

    @property
    def labels(self) -> Tensor:
        """Multi-label target, (N, 10) float32 of 0 and 1."""
        return (self.cells >= 0).float()

    @property
    def segmentation(self) -> Tensor:
        """Segmentation target, (N, H, W) int64: 0 background, k + 1 for digit k."""
        classes = torch.arange(1, CLASSES + 1).view(1, -1, 1, 1)
        return (self.masks * classes).amax(dim=1)

    @property
    def classes(self) -> Tensor:
        """Class target of scenes with one digit, (N,) int64.

        Raises:
            ValueError: a scene has several digits.
        """
        if bool(((self.cells >= 0).sum(dim=1) != 1).any()):
            raise ValueError("a class target needs scenes with one digit each (digits=(1, 1))")
        return self.labels.argmax(dim=1)


def digit_scenes(
    count: int,
    generator: np.random.Generator,
    *,
    part: Part = "train",
    size: int = 32,
    grid: int = 2,
    digits: tuple[int, int] = (1, 4),
    condition: str = "plain",
) -> DigitScenes:
    """Draw scenes.

    Args:
        count: N.
        generator: all randomness.
        part: whose digits and parts of photographs.
        size: side of a scene in pixels, a multiple of `grid`.
        grid: cells along a side; a cell has at least 10 pixels.
        digits: fewest and most digits of a scene.
        condition: see `under_condition`.

    Raises:
        ValueError: sizes that do not fit together, or an unknown condition.
    """
    cell = size // grid
    if cell * grid != size or cell < 10:
        raise ValueError(f"size must be a multiple of grid with cells of 10 pixels or more, got {size} and {grid}")
    if not 1 <= digits[0] <= digits[1] <= min(grid * grid, CLASSES):
        raise ValueError(f"digits must lie in 1..{min(grid * grid, CLASSES)}, fewest first, got {digits}")
    names = _digits(part)[1]
    rows = [np.flatnonzero(names == label) for label in range(CLASSES)]
    images = np.empty((count, 3, size, size), np.float32)
    masks = np.zeros((count, CLASSES, size, size), bool)
    cells = np.full((count, CLASSES), -1, np.int64)
    for n in range(count):
        images[n] = _texture(part, size, generator)
        here = generator.permutation(grid * grid)[: generator.integers(digits[0], digits[1] + 1)]
        for place, label in zip(here, generator.permutation(CLASSES), strict=False):
            side = int(generator.integers(max(8, cell - 4), cell - 1))
            shape = _resized(part, side)[rows[label][generator.integers(len(rows[label]))]]
            free = cell - side
            top = int(place) // grid * cell + int(generator.integers(0, free + 1))
            left = int(place) % grid * cell + int(generator.integers(0, free + 1))
            window = images[n, :, top : top + side, left : left + side]
            ink = generator.uniform(*LIGHT, 3).astype(np.float32)
            window[:] = (1 - shape) * window + shape * ink[:, None, None]
            masks[n, label, top : top + side, left : left + side] = shape > INK
            cells[n, label] = place
    scenes = DigitScenes(torch.from_numpy(images), torch.from_numpy(masks), torch.from_numpy(cells))
    return replace(scenes, images=under_condition(scenes.images, condition, generator))


def under_condition(images: Tensor, condition: str, generator: np.random.Generator) -> Tensor:
    """The same scenes (N, 3, H, W) under another condition, in [0, 1].

    `inverted`: 1 - x. `blur`: Gaussian of 1 pixel. `noise`: Gaussian of 0.1. `gradient`: brightness falls by up to
    60 % across the scene, in a random direction per scene.

    Raises:
        ValueError: an unknown condition.
    """
    if condition == "plain":
        return images
    if condition == "inverted":
        return 1 - images
    if condition == "blur":
        x = torch.arange(-3, 4, dtype=images.dtype)
        kernel = torch.exp(-(x**2) / 2)
        kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
        across = F.conv2d(F.pad(images, (3, 3, 0, 0), mode="reflect"), kernel, groups=images.shape[1])
        down = F.pad(across, (0, 0, 3, 3), mode="reflect")
        return F.conv2d(down, kernel.transpose(2, 3), groups=images.shape[1])
    if condition == "noise":
        return (images + 0.1 * torch.from_numpy(generator.standard_normal(images.shape)).to(images)).clamp(0, 1)
    if condition == "gradient":
        angle = torch.from_numpy(generator.uniform(0, 2 * np.pi, len(images))).to(images).view(-1, 1, 1)
        y = torch.linspace(-0.5, 0.5, images.shape[2]).view(-1, 1)
        x = torch.linspace(-0.5, 0.5, images.shape[3]).view(1, -1)
        light = 0.7 + 0.6 * (x * torch.cos(angle) + y * torch.sin(angle)) / np.sqrt(2)
        return (images * light.unsqueeze(1)).clamp(0, 1)
    raise ValueError(f"unknown condition {condition!r}; choose from: {', '.join(CONDITIONS)}")


@lru_cache(maxsize=2)
def _digits(part: Part) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Digits (M, 8, 8) in [0, 1] and their classes: the first 1,200 for training, the rest for test."""
    found = require("sklearn.datasets", "explanation").load_digits()
    rows = slice(None, 1200) if part == "train" else slice(1200, None)
    return (found.images[rows] / 16).astype(np.float32), found.target[rows]


@lru_cache(maxsize=2)
def _photographs(part: Part) -> tuple[NDArray[np.float32], ...]:
    """Photographs (3, h, w) in [0, 1] at half their size: the left part for training, the right part for test."""
    data = require("skimage.data", "explanation")
    found = []
    for name in TEXTURES:
        photo = np.asarray(getattr(data, name)())
        photo = np.repeat(photo[..., None], 3, axis=-1) if photo.ndim == 2 else photo
        photo = photo[::2, ::2].transpose(2, 0, 1).astype(np.float32) / 255
        border = photo.shape[2] * 2 // 3
        found.append(photo[:, :, :border] if part == "train" else photo[:, :, border:])
    return tuple(found)


def _texture(part: Part, size: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """A random crop (3, size, size), dimmed, perhaps mirrored."""
    photos = _photographs(part)
    photo = photos[generator.integers(len(photos))]
    top = int(generator.integers(0, photo.shape[1] - size + 1))
    left = int(generator.integers(0, photo.shape[2] - size + 1))
    crop = DIM * photo[:, top : top + size, left : left + size]
    return crop[:, :, ::-1] if generator.random() < 0.5 else crop


@lru_cache(maxsize=64)
def _resized(part: Part, side: int) -> NDArray[np.float32]:
    """All digits of a part at another size (M, side, side), bilinear."""
    small = torch.from_numpy(_digits(part)[0]).unsqueeze(1)
    return F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)[:, 0].numpy()
