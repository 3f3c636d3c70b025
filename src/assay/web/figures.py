"""A paper's figure, drawn once from its recorded evidence and kept.

To draw it the paper's study is imported, and with it whatever that builds on: that happens in a process of its own
(`python -m assay.web.figures ID ...`), which neither slows the pages nor leaves anything in the server's memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from assay.lab import paths, record
from assay.papers import catalogue
from assay.papers.card import ARXIV_ID

KINDS = {"png": "image/png", "svg": "image/svg+xml"}
_NAME = re.compile(rf"({ARXIV_ID.pattern})-([0-9a-f]{{16}})\.(png|svg)")
_SECONDS = 180.0


def stem_of(summary: record.Summary) -> str:
    """File name, without its ending, of a paper's figure; another one when the evidence is another."""
    made_from = record.Summary(**summary.model_dump(include=set(record.Summary.model_fields)))
    return f"{summary.paper}-{hashlib.sha256(made_from.model_dump_json().encode()).hexdigest()[:16]}"


def paper_of(name: str) -> str | None:
    """The paper that a figure's file name is of; None when it is no such name."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def kept(name: str) -> Path | None:
    """The file of a figure that is drawn already."""
    path = _folder() / name
    return path if paper_of(name) and path.is_file() else None


def draw(papers: Iterable[str], seconds: float = _SECONDS) -> None:
    """Draw the figures of papers in another process. What cannot be drawn (a library is missing, say) is left out."""
    wanted = list(papers)
    if not wanted:
        return
    command = [sys.executable, "-m", "assay.web.figures", *wanted]
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
            env={**os.environ, "MPLBACKEND": "Agg"},
        )
    except (subprocess.TimeoutExpired, OSError):
        return


def _folder() -> Path:
    return paths.home() / "figures"


def _draw(paper: str) -> None:
    from assay.lab import report
    from assay.lab.registry import load_study

    card, recorded = catalogue.cards().get(paper), record.read(paper)
    if card is None or recorded is None:
        return
    stem, folder = stem_of(recorded), _folder()
    images = report.draw(load_study(card), recorded.evidence())
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{paper}-*"):
        old.unlink(missing_ok=True)
    for kind in KINDS:
        if kind in images:
            part = folder / f".{stem}.{kind}.{os.getpid()}"
            part.write_bytes(images[kind])
            os.replace(part, folder / f"{stem}.{kind}")


if __name__ == "__main__":
    for _paper in sys.argv[1:]:
        try:
            _draw(_paper)
        except Exception as error:  # one study's figure must not keep the others back
            print(f"{_paper}: {error}", file=sys.stderr)
