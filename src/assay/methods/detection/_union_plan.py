"""What may happen to a text, and how often: the engine's distributions, and one draw from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.methods.detection._union_paint import BLENDS
from assay.methods.detection._union_warp import Geometry

Range = tuple[float, float]
GEOMETRY = {
    "perspective_x": 1.0, "perspective_y": 1.0, "trapezoid_x": 1.0, "trapezoid_y": 1.0,
    "skew_x": 1.0, "skew_y": 1.0, "rotation": 2.0, "rotation_180": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class EngineConfig:
    """Distributions of the engine. Defaults are those of UnionST's released configuration.

    Ranges are uniform. Lengths are pixels at `scale` 1; the engine multiplies them by `scale`, so that pictures can
    be drawn near the size they are used at: with 0.5, glyphs are 20 to 40 pixels high.

    Attributes:
        scale: factor on every length.
        size: glyph size.
        bold, vertical, script: chance of heavier strokes, of writing downwards, of a super- or subscript at the end.
        shapes: weights of `elastic`, `weak` and `none`.
        elastic, weak: (alpha, sigma) ranges of the two distortions.
        layouts: weights of `flow` and `curve`; vertical text always flows.
        spacing: between cells. rise: of a curved line's middle over its chord.
        texture, texture_share: chance of a photo in a surface, and its share in the colour.
        style, styles, style_size: chance of one, weights, size.
        geometry: weights of transforms (see `Geometry`; `none` may be named).
        far: far edge over near one (perspectives and trapezoids). skew_x, skew_y, rotation: degrees.
        midground, midground_pad, midground_shift: chance, padding of the erased hull, most shift as a share.
        blends: blend modes, equally likely.
        check, tolerance, border: whether invisible text is drawn anew; see `visible`.
        tries: draws until a text is given up.
        padding: around the text, each side drawn alone. jpeg: quality, or None for no compression.
        blur, noise: Gaussian blur (pixels at scale 1) and noise (grey levels); not part of UnionST.
        most_side: longest side of a picture in pixels; no scale.
    """

    scale: float = 1.0
    size: Range = (40, 80)
    bold: float = 0.5
    vertical: float = 0.2
    script: float = 0.05
    shapes: Mapping[str, float] = field(default_factory=lambda: {"elastic": 1.0, "weak": 1.0})
    elastic: tuple[Range, Range] = ((15, 30), (4, 12))
    weak: tuple[Range, Range] = ((0, 2), (0, 0.6))
    layouts: Mapping[str, float] = field(default_factory=lambda: {"flow": 4.0, "curve": 1.0})
    spacing: Range = (-5, 5)
    rise: Range = (20, 200)
    texture: float = 0.5
    texture_share: Range = (0, 1)
    style: float = 0.25
    styles: Mapping[str, float] = field(default_factory=lambda: {"border": 1.0, "shadow": 2.0, "extrusion": 2.0})
    style_size: Range = (1, 12)
    geometry: Mapping[str, float] = field(default_factory=lambda: dict(GEOMETRY))
    far: Range = (0.5, 1)
    skew_x: Range = (0, 30)
    skew_y: Range = (0, 10)
    rotation: Range = (0, 180)
    midground: float = 0.25
    midground_pad: float = 5
    midground_shift: float = 0.5
    blends: tuple[str, ...] = tuple(BLENDS)
    check: bool = True
    tolerance: float = 16
    border: float = 0.1
    tries: int = 20
    padding: Range = (0, 10)
    jpeg: Range | None = (50, 95)
    blur: Range = (0, 0)
    noise: Range = (0, 0)
    most_side: int = 65_500

    def __post_init__(self) -> None:
        for name in ("shapes", "layouts", "styles", "geometry"):
            weights = getattr(self, name)
            if not weights or min(weights.values()) <= 0:
                raise ValueError(f"{name}: weights must be positive, got {dict(weights)}")
        choices = {
            "shapes": {"elastic", "weak", "none"},
            "layouts": {"flow", "curve"},
            "styles": {"border", "shadow", "extrusion"},
            "geometry": {*GEOMETRY, "none"},
        }
        for name, known in choices.items():
            if unknown := set(getattr(self, name)) - known:
                raise ValueError(f"{name}: no {sorted(unknown)}; choose from {sorted(known)}")
        if not self.blends or set(self.blends) - set(BLENDS):
            raise ValueError(f"blends must be some of {sorted(BLENDS)}, got {self.blends}")
        if not self.scale > 0 or self.size[0] * self.scale < 4 or self.tries < 1:
            raise ValueError("scale and tries must be positive and glyphs at least 4 pixels high")


UNION = EngineConfig()
CLASSIC = EngineConfig(  # in the manner of MJSynth: straight words, mild perspective, photos, blur and noise
    vertical=0, script=0, bold=0.25, shapes={"none": 1}, layouts={"flow": 1}, spacing=(0, 2),
    styles={"border": 1, "shadow": 1}, style_size=(1, 4),
    geometry={"none": 2, "perspective_x": 1, "perspective_y": 1, "skew_x": 1}, far=(0.8, 1), skew_x=(0, 10),
    midground=0, blends=("normal",), blur=(0, 2), noise=(0, 12),
)  # fmt: skip
PLAIN = EngineConfig(  # dark or light text on one colour and nothing else
    bold=0, vertical=0, script=0, shapes={"none": 1}, layouts={"flow": 1}, spacing=(0, 0), texture=0, style=0,
    geometry={"none": 1}, midground=0, blends=("normal",), padding=(0, 0), jpeg=None,
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One draw from the distributions; lengths are in pixels of the picture (the scale is in them).

    Attributes:
        kind, text: of the corpus.
        face, size, bold, vertical: of the font. script: (how many characters at the end, +1 raised or -1 lowered).
        shape, alpha, sigma: distortion; still at scale 1. layout, spacing, rise, up: the line.
        style, style_size, style_turn: style, its size, its direction in degrees.
        geometry: the transform.
        other: text of the midground, or empty; `other_shift` as shares.
        textures: for background, text, style and midground: (photo number, share, corner), or None.
        blends: blend modes in the order in which they are tried.
        padding: left, top, right, bottom. jpeg: quality or 0. blur, noise: as in the configuration.
        seed: of colours and of the noise fields.
    """

    kind: str
    text: str
    face: str
    size: int
    bold: bool
    vertical: bool
    script: tuple[int, int]
    shape: str
    alpha: float
    sigma: float
    layout: str
    spacing: float
    rise: float
    up: bool
    style: str
    style_size: int
    style_turn: float
    geometry: Geometry
    other: str
    other_face: str
    other_shift: Range
    textures: tuple[tuple[int, float, Range] | None, ...]
    blends: tuple[str, ...]
    padding: tuple[int, int, int, int]
    jpeg: int
    blur: float
    noise: float
    seed: int


class Chooser:
    """A generator with the draws that plans are made of."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def within(self, limits: Range) -> float:
        return limits[0] + (limits[1] - limits[0]) * self.rng.random()

    def happens(self, chance: float) -> bool:
        return bool(self.rng.random() < chance)

    def one_of(self, weights: Mapping[str, float]) -> str:
        mark = self.rng.random() * sum(weights.values())
        for name, weight in weights.items():
            mark -= weight
            if mark < 0:
                return name
        return next(reversed(list(weights)))

    def item(self, items: Any) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def geometry(self, config: EngineConfig) -> Geometry:
        kind = self.one_of(config.geometry)
        if kind in ("none", "rotation_180"):
            return Geometry(kind)
        limits = {"skew_x": config.skew_x, "skew_y": config.skew_y, "rotation": config.rotation}.get(kind, config.far)
        return Geometry(kind, self.within(limits), self.happens(0.5))
