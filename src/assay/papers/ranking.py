"""Put papers in the order in which a reader would want them: like what they know, by words or by meaning."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from assay.papers.digests.entry import Entry

_WORD = re.compile(r"[^\W_]+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_FILLER = (
    "a an and are as at be been but by can for from has have in into is it its of on or our that the their these they"
    " this to was we were which while with using based via propose proposed paper method methods results show shows"
    " approach new novel however both such also between than more most not"
)
_STOP = frozenset(re.findall(r"\w+", _FILLER))
_LONGEST = 20_000


def words(text: str) -> list[str]:
    """Words for matching: folded case and accents, plain plurals cut, no filler; CJK characters in pairs."""
    folded = unicodedata.normalize("NFKD", text[:_LONGEST].casefold())
    folded = "".join(c for c in folded if not unicodedata.combining(c))
    found = []
    for word in _WORD.findall(folded):
        if _CJK.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word not in _STOP:
            found.append(word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word)
    return found


class BM25:
    """Okapi BM25 over a fixed list of documents.

    score(d, q) = sum over the words w of q: weight(w) rare(w) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|))
    rare(w)     = ln(1 + (N - n_w + 0.5) / (n_w + 0.5))

    with f the count of w in d, n_w the documents that hold w, N the documents, |d| the words of d.
    """

    def __init__(self, documents: Sequence[Sequence[str]], *, k1: float = 1.2, b: float = 0.75) -> None:
        self.counts = [Counter(document) for document in documents]
        self.lengths = [len(document) for document in documents]
        self.mean = sum(self.lengths) / max(len(documents), 1) or 1.0
        self.holding = Counter(word for count in self.counts for word in count)
        self.k1, self.b = k1, b

    def scores(self, query: Counter[str]) -> list[float]:
        """Score of every document for a query of weighted words."""
        total = len(self.counts)
        rare = {
            w: weight * math.log(1 + (total - n + 0.5) / (n + 0.5))
            for w, weight in query.items()
            if (n := self.holding[w])
        }
        found = []
        for count, length in zip(self.counts, self.lengths, strict=True):
            norm = self.k1 * (1 - self.b + self.b * length / self.mean)
            found.append(
                sum(worth * (f := count[w]) * (self.k1 + 1) / (f + norm) for w, worth in rare.items() if w in count)
            )
        return found


def by_words(entries: Sequence[Entry], liked: Sequence[Entry]) -> list[float]:
    """How like the liked papers each entry is, by BM25: the mean over liked papers, each by its most telling words.

    A liked paper's scores are divided by its best, so that one long abstract does not outweigh the rest.
    """
    index = BM25([words(_text(entry)) for entry in entries])
    total = [0.0] * len(entries)
    for paper in liked:
        query: Counter[str] = Counter({word: math.log1p(count) for word, count in Counter(words(_text(paper))).items()})
        scores = index.scores(query)
        best = max(scores, default=0.0)
        if best > 0:
            total = [t + s / best for t, s in zip(total, scores, strict=True)]
    return [t / max(len(liked), 1) for t in total]


def by_meaning(entries: Sequence[Entry], liked: Sequence[Entry], embed: Callable[[list[str]], object]) -> list[float]:
    """As `by_words`, by the cosine of sentence embeddings: the mean of the three liked papers nearest to each entry.

    Args:
        embed: texts -> (N, D) unit vectors, such as `assay.nn.text.SentenceEncoder`.
    """
    import numpy as np

    if not entries or not liked:
        return [0.0] * len(entries)
    ours, theirs = (np.asarray(embed([_text(entry) for entry in group])) for group in (entries, liked))
    nearest = np.sort(ours @ theirs.T, axis=1)[:, -3:]
    return [float(value) for value in nearest.mean(axis=1)]


def order(entries: Sequence[Entry], scores: Sequence[float]) -> list[Entry]:
    """Highest score first; the given order among equals."""
    ranked = sorted(range(len(entries)), key=lambda i: (-scores[i], i))
    return [entries[i] for i in ranked]


def matches(entry: Entry, phrase: str) -> bool:
    """Whether title, abstract or categories hold the phrase: its words next to each other, in any case."""
    wanted = _plain(phrase)
    text = " ".join(filter(None, (entry.title, entry.title_zh, entry.abstract, entry.abstract_zh, *entry.categories)))
    if _CJK.search(phrase):
        return wanted.strip() in _plain(text)
    return bool(wanted.strip()) and wanted in _plain(text)


def by_author(entry: Entry, name: str) -> bool:
    """Whether one author's name holds every word of `name`, in any order, accents aside."""
    wanted = set(_plain(name).split())
    return bool(wanted) and any(wanted <= set(_plain(author).split()) for author in entry.authors)


def _plain(text: str) -> str:
    folded = unicodedata.normalize("NFKD", text[:_LONGEST].casefold())
    kept = "".join(c for c in folded if not unicodedata.combining(c))
    return f" {' '.join(_WORD.findall(kept))} "


def _text(entry: Entry) -> str:
    title = entry.title or entry.title_zh or ""
    return f"{title}. {title}. {entry.abstract or entry.abstract_zh or entry.tldr or ''}"
