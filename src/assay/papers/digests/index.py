"""Words for the full-text index, and queries from what a user types.

SQLite's tokenizer takes a run of Chinese, Japanese or Korean characters for one word. Here such a run is written as its
overlapping pairs, so that any part of it is found: "扩散模型" is indexed as "扩散 散模 模型 型" and searched as the
phrase "扩散 散模 模型".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from assay.papers.digests.entry import SUMMARY_FIELDS, Entry

_RUN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+")
_WORD = re.compile(r"[^\W_]+")
_TERM = re.compile(r'(-?)(?:"([^"]{0,500})"?|([^\s"]{1,200}))')
_BEGINS = 3
_MOST_TERMS = 24


def row(entry: Entry, days: Collection[str]) -> tuple[str, str, str, str]:
    """Texts of the index's columns: title, authors, text, tags."""
    texts = [entry.abstract, entry.abstract_zh, *(getattr(entry, name) for name in SUMMARY_FIELDS), entry.comment]
    tags = [entry.id, *(_tag(category) for category in entry.categories)]
    return (
        indexed(" ".join(filter(None, (entry.title, entry.title_zh)))),
        indexed(" , ".join(entry.authors)),
        indexed(" ".join(filter(None, texts))),
        " ".join(tags),
    )


def indexed(text: str) -> str:
    """A text whose runs of CJK characters are written as overlapping pairs."""
    return text if text.isascii() else _RUN.sub(lambda run: " " + " ".join([*_pairs(run[0]), run[0][-1]]) + " ", text)


def query(words: str, *, author: str = "", categories: Collection[str] = (), typing: bool = False) -> str | None:
    """The index's query; "" when nothing but categories is asked for, None when what is asked for holds no word."""
    wanted: list[str] = []
    unwanted: list[str] = []
    terms = list(_TERM.finditer(words[:2000]))[:_MOST_TERMS]
    still = typing and not words.endswith((" ", '"'))
    for place, (minus, phrase, word) in enumerate(match.groups() for match in terms):
        last = still and place == len(terms) - 1
        tokens = _tokens(phrase if phrase is not None else word)
        if tokens:
            begins = phrase is None and (len(tokens[-1]) >= _BEGINS or (last and len(tokens[-1]) >= 2))
            (unwanted if minus else wanted).append(_phrase(tokens, begins))
    if words.strip() and not wanted:
        return None
    if author:
        names = words_of(author)
        if not names:
            return None
        wanted += [f"authors : {_phrase(_tokens(name), begins=len(name) >= 2)}" for name in names]
    if not wanted:
        return ""
    if categories:
        wanted.append("tags : (" + " OR ".join(f'"{_tag(category)}"' for category in categories) + ")")
    text = " AND ".join(f"({term})" for term in wanted)
    return f"({text}) NOT ({' OR '.join(unwanted)})" if unwanted else text


def words_of(text: str) -> list[str]:
    """Words of a text, folded as the index folds them: no case, no accents."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return _WORD.findall(plain.casefold())


def _tokens(text: str) -> list[str]:
    """Tokens of a search term: words, and runs of CJK characters as pairs."""
    tokens: list[str] = []
    for word in _WORD.findall(text.replace("\0", " ")):
        at = 0
        for run in _RUN.finditer(word):
            tokens += [word[at : run.start()]] if run.start() > at else []
            tokens += _pairs(run[0]) or [run[0]]
            at = run.end()
        tokens += [word[at:]] if at < len(word) else []
    return tokens


def _phrase(tokens: list[str], begins: bool) -> str:
    # A single CJK character is the beginning of a pair, or the last of its run.
    alone = len(tokens) == 1 and len(tokens[0]) == 1 and bool(_RUN.fullmatch(tokens[0]))
    return '"' + " ".join(tokens) + '"' + (" *" if begins or alone else "")


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)]


def _tag(category: str) -> str:
    """One token for a category: `cs.CV` -> `incsxcv`."""
    return "in" + "x".join(_WORD.findall(category.casefold()))
