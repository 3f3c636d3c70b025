"""What the two Markdown formats share: labelled values, the white space around them, writing them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SPACE = " \t\r\n"


def split_space(text: str) -> tuple[str, str, str]:
    """White space before, the value, white space after. All three joined give `text`."""
    value = text.strip(_SPACE)
    if not value:
        cut = 1 if text.startswith(" ") else 0
        return text[:cut], "", text[cut:]
    start = len(text) - len(text.lstrip(_SPACE))
    return text[:start], value, text[start + len(value) :]


class Pieces:
    """The pieces of an entry in the order they were read, each with the white space around its value."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.space: dict[str, list[str]] = {}

    def add(self, kind: str, lead: str, gap: str) -> None:
        self.order.append(kind)
        self.space[kind] = [lead, gap]

    def as_layout(self, usual_order: Sequence[str], usual_space: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
        """Only what differs from the usual."""
        layout: dict[str, Any] = {}
        if self.order != list(usual_order):
            layout["order"] = self.order
        odd = {kind: space for kind, space in self.space.items() if tuple(space) != usual_space[kind]}
        if odd:
            layout["space"] = odd
        return layout


def write_pieces(
    texts: Mapping[str, tuple[str, str]],
    usual_order: Sequence[str],
    usual_space: Mapping[str, tuple[str, str]],
    layout: Mapping[str, Any],
) -> str:
    """Join the pieces of an entry. `texts` holds (what stands before the value, the value) by kind."""
    odd = layout.get("space", {})
    out: list[str] = []
    for kind in layout.get("order", usual_order):
        before, value = texts[kind]
        lead, gap = odd.get(kind, usual_space[kind])
        out += (before, lead, value, gap)
    return "".join(out)


def next_filled(lines: Sequence[str], start: int) -> int:
    """Index of the first line from `start` on that is not blank; `len(lines)` when there is none."""
    while start < len(lines) and not lines[start].strip(_SPACE):
        start += 1
    return start


def after_notes(lines: Sequence[str]) -> int:
    """Index of the first line neither blank nor quoted: a digest may begin with quoted lines on how it was made."""
    at = next_filled(lines, 0)
    while at < len(lines) and lines[at].startswith("> "):
        at = next_filled(lines, at + 1)
    return at


def newline_of(text: str) -> str:
    """The line end of a text when it is the same everywhere, else a line feed."""
    count = text.count("\n")
    return "\r\n" if count and text.count("\r\n") == count == text.count("\r") else "\n"
