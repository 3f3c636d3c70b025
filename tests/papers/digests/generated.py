"""Generated entries, whose texts hold everything that could be mistaken for structure; and how many cases are tried.

`ASSAY_FUZZ=1` tries 10,000 cases of a property, otherwise 200.
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from assay.papers.digests.entry import Entry

CASES = settings(
    max_examples=10_000 if os.environ.get("ASSAY_FUZZ") else 200, deadline=None, suppress_health_check=list(HealthCheck)
)
SENTENCES = [
    "We propose a method.",
    "损失为 $\\mathcal{L}_2$，其中 $x_{i}^{2}$。",
    'A "quoted" term, with commas; and a dash --- here.',
    "Method: label inside a paragraph",
    "---",
    "# heading inside",
    "## smaller",
    "</details>",
    "<details>",
    "<script>alert(1)</script>",
    "**Link**: not a link",
    "**bold** words",
    "### [7] not an entry",
    "### [8] [nor](https://arxiv.org/abs/2601.00009)",
    "*this*",
    "- [cs.CV](#cs.CV) [Total: 1]",
    "$$a\\|b$$ {unpaired % & _",
    "  indented as arXiv does",
    "trailing blank",
    "https://example.org/a_(b)",
    "Abstract: again",
    "](",
    "<div id='cs.CV'></div>",
    "# cs.CV [[Back]](#toc)",
    "1. item",
]
ODD = [
    "\u202etxet",
    "\ufeff",
    "…",
    "\u3000全角",
    "a\u2028b",
    "tab\there",
    "\x0b",
    "\x85",
    "\xa0",
    "\U0001f600",
    "x" * 300,
]
TITLES = [
    "A Title: with $\\alpha$ [brackets](and link)",
    "中文题目",
    'Quote "this", and that',
    "C++ & D",
    "# 1",
    "[x](y)",
]
NAMES = [
    "Jie Tan",
    "Martin Luther King, Jr.",
    'Ana "Nina" O\'Brien',
    "王小明",
    "José Á. Ñúñez",
    "X. Y.",
    "Henry, III",
    "*",
]
CATEGORIES = ["cs.CV", "cs.LG", "eess.IV", "math.GT"]


def entry(seed: int, spice: str = "") -> Entry:
    """An entry in which any field may be missing; `spice` is mixed into its texts."""
    rng = random.Random(seed)
    arxiv_id = f"2{rng.randrange(10)}{rng.randrange(1, 13):02d}.{rng.randrange(100000):05d}"

    def text() -> str | None:
        if rng.random() < 0.25:
            return None
        parts = rng.choices([*SENTENCES, *ODD, spice], k=rng.randrange(6))
        return rng.choice([" ", "\n", "\n\n", "\n  "]).join(parts).strip(" \t\r\n")

    return Entry(
        id=arxiv_id,
        title=rng.choice(TITLES),
        title_zh=rng.choice([None, *TITLES]),
        authors=tuple(rng.choices(NAMES, k=rng.randrange(5))),
        categories=tuple(rng.sample(CATEGORIES, rng.randrange(3))),
        abstract=text(),
        abstract_zh=text(),
        tldr=text(),
        motivation=text(),
        method=text(),
        result=text(),
        conclusion=text(),
        links={"abs": f"https://arxiv.org/abs/{arxiv_id}", "pdf": f"https://arxiv.org/pdf/{arxiv_id}"},
    )


ENTRIES = st.builds(
    lambda seeds, spice: [entry(seed, spice) for seed in seeds],
    st.lists(st.integers(0, 2**32), min_size=1, max_size=4),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
