"""The figure of 2501.06823: arms in three settings, what the Cauchy loss does, and who chooses the epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.lab import Evidence

SHOWN = {"top": "TOP phase I", "sim-match": "simulated matches", "sim-alone": "simulated, no pair matters"}
BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.13), "fontsize": 8, "frameon": False}


def draw(evidence: Evidence, bins: int) -> Any:
    """A matplotlib figure; `bins` is the number of bins of the histograms of p."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 5), layout="constrained", width_ratios=(1.3, 1, 1))
    _scores(left, evidence)
    _spread_of_p(middle, evidence, bins)
    _optimism(right, evidence)
    return figure


def _scores(axes: Any, evidence: Evidence) -> None:
    arms = list(evidence.arms)[::-1]
    for i, (condition, words) in enumerate(SHOWN.items()):
        there = [(row, arm) for row, arm in enumerate(arms) if len(evidence.values("roc_auc", arm, condition))]
        for k, (row, arm) in enumerate(there):
            mean, low, high = evidence.mean_interval("roc_auc", arm, condition)
            height = row + 0.22 * (1 - i)
            axes.plot([max(low, 0.2), min(high, 1.0)], [height] * 2, color=f"C{i}", lw=2)
            axes.plot(mean, height, "o", color=f"C{i}", label=None if k else words)
    axes.axvline(0.5, color="0.6", lw=1, zorder=0)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_xlabel("ROC AUC on test trials, 95 % interval")
    axes.set_title("Arms")
    axes.legend(ncols=3, **BELOW)
    axes.grid(axis="x", alpha=0.3)


def _spread_of_p(axes: Any, evidence: Evidence, bins: int) -> None:
    centres = (np.arange(bins) + 0.5) / bins
    for arm, colour in (("mexa", "C0"), ("no-cauchy", "C1"), ("mexa-published", "C3")):
        share = evidence.series("p_histogram", arm, "sim-match")
        if share.size:
            axes.plot(centres, share.mean(axis=0), "o-", ms=3, color=colour, label=arm)
    axes.set_xlabel("p of a token, simulated matches")
    axes.set_ylabel("share of tokens")
    axes.set_title("What the Cauchy loss does to routers")
    axes.legend(ncols=3, **BELOW)
    axes.grid(alpha=0.3)


def _optimism(axes: Any, evidence: Evidence) -> None:
    arms = [arm for arm in evidence.arms if np.isfinite(evidence.values("roc_test_selected", arm, "top")).any()][::-1]
    for condition, marker, shift, words in (
        ("top", "o", 0.12, ""),
        ("top-permuted", "s", -0.12, ", shuffled outcomes"),
    ):
        labels = [f"validation trials{words}", f"test trials{words}"]
        for row, arm in enumerate(arms):
            flattered = evidence.values("roc_test_selected", arm, condition)
            if not np.isfinite(flattered).any():
                continue
            ends = [float(np.nanmean(evidence.values("roc_auc", arm, condition))), float(np.nanmean(flattered))]
            axes.plot(ends, [row + shift] * 2, color="0.6", lw=1.5, zorder=1)
            for end, colour, label in zip(ends, ("C0", "C3"), labels, strict=True):
                axes.plot(end, row + shift, marker, color=colour, label=label)
            labels = [None, None]
    axes.axvline(0.5, color="0.6", lw=1, zorder=0)
    axes.set_yticks(range(len(arms)), arms)
    axes.set_xlabel("ROC AUC, TOP phase I, mean over seeds")
    axes.set_title("Who chooses the epoch")
    axes.legend(ncols=2, **BELOW)
    axes.grid(axis="x", alpha=0.3)
