"""Emoji: glyphs of 1,592 concepts by two artists, with names, keywords and a taxonomy of two levels.

Real drawings (two domains), real human keywords, 9 groups and 94 subgroups, shipped with the package: where an official
corpus of image-text pairs cannot be had, this one can. Drawings, not photographs, and a study that uses them says so.
`emoji_atlas/ATTRIBUTION.md` names the artists, their licences and what was changed; `scripts/make_emoji_atlas.py` makes
the files anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ATLAS = Path(__file__).with_name("emoji_atlas")
ARTISTS = ("twitter", "google")
SIDE, COLUMNS = 32, 40


@dataclass(frozen=True)
class Concept:
    """What one emoji stands for.

    Attributes:
        code: its code points, such as `"1F600"` or `"1F468-200D-1F373"`.
        name: its short name, in English, one of a kind.
        keywords: words people find it by, in lower case.
        group, subgroup: its place in the taxonomy, such as `"animals-nature"` and `"animal-bird"`.
    """

    code: str
    name: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def text(self) -> str:
        """Name and keywords in one line, for a sentence encoder."""
        return f"{self.name}: {', '.join(self.keywords)}"


@dataclass(frozen=True)
class Emoji:
    """The corpus.

    Attributes:
        concepts: 1,592 of them, in the order of the Unicode list.
        images: `(2, 1592, 32, 32, 3)` uint8, the glyphs on a white ground; first axis as in `artists`.
        alpha: `(2, 1592, 32, 32)` uint8, 255 where a glyph covers its ground.
        artists: who drew the glyphs.
    """

    concepts: tuple[Concept, ...]
    images: NDArray[np.uint8]
    alpha: NDArray[np.uint8]
    artists: tuple[str, ...] = ARTISTS

    def __len__(self) -> int:
        return len(self.concepts)

    def labels(self, level: str = "subgroup") -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """Class of every concept `(1592,)` and the names of the classes, sorted; `level` is `group` or `subgroup`.

        Raises:
            ValueError: another level.
        """
        if level not in ("group", "subgroup"):
            raise ValueError(f"level must be group or subgroup, got {level!r}")
        names, index = np.unique([getattr(concept, level) for concept in self.concepts], return_inverse=True)
        return index.astype(np.int64), tuple(str(name) for name in names)


@cache
def load() -> Emoji:
    """The corpus; its arrays are shared and cannot be written to."""
    from PIL import Image

    rows = json.loads((ATLAS / "concepts.json").read_text(encoding="utf-8"))
    concepts = tuple(Concept(**{**row, "keywords": tuple(row["keywords"])}) for row in rows)
    sheets = []
    for artist in ARTISTS:
        with Image.open(ATLAS / f"{artist}.png") as sheet:
            pixels = np.asarray(sheet.convert("RGBA"))
        tiles = pixels.reshape(-1, SIDE, COLUMNS, SIDE, 4).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 4)
        sheets.append(tiles[: len(concepts)])
    glyphs = np.stack(sheets)
    cover = glyphs[..., 3:].astype(np.uint16)
    # Rounded division by 255 in whole numbers: the same bytes everywhere.
    images = ((glyphs[..., :3] * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
    alpha = glyphs[..., 3].copy()
    images.flags.writeable = alpha.flags.writeable = False
    return Emoji(concepts, images, alpha)


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Shape and colour of 32x32 pictures in 704 numbers each.

    512 are a histogram of oriented gradients (8 orientations in 8x8 cells of 4 pixels, each cell of unit length by
    L2-Hys), 192 the mean colour in 8x8 cells, in [0, 1].

    Args:
        images: `(N, 32, 32, 3)` uint8.

    Returns:
        `(N, 704)` float32.

    Raises:
        ValueError: another shape or type.
    """
    from skimage.feature import hog

    if images.ndim != 4 or images.shape[1:] != (SIDE, SIDE, 3) or images.dtype != np.uint8:
        raise ValueError(f"uint8 pictures (N, {SIDE}, {SIDE}, 3) expected, got {images.dtype} {images.shape}")
    scaled = images.astype(np.float32) / 255
    grey = scaled @ np.float32([0.299, 0.587, 0.114])
    cells = {"orientations": 8, "pixels_per_cell": (4, 4), "cells_per_block": (1, 1)}
    shape = np.stack([hog(picture, **cells) for picture in grey]) if len(grey) else np.zeros((0, 512))
    colour = scaled.reshape(-1, 8, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(len(images), 192)
    return np.concatenate([shape, colour], axis=1).astype(np.float32)


@cache
def all_features() -> NDArray[np.float32]:
    """`features` of the whole corpus, `(2, 1592, 704)`; takes a few seconds once a process."""
    images = load().images
    found = features(images.reshape(-1, SIDE, SIDE, 3)).reshape(*images.shape[:2], -1)
    found.flags.writeable = False
    return found
