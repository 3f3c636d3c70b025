"""The figure of the ViSIL study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from assay.lab import Evidence

KINDS = {"text": "C0", "frames": "C1", "mixed": "C2"}
COLOURS = {"visil-select": "C3", "text-visil": "C0", "text-only": "C9", "frames-only": "C1", "length-heuristic": "C2",
           "embed-select": "C4", "random-select": "0.7", "oracle-select": "0.2"}  # fmt: skip


def draw(
    evidence: Evidence, scores: Sequence[str], choices: Sequence[str], where: str, budgets: Sequence[float]
) -> Any:
    """ViSIL against answers by kind of summary, true loss of what each rule takes, rank correlations of each score."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15.5, 4.8), layout="constrained")
    if evidence.series("mean_loss", "visil", where).size:
        loss, correct = (evidence.series(name, "visil", where).mean(0) for name in ("mean_loss", "mean_correct"))
        kinds = evidence.series("kinds", "visil", where)[0]
        for kind, (name, colour) in enumerate(KINDS.items()):
            left.scatter(loss[kinds == kind], correct[kinds == kind], color=colour, label=name)
        for place in (2, 5, 8, 11):
            left.annotate("errs", (loss[place], correct[place]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    left.set_xlabel("ViSIL (nats a content word)")
    left.set_ylabel("right answers from the summary")
    left.set_title("Kinds of summaries, mean over videos")
    left.legend()

    rules = [arm for arm in choices if evidence.series("loss_by_budget", arm, where).size]
    for arm in rules:
        tau = evidence.series("tau_by_budget", arm, where).mean(0)
        left_over = evidence.series("loss_by_budget", arm, where).mean(0)
        middle.plot(
            tau, left_over, "o--" if arm == "oracle-select" else "o-", color=COLOURS[arm],
            lw=2.5 if arm == "visil-select" else 1.3, ms=4, label=arm,
        )  # fmt: skip
    middle.set_xlabel("tokens of the chosen summary")
    middle.set_ylabel("true loss (nats a video)")
    middle.set_title(f"Selection within {', '.join(map(str, budgets))} tokens")
    middle.legend(fontsize=8)

    arms = [arm for arm in scores if evidence.values("spearman_qa_text", arm, where).size]
    for row, arm in enumerate(reversed(arms)):
        for metric, marker, colour in (("spearman_qa_text", "s", "C0"), ("spearman_qa", "o", "C3")):
            if not np.isfinite(evidence.values(metric, arm, where)).any():
                continue
            mean, low, high = evidence.mean_interval(metric, arm, where)
            y = row + (0.12 if marker == "o" else -0.12)
            right.plot([low, high], [y, y], color=colour, lw=1.5)
            right.plot(mean, y, marker, color=colour, ms=5)
    right.plot([], [], "o", color="C3", label="all summaries")
    right.plot([], [], "s", color="C0", label="texts")
    right.axvline(0, color="0.7", lw=0.8)
    right.set_yticks(range(len(arms)), list(reversed(arms)))
    right.set_xlabel("rank correlation with right answers, 95 % interval")
    right.set_title("Scores of a summary")
    right.legend(loc="lower right")
    return figure
