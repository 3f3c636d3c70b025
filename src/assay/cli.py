"""The command line. Every command imports what it needs when it runs: `assay list` never waits for torch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assay import __version__, digest_cli
from assay.errors import AssayError, UnknownName

if TYPE_CHECKING:
    from assay.lab.record import Record, Summary
    from assay.lab.runner import Options
    from assay.lab.study import Study
    from assay.papers.card import Card

app = typer.Typer(
    help="Assay runs papers: list them, read the evidence, test their claims, use them on your own files.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(digest_cli.app, name="digest")

PaperIds = Annotated[
    list[str], typer.Argument(help="arXiv id, address, or a unique part of the title", show_default=False)
]
PaperId = Annotated[str, typer.Argument(help="arXiv id, address, or a unique part of the title", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs")]
Engine = Annotated[str, typer.Option(help="local: processes of this machine; ray: a Ray cluster")]
Jobs = Annotated[int | None, typer.Option(help="Worker processes; default: one per core")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]


def main() -> None:
    """Run the command line; an error the user can mend is one line and exit code 2."""
    import click

    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except AssayError as error:
        if os.environ.get("ASSAY_TRACEBACK"):
            raise
        _fail(str(error))
    except OSError as error:
        if os.environ.get("ASSAY_TRACEBACK") or isinstance(error, BrokenPipeError):
            _quiet_exit() if isinstance(error, BrokenPipeError) else None
            raise
        _fail(f"{error.filename or 'system'}: {error.strerror or error}")
    except KeyboardInterrupt:
        typer.echo("interrupted; finished trials are kept", err=True)
        sys.exit(130)
    except Exception as error:
        if isinstance(error, click.exceptions.ClickException) or hasattr(error, "format_message"):
            _fail(str(error.format_message()))
        if type(error).__name__ in {"Abort", "Exit"}:
            sys.exit(getattr(error, "exit_code", 1))
        raise


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit")] = False) -> None:
    if version:
        typer.echo(f"assay {__version__}")
        raise typer.Exit


@app.command("list")
def list_papers(
    area: Annotated[str | None, typer.Option(help="Only this area")] = None,
    runs: Annotated[
        bool | None, typer.Option("--runs/--planned", help="Only papers that run, or only planned ones")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="supported, contradicted, inconclusive, stale or none")] = None,
    search: Annotated[str | None, typer.Option(help="Words in title, authors, idea or claims")] = None,
    as_json: Json = False,
) -> None:
    """List the catalogue: what runs, and what the evidence says."""
    from assay.lab import summaries
    from assay.papers import catalogue
    from assay.papers.card import AREAS

    _choice("area", area, AREAS)
    _choice("verdict", verdict, (*summaries.OUTCOMES, "stale", "none"))
    rows = []
    for card in catalogue.search(search or ""):
        if (area and card.area != area) or (runs is not None and catalogue.runs(card) != runs):
            continue
        state = summaries.state_of(card)
        if verdict and verdict not in ({state.verdict or "none"} | ({"stale"} if state.stale else set())):
            continue
        rows.append((card, state))
    if as_json:
        _print_json([{**_card_facts(card), **state.as_dict()} for card, state in rows])
        return
    for card, state in rows:
        typer.echo(f"{card.id}  {card.area:<15} {state.words():<22} {card.title}")
    runs_count = sum(state.runs for _, state in rows)
    typer.echo(f"{len(rows)} papers, {runs_count} run here", err=True)


@app.command()
def show(paper: PaperId, as_json: Json = False) -> None:
    """Show a paper: its idea, its claims with the paper's figures beside ours, and how to use it."""
    from assay.lab import summaries
    from assay.papers import catalogue

    card = catalogue.find(paper)
    state = summaries.state_of(card)
    if as_json:
        evidence = state.summary.model_dump(mode="json") if state.summary else None
        _print_json({**card.model_dump(mode="json"), **state.as_dict(), "evidence": evidence})
        return
    typer.echo(summaries.page(card, state))


@app.command()
def run(
    papers: Annotated[
        list[str] | None, typer.Argument(help="arXiv ids, addresses, or unique parts of titles", show_default=False)
    ] = None,
    scale: Annotated[str, typer.Option(help="smoke (seconds), pocket (minutes), full (real data set, GPU)")] = "pocket",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; default: the study's")] = None,
    arms: Annotated[str | None, typer.Option(help="Only these arms, separated by commas")] = None,
    engine: Engine = "local",
    jobs: Jobs = None,
    device: Device = "auto",
    data: Annotated[Path | None, typer.Option(help="Folder of the real data set (full scale)")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: under ASSAY_HOME")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run finished trials again")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="Every paper whose recorded evidence is stale")] = False,
    time_limit: Annotated[float | None, typer.Option(help="Seconds a trial may take; default: the study's")] = None,
    as_json: Json = False,
) -> int:
    """Test a paper's claims: run its study, print the verdicts, write a report."""
    from assay.lab.runner import Options

    options = Options(
        scale=scale, seeds=seeds, arms=_split(arms), engine=engine, jobs=jobs, device=device, data=data, fresh=fresh,
        time_limit=time_limit,
    )  # fmt: skip
    chosen = _chosen(papers, stale)
    reports, failed = [], 0
    for card in chosen:
        folder = out / card.id if out and len(chosen) > 1 else out
        report = _run_one(card, options, folder, quiet=as_json)
        reports.append(report)
        failed += report["failed"] > 0
    if as_json:
        _print_json(reports)
    return 1 if failed else 0


@app.command()
def record(
    papers: Annotated[
        list[str] | None, typer.Argument(help="arXiv ids or unique parts of titles", show_default=False)
    ] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Every paper whose recorded evidence is stale")] = False,
    device: Device = "auto",
) -> None:
    """Publish a paper's pocket-scale evidence from the local store into evidence/<id>.json."""
    from assay.lab import record as records
    from assay.lab import runner
    from assay.lab.store import Store

    for card in _chosen(papers, stale):
        study = _study(card)
        options = runner.Options(scale="pocket", device=device)
        setting = runner.setting_of(study, options)
        seeds = list(range(study.seed_count("pocket")))
        planned = set(study.trials("pocket", seeds))
        with Store(options.store) as store:
            results = [r for r in store.results(setting, "pocket") if r.trial in planned and r.ok]
        missing = len(planned) - len(results)
        if missing:
            raise AssayError(
                f"{card.id}: {missing} of {len(planned)} pocket trials of this code are not finished;"
                f" run `assay run {card.id}` first"
            )
        made = records.make(study, "pocket", seeds, results, setting.device)
        typer.echo(f"{card.id}: {_outcome_words(made)} -> {records.write(made)}")


@app.command()
def verify(
    papers: PaperIds,
    engine: Engine = "local",
    jobs: Jobs = None,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Run recorded trials again; report every metric beyond its tolerance and every verdict that changed."""
    from assay.lab import record as records
    from assay.lab import verify as verification
    from assay.lab.runner import Options
    from assay.papers import catalogue

    differs = False
    found = {}
    for card in map(catalogue.find, papers):
        recorded = records.read(card.id)
        if recorded is None:
            raise AssayError(
                f"{card.id} has no recorded evidence; `assay run {card.id}`, then `assay record {card.id}`"
            )
        study = _study(card)
        options = Options(engine=engine, jobs=jobs, device=device)
        result = verification.verify(study, recorded, options, extra=card.area, progress=_progress(card.id))
        differs = differs or result.any
        found[card.id] = vars(result)
        if not as_json:
            for line in (*result.failed, *result.metrics, *result.verdicts):
                typer.echo(f"  {line}")
            for line in result.timings:
                typer.echo(f"  {line} (rests on timings, which are not compared)")
            word = "differs" if result.any else "agrees"
            typer.echo(f"{card.id}: {word}; {result.compared} figures compared, {len(recorded.verdicts)} verdicts")
    if as_json:
        _print_json(found)
    return 1 if differs else 0


@app.command()
def report(
    paper: PaperId,
    out: Annotated[Path | None, typer.Option(help="Folder to write into; default: assay-report/<id>")] = None,
    scale: Annotated[str, typer.Option(help="Scale of the trials to report")] = "pocket",
    as_json: Json = False,
) -> None:
    """Write a report: one HTML file, the figure as PNG and SVG, trials as CSV, the table as LaTeX and Markdown."""
    from assay.lab import record as records
    from assay.lab.report import write_report
    from assay.papers import catalogue

    card = catalogue.find(paper)
    study = _study(card)
    found = _local_record(card, study, scale) or (records.read(card.id) if scale == "pocket" else None)
    if found is None:
        raise AssayError(
            f"{card.id} has no {scale} evidence, here or recorded; `assay run {card.id} --scale {scale}` makes it"
        )
    stale = records.is_stale(found, study.module)
    path = write_report(card, study, found, out or Path("assay-report") / card.id, stale=stale)
    if as_json:
        _print_json({"report": str(path), "stale": stale, "verdicts": found.verdicts})
    else:
        typer.echo(path)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
def apply(context: typer.Context) -> None:
    """Use a paper's method on your own files: assay apply ID INPUT... [options] --out OUT (ID --help tells more)."""
    from assay.lab.apply import run_apply
    from assay.lab.registry import naming_extra
    from assay.papers import catalogue

    arguments = list(context.args)
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    if not arguments or arguments[0] in {"--help", "-h"}:
        typer.echo(
            "Usage: assay apply ID INPUT... [OPTIONS] --out OUT\n\n"
            "Use a paper's method on your own files. `assay apply ID --help` lists the inputs and options of a paper;\n"
            "`assay list --runs` lists the papers."
        )
        return
    card = catalogue.find(arguments[0])
    study = _study(card)
    with naming_extra(study.module, card.area):
        returned = run_apply(study, arguments[1:])
    if as_json:
        _print_json(returned)
    elif isinstance(returned, dict):
        for name, value in returned.items():
            typer.echo(f"{name}: {value}")
    elif isinstance(returned, str):
        typer.echo(returned)


@app.command()
def new(
    paper: Annotated[str, typer.Argument(help="arXiv id of the paper, such as 2603.01234", show_default=False)],
    area: Annotated[str, typer.Option(help="Area the paper belongs to", show_default=False)],
    file: Annotated[str, typer.Option(help="File name of method and study, such as my_method", show_default=False)],
    title: Annotated[str, typer.Option(help="Title for the card")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Write a package of its own here instead of into the checkout")
    ] = None,
) -> None:
    """Begin a paper of your own: method, study, test and card stubs that pass smoke at once."""
    from assay.lab.scaffold import write_stubs

    for path in write_stubs(paper, area, file, title=title, out=out):
        typer.echo(path)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one", min=0, max=65535)] = 8117,
    host: Annotated[
        str, typer.Option(help="Address to bind to; others than this machine's must be named")
    ] = "127.0.0.1",
) -> None:
    """Browse digests and evidence in a web browser."""
    from assay.errors import require
    from assay.lab.paths import home

    uvicorn = require("uvicorn", "web")
    require("fastapi", "web")
    import socket

    from assay.web.app import create_app

    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise AssayError(f"cannot listen on port {port} of {host} ({error}); --port and --host name others") from error
    # Connections inherit it. Without, a page's body waits 40 ms for the acknowledgement of its headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends it)")
    config = uvicorn.Config(
        create_app(home() / "digests.sqlite"), log_level="warning", access_log=False, timeout_graceful_shutdown=3
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


site = typer.Typer(help="The pages as a static site.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(site, name="site")


@site.callback()
def _site() -> None:
    """The pages as a static site, for any web host."""


@site.command("build")
def build_site(
    out: Annotated[Path, typer.Argument(help="Folder to write into", show_default=False)],
    figures: Annotated[bool, typer.Option(help="Draw the studies' figures")] = True,
) -> None:
    """Write the pages of digests and evidence as files."""
    from assay.lab.paths import home
    from assay.web.site import build

    typer.echo(f"{build(home() / 'digests.sqlite', out, with_figures=figures)} pages in {out}")


def _run_one(card: Card, options: Options, out: Path | None, *, quiet: bool) -> dict[str, Any]:
    from assay.lab import record as records
    from assay.lab import runner, tables
    from assay.lab.paths import home
    from assay.lab.report import write_report
    from assay.lab.verify import last_line

    study = _study(card)
    outcome = runner.run(study, options, extra=card.area, progress=None if quiet else _progress(card.id))
    made = records.make(study, outcome.scale, outcome.seeds, outcome.results, outcome.setting.device)
    folder = out or home() / "reports" / card.id / outcome.scale
    path = write_report(card, study, made, folder)
    if not quiet:
        typer.echo(f"{card.id} {card.title}")
        typer.echo(
            f"{outcome.planned} trials, {outcome.skipped} of them finished before; {made.data} data, {made.scale} scale"
        )
        typer.echo(tables.as_text(made.verdicts))
        for result in outcome.failed:
            typer.echo(f"failed: {result.trial}: {last_line(result.error)}", err=True)
        typer.echo(f"report: {path}")
    return {
        "paper": card.id,
        "scale": made.scale,
        "data": made.data,
        "planned": outcome.planned,
        "skipped": outcome.skipped,
        "failed": len(outcome.failed),
        "verdicts": made.verdicts,
        "report": str(path),
        "errors": {str(result.trial): result.error for result in outcome.failed},
    }


def _study(card: Card) -> Study:
    from assay.lab.registry import load_study

    return load_study(card)


def _local_record(card: Card, study: Study, scale: str) -> Record | None:
    """Local trials of the code that is here, judged; None where there are none."""
    from assay.lab import record as records
    from assay.lab import runner
    from assay.lab.store import Store

    options = runner.Options(scale=scale)
    store = Store.reading(options.store)
    if store is None:
        return None
    with store:
        setting = runner.setting_of(study, options)
        results = store.results(setting, scale)
    seeds = sorted({result.trial.seed for result in results if result.ok})
    return records.make(study, scale, seeds, results, setting.device) if seeds else None


def _chosen(papers: list[str] | None, stale: bool) -> list[Card]:
    from assay.lab import summaries
    from assay.papers import catalogue

    if stale:
        return [card for card in catalogue.cards().values() if catalogue.runs(card) and summaries.state_of(card).stale]
    if not papers:
        raise AssayError("name a paper, or give --stale")
    return list(dict.fromkeys(map(catalogue.find, papers)))


def _outcome_words(summary: Summary) -> str:
    from assay.lab.summaries import count_words

    return count_words(summary.verdicts)


def _card_facts(card: Card) -> dict[str, Any]:
    return {"id": card.id, "title": card.title, "area": card.area, "file": card.file, "authors": list(card.authors)}


def _progress(name: str) -> Any:
    """A counter on a terminal; silence elsewhere."""
    if not sys.stderr.isatty():
        return None

    def tell(done: int, total: int) -> None:
        if total:
            end = "\n" if done >= total else ""
            typer.echo(f"\r{name}: {done} of {total} trials", err=True, nl=False)
            typer.echo(end, err=True, nl=False)

    return tell


def _choice(what: str, given: str | None, choices: tuple[str, ...]) -> None:
    if given is not None and given not in choices:
        raise UnknownName(f"unknown {what} {given!r}; choose from: {', '.join(choices)}")


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def _fail(message: str) -> None:
    typer.echo(f"assay: {message}", err=True)
    sys.exit(2)


def _quiet_exit() -> None:
    """The reader of our output has gone; say nothing more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


if __name__ == "__main__":
    main()
