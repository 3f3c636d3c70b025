"""The contenders of the hashing study: what each trains, and the codes it searches with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.methods.retrieval.uni_hash import Training, UniHash, Weights, fit, pack_codes, tensor_batches
from assay.metrics.hamming import hamming_distance, precision_within
from assay.metrics.retrieval import mean_average_precision, same_label
from assay.nn.moe import gate_entropy
from assay.studies.retrieval._uni_data import Search, Task

WIDTH, HIDDEN, BATCH = 256, 64, 128  # of the backbone, of an expert, of a training step


@dataclass(frozen=True)
class Setting:
    """Everything an arm was tuned in. The defaults are where the search began.

    Attributes:
        rate: learning rate of backbone and heads (the backbone is new here, not pretrained).
        dropout: of the backbone's features.
        decay: weight decay.
        weights: of the losses.
        experts, top, tied, private, pool_dropout: of the shared experts.
    """

    rate: float = 1e-3
    dropout: float = 0.2
    decay: float = 0.0
    weights: Weights = field(default_factory=Weights)
    experts: int = 4
    top: int = 2
    tied: bool = False
    private: bool = True
    pool_dropout: float = 0.0


SETTINGS: dict[str, Setting] = {
    "centre-only": Setting(3e-3, 0.2, 0.1, Weights(pair=0.0, align=0.0, quantise=0.5), experts=0),
    "pair-only": Setting(6e-3, 0.5, 0.1, Weights(centre=0.0, align=0.0), experts=0),
    "no-align": Setting(3e-3, 0.2, 0.1, Weights(align=0.0, quantise=0.5)),
    "no-moh": Setting(1e-3, 0.2, 0.1, experts=0),
    "unihash": Setting(3e-3, 0.7, 0.1),
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "tied-gates": {"tied": True},
    "no-private": {"private": False},
    "dense-gates": {"top": 4},
}
BRANCHES = {"centre-only": "centre", "pair-only": "pair", "unihash-centre": "centre", "unihash-pair": "pair"}
Codes = NDArray[np.uint8] | NDArray[np.float32]  # packed codes, or unit rows


def setting_of(arm: str) -> Setting:
    """The tuned setting of an arm; ablations have that of the whole method."""
    if arm in ABLATIONS:
        return replace(SETTINGS["unihash"], **ABLATIONS[arm])
    return SETTINGS[arm]


def codes_of(arm: str, task: Task, bits: int, seed: int, epochs: int, trained: dict[Any, UniHash]) -> Codes:
    """Codes of all items, `(N, bits/8)`; unit rows `(N, width)` for `real-valued`.

    `trained` keeps networks that several arms of a seed search with.
    """
    if arm == "pca-itq":
        return pca_itq(task.items.numpy(), task.train, bits, seed)
    if arm == "two-codes":
        half = [codes_of(single, task, bits // 2, seed, epochs, trained) for single in ("centre-only", "pair-only")]
        return np.concatenate(half, axis=1)
    source = "unihash" if arm in ("real-valued", "unihash-centre", "unihash-pair") else arm
    key = (source, bits)
    if key not in trained:
        trained[key] = train(setting_of(source), task.items[task.train], task.targets, bits, seed, epochs)
    model = trained[key]
    if arm == "real-valued":
        v = model.features(task.items).numpy()
        return v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    return model.codes(task.items, BRANCHES.get(arm, "both"))


def train(how: Setting, x: Tensor, y: Tensor, bits: int, seed: int, epochs: int) -> UniHash:
    """A network of one hidden layer for standardised rows `x` `(N, D)` with labels `y` `(N, C)`, trained."""
    torch.manual_seed(seed)
    model = network(how, x.shape[1], bits, y.shape[1])
    fit(model, tensor_batches(x, y, BATCH), Training(epochs, how.rate, None, how.decay, how.weights, seed))
    return model


def network(how: Setting, d: int, bits: int, classes: int) -> UniHash:
    """The untrained network for rows of `d` numbers."""
    backbone = nn.Sequential(nn.Linear(d, WIDTH), nn.ReLU(), nn.Dropout(how.dropout))
    return UniHash(
        backbone, WIDTH, bits, classes, experts=how.experts, top=how.top, hidden=HIDDEN,
        dropout=how.pool_dropout, tied=how.tied, private=how.private,
    )  # fmt: skip


def shuffled(task: Task, rng: np.random.Generator) -> Task:
    """The task with the labels of its training rows permuted."""
    labels = task.labels.copy()
    labels[task.train] = labels[rng.permutation(task.train)]
    return replace(task, labels=labels)


def measures(codes: Codes, task: Task) -> dict[str, float]:
    """mAP of the searches, their harmonic mean, and precision within a radius of 2 bits."""
    found: dict[str, float] = {}
    for name, searches in task.searches.items():
        scores = [measure(codes, task, search) for search in searches]
        found[f"map_{name}"] = float(np.mean([ap for ap, _ in scores]))
        if codes.dtype == np.uint8 and not name.endswith("open"):
            found[f"precision_r2_{name}"] = float(np.mean([p for _, p in scores]))
    if "map_unseen" in found:
        found["hmean_map"] = harmonic(found["map_seen"], found["map_unseen"])
        found["hmean_open"] = harmonic(found["map_seen_open"], found["map_unseen_open"])
    return found


def measure(codes: Codes, task: Task, search: Search) -> tuple[float, float]:
    """mAP and precision within 2 bits of one search."""
    query, gallery = codes[search.query], codes[search.gallery]
    relevant = same_label(
        task.labels[search.query][:, search.classes], task.labels[search.gallery][:, search.classes]
    )  # fmt: skip
    if codes.dtype != np.uint8:
        return mean_average_precision(-(query @ gallery.T), relevant), math.nan
    distance = hamming_distance(query, gallery)
    return mean_average_precision(distance, relevant), precision_within(distance, relevant, 2)


def harmonic(a: float, b: float) -> float:
    """Harmonic mean of two figures of at least 0."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


@torch.no_grad()
def entropy_of_gates(model: UniHash, items: Tensor) -> float:
    """Entropy of the mean gates, mean of both branches: 1 when experts are used evenly."""
    exchange = model.eval()(items).exchange
    return float((gate_entropy(exchange.centre.gates) + gate_entropy(exchange.pair.gates)) / 2)


def pca_itq(items: NDArray[np.float32], train: NDArray[np.int64], bits: int, seed: int, turns: int = 50) -> Codes:
    """Codes without labels: principal components, rotated so that they lie near -1 and +1 (ITQ).

    Args:
        items: `(N, D)`, D at least `bits`.
        train: rows that components and rotation are learnt from.
        bits: of a code.
        seed: of the first rotation.
        turns: of the iteration.

    Source: Gong and Lazebnik, Iterative Quantization, CVPR 2011.
    """
    mean = items[train].mean(0)
    _, _, axes = np.linalg.svd(items[train] - mean, full_matrices=False)
    projected = (items - mean) @ axes[:bits].T
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(projected.shape[1], projected.shape[1])))[0]
    learnt = projected[train]
    for _ in range(turns):
        u, _, vt = np.linalg.svd(np.where(learnt @ rotation > 0, 1.0, -1.0).T @ learnt)
        rotation = (u @ vt).T
    return pack_codes(projected @ rotation)
