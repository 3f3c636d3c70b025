"""Read a digest of any format: the format is found by looking at the content, never at the name."""

from __future__ import annotations

import codecs
import re
from datetime import date
from pathlib import Path

from assay.errors import InputError
from assay.papers.digests import jsonl, markdown_bilingual, markdown_toc
from assay.papers.digests.entry import Digest

KNOWN = (
    "Markdown with a table of contents, Markdown with **Title (ZH)**, JSON lines of daily-arXiv-ai-enhanced, "
    "Atom, RSS and OAI-PMH of arXiv"
)
_DAY = re.compile(r"(?<!\d)(\d{4})[-_]?(\d{2})[-_]?(\d{2})(?!\d)")


def read(data: bytes, name: str = "digest", day: str = "") -> Digest:
    """Read a digest. What cannot be read is listed in `problems` of the answer, with file and line.

    Args:
        data: content of a file or answer.
        name: its file name or address; a date in it becomes the digest's day where nothing else tells one.
        day: ISO day to file it under.

    Raises:
        InputError: the content is of no known format, or is XML that is refused.
    """
    head = data[:4096].lstrip(codecs.BOM_UTF8 + b" \t\r\n")
    if head.startswith(b"<") and not head.startswith((b"<div", b"<details")):
        from assay.papers.digests import feeds

        digest = feeds.read(data, name)
    else:
        digest = _read_text(data, name)
    digest.day = day or digest.day or _day_in(name)
    return digest


def read_file(path: Path, day: str = "") -> Digest:
    """Read a file.

    Raises:
        InputError: the file cannot be opened, or `read` raises it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    return read(data, str(path), day)


def _read_text(data: bytes, name: str) -> Digest:
    wrong = 0
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = data.decode("utf-16", "replace")
    else:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            wrong = data.count(b"\n", 0, error.start) + 1
            text = data.decode(errors="replace")
    mark = text.startswith("\ufeff")
    body = text[1:] if mark else text
    # What stands first tells the format: an abstract may quote the structure of the other one.
    label = markdown_bilingual.MARK.search(body)
    if jsonl.looks_like(body[:1000]):
        digest = jsonl.read(body, name)
    elif markdown_toc.looks_like(body[: label.start()] if label else body):
        digest = markdown_toc.read(body, name)
    elif label:
        digest = markdown_bilingual.read(body, name)
    else:
        raise InputError(f"{name}: not a digest of a known format ({KNOWN})")
    if mark and digest.format != "jsonl":
        digest.layout["head"] = "\ufeff" + digest.layout.get("head", "")
    if wrong:
        digest.problem(wrong, "not UTF-8 from here on in places; what is wrong was replaced")
    return digest


def _day_in(name: str) -> str:
    """A date in a file name; the last one, as folders come before the file."""
    for match in reversed(list(_DAY.finditer(name[-300:]))):
        try:
            day = date(int(match[1]), int(match[2]), int(match[3]))
        except ValueError:
            continue
        if 1991 <= day.year <= 2100:
            return day.isoformat()
    return ""
