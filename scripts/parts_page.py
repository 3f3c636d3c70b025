"""Keep docs/parts.md true: python scripts/parts_page.py [--check]

Fills the column "used by" of its tables from what the studies import, and says which parts have no row yet. With
`--check` nothing is written; 1 when the page would change or a row is missing.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from assay.lab.code import code_files
from assay.papers import catalogue

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/parts.md"
ROOMS = ("nn", "data", "geometry", "metrics")
ROW = re.compile(r"^\| `([\w.]+)` \|([^|]*)\|[^|]*\|$", re.MULTILINE)


def parts() -> set[str]:
    """Every public module of the rooms, such as `nn.flow`."""
    base = ROOT / "src/assay"
    files = (file for room in ROOMS for file in (base / room).rglob("*.py"))
    names = (file.relative_to(base).with_suffix("") for file in files if not file.name.startswith("_"))
    return {".".join(name.parts) for name in names}


def users() -> dict[str, list[str]]:
    """Part -> ids of the papers whose study or method stands on it, directly or through another part."""
    found: dict[str, list[str]] = {}
    for card in catalogue.cards().values():
        if catalogue.runs(card):
            for name in code_files(catalogue.study_module(card)):
                found.setdefault(name.removeprefix("assay."), []).append(card.id)
    return found


def filled(text: str) -> str:
    """The page with its last columns anew."""
    by = users()
    return ROW.sub(lambda m: f"| `{m[1]}` |{m[2]}| {', '.join(sorted(by.get(m[1], []))) or 'none yet'} |", text)


def main(check: bool) -> int:
    text = PAGE.read_text(encoding="utf-8")
    named = [match[1] for match in ROW.finditer(text)]
    missing, gone = sorted(parts() - set(named)), sorted(set(named) - parts())
    twice = sorted({name for name in named if named.count(name) > 1})
    for words, names in (("without a row", missing), ("not in the package", gone), ("in two rows", twice)):
        if names:
            print(f"docs/parts.md: {words}: {', '.join(names)}", file=sys.stderr)
    new = filled(text)
    if check and new != text:
        print("docs/parts.md: the column 'used by' is out of date; run scripts/parts_page.py", file=sys.stderr)
    if not check:
        PAGE.write_text(new, encoding="utf-8")
    return 1 if missing or gone or twice or (check and new != text) else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
