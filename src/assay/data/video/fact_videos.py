"""Simulated videos whose facts are known: coloured shapes that move in one of six places, event after event.

An event lasts `STEPS` frames of 32 x 32 pixels, its sprite in one place. In the first half of the event it is merely
there: a frame tells colour, shape and place. In the second half it acts: streaks behind it, or dots on all sides when
it rests, tell the action too. It trembles by a pixel whatever it does. Grey specks distract; a grey panel may cover one
half of the picture, and the sprite when that half is the sprite's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay.data.video.fact_grammar import ORDINALS, Seen, caption, draw_events

STEPS, SIDE = 4, 32
ACTS_FROM = STEPS // 2
CENTRES = np.array([(8, 5), (8, 16), (8, 26), (24, 5), (24, 16), (24, 26)])
COVER_OWN, COVER_OTHER = 0.25, 0.15
STREAK = 255.0
_COLOURS = np.array(
    [(220, 40, 40), (40, 180, 60), (60, 90, 235), (235, 210, 50), (160, 60, 190), (240, 240, 240)], dtype=np.float32
)
_SHAPES = np.array(
    [
        ["01110", "11111", "11111", "11111", "01110"],
        ["11111", "11111", "11111", "11111", "11111"],
        ["00100", "00100", "11111", "00100", "00100"],
        ["01110", "10001", "10001", "10001", "01110"],
        ["00100", "00100", "01110", "01110", "11111"],
    ]
)
_STAMPS = np.array([[[c == "1" for c in row] for row in shape] for shape in _SHAPES])
_STREAKS = (((3, -1), (3, 1), (4, 0)), ((-3, -1), (-3, 1), (-4, 0)), ((-1, 3), (1, 3), (0, 4)),
            ((-1, -3), (1, -3), (0, -4)), ((3, 0), (-3, 0), (0, 3), (0, -3)))  # fmt: skip


@dataclass(frozen=True)
class Clips:
    """Events with their pictures.

    Attributes:
        facts: (N, 4) colour, shape, action and place of each event.
        frames: (N, STEPS, 32, 32, 3) of bytes.
        covered: (N, STEPS), true where the sprite cannot be seen.
    """

    facts: NDArray[np.int64]
    frames: NDArray[np.uint8]
    covered: NDArray[np.bool_]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Clips:
        return Clips(self.facts[rows], self.frames[rows], self.covered[rows])

    def caption(self) -> str:
        """All facts in words, the clips taken as the events of one video."""
        return caption(self.facts)

    def seen(self, frame: int) -> tuple[Seen, NDArray[np.int64]]:
        """What frame number `frame` of the video shows, with the true facts of its event."""
        event, step = divmod(frame, STEPS)
        return Seen(event, bool(self.covered[event, step]), step >= ACTS_FROM), self.facts[event]


def draw_clips(count: int, rng: np.random.Generator) -> Clips:
    """Events drawn from the grammar, rendered. Consecutive clips make a video; videos of any pool share no clip."""
    return render(draw_events(count, rng), rng)


def draw_video(rng: np.random.Generator, events: tuple[int, int] = (6, 6)) -> Clips:
    """One video of a number of events between the two given.

    Raises:
        ValueError: there are no words for so many events.
    """
    if not 1 <= events[0] <= events[1] <= len(ORDINALS):
        raise ValueError(f"events {events}: expected 1 to {len(ORDINALS)}")
    return draw_clips(int(rng.integers(events[0], events[1] + 1)), rng)


def render(facts: NDArray[np.int64], rng: np.random.Generator) -> Clips:
    """Pictures of given facts (N, 4)."""
    count = len(facts)
    colour, shape, action, place = facts.T
    frames = rng.normal(45, 10, (count, STEPS, SIDE, SIDE, 1)).astype(np.float32) + rng.normal(
        0, 4, (count, 1, 1, 1, 3)
    ).astype(np.float32)
    rows = np.arange(count)
    for _ in range(3):  # specks in other places, standing still
        other = (place + rng.integers(1, len(CENTRES), count)) % len(CENTRES)
        corner = CENTRES[other] + rng.integers(-3, 3, (count, 2))
        grey = rng.uniform(90, 200, (count, 1, 1)).astype(np.float32)
        for dy in range(2):
            for dx in range(2):
                frames[rows, :, corner[:, 0] + dy, corner[:, 1] + dx] = grey
    ys, xs = np.mgrid[-2:3, -2:3]
    for step in range(STEPS):
        middle = CENTRES[place] + rng.integers(-1, 2, (count, 2))
        y, x = middle[:, 0, None, None] + ys, middle[:, 1, None, None] + xs
        stamp = _STAMPS[shape][..., None]
        at = (rows[:, None, None], step, y, x)
        frames[at] = np.where(stamp, _COLOURS[colour][:, None, None], frames[at])
        for kind, marks in enumerate(_STREAKS if step >= ACTS_FROM else ()):
            acting = rows[action == kind]
            for dy, dx in marks:
                frames[acting, step, middle[acting, 0] + dy, middle[acting, 1] + dx] = STREAK
    chance, upper = rng.random((count, STEPS)), place[:, None] < 3
    covered = chance < COVER_OWN
    panel = chance < COVER_OWN + COVER_OTHER
    top = panel & (covered == upper)
    low = panel & ~top
    shade = rng.uniform(100, 150, (count, STEPS, 1, 1, 1)).astype(np.float32)
    half = SIDE // 2
    frames[:, :, :half] = np.where(top[..., None, None, None], shade, frames[:, :, :half])
    frames[:, :, half:] = np.where(low[..., None, None, None], shade, frames[:, :, half:])
    return Clips(facts, frames.clip(0, 255).astype(np.uint8), covered)
