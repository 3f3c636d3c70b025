"""ROUGE-L beside Google's package, and scoring many summaries of a video at once beside one at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from assay.methods.evaluation.vi_sil import Summary, visil, visil_many
from assay.metrics.text import rouge_l
from assay.nn.causal_lm import CausalLM
from benchmarks._measure import one_thread, row, side_by_side

WORDS, TEXTS, SUMMARIES = 150, 20, 24


def rows() -> list[dict[str, Any]]:
    """Time and agreement on one core; without rouge-score only what needs no peer."""
    with one_thread():
        return [*_rouge(), _together()]


def _rouge() -> list[dict[str, Any]]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        return []
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{n}" for n in rng.integers(0, 60, WORDS)) for _ in range(TEXTS + 1)]
    scorer = RougeScorer(["rougeL"])

    def ours() -> list[float]:
        return [rouge_l(text, texts[0]).f1 for text in texts[1:]]

    def theirs() -> list[float]:
        return [scorer.score(texts[0], text)["rougeL"].fmeasure for text in texts[1:]]

    apart = max(abs(a - b) for a, b in zip(ours(), theirs(), strict=True))
    what = f"ROUGE-L of {TEXTS} texts of {WORDS} words"
    return [
        row(f"{what}: time over rouge-score's", _least(ours, theirs), "times", at_most=0.5),
        row(f"{what}: largest difference from rouge-score's", apart, "F1", at_most=1e-9),
    ]


def _together() -> dict[str, Any]:
    from assay.data.video.fact_grammar import caption, draw_events
    from assay.data.video.fact_summaries import write_text
    from assay.studies.evaluation._vi_sil_bench import Judge
    from assay.studies.evaluation._vi_sil_sight import FEATURES, VOCABULARY

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = CausalLM(vocabulary=len(VOCABULARY), width=64, hidden=128, feature_width=FEATURES).eval()
    judge = Judge(model, torch.zeros(1, 1, FEATURES))
    events = draw_events(6, rng)
    text, whole = caption(events), Summary(caption(events))
    given = [Summary(write_text(events, 12, rng)) for _ in range(SUMMARIES)]

    def together() -> object:
        return visil_many(judge, whole, given, text, resamples=0)

    def one_by_one() -> object:
        return [visil(judge, whole, summary, text, resamples=0) for summary in given]

    return row(f"{SUMMARIES} summaries in one call: time over one by one", _least(together, one_by_one), "times",
               at_most=0.6)  # fmt: skip


def _least(first: Any, second: Any) -> float:
    """Least time of the first over least time of the second, taken by turns, processor time."""
    pairs = side_by_side(first, second, 7, clock=time.process_time)
    return min(mine for mine, _ in pairs) / min(peer for _, peer in pairs)
