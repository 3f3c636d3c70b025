"""Which part each sentence of an abstract plays: motivation, method, result or conclusion.

A linear classifier over words, word pairs, the sentence's opening and its place in the abstract, followed by the best
path through the sentences under learned transitions, since an abstract moves from problem to conclusion. Trained by
`scripts/train_roles.py` on labelled sentences of our own writing (`data/roles.tsv`); the weights are `data/roles.json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

ROLES = ("motivation", "method", "result", "conclusion")
DATA = Path(__file__).resolve().parent / "data"
HELD_OUT_EVERY = 5

_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*%?")
_ENDS = re.compile(r"[.!?][\"')\]”’]*(?=\s+\S)|[。！？](?=.)", re.DOTALL)
_NO_END = re.compile(
    r"(?:\b(?:e\.?g|i\.?e|etc|et al|vs|cf|figs?|eqs?|sec|no|approx|resp|dr|prof|st|w\.?r\.?t|i\.?i\.?d)|\b[A-Z])\.$",
    re.IGNORECASE,
)
_LONGEST, _MOST = 20_000, 200


@dataclass(frozen=True)
class Labelled:
    """A labelled sentence: number of its abstract, its role, its text."""

    abstract: int
    role: str
    text: str


def sentences(text: str) -> list[str]:
    """The sentences of a text; abbreviations, initials, decimals and formulas do not end one.

    Texts beyond 20,000 characters are read that far, and at most 200 sentences are given.
    """
    text = " ".join(text[:_LONGEST].split())
    found, start = [], 0
    for match in _ENDS.finditer(text):
        candidate = text[start : match.end()]
        following = text[match.end() :].lstrip()[:1]
        if text[match.start()] == "." and (_NO_END.search(candidate[-12:]) or following.islower()):
            continue
        if candidate.count("$") % 2:
            continue
        found.append(candidate.strip())
        start = match.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence][:_MOST]


def roles(parts: Sequence[str]) -> list[str]:
    """The role of each sentence of one abstract, in order."""
    return [ROLES[best] for best in _best_path(_scores(parts, _weights()), _weights())]


def probabilities(parts: Sequence[str]) -> list[dict[str, float]]:
    """How likely each role is for each sentence, by the sentence and its place alone."""
    return [dict(zip(ROLES, map(math.exp, row), strict=True)) for row in _scores(parts, _weights())]


def features(parts: Sequence[str]) -> list[set[str]]:
    """The features of each sentence of one abstract."""
    count = len(parts)
    found = []
    for index, sentence in enumerate(parts):
        words = [_word(w) for w in _WORD.findall(sentence[:2000].lower())]
        have = {f"w:{w}" for w in words} | {f"p:{a} {b}" for a, b in pairwise(words)}
        have |= {f"o{n}:{' '.join(words[:n])}" for n in (1, 2, 3) if len(words) >= n}
        have.add(f"place:{int(5 * index / count)}")
        have |= {name for name, true in _facts(sentence, words, index, count) if true}
        found.append(have)
    return found


def accuracy(rows: Iterable[Labelled]) -> float:
    """Share of labelled sentences whose role is found, whole abstracts at a time."""
    right = total = 0
    for group in by_abstract(rows).values():
        found = roles([row.text for row in group])
        right += sum(role == row.role for role, row in zip(found, group, strict=True))
        total += len(group)
    return right / total


def by_abstract(rows: Iterable[Labelled]) -> dict[int, list[Labelled]]:
    """Labelled sentences by abstract, in order."""
    groups: dict[int, list[Labelled]] = {}
    for row in rows:
        groups.setdefault(row.abstract, []).append(row)
    return groups


def labelled(*, held_out: bool) -> list[Labelled]:
    """The labelled sentences for training, or those held out: every fifth abstract."""
    lines = (DATA / "roles.tsv").read_text(encoding="utf-8").splitlines()[1:]
    rows = [Labelled(int(number), role, text) for number, role, text in (line.split("\t") for line in lines)]
    return [row for row in rows if (row.abstract % HELD_OUT_EVERY == 0) == held_out]


def _word(word: str) -> str:
    if word[0].isdigit():
        return "0%" if word.endswith("%") else "0"
    return word


def _facts(sentence: str, words: list[str], index: int, count: int) -> list[tuple[str, bool]]:
    return [
        ("first", index == 0),
        ("last", index == count - 1),
        ("number", "0" in words or "0%" in words),
        ("link", "http" in sentence or "github" in sentence.lower()),
        ("we", "we" in words or "our" in words),
        (
            "negation",
            not {"not", "no", "cannot", "fail", "fails", "hardly", "never", "lack", "lacks"}.isdisjoint(words),
        ),
        ("contrast", words[:1] in (["however"], ["yet"], ["but"], ["although"], ["while"], ["despite"])),
    ]


def _scores(parts: Sequence[str], weights: Mapping[str, Any]) -> list[list[float]]:
    """Log-probability of each role for each sentence."""
    bias, table = weights["bias"], weights["weights"]
    rows = []
    for have in features(parts):
        row = list(bias)
        for name in have:
            for role, weight in enumerate(table.get(name, ())):
                row[role] += weight
        most = max(row)
        norm = most + math.log(sum(math.exp(value - most) for value in row))
        rows.append([value - norm for value in row])
    return rows


def _best_path(scores: list[list[float]], weights: Mapping[str, Any]) -> list[int]:
    """Viterbi over the sentences; ties go to the earlier role."""
    if not scores:
        return []
    start, step = weights["start"], weights["step"]
    best = [s + start[role] for role, s in enumerate(scores[0])]
    back: list[list[int]] = []
    for row in scores[1:]:
        came = [max(range(len(ROLES)), key=lambda r, to=to: best[r] + step[r][to]) for to in range(len(ROLES))]  # type: ignore[misc]
        best = [best[came[to]] + step[came[to]][to] + row[to] for to in range(len(ROLES))]
        back.append(came)
    path = [max(range(len(ROLES)), key=best.__getitem__)]
    for came in reversed(back):
        path.append(came[path[-1]])
    return path[::-1]


@cache
def _weights() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DATA / "roles.json").read_text(encoding="utf-8"))
    return found
