"""A study's evidence as one self-contained HTML file, with figure, trials and tables beside it."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from assay.lab import tables
from assay.lab.evidence import Evidence
from assay.lab.record import Record, write_atomically
from assay.lab.study import Study
from assay.papers.card import Card


def write_report(card: Card, study: Study, record: Record, out: Path, *, stale: bool = False) -> Path:
    """Write `report.html`, `figure.png`, `figure.svg`, `trials.csv`, `verdicts.tex` and `verdicts.md` into `out`.

    Returns:
        The path of the HTML file, which needs none of the others.
    """
    out.mkdir(parents=True, exist_ok=True)
    images = draw(study, record.evidence())
    for kind, content in images.items():
        _replace(out / f"figure.{kind}", content)
    write_atomically(out / "trials.csv", tables.trials_csv(record))
    write_atomically(out / "verdicts.md", tables.as_markdown(record.verdicts))
    write_atomically(out / "verdicts.tex", tables.as_latex(record.verdicts))
    write_atomically(out / "report.html", render(card, record, images, stale=stale))
    return out / "report.html"


def draw(study: Study, evidence: Evidence) -> dict[str, bytes]:
    """The study's figure as PNG and SVG; empty when it has none."""
    if study.figure_hook is None:
        return {}
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": evidence.paper, "font.size": 9, "figure.dpi": 110}):
        figure = study.figure_hook(evidence)
        images = {}
        for kind, metadata in (("png", {}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, bbox_inches="tight", metadata=metadata)
            images[kind] = buffer.getvalue()
        plt.close(figure)
    return images


def render(card: Card, record: Record, images: dict[str, bytes], *, stale: bool) -> str:
    """The HTML page. Everything is escaped; nothing is loaded from elsewhere."""
    environment = Environment(
        loader=PackageLoader("assay.lab"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=tables.number, interval=tables.interval)
    heads, rows = tables.arm_means(record.evidence())
    values: dict[str, Any] = {
        "card": card,
        "record": record,
        "stale": stale,
        "heads": heads,
        "rows": rows,
        "figure": base64.b64encode(images["png"]).decode() if images else "",
    }
    return environment.get_template("report.html").render(values)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
