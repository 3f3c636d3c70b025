"""Simulated photographs of words: text on planes and cylinders in space, seen by a pinhole camera.

A renderer of its own, which shares no code with any engine that makes training images: it draws a line with Pillow's
text layout, lays it on a surface, casts a ray for each pixel, and then does what a camera does (light, defocus, motion
blur, exposure, noise, JPEG). Seven groups, named as the difficult ones of the Union14M benchmark:

| group | what is hard |
|---|---|
| `curve` | text around a cylinder seen from above or below |
| `multi_oriented` | a plane turned in the picture, by 15 degrees to `steepest` |
| `artistic` | letters of uneven height and slant, outlines, wavy lines |
| `contextless` | random letters |
| `salient` | other text close by |
| `multi_word` | two words |
| `general` | none of these |
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import convolve, gaussian_filter, map_coordinates

GROUPS = ("curve", "multi_oriented", "artistic", "contextless", "salient", "multi_word", "general")
SIZE = 40  # pixels of the face on the surface
AREA = 3200  # pixels of a picture, about
MARGIN = 48  # around the line on the surface, for what stands near it
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class WildWord:
    """A picture (H, W, 3) uint8 of a word; `text` may have a space; `group` is one of `GROUPS`."""

    image: NDArray[np.uint8]
    text: str
    group: str


@dataclass(frozen=True)
class Pose:
    """A surface before the camera.

    Attributes:
        turn: (3, 3) rotation from the surface's frame (x along the text, y down, z away) to the camera's.
        distance: of the text's middle from the camera, in surface pixels.
        radius: of the cylinder about an axis along y behind the text; `inf` for a plane.
    """

    turn: NDArray[np.float64]
    distance: float
    radius: float = float("inf")

    def project(self, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Surface coordinates, from the text's middle, to image coordinates at focal length 1."""
        if np.isfinite(self.radius):
            points = np.stack([self.radius * np.sin(x / self.radius), y, self.radius * (1 - np.cos(x / self.radius))])
        else:
            points = np.stack([x, y, np.zeros_like(x)])
        seen = np.tensordot(self.turn, points, 1)
        depth = seen[2] + self.distance
        return seen[0] / depth, seen[1] / depth

    def surface(self, u: NDArray, v: NDArray) -> tuple[NDArray, NDArray]:
        """Image coordinates back to the surface's nearest point; NaN where the ray misses it."""
        origin = self.turn.T @ np.array([0, 0, -self.distance])
        ray = np.tensordot(self.turn.T, np.stack([u, v, np.ones_like(u)]), 1)
        if not np.isfinite(self.radius):
            step = -origin[2] / ray[2]
            return origin[0] + step * ray[0], origin[1] + step * ray[1]
        deep = origin[2] - self.radius
        a = ray[0] ** 2 + ray[2] ** 2
        b = origin[0] * ray[0] + deep * ray[2]
        under = b**2 - a * (origin[0] ** 2 + deep**2 - self.radius**2)
        with np.errstate(invalid="ignore"):
            step = (-b - np.sqrt(under)) / a
            x, z = origin[0] + step * ray[0], deep + step * ray[2]
            return self.radius * np.arctan2(x, -z), origin[1] + step * ray[1]


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Rotation matrix: turned in the picture by `roll`, tilted about x by `pitch` and y by `yaw`; radians."""
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1.0]])
    return about_z @ about_y @ about_x


class WildWords:
    """Draws pictures of words.

    Args:
        words: what is written.
        fonts: contents of font files by name; each must hold the words' letters.
        photos: backgrounds (H, W, 3) uint8.
        alphabet: letters of contextless strings.
        cases: weights of writing as it is, in capitals, with a capital first.
        longest: most letters of two words together.
        strain: factor on blur, noise and tilt.
        steepest: most degrees that text is turned by.

    Raises:
        ValueError: no words, fonts or photos.
    """

    def __init__(
        self,
        words: Sequence[str],
        fonts: Mapping[str, bytes],
        photos: Sequence[NDArray[np.uint8]],
        alphabet: str = "abcdefghijklmnopqrstuvwxyz",
        cases: tuple[float, float, float] = (0.5, 0.3, 0.2),
        longest: int = 7,
        strain: float = 1.0,
        steepest: float = 60.0,
    ) -> None:
        if not words or not fonts or not photos:
            raise ValueError("words, fonts and photos must not be empty")
        self.words, self.photos, self.alphabet, self.longest = words, photos, alphabet, longest
        self.strain, self.steepest = strain, steepest
        self.cases = np.cumsum(cases) / sum(cases)
        self._fonts = {
            name: ImageFont.truetype(io.BytesIO(data), SIZE, layout_engine=ImageFont.Layout.BASIC)
            for name, data in fonts.items()
        }
        self._names = sorted(self._fonts)

    def sample(self, group: str, rng: np.random.Generator) -> WildWord:
        """One picture of a group.

        Raises:
            ValueError: no such group.
        """
        if group not in GROUPS:
            raise ValueError(f"no group {group!r}; choose from {', '.join(GROUPS)}")
        text = self._text(group, rng)
        ink, others = self._line(text, group, rng)
        pose = self._pose(group, ink.shape[1] - 2 * MARGIN, rng)
        u, v = self._window(ink, pose, 0.3 if group == "salient" else 0.08, rng)
        x, y = pose.surface(u, v)
        at = np.nan_to_num(np.stack([y + ink.shape[0] / 2, x + ink.shape[1] / 2]), nan=-9.0)
        cover, near = (map_coordinates(layer, at, order=1, output=np.float32) / 255 for layer in (ink, others))
        image = self._painted(cover, near, rng)
        return WildWord(self._photographed(image, rng), text, group)

    def samples(self, n: int, seed: int) -> list[WildWord]:
        """`n` pictures, the groups in turn; number i depends on the seed and on i alone."""
        return [self.sample(GROUPS[i % len(GROUPS)], np.random.default_rng([seed, i])) for i in range(n)]

    def _text(self, group: str, rng: np.random.Generator) -> str:
        word = self.words[int(rng.integers(len(self.words)))]
        if group == "contextless":
            word = "".join(self.alphabet[int(i)] for i in rng.integers(len(self.alphabet), size=len(word)))
        elif group == "multi_word":
            first = self._fitting(self.longest - 2, rng)
            word = f"{first} {self._fitting(self.longest - len(first), rng)}"
        case = int(np.searchsorted(self.cases, rng.random()))
        return (word, word.upper(), word.title())[case]

    def _fitting(self, most: int, rng: np.random.Generator) -> str:
        for _ in range(200):
            word = self.words[int(rng.integers(len(self.words)))]
            if len(word) <= most:
                return word
        return min(self.words, key=len)

    def _line(self, text: str, group: str, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The line on the surface with a margin, and what other text stands near it; both alpha."""
        font = self._fonts[self._names[int(rng.integers(len(self._names)))]]
        stroke = int(rng.random() < 0.3)
        box = font.getbbox(text, stroke_width=stroke)
        size = (round(box[2] - box[0]) + 2 * MARGIN, round(box[3] - box[1]) + 2 * MARGIN)
        picture = Image.new("L", size)
        if group == "artistic":
            self._uneven(picture, text, font, rng)
        else:
            corner = (MARGIN - box[0], MARGIN - box[1])
            ImageDraw.Draw(picture).text(corner, text, fill=255, font=font, stroke_width=stroke)
        others = Image.new("L", size)
        if group == "salient":
            pen = ImageDraw.Draw(others)
            side = 1 if rng.random() < 0.5 else -1
            beside = self.words[int(rng.integers(len(self.words)))]
            gap = round(box[3] - box[1]) + int(rng.integers(2, 8))
            pen.text((MARGIN - box[0] + int(rng.integers(-30, 30)), MARGIN - box[1] + side * gap), beside, 255, font)
            if rng.random() < 0.5:
                pen.text((size[0] - MARGIN + int(rng.integers(8, 16)), MARGIN - box[1]), beside[:2], 255, font)
        return np.asarray(picture), np.asarray(others)

    def _uneven(self, picture: Image.Image, text: str, font: ImageFont.FreeTypeFont, rng: np.random.Generator) -> None:
        """Letters of uneven height and slant on a wavy line, sometimes as outlines."""
        outlined, wave, phase = rng.random() < 0.3, rng.uniform(0, 5), rng.uniform(0, 6)
        at = float(MARGIN)
        for letter in text:
            wide = max(int(font.getlength(letter)), 1)
            cell = Image.new("L", (wide + 24, 3 * SIZE))
            pen = ImageDraw.Draw(cell)
            pen.text((12, SIZE), letter, 255, font, anchor="ls", stroke_width=int(outlined))
            if outlined:
                pen.text((12, SIZE), letter, 70, font, anchor="ls")
            slant, stretch = rng.uniform(-0.2, 0.2), rng.uniform(0.85, 1.2)
            matrix = (1, slant, -slant * SIZE, 0, 1 / stretch, SIZE - SIZE / stretch)
            cell = cell.transform(cell.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            low = picture.height - MARGIN + round(wave * np.sin(phase + at / 25))
            picture.paste(255, (round(at) - 12, low - SIZE), cell)
            at += wide
        if outlined:
            picture.paste(picture.point(lambda value: min(255, value)))

    def _pose(self, group: str, length: float, rng: np.random.Generator) -> Pose:
        tilt = self.strain * np.radians(25)
        yaw, pitch, roll = rng.uniform(-tilt, tilt), rng.uniform(-tilt, tilt) / 2, rng.uniform(-0.08, 0.08)
        far = max(length, 60) * rng.uniform(1.6, 4)
        if group == "curve":
            radius = length / np.radians(rng.uniform(70, 150))
            steep = np.radians(rng.uniform(25, 50)) * (1 if rng.random() < 0.5 else -1)
            return Pose(rotation(yaw / 3, steep, roll), far, radius)
        if group == "multi_oriented":
            roll = np.radians(rng.uniform(15, self.steepest)) * (1 if rng.random() < 0.5 else -1)
        return Pose(rotation(yaw, pitch, roll), far)

    def _window(
        self, ink: NDArray[np.uint8], pose: Pose, most: float, rng: np.random.Generator
    ) -> tuple[NDArray, NDArray]:
        """Image coordinates of the pixels of a box around the text, as a human would draw it, a little off."""
        rows, columns = np.nonzero(ink.any(1))[0], np.nonzero(ink.any(0))[0]
        x = np.linspace(columns[0], columns[-1] + 1, 12) - ink.shape[1] / 2
        y = np.linspace(rows[0], rows[-1] + 1, 4) - ink.shape[0] / 2
        u, v = pose.project(*np.meshgrid(x, y))
        wide, high = np.ptp(u), np.ptp(v)
        left, right, top, bottom = rng.uniform(-0.01, most, 4)
        u0, u1 = u.min() - left * wide, u.max() + right * wide
        v0, v1 = v.min() - top * high, v.max() + bottom * high
        pixel = np.sqrt((u1 - u0) * (v1 - v0) / AREA)
        size = max(round((u1 - u0) / pixel), 8), max(round((v1 - v0) / pixel), 8)
        across, down = ((np.arange(n) + 0.5) / n for n in size)
        return tuple(np.meshgrid(u0 + across * (u1 - u0), v0 + down * (v1 - v0)))  # type: ignore[return-value]

    def _painted(self, cover: NDArray, near: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
        """Text in one colour, in sight of what is behind it: a photo, or a painted sign."""
        shape = cover.shape
        photo = self.photos[int(rng.integers(len(self.photos)))]
        side = (min(shape[0] * 2, photo.shape[0]), min(shape[1] * 2, photo.shape[1]))
        top, left = (int(rng.integers(room - need + 1)) for room, need in zip(photo.shape[:2], side, strict=True))
        piece = Image.fromarray(photo[top : top + side[0], left : left + side[1]]).resize(shape[::-1])
        behind = np.asarray(piece, dtype=float) / 255
        if rng.random() < 0.5:
            share = rng.uniform(0.05, 0.3)
            behind = rng.uniform(0, 1, 3) * (1 - share) + behind * share
        ground = float((behind @ LUMA).mean())
        for _ in range(50):
            colour = rng.uniform(0, 1, 3)
            if abs(colour @ LUMA - ground) > 0.28:
                break
        else:
            colour = np.full(3, float(ground < 0.5))
        covered = np.maximum(cover, near)[..., None]
        return behind + (colour - behind) * covered

    def _photographed(self, image: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Light across the surface, defocus, motion, exposure, noise, JPEG."""
        high, wide = image.shape[:2]
        slope = rng.uniform(-0.3, 0.3, 2)
        light = 1 + slope[0] * np.linspace(-1, 1, high)[:, None] + slope[1] * np.linspace(-1, 1, wide)
        image = image * light[..., None]
        soft = rng.uniform(0, 0.9) * self.strain
        image = gaussian_filter(image, (soft, soft, 0)) if soft > 0.2 else image
        if rng.random() < 0.3:
            steps = round(1 + 2 * self.strain * rng.random())
            kernel = np.eye(2 * steps + 1) if rng.random() < 0.3 else np.zeros((2 * steps + 1,) * 2)
            if not kernel.any():
                kernel[steps] = 1
            image = convolve(image, (kernel / kernel.sum())[..., None])
        image = np.clip(image, 0, None) ** rng.uniform(0.8, 1.25) * rng.uniform(0.75, 1.2)
        noise = rng.uniform(0, 0.04) * self.strain
        image = image + rng.normal(0, 1, image.shape) * noise * np.sqrt(0.2 + np.clip(image, 0, 1))
        held = io.BytesIO()
        Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).save(
            held, "JPEG", quality=int(rng.integers(40, 95))
        )
        return np.asarray(Image.open(held))
