"""SDSNet: express every sample by a few landmarks, and subspace clustering grows only linearly. (2512.21434)

Self-expression of all samples by all samples costs an n x n matrix. SDSNet uses landmarks, learns them together with
an autoencoder, and reads clusters off a thin factor. Three questions: is the quality of the full matrix kept, is the
cost linear, and does the network help?

Data: COIL-20 (each seed draws 10 of its 20 objects, all 72 views; simulated turntable pictures where the file is not
at hand), scikit-learn's digits (each seed draws 600), simulated vectors. ORL, Extended Yale B and COIL-100 join when
their files lie in `$ASSAY_DATA`. Draws overlap, so intervals speak of these sets, not of other objects or hands.

No arm sees labels. Each tries six settings (ridge weight or bandwidth or neighbours, coefficients kept) and takes the
one with the best silhouette in its own embedding; `acc_by_labels` is the best of the six by labels, as this literature
often reports. k-means has no setting. Grids, learning rates, sizes and the simulated vectors were set on seeds 100 and
101, which the study does not use.

`dsc-full` starts from the closed form and has the landmark network's guards and as many optimiser steps, each on all
samples. `seconds` are processor seconds of one thread; on pictures they leave out the pretraining, which all networks
share. On growing samples they hold everything: the network trains 5 + 2 epochs at every size, k-means starts twice,
and memory is watched meanwhile. An exponent fitted from 1,000 on lies below 1 where fixed costs still weigh.

Where an n x n matrix is needed, pocket stops at n = 8,000, at which such an arm holds 2 GB; `needed_mb` is given for
every size, and `--scale full` and `python -m benchmarks landmark_subspace` go on as far as free memory lets them.

Vectors: `subspaces` shows what ridge codes are for (ten subspaces that share directions, all centred, so that distance
says nothing), with `crossing` as the control in which nothing is left to find. An autoencoder with a ReLU does not
keep flat subspaces flat, so this case is about the codes (C6), not about the network.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.errors import require
from assay.lab import Better, Evidence, NotWorse, Slope, Study
from assay.methods.retrieval.landmark_subspace import (
    PRESETS,
    ConvAE,
    DenseAutoencoder,
    Landmarks,
    SDSNet,
    SpectralFactor,
    Training,
    choose_landmarks,
    factor_spectral,
    gaussian_codes,
    landmark_codes,
    latents_of,
    nearest_centre,
    pretrain,
    select_codes,
    silhouette,
    unit_rows,
)
from assay.metrics.clustering import adjusted_rand_index, clustering_accuracy, normalized_mutual_information
from assay.studies.retrieval._landmark_baselines import (
    RIDGES,
    Found,
    deep_self_expression,
    kmeans,
    least_squares,
    nearest_neighbours,
)
from assay.studies.retrieval._landmark_data import REAL, VECTORS, draw, here
from assay.studies.retrieval._landmark_figure import SHOWN, SWEEP, draw_figure
from assay.studies.retrieval._landmark_scaling import ALL_PAIRS, SIZES, grow

PAPER = "2512.21434"
PER_CLUSTER = 20  # landmarks a cluster
KEPT = (3, 5)
BANDWIDTHS = (0.7, 1.0, 2.0)

MORE = tuple(name for name in ("orl", "yale-b", "coil-100") if here(name))
IMAGES = (*REAL, *MORE)
SMALL = tuple(name for name in IMAGES if name != "coil-100")
SCALING = {f"n-{n}": float(n) for n in SIZES}
ALL_PAIRS_SCALING = {f"n-{n}": float(n) for n in ALL_PAIRS}

ARMS = {
    "kmeans": "k-means on pixels",
    "spectral-knn": "spectral clustering of the nearest-neighbour graph",
    "sklearn-spectral": "scikit-learn's SpectralClustering as it comes (dense Gaussian graph)",
    "lsr-full": "closed-form self-expression by all samples",
    "dsc-full": "DSC-Net: n x n self-expression trained with the autoencoder",
    "lsc": "landmark spectral clustering: Gaussian weights on pixels",
    "lsc-latent": "the same on the pretrained latents",
    "landmark-raw": "ablation: ridge codes on pixels, no network",
    "pretrained-only": "ablation: ridge codes on pretrained latents, no joint training",
    "random-landmarks": "ablation: random samples as landmarks",
    "no-sparsity": "ablation: all coefficients kept",
    "sdsnet": "landmarks learnt with the autoencoder, ridge codes, thin factor",
}

study = Study(
    paper=PAPER,
    arms=ARMS,
    conditions={
        "coil-20": "real: turning objects, 10 drawn a seed" if here("coil-20") else "simulated: turning objects",
        "digits": "real: handwritten digits, 600 drawn a seed",
        **{name: f"real: {name}" for name in MORE},
        "subspaces": "simulated: ten subspaces that share directions",
        "blobs": "control: round clusters, k-means is right",
        "crossing": "control: the same subspaces, nearly equal",
        **{name: f"simulated: {int(n):,} samples on ten bent subspaces" for name, n in SCALING.items()},
    },
    arm_conditions={
        "kmeans": [*IMAGES, *VECTORS],
        "spectral-knn": IMAGES,
        "sklearn-spectral": tuple(SCALING),
        "lsr-full": [*SMALL, "subspaces", *SCALING],
        "dsc-full": SMALL,
        "lsc": [*IMAGES, *VECTORS, *SCALING],
        "lsc-latent": IMAGES,
        "landmark-raw": [*IMAGES, *VECTORS, *SCALING],
        "pretrained-only": [*IMAGES, *VECTORS],
        "random-landmarks": REAL,
        "no-sparsity": ["digits"],
    },
    claims=[
        NotWorse(
            "acc", name="C1", method="sdsnet", baseline="dsc-full", margin=0.02, conditions=REAL,
            paper="'comparable clustering quality' (abstract)",
        ),
        Slope("seconds", name="C2", method="sdsnet", at_most=1.2, sizes=SCALING, paper="O(n) (abstract)"),
        Slope(
            "seconds", name="C2-full", method="lsr-full", at_most=1.8, expected="contradicted",
            sizes=ALL_PAIRS_SCALING, paper="O(n^3) of subspace clustering (abstract)",
        ),
        Slope(
            "seconds", name="C2-sklearn", method="sklearn-spectral", at_most=1.2, expected="contradicted",
            sizes=ALL_PAIRS_SCALING, paper="none: ours",
        ),
        Better("acc", name="C3", method="sdsnet", baseline="landmark-raw", conditions=REAL, paper="none: ours"),
        Better(
            "acc", name="C3-joint", method="sdsnet", baseline="pretrained-only", conditions=REAL, paper="none: ours"
        ),
        Better("acc", name="C4", method="sdsnet", baseline=["lsc", "lsc-latent"], conditions=REAL, paper="none: ours"),
        Better("acc", name="C5", method="sdsnet", baseline="spectral-knn", conditions=REAL, paper="none: ours"),
        Better("acc", name="C6", method="landmark-raw", baseline="lsc", conditions=["subspaces"], paper="none: ours"),
        Better(
            "acc", name="control: blobs", method="sdsnet", baseline="kmeans", conditions=["blobs"],
            expected="not supported",
        ),
        Better(
            "acc", name="control: crossing", method="landmark-raw", baseline="lsc", conditions=["crossing"],
            expected="not supported",
        ),
    ],
    metrics={
        "acc": "clustering accuracy",
        "nmi": "normalised mutual information",
        "ari": "adjusted Rand index",
        "acc_by_labels": "accuracy, setting chosen by labels",
        "acc_by_m": "clustering accuracy by landmarks a cluster",
        "seconds": "processor time (s)",
        "peak_mb": "peak memory of arrays (MB)",
        "needed_mb": "memory of the n x n matrix (MB)",
        "shown": "rows of digits that the figure shows",
    },
    seeds={"pocket": 5, "full": 10},
    data="real and simulated",
    tolerances={"seconds": None, "peak_mb": None, "shown": None},
    tolerance=1e-3,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One clustering task, with the pretrained network and the landmarks that arms share."""

    name: str
    inputs: Tensor
    raw: NDArray[np.float32]
    truth: NDArray[np.int64]
    rows: NDArray[np.int64]
    k: int
    network: nn.Module
    latents: NDArray[np.float32]
    raw_landmarks: Landmarks
    latent_landmarks: Landmarks
    training: Training

    @property
    def m(self) -> int:
        return len(self.raw_landmarks.points)


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> dict[str, Case]:
    rng = np.random.default_rng([seed, 2512])
    cases = {}
    for name in (*IMAGES, *VECTORS):
        cases[name] = make_case(*draw(name, scale, rng, data), name, seed, scale, device)
    return cases


def make_case(
    inputs: NDArray[np.float32],
    truth: NDArray[np.int64],
    rows: NDArray[np.int64],
    name: str,
    seed: int,
    scale: str,
    device: str = "cpu",
) -> Case:
    """Pretrain an autoencoder and choose landmarks."""
    k = len(np.unique(truth))
    m = min(PER_CLUSTER * k, len(inputs) // 2)
    epochs = {"smoke": (2, 1), "pocket": (25, 6), "full": (60, 20)}[scale]
    training = Training(*epochs)
    torch.manual_seed(seed)
    x = torch.from_numpy(inputs).to(device)
    if inputs.ndim == 3:
        x = x[:, None]
        network: nn.Module = ConvAE(x.shape[1:], *PRESETS.get(name, PRESETS["coil-20"]))
    else:
        network = DenseAutoencoder(x.shape[1], 2 * x.shape[1], 2 * x.shape[1])  # wider than its input, as ConvAE is
    pretrain(network.to(device), x, training.pretrain_epochs, training.batch, training.learning_rate, seed)
    raw, latents = unit_rows(inputs.reshape(len(inputs), -1)), latents_of(network, x)
    return Case(
        name, x, raw, truth, rows, k, network, latents, choose_landmarks(raw, m, seed=seed),
        choose_landmarks(latents, m, seed=seed), training,
    )  # fmt: skip


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: dict[str, Case]) -> dict[str, Any]:
    if condition in SCALING:
        return grow(arm, int(SCALING[condition]), seed, scale)
    case = shared[condition]
    start = time.process_time()
    found, more = contend(arm, case, seed)
    return {**best_of(found, case.truth), **more, "seconds": time.process_time() - start}


def contend(arm: str, case: Case, seed: int) -> tuple[Iterable[Found], dict[str, Any]]:
    """Clusterings of an arm in all its settings, and what else it measures."""
    k = case.k
    if arm == "kmeans":
        return [kmeans(case.inputs.flatten(1).cpu().numpy(), k, seed)], {}
    if arm == "spectral-knn":
        return list(nearest_neighbours(case.raw, k, seed)), {}
    if arm == "lsr-full":
        return list(least_squares(case.raw, k, seed)), {}
    if arm == "dsc-full":
        steps = case.training.joint_epochs * (len(case.inputs) // case.training.batch)
        return list(deep_self_expression(copy.deepcopy(case.network), case.inputs, steps, k, seed)), {}
    if arm in ("lsc", "lsc-latent"):
        z, marks = (case.raw, case.raw_landmarks) if arm == "lsc" else (case.latents, case.latent_landmarks)
        found = list(landmark_spectral(z, marks.points, k, seed))
        return found, by_landmarks(z, case, seed, lambda u: max(landmark_spectral(z, u, k, seed), key=first)[1])
    if arm == "landmark-raw":
        found, sweep, _ = ridge(case.raw, case.raw_landmarks, case, seed)
        return found, sweep
    if arm == "pretrained-only":
        found, sweep, _ = ridge(case.latents, case.latent_landmarks, case, seed)
        return found, sweep
    how = case.training
    if arm == "random-landmarks":
        how = replace(how, landmarks="random")
    if arm == "no-sparsity":
        how = replace(how, kept=None)
    net = SDSNet(copy.deepcopy(case.network), k, case.m, how, seed).join(case.inputs)
    z = net.latents(case.inputs)
    if arm == "no-sparsity":
        every = (*RIDGES, 0.03, 3.0, 10.0)
        return [(q, factor.labels) for q, factor in select_codes(z, net.landmarks, k, every, (None,), seed)[2]], {}
    if arm == "random-landmarks":
        return [(q, factor.labels) for q, factor in select_codes(z, net.landmarks, k, RIDGES, KEPT, seed)[2]], {}
    found, sweep, factor = ridge(z, net.landmarks, case, seed)
    return found, {**sweep, "shown": central(factor, case.rows)} if case.name == "digits" else sweep


def first(found: tuple[float, Any]) -> float:
    """The silhouette, by which a setting is chosen."""
    return found[0]


def ridge(
    z: NDArray, landmarks: Landmarks, case: Case, seed: int
) -> tuple[list[Found], dict[str, Any], SpectralFactor]:
    """Ridge codes in six settings; the chosen one with fewer landmarks, and its factor."""
    lam, kept, found = select_codes(z, landmarks, case.k, RIDGES, KEPT, seed)

    def labels(u: NDArray) -> NDArray:
        return factor_spectral(landmark_codes(z, u, lam, kept), case.k, seed, 5).labels

    chosen = max(found, key=first)[1]
    return [(q, factor.labels) for q, factor in found], by_landmarks(z, case, seed, labels), chosen


def central(factor: SpectralFactor, rows: NDArray) -> list[float]:
    """The samples nearest to the centre in each of the largest clusters, one cluster after the other."""
    labels, distances = nearest_centre(factor.embedding, factor.centres)
    clusters, pictures = SHOWN
    largest = np.argsort(-np.bincount(labels, minlength=clusters), kind="stable")[:clusters]
    members = [np.flatnonzero(labels == cluster) for cluster in largest]
    return [float(i) for own in members for i in np.resize(rows[own[np.argsort(distances[own])]], pictures)]


def landmark_spectral(z: NDArray, u: NDArray, k: int, seed: int) -> Iterable[Found]:
    """Landmark spectral clustering in six settings."""
    for bandwidth in BANDWIDTHS:
        for kept in KEPT:
            factor = factor_spectral(gaussian_codes(z, u, bandwidth, kept), k, seed, 5)
            yield silhouette(factor.embedding, factor.labels, seed), factor.labels


def by_landmarks(z: NDArray, case: Case, seed: int, labels: Any) -> dict[str, Any]:
    """Accuracy with 2, 5, 10 and 20 landmarks a cluster, chosen anew."""
    sizes = [min(case.k * per, len(z) // 2) for per in SWEEP]
    return {
        "acc_by_m": [clustering_accuracy(case.truth, labels(choose_landmarks(z, m, seed=seed).points)) for m in sizes]
    }


def best_of(found: Iterable[Found], truth: NDArray) -> dict[str, float]:
    """Measures of the setting with the best silhouette, and the best accuracy of all."""
    every = list(found)
    labels = max(every, key=first)[1]
    return {
        "acc": clustering_accuracy(truth, labels),
        "nmi": normalized_mutual_information(truth, labels),
        "ari": adjusted_rand_index(truth, labels),
        "acc_by_labels": max(clustering_accuracy(truth, one) for _, one in every),
    }


@study.figure
def figure(evidence: Evidence) -> Any:
    return draw_figure(evidence)


@study.apply
def apply(
    samples: Path,
    out: Path = Path("clusters"),
    k: int | None = None,
    m: int | None = None,
    auto_k: bool = False,
    largest_k: int = 30,
    features: str | None = None,
    size: int = 32,
    colour: bool = False,
    epochs: int = 8,
    model: Path | None = None,
    seed: int = 0,
) -> str:
    """Cluster a folder of pictures, or the rows of a matrix, by landmark self-expression.

    Writes the folder OUT with labels.csv (file or row, cluster, distance to the cluster's centre), an HTML contact
    sheet for each cluster of pictures, report.json, and model/, which places new files when given as --model.

    Args:
        samples: a folder of pictures (read at any depth), or a .npy, .csv or .mat matrix with a row per sample; a .mat
            file with fea or Y is read as pictures.
        out: folder to write.
        k: number of clusters.
        m: number of landmarks; default 20 a cluster, at most half the samples.
        auto_k: choose k at the widest gap of the spectrum, from 2 to --largest-k.
        largest_k: see --auto-k.
        features: raw (pixels or columns), ae (train an autoencoder: the paper's way, the default for pictures), or
            hf:NAME, embeddings of a Hugging Face vision model by id or folder.
        size: pictures are resized to this many pixels a side.
        colour: keep colours.
        epochs: of joint training; with 0 the autoencoder is only pretrained.
        model: the model/ of an earlier run: place these samples in its clusters, train nothing.
        seed: of the start, the batches, landmarks and k-means.
    """
    # Loaded by name: recorded evidence does not rest on it and does not go stale with it.
    files = require("assay.studies.retrieval._landmark_apply", "retrieval")
    return files.cluster_files(
        samples, out, k=k, m=m, auto_k=auto_k, largest_k=largest_k, features=features, size=size, colour=colour,
        epochs=epochs, model=model, seed=seed,
    )  # fmt: skip
