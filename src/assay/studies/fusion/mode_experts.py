"""MEXA-CTP: do experts for pairs of data types foresee how a clinical trial ends? (2501.06823)

Trials of the TOP benchmark, phase I, in its official split by time, where its files lie in the samples' folder; without
them a simulated set of the sample's size stands in, and the evidence then says so. Two simulated sets ask what the real
one is too small to answer: `sim-match`, where an outcome depends on which drug meets which disease (nothing that a mean
over tokens shows at once), and `sim-alone`, its control, where every token acts alone and experts should not help.

Every arm sees the same tokens: 15 molecular descriptors a drug, hashed levels of the ICD-10 hierarchy a disease, and a
truncated SVD of word counts a criterion, all scales fitted on training trials. Tables get the mean token of each kind
and the number of tokens. Epochs, boosting rounds and the threshold of F1 are chosen on validation trials; test trials
are scored once, except in C5, which asks what choosing on them would have added.

Settings come from `_mode_tuning`: twelve random ones each for XGBoost, the plain network and mode experts, on the
training trials of TOP and on one simulated set whose seed is not judged. The simulator itself (length of a kind's
direction, noise, strength of the match) was settled on a set not judged either, until networks could learn something
at this scale. Ablations and `frozen-experts` keep the settings of `mexa`. After tuning, the simulated sets got 20
passes instead of 15, and the plain network twice that. One layer a stack instead of two keeps the pocket scale in its
budget.

On real trials every seed but the first draws each part anew with replacement, so seeds are resamples of one data set
and intervals use the spread over seeds undivided. Simulated sets are new in every seed and judged as independent.

What to keep in mind with the verdicts:

- The sample at hand keeps every k-th row of TOP: 160, 60 and 60 trials. Sixty test trials leave an error of about 0.07
  on a ROC AUC; differences like the paper's are out of reach, and `inconclusive` is what an honest study of it says.
- Average precision starts at the share of successes, which differs by phase and part: compare it within a condition.
- Once routers are trained, the published weight of the Cauchy loss tends to empty them: in first trials, on a set that
  is not judged, it left no token above the threshold, and what is dropped gets no gradient from the outcome that could
  bring it back. In the public code routers are not among the parameters, so it does not show there. Tuning chose a
  fiftieth of that weight or less; `mexa-published` has the published one, and C6 judges what it keeps.
- C5 cannot be negative: the best of several epochs on the test trials is at least the one that validation trials
  choose. What is judged is its size, against 0.01.
- `relevance_auc` asks whether p singles out the tokens that bear on a simulated outcome. Where it is near one half, p
  tells what the model weighs and not what matters, and the same holds for what `apply` lists as selected.
- HINT, the paper's strongest rival, needs data from wet labs and is not trained again here.

What came out, and why:

- On TOP no two arms can be told apart, and the simplest ones have the higher means: there are only about as many
  training trials as numbers that describe one.
- On simulated matches the mean of mode experts lies above those of XGBoost, of self-attention alone and of experts that
  are not trained: experts do find pairs. Over five seeds the difference to untrained experts survives the correction
  for several tests, the others do not. The plain network is not behind: a product of two means is a smooth function of
  the mean tokens, which it learns in fewer steps.
- Neither loss helps here, and keeping all tokens is steadier than dropping some: a token that falls below the threshold
  early is lost before the pairs are learned.
- Choosing the epoch on test trials lifts every arm about as far as the paper's lead over its rivals, shuffled outcomes
  included.

Full scale: `--data FOLDER` with the official files of phases I to III, criteria through BioBERT's first token, the
published size and number of passes. Diseases keep the hashed hierarchy in place of the authors' graph embedding.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.data import samples
from assay.data.tables.top_trials import PHASES, read_split, read_trials
from assay.data.tables.trial_features import TrialFeatures
from assay.data.trials_sim import simulate_trials
from assay.errors import InputError
from assay.lab import Better, Bound, Evidence, Gate, Study, resample_groups
from assay.methods.fusion._mode_fit import Fit
from assay.methods.fusion.mode_experts import MEOut
from assay.metrics.calibration import brier_score
from assay.metrics.classification import best_f1_threshold, bootstrap_interval, f1_score, roc_auc
from assay.metrics.ranking import average_precision
from assay.studies.fusion._mode_apply import (
    Predictor,
    embedding,
    judged_report,
    load,
    parts_by_time,
    predict,
    save,
    selected_rows,
    write_csv,
)
from assay.studies.fusion._mode_arms import (
    Outcome,
    Sets,
    Settings,
    Task,
    build,
    run,
    simulated_sets,
    trained,
    trial_sets,
)
from assay.studies.fusion._mode_figure import draw

SIZES = {"smoke": (96, 48, 96), "pocket": (1024, 256, 768), "full": (20_000, 4_000, 20_000)}  # simulated trials
EPOCHS = {
    "smoke": {"top": 2, "sim": 2},
    "pocket": {"top": 15, "sim": 20},
    "full": {"top": 100, "sim": 100},
}
MATCH = 6.0
BINS = 20
TOP = "top-clinical-trials"

# Chosen by `python -m assay.studies.fusion._mode_tuning` on trials that are not judged.
TUNED = {
    "top": Settings(
        fit=Fit(lr=1e-2, decay=0.1, rho1=1e-3, rho2=1e-2, eps=0.5), theta=0.3,
        net=Fit(lr=3e-2, decay=1e-2), net_width=64, net_dropout=0.5, inverse_penalty=1e-4,
        boost={"max_depth": 8, "eta": 0.02, "min_child_weight": 1, "subsample": 0.6, "colsample_bytree": 0.3,
               "lambda": 10},
    ),
    "sim": Settings(
        fit=Fit(lr=3e-3, decay=1e-2, rho1=1e-4, rho2=1e-3, eps=0.5), theta=0.2,
        net=Fit(lr=1e-2, decay=0.1), net_width=128, net_dropout=0.5, inverse_penalty=1e-2,
        boost={"max_depth": 8, "eta": 0.1, "min_child_weight": 10, "subsample": 1.0, "colsample_bytree": 0.6,
               "lambda": 10},
    ),
}  # fmt: skip
PUBLISHED = {"rho1": 0.05, "rho2": 0.01, "eps": 0.25}  # with theta 0.25

ARMS = {
    "logreg": "logistic regression on mean tokens",
    "xgboost": "XGBoost on mean tokens, tuned",
    "ffnn": "plain network on mean tokens, tuned",
    "mexa": "mode experts, tuned",
    "mexa-published": "mode experts with the published weights of their losses",
    "no-cauchy": "ablation: no Cauchy loss",
    "no-contrast": "ablation: no contrast",
    "no-select": "ablation: no token is dropped (theta = 0)",
    "self-only": "ablation: no experts, all tokens joined by self-attention",
    "frozen-experts": "as the public code trains: layers, routers and experts stay as drawn",
}
NETS = ("mexa", "mexa-published", "no-cauchy", "no-contrast", "no-select", "self-only", "frozen-experts")
BOTH = ("top", "sim-match")
ARM_CONDITIONS = {
    "mexa-published": BOTH,
    **dict.fromkeys(("no-cauchy", "no-contrast", "no-select", "self-only"), BOTH),
    "frozen-experts": BOTH,
    "logreg": ("top", "top-permuted", "sim-match"),
}


def ablation(name: str, arm: str) -> Better:
    return Better(
        "roc_auc", name=name, method="mexa", baseline=arm, conditions=["sim-match"], paper="none: ours, simulated"
    )


study = Study(
    paper="2501.06823",
    arms=ARMS,
    conditions={
        "top": "TOP phase I, its official split by time (simulated where the files are not placed)",
        "top-permuted": "control: the same, outcomes shuffled among training and validation trials",
        "sim-match": "simulated: which drug meets which disease decides",
        "sim-alone": "simulated control: tokens act alone, no pair matters",
    },
    arm_conditions=ARM_CONDITIONS,
    claims=[
        Better(
            "roc_auc", name="C1", method="mexa", baseline="xgboost", conditions=["top"],
            paper=".593 against .539 on phase I (public code's README)",
        ),
        Better(
            "pr_auc", name="C2", method="mexa", baseline="xgboost", conditions=["top"],
            paper=".605 against .594 on phase I (public code's README)",
        ),
        Better(
            "roc_auc", name="C1-sim", method="mexa", baseline="xgboost", conditions=["sim-match"],
            paper="none: ours, simulated",
        ),
        ablation("C3-cauchy", "no-cauchy"),
        ablation("C3-contrast", "no-contrast"),
        ablation("C3-select", "no-select"),
        ablation("C3-experts", "self-only"),
        Better(
            "roc_auc", name="C4", method="mexa", baseline="frozen-experts", conditions=["top"],
            paper="none: the public code's experts are not trained",
        ),
        Better(
            "roc_auc", name="C4-sim", method="mexa", baseline="frozen-experts", conditions=["sim-match"],
            paper="none: the public code's experts are not trained",
        ),
        Better(
            "roc_test_selected", name="C5", method="mexa", baseline_metric="roc_auc", conditions=["top"], by=0.01,
            text="choosing the epoch on the test trials, as the public code does, adds more than 0.01 to ROC AUC",
            paper="none: the public code chooses so",
        ),
        Better(
            "kept", name="C6", method="mexa", baseline="mexa-published", conditions=["sim-match"], by=0.2,
            text="with the published weight of the Cauchy loss trained routers keep fewer tokens, by more than 0.2",
            paper="none: ours; the public code's routers are not trained",
        ),
        Bound(
            "roc_auc", name="control: permuted, mexa", method="mexa", conditions=["top-permuted"], at_least=0.5,
            text="mode experts trained on shuffled outcomes rank test trials above chance", expected="not supported",
        ),
        Bound(
            "roc_auc", name="control: permuted, xgboost", method="xgboost", conditions=["top-permuted"], at_least=0.5,
            text="XGBoost trained on shuffled outcomes ranks test trials above chance", expected="not supported",
        ),
        Better(
            "roc_auc", name="control: alone", method="mexa", baseline="ffnn", conditions=["sim-alone"],
            expected="not supported",
        ),
    ],
    gates=[
        Gate(
            "oracle_roc", method="mexa", condition="sim-match", at_least=0.7,
            why="the simulated outcomes must be foreseeable at all",
            claims=["C1-sim", "C3-cauchy", "C3-contrast", "C3-select", "C3-experts", "C4-sim"],
        ),
    ],
    metrics={
        "roc_auc": "ROC AUC",
        "pr_auc": "average precision",
        "prevalence": "share of successes among test trials",
        "f1": "F1 at the threshold that validation trials choose",
        "f1_half": "F1 at 0.5",
        "brier": "Brier score",
        "roc_test_selected": "ROC AUC at the epoch that test trials choose",
        "kept": "share of tokens that experts keep",
        "relevance_auc": "ROC AUC of p for the relevant drugs and diseases",
        "oracle_roc": "ROC AUC of the true log-odds",
    },
    seeds={"pocket": 5},
    data=lambda scale: "real and simulated" if scale == "full" or samples.locate(TOP) else "simulated",
    resampled=["top", "top-permuted"],
    tolerance=2e-3,
    time_limit={"full": 86_400},
)  # fmt: skip


@study.prepare
def prepare(seed: int, scale: str, data: Path | None) -> dict[str, list[Task]]:
    tasks = top_tasks(seed, scale, data)
    rng = np.random.default_rng([2501_06823, seed])
    return {
        "top": tasks,
        "top-permuted": [permuted(task, rng) for task in tasks],
        "sim-match": [simulated(seed, scale, MATCH)],
        "sim-alone": [simulated(seed, scale, 0.0)],
    }


def top_tasks(seed: int, scale: str, data: Path | None) -> list[Task]:
    """A task a phase. Every seed but the first draws each part's trials anew with replacement."""
    folder = data or samples.locate(TOP)
    if scale == "full" and folder is None:
        raise InputError("the full scale needs TOP's files phase_I_train.csv and so on; pass their folder as --data")
    if folder is None:
        made = simulated_sets(simulate_trials(280, 5000 + seed, match=1.0, strictness=0.5))
        rows = np.split(np.arange(280), [160, 220])
        return [Task(*(made.take(r) for r in rows), watched=True)]
    tasks = []
    for phase in PHASES if scale == "full" else PHASES[:1]:
        drawn = []
        for i, sets in enumerate(top_sets(folder, phase, scale)):
            rows = resample_groups(np.arange(len(sets)), seed and seed + 1000 * i)
            drawn.append(sets.take(rows[:60] if scale == "smoke" else rows))
        tasks.append(Task(*drawn, watched=True))
    return tasks


@lru_cache(maxsize=4)
def top_sets(folder: Path, phase: str, scale: str) -> tuple[Sets, ...]:
    """Train, valid and test trials of a phase as tokens; read once in a process."""
    split = read_split(folder, phase)
    embed, most = None, None
    if scale == "full":
        from assay.studies.fusion._mode_text import sentence_encoder

        embed, most = sentence_encoder(BIOBERT), {"drug": 5, "disease": 5, "inclusion": 8, "exclusion": 5}
    features = TrialFeatures.fit(split["train"], embed, **({"most": most} if most else {}))
    return tuple(trial_sets(features, trials)[0] for trials in split.values())


BIOBERT = "first-token:dmis-lab/biobert-base-cased-v1.2"


def permuted(task: Task, rng: np.random.Generator) -> Task:
    """Outcomes of training and validation trials shuffled; test trials keep theirs."""
    train, valid = (replace(sets, y=rng.permutation(sets.y)) for sets in (task.train, task.valid))
    return Task(train, valid, task.test, task.watched)


def simulated(seed: int, scale: str, match: float) -> Task:
    n, valid, test = SIZES[scale]
    made = simulated_sets(simulate_trials(n + valid + test, seed, match=match))
    parts = np.split(np.arange(len(made)), [n, n + valid])
    return Task(*(made.take(rows) for rows in parts))


def settings_for(arm: str, condition: str, scale: str) -> Settings:
    """An arm's tuned settings; ablations have those of `mexa`. Full scale has the published size and length."""
    family = "top" if condition.startswith("top") else "sim"
    chosen, epochs = TUNED[family], EPOCHS[scale][family]
    how = replace(chosen, fit=replace(chosen.fit, epochs=epochs), net=replace(chosen.net, epochs=2 * epochs))
    if arm == "mexa-published":
        how = replace(how, theta=0.25, fit=replace(how.fit, **PUBLISHED))
    return replace(how, e=8, layers=2) if scale == "full" else how


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: dict[str, list[Task]]) -> dict[str, Any]:
    how = settings_for(arm, condition, scale)
    found = [figures(run(arm, task, seed, how), task) for task in shared[condition]]
    if len(found) == 1:
        return found[0]
    mean = {name: np.mean([f[name] for f in found], axis=0).tolist() for name in found[0] if name != "curve"}
    by_phase = {
        f"{name}_{phase}": f[name]
        for phase, f in zip(PHASES, found, strict=True)
        for name in ("roc_auc", "pr_auc", "f1")
    }
    return mean | by_phase


def figures(found: Outcome, task: Task) -> dict[str, Any]:
    """What is told of an arm on a task."""
    y, score = task.test.y, found.test
    low, high = bootstrap_interval(roc_auc, y, score, samples=200)
    told: dict[str, Any] = {
        "roc_auc": roc_auc(y, score),
        "roc_low": low,
        "roc_high": high,
        "pr_auc": average_precision(y, score),
        "prevalence": float(y.mean()),
        "f1": f1_score(y, score, best_f1_threshold(task.valid.y, found.valid)),
        "f1_half": f1_score(y, score),
        "brier": brier_score(score, y),
    }
    if task.watched and found.epochs:
        told["roc_test_selected"] = max(test for _, test in found.epochs)
    if task.test.logit is not None:
        told["oracle_roc"] = roc_auc(y, task.test.logit)
    if found.out is not None and found.out.probs:
        told |= selection(found.out, task.test)
    return told


def selection(out: MEOut, test: Sets) -> dict[str, Any]:
    """Which tokens the experts keep, how p is spread, and whether relevant tokens have the higher p."""
    real = {pair: out.real[pair[0]] for pair in out.probs}
    kept = sum(int(keep.sum()) for keep in out.keep.values()) / sum(int(r.sum()) for r in real.values())
    p = torch.cat([p[real[pair]] for pair, p in out.probs.items()]).numpy()
    told = {"kept": kept, "p_histogram": (np.histogram(p, BINS, (0, 1))[0] / len(p)).tolist()}
    if test.relevant is not None:
        pairs = [("drug", "disease"), ("disease", "drug")]
        told["relevance_auc"] = float(np.mean([
            roc_auc(test.relevant[pair[0]][real[pair].numpy()], out.probs[pair][real[pair]].numpy()) for pair in pairs
        ]))  # fmt: skip
    return told


@study.figure
def figure(evidence: Evidence) -> Any:
    return draw(evidence, BINS)


@study.apply
def apply(
    trials: Path,
    out: Path = Path("trials"),
    smiles: str = "smiless",
    icd: str = "icdcodes",
    criteria: str = "criteria",
    label: str = "label",
    model: Path | None = None,
    text: str = "svd",
    epochs: int = 40,
    seed: int = 0,
) -> dict[str, Any]:
    """Foresee how clinical trials end, and see which drugs, diseases and criteria the forecast rests on.

    Without --model it trains on the trials that have an outcome: the earliest 70 % by start date (or registration
    number), the next 15 % choose the epoch, the last 15 % tell how good the forecast is. With --model it predicts.
    Writes predictions.csv, selected.csv (p of each token for each pair: what the model weighs, no cause),
    calibration.csv and calibration.png where outcomes are known, report.json and, after training, model/. A research
    tool: no basis for decisions on trials.

    Args:
        trials: csv in the form of the TOP benchmark, or a csv or JSON export of ClinicalTrials.gov.
        out: folder for what is written.
        smiles: column with the drugs' SMILES, a list or separated by | or ;.
        icd: column with the diseases' ICD-10 codes.
        criteria: column with the eligibility criteria.
        label: column with 1 for success and 0 for failure; may be missing when predicting.
        model: a model/ folder written before.
        text: how criteria become vectors: svd (fitted on the trials), minilm, or the name of a Hugging Face encoder.
        epochs: passes over the training trials.
        seed: of the start and the order of rows.
    """
    table = read_trials(trials, smiles=smiles, icd=icd, criteria=criteria, label=label)
    if epochs < 1:
        raise InputError(f"--epochs must be at least 1, got {epochs}")
    out.mkdir()
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "paper": study.paper,
        "trials": len(table),
        "labelled": int((~np.isnan(table.label)).sum()),
    }
    part = np.full(len(table), "", dtype=object)
    if model is not None:
        made = load(model)
        sets, warnings = trial_sets(made.features, table)
        part[:] = "new"
    else:
        parts, how = parts_by_time(table, seed)
        features = TrialFeatures.fit(table.take(parts["train"]), embedding(text))
        sets, warnings = trial_sets(features, table)
        there = ~np.all([sets.pad[name].all(1).numpy() for name in sets.pad], axis=0)
        parts = {name: rows[there[rows]] for name, rows in parts.items()}
        if any(len(set(table.label[rows])) < 2 for rows in parts.values()):
            raise InputError("among the trials with a readable token one outcome is missing in a part of the split")
        for name, rows in parts.items():
            part[rows] = name
        task = Task(*(sets.take(parts[name]) for name in ("train", "valid", "test")))
        settings = replace(TUNED["top"], fit=replace(TUNED["top"].fit, epochs=epochs))
        torch.manual_seed(seed)
        network, rates = build("mexa", task.train, settings)
        found = trained(network, rates, task, seed)
        threshold = best_f1_threshold(task.valid.y, found.valid)
        made = Predictor(network, features, text, settings.e, settings.layers, threshold)
        save(out / "model", made)
        report |= {"split_by": how, "parts": {name: len(rows) for name, rows in parts.items()}}
    probability, said, there = predict(made.model, sets)
    warnings += [
        f"{table.nctid[i]}: no readable drug, disease or criterion, no forecast" for i in np.nonzero(~there)[0]
    ]
    write_csv(
        out / "predictions.csv", ["nctid", "part", "outcome", "probability", "forecast"],
        ([table.nctid[i], part[i], "" if np.isnan(table.label[i]) else int(table.label[i]),
          float(probability[i]) if there[i] else "",
          int(probability[i] >= made.threshold) if there[i] else ""] for i in range(len(table))),
    )  # fmt: skip
    write_csv(
        out / "selected.csv", ["nctid", "from", "to", "token", "p", "kept"],
        selected_rows(table, said, np.nonzero(there)[0], dict(made.features.most)),
    )  # fmt: skip
    judged = there & ~np.isnan(table.label) & np.isin(part, ["test", "new"])
    if judged.any():
        report |= judged_report(out, table.label[judged], probability[judged], made.threshold)
    report["warnings"] = warnings
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    return {k: v for k, v in report.items() if k != "warnings"} | {"warnings": len(warnings), "written": str(out.name)}
