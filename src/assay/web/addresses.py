"""Where pages live. A paper's key may hold anything (`doi:10.1/a b?c`); its address holds letters, digits and `.-_`."""

from __future__ import annotations

import hashlib
import re

LONGEST = 100
UNKNOWN_DAY = "unknown"
_KEPT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-")
_CODE = re.compile(r"_([0-9a-f]{2})")
_LONG = "_long-"


def slug(key: str) -> str:
    """A key as one part of a path: other bytes than letters, digits, `.` and `-` become `_` and two hex digits.

    A key longer than `LONGEST` characters is named by its hash; `Library` finds it again.
    """
    if len(key) > LONGEST:
        return _LONG + hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    written = "".join(c if c in _KEPT else "".join(f"_{b:02x}" for b in _bytes(c)) for c in key)
    # A part of dots alone means another folder.
    return written if written.strip(".") else written.replace(".", "_2e")


def key_of(name: str) -> str | None:
    """The key that `slug` wrote so; None when it can have written no such name, or only a hash is left of the key."""
    if name.startswith(_LONG) or not set(name) <= _KEPT | {"_"}:
        return None
    raw = _CODE.sub(lambda code: chr(int(code[1], 16)), name)
    try:
        key = raw.encode("latin-1").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return key if slug(key) == name else None


def paper_path(key: str) -> str:
    """Path of a paper's page, relative to the root."""
    return f"paper/{slug(key)}/"


def list_path(
    language: str = "en", *, day: str | None = None, category: str = "", page: int = 1, home: bool = False
) -> str:
    """Path of a list: the start page, a day, a category of a day, or (with neither) all papers."""
    parts = ["zh"] if language == "zh" else []
    if day is not None:
        parts += ["day", slug(day) if day else UNKNOWN_DAY]
        parts += ["in", slug(category)] if category else []
    elif not home:
        parts += ["search"]
    parts += [str(page)] if page > 1 else []
    return "".join(f"{part}/" for part in parts)


def day_named(name: str) -> str | None:
    """The day behind a part of an address."""
    return "" if name == UNKNOWN_DAY else key_of(name)


def _bytes(character: str) -> bytes:
    return character.encode("utf-8", "surrogatepass")
