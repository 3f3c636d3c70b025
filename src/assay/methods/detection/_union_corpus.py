"""What is written: a weighted mix of words, random strings, lines of several words and broken words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

KINDS = ("contextless", "multi", "incomplete", "cut")  # beside the word lists, which have names of their own
UNION_WEIGHTS = {"lexicon": 2.0, "running": 3.0, "contextless": 1.0, "multi": 1.0, "incomplete": 1.0, "cut": 2.0}


class Corpus:
    """Draws texts of 1 to 25 characters.

    | kind | text |
    |---|---|
    | name of a word list | one of its words |
    | `contextless` | characters of the alphabet, each drawn alone |
    | `multi` | two to four words with spaces between |
    | `incomplete` | a word that lost up to half of its characters at one end |
    | `cut` | a piece from anywhere in a word |

    Args:
        words: word lists by name; one list alone serves as both `lexicon` and `running`.
        weights: weight of each kind; kinds that are not named are not drawn. Default: those of UnionST.
        alphabet: characters of contextless strings; default: all that occur in the words.
        length: least and most characters of a text, spaces left out.
        cases: weights of writing a text as it is, in capitals, with a capital first.
        pick: weight of each word by list name, for `reweighted` lists; equal when missing.

    Raises:
        ValueError: an empty word list or alphabet, weights that are not positive or name no kind, a bad length.
    """

    def __init__(
        self,
        words: Mapping[str, Sequence[str]] | Sequence[str],
        weights: Mapping[str, float] | None = None,
        alphabet: str | None = None,
        length: tuple[int, int] = (1, 25),
        cases: tuple[float, float, float] = (1.0, 0.0, 0.0),
        pick: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        lists = dict(words) if isinstance(words, Mapping) else {"lexicon": words, "running": words}
        if not 1 <= length[0] <= length[1]:
            raise ValueError(f"length must be 1 <= least <= most, got {length}")
        self.length, self.cases = length, np.asarray(cases, dtype=float) / sum(cases)
        self.lists: dict[str, list[str]] = {}
        chances: dict[str, np.ndarray] = {}
        for name, given in lists.items():
            fits = [length[0] <= _size(word) <= length[1] for word in given]
            self.lists[name] = [word for word, fit in zip(given, fits, strict=True) if fit]
            if not self.lists[name]:
                raise ValueError(f"empty corpus: no word of {name!r} has {length[0]} to {length[1]} characters")
            if pick is not None and name in pick:
                chances[name] = np.asarray(pick[name], dtype=float)[np.array(fits)]
                chances[name] = np.cumsum(chances[name] / chances[name].sum())
        self._chances = chances
        weights = {k: v for k, v in UNION_WEIGHTS.items() if k in (*lists, *KINDS)} if weights is None else weights
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"weights must be positive, got {dict(weights)}")
        if unknown := set(weights) - set(lists) - set(KINDS):
            raise ValueError(f"no word list or kind {sorted(unknown)}; choose from {sorted({*lists, *KINDS})}")
        self.kinds = tuple(weights)
        self.shares = np.array([weights[kind] for kind in self.kinds], dtype=float)
        self.shares /= self.shares.sum()
        self.alphabet = alphabet or "".join(sorted({c for ws in lists.values() for w in ws for c in w if c != " "}))
        if not self.alphabet:
            raise ValueError("the alphabet of contextless strings is empty")

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """A kind by its weight, and a text of it: `(kind, text)`."""
        kind = self.kinds[int(rng.choice(len(self.kinds), p=self.shares))]
        text = getattr(self, kind)(rng) if kind in KINDS else self.word(rng, kind)
        case = int(rng.choice(3, p=self.cases))
        return kind, (text, text.upper(), text.title())[case] if _size(text.upper()) == _size(text) else text

    def word(self, rng: np.random.Generator, name: str | None = None) -> str:
        """A word of the named list, or of one drawn by weight."""
        if name is None:
            names = [kind for kind in self.kinds if kind in self.lists] or list(self.lists)
            name = names[int(rng.integers(len(names)))]
        words = self.lists[name]
        if name in self._chances:
            return words[min(int(np.searchsorted(self._chances[name], rng.random(), side="right")), len(words) - 1)]
        return words[int(rng.integers(len(words)))]

    def contextless(self, rng: np.random.Generator) -> str:
        """Random characters; the length is that of a word of the lists."""
        count = int(np.clip(_size(self.word(rng)), *self.length))
        return "".join(self.alphabet[int(i)] for i in rng.integers(len(self.alphabet), size=count))

    def multi(self, rng: np.random.Generator) -> str:
        """Two to four words, as many of them as fit the length; one word where not even two fit."""
        parts = [self.word(rng)]
        room = self.length[1] - _size(parts[0])
        for _ in range(int(rng.integers(1, 4))):
            tries = (self.word(rng) for _ in range(20))
            word = next((w for w in tries if _size(w) <= room), None)
            if word is None:
                break
            parts.append(word)
            room -= _size(word)
        return " ".join(parts)

    def incomplete(self, rng: np.random.Generator) -> str:
        """A word without its first or last characters, at most half of them."""
        word = self.word(rng)
        most = min(len(word) // 2, len(word) - self.length[0])
        if most < 1:
            return word
        lost = int(rng.integers(1, most + 1))
        return (word[lost:] if rng.random() < 0.5 else word[:-lost]).strip() or word

    def cut(self, rng: np.random.Generator) -> str:
        """A piece of a word: any length the corpus allows, any place."""
        word = self.word(rng)
        count = int(rng.integers(min(self.length[0], len(word)), len(word) + 1))
        start = int(rng.integers(len(word) - count + 1))
        return word[start : start + count].strip() or word


def reweighted(words: Sequence[str], recognised: Sequence[str], smoothing: float = 1.0) -> np.ndarray:
    """Weights (N,) that bring a word list to the lengths and characters of recognised texts, for `Corpus(pick=)`.

    A word's weight is the ratio of length frequencies, recognised over list, times the geometric mean of its
    characters' ratios; counts are smoothed. Weights sum to 1. Without recognised texts all are equal.

    Raises:
        ValueError: no words.
    """
    if not words:
        raise ValueError("no words to weight")
    read = [text for text in recognised if text]
    if not read:
        return np.full(len(words), 1 / len(words))
    lengths = _ratios([[len(w)] for w in words], [[len(t)] for t in read], smoothing)
    characters = _ratios([list(w.casefold()) for w in words], [list(t.casefold()) for t in read], smoothing)
    found = np.array([
        lengths[len(w)] * np.exp(np.mean([np.log(characters[c]) for c in w.casefold()])) for w in words
    ])  # fmt: skip
    return found / found.sum()


def _ratios(have: Sequence[Sequence], want: Sequence[Sequence], smoothing: float) -> dict:
    mine, theirs = (Counter(item for row in rows for item in row) for rows in (have, want))
    names = set(mine) | set(theirs)
    a, b = (sum(c.values()) + smoothing * len(names) for c in (mine, theirs))
    return {name: (theirs[name] + smoothing) / b / ((mine[name] + smoothing) / a) for name in names}


def _size(text: str) -> int:
    return len(text) - text.count(" ")
