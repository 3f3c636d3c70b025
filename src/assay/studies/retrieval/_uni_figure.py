"""The figure of the hashing study: seen against unseen, mAP by bits, the other sets, the controls."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.lab import Evidence

ARMS = ("pca-itq", "centre-only", "pair-only", "two-codes", "no-align", "no-moh", "unihash", "real-valued")
SHADES = {arm: f"C{i}" for i, arm in enumerate(ARMS)}
MINOR = {"unihash-centre": "^", "unihash-pair": "v", "tied-gates": "s", "no-private": "D", "dense-gates": "P"}
BITS = {"bits-16": 16, "main": 32, "bits-64": 64}


def draw_figure(evidence: Evidence) -> Any:
    """Four panels; means and 95 % intervals over seeds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12.5, 9.5), layout="constrained")
    draw_scatter(axes[0, 0], evidence)
    draw_bits(axes[0, 1], evidence)
    draw_sets(axes[1, 0], evidence)
    draw_controls(axes[1, 1], evidence)
    return figure


def draw_scatter(axis: Any, evidence: Evidence) -> None:
    """Seen against unseen mAP on the main set; curves of equal harmonic mean."""
    from matplotlib.patches import Ellipse

    points = []
    for arm in evidence.arms:
        x, x_low, x_high = evidence.mean_interval("map_seen", arm, "main")
        y, y_low, y_high = evidence.mean_interval("map_unseen", arm, "main")
        if not np.isfinite([x, y]).all():
            continue
        points.append((x, y))
        if arm in MINOR:
            axis.plot(x, y, MINOR[arm], color=SHADES["unihash"], mfc="none", ms=7, label=arm)
            continue
        axis.plot(x, y, "o", color=SHADES[arm], label=arm)
        if np.isfinite([x_low, y_low]).all():
            axis.add_patch(Ellipse((x, y), x_high - x_low, y_high - y_low, fc=SHADES[arm], ec=SHADES[arm], alpha=0.15))
    if points:
        right, top = np.max(points, axis=0)
        axis.set_xlim(0, right * 1.12)
        low = min(y for _, y in points)
        axis.set_ylim(max(0, low - 0.35 * (top - low) - 0.01), top + 0.25 * (top - low) + 0.01)
        x = np.linspace(0.01, right * 1.12, 200)
        for mean in np.arange(0.05, 1, 0.05):
            y = np.where(x > mean / 2, mean * x / np.maximum(2 * x - mean, 1e-9), np.nan)
            axis.plot(x, y, color="0.85", lw=0.8, zorder=0)
    axis.set_xlabel(evidence.label("map_seen"))
    axis.set_ylabel(evidence.label("map_unseen"))
    axis.set_title("Main set, 32 bits (grey: equal harmonic mean)")
    axis.legend(fontsize=7, ncols=2)


def draw_bits(axis: Any, evidence: Evidence) -> None:
    """Seen (full) and unseen (broken) mAP by the length of a code."""
    for arm in ("pca-itq", "centre-only", "pair-only", "two-codes", "unihash"):
        for metric, style in (("map_seen", "-o"), ("map_unseen", "--o")):
            there = [condition for condition in BITS if condition in evidence.conditions_of(arm)]
            means = [evidence.mean_interval(metric, arm, condition)[0] for condition in there]
            label = arm if metric == "map_seen" else None
            axis.plot([BITS[condition] for condition in there], means, style, color=SHADES[arm], ms=4, label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(BITS.values()), [str(bits) for bits in BITS.values()])
    axis.set_xlabel("bits")
    axis.set_ylabel("mAP")
    axis.set_title("Length of a code (full: seen, broken: unseen)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_sets(axis: Any, evidence: Evidence) -> None:
    """Harmonic means on every set, in galleries of their own (filled) and of all classes (hollow)."""
    arms = [arm for arm in ARMS if arm in evidence.arms]
    for i, condition in enumerate(("main", "coil-20", "digits")):
        for row, arm in enumerate(arms):
            if condition not in evidence.conditions_of(arm):
                continue
            mean, low, high = evidence.mean_interval("hmean_map", arm, condition)
            place = row + 0.22 * (1 - i)
            axis.plot([low, high], [place] * 2, color=f"C{i}", lw=2)
            axis.plot(mean, place, "o", color=f"C{i}", ms=5, label=condition if arm == "centre-only" else None)
            axis.plot(
                evidence.mean_interval("hmean_open", arm, condition)[0], place, "o", color=f"C{i}", mfc="none", ms=5
            )
    axis.plot([], [], "o", color="0.3", mfc="none", label="gallery of all classes")
    axis.set_yticks(range(len(arms)), arms)
    axis.invert_yaxis()
    axis.set_xlabel(evidence.label("hmean_map"))
    axis.set_title("Three sets, 32 bits")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4)


def draw_controls(axis: Any, evidence: Evidence) -> None:
    """Unseen mAP after training on permuted labels, and seen mAP where no class is held back."""
    arms = ("pca-itq", "centre-only", "pair-only", "unihash")
    shown = (("shuffled", "map_unseen", "permuted labels: unseen"), ("main", "map_unseen", "true labels: unseen"),
             ("all-seen", "map_seen", "no class held back: seen"))  # fmt: skip
    for i, (condition, metric, words) in enumerate(shown):
        for row, arm in enumerate(arms):
            if arm not in evidence.arms or condition not in evidence.conditions_of(arm):
                continue
            mean, low, high = evidence.mean_interval(metric, arm, condition)
            place = row + 0.2 * (i - 1)
            axis.plot([low, high], [place] * 2, color=f"C{i + 3}", lw=2)
            axis.plot(mean, place, "o", color=f"C{i + 3}", label=words if row == 0 else None)
    axis.set_yticks(range(len(arms)), arms)
    axis.invert_yaxis()
    axis.set_xlabel("mAP")
    axis.set_title("Controls, 32 bits")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
