"""The figure: the gain and its control side by side, where the energy lies, what closes the gap, and edits."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t as student_t

from assay.lab import Evidence
from assay.studies.vision_language._iso_measures import BINS, SCALES, SHOWN

GAINS = (("cosine", "sae"), ("energy", "sae"), ("mp-cosine", "mp-sae"))
COLOURS = {
    "raw": "0.35", "mean-shift": "C4", "drop-k": "C5", "sae": "C0", "cosine": "C3", "energy": "C1", "mp-sae": "C9",
    "mp-cosine": "C6",
}  # fmt: skip


def draw_figure(evidence: Evidence) -> Any:
    """Six panels; the first two hold the gain and its negative control on one scale."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(14.5, 8.6), layout="constrained")
    draw_gain(axes[0, 0], evidence, "mcc", 1, "Concepts recovered: gain in MCC")
    draw_gain(axes[0, 1], evidence, "split_rate", -1, "Concepts split in two atoms: how many fewer")
    draw_energy(axes[0, 2], evidence)
    draw_trade(axes[1, 0], evidence)
    draw_plane(axes[1, 1], evidence)
    draw_edits(axes[1, 2], evidence)
    return figure


def draw_gain(axis: Any, evidence: Evidence, metric: str, sign: int, title: str) -> None:
    """What a penalty gains over the same autoencoder without, seed by seed: equal energies beside the control."""
    axis.axvspan(0.5, 1.5, color="0.92", zorder=0)
    axis.axhline(0, color="0.3", lw=1)
    for i, (arm, base) in enumerate(GAINS):
        for x, condition in enumerate(("equal", "unequal")):
            gain = sign * (evidence.values(metric, arm, condition) - evidence.values(metric, base, condition))
            place = x + 0.22 * (i - 1)
            axis.plot(np.full(len(gain), place + 0.05), gain, ".", color=COLOURS[arm], ms=4, alpha=0.6)
            half = student_t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
            axis.plot([place] * 2, [gain.mean() - half, gain.mean() + half], color=COLOURS[arm], lw=2.5)
            axis.plot(place, gain.mean(), "o", color=COLOURS[arm], label=f"{arm} over {base}" if x == 0 else None)
    axis.set_xlim(-0.5, 1.5)
    axis.set_xticks((0, 1), ("equal energy holds", "NEGATIVE CONTROL:\nequal energy violated"))
    axis.set_title(title)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="best")


def draw_energy(axis: Any, evidence: Evidence) -> None:
    """Where the energy lies between texts only and pictures only."""
    edges = np.linspace(0, 1, BINS + 1)
    for arm in ("sae", "cosine", "energy"):
        shares = evidence.series("mu_energy", arm, "real").mean(axis=0)
        axis.stairs(shares, edges, color=COLOURS[arm], lw=2, label=arm)
    for limit in (0.05, 0.95):
        axis.axvline(limit, color="0.6", lw=0.8, ls="--")
    axis.set_xlabel("modality of an atom: 0 texts only, 1 pictures only")
    axis.set_ylabel("share of the energy")
    axis.set_title("Real embeddings: where the energy lies")
    axis.legend(fontsize=8)


def draw_trade(axis: Any, evidence: Evidence) -> None:
    """Recall against the gap that is left."""
    for arm in evidence.arms:
        gap, recall = (evidence.values(metric, arm, "real") for metric in ("gap", "recall"))
        axis.plot(gap, recall, "o", color=COLOURS[arm], ms=4, alpha=0.6)
        axis.annotate(
            arm, (gap.mean(), recall.mean()), xytext=(5, 6), textcoords="offset points", color=COLOURS[arm], fontsize=9
        )
    axis.margins(x=0.14, y=0.08)
    axis.set_xlabel(evidence.label("gap"))
    axis.set_ylabel(evidence.label("recall"))
    axis.set_title("Real embeddings: closing the gap and what it costs")
    axis.grid(alpha=0.3)


def draw_plane(axis: Any, evidence: Evidence) -> None:
    """Pictures and texts of the first seed before and after."""
    points = evidence.series("plane", "cosine", "real")
    if not points.size:
        return
    before, after = points[0].reshape(2, -1, 2)
    shift = 2.6
    for x, rows, word in ((0.0, before, "before"), (shift, after, "bimodal atoms only")):
        half = min(SHOWN, len(rows) // 2)
        scale = np.abs(rows).max()
        for part, colour, name in ((rows[:half], "C0", "pictures"), (rows[half:], "C1", "texts")):
            axis.plot(part[:, 0] / scale + x, part[:, 1] / scale, ".", color=colour, ms=4, alpha=0.7,
                      label=name if x == 0 else None)  # fmt: skip
        axis.text(x, 1.12, word, ha="center")
    axis.set_ylim(-1.25, 1.35)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title("Two principal axes (cosine, one seed)")
    axis.legend(fontsize=8, loc="lower right")


def draw_edits(axis: Any, evidence: Evidence) -> None:
    """Recall of edits against how foreign the query is, over the weight of the words."""
    for arm in ("raw", "mean-shift", "sae", "cosine", "mp-cosine"):
        foreign, recall = (evidence.series(m, arm, "real").mean(axis=0) for m in ("edit_oods", "edit_recalls"))
        axis.plot(foreign, recall, "-o", color=COLOURS[arm], ms=4, label=arm)
    axis.set_xlabel("cosine distance of the query to its fifth nearest picture")
    axis.set_ylabel("recall@10 of the target")
    axis.set_title(f"Edits by words, weight {SCALES[0]:g} to {SCALES[-1]:g}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
