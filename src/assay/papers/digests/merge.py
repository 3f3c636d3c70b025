"""One paper from everything its sources say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay.papers.digests.entry import SUMMARY_FIELDS, Entry

_TRUST = {"atom": 0, "oai": 1, "rss": 2, "jsonl": 3}
_FACTS = ("title", "abstract", "comment", "doi", "journal", "date", "updated", "version", "title_zh", "abstract_zh")


@dataclass(frozen=True)
class Source:
    """What one digest says of a paper: the digest, the entry's place in it, and the entry as it was read."""

    digest: int
    place: int
    format: str
    name: str
    day: str
    entry: Entry


def merge(sources: Sequence[Source]) -> tuple[Entry, tuple[str, ...]]:
    """The paper and the days it stands under, the newest first.

    A fact comes from arXiv's own feeds where they name it, else from the source that was added first; the summary is
    one source's, whole, the fullest; categories and links of all are joined. Fields under a source's own names
    (`extra`) stay with the source.
    """
    ordered = sorted(sources, key=lambda source: (_TRUST.get(source.format, 4), source.digest, source.place))
    merged = Entry()
    for source in ordered:
        entry = source.entry
        merged.id = merged.id or entry.id
        for name in _FACTS:
            if not getattr(merged, name) and getattr(entry, name) is not None:
                setattr(merged, name, getattr(entry, name))
        merged.authors = merged.authors or entry.authors
        merged.categories = (*merged.categories, *(c for c in entry.categories if c and c not in merged.categories))
        merged.links = entry.links | merged.links
    told = max(ordered, key=lambda source: sum(bool(getattr(source.entry, name)) for name in SUMMARY_FIELDS)).entry
    for name in (*SUMMARY_FIELDS, "summary_language", "summary_by"):
        setattr(merged, name, getattr(told, name))
    days = {day for source in sources if (day := source.day or source.entry.day)}
    return merged, tuple(sorted(days or {merged.day}, reverse=True))
