"""What the pages show: papers of the digests beside the catalogue and its evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from assay.errors import AssayError
from assay.lab import paths, record, summaries
from assay.lab.summaries import State
from assay.papers import catalogue
from assay.papers.card import AREAS, Card
from assay.papers.digests.entry import Entry
from assay.papers.digests.store import Paper, Store
from assay.web.addresses import LONGEST, key_of, slug
from assay.web.topics import Trends, trends

PER_PAGE = 20
_SORTED_DAY = 1_000
"""A day of more papers than this is listed as it was read; one of fewer, by category."""


@dataclass(frozen=True)
class Row:
    """One paper in a list: what a digest says of it, its card, and the state of its evidence.

    `damaged`: its evidence file is there and cannot be read.
    """

    key: str
    entry: Entry
    days: tuple[str, ...]
    card: Card | None
    state: State | None
    damaged: bool = False

    @property
    def id(self) -> str:
        return self.entry.id

    @property
    def title(self) -> str:
        return self.entry.title or self.entry.title_zh or self.key

    @property
    def category(self) -> str:
        return self.entry.categories[0] if self.entry.categories else ""


@dataclass(frozen=True)
class Filters:
    """What a list is narrowed to; empty means any. `until` makes `day` the first of a span of days."""

    words: str = ""
    day: str = ""
    until: str = ""
    category: str = ""
    area: str = ""
    author: str = ""
    runs: str = ""
    verdict: str = ""

    @property
    def of_catalogue(self) -> bool:
        return bool(self.area or self.runs or self.verdict)


@dataclass(frozen=True)
class Day:
    """A page of a day's papers: how many papers and pages there are, and how many papers each category has."""

    rows: list[Row]
    count: int
    pages: int
    categories: Mapping[str, int]


@dataclass(frozen=True)
class Evidence:
    """The state of every paper of the catalogue, and the papers whose evidence file cannot be read."""

    states: Mapping[str, State]
    damaged: frozenset[str]

    @classmethod
    def read(cls) -> Evidence:
        states, damaged = {}, set()
        for paper, card in catalogue.cards().items():
            try:
                states[paper] = summaries.state_of(card)
            except AssayError:
                damaged.add(paper)
                states[paper] = State(runs=True, summary=None, verdict="", stale=False)
        return cls(states, frozenset(damaged))


class Library:
    """One moment's view of digests, catalogue and evidence; make a new one when they change.

    Args:
        digests: file of the digest store; it need not exist.
        evidence: states that are known already.
    """

    def __init__(self, digests: Path, evidence: Evidence | None = None) -> None:
        self.path = digests
        self._evidence = evidence

    @cached_property
    def cards(self) -> Mapping[str, Card]:
        return catalogue.cards()

    @cached_property
    def evidence(self) -> Evidence:
        return self._evidence or Evidence.read()

    @property
    def states(self) -> Mapping[str, State]:
        """State of every paper of the catalogue by id."""
        return self.evidence.states

    @cached_property
    def days(self) -> list[tuple[str, int]]:
        """Days of the digests with their number of papers, the newest first."""
        if not self.path.is_file():
            return []
        with self._store() as store:
            return store.days()

    @cached_property
    def categories(self) -> list[tuple[str, int]]:
        if self.empty:
            return []
        with self._store() as store:
            return store.categories()

    @property
    def empty(self) -> bool:
        """Whether no digest has been read; the catalogue alone is shown then."""
        return not self.days

    @cached_property
    def trends(self) -> Trends | None:
        """Topics over days; None without a digest."""
        if self.empty:
            return None
        with self._store() as store:
            return trends(store)

    def find(self, filters: Filters, page: int = 1, *, typing: bool = False) -> tuple[list[Row], bool]:
        """Papers of one page of a list, and whether more follow.

        What digests name comes first; the last page ends with papers of the catalogue that fit and no digest names.
        """
        offset = (page - 1) * PER_PAGE
        ids = self._ids(filters) if filters.of_catalogue else None
        if self.empty:
            cards = [self._row_of_card(card) for card in self._cards_that_match(filters, ids)]
            return cards[offset : offset + PER_PAGE], len(cards) > offset + PER_PAGE
        with self._store() as store:
            found = store.search(
                filters.words,
                categories=[filters.category] if filters.category else (),
                days=(filters.day, filters.until) if filters.until else filters.day,
                author=filters.author,
                ids=ids,
                typing=typing,
                limit=PER_PAGE + 1,
                offset=offset,
            )
            rows = [self._row(paper) for paper in found[:PER_PAGE]]
            more = len(found) > PER_PAGE
            if not more and (rows or page == 1) and (filters.of_catalogue or filters.words or filters.author):
                left = self._cards_that_match(filters, ids)
                known = store.known(card.id for card in left)
                rows += [self._row_of_card(card) for card in left if card.id not in known]
        return rows, more

    def day(self, day: str, category: str = "", page: int = 1) -> Day:
        """One page of a day's papers, by main category, or of those of one category."""
        offset = (page - 1) * PER_PAGE
        only = (day, day + "\0")  # of a month, the papers of which no day is known
        with self._store() as store:
            if dict(self.days).get(day, 0) > _SORTED_DAY:
                categories = dict(store.categories(day))
                count = store.count_by_day(category=category).get(day, 0) if category else dict(self.days)[day]
                wanted = [category] if category else ()
                found = store.search(categories=wanted, days=only, limit=PER_PAGE, offset=offset)
            else:
                papers = store.search(days=only, limit=_SORTED_DAY)
                counted = Counter(name for paper in papers for name in dict.fromkeys(paper.entry.categories))
                categories = dict(counted.most_common())
                order = {name: place for place, name in enumerate(categories)}
                papers = [paper for paper in papers if not category or category in paper.entry.categories]
                papers.sort(key=lambda paper: order.get(next(iter(paper.entry.categories), ""), len(order)))
                count, found = len(papers), papers[offset : offset + PER_PAGE]
        return Day([self._row(paper) for paper in found], count, -(-count // PER_PAGE), categories)

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

    def key_named(self, name: str) -> str | None:
        """The key behind a paper's address."""
        key = key_of(name)
        return self._long_keys.get(name) if key is None else key

    def every_key(self) -> list[str]:
        """Keys of all papers, of the catalogue first."""
        keys = dict.fromkeys(self.cards)
        if not self.empty:
            with self._store() as store:
                keys.update(dict.fromkeys(store.keys()))
        return list(keys)

    def record(self, paper: str) -> record.Record | None:
        """Published evidence with its trials."""
        return None if paper in self.evidence.damaged else record.read(paper)

    @cached_property
    def by_area(self) -> list[tuple[str, list[Row]]]:
        """The catalogue's papers by area."""
        rows = [self._row_of_card(card) for card in self.cards.values()]
        return [(area, [row for row in rows if row.card and row.card.area == area]) for area in AREAS]

    @cached_property
    def judged(self) -> list[Row]:
        """Papers with evidence."""
        return [row for _, rows in self.by_area for row in rows if row.state and row.state.summary]

    @cached_property
    def _long_keys(self) -> Mapping[str, str]:
        if not self.path.is_file():
            return {}
        with self._store() as store:
            return {slug(key): key for key in store.keys(longer_than=LONGEST)}

    def _store(self) -> closing[Store]:
        return closing(Store(self.path))

    def _row(self, paper: Paper) -> Row:
        card = self.cards.get(paper.key)
        return Row(paper.key, paper.entry, paper.days, card, self.states.get(paper.key), self._damaged(paper.key))

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
        return Row(card.id, entry, (card.month,), card, self.states.get(card.id), self._damaged(card.id))

    def _damaged(self, paper: str) -> bool:
        return paper in self.evidence.damaged

    def _ids(self, filters: Filters) -> Collection[str]:
        return {
            paper
            for paper, state in self.states.items()
            if (not filters.area or self.cards[paper].area == filters.area)
            and (not filters.runs or state.runs == (filters.runs == "yes"))
            and (not filters.verdict or _has_verdict(state, filters.verdict))
        }

    def _cards_that_match(self, filters: Filters, ids: Collection[str] | None) -> list[Card]:
        author = filters.author.casefold()
        first, last = filters.day, filters.until or filters.day
        return [
            card
            for card in catalogue.search(filters.words)
            if (ids is None or card.id in ids)
            and (not filters.category or filters.category in card.categories)
            and first <= card.month < last + "~"
            and (not author or any(author in name.casefold() for name in card.authors))
        ]


def _has_verdict(state: State, verdict: str) -> bool:
    return state.stale if verdict == "stale" else (state.verdict or "none") == verdict


def version_of_evidence() -> tuple[Any, ...]:
    """Changes whenever published evidence may have changed."""
    folder = paths.evidence_folder()
    return tuple(map(_stamp, sorted(folder.glob("*.json")))) if folder.is_dir() else ()


def version_of_digests(digests: Path) -> tuple[Any, ...]:
    """Changes whenever the digest store may have changed."""
    return _stamp(digests), _stamp(digests.with_name(digests.name + "-wal"))


def _stamp(path: Path) -> tuple[Any, ...]:
    try:
        found = path.stat()
    except OSError:
        return (path.name,)
    return path.name, found.st_mtime_ns, found.st_size
