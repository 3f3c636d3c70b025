"""Pages as HTML: one function from a path and its query to a page, the same for server and static site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from assay import __version__
from assay.lab import record, tables
from assay.lab.summaries import OUTCOMES, count_words
from assay.papers import catalogue
from assay.papers.card import AREAS
from assay.papers.digests.render import paragraphs, safe_address, seen
from assay.web import plots
from assay.web.library import PER_PAGE, Filters, Library, Row

LANGUAGES = ("en", "zh")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_MOST_WORDS = 200


@dataclass(frozen=True)
class Page:
    """An answer: HTML and its status."""

    html: str
    status: int = 200


class Site:
    """Renders every page of a library.

    Args:
        library: what to show.
        static: whether the pages form a static site, which has no server to search for it.
    """

    def __init__(self, library: Library, *, static: bool = False) -> None:
        self.library = library
        self.static = static
        self._templates = Environment(
            loader=PackageLoader("assay.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(
            seen=lambda text: seen(text or ""),
            paragraphs=lambda text: paragraphs(seen(text or "")),
            address=safe_address,
            number=tables.number,
            interval=tables.interval,
        )

    def page(self, path: str, query: Mapping[str, str] | None = None) -> Page:
        """The page at a path such as `"paper/2602.06830/"`; an unknown path gives the page of status 404."""
        query = query or {}
        parts = [part for part in path.split("/") if part]
        match parts:
            case []:
                return self._list("", query, home=True)
            case ["day", day]:
                return self._list(day, query)
            case ["search"]:
                return self._list("", query)
            case ["paper", *key] if key:
                return self._paper("/".join(key), query)
            case ["area", area] if area in AREAS:
                return self._area(area)
            case ["overview"]:
                return self._overview()
            case ["claims"]:
                return self._claims()
            case ["trends"]:
                return self._trends()
        return self.error(404, f"There is no page {path!r}.", depth=len(parts))

    def error(self, status: int, words: str, depth: int = 0) -> Page:
        """A page that says what went wrong."""
        return Page(
            self._render("error.html", depth, title="Not found" if status == 404 else "Error", words=words), status
        )

    def fragment(self, query: Mapping[str, str]) -> str:
        """The results of a search alone, for search as you type."""
        filters, language, page = self._asked(query, "")
        rows, more = self.library.find(filters, page, typing=True)
        values = self._list_values(filters, language, page, rows, more, depth=1)
        return self._templates.get_template("results.html").render(root="../", static=self.static, **values)

    def _list(self, day: str, query: Mapping[str, str], *, home: bool = False) -> Page:
        library = self.library
        days = library.days if not library.empty else []
        if home and days:
            day = days[0][0]
        filters, language, page = self._asked(query, day)
        rows, more = library.find(filters, page)
        depth = 0 if home else (2 if day and "day" not in query else 1)
        title = f"Digest of {day}" if day else ("Search" if not home else "Papers")
        values = self._list_values(filters, language, page, rows, more, depth)
        newer, older = _neighbours([d for d, _ in days], day)
        return Page(
            self._render(
                "list.html",
                depth,
                title=title,
                home=home,
                days=days,
                newer=newer,
                older=older,
                category_counts=library.categories if not library.empty else [],
                areas=AREAS,
                outcomes=(*OUTCOMES, "stale", "none"),
                **values,
            )  # fmt: skip
        )

    def _list_values(
        self, filters: Filters, language: str, page: int, rows: list[Row], more: bool, depth: int
    ) -> dict[str, Any]:
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.entry.categories[0] if row.entry.categories else "", []).append(row)
        asked = {"q": filters.words, "category": filters.category, "area": filters.area, "author": filters.author,
                 "runs": filters.runs, "verdict": filters.verdict, "lang": language if language != "en" else ""}  # fmt: skip

        def here(**changes: str) -> str:
            values = {name: value for name, value in {**asked, **changes}.items() if value}
            return f"?{urlencode(values)}" if values else "?"

        return {
            "filters": filters, "language": language, "page_number": page, "rows": rows, "groups": groups, "more": more,
            "here": here, "grouped": not filters.words, "first": (page - 1) * PER_PAGE + 1, "count_words": count_words,
        }  # fmt: skip

    def _paper(self, key: str, query: Mapping[str, str]) -> Page:
        row = self.library.paper(key)
        depth = 1 + key.count("/") + 1
        if row is None:
            return self.error(404, f"There is no paper {key!r} here.", depth=depth)
        recorded = self.library.record(key) if row.state and row.state.summary else None
        heads, means = tables.arm_means(recorded.evidence()) if recorded else ([], [])
        module = catalogue.method_module(row.card) if row.card else None
        values = {
            "row": row, "language": _language(query), "recorded": recorded, "heads": heads, "means": means,
            "trials": _trial_rows(recorded) if recorded else ([], []), "module": module,
            "plot": plots.forest(plots.effects([(row.card, row.state, v) for v in recorded.verdicts])) if recorded else None,
        }  # fmt: skip
        return Page(self._render("paper.html", depth, title=seen(row.title), **values))

    def _area(self, area: str) -> Page:
        rows = dict(self.library.by_area())[area]
        return Page(
            self._render("area.html", 2, title=area, area=area, rows=rows, language="en", count_words=count_words)
        )

    def _overview(self) -> Page:
        table = []
        for area, rows in self.library.by_area():
            counts = Counter(_word(row) for row in rows)
            table.append((area, rows, counts))
        words = (*OUTCOMES, "no evidence", "planned")
        return Page(self._render("overview.html", 1, title="All papers", table=table, words=words, word_of=_word))

    def _claims(self) -> Page:
        effects = plots.effects([c for c in self.library.claims() if not c[2].get("expected")])
        controls = [(card, v) for card, _, v in self.library.claims() if v.get("expected")]
        return Page(
            self._render(
                "claims.html", 1, title="Every claim", plot=plots.forest(effects), effects=effects, controls=controls
            )
        )

    def _trends(self) -> Page:
        days = (
            sorted(day for day, _ in self.library.days)
            if not self.library.empty
            else sorted({c.month for c in self.library.cards.values()})
        )
        counts: dict[str, list[int]] = {}
        for area in AREAS:
            of_area = [row for name, rows in self.library.by_area() if name == area for row in rows]
            known = {row.id: (self.library.paper(row.id) or row).days for row in of_area}
            counts[area] = [sum(day in found for found in known.values()) for day in days]
        return Page(
            self._render(
                "trends.html", 1, title="Topics over days", plot=plots.trend(days, counts), days=days, counts=counts
            )
        )

    def _asked(self, query: Mapping[str, str], day: str) -> tuple[Filters, str, int]:
        def of(name: str) -> str:
            return query.get(name, "").strip()[:_MOST_WORDS]

        runs, verdict = of("runs"), of("verdict")
        filters = Filters(
            words=of("q"),
            day=of("day") or day,
            category=of("category"),
            area=of("area") if of("area") in AREAS else "",
            author=of("author"),
            runs=runs if runs in {"yes", "no"} else "",
            verdict=verdict if verdict in {*OUTCOMES, "stale", "none"} else "",
        )
        number = of("page")
        return (
            filters,
            _language(query),
            max(1, min(int(number), 100_000)) if number.isascii() and number.isdigit() else 1,
        )

    def _render(self, template: str, depth: int, **values: Any) -> str:
        root = "../" * depth or "./"
        return self._templates.get_template(template).render(
            root=root, static=self.static, version=__version__, paper_path=paper_path, **values
        )


def paper_path(key: str) -> str:
    """Path of a paper's page, relative to the root."""
    return Markup(f"paper/{quote(key, safe='/')}/")


def _trial_rows(recorded: record.Record) -> tuple[list[str], list[list[str]]]:
    metrics = sorted({m for t in recorded.trials for m, v in t.metrics.items() if not isinstance(v, list)})[:12]
    heads = ["arm", "condition", "seed", "seconds", *metrics]
    rows = [
        [t.arm, t.condition, str(t.seed), f"{t.seconds:.1f}", *(tables.number(t.metrics.get(m)) for m in metrics)]
        for t in recorded.trials[:400]
    ]
    return heads, rows


def _word(row: Row) -> str:
    if row.state is None or not row.state.runs:
        return "planned"
    return row.state.verdict or "no evidence"


def _neighbours(days: list[str], day: str) -> tuple[str, str]:
    if day not in days:
        return "", ""
    place = days.index(day)
    return (days[place - 1] if place else "", days[place + 1] if place + 1 < len(days) else "")


def _language(query: Mapping[str, str]) -> str:
    return query.get("lang", "en") if query.get("lang") in LANGUAGES else "en"
