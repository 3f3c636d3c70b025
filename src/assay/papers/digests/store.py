"""The store of digests: one row per paper, every source kept beside it, and a full-text index over all.

A digest is stored whole or not at all, and adding it again changes nothing. What each source says of a paper is kept
as the source says it; the paper's own row is made from its sources by `merge`, whatever the order they came in.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from assay.errors import StoreError, UnknownName
from assay.papers.digests import index
from assay.papers.digests.entry import Digest, Entry, Section
from assay.papers.digests.merge import Source, merge

_SCHEMA = """
CREATE TABLE IF NOT EXISTS papers (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, days TEXT NOT NULL, entry TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS digests (
    number INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, format TEXT NOT NULL, name TEXT NOT NULL,
    day TEXT NOT NULL, added REAL NOT NULL, entries INTEGER NOT NULL, outline TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS sources (
    digest INTEGER NOT NULL, place INTEGER NOT NULL, paper INTEGER NOT NULL, entry TEXT NOT NULL,
    PRIMARY KEY (digest, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sources_by_paper ON sources (paper);
CREATE TABLE IF NOT EXISTS places (
    category TEXT NOT NULL, day TEXT NOT NULL, paper INTEGER NOT NULL, PRIMARY KEY (category, day, paper)
) WITHOUT ROWID;
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5(
    title, authors, text, tags, content='', prefix='2 3', tokenize='unicode61 remove_diacritics 2'
);
"""
_VERSION = 1
_BUSY_SECONDS = 60.0
_ALL = ""
"""The category under which `places` holds every paper."""
_RANKED = 1500
"""Of the papers that match, the newest so many are ranked by relevance: a word that most papers hold tells little."""
_AT_ONCE = 500

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Paper:
    """A paper of the store: what its sources say together, and the days its digests are of (newest first)."""

    key: str
    entry: Entry
    days: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """A digest of the store, without its entries."""

    number: int
    format: str
    name: str
    day: str
    added: float
    entries: int


@dataclass(frozen=True)
class Added:
    """What adding a digest did. `digest` is its number, None when there was nothing to keep."""

    digest: int | None
    new: int = 0
    known: int = 0
    again: bool = False


def _told(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """Turn SQLite's errors into one line that says what to do."""

    @wraps(method)
    def wrapper(self: Store, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as error:
            raise StoreError(_advice(self.path, error)) from error

    return wrapper


class Store:
    """Digests and papers in one SQLite file. A store is for one thread; open one per thread.

    Raises:
        StoreError: the file is damaged, not writable, or the disk is full. Nothing stored is changed by that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder of the store {path.parent}: {error.strerror}") from error
        self._open(str(path))

    def _open(self, path: str) -> None:
        try:
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("PRAGMA cache_size=-32000")
            if self._db.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                self._db.executescript(_SCHEMA + f"PRAGMA user_version={_VERSION};")
        except sqlite3.Error as error:
            raise StoreError(_advice(self.path, error)) from error

    @classmethod
    def in_memory(cls) -> Store:
        """A store that is gone when it is closed: for a digest that is only passed through."""
        store = cls.__new__(cls)
        store.path = Path(":memory:")
        store._open(":memory:")
        return store

    @classmethod
    def reading(cls, path: Path) -> Store | None:
        """The store, or None where there is none yet (reading makes no file)."""
        return cls(path) if path.is_file() else None

    @_told
    def add(self, digest: Digest, *, replace: bool = False) -> Added:
        """Store a digest, whole or not at all.

        A digest of the same content is known, whatever its name; adding it changes nothing, except that a day given now
        takes the place of the day it was filed under.

        Args:
            replace: the digest takes the place of stored ones of the same name (a digest made again).
        """
        if not digest.entries:
            return Added(None)
        fingerprint = digest.fingerprint()
        with self._transaction():
            row = self._one("SELECT number, day FROM digests WHERE fingerprint = ?", (fingerprint,))
            if row and (row[1] == digest.day or not digest.day):
                return Added(row[0], known=len(digest.entries), again=True)
            old = {row[0]} if row else set()
            if replace:
                old |= {
                    number
                    for (number,) in self._db.execute("SELECT number FROM digests WHERE name = ?", (digest.name,))
                }
            touched: set[int] = set()
            for number in sorted(old):
                touched |= self._drop(number)
            return self._insert(digest, fingerprint, touched)

    @_told
    def remove(self, digest: int) -> None:
        """Forget a digest, and the papers that only it names."""
        self.kept(digest)
        with self._transaction():
            self._refresh(self._drop(digest))

    @_told
    def search(
        self,
        words: str = "",
        *,
        categories: Collection[str] = (),
        days: tuple[str, str] | str = "",
        author: str = "",
        area: str = "",
        ids: Collection[str] | None = None,
        typing: bool = False,
        limit: int = 50,
        offset: int = 0,
    ) -> list[Paper]:
        """Papers that hold every word; the most relevant first, without words the newest day first.

        Args:
            words: words of title, authors, abstract and summary, in any language; "..." is a phrase; -word must not be
                there. A word finds longer ones that begin with it from three letters on.
            categories: any of these arXiv categories.
            days: an ISO day or the beginning of one ("2026-02"), or the first and the last day of a span.
            author: words of one author's name.
            area: an area of the catalogue.
            ids: only these papers, by id.
            typing: the last word is still being typed: shorter beginnings match too.
        """
        wanted = self._wanted(area, ids)
        if wanted is not None and not wanted:
            return []
        query = index.query(words, author=author, categories=categories, typing=typing)
        if query is None:
            return []
        found = self._ranked(query, days, wanted) if query else self._newest(categories, days, wanted)
        if author:
            found = self._by_author(found, author)
        numbers = []
        for place, number in enumerate(found):
            if place >= offset + limit:
                break
            if place >= offset:
                numbers.append(number)
        return self._papers(numbers)

    @_told
    def paper(self, key: str) -> Paper | None:
        """The paper of an id (or of another `Entry.key`)."""
        row = self._one("SELECT number FROM papers WHERE key = ?", (key,))
        return self._papers([row[0]])[0] if row else None

    @_told
    def sources(self, key: str) -> list[Source]:
        """Everything every source says of a paper, the oldest source first."""
        row = self._one("SELECT number FROM papers WHERE key = ?", (key,))
        return self._sources([row[0]])[row[0]] if row else []

    @_told
    def digests(self, day: str = "") -> list[Kept]:
        """Stored digests of a day (or of a month, such as "2026-02"), the newest day first."""
        rows = self._db.execute(
            "SELECT number, format, name, day, added, entries FROM digests WHERE substr(day, 1, ?) = ?"
            " ORDER BY day DESC, number DESC",
            (len(day), day),
        )
        return [Kept(*row) for row in rows]

    @_told
    def kept(self, digest: int) -> Kept:
        """One stored digest.

        Raises:
            UnknownName: there is none of that number.
        """
        row = self._one("SELECT number, format, name, day, added, entries FROM digests WHERE number = ?", (digest,))
        if row is None:
            raise UnknownName(f"no digest {digest} in the store; `assay digest list` names them")
        return Kept(*row)

    @_told
    def digest(self, number: int) -> Digest:
        """A stored digest as it was read: rendering it in its own format gives the bytes of its file.

        Raises:
            UnknownName: there is none of that number.
        """
        kept = self.kept(number)
        outline = json.loads(self._one("SELECT outline FROM digests WHERE number = ?", (number,))[0])
        rows = self._db.execute("SELECT entry FROM sources WHERE digest = ? ORDER BY place", (number,))
        entries = [Entry.from_dict(json.loads(text)) for (text,) in rows]
        sections = [Section(*section) for section in outline["sections"]]
        return Digest(kept.format, kept.name, kept.day, entries, sections, outline["layout"], outline["facts"])

    @_told
    def days(self) -> list[tuple[str, int]]:
        """Days (months, where no day is known) and how many papers each has, the newest first."""
        rows = self._db.execute(
            "SELECT day, COUNT(*) FROM places WHERE category = ? GROUP BY day ORDER BY day DESC", (_ALL,)
        )
        return [(day, count) for day, count in rows]

    @_told
    def categories(self, day: str = "") -> list[tuple[str, int]]:
        """Categories and how many papers each has (on a day, in a month, or at all), the fullest first."""
        rows = self._db.execute(
            "SELECT category, COUNT(DISTINCT paper) AS papers FROM places WHERE category != ? AND substr(day, 1, ?) = ?"
            " GROUP BY category ORDER BY papers DESC, category",
            (_ALL, len(day), day),
        )
        return [(category, count) for category, count in rows]

    @_told
    def count_by_day(self, *, any_of: Sequence[str] = (), category: str = _ALL) -> dict[str, int]:
        """Papers per day (month, where no day is known), counted inside the store.

        Args:
            any_of: only papers that one of these searches finds; each as the `words` of `search`.
            category: only papers of this arXiv category.
        """
        where, values = "category = ?", [category]
        if any_of:
            terms = [f"({query})" for words in any_of if (query := index.query(words))]
            where += " AND paper IN (SELECT rowid FROM words WHERE words MATCH ?)"
            values.append(" OR ".join(terms))
            if not terms:
                return {}
        rows = self._db.execute(f"SELECT day, COUNT(*) FROM places WHERE {where} GROUP BY day", values)
        return dict(rows.fetchall())

    @_told
    def keys(self, longer_than: int = 0) -> list[str]:
        """Keys of all papers, or of those whose key has more characters than so many; in the order they came."""
        rows = self._db.execute("SELECT key FROM papers WHERE length(key) > ? ORDER BY number", (longer_than,))
        return [key for (key,) in rows]

    @_told
    def count(self) -> int:
        """How many papers there are."""
        return int(self._one("SELECT COUNT(*) FROM papers", ())[0])

    @_told
    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys (ids) that the store has."""
        return set(self._numbers(list(keys)))

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _insert(self, digest: Digest, fingerprint: str, touched: set[int]) -> Added:
        outline = {
            "layout": digest.layout,
            "facts": digest.facts,
            "sections": [(s.category, s.entries, s.total) for s in digest.sections],
        }
        row = (fingerprint, digest.format, digest.name, digest.day, time.time(), len(digest.entries), _dump(outline))
        made = self._db.execute(
            "INSERT INTO digests (fingerprint, format, name, day, added, entries, outline) VALUES (?,?,?,?,?,?,?)", row
        ).lastrowid
        assert made is not None
        keys = [entry.key for entry in digest.entries]
        numbers = self._numbers(keys)
        before = len(numbers)
        fresh = [key for key in dict.fromkeys(keys) if key not in numbers]
        first = (self._one("SELECT MAX(number) FROM papers", ())[0] or 0) + 1
        numbers |= {key: first + place for place, key in enumerate(fresh)}
        rows = [
            (made, place, numbers[key], _dump(entry.as_dict()))
            for place, (key, entry) in enumerate(zip(keys, digest.entries, strict=True))
        ]
        self._db.executemany("INSERT INTO sources VALUES (?,?,?,?)", rows)
        self._db.executemany("INSERT INTO papers VALUES (?,?,'[]','{}')", ((numbers[key], key) for key in fresh))
        self._refresh(touched | set(numbers.values()))
        return Added(made, new=len(fresh), known=before)

    def _drop(self, digest: int) -> set[int]:
        """Take a digest out; gives the papers that it named, whose rows are to be made anew."""
        touched = {paper for (paper,) in self._db.execute("SELECT paper FROM sources WHERE digest = ?", (digest,))}
        self._db.execute("DELETE FROM sources WHERE digest = ?", (digest,))
        self._db.execute("DELETE FROM digests WHERE number = ?", (digest,))
        return touched

    def _refresh(self, papers: Collection[int]) -> None:
        """Make the rows of papers, and their places in the indexes, from their sources."""
        ordered = sorted(papers)
        for start in range(0, len(ordered), _AT_ONCE):
            part = ordered[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            sources = self._sources(part)
            old = self._db.execute(
                f"SELECT number, key, days, entry FROM papers WHERE number IN ({marks})", part
            ).fetchall()
            rows, gone, places, words, unplaced = [], [], [], [], []
            for number, _key, days_text, entry_text in old:
                days = tuple(json.loads(days_text))
                if days or entry_text != "{}":
                    before = Entry.from_dict(json.loads(entry_text))
                    self._db.execute(
                        "INSERT INTO words (words, rowid, title, authors, text, tags) VALUES ('delete',?,?,?,?,?)",
                        (number, *index.row(before, days)),
                    )
                    unplaced += [(c, day, number) for c in (_ALL, *before.categories) for day in days]
                if not sources.get(number):
                    gone.append((number,))
                    continue
                entry, days = merge(sources[number])
                rows.append((_dump(days), _dump(entry.as_dict()), number))
                places += [(c, day, number) for c in (_ALL, *dict.fromkeys(entry.categories)) for day in days]
                words.append((number, *index.row(entry, days)))
            self._db.executemany("DELETE FROM places WHERE (category, day, paper) = (?,?,?)", unplaced)
            self._db.executemany("DELETE FROM papers WHERE number = ?", gone)
            self._db.executemany("UPDATE papers SET days = ?, entry = ? WHERE number = ?", rows)
            self._db.executemany("INSERT OR IGNORE INTO places VALUES (?,?,?)", places)
            self._db.executemany("INSERT INTO words (rowid, title, authors, text, tags) VALUES (?,?,?,?,?)", words)

    def _sources(self, papers: Sequence[int]) -> dict[int, list[Source]]:
        found: dict[int, list[Source]] = {paper: [] for paper in papers}
        for start in range(0, len(papers), _AT_ONCE):
            part = papers[start : start + _AT_ONCE]
            rows = self._db.execute(
                "SELECT s.paper, s.digest, s.place, d.format, d.name, d.day, s.entry FROM sources s"
                f" JOIN digests d ON d.number = s.digest WHERE s.paper IN ({','.join('?' * len(part))})"
                " ORDER BY s.digest, s.place",
                part,
            )
            for paper, digest, place, format_, name, day, text in rows:
                found[paper].append(Source(digest, place, format_, name, day, Entry.from_dict(json.loads(text))))
        return found

    def _numbers(self, keys: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            found |= dict(self._db.execute(f"SELECT key, number FROM papers WHERE key IN ({marks})", part))
        return found

    def _wanted(self, area: str, ids: Collection[str] | None) -> list[int] | None:
        """Numbers of the papers that area and ids allow; None when they allow all."""
        if area:
            from assay.papers import catalogue

            of_area = {card.id for card in catalogue.cards().values() if card.area == area}
            ids = of_area if ids is None else of_area & set(ids)
        return None if ids is None else sorted(self._numbers(sorted(ids)).values())

    def _ranked(self, query: str, days: tuple[str, str] | str, wanted: list[int] | None) -> Iterator[int]:
        where, values = "", []
        if wanted is not None:
            where += " AND +rowid IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(wanted))
        if days:
            first, last = _span(days)
            where += " AND +rowid IN (SELECT paper FROM places WHERE category = ? AND day >= ? AND day < ?)"
            values += [_ALL, first, last]
        rows = self._db.execute(
            "SELECT number FROM (SELECT rowid AS number, bm25(words, 8.0, 4.0, 1.0, 0.0) AS score FROM words"
            f" WHERE words MATCH ?{where} ORDER BY rowid DESC LIMIT {_RANKED}) ORDER BY score, number DESC",
            (query, *values),
        )
        return (number for (number,) in rows)

    def _newest(
        self, categories: Collection[str], days: tuple[str, str] | str, wanted: list[int] | None
    ) -> Iterator[int]:
        first, last = _span(days)
        chosen = list(categories) or [_ALL]
        where, values = f"category IN ({','.join('?' * len(chosen))})", [first, last, *chosen]
        if wanted is not None:
            where += " AND paper IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(wanted))
        rows = self._db.execute(
            f"SELECT paper FROM places WHERE day >= ? AND day < ? AND {where} ORDER BY day DESC, paper DESC",
            values,
        )
        seen: set[int] = set()
        for (number,) in rows:
            if number not in seen:
                seen.add(number)
                yield number

    def _by_author(self, found: Iterator[int], author: str) -> Iterator[int]:
        """Those of the papers where one author's name holds all the words."""
        wanted = index.words_of(author)
        for number in found:
            names = self._papers([number])[0].entry.authors
            if any(
                all(any(part.startswith(word) for part in index.words_of(name)) for word in wanted) for name in names
            ):
                yield number

    def _papers(self, numbers: Sequence[int]) -> list[Paper]:
        found = {}
        for start in range(0, len(numbers), _AT_ONCE):
            part = numbers[start : start + _AT_ONCE]
            marks = ",".join("?" * len(part))
            for number, key, days, entry in self._db.execute(
                f"SELECT number, key, days, entry FROM papers WHERE number IN ({marks})", part
            ):
                found[number] = Paper(key, Entry.from_dict(json.loads(entry)), tuple(json.loads(days)))
        return [found[number] for number in numbers]

    def _one(self, query: str, values: Sequence[Any]) -> Any:
        return self._db.execute(query, values).fetchone()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def _span(days: tuple[str, str] | str) -> tuple[str, str]:
    """First day of a span and the first text behind it: texts of ISO days are in the order of the days."""
    first, last = (days, days) if isinstance(days, str) else days
    return first, last + "~"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _advice(path: Path, error: sqlite3.Error) -> str:
    words = str(error)
    if "full" in words:
        return f"the disk of the store {path} is full; free some space and run again (stored digests are kept)"
    if "malformed" in words or "not a database" in words or "corrupt" in words:
        return f"the store {path} is damaged ({words}); move it away, or put a copy back, and add the digests again"
    if "readonly" in words or "unable to open" in words:
        return f"the store {path} cannot be written ({words}); check its rights, or set ASSAY_HOME to another folder"
    if "locked" in words:
        return f"the store {path} has been locked by another process for {_BUSY_SECONDS:.0f} s; run again when it ends"
    return f"the store {path} cannot be used: {words}"
