"""Verdicts and trials as text, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.lab.evidence import Evidence
    from assay.lab.record import Record

VerdictRow = Mapping[str, Any]

HEADS = ("claim", "verdict", "ours", "needs", "p (Holm)", "paper's figure")


def number(value: float | None) -> str:
    """A figure in four significant digits; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value + 0.0:.4g}"


def interval(verdict: VerdictRow) -> str:
    """Estimate with its 95% interval."""
    if verdict["estimate"] is None:
        return "–"
    low, high = verdict["low"], verdict["high"]
    bounds = "" if low is None or not math.isfinite(low) else f" [{number(low)}, {number(high)}]"
    return number(verdict["estimate"]) + bounds


def verdict_word(verdict: VerdictRow) -> str:
    """The outcome, and for a control whether it held."""
    control = verdict.get("control")
    return f"{verdict['outcome']} (control {control})" if control else str(verdict["outcome"])


def cells(verdict: VerdictRow) -> tuple[str, ...]:
    """One row of the verdict table."""
    p = verdict.get("p_holm")
    return (
        f"{verdict['name']} {verdict['sentence']}",
        verdict_word(verdict),
        interval(verdict),
        verdict["region"],
        "–" if p is None or not math.isfinite(p) else f"{p:.2g}",
        verdict["paper"] or "–",
    )


def as_text(verdicts: Sequence[VerdictRow], width: int = 100) -> str:
    """Verdicts for a terminal: a block per claim, reasons below."""
    import textwrap

    blocks = []
    for verdict in verdicts:
        first = f"{verdict_word(verdict).upper() if not verdict.get('control') else verdict_word(verdict)}"
        lines = textwrap.wrap(f"{verdict['name']}  {verdict['sentence']}", width, subsequent_indent="    ")
        ours = f"    {first}: ours {interval(verdict)}, needs {verdict['region']}"
        p = verdict.get("p_holm")
        if p is not None and math.isfinite(p):
            ours += f", p = {p:.2g} (Holm)"
        if verdict.get("p_sign_flip") is not None and math.isfinite(verdict["p_sign_flip"]):
            ours += f", sign-flip p = {verdict['p_sign_flip']:.2g}"
        lines.append(ours + f", {verdict['n']} of {verdict['n_planned']} seeds")
        if verdict["paper"]:
            lines += textwrap.wrap(
                f"paper: {verdict['paper']}", width, initial_indent="    ", subsequent_indent="      "
            )
        if verdict["reason"]:
            lines += textwrap.wrap(verdict["reason"], width, initial_indent="    ", subsequent_indent="      ")
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def as_markdown(verdicts: Sequence[VerdictRow]) -> str:
    """The verdict table in Markdown."""
    rows = [HEADS, ("---",) * len(HEADS), *(tuple(c.replace("|", "\\|") for c in cells(v)) for v in verdicts)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def as_latex(verdicts: Sequence[VerdictRow]) -> str:
    """The verdict table in LaTeX (booktabs)."""
    body = "".join(" & ".join(map(_latex, cells(v))) + " \\\\\n" for v in verdicts)
    head = " & ".join(map(_latex, HEADS))
    return (
        "\\begin{tabular}{p{5cm}lllll}\n\\toprule\n"
        + head
        + " \\\\\n\\midrule\n"
        + body
        + "\\bottomrule\n\\end{tabular}\n"
    )


def arm_means(evidence: Evidence) -> tuple[list[str], list[list[str]]]:
    """Mean and interval of every scalar metric by arm and condition: heads and rows."""
    metrics = sorted({m for t in evidence.trials.values() for m, v in t.items() if not isinstance(v, list)})
    rows = []
    for arm in evidence.arms:
        for condition in evidence.conditions:
            if not any((arm, condition, seed) in evidence.trials for seed in evidence.seeds):
                continue
            row = [arm, condition] if condition else [arm]
            for metric in metrics:
                mean, low, _ = evidence.mean_interval(metric, arm, condition)
                half = "" if not math.isfinite(low) else f" ± {number(mean - low)}"
                row.append(number(mean) + half)
            rows.append(row)
    heads = ["arm", *(["condition"] if any(evidence.conditions) else []), *map(evidence.label, metrics)]
    return heads, rows


def trials_csv(record: Record) -> str:
    """Every trial as a row; list-valued metrics are left to the JSON."""
    metrics = sorted({m for t in record.trials for m, v in t.metrics.items() if not isinstance(v, list)})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["paper", "scale", "arm", "condition", "seed", "seconds", *metrics])
    for t in record.trials:
        values = ["" if t.metrics.get(m) is None else t.metrics[m] for m in metrics]
        writer.writerow([record.paper, record.scale, t.arm, t.condition, t.seed, t.seconds, *values])
    return out.getvalue()


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--",
               "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "<": "$<$", ">": "$>$"}  # fmt: skip
    return "".join(special.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)
