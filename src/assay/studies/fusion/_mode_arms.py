"""The contenders of 2501.06823 on one task: how each is trained, and how its epoch is chosen on validation trials."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.data.tables.top_trials import Trials
from assay.data.tables.trial_features import TrialFeatures
from assay.data.trials_sim import SimulatedTrials
from assay.errors import require
from assay.methods.fusion._mode_fit import Fit, fit, outputs
from assay.methods.fusion.mode_experts import MEOut, ModeExperts, freeze_experts
from assay.metrics.classification import roc_auc

Array = NDArray[np.float64]
MODES = ("drug", "disease", "criteria")
PARTS = {"criteria": ("inclusion", "exclusion")}
NAMES = ("drug", "disease", "inclusion", "exclusion")


@dataclass(frozen=True)
class Sets:
    """Trials as sets of tokens: part -> (N, L, D), part -> (N, L); outcomes; if known, true relevance and log-odds."""

    tokens: dict[str, Tensor]
    pad: dict[str, Tensor]
    y: Array
    relevant: Mapping[str, NDArray[np.bool_]] | None = None
    logit: Array | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.int64]) -> Sets:
        at = torch.as_tensor(rows)
        known = None if self.relevant is None else {k: v[rows] for k, v in self.relevant.items()}
        logit = None if self.logit is None else self.logit[rows]
        tokens, pad = ({k: v[at] for k, v in table.items()} for table in (self.tokens, self.pad))
        return Sets(tokens, pad, self.y[rows], known, logit)

    @property
    def dims(self) -> dict[str, int]:
        return {mode: self.tokens[PARTS.get(mode, (mode,))[0]].shape[2] for mode in MODES}


@dataclass(frozen=True)
class Task:
    """Where a contender learns, where its epoch and threshold are chosen, and where it is judged."""

    train: Sets
    valid: Sets
    test: Sets
    watched: bool = False  # whether test figures of every epoch are asked for


@dataclass(frozen=True)
class Settings:
    """What was tuned: of mode experts (and its ablations), of the plain network, of XGBoost, of logistic regression."""

    fit: Fit = field(default_factory=Fit)
    e: int = 16
    layers: int = 1
    theta: float = 0.25
    net: Fit = field(default_factory=Fit)
    net_width: int = 32
    net_dropout: float = 0.2
    boost: Mapping[str, float] = field(default_factory=dict)
    inverse_penalty: float = 0.01


@dataclass
class Outcome:
    """Probabilities on validation and test trials, and what else is worth telling."""

    valid: Array
    test: Array
    epochs: list[tuple[float, float]] = field(default_factory=list)  # ROC on validation and on test, epoch by epoch
    out: MEOut | None = None
    parameters: int = 0


def simulated_sets(made: SimulatedTrials) -> Sets:
    return Sets(
        {k: torch.from_numpy(v) for k, v in made.tokens.items()},
        {k: torch.from_numpy(v) for k, v in made.pad.items()},
        made.label,
        made.relevant,
        made.logit,
    )


def trial_sets(features: TrialFeatures, trials: Trials) -> tuple[Sets, list[str]]:
    """Tokens of trials read from a file, and what could not be read of them."""
    tokens, pad, warnings = features.tokens(trials)
    return Sets(
        {k: torch.from_numpy(v) for k, v in tokens.items()},
        {k: torch.from_numpy(v) for k, v in pad.items()},
        trials.label,
    ), warnings


def pooled(tokens: Mapping[str, Tensor], pad: Mapping[str, Tensor]) -> Tensor:
    """Mean token and number of tokens of every part, joined: what a table of the trials would hold. (N, F)"""
    columns = []
    for name in NAMES:
        real = ~pad[name]
        count = real.sum(1, keepdim=True)
        clean = tokens[name].masked_fill(pad[name][..., None], 0.0)
        columns += [clean.sum(1) / count.clamp(min=1), count.to(clean)]
    return torch.cat(columns, 1)


class PooledNet(nn.Module):
    """Two hidden layers over `pooled` features, standardised by the training trials."""

    def __init__(self, train: Sets, width: int, dropout: float) -> None:
        super().__init__()
        x = pooled(train.tokens, train.pad)
        self.register_buffer("mean", x.mean(0))
        self.register_buffer("deviation", x.std(0).clamp(min=1e-3))
        self.layers = nn.Sequential(
            nn.Linear(x.shape[1], width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, tokens: Mapping[str, Tensor], pad: Mapping[str, Tensor]) -> MEOut:
        x = (pooled(tokens, pad) - self.mean) / self.deviation
        return MEOut(self.layers(x).squeeze(-1), {}, {}, {}, {})


def build(arm: str, train: Sets, how: Settings) -> tuple[nn.Module, Fit]:
    """An untrained network of an arm and how it is trained."""
    if arm == "ffnn":
        return PooledNet(train, how.net_width, how.net_dropout), how.net
    theta = 0.0 if arm == "no-select" else how.theta
    pairs = () if arm == "self-only" else None
    model = ModeExperts(train.dims, how.e, layers=how.layers, theta=theta, pairs=pairs, parts=PARTS, dropout=0.0)
    rates = {"no-cauchy": {"rho1": 0.0}, "no-contrast": {"rho2": 0.0}}.get(arm, {})
    return (freeze_experts(model) if arm == "frozen-experts" else model), replace(how.fit, **rates)


def run(arm: str, task: Task, seed: int, how: Settings) -> Outcome:
    """Train an arm on a task. Test trials serve for figures only: at the end and, where asked for, after each epoch."""
    if arm == "logreg":
        return logistic(task, how.inverse_penalty)
    if arm == "xgboost":
        return boosted(task, how.boost, seed)
    torch.manual_seed(seed)
    model, rates = build(arm, task.train, how)
    return trained(model, rates, task, seed)


def trained(model: nn.Module, rates: Fit, task: Task, seed: int) -> Outcome:
    """A network at the epoch with the highest ROC AUC on validation trials (the first of equals)."""
    found = Outcome(np.zeros(0), np.zeros(0), parameters=sum(p.numel() for p in model.parameters() if p.requires_grad))
    best, state = -1.0, model.state_dict()

    def after_epoch(_: int, model: nn.Module) -> None:
        nonlocal best, state
        valid = roc_auc(task.valid.y, probability(model, task.valid))
        test = roc_auc(task.test.y, probability(model, task.test)) if task.watched else np.nan
        found.epochs.append((valid, test))
        if valid > best:
            best, state = valid, deepcopy(model.state_dict())

    y = torch.as_tensor(task.train.y, dtype=torch.float32)
    fit(model, task.train.tokens, task.train.pad, y, rates, torch.Generator().manual_seed(seed), after_epoch)
    model.load_state_dict(state)
    found.valid = probability(model, task.valid)
    found.out = outputs(model, task.test.tokens, task.test.pad)
    found.test = torch.sigmoid(found.out.logit.double()).numpy()
    return found


def probability(model: nn.Module, sets: Sets) -> Array:
    return torch.sigmoid(outputs(model, sets.tokens, sets.pad).logit.double()).numpy()


def logistic(task: Task, inverse_penalty: float) -> Outcome:
    """Logistic regression on standardised pooled features, classes balanced."""
    linear = require("sklearn.linear_model", "fusion")
    x = [pooled(s.tokens, s.pad).double().numpy() for s in (task.train, task.valid, task.test)]
    mean, deviation = x[0].mean(axis=0), np.maximum(x[0].std(axis=0), 1e-3)
    model = linear.LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=2000)
    model.fit((x[0] - mean) / deviation, task.train.y)
    valid, test = (model.predict_proba((part - mean) / deviation)[:, 1] for part in x[1:])
    return Outcome(valid, test, parameters=x[0].shape[1] + 1)


def boosted(task: Task, settings: Mapping[str, float], seed: int) -> Outcome:
    """XGBoost on pooled features, as many rounds as the validation trials ask for, classes balanced."""
    boost = require("xgboost", "fusion")
    parts = (task.train, task.valid, task.test)
    train, valid, test = (boost.DMatrix(pooled(s.tokens, s.pad).numpy(), s.y) for s in parts)
    positive = task.train.y.sum()
    how = {
        "objective": "binary:logistic", "eval_metric": "auc", "nthread": 1, "seed": seed, "tree_method": "hist",
        "scale_pos_weight": (len(task.train) - positive) / positive, **settings,
    }  # fmt: skip
    if "max_depth" in how:
        how["max_depth"] = int(how["max_depth"])
    told: dict[str, Any] = {}
    watched = [(valid, "valid"), *([(test, "test")] if task.watched else [])]
    if task.watched:  # early stopping heeds the last set named, and the test trials must not choose
        watched.reverse()
    model = boost.train(
        how, train, num_boost_round=300, evals=watched, early_stopping_rounds=25, evals_result=told, verbose_eval=False
    )
    rounds = (0, model.best_iteration + 1)
    aucs = told["valid"]["auc"]
    return Outcome(
        model.predict(valid, iteration_range=rounds).astype(float),
        model.predict(test, iteration_range=rounds).astype(float),
        list(zip(aucs, told.get("test", {}).get("auc", [np.nan] * len(aucs)), strict=True)),
    )
