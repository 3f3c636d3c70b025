"""Glyphs and where they stand: rasters by Pillow, cached; lines that run straight, on an arc, or downwards."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont


@dataclass(frozen=True)
class Glyph:
    """A character's ink.

    Attributes:
        ink: (h, w) uint8, cropped to the ink.
        left, top: of the ink's corner, in pixels from the pen position and from the ascender line.
        advance: how far the pen moves on, in pixels.
    """

    ink: NDArray[np.uint8]
    left: int
    top: int
    advance: float


class Face:
    """A font file at any size, with its glyphs cached.

    Args:
        name: for messages.
        data: contents of a TrueType or OpenType file.

    Raises:
        ValueError: FreeType cannot read the bytes.
    """

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self._data = name, data
        self._fonts: dict[int, ImageFont.FreeTypeFont] = {}
        self._glyphs: dict[tuple[str, int, int], Glyph] = {}
        self._drawn: dict[str, bytes] = {}
        try:
            self.at(16)
        except OSError as error:
            raise ValueError(f"font {name}: FreeType cannot read it ({error})") from error

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at a size in pixels."""
        if size not in self._fonts:
            self._fonts[size] = ImageFont.truetype(io.BytesIO(self._data), size, layout_engine=ImageFont.Layout.BASIC)
        return self._fonts[size]

    @cached_property
    def _missing(self) -> bytes:
        """What the face draws for a character that no font has."""
        return self._raster("\U0010fffd")

    def _raster(self, character: str) -> bytes:
        if character not in self._drawn:
            mask = self.at(16).getmask(character, mode="L")
            self._drawn[character] = bytes(mask) + bytes(str(mask.size), "ascii") if any(mask) else b""
        return self._drawn[character]

    def has(self, text: str) -> bool:
        """Whether every character but the space has ink of its own.

        A face that draws one box for all, or whose letter is the sign for a missing glyph, has none.
        """
        wanted = set(text) - {" "}
        if any(self._raster(c) in (b"", self._missing) for c in wanted):
            return False
        latin = [c for c in wanted if c.isascii()]
        return len(latin) < 2 or len({self._raster(c) for c in latin}) > 1

    def glyph(self, character: str, size: int, stroke: int = 0) -> Glyph:
        """A character's raster; `stroke` thickens it by that many pixels all round."""
        key = (character, size, stroke)
        if key not in self._glyphs:
            font = self.at(size)
            mask, (left, top) = font.getmask2(character, mode="L", stroke_width=stroke, anchor="la")
            wide, high = mask.size
            ink = np.frombuffer(bytes(mask), dtype=np.uint8).reshape(high, wide)
            if ink.any():
                rows, columns = np.nonzero(ink.any(1))[0], np.nonzero(ink.any(0))[0]
                ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                left, top = left + int(columns[0]), top + int(rows[0])
            else:
                ink = np.zeros((0, 0), dtype=np.uint8)
            if len(self._glyphs) > 20_000:
                self._glyphs.clear()
            self._glyphs[key] = Glyph(ink, left, top, float(font.getlength(character)))
        return self._glyphs[key]


@dataclass(frozen=True)
class Placement:
    """Where a glyph stands: the middle of its cell's baseline (x, y) and its turn, degrees counter-clockwise."""

    x: float
    y: float
    turn: float = 0.0


def layout_flow(advances: Sequence[float], spacing: float = 0.0) -> list[Placement]:
    """A straight line along x; cells touch, with `spacing` pixels between."""
    ends = np.cumsum(np.asarray(advances, dtype=float) + spacing)
    starts = ends - np.asarray(advances, dtype=float) - spacing
    return [Placement(float(a + w / 2), 0.0) for a, w in zip(starts, advances, strict=True)]


def layout_vertical(heights: Sequence[float], spacing: float = 0.0) -> list[Placement]:
    """Upright cells one below the other; the baseline of each is the lower end of its cell."""
    ends = np.cumsum(np.asarray(heights, dtype=float) + spacing)
    return [Placement(0.0, float(end - spacing)) for end in ends]


def arc_radius(length: float, rise: float) -> float:
    """Radius of an arc of that length whose middle stands `rise` above its chord; `inf` for no rise.

    With the arc's angle `a`, `rise / length = (1 - cos(a / 2)) / a`; the angle is at most pi, larger rises are cut.
    """
    if rise <= 0 or length <= 0:
        return float("inf")
    ratio, low, high = min(rise / length, 1 / np.pi), 1e-9, float(np.pi)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.cos(middle / 2)) / middle < ratio else (low, middle)
    return length / high


def layout_curve(advances: Sequence[float], radius: float, up: bool = True, spacing: float = 0.0) -> list[Placement]:
    """A line bent to a circle of that radius, in pixels, about the point below (`up`) or above its middle.

    Cell centres lie on the circle, and glyphs stand across it. Radius `inf` is `layout_flow`.
    """
    flow = layout_flow(advances, spacing)
    if not np.isfinite(radius):
        return flow
    middle = (flow[0].x + flow[-1].x) / 2
    sign = 1.0 if up else -1.0
    placed = []
    for cell in flow:
        angle = (cell.x - middle) / radius
        placed.append(Placement(
            float(middle + radius * np.sin(angle)), float(sign * radius * (1 - np.cos(angle))),
            float(-sign * np.degrees(angle)),
        ))  # fmt: skip
    return placed


@dataclass
class Ink:
    """Drawn text.

    Attributes:
        alpha: (H, W) uint8, how much ink.
        owner: (H, W) uint8, number of the glyph (from 1) that the ink is of; 0 where there is none.
    """

    alpha: NDArray[np.uint8]
    owner: NDArray[np.uint8]


def draw(glyphs: Sequence[Glyph], placements: Sequence[Placement], baseline: float, margin: int = 0) -> Ink:
    """Glyphs at their places, on a canvas that just holds them and `margin` pixels all round.

    Args:
        baseline: of the face, in pixels below its ascender line; a glyph turns about the middle of its cell there.
    """
    parts: list[tuple[NDArray[np.uint8], int, int]] = []
    for glyph, place in zip(glyphs, placements, strict=True):
        left, top = glyph.left - glyph.advance / 2, glyph.top - baseline
        if place.turn and glyph.ink.size:
            ink, dx, dy = _turned(glyph.ink, left, top, place.turn)
            parts.append((ink, _whole(place.x + dx), _whole(place.y + dy)))
        else:
            parts.append((glyph.ink, _whole(place.x + left), _whole(place.y + top)))
    drawn = [(ink, x, y) for ink, x, y in parts if ink.size]
    if not drawn:
        raise ValueError("none of the glyphs has ink")
    x0, y0 = min(x for _, x, _ in drawn) - margin, min(y for _, _, y in drawn) - margin
    x1 = max(x + ink.shape[1] for ink, x, _ in drawn) + margin
    y1 = max(y + ink.shape[0] for ink, _, y in drawn) + margin
    alpha, owner = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8), np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
    for number, (ink, x, y) in enumerate(drawn, 1):
        place = np.s_[y - y0 : y - y0 + ink.shape[0], x - x0 : x - x0 + ink.shape[1]]
        more = ink > alpha[place]
        owner[place][more] = number
        np.maximum(alpha[place], ink, out=alpha[place])
    return Ink(alpha, owner)


def _whole(value: float) -> int:
    """Nearest pixel; halves go down, so that a straight line's glyphs keep whole distances."""
    return int(np.ceil(value - 0.5))


def _turned(ink: NDArray[np.uint8], left: float, top: float, turn: float) -> tuple[NDArray[np.uint8], float, float]:
    """Ink turned about the point that lies (-left, -top) from its corner; new corner relative to that point."""
    high, wide = ink.shape
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    # y points down: counter-clockwise on the screen is (x, y) -> (c x + s y, -s x + c y).
    xs, ys = np.array([left, left + wide] * 2), np.array([top, top, top + high, top + high])
    to_x, to_y = c * xs + s * ys, -s * xs + c * ys
    dx, dy = np.floor(to_x.min()), np.floor(to_y.min())
    size = (int(np.ceil(to_x.max() - dx)), int(np.ceil(to_y.max() - dy)))
    back = (c, -s, c * dx - s * dy - left, s, c, s * dx + c * dy - top)
    turned = Image.fromarray(ink).transform(size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
    return np.asarray(turned), float(dx), float(dy)
