"""Studies found by name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from assay.errors import AssayError, MissingExtra, UnknownName
from assay.lab.study import Study
from assay.papers import catalogue
from assay.papers.card import Card


def load_study(card: Card) -> Study:
    """Import the study of a card.

    Raises:
        UnknownName: the paper is planned and has no study yet.
        MissingExtra: a library of the area's extra is not installed.
    """
    if not catalogue.runs(card):
        raise UnknownName(f"{card.id} is planned and has no study yet; `assay list --runs` shows those that run")
    return load_module(catalogue.study_module(card), card.area)


def load_module(module: str, extra: str = "all") -> Study:
    """Import a study by the dotted name of its module."""
    with naming_extra(module, extra):
        found = importlib.import_module(module)
    study = getattr(found, "study", None)
    if not isinstance(study, Study):
        raise AssayError(f"{module} declares no `study`")
    if study.trial_hook is None:
        raise AssayError(f"{module}: the study has no @study.trial")
    study.module = module
    return study


@contextmanager
def naming_extra(module: str, extra: str) -> Iterator[None]:
    """Turn a library that is not there, at import or when a hook first asks for it, into the extra that installs it.

    Raises:
        MissingExtra: a library of neither this package nor the study's own is not installed.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] in {"assay", module.split(".")[0]}:
            raise
        raise MissingExtra(
            f"{error.name or error} is not installed; install what {module} needs with: pip install 'assay[{extra}]'"
        ) from error
