"""The Markdown format of `**Title (ZH)**`, `**Link**` and `**Abstract (ZH)**`, read and written to the byte.

An entry begins with `# title` and ends with a rule, `---`. A rule or a heading inside an abstract is text: a rule ends
an entry only where nothing, or the heading of another entry, follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from assay.papers.digests.entry import Digest, Entry, link_kind, split_id
from assay.papers.digests.layout import Pieces, after_notes, newline_of, next_filled, split_space, write_pieces

_LABELS = {
    "heading": "#",
    "title_zh": "**Title (ZH)**:",
    "authors": "**Authors**:",
    "link": "**Link**:",
    "abstract": "**Abstract**:",
    "abstract_zh": "**Abstract (ZH)**:",
    "end": "---",
}
_ORDER = tuple(_LABELS)
_MIDDLE = _ORDER[1:-1]
_SPACE = {
    "heading": (" ", " \n\n"), "title_zh": (" ", " \n\n"), "authors": (" ", "  \n\n"), "link": (" ", "  \n\n"),
    "abstract": (" ", " \n\n"), "abstract_zh": (" ", " \n\n"), "end": ("", "\n"),
}  # fmt: skip
_LINK = re.compile(r"\[([^\]\n]{0,40})\]\((.*)\)", re.DOTALL)
_STRUCTURE = re.compile(
    r"(?<=\n)(?=---[ \t\r]*$|" + "|".join(re.escape(_LABELS[k]) for k in _MIDDLE) + ")", re.MULTILINE
)
MARK = re.compile(r"^\*\*(?:Title \(ZH\)|Link|Abstract(?: \(ZH\))?)\*\*:", re.MULTILINE)
"""A label of this format."""
# A suffix belongs to the name before it: "Martin Luther King, Jr.".
_SUFFIX = re.compile(r"(?:Jr|Sr|II|III|IV|V|PhD|Ph\.D|MD|M\.D)\.?")


def looks_like(text: str) -> bool:
    """Whether a text, or its beginning, is of this format."""
    return bool(MARK.search(text))


def read(text: str, name: str = "digest") -> Digest:
    """Read a digest. What cannot be read becomes a problem of the digest; nothing is raised."""
    digest = Digest("bilingual", name)
    newline = newline_of(text)
    if newline != "\n":
        digest.layout["newline"] = newline
        text = text.replace(newline, "\n")
    _Reader(text, digest).read()
    return digest


def render(digest: Digest) -> str:
    """Write a digest: the same bytes for a digest that `read` gave."""
    text = digest.layout.get("head", "") + "".join(map(render_entry, digest.entries))
    newline = digest.layout.get("newline", "\n")
    return text if newline == "\n" else text.replace("\n", newline)


def render_entry(entry: Entry) -> str:
    layout = entry.layout.get("bilingual", {})
    link = entry.links.get(layout.get("link", "pdf")) or entry.pdf_url or next(iter(entry.links.values()), "")
    if not layout.get("plain"):
        link = f"[{layout.get('label', 'PDF')}]({link})"
    values = {
        "heading": entry.title or "", "title_zh": entry.title_zh or "", "authors": ", ".join(entry.authors),
        "link": link, "abstract": entry.abstract or "", "abstract_zh": entry.abstract_zh or "", "end": "",
    }  # fmt: skip
    texts = {kind: (_LABELS[kind], value) for kind, value in values.items()}
    return write_pieces(texts, _usual_order(entry), _SPACE, layout)


def compose(entries: Iterable[Entry], name: str = "digest", day: str = "") -> Digest:
    """A digest of this format from entries of any source; text that would read as structure is set off by a space."""
    return Digest("bilingual", name, day, [_guarded(entry) for entry in entries])


def _guarded(entry: Entry) -> Entry:
    def text(value: str | None) -> str | None:
        return None if value is None else _STRUCTURE.sub(" ", value.strip(" \t\r\n"))

    link = entry.pdf_url or entry.abs_url or next(iter(entry.links.values()), "")
    return replace(
        entry,
        title=_inline(entry.title or ""),
        title_zh=None if entry.title_zh is None else _inline(entry.title_zh),
        authors=tuple(_inline(author).strip(", ") for author in entry.authors),
        abstract=text(entry.abstract),
        abstract_zh=text(entry.abstract_zh),
        links={"pdf": _inline(link).replace(" ", "%20")} if link else {},
        layout={},
    )


def _inline(text: str) -> str:
    return " ".join(text.split())


def _usual_order(entry: Entry) -> list[str]:
    absent = {name for name in ("title_zh", "abstract", "abstract_zh") if getattr(entry, name) is None}
    if not entry.links and not entry.id:
        absent.add("link")
    return [kind for kind in _ORDER if kind not in absent]


class _Reader:
    """Reads line by line; every piece is marked where its label begins, so that white space lies between marks."""

    def __init__(self, text: str, digest: Digest) -> None:
        self.text, self.digest = text, digest
        self.lines = text.split("\n")
        self.starts = [0, *accumulate(len(line) + 1 for line in self.lines)]
        self.starts[-1] = len(text)

    def read(self) -> None:
        lines = self.lines
        at = after_notes(lines)
        if self.starts[at]:
            self.digest.layout["head"] = self.text[: self.starts[at]]
        stray = False
        while at < len(lines):
            if self._begins(at):
                at, stray = self._entry(at), False
            else:
                if not stray:
                    self.digest.problem(at + 1, f"not part of an entry: {_short(lines[at])}")
                stray = True
                at = next_filled(lines, at + 1)

    def _begins(self, at: int) -> bool:
        """Whether an entry begins at a line: its heading, or a label where the heading is missing."""
        line = self.lines[at]
        return line.startswith("# ") or line.rstrip() == "#" or any(line.startswith(_LABELS[kind]) for kind in _MIDDLE)

    def _entry(self, at: int) -> int:
        lines, first = self.lines, at
        marks: list[tuple[str, int, int]] = []
        rank, end = -1, len(lines)
        while at < len(lines):
            line = lines[at]
            kind = next(
                (k for k in (_ORDER[:1] if at == first else _MIDDLE[rank:]) if line.startswith(_LABELS[k])), None
            )
            if at == first and kind is None:
                self.digest.problem(at + 1, f"an entry without a heading: {_short(line)}")
                kind = next(k for k in _MIDDLE if line.startswith(_LABELS[k]))
            if kind:
                marks.append((kind, self.starts[at], self.starts[at] + len(_LABELS[kind])))
                rank = _MIDDLE.index(kind) + 1 if kind in _MIDDLE else 0
            elif line.startswith("---") and line.rstrip(" \t\r") == "---" and (after := self._ends(at)):
                marks.append(("end", self.starts[at], self.starts[at] + 3))
                end = after
                break
            at += 1
        self._fill(first, marks, end)
        return end

    def _ends(self, at: int) -> int:
        """The line where the next entry begins when the rule at a line ends an entry, else 0."""
        lines = self.lines
        follows = next_filled(lines, at + 1)
        if follows == len(lines) or lines[follows].startswith(_LABELS["title_zh"]):
            return follows
        if not self._begins(follows):
            return 0
        after = next_filled(lines, follows + 1)
        return follows if after == len(lines) or lines[after].startswith(("**", "---")) else 0

    def _fill(self, first: int, marks: list[tuple[str, int, int]], end: int) -> None:
        entry, pieces, layout = Entry(line=first + 1), Pieces(), {}
        stop = self.starts[end]
        for (kind, _, begin), (_, follows, _) in pairwise([*marks, ("", stop, stop)]):
            lead, value, gap = split_space(self.text[begin:follows])
            pieces.add(kind, lead, gap)
            if kind == "heading":
                entry.title = value
            elif kind == "authors":
                entry.authors = _split_authors(value)
            elif kind == "link":
                layout.update(_read_link(value, entry))
            elif kind != "end":
                setattr(entry, kind, value)
        if marks[-1][0] != "end":
            self.digest.problem(first + 1, "the entry does not end with ---; read as far as it goes")
        layout.update(pieces.as_layout(_usual_order(entry), _SPACE))
        if layout:
            entry.layout["bilingual"] = layout
        if entry.key:
            self.digest.entries.append(entry)
        else:
            self.digest.problem(first + 1, "an entry with neither title nor address")


def _read_link(value: str, entry: Entry) -> dict[str, Any]:
    """Put an address into the entry; gives what is unusual in how it is written."""
    match = _LINK.fullmatch(value)
    label, address = (match[1], match[2]) if match else ("PDF", value)
    kind = link_kind(address)
    entry.links[kind] = address
    entry.id, entry.version = split_id(address)
    unusual: dict[str, Any] = {"plain": True} if not match else {"label": label} if label != "PDF" else {}
    return unusual | ({"link": kind} if kind != "pdf" else {})


def _split_authors(text: str) -> tuple[str, ...]:
    names: list[str] = []
    for part in text.split(", ") if text else ():
        if names and _SUFFIX.fullmatch(part[:8]):
            names[-1] += f", {part}"
        else:
            names.append(part)
    return tuple(names)


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
