"""Word lists: the most frequent words of a language (wordfreq), disjoint parts of a list, and a user's own file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.errors import InputError, require

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def frequent_words(
    count: int,
    *,
    alphabet: str = LETTERS,
    length: tuple[int, int] = (1, 25),
    language: str = "en",
    extra: str = "detection",
) -> list[str]:
    """The `count` most frequent words of the alphabet's characters with a length in the range, most frequent first.

    Fewer come back where the list (wordfreq's, about 300,000 words for English) has no more.

    Args:
        extra: the extra of Assay that the message names when wordfreq is missing.

    Raises:
        ValueError: no word fits.
        MissingExtra: wordfreq is not installed.
    """
    known = set(alphabet)
    found = []
    for word in require("wordfreq", extra).iter_wordlist(language):
        if length[0] <= len(word) <= length[1] and known.issuperset(word):
            found.append(word)
            if len(found) == count:
                break
    if not found:
        raise ValueError(f"no {language} word of length {length[0]} to {length[1]} is made of {alphabet!r}")
    return found


def split_words(words: Sequence[str], shares: Sequence[float], rng: np.random.Generator) -> list[list[str]]:
    """Disjoint parts of a word list, drawn at random; each keeps the list's order.

    Args:
        shares: share of each part; they must not sum to more than 1.

    Raises:
        ValueError: a share is not positive, or they sum to more than 1.
    """
    if min(shares, default=0) <= 0 or sum(shares) > 1 + 1e-9:
        raise ValueError(f"shares must be positive and sum to at most 1, got {list(shares)}")
    unique = list(dict.fromkeys(words))
    order = rng.permutation(len(unique))
    ends = np.round(np.cumsum(shares) * len(unique)).astype(int)
    return [[unique[i] for i in np.sort(part)] for part in np.split(order, ends)[: len(shares)]]


def read_words(path: Path) -> list[str]:
    """A user's words: UTF-8, one per line; spaces inside stay, empty lines and repeats go.

    Raises:
        InputError: no such file, not UTF-8, or no word in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text with a word on each line ({error})") from error
    words = list(dict.fromkeys(word for line in lines if (word := " ".join(line.split()))))
    if not words:
        raise InputError(f"{path}: no words in it; expected one on each line")
    return words
