"""`assay digest`: read digests into the store, search it, show an entry, write digests back.

Every command imports what it needs when it runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay.errors import AssayError, InputError, UnknownName

if TYPE_CHECKING:
    from assay.papers.digests.entry import Digest, Entry
    from assay.papers.digests.store import Paper, Store

app = typer.Typer(
    help="Digests of arXiv papers: read them, search them, write them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_MOST_PROBLEMS = 50
"""So many problems of one digest are printed one by one; the rest are counted."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs")]
Day = Annotated[str, typer.Option(help="Day, such as 2026-02-05, or month, such as 2026-02", show_default=False)]
Since = Annotated[str, typer.Option(help="First day", show_default=False)]
Until = Annotated[str, typer.Option(help="Last day", show_default=False)]
Category = Annotated[
    list[str] | None, typer.Option(help="arXiv category, such as cs.CV; may be repeated", show_default=False)
]
Author = Annotated[str, typer.Option(help="Words of one author's name", show_default=False)]
Area = Annotated[str, typer.Option(help="Area of the catalogue", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, help="Most papers to print")]


@app.callback()
def _digest() -> None:
    """Digests of arXiv papers: read them, search them, write them."""


@app.command()
def add(
    sources: Annotated[
        list[str], typer.Argument(help="Files, http(s) addresses, or - for standard input", show_default=False)
    ],
    day: Annotated[str, typer.Option(help="Day to file the digests under; default: found in name or content")] = "",
    as_json: Json = False,
) -> int:
    """Read digests into the store; the format is found by looking. Exit code 1 when something could not be read.

    Formats: Markdown with a table of contents per category, Markdown with **Title (ZH)**, the JSON lines of
    daily-arXiv-ai-enhanced, and arXiv's Atom, RSS and OAI-PMH. What can be read is stored, in one piece or not at all;
    what cannot is listed with file and line.
    """
    from assay.papers.digests.store import Store

    _check_day(day)
    told: list[dict[str, Any]] = []
    wrong = False
    with Store(store_path()) as store:
        for source in sources:
            try:
                digest = _read(source, day)
            except InputError as error:
                if len(sources) == 1:
                    raise
                wrong = True
                typer.echo(f"assay: {error}", err=True)
                told.append({"source": source, "error": str(error)})
                continue
            added = store.add(digest)
            wrong = wrong or bool(digest.problems)
            _tell_problems(digest)
            told.append(
                {
                    "source": source,
                    "format": digest.format,
                    "digest": added.digest,
                    "day": digest.day,
                    "entries": len(digest.entries),
                    "new": added.new,
                    "known": added.known,
                    "problems": [{"file": p.file, "line": p.line, "what": p.what} for p in digest.problems],
                }
            )
            if not as_json:
                typer.echo(
                    f"{source}: {len(digest.entries)} entries ({digest.format}), {added.new} new, {added.known} known"
                )
    if as_json:
        _print_json(told)
    return 1 if wrong else 0


@app.command()
def search(
    words: Annotated[
        list[str], typer.Argument(help='Words; "..." is a phrase, -word must not be there', show_default=False)
    ],
    day: Day = "",
    since: Since = "",
    until: Until = "",
    category: Category = None,
    author: Author = "",
    area: Area = "",
    limit: Limit = 20,
    as_json: Json = False,
) -> None:
    """Search the stored papers, the most relevant first."""
    _tell_papers(
        _find(" ".join(words), day, since, until, category, author, area, limit), as_json, none="no paper holds that"
    )


@app.command("list")
def list_papers(
    day: Day = "",
    since: Since = "",
    until: Until = "",
    category: Category = None,
    author: Author = "",
    area: Area = "",
    digests: Annotated[bool, typer.Option("--digests", help="List the stored digests instead of papers")] = False,
    limit: Limit = 100,
    as_json: Json = False,
) -> None:
    """List stored papers, or with --digests the digests they came from, the newest day first."""
    if not digests:
        _tell_papers(_find("", day, since, until, category, author, area, limit), as_json, none="no such paper")
        return
    store = _reading()
    with store:
        kept = store.digests(day)
    if as_json:
        _print_json([vars(digest) for digest in kept])
        return
    for digest in kept:
        typer.echo(
            f"{digest.number:>5}  {digest.day or '-':<10}  {digest.format:<9}  {digest.entries:>5} papers {digest.name}"
        )
    typer.echo(f"{len(kept)} digests", err=True)


@app.command()
def show(
    paper: Annotated[str, typer.Argument(help="arXiv id or address", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a stored paper, and what each of its sources says."""
    from assay.papers.digests.entry import split_id

    with _reading() as store:
        key = split_id(paper)[0] or paper
        found = store.paper(key)
        if found is None:
            raise UnknownName(f"no paper {paper!r} in the digests; `assay digest search` finds one by its words")
        sources = store.sources(key)
    if as_json:
        told = [
            {"digest": s.digest, "format": s.format, "name": s.name, "day": s.day, **s.entry.as_dict()} for s in sources
        ]
        _print_json({**_facts(found), **found.entry.as_dict(), "sources": told})
        return
    typer.echo(_page(found))
    for source in sources:
        typer.echo(f"\nfrom digest {source.digest} ({source.format}, {source.day or 'no day'}): {source.name}")


@app.command()
def render(
    digest: Annotated[int | None, typer.Argument(help="Number of a stored digest", show_default=False)] = None,
    form: Annotated[
        str, typer.Option("--format", help="toc, bilingual, html, rss, jsonl or bibtex; default: the digest's own")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="File to write; default: standard output", show_default=False)
    ] = None,
    words: Annotated[str, typer.Option(help="Instead of a digest: papers that hold these words")] = "",
    day: Day = "",
    since: Since = "",
    until: Until = "",
    category: Category = None,
    author: Author = "",
    area: Area = "",
    limit: Limit = 1000,
) -> None:
    """Write a stored digest (in its own Markdown format: its very bytes), or the papers that the options choose."""
    from assay.papers.digests import render as renderer

    if form:
        renderer.check_format(form)
    if digest is not None:
        with _reading() as store:
            text = renderer.render_digest(store.digest(digest), form)
    else:
        papers = _find(words, day, since, until, category, author, area, limit)
        text = renderer.render([paper.entry for paper in papers], form or "toc", day=day)
    write_text(text, out)


@app.command()
def make(
    category: Category = None,
    date: Annotated[str, typer.Option(help="Day of first submission (UTC): 2026-02-05, today or yesterday")] = "",
    since: Annotated[str, typer.Option(help="First day; --until is today when left out")] = "",
    until: Annotated[str, typer.Option(help="Last day", show_default=False)] = "",
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only papers with these words side by side; may be repeated: one must be there", show_default=False
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="No papers with these words; may be repeated", show_default=False)
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option(help="Only papers of this author; may be repeated", show_default=False)
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            help="Rank by likeness to: an arXiv id, a .bib file or a Zotero export; may be repeated", show_default=False
        ),
    ] = None,
    language: Annotated[
        list[str] | None,
        typer.Option(
            help="en or zh, the summary's first; zh adds title and abstract in Chinese (needs a model)",
            show_default=False,
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="toc, bilingual, html, rss, jsonl or bibtex")] = "toc",
    out: Annotated[
        Path | None,
        typer.Option(help="File to write, whole or not at all; default: standard output", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most papers, the best ranked; 0: all")] = 0,
    unseen: Annotated[bool, typer.Option("--unseen", help="Leave out papers that the store holds")] = False,
    source: Annotated[str, typer.Option(help="auto, rss (today), api (a query) or oai (long spans)")] = "auto",
    ranking: Annotated[str, typer.Option(help="words (BM25), meaning (extra semantic) or auto")] = "auto",
    extractive: Annotated[bool, typer.Option("--extractive", help="Ask no language model")] = False,
) -> None:
    """Make a digest: fetch from arXiv, drop duplicates, filter, rank, summarise, translate, write.

    Without days: the latest announcement of --category (default cs.CV). A language model writes the summaries where
    ASSAY_LLM_URL and ASSAY_LLM_MODEL (and ASSAY_LLM_KEY) name one; otherwise they are sentences of the abstract, marked
    so, and nothing is translated.
    """
    from assay import llm
    from assay.lab.paths import home
    from assay.llm.cache import Cache
    from assay.papers import arxiv, making

    if date and (since or until):
        raise InputError("give either --date or --since and --until")
    first = arxiv.day_of(date or since, "--date" if date else "--since") if date or since else None
    last = arxiv.day_of(until, "--until") if until else arxiv.day_of("today", "") if since else first
    if until and not since:
        raise InputError("--until needs --since")
    wanted = making.Wanted(
        tuple(category or ["cs.CV"]), first, last, tuple(include or ()), tuple(exclude or ()), tuple(author or ()),
        tuple(like or ()), tuple(language or ["en"]), form, source, ranking, limit,
    )  # fmt: skip
    wanted.check()
    model = None if extractive else llm.from_env(cache=Cache(home() / "llm"))
    embed = None
    if like and (ranking == "meaning" or (ranking == "auto" and making.installed_embeddings())):
        from assay.nn.text import SentenceEncoder

        embed = SentenceEncoder(cache=home() / "embeddings")
    made = making.make(
        wanted, arxiv.Arxiv(home() / "arxiv"), model, embed=embed, known=_stored,
        seen_before=_known if unseen else None, progress=_progress if sys.stderr.isatty() else None,
    )  # fmt: skip
    write_text(made.text, out)
    for note in made.notes:
        typer.echo(note, err=True)
    for reason, count in made.report.reasons.most_common(3):
        typer.echo(f"{count} times: {reason}", err=True)
    if model is not None:
        typer.echo(f"language model: {model.usage}", err=True)
    typer.echo(f"{len(made.entries)} of {made.fetched} papers{f' -> {out}' if out else ''}", err=True)


def store_path() -> Path:
    """Where the digests are kept."""
    from assay.lab.paths import home

    return home() / "digests.sqlite"


def write_text(text: str, out: Path | None) -> None:
    """Write to a file, or to standard output, byte for byte."""
    data = text.encode()
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            part.write_bytes(data)
            os.replace(part, out)  # a reader sees the old file or the whole new one
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise AssayError(f"cannot write {out}: {error.strerror or error}") from error


def _read(source: str, day: str) -> Digest:
    from assay.papers.digests import detect

    if source == "-":
        return detect.read(sys.stdin.buffer.read(), "standard input", day)
    if "://" in source[:40]:
        from assay.papers.digests.fetch import fetch

        return detect.read(fetch(source), source, day)
    return detect.read_file(Path(source), day)


def _known(keys: Collection[str]) -> set[str]:
    """Those of the papers that earlier digests held."""
    from assay.papers.digests.store import Store

    store = Store.reading(store_path())
    if store is None:
        return set()
    with store:
        return store.known(keys)


def _stored(paper: str) -> Entry | None:
    from assay.papers.digests.store import Store

    store = Store.reading(store_path())
    if store is None:
        return None
    with store:
        found = store.paper(paper)
    return found.entry if found else None


def _progress(done: int, total: int) -> None:
    typer.echo(f"\rsummaries: {done} of {total}", err=True, nl=done == total)


def _reading() -> Store:
    from assay.papers.digests.store import Store

    store = Store.reading(store_path())
    if store is None:
        raise AssayError("no digest has been read yet; `assay digest add FILE` reads one")
    return store


def _find(
    words: str, day: str, since: str, until: str, category: list[str] | None, author: str, area: str, limit: int
) -> list[Paper]:
    from assay.papers.card import AREAS

    if area and area not in AREAS:
        raise UnknownName(f"unknown area {area!r}; choose from: {', '.join(AREAS)}")
    for given in (day, since, until):
        _check_day(given)
    if day and (since or until):
        raise InputError("give either --day or --since and --until")
    span = (since, until or "9999") if since or until else day
    with _reading() as store:
        return store.search(words, categories=category or (), days=span, author=author, area=area, limit=limit)


def _check_day(day: str) -> None:
    import re

    if day and not re.fullmatch(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?", day):
        raise InputError(f"not a day: {day!r}; expected such as 2026-02-05 (or 2026-02 for a month)")


def _tell_problems(digest: Digest) -> None:
    for problem in digest.problems[:_MOST_PROBLEMS]:
        typer.echo(str(problem), err=True)
    if len(digest.problems) > _MOST_PROBLEMS:
        typer.echo(f"{digest.name}: {len(digest.problems) - _MOST_PROBLEMS} more problems", err=True)


def _tell_papers(papers: list[Paper], as_json: bool, none: str) -> None:
    if as_json:
        _print_json([{**_facts(paper), **paper.entry.as_dict()} for paper in papers])
        return
    for paper in papers:
        entry = paper.entry
        main = entry.categories[0] if entry.categories else "-"
        typer.echo(
            f"{paper.key:<16}  {paper.days[0] or '-':<10}  {main:<10}  {entry.title or entry.title_zh or '(no title)'}"
        )
    typer.echo(f"{len(papers)} papers" if papers else none, err=True)


def _facts(paper: Paper) -> dict[str, Any]:
    return {"key": paper.key, "days": list(paper.days)}


def _page(paper: Paper) -> str:
    entry = paper.entry
    lines = [f"{paper.key}  {entry.title or ''}".rstrip()]
    lines += [
        text for text in (entry.title_zh, ", ".join(entry.authors), " ".join(entry.categories), entry.abs_url) if text
    ]
    lines.append(f"days: {', '.join(filter(None, paper.days)) or 'unknown'}")
    names = {
        "tldr": "TL;DR",
        "motivation": "Motivation",
        "method": "Method",
        "result": "Result",
        "conclusion": "Conclusion",
        "abstract": "Abstract",
        "abstract_zh": "Abstract (ZH)",
        "comment": "Comment",
    }
    lines += [f"\n{title}: {value}" for name, title in names.items() if (value := getattr(entry, name))]
    return "\n".join(lines)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))
