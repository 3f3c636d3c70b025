"""How the learning rates and the difficulty of the simulated sets in the study of 2602.06523 were chosen.

    python -m assay.studies.adaptation._micro_tuning levels|rates [CONDITION ...]

Judged windows are never seen here. Of the real set only the persons who are in the training part of every judged split
take part (`ALWAYS_TRAIN`), each held out once. Simulated sets are drawn with seeds that no judged set has, and only
their training persons are used, the last third of them held out. Every network gets the same rates, starts, updates
and batches.

- `levels`: the noise of `periodic` and the tremble of `episodic` at which the mean held-out macro F1 of `micro` and
  `micro-uni`, each at its best rate, comes nearest to `AIM`: neither found by both nor by none.
- `rates`: for every arm and condition the rate of the best mean held-out macro F1.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch

from assay.studies.adaptation._micro_arms import NETS, SMALL, Task, held_out, reached, split, train
from assay.studies.adaptation.micro_conv_lstm import (
    ALWAYS_TRAIN,
    ARM_CONDITIONS,
    JUDGED,
    NETWORKS,
    budget,
    simulated,
    watch,
)

GRID = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (1000, 1001)
LEVELS = {"periodic": (0.25, 0.5, 1.0, 2.0), "episodic": (0.15, 0.25, 0.4, 0.6)}
AIM = 80.0


def development(condition: str, seed: int, level: float | None = None) -> list[Task]:
    """Tasks whose training and test windows both come from training rows."""
    if condition == "watch":
        windows, persons = watch("pocket")
        known = windows.take(np.nonzero(np.isin(windows.subjects, persons[:ALWAYS_TRAIN]))[0])
        found = []
        for person in persons[:ALWAYS_TRAIN]:
            test = known.subjects == person
            found.append(split(known, np.nonzero(~test)[0], np.nonzero(test)[0]))
        return found
    task = simulated(condition, seed, "pocket", level)
    persons = sorted(set(task.people.tolist()))
    return [held_out(task, persons[-len(persons) // 3 :])]


def mean_f1(arm: str, condition: str, lr: float, level: float | None = None) -> float:
    """Mean held-out macro F1 of an arm at a learning rate; one start per task on the real set, `SEEDS` on others."""
    make, how = SMALL.get(arm, NETS[arm]), replace(budget("pocket"), lr=lr)
    seeds = SEEDS[:1] if condition == "watch" else SEEDS
    scores = [
        reached(train(make, task, seed + i, how), task)
        for seed in seeds
        for i, task in enumerate(development(condition, seed, level))
    ]
    return float(np.mean(scores))


def levels() -> None:
    for condition, tried in LEVELS.items():
        for level in tried:
            best = {a: max((mean_f1(a, condition, lr, level), lr) for lr in GRID[1:]) for a in ("micro", "micro-uni")}
            mean = np.mean([score for score, _ in best.values()])
            print(f"{condition} {level}: {best} mean {mean:.1f}, {abs(mean - AIM):.1f} from the aim", flush=True)


def rates(conditions: list[str]) -> None:
    for condition in conditions or JUDGED:
        for arm in (a for a in NETWORKS if condition in ARM_CONDITIONS.get(a, JUDGED)):
            scores = {lr: round(mean_f1(arm, condition, lr), 2) for lr in GRID}
            print(f'("{arm}", "{condition}"): {max(GRID, key=lambda lr: scores[lr]):g},  # {scores}', flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["levels"]:
        levels()
    elif sys.argv[1:2] == ["rates"]:
        rates(sys.argv[2:])
    else:
        sys.exit(__doc__)
