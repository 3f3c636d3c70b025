"""Where real samples in official formats lie, when the user has them."""

from __future__ import annotations

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]


def locate(name: str) -> Path | None:
    """Folder of a named sample set, such as `"kitti-object"`, or None when it is not here.

    Looked for in `$ASSAY_DATA`, and, in a development checkout, in `../shared/data` beside it.
    """
    roots = [Path(os.environ["ASSAY_DATA"])] if "ASSAY_DATA" in os.environ else [CHECKOUT.parent / "shared" / "data"]
    return next((root / name for root in roots if (root / name).is_dir()), None)
