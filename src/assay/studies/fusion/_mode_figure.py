"""The figure of 2501.06823: arms in three settings, what the Cauchy loss does, and who chooses the epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.lab import Evidence


def draw(evidence: Evidence, bins: int) -> Any:
    """A matplotlib figure; `bins` is the number of bins of the histograms of p."""
    import matplotlib.pyplot as plt

    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(14, 4.6), layout="constrained", width_ratios=(1.4, 1, 1)
    )
    arms = list(evidence.arms)[::-1]
    shown = (
        ("top", "C0", "TOP phase I"),
        ("sim-match", "C1", "simulated matches"),
        ("sim-alone", "C2", "no pair matters"),
    )
    for i, (condition, colour, words) in enumerate(shown):
        label = words
        for row, arm in enumerate(arms):
            if len(evidence.values("roc_auc", arm, condition)) == 0:
                continue
            mean, low, high = evidence.mean_interval("roc_auc", arm, condition)
            height = row + 0.22 * (1 - i)
            left.plot([max(low, 0.2), min(high, 1.0)], [height] * 2, color=colour, lw=2)
            left.plot(mean, height, "o", color=colour, label=label)
            label = None
    left.axvline(0.5, color="0.6", lw=1, zorder=0)
    left.set_yticks(range(len(arms)), arms)
    left.set_xlabel("ROC AUC on test trials (95 % interval)")
    left.legend(fontsize=8)
    left.grid(axis="x", alpha=0.3)

    edges = (np.arange(bins) + 0.5) / bins
    for arm, colour in (("mexa", "C0"), ("no-cauchy", "C1"), ("mexa-published", "C3")):
        share = evidence.series("p_histogram", arm, "sim-match")
        if share.size:
            middle.plot(edges, share.mean(axis=0), "o-", ms=3, color=colour, label=arm)
    middle.set_xlabel("p of a token (simulated matches)")
    middle.set_ylabel("share of tokens")
    middle.set_title("What the Cauchy loss does to routers")
    middle.legend(fontsize=8)
    middle.grid(alpha=0.3)

    for row, arm in enumerate(arms):
        for condition, marker in (("top", "o"), ("top-permuted", "s")):
            honest = evidence.values("roc_auc", arm, condition)
            flattered = evidence.values("roc_test_selected", arm, condition)
            if len(honest) == 0 or len(flattered) == 0 or not np.isfinite(flattered).any():
                continue
            height, first = row + (0.12 if condition == "top" else -0.12), row == len(arms) - 2
            ends = [float(np.nanmean(honest)), float(np.nanmean(flattered))]
            right.plot(ends, [height] * 2, color="0.6", lw=1.5, zorder=1)
            shuffled = "" if condition == "top" else ", shuffled outcomes"
            right.plot(ends[0], height, marker, color="C0", label=f"validation trials{shuffled}" if first else None)
            right.plot(ends[1], height, marker, color="C3", label=f"test trials{shuffled}" if first else None)
    right.axvline(0.5, color="0.6", lw=1, zorder=0)
    right.set_yticks(range(len(arms)), arms)
    right.set_xlabel("ROC AUC, TOP phase I")
    right.set_title("Who chooses the epoch")
    right.legend(fontsize=7)
    right.grid(axis="x", alpha=0.3)
    return figure
