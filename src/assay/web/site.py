"""The same pages as files, for any web host."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from assay.papers.card import AREAS
from assay.web import figures
from assay.web.app import STATIC
from assay.web.library import Library, Row
from assay.web.pages import Site, paper_path


def build(digests: Path, out: Path, *, with_figures: bool = True) -> int:
    """Write a static site into the folder `out`; returns the number of pages.

    Args:
        digests: file of the digest store; it need not exist.
        out: folder to fill; its own files are replaced, others stay.
        with_figures: whether figures are drawn; that needs the libraries of the studies.
    """
    library = Library(digests)
    site = Site(library, static=True)
    keys = library.every_key()
    days = [day for day, _ in library.days] if not library.empty else []
    paths = ["", "search/", "overview/", "claims/", "trends/", *(f"area/{area}/" for area in AREAS)]
    paths += [f"day/{day}/" for day in days] + [str(paper_path(key)) for key in keys]
    for path in paths:
        _write(out / path / "index.html", site.page(path).html)
    _write(out / "404.html", site.error(404, "There is no such page.").html)
    shutil.copytree(STATIC, out / "static", dirs_exist_ok=True)
    rows = [row for key in keys if (row := library.paper(key))]
    _write(out / "static" / "index.json", json.dumps([_indexed(row) for row in rows], ensure_ascii=False))
    for state in library.states.values():
        if with_figures and state.summary is not None:
            name = figures.name_of(state.summary)
            content = figures.figure(name)
            if content is not None:
                (out / "figure").mkdir(exist_ok=True)
                (out / "figure" / name).write_bytes(content)
    return len(paths)


def _indexed(row: Row) -> dict[str, object]:
    state, entry = row.state, row.entry
    verdict = (state.verdict if state else "") or ("none" if state and state.runs else "")
    text = " ".join([row.id, row.title, entry.title_zh or "", *entry.authors, entry.tldr or "", entry.abstract or "",
                     row.card.idea if row.card else ""])  # fmt: skip
    return {
        "id": row.id, "title": row.title, "path": str(paper_path(row.key)), "text": text.casefold(),
        "area": row.card.area if row.card else "", "runs": "yes" if state and state.runs else "no", "verdict": verdict,
        "verdicts": [verdict, *(["stale"] if state and state.stale else [])],
        "categories": [c.casefold() for c in entry.categories], "authors": ", ".join(entry.authors).casefold(), "days": row.days,
    }  # fmt: skip


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")
