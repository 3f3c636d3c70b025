"""A digest as data: its entries, how they were laid out, and what could not be read."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from typing import Any

SUMMARY_FIELDS = ("tldr", "motivation", "method", "result", "conclusion")

_ID = r"(?:\d{4}\.\d{4,5}|[a-z][a-z\-]{1,20}(?:\.[A-Za-z\-]{2,12})?/\d{7})"
_ID_ALONE = re.compile(rf"(?:arxiv:|oai:arxiv\.org:)?({_ID})(v\d{{1,3}})?", re.IGNORECASE)
_ID_IN_ADDRESS = re.compile(
    rf"https?://(?:www\.|export\.|browse\.)?arxiv\.org/(?:abs|pdf|html|format)/({_ID})(v\d{{1,3}})?(?:\.pdf)?/?", re.I
)
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True, slots=True)
class Problem:
    """A thing that could not be read, and where it stands. `line` counts from 1; 0: no line is known."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


@dataclass(slots=True)
class Entry:
    """A paper as one source tells it. None: the source does not name the field; "": it names it and leaves it empty.

    Attributes:
        id: arXiv id without version, or "" when the source names none.
        title, title_zh, abstract, abstract_zh: verbatim, without surrounding white space.
        authors: names in order, as written.
        categories: arXiv categories, the main one first.
        tldr, motivation, method, result, conclusion: the structured summary, in `summary_language`.
        summary_language: "zh", "en", or "" when there is no summary.
        summary_by: who wrote the summary ("model", "extractive", ...), where the source says so.
        links: addresses as the source has them, by kind: "abs", "pdf", "doi", "code", "other".
        date, updated: ISO days, as precise as the source is (`2026-02-05T17:59:59Z` keeps its time).
        version: such as "v2".
        comment, doi, journal: as the source has them.
        extra: every other field of the source, under the source's own name.
        layout: how a Markdown source wrote the entry where that differs from the usual.
        line: where the entry begins in its file.
    """

    id: str = ""
    title: str | None = None
    title_zh: str | None = None
    authors: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    abstract: str | None = None
    abstract_zh: str | None = None
    tldr: str | None = None
    motivation: str | None = None
    method: str | None = None
    result: str | None = None
    conclusion: str | None = None
    summary_language: str = ""
    summary_by: str = ""
    links: dict[str, str] = field(default_factory=dict)
    date: str = ""
    updated: str = ""
    version: str = ""
    comment: str | None = None
    doi: str | None = None
    journal: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    line: int = 0

    @property
    def key(self) -> str:
        """What makes two entries the same paper: the arXiv id, else the DOI, else the title. "" where none is known."""
        if self.id:
            return self.id
        if self.doi:
            return f"doi:{self.doi.casefold()}"
        title = (self.title or self.title_zh or "").casefold()
        words = " ".join(re.findall(r"\w+", title) or title.split())
        return "title:" + hashlib.sha256(words.encode("utf-8", "replace")).hexdigest()[:20] if words else ""

    @property
    def abs_url(self) -> str:
        """Address of the abstract; "" when neither source nor id gives one."""
        return f"https://arxiv.org/abs/{self.id}" if self.id else self.links.get("abs", "")

    @property
    def pdf_url(self) -> str:
        return f"https://arxiv.org/pdf/{self.id}" if self.id else self.links.get("pdf", "")

    @property
    def day(self) -> str:
        """Day of the entry; the month of its id where no day is told."""
        return self.date[:10] or month_of(self.id)

    @property
    def has_summary(self) -> bool:
        return any(getattr(self, name) for name in SUMMARY_FIELDS)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without what is absent, and without `line`."""
        found: dict[str, Any] = {}
        for name in _NAMES:
            value = getattr(self, name)
            if value or (value == "" and name in _TEXTS):
                found[name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Entry:
        entry = cls(**{name: value for name, value in found.items() if name in _NAMES})
        entry.authors, entry.categories = tuple(entry.authors), tuple(entry.categories)
        return entry


_NAMES = tuple(f.name for f in fields(Entry) if f.name != "line")
_TEXTS = {f.name for f in fields(Entry) if f.default is None}


@dataclass(slots=True)
class Section:
    """A category's part of a digest: how many entries stand there, and how many its table of contents tells."""

    category: str
    entries: int
    total: int | None = None


@dataclass(slots=True)
class Digest:
    """What was read from one file, feed or answer.

    Attributes:
        format: "toc", "bilingual", "jsonl", "atom", "rss" or "oai".
        name: file name or address it came from.
        day: ISO day of the digest, or "".
        sections: categories in order (format "toc").
        layout: how the file was laid out where that differs from the usual.
        facts: what the source says of itself (title of the feed, total of results, resumption token, ...).
        problems: what could not be read.
    """

    format: str
    name: str = ""
    day: str = ""
    entries: list[Entry] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, line: int, what: str) -> None:
        self.problems.append(Problem(self.name or "digest", line, what))

    def fingerprint(self) -> str:
        """The same for the same content, whatever file it came in and whatever day it is filed under."""
        content = [self.format, self.layout, [(s.category, s.entries, s.total) for s in self.sections]]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
        for entry in self.entries:
            digest.update(json.dumps(entry.as_dict(), sort_keys=True, default=str).encode())
        return digest.hexdigest()


def split_id(text: str) -> tuple[str, str]:
    """(arXiv id, version) in an id, an OAI identifier or an address; ("", "") when there is none."""
    text = text[:200].strip()
    match = _ID_ALONE.fullmatch(text) or _ID_IN_ADDRESS.match(text)
    return (match[1], (match[2] or "").lower()) if match else ("", "")


def link_kind(address: str) -> str:
    """Which kind of link an address is: "abs", "pdf", "doi", "code" or "other"."""
    start = address[:200].lower()
    if "arxiv.org/abs/" in start:
        return "abs"
    if "arxiv.org/pdf/" in start or start.endswith(".pdf"):
        return "pdf"
    if "doi.org/" in start:
        return "doi"
    return "code" if "//github.com/" in start or "//gitlab.com/" in start else "other"


def language_of(*texts: str | None) -> str:
    """ "zh" when Chinese, Japanese or Korean characters carry the text, else "en"; "" for no text."""
    sample = " ".join(text[:400] for text in texts if text)
    if not sample.strip():
        return ""
    return "zh" if 8 * len(_CJK.findall(sample)) > len(sample) else "en"


def month_of(arxiv_id: str) -> str:
    """`2602.06830` -> `2026-02`; "" for other ids."""
    if not re.fullmatch(r"\d{4}\.\d{4,5}", arxiv_id) or not 1 <= int(arxiv_id[2:4]) <= 12:
        return ""
    return f"20{arxiv_id[:2]}-{arxiv_id[2:4]}"
