"""Attribute scenes: coloured, textured shapes on photographs, with caption, edges, depth order and subject crops.

A scene is a list of items; item i covers the pixels where its silhouette `f((p - centre) / radius, turned by angle)`
is positive, nearer items (smaller `depth`) hide farther ones, and its colour at p is

    (1 - s T(u)) * colour + s T(u) * accent,      u = p in the item's own turned and scaled coordinates,

with a texture T in [0, 1] (drawn patterns, and brick and grass from photographs) of strength s. Behind them lies a
faded crop of a photograph. `read_items` does the reverse: it names colour, shape and place from the pixels alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.10, 0.65, 0.20),
    "blue": (0.15, 0.25, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "magenta": (0.85, 0.15, 0.80),
    "cyan": (0.10, 0.80, 0.85),
}
ACCENTS: dict[str, tuple[float, float, float]] = {"black": (0.03, 0.03, 0.03), "white": (0.97, 0.97, 0.97), **COLOURS}
SHAPES = ("disk", "square", "triangle", "star", "ring", "cross")
TEXTURES = ("plain", "stripes", "checks", "dots", "brick", "grass")
RELATIONS = ("left", "right", "above", "below")
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket")
VOCABULARY = ("<none>", *COLOURS, *SHAPES, *RELATIONS, "and")


@dataclass(frozen=True)
class Item:
    """One shape.

    Attributes:
        shape, colour, texture, accent: names from `SHAPES`, `COLOURS`, `TEXTURES`, `ACCENTS`.
        x, y: centre, as shares of the picture's width and height (y down).
        radius: of the circle around it, as a share of the picture's side.
        angle: turn (radians). phase: where in the texture it is cut. depth: smaller is nearer.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    texture: str = "plain"
    accent: str = "black"
    angle: float = 0.0
    phase: tuple[float, float] = (0.0, 0.0)
    depth: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Items in the order of the caption, on a crop of a photograph.

    Attributes:
        photo: name from `PHOTOS`; None for plain grey.
        corner: upper left corner of the crop, as shares of what is free. side: of the crop, as a share of the photo's.
        fade: how far the photo is drawn towards grey, 0 (as it is) to 1 (gone).
        cover: an item whose colour and texture fill the background in place of the photo.
    """

    items: tuple[Item, ...]
    photo: str | None = None
    corner: tuple[float, float] = (0.0, 0.0)
    side: float = 0.5
    fade: float = 0.6
    cover: Item | None = None


@dataclass(frozen=True)
class Rendering:
    """A drawn scene and what is true of it.

    Attributes:
        image: `(H, W, 3)` in [0, 1].
        silhouettes: `(I, H, W)` bool, every item as if alone. masks: `(I, H, W)` bool, what is visible of it.
        depth: `(H, W)`, 0 behind all items, up to 1 for the nearest; equal steps by rank.
    """

    image: Array
    silhouettes: NDArray[np.bool_]
    masks: NDArray[np.bool_]
    depth: Array


def sample_scene(
    rng: np.random.Generator,
    items: int = 2,
    overlap: float = 0.5,
    radius: tuple[float, float] = (0.17, 0.24),
    textures: Sequence[str] = TEXTURES,
    photos: Sequence[str] = PHOTOS,
    fade: float = 0.6,
) -> Scene:
    """Draw a scene; items differ in colour and shape.

    Args:
        items: how many. overlap: chance that an item is put where it overlaps the one before.
        radius: smallest and largest, as shares of the picture's side.
        textures, photos: names to draw from.

    Raises:
        ValueError: more items than colours or shapes.
    """
    if not 1 <= items <= min(len(COLOURS), len(SHAPES)):
        raise ValueError(
            f"{items} items: between 1 and {min(len(COLOURS), len(SHAPES))} can differ in colour and shape"
        )
    colours = rng.choice(list(COLOURS), items, replace=False)
    shapes = rng.choice(SHAPES, items, replace=False)
    placed: list[Item] = []
    depths = rng.permutation(items).astype(float)
    for number in range(items):
        size = rng.uniform(*radius)
        x, y = _place(rng, placed, size, bool(placed) and rng.random() < overlap)
        accent = str(rng.choice([name for name in ACCENTS if name != colours[number]]))
        placed.append(
            Item(
                str(shapes[number]), str(colours[number]), x, y, float(size), str(rng.choice(list(textures))), accent,
                float(rng.uniform(0, 2 * np.pi)), (float(rng.random()), float(rng.random())), float(depths[number]),
            )
        )  # fmt: skip
    photo = str(rng.choice(list(photos))) if photos else None
    return Scene(tuple(placed), photo, (float(rng.random()), float(rng.random())), float(rng.uniform(0.2, 0.6)), fade)


def render(scene: Scene, size: int = 32, strength: float = 0.8, supersample: int = 2) -> Rendering:
    """Draw a scene.

    Args:
        size: side of the picture (pixels). strength: s, how strongly the texture shows.
        supersample: samples per pixel and axis.
    """
    fine = size * supersample
    y, x = (np.mgrid[0:fine, 0:fine] + 0.5) / fine
    if scene.cover is None:
        colour = np.repeat(np.repeat(background(scene, size), supersample, 0), supersample, 1)
    else:
        colour = item_colour(scene.cover, *own_coordinates(scene.cover, x, y), strength)
    order = sorted(range(len(scene.items)), key=lambda i: -scene.items[i].depth)
    silhouettes = np.zeros((len(scene.items), fine, fine), dtype=bool)
    visible = np.zeros_like(silhouettes)
    depth = np.zeros((fine, fine))
    for rank, number in enumerate(order, 1):
        item = scene.items[number]
        u, v = own_coordinates(item, x, y)
        inside = silhouette(item.shape, u, v)
        silhouettes[number] = inside
        visible[:, inside] = False
        visible[number] = inside
        depth[inside] = rank / len(order)
        colour[inside] = item_colour(item, u[inside], v[inside], strength)
    return Rendering(
        _shrink(colour, supersample),
        _shrink(silhouettes.astype(float), supersample, first=1) > 0.5,
        _shrink(visible.astype(float), supersample, first=1) > 0.5,
        _shrink(depth, supersample),
    )


def background(scene: Scene, size: int) -> Array:
    """The faded photograph behind the items, `(size, size, 3)`."""
    if scene.photo is None:
        return np.full((size, size, 3), 0.5)
    picture = photograph(scene.photo)
    side = max(size, int(scene.side * min(picture.shape[:2])))
    top, left = (int(share * (free - side)) for share, free in zip(scene.corner, picture.shape[:2], strict=True))
    crop = picture[top : top + side, left : left + side]
    rows = (np.arange(size) * side // size)[:, None] + np.arange(max(1, side // size))[None]
    small = crop[rows][:, :, rows].mean(axis=(1, 3))
    return (1 - scene.fade) * small + scene.fade * 0.5


def edge_map(image: Array, sigma: float = 1.0, low: float = 0.08, high: float = 0.16) -> NDArray[np.bool_]:
    """Canny edges of the largest channel contrast of a picture `(H, W, 3)`: bool `(H, W)`."""
    from skimage.feature import canny

    channels = [canny(image[..., c], sigma=sigma, low_threshold=low, high_threshold=high) for c in range(3)]
    return np.logical_or.reduce(channels)


def subject_crop(item: Item, rng: np.random.Generator, size: int = 16, strength: float = 0.8) -> Array:
    """The item alone on grey, turned and cut from its texture anew: another pose of it, `(size, size, 3)`."""
    posed = replace(
        item, x=0.5, y=0.5, radius=float(rng.uniform(0.40, 0.48)), angle=float(rng.uniform(0, 2 * np.pi)),
        phase=(float(rng.random()), float(rng.random())),
    )  # fmt: skip
    return render(Scene((posed,)), size, strength).image


def caption(scene: Scene) -> str:
    """The scene in words, such as "a red disk left of a blue star and a green ring"."""
    named = [f"a {item.colour} {item.shape}" for item in scene.items]
    if len(named) == 1:
        return named[0]
    word = relation(scene.items[0], scene.items[1])
    link = f"{word} of" if word in ("left", "right") else word
    return " and ".join([f"{named[0]} {link} {named[1]}", *named[2:]])


def relation(a: Item, b: Item) -> str:
    """Where a lies, seen from b, along the axis on which they are farther apart."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def encode_caption(text: str, length: int = 8) -> NDArray[np.int64]:
    """A caption as word numbers of `VOCABULARY`, padded with 0; articles and "of" are left out.

    Raises:
        ValueError: an unknown word, or too many of them.
    """
    words = [word for word in text.lower().split() if word not in ("a", "an", "of")]
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown or len(words) > length:
        raise ValueError(
            f"caption {text!r}: unknown words {unknown}" if unknown else f"caption {text!r}: over {length} words"
        )
    return np.array([VOCABULARY.index(word) for word in words] + [0] * (length - len(words)), dtype=np.int64)


@dataclass(frozen=True)
class Found:
    """An item read from pixels: names, centre (shares), and mask `(H, W)`; `fit` is the overlap with its template."""

    shape: str
    colour: str
    x: float
    y: float
    fit: float
    mask: NDArray[np.bool_] = field(repr=False)


def read_items(image: Array, smallest: float = 0.02, reach: float = 0.45) -> list[Found]:
    """Name what a picture shows, from its pixels.

    Pixels go to the nearest palette colour (by hue-bearing colour difference, within `reach`); per colour the closed
    components above `smallest` of the picture are fitted with the silhouettes of all shapes at many turns, and the
    best overlap (intersection over union) names the shape.

    Args:
        image: `(H, W, 3)` in [0, 1].
        smallest: least area, as a share of the picture.
        reach: largest distance of a pixel's chroma from its colour's.

    Returns:
        items, largest first.
    """
    names = list(COLOURS)
    palette = np.array([COLOURS[name] for name in names])
    distance = np.linalg.norm(_chroma(image)[:, :, None] - _chroma(palette), axis=-1)
    label = np.where(distance.min(axis=-1) < reach, distance.argmin(axis=-1), -1)
    found = []
    size = image.shape[0]
    for number, name in enumerate(names):
        closed = ndimage.binary_closing(np.pad(label == number, 2), iterations=1)[2:-2, 2:-2]
        parts, count = ndimage.label(closed)
        for part in range(1, count + 1):
            mask = parts == part
            if mask.sum() < smallest * mask.size:
                continue
            shape, fit = _name_shape(mask)
            row, column = ndimage.center_of_mass(mask)
            found.append(Found(shape, name, (column + 0.5) / size, (row + 0.5) / size, fit, mask))
    return sorted(found, key=lambda item: -int(item.mask.sum()))


def caption_accuracy(image: Array, scene: Scene) -> float:
    """Share of what the caption says that the picture shows: every item by colour and shape, and the relation."""
    found = {item.colour: item for item in reversed(read_items(image))}
    hits = [float(item.colour in found and found[item.colour].shape == item.shape) for item in scene.items]
    if len(scene.items) > 1:
        pair = [found.get(item.colour) for item in scene.items[:2]]
        told = relation(scene.items[0], scene.items[1])
        shown = relation(*(Item(p.shape, p.colour, p.x, p.y, 0.0) for p in pair)) if all(pair) else None
        hits.append(float(shown == told))
    return float(np.mean(hits))


def depth_order_accuracy(image: Array, scene: Scene, rendering: Rendering) -> float:
    """Share of the pixels where two silhouettes cross that show the nearer item's colour; NaN if none cross.

    A pixel shows the item whose own colour, of colour and accent mixed, is the closer one.
    """
    hits: list[NDArray[np.bool_]] = []
    for i, a in enumerate(scene.items):
        for j in range(i + 1, len(scene.items)):
            crossing = rendering.silhouettes[i] & rendering.silhouettes[j]
            pixels = image[crossing]
            to_a, to_b = (np.linalg.norm(pixels - nearest_mix(item, pixels), axis=-1) for item in (a, scene.items[j]))
            hits.append((to_a < to_b) == (a.depth < scene.items[j].depth))
    together = np.concatenate(hits) if hits else np.zeros(0, dtype=bool)
    return float(together.mean()) if together.size else float("nan")


def layout_accuracy(image: Array, scene: Scene, rendering: Rendering) -> float:
    """Share of the items' visible pixels that show the item which is there: its colour is the closest of all items'."""
    nearest = np.stack(
        [
            np.linalg.norm(image - nearest_mix(item, image.reshape(-1, 3)).reshape(image.shape), axis=-1)
            for item in scene.items
        ]
    ).argmin(axis=0)
    there = rendering.masks.any(axis=0)
    return float((nearest == rendering.masks.argmax(axis=0))[there].mean()) if there.any() else float("nan")


def nearest_mix(item: Item, pixels: Array, strength: float = 0.8) -> Array:
    """For pixels `(P, 3)` the nearest colour the item can have, on the line from its colour to its accent."""
    start = np.array(COLOURS[item.colour])
    if item.texture == "plain":
        return np.broadcast_to(start, pixels.shape)
    step = strength * (np.array(ACCENTS[item.accent]) - start)
    share = ((pixels - start) @ step / (step @ step)).clip(0, 1)
    return start + share[:, None] * step


def silhouette(shape: str, u: Array, v: Array) -> NDArray[np.bool_]:
    """Whether points of an item's own coordinates (unit circle around it) lie inside its shape."""
    r = np.hypot(u, v)
    if shape == "disk":
        return r <= 0.85
    if shape == "ring":
        return (r <= 0.95) & (r >= 0.5)
    if shape == "square":
        return np.maximum(abs(u), abs(v)) <= 0.72
    if shape == "cross":
        return (np.minimum(abs(u), abs(v)) <= 0.30) & (np.maximum(abs(u), abs(v)) <= 0.92)
    if shape == "triangle":
        corners = np.stack([np.cos(a) * u + np.sin(a) * v for a in 2 * np.pi * np.arange(3) / 3 + np.pi / 6])
        return corners.max(axis=0) <= 0.5
    if shape == "star":
        # Distance to the edge of the five-pointed star, in the sector between a tip and a notch.
        a = np.mod(np.arctan2(u, -v), 2 * np.pi / 5)
        a = np.minimum(a, 2 * np.pi / 5 - a)
        tip, notch = 1.0, 0.45
        px, py = r * np.cos(a), r * np.sin(a)
        nx, ny = notch * np.cos(np.pi / 5), notch * np.sin(np.pi / 5)
        return (nx - tip) * py - ny * (px - tip) >= 0
    raise ValueError(f"unknown shape {shape!r}; choose from: {', '.join(SHAPES)}")


def texture_value(texture: str, u: Array, v: Array, phase: tuple[float, float]) -> Array:
    """T in [0, 1] at points of an item's own coordinates."""
    if texture == "plain":
        return np.zeros_like(u)
    if texture == "stripes":
        return (np.mod(u / 0.8 + phase[0], 1) < 0.5).astype(float)
    if texture == "checks":
        return ((np.mod(u / 1.1 + phase[0], 1) < 0.5) ^ (np.mod(v / 1.1 + phase[1], 1) < 0.5)).astype(float)
    if texture == "dots":
        du, dv = (np.mod(w / 0.75 + p, 1) - 0.5 for w, p in zip((u, v), phase, strict=True))
        return (du**2 + dv**2 < 0.09).astype(float)
    if texture in ("brick", "grass"):
        picture = _grey_texture(texture)
        place = [np.mod((w + 1) * 40 + p * s, s - 1) for w, p, s in zip((v, u), phase, picture.shape, strict=True)]
        return picture[place[0].astype(int), place[1].astype(int)]
    raise ValueError(f"unknown texture {texture!r}; choose from: {', '.join(TEXTURES)}")


def own_coordinates(item: Item, x: Array, y: Array) -> tuple[Array, Array]:
    """Picture coordinates (shares) in an item's own: centred, turned, in units of its radius."""
    dx, dy = (x - item.x) / item.radius, (y - item.y) / item.radius
    c, s = np.cos(item.angle), np.sin(item.angle)
    return c * dx + s * dy, -s * dx + c * dy


def item_colour(item: Item, u: Array, v: Array, strength: float) -> Array:
    """Colour `(..., 3)` of an item at points of its own coordinates."""
    share = strength * texture_value(item.texture, u, v, item.phase)[..., None]
    return (1 - share) * np.array(COLOURS[item.colour]) + share * np.array(ACCENTS[item.accent])


@lru_cache(maxsize=8)
def photograph(name: str) -> Array:
    """A colour photograph that ships with scikit-image, `(H, W, 3)` in [0, 1]."""
    from skimage import data

    return np.asarray(getattr(data, name)(), dtype=float)[..., :3] / 255


@lru_cache(maxsize=4)
def _grey_texture(name: str) -> Array:
    from skimage import data

    picture = ndimage.zoom(np.asarray(getattr(data, name)(), dtype=float), 0.5, order=1)
    low, high = np.percentile(picture, (5, 95))
    return np.clip((picture - low) / (high - low), 0, 1)


def _place(rng: np.random.Generator, placed: list[Item], size: float, crossing: bool) -> tuple[float, float]:
    """A centre that keeps the item in the picture, and either crosses the last item or keeps clear of all."""
    x = y = 0.5
    for _ in range(200):
        x, y = (float(rng.uniform(size, 1 - size)) for _ in range(2))
        gaps = [np.hypot(x - other.x, y - other.y) / (size + other.radius) for other in placed]
        if not gaps or (crossing and 0.5 <= gaps[-1] <= 0.8) or (not crossing and min(gaps) >= 1.0):
            break
    return x, y


def _shrink(array: Array, factor: int, first: int = 0) -> Array:
    shape = array.shape
    rows, columns = shape[first] // factor, shape[first + 1] // factor
    cells = array.reshape(*shape[:first], rows, factor, columns, factor, *shape[first + 2 :])
    return cells.mean(axis=(first + 1, first + 3))


def _chroma(colour: Array) -> Array:
    """Colour without its grey part, at unit length where it is strong."""
    c = colour - colour.mean(axis=-1, keepdims=True)
    return c / np.maximum(np.linalg.norm(c, axis=-1, keepdims=True), 0.35)


@lru_cache(maxsize=1)
def _templates() -> tuple[list[str], NDArray[np.bool_]]:
    grid = np.linspace(-1, 1, 24)
    v, u = np.meshgrid(grid, grid, indexing="ij")
    names, masks = [], []
    for shape in SHAPES:
        for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False) if shape not in ("disk", "ring") else (0.0,):
            c, s = np.cos(angle), np.sin(angle)
            names.append(shape)
            masks.append(_normal_mask(silhouette(shape, c * u + s * v, -s * u + c * v)))
    return names, np.stack(masks)


def _normal_mask(mask: NDArray[np.bool_], side: int = 24) -> NDArray[np.bool_]:
    """A mask centred and scaled to the same second moment, on a `side` x `side` grid."""
    rows, columns = np.nonzero(mask)
    centre = rows.mean(), columns.mean()
    spread = max(np.sqrt(((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2).mean()), 0.5)
    reach = (np.arange(side) - (side - 1) / 2) / side * 4.4 * spread
    where = np.meshgrid(centre[0] + reach, centre[1] + reach, indexing="ij")
    return ndimage.map_coordinates(mask.astype(float), where, order=1, cval=0.0) >= 0.5


def _name_shape(mask: NDArray[np.bool_]) -> tuple[str, float]:
    names, templates = _templates()
    normal = _normal_mask(mask)
    both = (templates & normal).sum(axis=(1, 2))
    either = (templates | normal).sum(axis=(1, 2))
    overlap = both / np.maximum(either, 1)
    best = int(overlap.argmax())
    return names[best], float(overlap[best])
