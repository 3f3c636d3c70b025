"""Stubs for a paper of one's own: they pass smoke at once, and the verdict is inconclusive until there is a method."""

from __future__ import annotations

import re
from pathlib import Path

from assay.errors import InputError
from assay.lab.paths import checkout_folder
from assay.papers import catalogue
from assay.papers.card import AREAS

METHOD = '''"""{title}. ({paper})

Say here what the paper invented: formula, shapes, units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def {file}(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Begin here. Until the method is written it returns its input, shape `(N,)`.

    Raises:
        ValueError: `x` is not a vector.

    Source: {paper}
    """
    if x.ndim != 1:
        raise ValueError(f"x must have shape (N,), got {{x.shape}}")
    return x.copy()
'''

STUDY = '''"""{title}: does the claim hold? ({paper})

The stub compares a trivial baseline with a copy of itself, so no claim can be supported yet.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from {method_package} import {method_name}

from assay.lab import Better, Evidence, Study

SIZE = {{"smoke": 100, "pocket": 1_000, "full": 100_000}}

study = Study(
    paper="{paper}",
    arms={{"baseline": "what a practitioner would use", "method": "the paper's method"}},
    claims=[Better("error", method="method", baseline="baseline", higher=False, paper="the paper's own figure")],
    metrics={{"error": "mean absolute error"}},
    data="simulated",
)


@study.prepare
def prepare(seed, scale):
    """Data of one seed, the same for every arm."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=SIZE[scale])
    return {{"truth": truth, "measured": truth + 0.1 * generator.normal(size=truth.size)}}


@study.trial
def trial(arm, shared):
    """One arm on the seed's data."""
    measured = shared["measured"]
    estimate = {call}(measured) if arm == "method" else measured
    return {{"error": np.abs(estimate - shared["truth"]).mean()}}


@study.figure
def figure(evidence: Evidence):
    """Mean error of each arm with its 95 % interval."""
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(figsize=(4, 3))
    for place, arm in enumerate(evidence.arms):
        mean, low, high = evidence.mean_interval("error", arm)
        axes.errorbar([place], [mean], yerr=[[mean - low], [high - mean]], fmt="o", capsize=3)
    axes.set_xticks(range(len(evidence.arms)), evidence.arms)
    axes.set_ylabel(evidence.label("error"))
    return drawing


@study.apply
def apply(numbers: Path, out: Path = Path("result.csv")):
    """Apply the method to a text file of numbers, one a line.

    Args:
        numbers: text file of numbers.
        out: file to write.
    """
    values = np.loadtxt(numbers, ndmin=1)
    np.savetxt(out, {call}(values))
    return f"{{values.size}} numbers written"
'''

TEST = '''"""Tests of {file} ({paper})."""

import numpy as np
import pytest
from {method_package} import {method_name}


def test_returns_its_input_until_the_method_is_written():
    x = np.linspace(-1, 1, 7)
    np.testing.assert_array_equal({call}(x), x)


def test_refuses_what_is_no_vector():
    with pytest.raises(ValueError, match="shape"):
        {call}(np.zeros((2, 2)))
'''

CARD = """
[[paper]]
{area_line}id = "{paper}"
title = "{title}"
authors = ["To be filled in"]
categories = []
month = "{month}"
file = "{file}"
idea = "To be filled in: one or two sentences of your own."
claims = [
    {{ text = "To be filled in: the claim in your own words.", figure = "", source = "none" }},
]
notes = []
digests = []

[paper.links]
abs = "https://arxiv.org/abs/{paper}"
pdf = "https://arxiv.org/pdf/{paper}"
"""

PYPROJECT = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "assay-{dashed}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["assay", "numpy"]

[project.entry-points."assay.studies"]
"{paper}" = "assay_{file}.study"

[tool.hatch.build.targets.wheel]
packages = ["assay_{file}"]
"""


def write_stubs(paper: str, area: str, file: str, *, title: str = "", out: Path | None = None) -> list[Path]:
    """Write the stubs of a paper into the checkout, or as a package of its own into `out`.

    Without a checkout and without `out`, the package goes into the folder `assay_<file>`.

    Raises:
        InputError: not an arXiv id, unknown area, not a module name, or a paper or file that is already there.
    """
    known = catalogue.normalise_id(paper)
    if not known:
        raise InputError(f"{paper!r} is not an arXiv id such as 2603.01234")
    if area not in AREAS:
        raise InputError(f"unknown area {area!r}; choose from: {', '.join(AREAS)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", file):
        raise InputError(f"{file!r} is not a module name: small letters, digits and underscores")
    checkout = checkout_folder()
    if known in catalogue.cards():
        raise InputError(f"{known} is in the catalogue already")
    title = " ".join((title or file.replace("_", " ").capitalize()).replace('"', "'").replace("\\", "/").split())
    words = {"paper": known, "area": area, "file": file, "title": title, "month": f"20{known[:2]}-{known[2:4]}",
             "dashed": file.replace("_", "-"), "area_line": ""}  # fmt: skip
    if out is None and checkout is not None:
        return _into_checkout(checkout, words)
    return _as_package(out or Path(f"assay_{file}"), words)


def _into_checkout(root: Path, words: dict[str, str]) -> list[Path]:
    area, file = words["area"], words["file"]
    words |= {"method_package": f"assay.methods.{area}.{file}", "method_name": file, "call": file}
    card = root / "src/assay/papers/cards" / f"{area}.toml"
    new = {
        root / "src/assay/methods" / area / f"{file}.py": METHOD,
        root / "src/assay/studies" / area / f"{file}.py": STUDY,
        root / "tests/methods" / area / f"test_{file}.py": TEST,
    }
    _refuse_existing(new)
    for path, template in new.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.format(**words), encoding="utf-8")
    with card.open("a", encoding="utf-8") as lines:
        lines.write(CARD.format(**words))
    return [*new, card]


def _as_package(root: Path, words: dict[str, str]) -> list[Path]:
    file = words["file"]
    package = f"assay_{file}"
    words |= {
        "method_package": f"{package}.method",
        "method_name": file,
        "call": file,
        "area_line": f'area = "{words["area"]}"\n',
    }
    new = {
        root / "pyproject.toml": PYPROJECT,
        root / package / "__init__.py": '"""{title}. ({paper})"""\n',
        root / package / "method.py": METHOD,
        root / package / "study.py": STUDY,
        root / package / "card.toml": CARD,
        root / "tests" / f"test_{file}.py": TEST,
    }
    _refuse_existing(new)
    for path, template in new.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.format(**words).lstrip(), encoding="utf-8")
    return list(new)


def _refuse_existing(paths: dict[Path, str]) -> None:
    for path in paths:
        if path.exists():
            raise InputError(f"{path} is there already; nothing was written")
