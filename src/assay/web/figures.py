"""A paper's figure, drawn once from its recorded evidence and kept."""

from __future__ import annotations

import os
import re
import threading

from assay.errors import AssayError
from assay.lab import paths, record
from assay.papers import catalogue
from assay.papers.card import ARXIV_ID

_NAME = re.compile(rf"({ARXIV_ID.pattern})-([0-9a-f]{{16}})\.png")
_drawing = threading.Lock()


def name_of(summary: record.Summary) -> str:
    """File name of a paper's figure; another name when the evidence is another."""
    return f"{summary.paper}-{summary.provenance.code}.png"


def figure(name: str) -> bytes | None:
    """The figure of that name as PNG; None when there is none, or what it needs to be drawn is not installed."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    path = paths.home() / "figures" / name
    if path.is_file():
        return path.read_bytes()
    with _drawing:
        if path.is_file():
            return path.read_bytes()
        content = _draw(match[1], name)
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{name}.{os.getpid()}")
            part.write_bytes(content)
            os.replace(part, path)
        return content


def _draw(paper: str, name: str) -> bytes | None:
    from assay.lab.registry import load_study
    from assay.lab.report import draw

    card = catalogue.cards().get(paper)
    recorded = record.read(paper)
    if card is None or recorded is None or name_of(recorded) != name:
        return None
    try:
        return draw(load_study(card), recorded.evidence()).get("png")
    except AssayError:
        return None
