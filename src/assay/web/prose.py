"""Texts of strangers, made fit for a page: cleaned of controls, cut to a size, set in paragraphs."""

from __future__ import annotations

from html import escape

from markupsafe import Markup

from assay.papers.digests.render import paragraphs, seen


def clean(text: object, limit: int = 600) -> str:
    """The text without controls, cut so that it takes at most `limit` bytes of a page."""
    return cut(seen(str(text or "")[: 4 * limit]), limit)


def cut(text: str, limit: int) -> str:
    """The beginning of a text that takes at most `limit` bytes once it is escaped; an ellipsis marks the cut."""
    kept = text[:limit]
    while (size := _size(kept)) > limit:
        kept = kept[: min(len(kept) - 1, len(kept) * limit // size)]
    return kept if len(kept) == len(text) else kept.rstrip() + "…"


def prose(text: str | None, limit: int) -> Markup:
    """Paragraphs of an abstract, as HTML."""
    shown = clean(text, limit)
    return Markup("").join(Markup('<p dir="auto">{}</p>').format(part) for part in paragraphs(shown))


def is_cut(text: str | None, limit: int) -> bool:
    """Whether `clean` leaves something out."""
    return bool(text) and clean(text, limit).endswith("…") and not str(text).endswith("…")


def _size(text: str) -> int:
    return len(escape(text).encode("utf-8", "replace"))
