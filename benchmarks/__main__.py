"""Every benchmark, or those named: `python -m benchmarks [NAME ...]`.

A benchmark is a module of this folder with a function `rows()` that returns dictionaries with
`what`, `value`, `unit`, `limit` (words, such as `"at most 0.35"`) and `ok`.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(names: list[str]) -> int:
    """Print a line per figure; 1 when one misses its limit."""
    known = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    as_json = "--json" in names
    names = [name for name in names if name != "--json"]
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; choose from: {', '.join(known)}", file=sys.stderr)
        return 2
    missed = 0
    for name in names or known:
        for row in importlib.import_module(f"benchmarks.{name}").rows():
            missed += row["ok"] is False
            if as_json:
                print(json.dumps({"benchmark": name, **row}), flush=True)
            else:
                word = {True: "ok", False: "MISSED", None: "-"}[row["ok"]]
                limit = row.get("limit") or "no limit"
                print(f"{word:<7}{name:<26}{row['what']}: {row['value']:.4g} {row['unit']} ({limit})", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
