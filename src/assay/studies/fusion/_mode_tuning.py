"""How every contender of 2501.06823 was tuned: the same number of random settings, on trials that are never judged.

    python -m assay.studies.fusion._mode_tuning [FAMILY ...] [ARM ...]

Two families of settings, `top` and `sim`. For `top` only the official training trials take part: three folds in turn
are held out, half of each to choose the epoch on and half to score. For `sim` a set is drawn with a seed that no judged
set has. Each of XGBoost, the plain network and mode experts gets `TRIED` random settings, logistic regression its whole
grid; the mean held-out ROC AUC decides. Ablations take the settings of `mexa`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from assay.data import samples
from assay.data.tables.top_trials import read_split
from assay.data.tables.trial_features import TrialFeatures
from assay.data.trials_sim import simulate_trials
from assay.methods.fusion._mode_fit import Fit
from assay.metrics.classification import roc_auc
from assay.studies.fusion._mode_arms import Settings, Task, run, simulated_sets, trial_sets
from assay.studies.fusion.mode_experts import EPOCHS, MATCH, SIZES

TRIED = 12
SEED = 100_000  # of simulated sets for tuning; judged ones have seeds below 1000

GRID: dict[str, dict[str, tuple[float, ...]]] = {
    "xgboost": {
        "max_depth": (2, 3, 4, 6, 8), "eta": (0.02, 0.05, 0.1, 0.3), "min_child_weight": (1, 3, 10),
        "subsample": (0.6, 0.8, 1.0), "colsample_bytree": (0.3, 0.6, 1.0), "lambda": (0.1, 1.0, 10.0),
    },
    "ffnn": {
        "lr": (1e-3, 3e-3, 1e-2, 3e-2), "decay": (1e-3, 1e-2, 1e-1), "net_width": (16, 32, 64, 128),
        "net_dropout": (0.0, 0.2, 0.5),
    },
    "mexa": {
        "lr": (3e-3, 1e-2, 2e-2), "decay": (1e-2, 1e-1), "rho1": (1e-5, 1e-4, 1e-3, 1e-2),
        "rho2": (1e-3, 1e-2), "eps": (0.1, 0.25, 0.5), "theta": (0.2, 0.25, 0.3),
    },
    "logreg": {"inverse_penalty": (1e-4, 1e-3, 1e-2, 1e-1, 1.0)},
}  # fmt: skip


def development(family: str) -> list[Task]:
    """Tasks made of trials that are not judged."""
    if family == "sim":
        n, valid, test = SIZES["pocket"]
        made = simulated_sets(simulate_trials(n + valid + test, SEED, match=MATCH))
        rows = np.arange(len(made))
        return [Task(made.take(rows[:n]), made.take(rows[n : n + valid]), made.take(rows[n + valid :]))]
    folder = samples.locate("top-clinical-trials")
    if folder is None:
        raise SystemExit("the TOP sample is not here")
    trials = read_split(folder)["train"]
    order, tasks = np.random.default_rng(0).permutation(len(trials)), []
    for fold in range(3):
        held = order[fold::3]
        kept = np.setdiff1d(order, held)
        features = TrialFeatures.fit(trials.take(kept))
        parts = [trial_sets(features, trials.take(r))[0] for r in (kept, held[::2], held[1::2])]
        tasks += [Task(*parts), Task(parts[0], parts[2], parts[1])]
    return tasks


def settings_of(arm: str, chosen: dict[str, Any], epochs: int) -> Settings:
    """Settings in which one arm has the chosen values."""
    fits = {k: v for k, v in chosen.items() if k in Fit.__dataclass_fields__}
    rest = {k: v for k, v in chosen.items() if k not in fits}
    if arm == "xgboost":
        return Settings(boost=chosen)
    if arm == "ffnn":
        return Settings(net=Fit(epochs=2 * epochs, **fits), **rest)
    return Settings(fit=Fit(epochs=epochs, **fits), **rest)


def score(arm: str, tasks: list[Task], how: Settings) -> float:
    """Mean held-out ROC AUC."""
    return float(np.mean([roc_auc(task.test.y, run(arm, task, 0, how).test) for task in tasks]))


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for family in [name for name in ("sim", "top") if name in names] or ["sim", "top"]:
        tasks = development(family)
        for arm in [name for name in GRID if name in names] or list(GRID):
            grid = GRID[arm]
            rng = np.random.default_rng(7)
            if arm == "logreg":
                tried: list[dict[str, Any]] = [{"inverse_penalty": c} for c in grid["inverse_penalty"]]
            else:
                tried = [{k: v[rng.integers(len(v))] for k, v in grid.items()} for _ in range(TRIED)]
            use = tasks if arm in ("logreg", "xgboost") else tasks[::2]
            found = []
            for chosen in tried:
                found.append(score(arm, use, settings_of(arm, chosen, EPOCHS["pocket"][family])))
                print(f"  {family} {arm} {found[-1]:.3f} {chosen}", flush=True)
            best = int(np.argmax(found))
            print(f"{family} {arm}: {tried[best]}  # {found[best]:.3f}, median {np.median(found):.3f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
