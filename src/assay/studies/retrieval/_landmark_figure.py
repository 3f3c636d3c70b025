"""The figure of the landmark study: quality, number of landmarks, growth, and some clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.lab import Evidence
from assay.studies.retrieval._landmark_data import REAL, digits
from assay.studies.retrieval._landmark_scaling import SIZES

SWEEP = (2, 5, 10, 20)  # landmarks a cluster
SHOWN = (5, 12)  # clusters and pictures of each
GROWN = ("sklearn-spectral", "lsr-full", "lsc", "landmark-raw", "sdsnet")


def draw_figure(evidence: Evidence) -> Any:
    """Quality and number of landmarks above, seconds and memory against n in the middle, clusters of digits below."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 11.5), layout="constrained")
    axes = figure.subplot_mosaic([["quality", "sweep"], ["seconds", "peak_mb"], ["shown", "shown"]],
                                 height_ratios=(1.25, 1, 0.6))  # fmt: skip
    draw_quality(axes["quality"], evidence)
    draw_sweep(axes["sweep"], evidence)
    draw_growth(axes["seconds"], evidence, "seconds")
    draw_growth(axes["peak_mb"], evidence, "peak_mb")
    draw_clusters(axes["shown"], evidence)
    return figure


def draw_quality(axis: Any, evidence: Evidence) -> None:
    """Accuracy of every arm on the real sets."""
    arms = [arm for arm in evidence.arms if arm != "sklearn-spectral"]
    for shift, condition in zip((0.15, -0.15), REAL, strict=True):
        colour = f"C{REAL.index(condition)}"
        for row, arm in enumerate(arms):
            if condition not in evidence.conditions_of(arm):
                continue
            mean, low, high = evidence.mean_interval("acc", arm, condition)
            by_labels = evidence.values("acc_by_labels", arm, condition)
            by_labels = by_labels[np.isfinite(by_labels)]
            axis.plot([low, high], [row + shift] * 2, color=colour, lw=2)
            axis.plot(mean, row + shift, "o", color=colour, label=condition if arm == "kmeans" else None)
            if by_labels.size:
                axis.plot(by_labels.mean(), row + shift, "|", color="0.2", ms=9)
    axis.plot([], [], "|", color="0.2", label="setting chosen by labels")
    axis.set_yticks(range(len(arms)), arms)
    axis.set_xlabel(evidence.label("acc"))
    axis.set_title("Quality without labels (mean, 95 % interval)")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)


def draw_sweep(axis: Any, evidence: Evidence) -> None:
    """Accuracy against the number of landmarks."""
    for i, arm in enumerate(("lsc", "lsc-latent", "landmark-raw", "pretrained-only", "sdsnet")):
        for condition, style in zip(REAL, ("-o", "--s"), strict=True):
            values = evidence.series("acc_by_m", arm, condition)
            if values.size:
                label = arm if style == "-o" else None
                axis.plot(SWEEP, values.mean(axis=0), style, color=f"C{i}", ms=4, label=label)
    axis.set_xscale("log")
    axis.set_xticks(SWEEP, [str(m) for m in SWEEP])
    axis.minorticks_off()
    axis.set_xlabel("landmarks a cluster")
    axis.set_ylabel(evidence.label("acc"))
    axis.set_title(f"Landmarks ({REAL[0]} full lines, {REAL[1]} broken)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_growth(axis: Any, evidence: Evidence, metric: str) -> None:
    """Cost against n with fitted exponents; hollow where an n x n matrix alone would need that much."""
    sizes = np.array(SIZES, dtype=float)
    for i, arm in enumerate(GROWN):
        cost = np.array([_mean(evidence, metric, arm, f"n-{n}") for n in SIZES])
        there = np.isfinite(cost) & (cost > 0)
        if there.sum() >= 2:
            slope = np.polyfit(np.log(sizes[there]), np.log(cost[there]), 1)[0]
            axis.plot(sizes[there], cost[there], "-o", color=f"C{i}", label=f"{arm}: n^{slope:.2f}")
        if metric == "peak_mb" and arm == GROWN[0]:
            need = np.array([_mean(evidence, "needed_mb", arm, f"n-{n}") for n in SIZES])
            axis.plot(sizes[~there], need[~there], "o", mfc="none", color="0.4", label="not run: one n x n matrix")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(SIZES, [f"{n // 1000}k" for n in SIZES])
    axis.minorticks_off()
    axis.set_xlabel("samples n")
    axis.set_ylabel(evidence.label(metric))
    axis.set_title("Growth, with fitted exponents")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_clusters(axis: Any, evidence: Evidence) -> None:
    """Digits nearest to the centre of the largest clusters, one seed."""
    axis.axis("off")
    found = evidence.series("shown", "sdsnet", "digits")
    if not found.size:
        return
    images = digits()[0][found[0].astype(int)].reshape(*SHOWN, 8, 8)
    tiles = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.5)
    axis.imshow(tiles.transpose(0, 2, 1, 3).reshape(SHOWN[0] * 10, SHOWN[1] * 10), cmap="gray")
    axis.set_title("sdsnet on digits, one seed: a row is a cluster, most central first")


def _mean(evidence: Evidence, metric: str, arm: str, condition: str) -> float:
    values: NDArray = evidence.values(metric, arm, condition)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else float("nan")
