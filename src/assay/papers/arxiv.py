"""arXiv's three interfaces: RSS for today, the API for a query, OAI-PMH for bulk.

One request in three seconds, over all interfaces and every process of a user, as arXiv asks. Answers are kept with
their ETag and date and asked for conditionally; a harvest that breaks off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import urlencode

from assay import __version__
from assay.errors import AssayError, InputError
from assay.net import NetworkError, Patience, address, request
from assay.papers.digests import feeds
from assay.papers.digests.entry import Digest, Entry

_BASES = {
    "API": "https://export.arxiv.org/api/query",
    "RSS": "https://rss.arxiv.org/rss",
    "OAI": "https://oaipmh.arxiv.org/oai",
}
_CATEGORY = re.compile(r"[a-z]+(?:-[a-z]+)*(?:\.[A-Za-z]+(?:-[a-z]+)?)?")
_PHYSICS = {
    "astro-ph", "cond-mat", "gr-qc", "hep-ex", "hep-lat", "hep-ph", "hep-th", "math-ph", "nlin", "nucl-ex", "nucl-th",
    "physics", "quant-ph",
}  # fmt: skip
_PAGE = 500
_IDS_AT_ONCE = 100
_EMPTY_PAGES = 3
_KEEP_DAYS = 30
_DAY = 24 * 3600
_PATIENCE = Patience(tries=6, first_wait=6.0, longest_wait=300.0, seconds=180.0)


class ArxivError(AssayError):
    """arXiv could not be reached, refused, or answered something that is not what was asked for."""


@dataclass(frozen=True)
class Arxiv:
    """arXiv, asked politely.

    Base addresses come from `ASSAY_ARXIV_API`, `ASSAY_ARXIV_RSS` and `ASSAY_ARXIV_OAI`, the seconds between requests
    from `ASSAY_ARXIV_PAUSE` (3), for mirrors and tests.

    Attributes:
        folder: where answers, unfinished harvests and the time of the last request are kept.
        pause: seconds between requests; None for the environment's.
        patience: tries, waits and limits of a request.
        sleep: how to wait.
    """

    folder: Path
    pause: float | None = None
    patience: Patience = _PATIENCE
    sleep: Callable[[float], None] = time.sleep

    def today(self, categories: Sequence[str]) -> list[Entry]:
        """What the latest announcement holds: new papers and cross-lists, without replaced ones.

        Raises:
            ArxivError: arXiv cannot be reached or answers with something else.
            InputError: a category arXiv cannot have.
        """
        digest = self._digest(f"{_base('RSS')}/{'+'.join(_checked(categories))}", "rss")
        return [
            entry for entry in digest.entries if not str(entry.extra.get("announce_type", "")).startswith("replace")
        ]

    def query(self, categories: Sequence[str], since: date, until: date) -> list[Entry]:
        """Papers first submitted from `since` to `until` (days in UTC, both included), oldest first.

        Raises:
            ArxivError, InputError: as for `today`.
        """
        listed = " OR ".join(f"cat:{category}" for category in _checked(categories))
        days = f"submittedDate:[{since:%Y%m%d}0000 TO {until:%Y%m%d}2359]"
        words = {"search_query": f"({listed}) AND {days}", "sortBy": "submittedDate", "sortOrder": "ascending"}
        return list(self._listing(words))

    def by_ids(self, ids: Sequence[str]) -> list[Entry]:
        """The papers of these ids, those that exist.

        Raises:
            ArxivError: as for `today`.
        """
        found: list[Entry] = []
        for start in range(0, len(ids), _IDS_AT_ONCE):
            part = ids[start : start + _IDS_AT_ONCE]
            found += self._digest(_api({"id_list": ",".join(part), "max_results": str(len(part))}), "atom").entries
        return found

    def bulk(self, categories: Sequence[str], since: date, until: date) -> list[Entry]:
        """As `query`, through OAI-PMH, for long spans.

        OAI-PMH lists papers by the day of their last change, so everything changed since `since` is read, and what was
        first submitted in the span is kept.

        Raises:
            ArxivError, InputError: as for `today`.
        """
        found: list[Entry] = []
        for category in _checked(categories):
            words = {"verb": "ListRecords", "metadataPrefix": "arXiv", "set": _oai_set(category), "from": str(since)}
            for digest in self._harvest(f"{_base('OAI')}?{urlencode(words)}", "oai", _resumption):
                found += [entry for entry in digest.entries if str(since) <= entry.date[:10] <= str(until)]
        return sorted(found, key=lambda entry: (entry.date, entry.id))

    def _listing(self, words: Mapping[str, str]) -> Iterator[Entry]:
        def page(start: int) -> str:
            return _api({**words, "start": str(start), "max_results": str(_PAGE)})

        def following(digest: Digest, url: str) -> str | None:
            start = int(re.search(r"[?&]start=(\d+)", url)[1]) + len(digest.entries)  # type: ignore[index]
            return page(start) if digest.entries and start < _total(digest) else None

        for digest in self._harvest(page(0), "atom", following):
            yield from digest.entries

    def _harvest(self, first: str, form: str, following: Callable[[Digest, str], str | None]) -> Iterator[Digest]:
        """Page after page. Finished pages stand in a journal until all are there; they are not asked for again."""
        journal = self.folder / "harvests" / f"{_hash(first)}.json"
        finished = _journal(journal)
        url: str | None = first
        done: list[str] = []
        while url:
            kept = self._kept(url) if url in finished else None
            digest = self._parse(kept, url, form) if kept is not None else self._full(url, form)
            if digest.facts.get("error") == "badResumptionToken" and done:
                # A token lives for a day or so: begin again, with what is known by its days.
                journal.unlink(missing_ok=True)
                raise ArxivError(f"{address(url)}: the harvest took too long and its token expired; run it again")
            done.append(url)
            following_url = following(digest, url)
            if following_url and url not in finished:
                finished.add(url)
                _replace(journal, json.dumps(sorted(finished)).encode())
            yield digest
            url = following_url if following_url not in done else None
        journal.unlink(missing_ok=True)

    def _full(self, url: str, form: str) -> Digest:
        """A page; the API now and then gives an empty one though more papers are there, so it is asked again."""
        digest = self._digest(url, form)
        for _ in range(_EMPTY_PAGES):
            start = re.search(r"[?&]start=(\d+)", url)
            if form != "atom" or digest.entries or not start or int(start[1]) >= _total(digest):
                break
            digest = self._digest(url, form, fresh=True)
        return digest

    def _digest(self, url: str, form: str, *, fresh: bool = False) -> Digest:
        return self._parse(self._get(url, fresh=fresh), url, form)

    def _parse(self, content: bytes, url: str, form: str) -> Digest:
        try:
            digest = feeds.read(content, address(url))
        except InputError as refused:
            self._forget(url)
            raise ArxivError(str(refused)) from refused
        error = digest.facts.get("error", "")
        broken = [p for p in digest.problems if "breaks off" in p.what or ("server answers" in p.what and not error)]
        if digest.format != form or broken or (error and error not in {"noRecordsMatch", "badResumptionToken"}):
            self._forget(url)
            told = str(broken[0]) if broken else f"{address(url)}: {error or f'expected {form}, got {digest.format}'}"
            raise ArxivError(told)
        return digest

    def _get(self, url: str, *, fresh: bool = False) -> bytes:
        """The body of an address, from disk where the server says that it has not changed."""
        import httpx

        body, facts = self._paths(url)
        headers = {} if fresh or not body.is_file() else _conditions(facts)
        pause = self._pause()
        patience = replace(self.patience, sleep=lambda seconds: self.sleep(max(seconds, pause)))
        with _ONE_AT_A_TIME:
            self._wait(pause)
            try:
                with httpx.Client(headers={"User-Agent": f"assay/{__version__}"}) as client:
                    answer = request(client, "GET", url, patience=patience, headers=headers, redirects=True)
            except NetworkError as error:
                raise ArxivError(f"arXiv: {error}") from error
            finally:
                _replace(self.folder / "last-request", repr(time.time()).encode())
        if answer.status == 304 and headers:
            kept = self._kept(url)
            return kept if kept is not None else self._get(url, fresh=True)
        if answer.status != 200:
            raise ArxivError(f"{address(url)}: status {answer.status}")
        _replace(body, answer.content)
        kept_facts = {name: answer.headers[name] for name in ("etag", "last-modified") if name in answer.headers}
        _replace(facts, json.dumps(kept_facts).encode())
        return answer.content

    def _pause(self) -> float:
        if self.pause is not None:
            return self.pause
        text = os.environ.get("ASSAY_ARXIV_PAUSE") or "3"
        try:
            return max(0.0, float(text))
        except ValueError:
            raise InputError(f"ASSAY_ARXIV_PAUSE={text!r}; expected seconds") from None

    def _wait(self, pause: float) -> None:
        """Until `pause` seconds after the last request of any process; a clock set back does not stall us."""
        try:
            last = float((self.folder / "last-request").read_text())
        except (OSError, ValueError):
            last = 0.0
        if time.time() - last > _DAY:
            _sweep(self.folder / "answers")
        wait = last + pause - time.time()
        if 0 < wait <= pause:
            self.sleep(wait)

    def _paths(self, url: str) -> tuple[Path, Path]:
        name = self.folder / "answers" / _hash(url)
        return name.with_suffix(".xml"), name.with_suffix(".json")

    def _kept(self, url: str) -> bytes | None:
        try:
            return self._paths(url)[0].read_bytes()
        except OSError:
            return None

    def _forget(self, url: str) -> None:
        for path in self._paths(url):
            path.unlink(missing_ok=True)


_ONE_AT_A_TIME = threading.Lock()


def unique(entries: Sequence[Entry]) -> list[Entry]:
    """One entry a paper: the first, with the categories of all and the latest version's text."""
    found: dict[str, Entry] = {}
    for entry in entries:
        key = entry.key or f"line {id(entry)}"
        first = found.get(key)
        if first is None:
            found[key] = entry
            continue
        newest = max((first, entry), key=lambda one: _version(one.version))
        categories = tuple(dict.fromkeys((*first.categories, *entry.categories)))
        found[key] = replace(newest, categories=categories, date=first.date or entry.date)
    return list(found.values())


def day_of(text: str, option: str) -> date:
    """A day given by a user.

    Raises:
        InputError: it is not `YYYY-MM-DD`, `today` or `yesterday`, or lies in the future.
    """
    today = datetime.now(UTC).date()
    if text in {"today", "yesterday"}:
        return today if text == "today" else date.fromordinal(today.toordinal() - 1)
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise InputError(f"{option} {text!r} is no day; expected such as 2026-02-05, today or yesterday") from None
    if day > today or day.year < 1991:
        raise InputError(f"{option} {text} lies {'in the future' if day > today else 'before arXiv'}")
    return day


def _version(text: str) -> int:
    return int(text[1:]) if re.fullmatch(r"v\d{1,3}", text) else 0


def _checked(categories: Sequence[str]) -> list[str]:
    for category in categories:
        if len(category) > 30 or not _CATEGORY.fullmatch(category):
            raise InputError(f"{category[:60]!r} is no arXiv category; expected such as cs.CV, eess.IV or hep-th")
    if not categories:
        raise InputError("name a category, such as cs.CV")
    return list(dict.fromkeys(categories))


def _oai_set(category: str) -> str:
    """`cs.CV` -> `cs:cs:CV`, `hep-th` -> `physics:hep-th`, `astro-ph.CO` -> `physics:astro-ph:CO`."""
    archive, _, subject = category.partition(".")
    group = "physics" if archive in _PHYSICS else archive
    return ":".join(filter(None, (group, archive, subject)))


def _base(kind: str) -> str:
    return (os.environ.get(f"ASSAY_ARXIV_{kind}") or _BASES[kind]).rstrip("/")


def _api(words: Mapping[str, str]) -> str:
    return f"{_base('API')}?{urlencode(words)}"


def _resumption(digest: Digest, _url: str) -> str | None:
    token = digest.facts.get("resumptionToken")
    return f"{_base('OAI')}?{urlencode({'verb': 'ListRecords', 'resumptionToken': token})}" if token else None


def _total(digest: Digest) -> int:
    text = str(digest.facts.get("totalResults", "0"))
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _conditions(facts: Path) -> dict[str, str]:
    try:
        kept = json.loads(facts.read_text(encoding="utf-8"))
        names = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}
        return {names[name]: str(value) for name, value in kept.items() if name in names}
    except (OSError, ValueError, AttributeError):
        return {}


def _journal(path: Path) -> set[str]:
    """Addresses of pages that an unfinished harvest of the last day has read."""
    try:
        if time.time() - path.stat().st_mtime > _DAY:
            return set()
        return set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return set()


def _hash(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _sweep(folder: Path) -> None:
    """Answers older than a month are of no use."""
    limit = time.time() - _KEEP_DAYS * _DAY
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.stat().st_mtime < limit:
            path.unlink(missing_ok=True)
