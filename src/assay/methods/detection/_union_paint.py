"""Colour, texture, styles and blending of drawn text, and what lies between text and background."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import ConvexHull, QhullError

Pixels = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114])

# Each takes backdrop and source in [0, 1] and gives the mixed colour, which may leave [0, 1].
BLENDS: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    "normal": lambda b, s: s + 0 * b,
    "multiply": lambda b, s: b * s,
    "screen": lambda b, s: b + s - b * s,
    "overlay": lambda b, s: np.where(b < 0.5, 2 * b * s, 1 - 2 * (1 - b) * (1 - s)),
    "hard_light": lambda b, s: np.where(s < 0.5, 2 * b * s, 1 - 2 * (1 - b) * (1 - s)),
    "soft_light": lambda b, s: (1 - 2 * s) * b * b + 2 * b * s,
    "dodge": lambda b, s: b / np.maximum(1 - s, 1 / 255),
    "divide": lambda b, s: b / np.maximum(s, 1 / 255),
    "addition": lambda b, s: b + s,
    "difference": lambda b, s: np.abs(b - s),
    "darken_only": np.minimum,
    "lighten_only": np.maximum,
}


def blend(backdrop: Pixels, source: Pixels, alpha: Pixels, mode: str) -> Pixels:
    """Source over backdrop, both (H, W, 3) in [0, 1], by a blend mode, where `alpha` (H, W) says how much.

    Raises:
        KeyError: no such mode.
    """
    mixed = np.clip(BLENDS[mode](backdrop, source), 0, 1)
    return backdrop + (mixed - backdrop) * alpha[..., None]


def colourise(grey: float, rng: np.random.Generator, strength: float = 1.0) -> Pixels:
    """A colour (3,) in [0, 1] with the luma of a grey level (0..255), as saturated as a random share allows."""
    chroma = rng.uniform(-1, 1, 3)
    chroma -= LUMA @ chroma
    level = grey / 255
    room = np.where(chroma > 0, (1 - level) / np.maximum(chroma, 1e-9), level / np.maximum(-chroma, 1e-9)).min()
    return (level + chroma * min(max(room, 0.0), 1.0) * strength * rng.random()).astype(np.float32)


def grey_clusters(crops: Sequence[NDArray], clusters: int = 3, rounds: int = 8) -> NDArray[np.float64]:
    """Grey levels (N, clusters) of crops' main parts, ascending: k-means on their grey values.

    Args:
        crops: pictures (H, W) or (H, W, 3), 0..255, each of one word or of any small place.

    Raises:
        ValueError: no crops.
    """
    if not crops:
        raise ValueError("no crops to take grey levels from")
    found = []
    for crop in crops:
        values = np.asarray(crop, dtype=float)
        values = np.sort((values @ LUMA if values.ndim == 3 else values).ravel())[:: max(values.size // 1500, 1)]
        centres = np.quantile(values, (np.arange(clusters) + 0.5) / clusters)
        for _ in range(rounds):
            ends = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
            parts = np.split(values, ends)
            centres = np.array([part.mean() if len(part) else c for part, c in zip(parts, centres, strict=True)])
        found.append(centres)
    return np.array(found)


def surface(
    shape: tuple[int, int], colour: Pixels, photo: NDArray[np.uint8] | None, share: float, corner: tuple[float, float]
) -> Pixels:
    """A coloured layer (H, W, 3) in [0, 1], with `share` of a photo's piece in it.

    Args:
        corner: where the piece lies in the photo, as shares of the free room.
    """
    if photo is None or share <= 0:
        return np.broadcast_to(colour, (*shape, 3))
    high, wide = photo.shape[:2]
    zoom = max(shape[0] / high, shape[1] / wide, 1.0)
    h, w = shape[0] / zoom, shape[1] / zoom
    y, x = max(corner[0] * (high - h), 0.0), max(corner[1] * (wide - w), 0.0)
    if zoom == 1.0:
        piece = photo[int(y) : int(y) + shape[0], int(x) : int(x) + shape[1]]
    else:
        piece = np.asarray(
            Image.fromarray(photo).resize((shape[1], shape[0]), box=(x, y, min(x + w, wide), min(y + h, high)))
        )
    return colour + (piece * np.float32(1 / 255) - colour) * np.float32(share)


def style_border(alpha: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Text thickened by `size` pixels all round; the canvas must have that margin."""
    return maximum_filter(alpha, size=2 * size + 1, mode="constant")


def style_shadow(alpha: NDArray[np.uint8], shift: tuple[int, int], blur: float) -> NDArray[np.uint8]:
    """Text moved by (dx, dy) and blurred."""
    moved = shifted(alpha, shift)
    return gaussian_filter(moved, blur) if blur > 0 else moved


def style_extrusion(alpha: NDArray[np.uint8], shift: tuple[int, int]) -> NDArray[np.uint8]:
    """Text dragged along (dx, dy), all places on the way filled."""
    steps = max(abs(shift[0]), abs(shift[1]), 1)
    found = alpha
    for step in range(1, steps + 1):
        found = np.maximum(found, shifted(alpha, (round(shift[0] * step / steps), round(shift[1] * step / steps))))
    return found


def shifted(layer: NDArray, shift: tuple[int, int]) -> NDArray:
    """A layer moved by (dx, dy) pixels; what comes in is empty."""
    dx, dy = shift
    high, wide = layer.shape
    found = np.zeros_like(layer)
    if abs(dx) < wide and abs(dy) < high:
        found[max(dy, 0) : high + min(dy, 0), max(dx, 0) : wide + min(dx, 0)] = layer[
            max(-dy, 0) : high - max(dy, 0), max(-dx, 0) : wide - max(dx, 0)
        ]
    return found


def midground(
    foreground: NDArray[np.uint8], other: NDArray[np.uint8], shift: tuple[float, float], pad: int
) -> NDArray[np.uint8]:
    """Another text behind: laid over the canvas, moved by shares of its size, erased around the foreground's hull.

    Args:
        foreground: (H, W) alpha of the text that is read.
        other: (h, w) alpha of the other text; scaled to the canvas's height.
        shift: (x, y) as shares of the canvas, usually within 0.5.
        pad: pixels around the convex hull of the foreground that are erased too.
    """
    high, wide = foreground.shape
    width = max(round(other.shape[1] * high / other.shape[0]), 1)
    scaled = np.asarray(Image.fromarray(other).resize((width, high), Image.Resampling.BILINEAR))
    canvas = np.zeros_like(foreground)
    left = (wide - width) // 2
    canvas[:, max(left, 0) : max(left, 0) + min(width, wide)] = scaled[:, max(-left, 0) : max(-left, 0) + wide]
    canvas = shifted(canvas, (round(shift[0] * wide), round(shift[1] * high)))
    return np.where(hull(foreground, pad), 0, canvas).astype(np.uint8)


def hull(alpha: NDArray[np.uint8], pad: int) -> NDArray[np.bool_]:
    """The convex hull of ink, grown by `pad` pixels."""
    rows, columns = np.nonzero(alpha > 32)
    picture = Image.new("1", alpha.shape[::-1])
    if len(rows) == 0:
        return np.asarray(picture)
    points = np.stack([columns, rows], 1)
    try:
        corners = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # a dot, or a straight line of pixels
        corners = points[[0, -1]]
    outline = [(int(x), int(y)) for x, y in corners]
    pen = ImageDraw.Draw(picture)
    if len(outline) > 2:
        pen.polygon(outline, fill=1)
    pen.line([*outline, outline[0]], fill=1, width=2 * pad + 1)
    for x, y in outline:
        pen.ellipse((x - pad, y - pad, x + pad, y + pad), fill=1)
    return np.asarray(picture)
