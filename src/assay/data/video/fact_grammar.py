"""The grammar behind simulated videos of facts, and exactly what any summary of one tells.

A video is a row of events. Event k has four facts drawn from one table, the same for all events:

    P(colour, shape, action, place) = P(colour) P(shape | colour) P(action | shape) P(place)

none of them uniform. What a text or some frames tell about an event is a likelihood over the table; posterior, entropy
and the probability of any word are sums over its 900 cells, so the information that a summary loses is known exactly:

    a word says value v of attribute a      P(word | fact) = 1 - e if it is v, e / (n_a - 1) else
    a frame shows the sprite                colour, shape and place are known; the action too while it acts
    a frame with the sprite covered         only the half of the picture that it is in
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ATTRIBUTES = ("colour", "shape", "action", "place")
SYNONYMS: tuple[dict[str, str], ...] = (
    {"red": "crimson", "green": "emerald", "blue": "azure", "yellow": "golden", "purple": "violet", "white": "pale"},
    {"ball": "disc", "box": "square", "cross": "plus", "ring": "hoop", "triangle": "wedge"},
    {"rises": "climbs", "falls": "drops", "retreats": "withdraws", "advances": "proceeds", "rests": "stays"},
    {"attic": "loft", "gable": "spire", "roof": "ridge", "cellar": "vault", "lawn": "meadow", "yard": "court"},
)
WORDS: tuple[tuple[str, ...], ...] = tuple(tuple(names) for names in SYNONYMS)
COUNTS = tuple(len(names) for names in WORDS)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
            "twelfth")  # fmt: skip
UPPER_PLACES = 3  # the first three places lie in the upper half of the picture

_MEANING = {
    word: (attribute, value)
    for attribute, names in enumerate(SYNONYMS)
    for value, pair in enumerate(names.items())
    for word in pair
}


@dataclass(frozen=True)
class Seen:
    """What a frame shows: its event, whether the sprite is covered, and whether it acts."""

    event: int
    covered: bool
    acting: bool


@lru_cache(maxsize=1)
def joint_table() -> NDArray[np.float64]:
    """Probability of every combination of facts, shape COUNTS; not to be written to."""
    colour = np.array([8.0, 5.0, 3.0, 2.0, 1.0, 1.0])
    shape = np.array([np.roll([6.0, 3.0, 2.0, 1.0, 1.0], shift) for shift in (0, 1, 2, 0, 3, 4)])
    action = np.array([np.roll([7.0, 3.0, 1.0, 1.0, 1.0], shift) for shift in (0, 2, 4, 1, 3)])
    place = np.array([4.0, 2.0, 1.0, 3.0, 2.0, 1.0])
    shape, action = shape / shape.sum(1, keepdims=True), action / action.sum(1, keepdims=True)
    table = np.einsum("c,cs,sa,p->csap", colour / colour.sum(), shape, action, place / place.sum())
    table.flags.writeable = False
    return table


@lru_cache(maxsize=1)
def marginals() -> tuple[NDArray[np.float64], ...]:
    """Probability of the values of each attribute by itself."""
    return tuple(joint_table().sum(axis=tuple(a for a in range(len(COUNTS)) if a != kept)) for kept in range(4))


def draw_events(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Facts of `count` events, (count, 4), drawn from the table."""
    table = joint_table()
    cells = rng.choice(table.size, count, p=table.ravel())
    return np.stack(np.unravel_index(cells, table.shape), axis=1)


def caption(events: NDArray[np.int64]) -> str:
    """All facts in words: for each event its ordinal, colour, shape, action and place."""
    words: list[str] = []
    for event, facts in enumerate(events):
        words += [ORDINALS[event], *(WORDS[a][v] for a, v in enumerate(facts))]
    return " ".join(words)


def told(words: Iterable[str]) -> list[tuple[int, int, int]]:
    """What a text says: (event, attribute, value) of each fact, in order; an ordinal names the event of what follows.

    Raises:
        ValueError: a word the grammar does not have, or a fact before any ordinal.
    """
    event, found = -1, []
    for word in words:
        if word in ORDINALS:
            event = ORDINALS.index(word)
        elif word not in _MEANING:
            raise ValueError(f"{word!r} is no word of the grammar")
        elif event < 0:
            raise ValueError(f"{word!r} stands before any ordinal")
        else:
            found.append((event, *_MEANING[word]))
    return found


def posterior(
    events: int,
    words: Sequence[str] = (),
    frames: Iterable[tuple[Seen, NDArray[np.int64]]] = (),
    error: float = 0.0,
) -> NDArray[np.float64]:
    """Probability of the facts of each event given text and frames, (events, *COUNTS).

    Args:
        events: number of events. words: of the text.
        frames: what each frame shows, with the true facts (4,) of its event. error: e, chance that a word is wrong.

    Raises:
        ValueError: as for `told`, `error` is not in [0, 1), or the text contradicts what is certain.
    """
    if not 0 <= error < 1:
        raise ValueError(f"error {error}: expected a chance below 1")
    chance = np.broadcast_to(joint_table(), (events, *COUNTS)).copy()
    for event, attribute, value in told(words):
        if event < events:
            likelihood = np.full(COUNTS[attribute], error / (COUNTS[attribute] - 1))
            likelihood[value] = 1 - error
            chance[event] *= _along(likelihood, attribute)
    for seen, facts in frames:
        if seen.covered:
            upper = np.arange(COUNTS[3]) < UPPER_PLACES
            chance[seen.event] *= _along(upper == (facts[3] < UPPER_PLACES), 3)
            continue
        for attribute in range(4) if seen.acting else (0, 1, 3):
            chance[seen.event] *= _along(np.arange(COUNTS[attribute]) == facts[attribute], attribute)
    total = chance.sum(axis=(1, 2, 3, 4), keepdims=True)
    if (total <= 0).any():
        raise ValueError("the text contradicts what is certain; give it a chance of error")
    return chance / total


def surprisal(chance: NDArray[np.float64], events: NDArray[np.int64]) -> float:
    """-log probability of the true facts under a posterior (nats); infinite when it rules them out."""
    with np.errstate(divide="ignore"):
        return float(-np.log(chance[(np.arange(len(events)), *events.T)]).sum())


def entropy(chance: NDArray[np.float64]) -> float:
    """Entropy of the facts under a posterior, summed over events (nats)."""
    positive = chance[chance > 0]
    return float(-(positive * np.log(positive)).sum())


def word_logprobs(chance: NDArray[np.float64], events: NDArray[np.int64]) -> NDArray[np.float64]:
    """log probability of each fact given the earlier facts of its event, (events, 4): the chain rule over a caption."""
    found = np.empty(events.shape)
    with np.errstate(divide="ignore"):
        for row, facts in enumerate(events):
            left = chance[row]
            for attribute, value in enumerate(facts):
                share = left.reshape(left.shape[0], -1).sum(1)
                found[row, attribute] = np.log(share[value] / share.sum()) if share[value] > 0 else -np.inf
                left = left[value] if left.ndim > 1 else left
                if found[row, attribute] == -np.inf:
                    found[row, attribute:] = -np.inf
                    break
    return found


def _along(values: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
    return values.reshape([-1 if a == axis else 1 for a in range(len(COUNTS))])
