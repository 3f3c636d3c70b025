"""A paper's state in a line and on a page, read without importing its study."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.lab import record, tables
from assay.papers import catalogue
from assay.papers.card import Card

OUTCOMES = ("supported", "contradicted", "inconclusive")
_SOURCES = {"second-hand": " (second-hand figure)", "code": " (from the code)", "none": "", "abstract": "", "paper": ""}


@dataclass(frozen=True)
class State:
    """Whether a paper runs and what its recorded evidence says.

    Attributes:
        runs: a study exists.
        summary: recorded evidence, without trials.
        verdict: outcome of the first claim that is not a control; empty without evidence.
        stale: the code has changed since the evidence was recorded.
    """

    runs: bool
    summary: record.Summary | None
    verdict: str
    stale: bool

    def words(self) -> str:
        """The state in a word or two."""
        if not self.runs:
            return "planned"
        if not self.verdict:
            return "runs, no evidence"
        return self.verdict + (" (stale)" if self.stale else "")

    def as_dict(self) -> dict[str, Any]:
        return {
            "runs": self.runs,
            "verdict": self.verdict or None,
            "stale": self.stale,
            "data": self.summary.data if self.summary else None,
        }


def state_of(card: Card) -> State:
    """The state of a paper."""
    if not catalogue.runs(card):
        return State(runs=False, summary=None, verdict="", stale=False)
    summary = record.read_summary(card.id)
    if summary is None:
        return State(runs=True, summary=None, verdict="", stale=False)
    stale = record.is_stale(summary, catalogue.study_module(card))
    return State(runs=True, summary=summary, verdict=main_verdict(summary.verdicts), stale=stale)


def main_verdict(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """The outcome of a study's first claim that is not a control."""
    return next((str(v["outcome"]) for v in verdicts if not v.get("expected")), "")


def count_words(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """How many claims came out how, controls apart."""
    claims = Counter(v["outcome"] for v in verdicts if not v.get("expected"))
    controls = Counter(v["control"] for v in verdicts if v.get("expected"))
    words = [f"{claims[outcome]} {outcome}" for outcome in OUTCOMES if claims[outcome]]
    words += [f"{count} control{'s' if count > 1 else ''} {word}" for word, count in controls.items()]
    return ", ".join(words) or "no claims"


def page(card: Card, state: State) -> str:
    """A paper for a reader at a terminal who has never seen it."""
    lines = textwrap.wrap(card.title, 100)
    lines += [
        f"arXiv {card.id} · {card.area} · {card.month}"
        + (f" · {', '.join(card.categories)}" if card.categories else "")
    ]
    lines += textwrap.wrap(", ".join(card.authors), 100)
    lines += [str(card.links.abs)]
    lines += [f"code: {card.links.code}"] if card.links.code else []
    lines += [f"project: {card.links.project}"] if card.links.project else []
    lines += ["", *textwrap.wrap(card.idea, 100), "", "What the paper claims"]
    for claim in card.claims:
        figure = f" Paper: {claim.figure}{_SOURCES[claim.source]}." if claim.figure else ""
        lines += textwrap.wrap(claim.text + figure, 98, initial_indent="- ", subsequent_indent="  ")
    if card.notes:
        lines += ["", "Worth knowing"]
        for note in card.notes:
            lines += textwrap.wrap(note, 98, initial_indent="- ", subsequent_indent="  ")
    lines += ["", *_evidence(card, state)]
    if state.runs:
        lines += ["", "Use it"]
        lines += [
            f"  assay run {card.id}           test the claims",
            f"  assay apply {card.id} --help  use the method on your own files",
        ]
        method = catalogue.method_module(card)
        lines += [f"  from {method.rpartition('.')[0]} import {card.file}"] if method else []
    return "\n".join(lines)


def _evidence(card: Card, state: State) -> list[str]:
    if not state.runs:
        return ["Planned: this paper has no study yet."]
    if state.summary is None:
        return [f"No evidence recorded yet; `assay run {card.id}` makes it."]
    summary, source = state.summary, state.summary.provenance
    head = (
        f"Our evidence: {summary.data} data, {summary.scale} scale, {len(summary.seeds)} {summary.repeats},"
        f" recorded {source.recorded} with assay {source.package} on {source.cores} cores ({source.seconds:.0f} s)"
    )
    lines = textwrap.wrap(head, 100)
    if state.stale:
        lines += [f"STALE: the code has changed since; `assay run {card.id}` brings it up to date."]
    return [*lines, tables.as_text(summary.verdicts)]
