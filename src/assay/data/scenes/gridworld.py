"""Walks over frozen lakes, drawn with the sprites of gymnasium's FrozenLake.

A lake is a square of letters: S start, F ice, H hole, G gift. An action moves by one cell, the border blocks, a hole or
the gift ends the walk. Pictures are put together cell by cell from the sprites in gymnasium's wheel (its own window
library is not needed) and equal gymnasium's renders, at 64 px a cell or box-averaged to any size that divides 64.

A walk's question is where its actions lead: A the gift, B a hole, C neither. `photograph` adds what a tokenizer of real
pictures has to live with: a lighting gain per walk and pixel noise per frame.

Source: gymnasium FrozenLake-v1 (MIT); the task of 2501.07542
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError, require

ACTIONS = ("left", "down", "right", "up")  # numbered as in gymnasium
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))
TILES = "FSHG"
ANSWERS = ("A", "B", "C")
CLASSES = len(TILES) * 5  # a tile without the elf, or with it facing one of four ways
SPRITE = 64  # pixels of a cell in gymnasium's own pictures
GRID_LINE = (180, 200, 230)

Place = tuple[int, int]
Layout = tuple[str, ...]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Walk:
    """Actions on a lake and where they led.

    Attributes:
        layout: rows of letters.
        actions: T numbers of actions.
        positions: T + 1 cells (row, column), the start first.
    """

    layout: Layout
    actions: tuple[int, ...]
    positions: tuple[Place, ...]

    @property
    def facings(self) -> tuple[int, ...]:
        """Where the elf looks in every frame: down at first, then along its last action, even if it was blocked."""
        return (1, *self.actions)

    @property
    def answer(self) -> str:
        """A at the gift, B in a hole, C elsewhere."""
        return answer_at(self.layout, self.positions[-1])


def answer_at(layout: Layout, place: Place) -> str:
    """What the walk's end at a cell answers."""
    return {"G": "A", "H": "B"}.get(layout[place[0]][place[1]], "C")


def moved(size: int, place: Place, action: int) -> Place:
    """The cell that an action leads to; the border blocks."""
    row, column = place[0] + MOVES[action][0], place[1] + MOVES[action][1]
    return (row, column) if 0 <= row < size and 0 <= column < size else place


def walk(layout: Layout, actions: tuple[int, ...]) -> Walk:
    """Follow actions from S until they end or a hole or the gift is reached.

    Raises:
        ValueError: the layout is not square, has other letters, or not one S; or an action is not 0 to 3.
    """
    size = len(layout)
    if any(len(row) != size for row in layout) or set("".join(layout)) - set(TILES):
        raise ValueError(f"layout {layout}: expected a square of the letters {TILES}")
    starts = [(r, c) for r in range(size) for c in range(size) if layout[r][c] == "S"]
    if len(starts) != 1:
        raise ValueError(f"layout {layout}: expected one S, got {len(starts)}")
    if any(action not in range(4) for action in actions):
        raise ValueError(f"actions {actions}: expected numbers from 0 to 3")
    places = starts
    for action in actions:
        if answer_at(layout, places[-1]) != "C":
            break
        places.append(moved(size, places[-1], action))
    return Walk(layout, tuple(actions[: len(places) - 1]), tuple(places))


def draw_walk(
    rng: np.random.Generator, size: int, length: int, answer: str, hole_rate: float = 0.2, tries: int = 10_000
) -> Walk:
    """A random walk of a wanted length and answer on a random lake.

    S and G lie anywhere, other cells are holes at `hole_rate`. All but the last action are drawn among those that keep
    clear of holes and gift, the last among those that give the answer; lakes that offer none are drawn again.

    Raises:
        ValueError: size below 2, length below 1, unknown answer, rate outside [0, 1), or no walk in so many tries.
    """
    if size < 2 or length < 1 or answer not in ANSWERS or not 0 <= hole_rate < 1:
        raise ValueError(f"no walk of size {size}, length {length}, answer {answer}, hole rate {hole_rate}")
    for _ in range(tries):
        tiles = np.where(rng.random(size * size) < hole_rate, "H", "F")
        start, gift = rng.choice(size * size, 2, replace=False)
        tiles[start], tiles[gift] = "S", "G"
        layout = tuple("".join(row) for row in tiles.reshape(size, size))
        place, actions = divmod(int(start), size), []
        for step in range(length):
            wanted = answer if step == length - 1 else "C"
            fitting = [a for a in range(4) if answer_at(layout, moved(size, place, a)) == wanted]
            if not fitting:
                break
            actions.append(int(rng.choice(fitting)))
            place = moved(size, place, actions[-1])
        else:
            return walk(layout, tuple(actions))
    raise ValueError(f"no walk of size {size}, length {length} and answer {answer} found in {tries} tries")


def cell_classes(drawn: Walk) -> NDArray[np.int64]:
    """What every cell of every frame shows, (T + 1, n, n): 5 * tile + (0 without the elf, 1 + facing with it).

    A hole with the elf in it is one class, whichever way it came.
    """
    size = len(drawn.layout)
    plain = np.array([[TILES.index(letter) * 5 for letter in row] for row in drawn.layout])
    found = np.repeat(plain[None], len(drawn.positions), axis=0).reshape(-1, size, size)
    for frame, place, facing in zip(found, drawn.positions, drawn.facings, strict=True):
        frame[place] += 1 if drawn.layout[place[0]][place[1]] == "H" else 1 + facing
    return found


def frames(drawn: Walk, cell: int = 8) -> Pixels:
    """Pictures of a walk, (T + 1, n cell, n cell, 3) of 0 to 255.

    Raises:
        ValueError: `cell` does not divide 64.
        MissingExtra: gymnasium is not installed.
    """
    tiles = cell_pictures(cell)[cell_classes(drawn)]
    frames_, rows, columns = tiles.shape[:3]
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(frames_, rows * cell, columns * cell, 3)


@lru_cache(maxsize=4)
def cell_pictures(cell: int) -> Pixels:
    """The picture of every class of cell, (20, cell, cell, 3); read-only.

    Raises:
        ValueError, MissingExtra: as for `frames`.
        InputError: gymnasium has other sprites (versions from 1.4 on have).
    """
    if cell < 1 or SPRITE % cell:
        raise ValueError(f"cells of {cell} px: expected a divisor of {SPRITE}")
    names = ["ice", "stool", "hole", "goal", "cracked_hole", *(f"elf_{way}" for way in ACTIONS)]
    sprite = {name: _sprite(name) for name in names}
    found = np.empty((CLASSES, SPRITE, SPRITE, 3), dtype=np.uint8)
    for number in range(CLASSES):
        letter, elf = TILES[number // 5], number % 5
        picture = _over(np.zeros((SPRITE, SPRITE, 3), np.uint8), sprite["ice"])
        if letter != "F":
            picture = _over(picture, sprite[{"S": "stool", "H": "hole", "G": "goal"}[letter]])
        picture[[0, -1]] = picture[:, [0, -1]] = GRID_LINE
        if elf:
            picture = _over(picture, sprite["cracked_hole" if letter == "H" else f"elf_{ACTIONS[elf - 1]}"])
        found[number] = picture
    step = SPRITE // cell
    small = found.reshape(CLASSES, cell, step, cell, step, 3).mean(axis=(2, 4)).round().astype(np.uint8)
    small.setflags(write=False)
    return small


def photograph(
    pictures: Pixels, rng: np.random.Generator, gain: tuple[float, float] = (0.7, 1.1), noise: float = 0.04
) -> NDArray[np.float32]:
    """Pictures of one walk as a camera sees them, of 0 to 1: one gain for all of them, Gaussian noise for each."""
    light = rng.uniform(*gain)
    grain = rng.standard_normal(pictures.shape, dtype=np.float32) * noise
    return np.clip(pictures.astype(np.float32) / 255 * light + grain, 0, 1).astype(np.float32)


def _sprite(name: str) -> Pixels:
    """(64, 64, 4), enlarged without smoothing as gymnasium does."""
    image = require("PIL.Image", "mllm")
    if (spec := find_spec("gymnasium")) is None or spec.origin is None:
        require("gymnasium", "mllm")
        raise InputError("gymnasium is installed in a way that hides its files")
    file = Path(spec.origin).parent / "envs" / "toy_text" / "img" / f"{name}.png"
    if not file.is_file():
        raise InputError(f"this gymnasium has no sprite {file.name}; the classic ones come with versions below 1.4")
    with image.open(file) as opened:
        return np.asarray(opened.convert("RGBA").resize((SPRITE, SPRITE), image.Resampling.NEAREST))


def _over(below: Pixels, above: Pixels) -> Pixels:
    """Paint a sprite over a picture, rounding as pygame does."""
    colour, alpha, ground = above[..., :3].astype(np.int64), above[..., 3:].astype(np.int64), below.astype(np.int64)
    return (ground + (((colour - ground) * alpha + colour) >> 8)).astype(np.uint8)
