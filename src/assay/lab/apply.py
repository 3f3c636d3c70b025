"""`apply` as a command: its line made from a function's signature, its outputs written all or nothing."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from assay.errors import AssayError, InputError
from assay.lab.study import Study

OUT = "out"


def run_apply(study: Study, arguments: Sequence[str]) -> Any:
    """Run a study's `apply` with command-line arguments and return what it returns.

    Raises:
        AssayError: the study has no `apply`, or the input cannot be used.
        click.UsageError: the arguments do not fit the signature.
    """
    if study.apply_hook is None:
        raise AssayError(f"{study.paper} has no apply")
    return apply_command(study)(list(arguments), prog_name=f"assay apply {study.paper}", standalone_mode=False)


def apply_command(study: Study) -> Any:
    """The click command of a study's `apply`: parameters without default are inputs, the others options."""
    hook = study.apply_hook
    assert hook is not None
    hints = get_type_hints(hook)
    summary, described = parse_docstring(inspect.getdoc(hook) or "")
    given = inspect.signature(hook).parameters

    def command(**values: Any) -> Any:
        return call_atomically(hook, values)

    parameters = []
    for name, parameter in given.items():
        help_text = described.get(name, "")
        if parameter.default is inspect.Parameter.empty and name != OUT:
            kind: Any = typer.Argument(help=help_text, show_default=False)
            default: Any = inspect.Parameter.empty
        else:
            # One name for every option: --keep, and --no-keep for switches.
            kind = typer.Option(help=help_text)
            default = (
                Path(f"assay-out/{study.paper}")
                if name == OUT and parameter.default is inspect.Parameter.empty
                else parameter.default
            )
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hints.get(name, str), kind]
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(help=summary)(command)
    return typer.main.get_command(app)


def call_atomically(hook: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Call an `apply` so that its output appears whole or not at all.

    `out` points into a staging folder beside its place; what was written there is moved when the call returns.
    A `ValueError` or `OSError` about the user's input becomes an `InputError`.
    """
    if OUT not in values or values[OUT] is None:
        return _checked(hook, values)
    with staged(Path(values[OUT])) as stage:
        return _checked(hook, {**values, OUT: stage})


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A path in a staging folder beside `out`; on success everything written there moves to its place."""
    target = Path(os.path.abspath(out.expanduser()))
    folder = target.parent
    try:
        first_new = next((p for p in [*reversed(folder.parents), folder] if not p.exists()), None)
        folder.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=folder))
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error
    done = False
    try:
        yield stage / target.name
        _move_into(stage, folder)
        done = True
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if not done and first_new is not None:
            _remove_empty(folder, first_new)


def parse_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The summary of a docstring and what its `Args:` section says of each parameter."""
    body, _, rest = text.partition("\nArgs:\n")
    described: dict[str, str] = {}
    name = ""
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        match = re.match(r"^ {2,4}(\w+)(?: \([^)]*\))?: (.*)$", line)
        if match:
            name = match[1]
            described[name] = match[2].strip()
        elif name and line.strip():
            described[name] += " " + line.strip()
    return body.strip(), described


def _checked(hook: Callable[..., Any], values: dict[str, Any]) -> Any:
    try:
        return hook(**values)
    except AssayError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"no such file or folder: {error.filename or error}") from error
    except OSError as error:
        raise InputError(f"{error.filename or 'input'}: {error.strerror or error}") from error
    except ValueError as error:
        if os.environ.get("ASSAY_TRACEBACK"):
            raise
        raise InputError(str(error).replace("\n", " ") or type(error).__name__) from error


def _move_into(source: Path, folder: Path) -> None:
    """Move every file below `source` to the same place below `folder`, replacing files there."""
    for path in sorted(source.rglob("*")):
        place = folder / path.relative_to(source)
        if path.is_dir():
            if place.exists() and not place.is_dir():
                raise InputError(f"cannot write the folder {place}: a file of that name is there")
            place.mkdir(exist_ok=True)
        else:
            if place.is_dir():
                raise InputError(f"cannot write the file {place}: a folder of that name is there")
            os.replace(path, place)


def _remove_empty(folder: Path, top: Path) -> None:
    """Take back the folders that were made for an output that never came."""
    while folder != top.parent:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
