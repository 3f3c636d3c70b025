"""The JSON lines of daily-arXiv-ai-enhanced: one paper a line, its structured summary under `AI`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from assay.papers.digests.entry import SUMMARY_FIELDS, Digest, Entry, language_of, split_id

_TEXTS = {"title": "title", "summary": "abstract", "comment": "comment"}
_OWN = {*_TEXTS, "id", "authors", "categories", "abs", "pdf", "AI"}
_MORE_TEXTS = ("title_zh", "abstract_zh", "date", "updated", "version", "doi", "journal")


def looks_like(text: str) -> bool:
    """Whether a text, or its beginning, is of this format."""
    return text.lstrip("\ufeff \t\r\n").startswith("{")


def read(text: str, name: str = "digest") -> Digest:
    """Read a digest. Lines that cannot be read become problems of the digest; nothing is raised."""
    digest = Digest("jsonl", name)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            digest.problem(number, f"not JSON: {_reason(error)}")
            continue
        if not isinstance(found, dict):
            digest.problem(number, f"expected an object, found {type(found).__name__}")
            continue
        # JSON can name halves of surrogate pairs, which no file can hold.
        if "\\ud" in line.lower() and (clean := _without_halves(found)) != found:
            digest.problem(number, "half a surrogate pair; replaced")
            found = clean
        _add(digest, found, number)
    return digest


def render(entries: Iterable[Entry]) -> str:
    """Write entries as JSON lines that daily-arXiv-ai-enhanced and `read` take."""
    return "".join(json.dumps(_as_line(entry), ensure_ascii=False) + "\n" for entry in entries)


def _add(digest: Digest, found: dict[str, Any], number: int) -> None:
    entry = Entry(line=number)
    for key, name in _TEXTS.items():
        value = found.get(key)
        if isinstance(value, str):
            setattr(entry, name, value)
        elif value is not None:
            digest.problem(number, f"{key}: expected text, found {type(value).__name__}")
            entry.extra[key] = value
    entry.authors = _names(digest, found, "authors", number, entry)
    entry.categories = _names(digest, found, "categories", number, entry)
    for key in ("abs", "pdf"):
        if isinstance(found.get(key), str):
            entry.links[key] = found[key]
    named = found.get("id")
    if isinstance(named, str):
        entry.id, entry.version = split_id(named)
        if not entry.id:
            entry.extra["id"] = named
    for address in entry.links.values():
        if not entry.id:
            entry.id, entry.version = split_id(address)
    _summary(digest, found.get("AI"), number, entry)
    for key, value in found.items():
        if key in _OWN:
            continue
        if key in _MORE_TEXTS and isinstance(value, str):
            setattr(entry, key, value)
        else:
            entry.extra[key] = value
    if entry.key:
        digest.entries.append(entry)
    else:
        digest.problem(number, "an entry with neither id nor title")


def _names(digest: Digest, found: dict[str, Any], key: str, number: int, entry: Entry) -> tuple[str, ...]:
    value = found.get(key)
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return tuple(value)
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if value is not None:
        digest.problem(number, f"{key}: expected a list of texts")
        entry.extra[key] = value
    return ()


def _summary(digest: Digest, found: Any, number: int, entry: Entry) -> None:
    if isinstance(found, dict):
        for key, value in found.items():
            if key in SUMMARY_FIELDS and isinstance(value, str):
                setattr(entry, key, value)
            elif key == "by" and isinstance(value, str):
                entry.summary_by = value
            else:
                entry.extra[f"AI.{key}"] = value
        entry.summary_language = language_of(*(getattr(entry, name) for name in SUMMARY_FIELDS))
    elif found is not None:
        digest.problem(number, f"AI: expected an object, found {type(found).__name__}")
        entry.extra["AI"] = found


def _as_line(entry: Entry) -> dict[str, Any]:
    line: dict[str, Any] = {
        "id": entry.id or entry.extra.get("id", ""),
        "categories": list(entry.categories),
        "pdf": entry.links.get("pdf") or entry.pdf_url,
        "abs": entry.links.get("abs") or entry.abs_url,
        "authors": list(entry.authors),
        "title": entry.title or "",
        "comment": entry.comment,
        "summary": entry.abstract or "",
    }
    line |= {key: value for key in _MORE_TEXTS if (value := getattr(entry, key))}
    summary = {key: value for key in SUMMARY_FIELDS if (value := getattr(entry, key)) is not None}
    if entry.summary_by:
        summary["by"] = entry.summary_by
    for key, value in entry.extra.items():
        if key.startswith("AI."):
            summary[key[3:]] = value
        elif key not in line:
            line[key] = value
    if summary:
        line["AI"] = summary
    return line


def _without_halves(found: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(found, ensure_ascii=False)
    clean: dict[str, Any] = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return clean


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
