"""Digests: how long reading takes, whether its cost grows with the number of papers, and how long a search takes.

python -m benchmarks.digests            # 100,000 generated papers, some minutes
ASSAY_BENCH_PAPERS=10000 python -m benchmarks.digests
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._measure import row

SEEDS = Path(__file__).resolve().parents[2] / "shared" / "seeds"
PAPERS = int(os.environ.get("ASSAY_BENCH_PAPERS", "100000"))
PER_DIGEST = 500
QUERIES = 400
COMMON = [
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "we",
    "for",
    "is",
    "that",
    "on",
    "with",
    "this",
    "by",
    "as",
    "are",
    "an",
    "model",
    "from",
    "method",
    "our",
    "learning",
    "which",
    "can",
    "propose",
    "based",
    "image",
    "data",
    "results",
    "performance",
    "show",
    "diffusion",
    "training",
    "network",
    "approach",
    "framework",
    "using",
    "tasks",
    "models",
    "vision",
    "language",
    "segmentation",
    "detection",
    "gaussian",
    "transformer",
    "attention",
    "multimodal",
    "medical",
    "video",
    "generation",
    "robust",
]
SYLLABLES = ["ra", "mo", "ti", "ne", "lu", "sta", "gri", "vo", "den", "pha", "cor", "mil", "xe", "ban", "que", "sol"]
CHINESE = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分"


def rows() -> list[dict[str, Any]]:
    """One row a figure: what, value, unit, limit, ok."""
    found = []
    if SEEDS.is_dir():
        value = min(_read_seeds() for _ in range(5))
        found.append(row("reading the seeds (360 KB, 117 papers) into a fresh store", value, "s", at_most=0.5))
    growth, per_paper, times = _large_store()
    found += [
        row(f"adding {PAPERS} papers: cost of the last tenth over that of the first", growth, "x", at_most=2),
        row(f"adding {PAPERS} papers: a paper", per_paper * 1000, "ms", at_most=5),
        row(f"search over {PAPERS} papers, median", statistics.median(times) * 1000, "ms", at_most=30),
        row(f"search over {PAPERS} papers, 99th percentile", float(np.quantile(times, 0.99)) * 1000, "ms", at_most=100),
    ]
    return found


def digest_text(rng: np.random.Generator, first: int, count: int, day: date) -> str:
    """A generated digest in the format with a table of contents: words fall off like those of a language."""
    from assay.papers.digests import markdown_toc
    from assay.papers.digests.entry import Entry

    entries = []
    for place in range(first, first + count):
        words = _words(rng, 190)
        zh = "".join(rng.choice(list(CHINESE), 60))
        arxiv_id = f"{day:%y%m}.{10000 + place % 90000:05d}"
        entries.append(
            Entry(
                id=arxiv_id,
                title=" ".join(words[:9]).capitalize(),
                authors=tuple(
                    f"{a.capitalize()} {b.capitalize()}" for a, b in zip(words[9:14], words[14:19], strict=True)
                ),
                categories=(
                    str(rng.choice(["cs.CV", "cs.LG", "eess.IV", "cs.RO", "cs.CL"], p=[0.5, 0.2, 0.1, 0.1, 0.1])),
                ),
                abstract=" ".join(words[19:]),
                tldr=zh,
                method=zh[::-1],
                links={"abs": f"https://arxiv.org/abs/{arxiv_id}"},
            )
        )
    return markdown_toc.render(markdown_toc.compose(entries))


def _read_seeds() -> float:
    from assay.papers.digests import detect
    from assay.papers.digests.store import Store

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with Store(Path(folder) / "digests.sqlite") as store:
            for path in sorted(SEEDS.iterdir()):
                store.add(detect.read_file(path))
        return time.perf_counter() - start


def _large_store() -> tuple[float, float, list[float]]:
    from assay.papers.digests import detect
    from assay.papers.digests.store import Store

    rng = np.random.default_rng(0)
    costs = []
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "digests.sqlite") as store:
        for place in range(0, PAPERS, PER_DIGEST):
            day = date(2020, 1, 1) + timedelta(days=place // PER_DIGEST)
            text = digest_text(rng, place, min(PER_DIGEST, PAPERS - place), day).encode()
            start = time.perf_counter()
            store.add(detect.read(text, f"{day}.md"))
            costs.append(time.perf_counter() - start)
        tenth = max(len(costs) // 10, 1)
        times = []
        for query in _queries(rng):
            start = time.perf_counter()
            store.search(**query)
            times.append(time.perf_counter() - start)
    return sum(costs[-tenth:]) / sum(costs[:tenth]), sum(costs) / PAPERS, times


def _queries(rng: np.random.Generator) -> list[dict[str, Any]]:
    """What people ask: one word, a few, a word being typed, Chinese, with filters; common words and rare ones."""
    found = []
    for place in range(QUERIES):
        words = [str(rng.choice(COMMON[20:])), *_words(rng, 3)]
        kind = place % 8
        if kind == 0:
            found.append({"words": words[0]})
        elif kind == 1:
            found.append({"words": " ".join(words[:2])})
        elif kind == 2:
            found.append({"words": words[0][: int(rng.integers(2, 5))], "typing": True})
        elif kind == 3:
            found.append({"words": "".join(rng.choice(list(CHINESE), 2))})
        elif kind == 4:
            found.append({"words": " ".join(words[:3]), "categories": ["cs.CV", "eess.IV"]})
        elif kind == 5:
            found.append({"words": words[0], "days": ("2020-02-01", "2020-04-30")})
        elif kind == 6:
            found.append({"words": words[1], "author": words[2]})
        else:
            found.append({"categories": ["cs.RO"], "days": "2020-03"})
    return found


def _words(rng: np.random.Generator, count: int) -> list[str]:
    """Words drawn as in a language: that of rank r with a weight of 1 / (r + 2.7) (Zipf, Mandelbrot)."""
    return [VOCABULARY[rank] for rank in np.searchsorted(_HEIGHTS, rng.random(count) * _HEIGHTS[-1])]


def _word(rank: int) -> str:
    """A made-up word: its rank written in two to four syllables."""
    if rank < len(COMMON):
        return COMMON[rank]
    return "".join(SYLLABLES[rank // 16**place % 16] for place in range(2 + rank % 3))


VOCABULARY = [_word(rank) for rank in range(50_000)]
_HEIGHTS = np.cumsum(1.0 / (np.arange(50_000) + 2.7))
