"""How well words were read: edit distance, word accuracy, one minus the normalised edit distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def edit_distance(a: Sequence, b: Sequence) -> int:
    """Levenshtein distance: fewest insertions, deletions and replacements that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def comparable(text: str) -> str:
    """Letters and digits only, case folded: the usual protocol of scene-text benchmarks."""
    return "".join(c for c in text.casefold() if c.isalnum())


def words_read(said: Sequence[str], truth: Sequence[str]) -> np.ndarray:
    """(N,) True where a whole word was read right; compare `comparable` texts for the usual protocol.

    Raises:
        ValueError: not equally many.
    """
    if len(said) != len(truth):
        raise ValueError(f"{len(said)} readings for {len(truth)} words")
    return np.array([a == b for a, b in zip(said, truth, strict=True)], dtype=bool)


def word_accuracy(said: Sequence[str], truth: Sequence[str]) -> float:
    """Share of words read without a mistake.

    Raises:
        ValueError: not equally many, or none.
    """
    if not truth:
        raise ValueError("no words to judge")
    return float(words_read(said, truth).mean())


def edit_similarity(said: Sequence[str], truth: Sequence[str]) -> float:
    """Mean over words of `1 - distance / max(lengths)` (two empty texts count 1); in [0, 1].

    Raises:
        ValueError: not equally many, or none.
    """
    if len(said) != len(truth) or not truth:
        raise ValueError(f"expected as many readings as words and at least one, got {len(said)} and {len(truth)}")
    return float(np.mean([1 - edit_distance(a, b) / max(len(a), len(b), 1) for a, b in zip(said, truth, strict=True)]))
