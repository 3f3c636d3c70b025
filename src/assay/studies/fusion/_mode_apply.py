"""Mode experts on a user's trials: what is read, trained, stored and written."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay.data.tables.top_trials import Trials
from assay.data.tables.trial_features import BUCKETS, DESCRIPTORS, MOST, SentenceSVD, TrialFeatures, drug_descriptors
from assay.errors import InputError
from assay.methods.fusion._mode_fit import outputs
from assay.methods.fusion.mode_experts import MEOut, ModeExperts
from assay.metrics.calibration import brier_score, reliability
from assay.metrics.classification import bootstrap_interval, f1_score, roc_auc
from assay.metrics.ranking import average_precision
from assay.studies.fusion._mode_arms import NAMES, PARTS, Sets

PAPER = "2501.06823"
FEWEST = 40  # labelled trials to train on


@dataclass
class Predictor:
    """A trained model with the features it reads.

    Attributes:
        text: how sentences become vectors: `svd`, fitted on the training trials, or a name of `sentence_encoder`.
        threshold: probability from which on a trial is called a success, chosen on validation trials.
    """

    model: ModeExperts
    features: TrialFeatures
    text: str
    e: int
    layers: int
    threshold: float = 0.5


def embedding(text: str) -> Callable[[Sequence[str]], Any] | None:
    """The pretrained encoder of that name; None for the one that is fitted."""
    if text == "svd":
        return None
    from assay.studies.fusion._mode_text import sentence_encoder

    return sentence_encoder(text)


def parts_by_time(trials: Trials, seed: int) -> tuple[dict[str, NDArray[np.int64]], str]:
    """Labelled rows, the first 70 % for training, 15 % for validation, the rest to test, and what gave the order.

    Raises:
        InputError: too few labelled trials, or one outcome is missing in a part.
    """
    known = np.nonzero(~np.isnan(trials.label))[0]
    if len(known) < FEWEST:
        raise InputError(
            f"{len(known)} of {len(trials)} trials have an outcome; training needs {FEWEST}"
            " (predict with --model to use a trained model)"
        )
    dates = [trials.start[i] for i in known]
    numbers = [trials.nctid[i] for i in known]
    if all(dates):
        order, how = np.argsort(np.array(dates), kind="stable"), "start date"
    elif all(n.upper().startswith("NCT") and n[3:].isdigit() for n in numbers):
        order, how = np.argsort([int(n[3:]) for n in numbers], kind="stable"), "registration number"
    else:
        order, how = np.random.default_rng(seed).permutation(len(known)), "random order"
    cuts = [round(0.7 * len(known)), round(0.85 * len(known))]
    parts = dict(zip(("train", "valid", "test"), np.split(known[order], cuts), strict=True))
    for name, rows in parts.items():
        if len(set(trials.label[rows])) < 2:
            raise InputError(f"by {how} the {name} part has only one outcome; both are needed")
    return parts, how


def predict(model: ModeExperts, sets: Sets) -> tuple[NDArray[np.float64], MEOut, NDArray[np.bool_]]:
    """Probabilities (N,), what the model said of the rows that have a token, and which rows those are.

    A row without any token gets NaN.
    """
    there = ~torch.stack([sets.pad[name].all(1) for name in NAMES]).all(0).numpy()
    rows = np.nonzero(there)[0]
    if not len(rows):
        raise InputError("no trial has a readable drug, disease or criterion")
    some = sets.take(rows)
    out = outputs(model, some.tokens, some.pad)
    found = np.full(len(sets), np.nan)
    found[rows] = torch.sigmoid(out.logit.double()).numpy()
    return found, out, there


def token_names(trials: Trials, row: int, most: dict[str, int]) -> dict[str, list[str]]:
    """What each token of a trial stands for, mode by mode, in the order of the tokens."""
    drugs = [s for s in trials.smiles[row] if drug_descriptors(s) is not None]
    names, groups = trials.diseases[row], trials.icd[row]
    if groups:
        diseases = list(names) if len(names) == len(groups) else [" ".join(codes[:4]) for codes in groups]
    else:
        diseases = list(names)
    criteria = [f"{part}: {s}" for part in PARTS["criteria"] for s in getattr(trials, part)[row][: most[part]]]
    return {"drug": drugs[: most["drug"]], "disease": diseases[: most["disease"]], "criteria": criteria}


def selected_rows(
    trials: Trials, out: MEOut, rows: Iterable[int], most: dict[str, int]
) -> Iterable[tuple[str, str, str, str, float, int]]:
    """nctid, from, to, token, p, kept: for each trial and pair its tokens, the most telling first."""
    for at, row in enumerate(rows):
        names = token_names(trials, int(row), most)
        for (source, target), p in out.probs.items():
            real = torch.nonzero(out.real[source][at]).flatten().tolist()
            told = [
                (names[source][k], float(p[at, j]), int(out.keep[source, target][at, j])) for k, j in enumerate(real)
            ]
            for token, share, kept in sorted(told, key=lambda entry: -entry[1]):
                yield trials.nctid[int(row)], source, target, token, share, kept


def save(folder: Path, made: Predictor) -> None:
    """`model.safetensors` and `config.json`."""
    from safetensors.torch import save_file

    from assay import __version__

    folder.mkdir(parents=True)
    tensors = {f"net.{k}": v.contiguous() for k, v in made.model.state_dict().items()}
    tensors |= {
        "drug.mean": torch.from_numpy(made.features.mean),
        "drug.deviation": torch.from_numpy(made.features.deviation),
    }
    if isinstance(made.features.embed, SentenceSVD):
        tensors["text.idf"] = torch.from_numpy(made.features.embed.idf)
        tensors["text.components"] = torch.from_numpy(np.ascontiguousarray(made.features.embed.components))
    save_file(tensors, folder / "model.safetensors")
    dims = {mode: made.model.project[mode].main[0].in_features for mode in made.model.modes}
    config = {
        "paper": PAPER, "version": __version__, "dims": dims, "e": made.e, "layers": made.layers,
        "theta": made.model.theta, "text": made.text, "most": dict(made.features.most), "threshold": made.threshold,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def load(folder: Path) -> Predictor:
    """What `save` wrote.

    Raises:
        InputError: not such a folder, or its tensors do not fit its configuration.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["paper"] != PAPER:
            raise InputError(f"{folder}: a model of {config['paper']}, expected one of {PAPER}")
        tensors = load_file(folder / "model.safetensors")
        dims = {mode: int(config["dims"][mode]) for mode in ("drug", "disease", "criteria")}
        e, layers = int(config["e"]), int(config["layers"])
        most = {name: int(config["most"][name]) for name in MOST}
        if not (0 < e <= 1024 and 0 < layers <= 24 and max(dims.values()) <= 8192 and min(most.values()) > 0):
            raise ValueError("sizes out of range")
        model = ModeExperts(dims, e, layers=layers, theta=float(config["theta"]), parts=PARTS, dropout=0.0)
        model.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
        scale = [tensors[f"drug.{name}"].numpy() for name in ("mean", "deviation")]
        if any(s.shape != (len(DESCRIPTORS),) for s in scale):
            raise ValueError("scales of the drug descriptors have another length")
        embed = embedding(str(config["text"]))
        if embed is None:
            idf, components = tensors["text.idf"].numpy(), tensors["text.components"].numpy()
            if idf.shape != (BUCKETS,) or components.shape != (dims["criteria"], BUCKETS):
                raise ValueError("the sentence embedding has another shape")
            embed = SentenceSVD(idf, components)
        threshold = float(config["threshold"])
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"{folder}: no {Path(error.filename).name}; expected a model that `apply` has written"
        ) from None
    except Exception as error:  # json, safetensors and torch raise kinds of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{folder}: not a model of {PAPER}: {reason}") from None
    features = TrialFeatures(embed, scale[0], scale[1], most)
    return Predictor(model.eval(), features, str(config["text"]), e, layers, threshold)


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)


def judged_report(out: Path, y: Any, p: Any, threshold: float) -> dict[str, Any]:
    """Figures on trials that the model has not seen, and their calibration curve."""
    told = {"judged": len(y), "brier": brier_score(p, y.astype(int)), "f1": f1_score(y, p, threshold)}
    if len(set(y)) == 2:
        told |= {
            "roc_auc": roc_auc(y, p),
            "roc_auc_interval": list(bootstrap_interval(roc_auc, y, p)),
            "pr_auc": average_precision(y, p),
            "prevalence": float(y.mean()),
        }
    predicted, observed, count = reliability(p, y, bins=10)
    filled = count > 0
    points = predicted[filled], observed[filled], count[filled]
    header = ["predicted", "observed", "trials"]
    write_csv(out / "calibration.csv", header, zip(*(column.tolist() for column in points), strict=True))
    draw_calibration(out / "calibration.png", *points)
    return told


def draw_calibration(file: Path, predicted: Any, observed: Any, count: Any) -> None:
    """Share of successes over predicted probability, a point a bin as large as its trials are many."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", lw=1)
    axes.scatter(predicted, observed, s=20 + 6 * np.asarray(count), alpha=0.8)
    axes.set(xlabel="predicted probability of success", ylabel="share of successes", xlim=(0, 1), ylim=(-0.02, 1.02))
    figure.savefig(file, dpi=150)
