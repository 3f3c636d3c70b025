"""What the pages show: papers of the digests beside the catalogue and its evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.lab import paths, record, summaries
from assay.lab.summaries import State
from assay.papers import catalogue
from assay.papers.card import AREAS, Card
from assay.papers.digests.entry import Entry
from assay.papers.digests.store import Paper, Store

PER_PAGE = 25


@dataclass(frozen=True)
class Row:
    """One paper in a list: what a digest says of it, its card, and the state of its evidence."""

    key: str
    entry: Entry
    days: tuple[str, ...]
    card: Card | None
    state: State | None

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def title(self) -> str:
        return self.entry.title or self.entry.title_zh or self.key


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to; empty means any."""

    words: str = ""
    day: str = ""
    category: str = ""
    area: str = ""
    author: str = ""
    runs: str = ""
    verdict: str = ""

    @property
    def of_catalogue(self) -> bool:
        return bool(self.area or self.runs or self.verdict)


class Library:
    """One moment's view of digests, catalogue and evidence; make a new one when they change.

    Args:
        digests: file of the digest store; it need not exist.
    """

    def __init__(self, digests: Path) -> None:
        self.path = digests

    @cached_property
    def cards(self) -> Mapping[str, Card]:
        return catalogue.cards()

    @cached_property
    def states(self) -> Mapping[str, State]:
        """State of every paper of the catalogue by id."""
        return {paper: summaries.state_of(card) for paper, card in self.cards.items()}

    @cached_property
    def days(self) -> list[tuple[str, int]]:
        """Days of the digests with their number of papers, the newest first."""
        with self._store() as store:
            return store.days()

    @cached_property
    def categories(self) -> list[tuple[str, int]]:
        with self._store() as store:
            return store.categories()

    @cached_property
    def empty(self) -> bool:
        """Whether no digest has been read; the catalogue alone is shown then."""
        return not self.path.is_file() or not self.days

    def find(self, filters: Filters, page: int = 1, *, typing: bool = False) -> tuple[list[Row], bool]:
        """Papers of one page of a list, and whether more follow."""
        offset = (page - 1) * PER_PAGE
        ids = self._ids(filters) if filters.of_catalogue else None
        if self.empty:
            rows = self._cards_that_match(filters, ids)[offset : offset + PER_PAGE + 1]
        else:
            with self._store() as store:
                found = store.search(
                    filters.words,
                    categories=[filters.category] if filters.category else (),
                    days=filters.day,
                    author=filters.author,
                    ids=ids,
                    typing=typing,
                    limit=PER_PAGE + 1,
                    offset=offset,
                )
            rows = [self._row(paper) for paper in found]
        return rows[:PER_PAGE], len(rows) > PER_PAGE

    def paper(self, key: str) -> Row | None:
        """A paper of a digest or of the catalogue."""
        paper = None
        if self.path.is_file():
            with self._store() as store:
                paper = store.paper(key)
        if paper is not None:
            return self._row(paper)
        card = self.cards.get(key)
        return self._row_of_card(card) if card else None

    def every_key(self) -> list[str]:
        """Keys of all papers, of digests first."""
        keys = dict.fromkeys(self.cards)
        if not self.empty:
            page = 0
            with self._store() as store:
                while found := store.search("", limit=500, offset=page * 500):
                    keys.update(dict.fromkeys(paper.key for paper in found))
                    page += 1
        return list(keys)

    def record(self, paper: str) -> record.Record | None:
        """Published evidence with its trials."""
        return record.read(paper)

    def by_area(self) -> list[tuple[str, list[Row]]]:
        """The catalogue's papers by area."""
        rows = [self._row_of_card(card) for card in self.cards.values()]
        return [(area, [row for row in rows if row.card and row.card.area == area]) for area in AREAS]

    def claims(self) -> list[tuple[Card, State, Mapping[str, Any]]]:
        """Every judged claim of every paper with evidence."""
        return [
            (self.cards[paper], state, verdict)
            for paper, state in self.states.items()
            if state.summary is not None
            for verdict in state.summary.verdicts
        ]

    def _store(self) -> Store:
        return Store(self.path)

    def _row(self, paper: Paper) -> Row:
        card = self.cards.get(paper.key)
        return Row(paper.key, paper.entry, paper.days, card, self.states.get(paper.key))

    def _row_of_card(self, card: Card) -> Row:
        entry = Entry(
            id=card.id,
            title=card.title,
            authors=card.authors,
            categories=card.categories,
            tldr=card.idea,
            summary_language="en",
            date=card.month,
        )
        return Row(card.id, entry, (card.month,), card, self.states.get(card.id))

    def _ids(self, filters: Filters) -> Collection[str]:
        return {
            paper
            for paper, state in self.states.items()
            if (not filters.area or self.cards[paper].area == filters.area)
            and (not filters.runs or state.runs == (filters.runs == "yes"))
            and (not filters.verdict or _has_verdict(state, filters.verdict))
        }

    def _cards_that_match(self, filters: Filters, ids: Collection[str] | None) -> list[Row]:
        author = filters.author.casefold()
        return [
            self._row_of_card(card)
            for card in catalogue.search(filters.words)
            if (ids is None or card.id in ids)
            and (not filters.category or filters.category in card.categories)
            and card.month.startswith(filters.day[:7])
            and (not author or any(author in name.casefold() for name in card.authors))
        ]


def _has_verdict(state: State, verdict: str) -> bool:
    return state.stale if verdict == "stale" else (state.verdict or "none") == verdict


def version(digests: Path) -> tuple[Any, ...]:
    """Changes whenever what a library shows may have changed."""
    folder = paths.evidence_folder()
    files: Sequence[Path] = sorted(folder.glob("*.json")) if folder.is_dir() else []
    stores = [digests, digests.with_name(digests.name + "-wal")]
    return tuple((path.name, stat.st_mtime_ns, stat.st_size) for path in [*stores, *files] if (stat := _stat(path)))


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except OSError:
        return None
