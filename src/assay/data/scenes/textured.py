"""Scenes of one real texture lying on another, with a distractor that wins saliency, and all masks.

    image = T_background outside, T_target inside the target, flat light or dark grey inside the distractor

Textures are crops of photographs inside the scikit-image and scikit-learn wheels, brought to the same mean and
contrast, so that neither brightness nor contrast gives the target away. A crack is a random walk 2 to 5 pixels wide;
a texture cannot be seen in so thin a line, so it darkens the ground instead. Scenes for annotation and scenes for test
are cut from different halves of the photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from assay.errors import require

Part = Literal["bank", "test"]
Mask = NDArray[np.bool_]

TEXTURES = ("brick", "grass", "gravel", "petals")
PAIRS = (("brick", "grass"), ("grass", "gravel"), ("gravel", "brick"), ("petals", "gravel"))  # target, background
SHAPES = ("ellipse", "blob", "horse")
MEAN, CONTRAST = 0.5, 0.15
PLAIN_CONTRAST = 0.03
TILE = 256
LARGEST = 112  # side of the square that a target fits in
GAP = 6  # pixels between target and distractor
PETALS = (slice(95, 350), slice(185, 435))  # the flower head in scikit-learn's photograph


@dataclass(frozen=True)
class TexturedScene:
    """One scene.

    Attributes:
        image: `(S, S)` float32 in [0, 1].
        target, distractor: `(S, S)` bool; the distractor is empty where there is none.
        shape: `"ellipse"`, `"blob"`, `"horse"` or `"crack"`.
    """

    image: NDArray[np.float32]
    target: Mask
    distractor: Mask
    shape: str


def textured_scene(
    generator: np.random.Generator,
    target: str = "brick",
    background: str = "grass",
    *,
    part: Part = "test",
    shape: str | None = None,
    distractor: bool = True,
    plain: bool = False,
    size: int = 192,
) -> TexturedScene:
    """Draw a scene.

    Args:
        generator: all randomness.
        target, background: names of `TEXTURES`.
        part: from which half of the photographs.
        shape: of the target; a random one of `SHAPES` when None.
        distractor: add a flat light or dark blob.
        plain: the background loses most of its contrast.
        size: side in pixels, at least 160 and at most 240.

    Raises:
        ValueError: an unknown name or a size out of its range.
    """
    for name in (target, background):
        if name not in TEXTURES:
            raise ValueError(f"unknown texture {name!r}; choose from: {', '.join(TEXTURES)}")
    if background == "petals" or not 160 <= size <= 240:
        raise ValueError(f"petals are too small for a background, and a scene has 160 to 240 pixels; got {size}")
    shape = str(generator.choice(SHAPES)) if shape is None else shape
    ground = _crop(background, part, size, generator)
    image = MEAN + (ground - MEAN) * (PLAIN_CONTRAST / CONTRAST if plain else 1.0)
    if shape == "crack":
        wanted = _crack(size, generator)
        image = MEAN + (image - MEAN) * 0.5
        image = np.where(wanted, image - generator.uniform(0.2, 0.3), image)
    elif shape in SHAPES:
        outline = _outline(shape, generator)
        side = outline.shape[0]
        top, left = generator.integers(4, size - side - 3, 2)
        wanted = np.zeros((size, size), bool)
        wanted[top : top + side, left : left + side] = outline
        inside = _crop(target, part, LARGEST, generator)[:side, :side]
        window = image[top : top + side, left : left + side]
        window[outline] = inside[outline]
    else:
        raise ValueError(f"unknown shape {shape!r}; choose from: {', '.join((*SHAPES, 'crack'))}")
    other = np.zeros_like(wanted)
    if distractor:
        other = _beside(wanted, generator)
        grey = generator.choice((0.08, 0.92))
        image = np.where(other, grey + 0.02 * generator.standard_normal(image.shape), image)
    image = image + 0.01 * generator.standard_normal(image.shape)
    return TexturedScene(np.clip(image, 0, 1).astype(np.float32), wanted, other, shape)


def _beside(wanted: Mask, generator: np.random.Generator) -> Mask:
    """A blob that keeps away from the target (from a crack it is only cut out)."""
    size = len(wanted)
    near = ndimage.binary_dilation(wanted, iterations=GAP)
    best: tuple[int, Mask] | None = None
    for _ in range(30):
        outline = _outline("blob", generator, (44, 64))
        side = outline.shape[0]
        top, left = generator.integers(2, size - side - 1, 2)
        place = np.zeros_like(wanted)
        place[top : top + side, left : left + side] = outline
        hidden = int((place & near).sum())
        if best is None or hidden < best[0]:
            best = (hidden, place & ~near)
        if not hidden:
            break
    assert best is not None
    return best[1]


def _outline(shape: str, generator: np.random.Generator, sides: tuple[int, int] = (80, LARGEST)) -> Mask:
    """A shape that fills a square of random side."""
    side = int(generator.integers(sides[0], sides[1] + 1))
    if shape == "horse":
        found = _horse()
        found = found[:, ::-1] if generator.random() < 0.5 else found
        scaled = ndimage.zoom(found.astype(float), (side / found.shape[0], side / found.shape[1]), order=1)
        return scaled > 0.5
    y, x = np.mgrid[:side, :side] / (side - 1) * 2 - 1
    if shape == "ellipse":
        angle, flat = generator.uniform(0, np.pi), generator.uniform(0.55, 0.9)
        along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
        return along**2 + (across / flat) ** 2 < 0.95
    radius = np.full_like(x, 0.72)
    for wave in (2, 3, 5):
        radius += generator.uniform(0.04, 0.11) * np.cos(wave * np.arctan2(y, x) + generator.uniform(0, 2 * np.pi))
    return np.hypot(x, y) < radius


def _crack(size: int, generator: np.random.Generator) -> Mask:
    """A random walk from one side to the other."""
    steps = np.cumsum(generator.normal(0, 0.25, size)) * 0.3
    middle = size * generator.uniform(0.25, 0.75) + np.cumsum(steps) * 0.5 + generator.normal(0, 0.5, size)
    width = np.clip(3.5 + ndimage.gaussian_filter1d(generator.normal(0, 6, size), 6), 2, 5)
    rows = np.arange(size)[:, None]
    found = np.abs(rows - np.clip(middle, 6, size - 7)) <= width / 2
    return found.T if generator.random() < 0.5 else found


@lru_cache(maxsize=1)
def _horse() -> Mask:
    horse = ~np.asarray(require("skimage.data", "segmentation").horse()).astype(bool)
    rows, columns = np.nonzero(horse)
    return horse[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


@lru_cache(maxsize=8)
def _halves(name: str) -> dict[Part, NDArray[np.float64]]:
    """Both halves of a photograph, at half its size (petals at their own) and mirrored to be large enough."""
    if name == "petals":
        flower = require("sklearn.datasets", "segmentation").load_sample_image("flower.jpg")
        photo = np.asarray(flower)[PETALS].mean(axis=-1) / 255
    else:
        photo = np.asarray(getattr(require("skimage.data", "segmentation"), name)()).astype(float) / 255
        photo = photo.reshape(photo.shape[0] // 2, 2, photo.shape[1] // 2, 2).mean(axis=(1, 3))
    middle = photo.shape[1] // 2
    return {
        part: np.pad(half, [(0, max(0, TILE - length)) for length in half.shape], mode="symmetric")
        for part, half in (("bank", photo[:, :middle]), ("test", photo[:, middle:]))
    }


def _crop(name: str, part: Part, side: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """A crop of one half of a photograph, perhaps mirrored, with the mean and contrast of all."""
    half = _halves(name)[part]
    top = int(generator.integers(0, half.shape[0] - side + 1))
    left = int(generator.integers(0, half.shape[1] - side + 1))
    crop = half[top : top + side, left : left + side]
    crop = crop[:, ::-1] if generator.random() < 0.5 else crop
    return np.clip(MEAN + (crop - crop.mean()) / crop.std() * CONTRAST, 0.02, 0.98)
