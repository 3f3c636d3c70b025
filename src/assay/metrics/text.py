"""How far a text repeats a reference: ROUGE-N and ROUGE-L.

Tokens are runs of ASCII letters and digits in lower case, without stemming, as in Google's `rouge-score`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np

_TOKEN = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Overlap:
    """Share of the text's units that the reference has, of the reference's that the text has, and their F1."""

    precision: float
    recall: float
    f1: float


def rouge_tokens(text: str) -> list[str]:
    """Tokens that ROUGE compares."""
    return _TOKEN.findall(text.lower())


def rouge_n(text: str, reference: str, n: int = 1) -> Overlap:
    """ROUGE-N: common n-grams, each counted as often as it occurs in both.

    Raises:
        ValueError: n below 1.
    """
    if n < 1:
        raise ValueError(f"n {n}: expected at least 1")
    mine, theirs = (_grams(rouge_tokens(t), n) for t in (text, reference))
    return _overlap((mine & theirs).total(), mine.total(), theirs.total())


def rouge_l(text: str, reference: str) -> Overlap:
    """ROUGE-L: the longest common subsequence of tokens."""
    mine, theirs = rouge_tokens(text), rouge_tokens(reference)
    return _overlap(longest_common_subsequence(mine, theirs), len(mine), len(theirs))


def longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Length of the longest row of tokens that both hold in order, not necessarily side by side."""
    if len(first) < len(second):
        first, second = second, first
    number = {token: n for n, token in enumerate(dict.fromkeys(second))}
    codes = np.array([number[token] for token in second], dtype=np.int64)
    row = np.zeros(len(second) + 1, dtype=np.int64)
    for token in first:
        if token in number:
            # longest[j] = max(longest_before[j], longest_before[j-1] + match); a running maximum carries it along
            better = row[:-1] + (codes == number[token])
            row[1:] = np.maximum.accumulate(np.maximum(row[1:], better))
    return int(row[-1])


def _grams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(n)), strict=False))


def _overlap(common: int, mine: int, theirs: int) -> Overlap:
    precision, recall = common / max(mine, 1), common / max(theirs, 1)
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall) if common else 0.0)
