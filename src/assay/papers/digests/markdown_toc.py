"""The Markdown format with a table of contents per category and folded details, read and written to the byte.

An entry's text is free text, so a line counts as structure only where the format can have it: a heading outside of
details, a closing tag where nothing, a heading or a section follows, a label after a blank line and in its order.
What a file does otherwise than usual (white space, a missing field, another number) is kept as layout.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from assay.papers.digests.entry import Digest, Entry, Section, language_of, link_kind, split_id
from assay.papers.digests.layout import Pieces, after_notes, newline_of, next_filled, split_space, write_pieces

ANCHOR = "<div id=toc></div>"
CONTENTS = "# Table of Contents"
_ROW = re.compile(r"- \[([^\n]{1,100})\]\(#([^\n]{1,100})\) \[Total: (\d{1,9})\]")
_SECTION = re.compile(r"<div id='([^'\n]{1,100})'></div>")
_SECTION_HEADING = re.compile(r"# ([^\n]{1,100}) \[\[Back\]\]\(#toc\)")
_NUMBER = re.compile(r"### \[(\d{1,9})\] (?:\[)?")
_OPEN, _SUMMARY, _CLOSE = "<details>", "  <summary>Details</summary>", "</details>"
_LABELS = {
    "category": "Main category:",
    "tldr": "TL;DR:",
    "motivation": "Motivation:",
    "method": "Method:",
    "result": "Result:",
    "conclusion": "Conclusion:",
    "abstract": "Abstract:",
    "abstract_zh": "Abstract (中文翻译):",
}
_HEAD_LABELS, _DETAIL_LABELS = ("category", "tldr"), tuple(_LABELS)[2:]
_ORDER = ("heading", "authors", "category", "tldr", "open", "summary", *_DETAIL_LABELS, "close")
_SPACE = {
    "heading": ("", "\n"), "authors": ("", "\n\n"), "category": (" ", "\n\n"), "tldr": (" ", "\n\n\n"),
    "open": ("", "\n"), "summary": ("", "\n"), "close": ("", ""), **dict.fromkeys(_DETAIL_LABELS, (" ", "\n\n")),
}  # fmt: skip
_TITLE_LINES = 8
_STRUCTURE = re.compile(
    r"(?<=\n)(?=</details>|<details>|### |<div id='|" + "|".join(map(re.escape, _LABELS.values())) + ")"
)


def looks_like(text: str) -> bool:
    """Whether a text, or its beginning, is of this format."""
    return text.lstrip().startswith(ANCHOR) or bool(re.search(r"^### \[\d{1,9}\] \[", text, re.MULTILINE))


def read(text: str, name: str = "digest") -> Digest:
    """Read a digest. What cannot be read becomes a problem of the digest; nothing is raised."""
    digest = Digest("toc", name)
    newline = newline_of(text)
    if newline != "\n":
        digest.layout["newline"] = newline
        text = text.replace(newline, "\n")
    _Reader(text, digest).read()
    return digest


def render(digest: Digest) -> str:
    """Write a digest: the same bytes for a digest that `read` gave."""
    parts = digest.layout.get("parts") or usual_parts(digest.sections)
    out = [digest.layout.get("head", "")]
    entries = enumerate(digest.entries, start=1)
    for kind, gap, *more in parts:
        if kind == "anchor":
            out.append(ANCHOR)
        elif kind == "contents":
            out.append(CONTENTS)
        elif kind == "row":
            out.append(f"- [{more[0]}](#{more[0]}) [Total: {more[1]}]")
        elif kind == "section":
            out.append(f"<div id='{more[0]}'></div>")
        elif kind == "title":
            out.append(f"# {more[0]} [[Back]](#toc)")
        else:
            place, entry = next(entries)
            out.append(render_entry(entry, place))
        out.append(gap)
    text = "".join(out)
    newline = digest.layout.get("newline", "\n")
    return text if newline == "\n" else text.replace("\n", newline)


def render_entry(entry: Entry, place: int) -> str:
    """Write one entry as number `place`."""
    layout = entry.layout.get("toc", {})
    link = entry.links.get(layout.get("link", "abs")) or entry.abs_url or next(iter(entry.links.values()), "")
    before, after = layout.get("title", ("", ""))
    heading = f"### [{layout.get('number', place)}] [{before}{entry.title or ''}{after}]({link})"
    if layout.get("link") == "none":
        heading = f"### [{layout.get('number', place)}] {before}{entry.title or ''}{after}"
    texts = {
        "heading": ("", heading),
        "authors": ("", f"*{','.join(entry.authors)}*"),
        "category": (_LABELS["category"], entry.categories[0] if entry.categories else ""),
        "open": ("", _OPEN),
        "summary": ("", _SUMMARY),
        "close": ("", _CLOSE),
    }
    for label in ("tldr", *_DETAIL_LABELS):
        texts[label] = (_LABELS[label], getattr(entry, label) or "")
    return write_pieces(texts, _usual_order(entry), _SPACE, layout)


def compose(entries: Iterable[Entry], order: Sequence[str] = (), name: str = "digest", day: str = "") -> Digest:
    """A digest of this format from entries of any source, grouped by main category.

    Text that would read as structure (a closing tag, a heading, a label on a line of its own) is set off by a space, so
    that no paper can end its entry and begin another.

    Args:
        order: categories that come first, in this order; the others follow as they come.
    """
    groups: dict[str, list[Entry]] = {category: [] for category in order}
    for entry in entries:
        groups.setdefault(_inline(entry.categories[0]) if entry.categories else "other", []).append(_guarded(entry))
    filled = {category: group for category, group in groups.items() if group}
    sections = [Section(category, len(group)) for category, group in filled.items()]
    return Digest("toc", name, day, [entry for group in filled.values() for entry in group], sections)


def _guarded(entry: Entry) -> Entry:
    links = {"abs": _inline(entry.abs_url or next(iter(entry.links.values()), "")).replace(" ", "%20")}
    names = tuple(re.sub(r",(?=\S)", ", ", _inline(author)).strip(", ") for author in entry.authors)
    categories = tuple(_inline(category) for category in entry.categories)
    title = _inline(entry.title or "")
    guarded = replace(entry, title=title, authors=names, categories=categories, links=links, layout={})
    for label in ("tldr", *_DETAIL_LABELS):
        text = getattr(entry, label)
        setattr(guarded, label, None if text is None else _STRUCTURE.sub(" ", text.strip(" \t\r\n")))
    return guarded


def _inline(text: str) -> str:
    return " ".join(text.split())


def usual_parts(sections: Sequence[Section]) -> list[list[Any]]:
    """The parts of a digest of these sections, each with the white space after it."""
    parts: list[list[Any]] = [["anchor", "\n\n"], ["contents", "\n\n"]]
    parts += [["row", "\n", s.category, s.entries if s.total is None else s.total] for s in sections]
    parts[-1][1] = "\n\n\n"
    for section in sections:
        parts += [["section", "\n\n", section.category], ["title", "\n\n", section.category]]
        parts += [["entry", "\n\n\n"] for _ in range(section.entries)]
    parts[-1][1] = "\n"
    return parts


def _usual_order(entry: Entry) -> list[str]:
    absent = {name for name in ("tldr", *_DETAIL_LABELS) if getattr(entry, name) is None}
    if not entry.categories:
        absent.add("category")
    return [kind for kind in _ORDER if kind not in absent]


class _Reader:
    """Reads line by line; every piece is marked where its text begins, so that white space lies between marks."""

    def __init__(self, text: str, digest: Digest) -> None:
        self.text, self.digest = text, digest
        self.lines = text.split("\n")
        self.starts = [0, *accumulate(len(line) + 1 for line in self.lines)]
        self.starts[-1] = len(text)
        self.parts: list[list[Any]] = []
        self.totals: dict[str, int] = {}
        self.end = 0

    def read(self) -> None:
        digest, lines = self.digest, self.lines
        at = after_notes(lines)
        head, stray = self.text[: self.starts[at]], False
        while at < len(lines):
            after = self._part(at)
            if after is None:
                if not stray:
                    digest.problem(at + 1, f"not part of an entry: {_short(lines[at])}")
                stray, self.end, after = True, self.starts[at + 1], at + 1
            else:
                stray = False
            at = next_filled(lines, after)
            if self.parts and not stray:
                self.parts[-1][1] = self.text[self.end : self.starts[at]]
        if not digest.sections:
            digest.sections.append(Section("other", len(digest.entries)))
        for section in digest.sections:
            if self.totals.get(section.category, section.entries) != section.entries:
                section.total = self.totals[section.category]
        if head:
            digest.layout["head"] = head
        if self.parts != usual_parts(digest.sections):
            digest.layout["parts"] = self.parts

    def _part(self, at: int) -> int | None:
        """Read the part that begins at a line. Gives the line after it, or None where there is no part."""
        text = _bare(self.lines[at])
        if text.startswith("### "):
            return self._entry(at)
        if text == ANCHOR:
            self.parts.append(["anchor", ""])
        elif text == CONTENTS:
            self.parts.append(["contents", ""])
        elif len(text) > 400:
            return None
        elif (match := _ROW.fullmatch(text)) and match[1] == match[2] and match[3] == str(int(match[3])):
            self.totals[match[1]] = int(match[3])
            self.parts.append(["row", "", match[1], int(match[3])])
        elif match := _SECTION.fullmatch(text):
            self.digest.sections.append(Section(match[1], 0))
            self.parts.append(["section", "", match[1]])
        elif match := _SECTION_HEADING.fullmatch(text):
            self.parts.append(["title", "", match[1]])
        else:
            return None
        self.end = self.starts[at] + len(text)
        return at + 1

    def _entry(self, at: int) -> int | None:
        entry, lines = Entry(line=at + 1), self.lines
        self.layout: dict[str, Any] = {}
        after = self._heading(at, entry)
        if after is None:
            return None
        number = self.layout.pop("number")
        if number != str(len(self.digest.entries) + 1):
            self.layout["number"] = number
        marks = [("heading", *self._span(at, after))]
        if after < len(lines) and _is_authors(lines[after]):
            entry.authors = _split_authors(_bare(lines[after])[1:-1])
            marks.append(("authors", *self._span(after, after + 1)))
            after += 1
        opened, after = self._labelled(after, marks, _HEAD_LABELS, self._head_ends)
        if opened:
            marks.append(("open", *self._span(after, after + 1)))
            after += 1
            if after < len(lines) and _bare(lines[after]) == _SUMMARY:
                marks.append(("summary", *self._span(after, after + 1)))
                after += 1
            closed, after = self._labelled(after, marks, _DETAIL_LABELS, self._details_end)
            if closed:
                marks.append(("close", *self._span(after, after + 1)))
                after += 1
            else:
                self.digest.problem(
                    entry.line, f"the details of entry [{number}] are not closed; read as far as they go"
                )
        begin = self.starts[at]
        whole = marks[-1][0] == "close"
        self.end = marks[-1][2] if whole else begin + len(self.text[begin : self.starts[after]].rstrip(" \t\r\n"))
        self._fill(entry, marks)
        entry.summary_language = language_of(entry.tldr, entry.motivation, entry.method, entry.result, entry.conclusion)
        if not entry.key:
            self.digest.problem(at + 1, "an entry with neither address nor title")
            return after
        self.digest.entries.append(entry)
        if not self.digest.sections:
            self.digest.sections.append(Section("other", 0))
        self.digest.sections[-1].entries += 1
        self.parts.append(["entry", ""])
        return after

    def _heading(self, at: int, entry: Entry) -> int | None:
        """Number, title and address of an entry; a title may run over some lines. Gives the line after it."""
        lines = self.lines
        number = _NUMBER.match(lines[at])
        if number is None:
            return None
        whole = number[0].endswith(" [")
        for end in range(at, min(at + _TITLE_LINES, len(lines)) if whole else at):
            if end > at and (not lines[end].strip() or _is_authors(lines[end])):
                break
            if _bare(lines[end]).endswith(")") and "](" in lines[end]:
                text = _bare("\n".join(lines[at : end + 1]))
                cut = text.rindex("](")
                self._title(entry, number[1], text[number.end() : cut])
                address = text[cut + 2 : -1]
                kind = link_kind(address)
                entry.links[kind] = address
                if kind != "abs":
                    self.layout["link"] = kind
                entry.id, entry.version = split_id(address)
                return end + 1
        self.digest.problem(at + 1, f"a heading without [title](address): {_short(lines[at])}")
        self._title(entry, number[1], _bare(lines[at])[number.end() - whole :])
        self.layout["link"] = "none"
        return at + 1

    def _title(self, entry: Entry, number: str, text: str) -> None:
        before, entry.title, after = split_space(text)
        if before or after:
            self.layout["title"] = [before, after]
        self.layout["number"] = number

    def _labelled(
        self, at: int, marks: list[tuple[str, int, int]], labels: Sequence[str], ends: Callable[[int], bool | None]
    ) -> tuple[bool, int]:
        """Mark labelled values until the block is over. Gives whether it ended with its own line, and where."""
        lines, first, rank = self.lines, at, 0
        told = False
        while at < len(lines):
            over = ends(at)
            if over is not None:
                return over, at
            line = lines[at]
            if at == first or not lines[at - 1].strip():
                kind = next((label for label in labels[rank:] if line.startswith(_LABELS[label])), None)
                if kind:
                    marks.append((kind, self.starts[at], self.starts[at] + len(_LABELS[kind])))
                    rank = labels.index(kind) + 1
            if not rank and not told and line.strip():
                self.digest.problem(at + 1, f"text without a label: {_short(line)}")
                told = True
            at += 1
        return False, at

    def _head_ends(self, at: int) -> bool | None:
        if _bare(self.lines[at]) == _OPEN:
            return True
        return False if self.lines[at].startswith("### [") or self._begins_part(at) else None

    def _details_end(self, at: int) -> bool | None:
        line = self.lines[at]
        if _bare(line) == _CLOSE:
            follows = next_filled(self.lines, at + 1)
            if follows == len(self.lines) or self._begins_part(follows):
                return True
        elif line.startswith("### [") and not self.lines[at - 1].strip() and self._begins_whole_entry(at):
            return False
        return None

    def _begins_part(self, at: int) -> bool:
        line = self.lines[at]
        return bool(_NUMBER.match(line) or (len(line) < 400 and _SECTION.fullmatch(_bare(line))))

    def _begins_whole_entry(self, at: int) -> bool:
        line = _bare(self.lines[at])
        whole = _NUMBER.match(line) and "](" in line and line.endswith(")")
        return bool(whole) and at + 1 < len(self.lines) and _is_authors(self.lines[at + 1])

    def _span(self, first: int, after: int) -> tuple[int, int]:
        """Where the text of some lines begins and where it ends, without the white space at its end."""
        return self.starts[first], self.starts[after - 1] + len(_bare(self.lines[after - 1]))

    def _fill(self, entry: Entry, marks: list[tuple[str, int, int]]) -> None:
        """Give the text between the marks to the fields, and the white space around it to the layout."""
        pieces = Pieces()
        for (kind, _, begin), (_, follows, _) in pairwise([*marks, ("", self.end, self.end)]):
            text = self.text[begin:follows]
            if kind not in _LABELS:
                lead, gap = "", text if not text.strip() else _SPACE[kind][1]
            else:
                lead, value, gap = split_space(text)
                if kind == "category":
                    entry.categories = (value,)
                else:
                    setattr(entry, kind, value)
            pieces.add(kind, lead, gap)
        self.layout.update(pieces.as_layout(_usual_order(entry), _SPACE))
        if self.layout:
            entry.layout["toc"] = self.layout


def _bare(line: str) -> str:
    return line.rstrip(" \t\r")


def _is_authors(line: str) -> bool:
    text = _bare(line)
    return len(text) >= 2 and text[0] == text[-1] == "*"


def _split_authors(text: str) -> tuple[str, ...]:
    """Names are joined by bare commas; a comma with a space after it belongs to a name ("Luther King, Jr.")."""
    return tuple(re.split(r",(?!\s)", text)) if text else ()


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
