"""The same pages as files, for any web host."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from assay.errors import InputError
from assay.papers.card import AREAS
from assay.papers.digests.render import seen
from assay.web import figures
from assay.web.addresses import list_path, paper_path
from assay.web.library import Library, Row
from assay.web.pages import LANGUAGES, STATIC, Site

_NAMES = ".assay-files"
_MOST_WITH_ABSTRACTS = 5_000
_MOST_INDEXED = 6_000
_WORD = re.compile(r"\w+")


def build(digests: Path, out: Path, *, with_figures: bool = True) -> int:
    """Write a static site into the folder `out`; returns the number of pages.

    Args:
        digests: file of the digest store; it need not exist.
        out: folder to fill; files of an earlier build that are no longer part of the site are removed, others stay.
        with_figures: whether figures are drawn; those whose study's libraries are not installed are left out.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; the site needs a folder")
    library = Library(digests)
    writer = _Writer(out)
    drawn = _figures(library, writer) if with_figures else set()
    site = Site(library, static=True, has_figure=drawn.__contains__)
    keys = library.every_key()
    pages = 0
    for path in _paths(site, keys):
        pages += writer.text(f"{path}index.html", site.page(path).text)
    for row in library.judged:
        writer.text(f"{paper_path(row.key)}trials.csv", site.page(f"{paper_path(row.key)}trials.csv").text)
    writer.text("404.html", site.error(404, "There is no such page.").text)
    writer.text(".nojekyll", "")
    for file in sorted(STATIC.iterdir()):
        writer.copy(f"static/{file.name}", file)
    abstracts = len(keys) <= _MOST_WITH_ABSTRACTS
    indexed = [_indexed(row, abstracts) for row in map(library.paper, keys) if row]
    writer.text("static/index.json", json.dumps(indexed, ensure_ascii=False, separators=(",", ":")))
    writer.finish()
    return pages


class _Writer:
    """Writes the site's files and remembers their names, so that the next build can take away what is gone."""

    def __init__(self, out: Path) -> None:
        self._out = out.resolve()
        self._names: set[str] = set()

    def text(self, name: str, text: str) -> int:
        self._place(name).write_bytes(text.encode("utf-8", "replace"))
        return 1

    def copy(self, name: str, source: Path) -> None:
        shutil.copyfile(source, self._place(name))

    def finish(self) -> None:
        listed = self._out / _NAMES
        before = set(listed.read_text(encoding="utf-8").splitlines()) if listed.is_file() else set()
        for name in before - self._names:
            path = self._out / name
            if path.resolve().is_relative_to(self._out) and path.is_file():
                path.unlink()
                for folder in path.parents:
                    if folder == self._out or any(folder.iterdir()):
                        break
                    folder.rmdir()
        listed.write_text("".join(f"{name}\n" for name in sorted(self._names)), encoding="utf-8")

    def _place(self, name: str) -> Path:
        self._names.add(name)
        path = self._out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _paths(site: Site, keys: list[str]) -> Iterator[str]:
    """Paths of all pages."""
    library = site.library
    yield from ("overview/", "trends/", "days/", *(f"area/{area}/" for area in AREAS))
    yield from _until_missing(site, lambda page: f"claims/{page}/" if page > 1 else "claims/")
    for language in LANGUAGES:
        yield list_path(language, home=True)
        yield from _until_missing(site, lambda page, language=language: list_path(language, page=page))
        for day, _ in library.days:
            found = library.day(day)
            for page in range(1, found.pages + 1):
                yield list_path(language, day=day, page=page)
            for category in list(found.categories)[:24]:
                for page in range(1, library.day(day, category).pages + 1):
                    yield list_path(language, day=day, category=category, page=page)
    yield from map(paper_path, keys)


def _until_missing(site: Site, path_of: Any) -> Iterator[str]:
    """Pages of a list whose length only its pages know."""
    page = 1
    while site.page(path_of(page)).status == 200:
        yield path_of(page)
        page += 1


def _figures(library: Library, writer: _Writer) -> set[str]:
    """Draw the figures that are not drawn yet, in one process; returns the names of the files."""
    stems = {row.key: figures.stem_of(row.state.summary) for row in library.judged if row.state and row.state.summary}
    missing = [paper for paper, stem in stems.items() if figures.kept(f"{stem}.png") is None]
    figures.draw(missing, seconds=120.0 + 60.0 * len(missing))
    names = set()
    for stem in stems.values():
        for kind in figures.KINDS:
            path = figures.kept(f"{stem}.{kind}")
            if path is not None:
                writer.copy(f"figure/{path.name}", path)
                names.add(path.name)
    return names


def _indexed(row: Row, abstracts: bool) -> dict[str, Any]:
    """What the search of a static site knows of a paper. Of an abstract, each word once."""
    state, entry = row.state, row.entry
    texts = [row.id, row.title, entry.title_zh or "", ", ".join(entry.authors), entry.tldr or ""]
    texts += [row.card.idea] if row.card else []
    text = seen(" ".join(texts)[:_MOST_INDEXED]).casefold()
    if abstracts:
        known = set(_WORD.findall(text))
        found = _WORD.findall(f"{entry.abstract or ''} {entry.abstract_zh or ''}"[:_MOST_INDEXED].casefold())
        text += " " + " ".join(word for word in dict.fromkeys(found) if word not in known)
    verdict = state.verdict if state else ""
    known_as = [verdict or "none", *(["stale"] if state.stale else [])] if state else []
    values = {
        "id": row.id,
        "title": seen(row.title[:600]),
        "path": paper_path(row.key),
        "text": text,
        "area": row.card.area if row.card else "",
        "runs": ("yes" if state.runs else "no") if state else "",
        "verdict": verdict,
        "data": state.summary.data if state and state.summary else "",
        "verdicts": known_as,
        "categories": [category.casefold() for category in entry.categories],
        "authors": seen(", ".join(entry.authors)[:_MOST_INDEXED]).casefold(),
        "days": [day for day in row.days if day],
    }
    return {name: value for name, value in values.items() if value}
