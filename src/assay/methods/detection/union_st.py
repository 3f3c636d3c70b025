"""UnionST: an engine that renders the union of hard cases of scene text, and a labelling loop that evolves a reader.

The engine draws a text from a weighted corpus (words, random strings, lines of several words, broken words), a face
that can write it, and a plan: distortion, straight, curved or vertical layout, colours and photos, style, one of
eight transforms, another text in between, a blend mode. What a flood fill cannot tell from its surroundings is drawn
anew. The loop (`SelfEvolution`) lets a reader label what it is sure of and asks a human for a small part of the rest.

Choices of ours, where the paper's configuration leaves room: a curve's size is the rise of its middle; blend modes
are tried in random order until the text is visible, before a plan is given up; distortion moves the laid-out line
instead of each glyph, which is the same in distribution but for neighbours that move together.

Source: 2602.06450
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects, gaussian_filter

from assay.methods.detection._union_check import leak, outline, visible
from assay.methods.detection._union_corpus import KINDS, UNION_WEIGHTS, Corpus, reweighted
from assay.methods.detection._union_evolution import (
    EvolutionSettings,
    History,
    Round,
    SelfEvolution,
    fit_reader,
    jitter,
    shake,
)
from assay.methods.detection._union_glyphs import (
    Face,
    Glyph,
    Ink,
    Placement,
    arc_radius,
    draw,
    layout_curve,
    layout_flow,
    layout_vertical,
)
from assay.methods.detection._union_paint import (
    BLENDS,
    blend,
    colourise,
    grey_clusters,
    midground,
    style_border,
    style_extrusion,
    style_shadow,
    surface,
)
from assay.methods.detection._union_plan import CLASSIC, GEOMETRY, PLAIN, UNION, Chooser, EngineConfig, Plan
from assay.methods.detection._union_warp import Geometry, displaced, elastic_field, warped
from assay.nn.ctc import CtcRecogniser, Reading

__all__ = [
    "BLENDS", "CLASSIC", "GEOMETRY", "KINDS", "PLAIN", "UNION", "UNION_WEIGHTS", "Corpus", "CtcRecogniser",
    "EngineConfig", "EvolutionSettings", "Face", "Geometry", "History", "Invisible", "Placement", "Plan", "Reading",
    "Round", "SelfEvolution", "TextEngine", "TextSample", "arc_radius", "blend", "colourise", "elastic_field",
    "fit_reader", "grey_clusters", "jitter", "layout_curve", "layout_flow", "layout_vertical", "leak", "midground",
    "reweighted", "shake",
    "style_border", "style_extrusion", "style_shadow", "visible",
]  # fmt: skip

GREYS = np.array([[a, b, c] for a in (15, 60, 110) for b in (70, 130, 190) for c in (150, 205, 245)], dtype=float)
SCRIPT_SIZE, SCRIPT_RISE = 0.6, 0.35  # of super- and subscripts, as shares of the glyph size


class Invisible(ValueError):
    """Every draw of a text was invisible; the sample is given up."""


@dataclass(frozen=True)
class TextSample:
    """A picture of a text.

    Attributes:
        image: (H, W, 3) uint8.
        text: what it says, spaces included.
        boxes: (G, 4) pixel boxes `x0, y0, x1, y1` (ends excluded) of the glyphs, spaces left out, in reading order.
        mask: (H, W) uint8, number of the glyph (from 1) a pixel belongs to; 0 outside of the text.
        plan: how it was made.
        leak: share of the glyphs' border that a flood fill from the text reaches.
        draws: how many plans were drawn for it.
    """

    image: NDArray[np.uint8]
    text: str
    boxes: NDArray[np.int64]
    mask: NDArray[np.uint8]
    plan: Plan
    leak: float
    draws: int


class TextEngine:
    """Renders texts of a corpus.

    Args:
        corpus: what is written.
        fonts: contents of font files by name.
        config: distributions; `UNION` or `CLASSIC`, perhaps with `dataclasses.replace`d values.
        textures: photos (H, W, 3) uint8 for surfaces; none: plain colours.
        greys: (M, 2) or (M, 3) grey levels of real crops' main parts, such as `grey_clusters` gives.

    Attributes:
        given_up: how many samples were given up as invisible so far.
        drawn: how many plans were rendered so far.

    Raises:
        ValueError: no fonts, a font that FreeType cannot read, or grey levels of another shape.
    """

    def __init__(
        self,
        corpus: Corpus,
        fonts: Mapping[str, bytes],
        config: EngineConfig = UNION,
        textures: Sequence[NDArray[np.uint8]] = (),
        greys: NDArray[np.float64] | None = None,
    ) -> None:
        if not fonts:
            raise ValueError("no fonts: nothing can be rendered")
        self.corpus, self.config = corpus, config
        self.faces = {name: Face(name, data) for name, data in fonts.items()}
        self.textures = [np.ascontiguousarray(photo[..., :3], dtype=np.uint8) for photo in textures]
        self.greys = np.asarray(GREYS if greys is None else greys, dtype=float)
        if self.greys.ndim != 2 or self.greys.shape[1] not in (2, 3) or not len(self.greys):
            raise ValueError(f"greys must be (M, 2) or (M, 3), got {self.greys.shape}")
        self.given_up = self.drawn = 0
        self._able: dict[str, list[str]] = {}

    def able(self, text: str) -> list[str]:
        """Names of the faces that can render every character of a text.

        Raises:
            ValueError: no face can; the characters that stop them are listed.
        """
        key = "".join(sorted(set(text) - {" "}))
        if key not in self._able:
            self._able[key] = [name for name, face in self.faces.items() if face.has(key)]
        if not self._able[key]:
            lacking = {name: "".join(c for c in key if not face.has(c)) for name, face in self.faces.items()}
            few = "; ".join(f"{name} lacks {chars!r}" for name, chars in list(lacking.items())[:5])
            raise ValueError(f"no font can render {text!r}: {few}")
        return self._able[key]

    def plan(self, rng: np.random.Generator, text: str | None = None) -> Plan:
        """One draw from every distribution; nothing is rendered. Texts that no font can render are drawn anew.

        Raises:
            ValueError: no font can render the given text, or any of fifty of the corpus.
        """
        c, pick = self.config, Chooser(rng)
        kind, text = ("given", text) if text is not None else self._renderable(rng)
        face = pick.item(self.able(text))
        size = max(round(pick.within(c.size) * c.scale), 4)
        bold, vertical = pick.happens(c.bold), pick.happens(c.vertical)
        count = len(text.replace(" ", ""))
        script = (0, 0)
        if pick.happens(c.script) and count > 1:
            script = (int(rng.integers(1, count // 2 + 1)), 1 if pick.happens(0.5) else -1)
        shape = pick.one_of(c.shapes)
        alpha, sigma = (pick.within(limits) for limits in (c.weak if shape == "weak" else c.elastic))
        layout, spacing = pick.one_of(c.layouts), pick.within(c.spacing) * c.scale
        rise, up = pick.within(c.rise) * c.scale, pick.happens(0.5)
        style = pick.one_of(c.styles) if pick.happens(c.style) else ""
        style_size, style_turn = max(round(pick.within(c.style_size) * c.scale), 1), pick.within((0, 360))
        geometry = pick.geometry(c)
        other = self._renderable(rng)[1] if pick.happens(c.midground) else ""
        shift = (-c.midground_shift, c.midground_shift)
        photos = [
            (int(rng.integers(len(self.textures))), pick.within(c.texture_share), (rng.random(), rng.random()))
            if self.textures and pick.happens(c.texture)
            else None
            for _ in range(4)
        ]
        return Plan(
            kind=kind, text=text, face=face, size=size, bold=bold, vertical=vertical, script=script, shape=shape,
            alpha=alpha, sigma=sigma, layout="flow" if vertical else layout, spacing=spacing, rise=rise, up=up,
            style=style, style_size=style_size, style_turn=style_turn, geometry=geometry, other=other,
            other_face=pick.item(self.able(other)) if other else "",
            other_shift=(pick.within(shift), pick.within(shift)), textures=tuple(photos),
            blends=tuple(c.blends[i] for i in rng.permutation(len(c.blends))),
            padding=tuple(round(pick.within(c.padding) * c.scale) for _ in range(4)),  # type: ignore[arg-type]
            jpeg=round(pick.within(c.jpeg)) if c.jpeg else 0, blur=pick.within(c.blur) * c.scale,
            noise=pick.within(c.noise), seed=int(rng.integers(2**62)),
        )  # fmt: skip

    def _renderable(self, rng: np.random.Generator) -> tuple[str, str]:
        for left in reversed(range(50)):
            kind, text = self.corpus.sample(rng)
            try:
                self.able(text)
            except ValueError:
                if not left:
                    raise
            else:
                return kind, text
        raise AssertionError("unreachable")

    def sample(self, rng: np.random.Generator, text: str | None = None) -> TextSample:
        """A visible sample: plans are drawn until one is, at most `config.tries` of them.

        Args:
            text: to be written; one of the corpus when None.

        Raises:
            Invisible: all draws were invisible; counted in `given_up`.
            ValueError: no font can render the text.
        """
        for draws in range(1, self.config.tries + 1):
            sample = self.render(self.plan(rng, text), draws)
            if sample is not None:
                return sample
        self.given_up += 1
        raise Invisible(f"given up after {self.config.tries} invisible draws")

    def samples(self, n: int, seed: int) -> Iterator[TextSample]:
        """`n` samples; number i depends on the seed and on i alone, so they may be shared out among workers.

        A sample that is given up (and counted) is drawn again with another text.
        """
        for i in range(n):
            yield self.numbered(i, seed)

    def numbered(self, i: int, seed: int) -> TextSample:
        """Sample number `i` of a seed.

        Raises:
            Invisible: twenty texts in a row were given up.
        """
        for again in range(20):
            try:
                return self.sample(np.random.default_rng([seed, i, again]))
            except Invisible:
                continue
        raise Invisible(f"sample {i} of seed {seed}: no text was visible; the configuration hides nearly all of them")

    def render(self, plan: Plan, draws: int = 1) -> TextSample | None:
        """The plan's picture, or None where its text is invisible in every blend mode or a glyph has no ink left."""
        self.drawn += 1
        c, rng = self.config, np.random.default_rng(plan.seed)
        margin = plan.style_size if plan.style else 0
        ink = self._line(plan, margin + 2 if plan.shape == "elastic" else margin)
        if plan.shape != "none":
            ink = displaced(ink, elastic_field(ink.alpha.shape, plan.alpha, plan.sigma, rng, c.scale))
        behind = self._styled(plan, ink.alpha)
        layers, owner = warped([ink.alpha] if behind is None else [ink.alpha, behind], ink.owner, plan.geometry)
        layers, owner = _trimmed(layers, owner, plan.padding)
        alpha = layers[0]
        owner = np.where(alpha > 32, owner, 0).astype(np.uint8)
        places = find_objects(owner)
        if len(places) < len(plan.text.replace(" ", "")) or None in places or max(owner.shape) > c.most_side:
            return None
        painted = self._painted(plan, alpha, layers[1] if behind is not None else None, rng)
        if painted is None:
            return None
        picture, leaked = painted
        boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places], dtype=np.int64)
        return TextSample(self._finished(plan, picture, rng), plan.text, boxes, owner, plan, leaked, draws)

    def _line(self, plan: Plan, margin: int) -> Ink:
        """The text's glyphs, laid out."""
        face, size = self.faces[plan.face], plan.size
        stroke = max(round(size / 30), 1) if plan.bold else 0
        baseline = face.at(size).getmetrics()[0]
        small, first = max(round(size * SCRIPT_SIZE), 4), len(plan.text) - plan.script[0]
        glyphs: list[Glyph] = []
        for i, character in enumerate(plan.text):
            if plan.script[0] and i >= first:
                glyph = face.glyph(character, small, stroke)
                drop = baseline - face.at(small).getmetrics()[0] - plan.script[1] * round(size * SCRIPT_RISE)
                glyphs.append(Glyph(glyph.ink, glyph.left, glyph.top + drop, glyph.advance))
            else:
                glyphs.append(face.glyph(character, size, stroke))
        advances = [glyph.advance for glyph in glyphs]
        if plan.vertical:
            heights = [len(g.ink) + 0.1 * size if len(g.ink) else 0.4 * size for g in glyphs]
            # In a column a cell is as high as its ink, whose lower end is taken for the baseline.
            glyphs = [Glyph(g.ink, g.left, round(baseline) - len(g.ink), g.advance) for g in glyphs]
            placed = layout_vertical(heights, plan.spacing)
        elif plan.layout == "curve":
            radius = arc_radius(sum(advances) + plan.spacing * (len(advances) - 1), plan.rise)
            placed = layout_curve(advances, radius, plan.up, plan.spacing)
        else:
            placed = layout_flow(advances, plan.spacing)
        return draw(glyphs, placed, baseline, margin)

    def _styled(self, plan: Plan, alpha: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """The layer that the style puts behind the text."""
        turn = np.radians(plan.style_turn)
        shift = (round(plan.style_size * np.cos(turn)), round(plan.style_size * np.sin(turn)))
        if plan.style == "border":
            return style_border(alpha, max(plan.style_size // 2, 1))
        if plan.style == "shadow":
            return style_shadow(alpha, shift, plan.style_size / 4)
        return style_extrusion(alpha, shift) if plan.style == "extrusion" else None

    def _painted(
        self, plan: Plan, alpha: NDArray[np.uint8], behind: NDArray[np.uint8] | None, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], float] | None:
        """Colours, midground, style and text over a background; with the check, the first visible blend mode."""
        shape = alpha.shape
        levels = self.greys[int(rng.integers(len(self.greys)))]
        order = rng.permutation(len(levels))
        third = levels[order[2]] if len(levels) > 2 and rng.random() < 0.5 else rng.uniform(0, 255)  # 3 or 2 clusters
        colours = [colourise(grey, rng) for grey in (levels[order[0]], levels[order[1]], third, rng.uniform(0, 255))]
        layers = [self._surface(shape, colour, photo) for colour, photo in zip(colours, plan.textures, strict=True)]
        canvas = layers[0]
        if plan.other:
            other = self._line(_plain(plan), 0).alpha
            pad = round(self.config.midground_pad * self.config.scale)
            between = midground(np.maximum(alpha, 0 if behind is None else behind), other, plan.other_shift, pad)
            canvas = blend(canvas, layers[3], between * np.float32(1 / 255), "normal")
        if behind is not None:
            canvas = blend(canvas, layers[2], behind * np.float32(1 / 255), "normal")
        share, form = alpha * np.float32(1 / 255), outline(alpha)
        for mode in plan.blends:
            picture = blend(canvas, layers[1], share, mode)
            leaked = leak(picture * np.float32(255), form, self.config.tolerance)
            if not self.config.check or leaked <= self.config.border:
                return picture, leaked
        return None

    def _surface(self, shape: tuple[int, int], colour: NDArray, photo: tuple | None) -> NDArray[np.float32]:
        if photo is None:
            return surface(shape, colour, None, 0, (0, 0))
        return surface(shape, colour, self.textures[photo[0]], photo[1], photo[2])

    def _finished(self, plan: Plan, picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Blur, noise and compression."""
        if plan.blur > 0:
            picture = gaussian_filter(picture, (plan.blur, plan.blur, 0))
        values = picture * np.float32(255)
        if plan.noise > 0:
            values = values + rng.normal(0, plan.noise, values.shape)
        image = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        if plan.jpeg:
            held = io.BytesIO()
            Image.fromarray(image).save(held, "JPEG", quality=plan.jpeg)
            image = np.asarray(Image.open(held))
        return image


def _plain(plan: Plan) -> Plan:
    """The midground's line: upright, straight, of the same size."""
    from dataclasses import replace

    return replace(plan, text=plan.other, face=plan.other_face, script=(0, 0), vertical=False, layout="flow")


def _trimmed(
    layers: list[NDArray[np.uint8]], owner: NDArray[np.uint8], padding: tuple[int, int, int, int]
) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Cut to where any layer has ink, then padded (left, top, right, bottom)."""
    ink = layers[0] > 0
    for layer in layers[1:]:
        ink |= layer > 0
    rows, columns = np.nonzero(ink.any(1))[0], np.nonzero(ink.any(0))[0]
    if not len(rows):
        return layers, owner
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    left, top, right, bottom = padding

    def padded(layer: NDArray[np.uint8]) -> NDArray[np.uint8]:
        part = layer[box]
        found = np.zeros((part.shape[0] + top + bottom, part.shape[1] + left + right), dtype=np.uint8)
        found[top : top + part.shape[0], left : left + part.shape[1]] = part
        return found

    return [padded(layer) for layer in layers], padded(owner)
