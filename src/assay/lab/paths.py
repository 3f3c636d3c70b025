"""Folders the lab writes to and reads from."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def home() -> Path:
    """Where local results live: `$ASSAY_HOME`, or the platform's data folder."""
    if os.environ.get("ASSAY_HOME"):
        return Path(os.environ["ASSAY_HOME"]).expanduser().resolve()
    from platformdirs import user_data_path

    return user_data_path("assay", appauthor=False)


def store_path() -> Path:
    """The local store of trials."""
    return home() / "trials.sqlite"


def evidence_folder() -> Path:
    """Published evidence: `$ASSAY_EVIDENCE`, the checkout's `evidence/`, or what the package carries."""
    if os.environ.get("ASSAY_EVIDENCE"):
        return Path(os.environ["ASSAY_EVIDENCE"]).expanduser().resolve()
    checkout = checkout_folder()
    return checkout / "evidence" if checkout else _PACKAGE / "_evidence"


def checkout_folder() -> Path | None:
    """Root of the development checkout this package runs from; None when it was installed as a wheel."""
    root = _PACKAGE.parents[1]
    return root if _PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file() else None
