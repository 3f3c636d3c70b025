"""Pages as HTML: one function from a path and its query to a page, the same for server and static site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from assay import __version__
from assay.lab import record, tables
from assay.lab.summaries import OUTCOMES, count_words
from assay.papers import catalogue
from assay.papers.card import AREAS
from assay.papers.digests.render import safe_address
from assay.web import figures, plots, prose
from assay.web.addresses import day_named, key_of, list_path, paper_path
from assay.web.library import Filters, Library, Row

LANGUAGES = ("en", "zh")
STATIC = Path(__file__).with_name("static")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'"
)
CONTENT_POLICY = _POLICY + "; frame-ancestors 'none'"
QUERY = frozenset({"q", "day", "until", "category", "area", "author", "runs", "verdict", "page"})
_MOST_WORDS = 200
_CLAIMS_AT_ONCE = 130
_SHOWN_TRIALS = 30
_SHOWN_METRICS = 10
_SHOWN_MEANS = 120
_WORDS = (*OUTCOMES, "no evidence", "planned")


@dataclass(frozen=True)
class Page:
    """An answer: its text, status and kind; `location` is where the page really is, when not here."""

    text: str
    status: int = 200
    kind: str = "text/html"
    location: str = ""


@dataclass(frozen=True)
class Listed:
    """What a list page shows and where it lies."""

    rows: list[Row]
    language: str = "en"
    day: str | None = None
    category: str = ""
    page: int = 1
    more: bool = False
    home: bool = False
    filters: Filters = field(default_factory=Filters)

    def path(self, **changes: Any) -> str:
        """Path of this list with another page or language, relative to the root."""
        language, page = changes.get("language", self.language), changes.get("page", self.page)
        home = self.home and page == 1
        day = None if home else self.day
        asked = _query_of(self.filters)
        if asked:
            asked |= {"page": str(page)} if page > 1 else {}
            return f"{list_path(language)}?{urlencode(asked)}"
        return list_path(language, day=day, category=self.category, page=page, home=home)

    @property
    def filtered(self) -> bool:
        return self.filters != Filters()


class Site:
    """Renders every page of a library.

    Args:
        library: what to show.
        static: whether the pages form a static site, which has no server to search for it.
        has_figure: whether a figure's file can be had, by its name.
    """

    def __init__(
        self, library: Library, *, static: bool = False, has_figure: Callable[[str], bool] = lambda name: True
    ) -> None:
        self.library = library
        self.static = static
        self._has_figure = has_figure
        self._templates = Environment(
            loader=PackageLoader("assay.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            clean=prose.clean,
            prose=prose.prose,
            is_cut=prose.is_cut,
            address=lambda link: safe_address(str(link or "")[:1000]),
            number=tables.number,
            effect=plots.effect,
            symbol=lambda word: {"supported": "✓", "contradicted": "✗", "inconclusive": "≈"}.get(word, "·"),
        )
        self._templates.globals.update(
            static=static,
            version=__version__,
            policy=_POLICY,
            areas=AREAS,
            verdicts=(*OUTCOMES, "stale", "none"),
            paper_path=paper_path,
            list_path=list_path,
            count_words=count_words,
            ticks=plots.ticks(),
            strip=plots.STRIP,
        )

    def page(self, path: str, query: Mapping[str, str] | None = None) -> Page:
        """The page at a path such as `"paper/2602.06830/"`; an unknown path gives the page of status 404."""
        query = {name: value.strip()[:_MOST_WORDS] for name, value in (query or {}).items() if name in QUERY}
        parts = [part for part in path.split("/") if part]
        if parts and not path.endswith(".csv") and path != "/".join(parts) + "/":
            asked = f"?{urlencode(query)}" if query else ""
            return Page("", 308, location=quote("/".join(parts)) + "/" + asked)
        return self._find(parts, query) or self.error(404, f"There is no page {path[:100]!r}.", depth=path.count("/"))

    def _find(self, parts: Sequence[str], query: Mapping[str, str]) -> Page | None:
        language = "zh" if parts[:1] == ["zh"] else "en"
        match parts[1:] if language == "zh" else parts:
            case []:
                return self._home(language)
            case ["search"]:
                return self._search(language, query, _page_number(query.get("page", "1")) or 1)
            case ["search", number] if page := _page_number(number):
                return self._search(language, {}, page)
            case ["day", name]:
                return self._day(language, name)
            case ["day", name, number] if page := _page_number(number):
                return self._day(language, name, page=page)
            case ["day", name, "in", category]:
                return self._day(language, name, category)
            case ["day", name, "in", category, number] if page := _page_number(number):
                return self._day(language, name, category, page)
        match parts:
            case ["days"]:
                return self._render("days.html", 1, title="Days", days=self.library.days)
            case ["paper", name]:
                return self._paper(name)
            case ["paper", name, "trials.csv"]:
                return self._trials(name)
            case ["paper", archive, number] if self.library.paper(f"{archive}/{number}"):
                return Page("", 308, location=paper_path(f"{archive}/{number}"))
            case ["area", area] if area in AREAS:
                return self._area(area)
            case ["overview"]:
                return self._overview()
            case ["claims"]:
                return self._claims(1)
            case ["claims", number] if page := _page_number(number):
                return self._claims(page)
            case ["trends"]:
                return self._trends()
        return None

    def error(self, status: int, words: str, depth: int = 0) -> Page:
        """A page that says what went wrong."""
        title = {404: "Not found", 414: "Too long"}.get(status, "Something is wrong here")
        page = self._render("error.html", depth, title=title, words=prose.clean(words))
        return Page(page.text, status)

    def fragment(self, query: Mapping[str, str], *, language: str = "en", depth: int = 1) -> Page:
        """The results of a search alone, for search as you type, as a page so deep below the root needs them."""
        filters = _filters({name: value.strip(" ")[:_MOST_WORDS] for name, value in query.items()})
        rows, more = self.library.find(filters, typing=True)
        return self._render("results.html", depth, listed=Listed(rows, language, more=more, filters=filters))

    def _home(self, language: str) -> Page:
        if self.library.empty:
            rows, more = self.library.find(Filters())
            return self._list("Papers that run here, or will", Listed(rows, language, more=more, home=True))
        day = self.library.days[0][0]
        found = self.library.day(day)
        listed = Listed(found.rows, language, day, more=found.pages > 1, home=True)
        return self._list(_day_title(day), listed, count=found.count, categories=found.categories)

    def _day(self, language: str, name: str, category_name: str = "", page: int = 1) -> Page | None:
        day, category = day_named(name), key_of(category_name) if category_name else ""
        if day is None or category is None or day not in dict(self.library.days):
            return None
        found = self.library.day(day, category, page)
        if page > max(1, found.pages) or (category and category not in found.categories):
            return None
        listed = Listed(found.rows, language, day, category, page, page < found.pages)
        title = _day_title(day) + (f": {category}" if category else "")
        return self._list(title, listed, count=found.count, categories=found.categories)

    def _search(self, language: str, query: Mapping[str, str], page: int) -> Page | None:
        filters = _filters(query)
        rows, more = self.library.find(filters, page)
        if not rows and page > 1:
            return None
        listed = Listed(rows, language, page=page, more=more, filters=filters)
        return self._list("Search" if self.static or listed.filtered else "All papers, newest first", listed)

    def _list(self, title: str, listed: Listed, **values: Any) -> Page:
        days = [day for day, _ in self.library.days]
        place = days.index(listed.day) if listed.day in days else -1
        newer = days[place - 1] if place > 0 else None
        older = days[place + 1] if 0 <= place < len(days) - 1 else None
        return self._render(
            "list.html",
            listed.path().partition("?")[0].count("/"),
            title=title,
            listed=listed,
            filters=listed.filters,
            newer=newer,
            older=older,
            days=self.library.days[:12],
            category_counts=self.library.categories[:60],
            evidence=self._counts() if listed.home else None,
            page_title=title + (f", page {listed.page}" if listed.page > 1 else ""),
            **{"count": None, "categories": {}, **values},
        )

    def _paper(self, name: str) -> Page | None:
        key = self.library.key_named(name)
        row = self.library.paper(key) if key else None
        if row is None:
            return None
        recorded = self.library.record(row.key) if row.state and row.state.summary else None
        stem = figures.stem_of(recorded) if recorded else ""
        return self._render(
            "paper.html",
            2,
            title=prose.clean(row.title, 300),
            row=row,
            recorded=recorded,
            stem=stem if stem and self._has_figure(f"{stem}.png") else "",
            means=_means(recorded) if recorded else None,
            trials=_trial_rows(recorded) if recorded else None,
            module=catalogue.method_module(row.card) if row.card else None,
        )

    def _trials(self, name: str) -> Page | None:
        key = self.library.key_named(name)
        state = self.library.states.get(key or "")
        recorded = self.library.record(key) if key and state and state.summary else None
        return Page(tables.trials_csv(recorded), kind="text/csv") if recorded else None

    def _area(self, area: str) -> Page:
        rows = dict(self.library.by_area)[area]
        return self._render("area.html", 2, title=area, area=area, rows=rows)

    def _overview(self) -> Page:
        table = []
        for area, rows in self.library.by_area:
            counts = Counter(map(_word, rows))
            values = [counts[word] for word in _WORDS]
            parts = [(x, width, word) for (x, width), word in zip(plots.shares(values), _WORDS, strict=True) if width]
            table.append((area, rows, values, parts))
        title = "All papers by area and verdict"
        return self._render("overview.html", 1, title=title, table=table, words=_WORDS, counts=self._counts())

    def _claims(self, page: int) -> Page | None:
        judged = self.library.judged
        parts = _parts([len(row.state.summary.verdicts) for row in judged if row.state and row.state.summary])
        if page > max(1, len(parts)):
            return None
        verdicts = [v for row in judged if row.state and row.state.summary for v in row.state.summary.verdicts]
        claims = [plots.effect(v) for v in verdicts if not v.get("expected")]
        return self._render(
            "claims.html",
            min(page, 2),
            title="Every claim" + (f", page {page}" if page > 1 else ""),
            rows=judged[parts[page - 1]] if parts else [],
            page=page,
            pages=len(parts),
            glance=plots.glance(claims) if page == 1 else None,
            tally=Counter(v["outcome"] for v in verdicts if not v.get("expected")),
        )

    def _trends(self) -> Page:
        found = self.library.trends
        groups = [("Topics", found.topics), ("arXiv categories", found.categories)] if found else []
        return self._render(
            "trends.html",
            1,
            title="Topics over days",
            trends=found,
            groups=[(name, [(trend, _bars_of(trend.counts)) for trend in trends]) for name, trends in groups],
            papers=_bars_of(found.papers) if found else [],
        )

    def _counts(self) -> dict[str, int]:
        counts = Counter(_word(row) for _, rows in self.library.by_area for row in rows)
        return {word: counts[word] for word in _WORDS if counts[word]}

    def _render(self, template: str, depth: int, **values: Any) -> Page:
        root = "../" * depth or "./"
        values = {"root": root, "depth": depth, "language": "en", **values}
        if "listed" in values:
            values["language"] = values["listed"].language
        return Page(self._templates.get_template(template).render(**values))


def _filters(query: Mapping[str, str]) -> Filters:
    def of(name: str, choices: Sequence[str] = ()) -> str:
        value = query.get(name, "")
        return value if not choices or value in choices else ""

    return Filters(
        words=of("q"),
        day=of("day"),
        until=of("until"),
        category=of("category"),
        area=of("area", AREAS),
        author=of("author"),
        runs=of("runs", ("yes", "no")),
        verdict=of("verdict", (*OUTCOMES, "stale", "none")),
    )


def _query_of(filters: Filters) -> dict[str, str]:
    values = {
        "q": filters.words,
        "day": filters.day,
        "until": filters.until,
        "category": filters.category,
        "area": filters.area,
        "author": filters.author,
        "runs": filters.runs,
        "verdict": filters.verdict,
    }
    return {name: value for name, value in values.items() if value}


def _parts(claims: Sequence[int]) -> list[slice]:
    """Papers, by how many claims each has, cut into pages of at most `_CLAIMS_AT_ONCE` claims or one paper."""
    cuts, held = [0], 0
    for place, count in enumerate(claims):
        if held and held + count > _CLAIMS_AT_ONCE:
            cuts.append(place)
            held = 0
        held += count
    return [slice(start, end) for start, end in pairwise([*cuts, len(claims)]) if end > start]


def _page_number(text: str) -> int | None:
    """A page from 1 on; None for anything else."""
    ok = len(text) < 7 and text.isascii() and text.isdigit() and not text.startswith("0")
    return int(text) if ok else None


def _trial_rows(recorded: record.Record) -> tuple[list[str], list[list[str]]]:
    metrics = sorted({m for t in recorded.trials for m, v in t.metrics.items() if not isinstance(v, list)})
    metrics = metrics[:_SHOWN_METRICS]
    heads = ["arm", "condition", "seed", "seconds", *metrics]
    rows = [
        [t.arm, t.condition, str(t.seed), f"{t.seconds:.1f}", *(tables.number(t.metrics.get(m)) for m in metrics)]
        for t in recorded.trials[:_SHOWN_TRIALS]
    ]
    return heads, rows


def _means(recorded: record.Record) -> tuple[list[str], list[list[str]], int]:
    """Means of arms over seeds, as many as a page can bear, and how many there are."""
    heads, rows = tables.arm_means(recorded.evidence())
    shown = 2 + _SHOWN_METRICS
    return heads[:shown], [row[:shown] for row in rows[:_SHOWN_MEANS]], len(rows)


def _bars_of(counts: Sequence[int]) -> list[dict[str, float | int]]:
    return plots.bars(counts, max(counts, default=0))


def _word(row: Row) -> str:
    if row.state is None or not row.state.runs:
        return "planned"
    return row.state.verdict or "no evidence"


def _day_title(day: str) -> str:
    return f"Digest of {day}" if day else "Papers without a day"
