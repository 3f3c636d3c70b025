"""Dawid-Skene beside crowd-kit's, and grouping, on one machine in one run."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.data.tables.box_table import simulate_crowd
from assay.methods.labels.cyto_crowd import Votes, group_boxes, infer_labels
from benchmarks._measure import ratio, row, seconds, side_by_side

TASKS, VOTES, WORKERS, CLASSES, ROUNDS = 10_000, 5, 50, 5, 50


def rows() -> list[dict[str, Any]]:
    """Time against crowd-kit at equal rounds and equal labels; without crowd-kit only what needs no peer."""
    item, who, said = _votes()

    def ours() -> np.ndarray:
        return infer_labels(item, who, said, CLASSES, "dawid-skene", rounds=ROUNDS, smoothing=0.0).labels

    found = [_grouping()]
    try:
        import pandas as pd
        from crowdkit.aggregation import DawidSkene
    except ImportError:
        return [*found, row(f"Dawid-Skene, {TASKS} tasks x {VOTES} votes", seconds(ours), "s")]
    table = pd.DataFrame({"task": item, "worker": who, "label": said})

    def theirs() -> np.ndarray:
        return DawidSkene(n_iter=ROUNDS, tol=0).fit_predict(table).sort_index().to_numpy()

    times = ratio(side_by_side(ours, theirs, repeats=3, warm=0))
    same = float((ours() == theirs()).mean())
    what = f"Dawid-Skene, {TASKS} tasks x {VOTES} votes"
    return [
        *found,
        row(f"{what}: time over crowd-kit's", times, "times", at_most=1),
        row(f"{what}: labels equal to crowd-kit's", same, "share", at_least=0.999),
    ]


def _votes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, CLASSES, TASKS)
    skill = rng.uniform(0.5, 0.95, WORKERS)
    item = np.repeat(np.arange(TASKS), VOTES)
    who = rng.random((TASKS, WORKERS)).argsort(axis=1)[:, :VOTES].ravel()
    right = rng.random(len(item)) < skill[who]
    return item, who, np.where(right, truth[item], (truth[item] + rng.integers(1, CLASSES, len(item))) % CLASSES)


def _grouping() -> dict[str, Any]:
    people = {"accuracy": (0.9,) * 4, "detection": (0.6,) * 4, "false_boxes": (1.0,) * 4}
    table, _ = simulate_crowd(446, np.random.default_rng(0), class_shares=(1.0,) * 5, objects=14, **people)
    votes = Votes(table.boxes, table.labels, table.annotators, table.images, 5)
    least = min(seconds(lambda: group_boxes(votes)) for _ in range(3))
    return row(f"grouping of {len(votes.labels)} boxes in 446 images", least, "s", at_most=2)
