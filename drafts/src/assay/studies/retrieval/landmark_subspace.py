"""SDSNet: express every sample by a few landmarks, and subspace clustering grows only linearly. (2512.21434)

Self-expression of all samples by all samples costs an n x n matrix. SDSNet uses landmarks, learns them together with
an autoencoder, and reads clusters off a thin factor. Three questions: is the quality of the full matrix kept, is the
cost linear, and does the network help?

Data: COIL-20 (each seed draws 8 of its 20 objects, all 72 views; simulated turntable pictures where the file is not
at hand), scikit-learn's digits (each seed draws 600), simulated vectors. ORL, Extended Yale B and COIL-100 join when
their files lie in `$ASSAY_DATA`. Draws overlap, so intervals speak of these sets, not of other objects or hands.

No arm sees labels. Each tries six settings (ridge weight or bandwidth or neighbours, coefficients kept) and takes the
one with the best silhouette in its own embedding; `acc_by_labels` is the best of the six by labels, as this literature
often reports. Grids, learning rates and sizes were set on seeds 100 and 101, which the study does not use.

`dsc-full` starts from the closed form and has the landmark network's guards, so it is stronger than DSC-Net at as
many steps. `seconds` are processor seconds of one thread. Where an n x n matrix is needed, pocket stops at n = 4,000;
`needed_mb` is given for every size, and `--scale full` and `python -m benchmarks landmark_subspace` go on as far as
memory lets them. In the scaling conditions the network trains 1 + 1 epochs at every size, and k-means
starts twice.
"""

from __future__ import annotations

import copy
import os
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import SpectralClustering
from sklearn.datasets import load_digits
from torch import Tensor, nn

from assay.data import samples
from assay.data.image import coil
from assay.data.subspaces import gaussian_blobs, turntable, union_of_subspaces
from assay.errors import InputError, require
from assay.lab import Better, Evidence, NotWorse, Slope, Study
from assay.methods.retrieval.landmark_subspace import (
    PRESETS,
    ConvAE,
    DenseAutoencoder,
    Landmarks,
    SDSNet,
    SubspaceClustering,
    Training,
    choose_landmarks,
    factor_spectral,
    gaussian_codes,
    landmark_codes,
    latents_of,
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
    largest_per_row,
    least_squares,
    nearest_neighbours,
    self_expression,
    spectral_of_graph,
)

PAPER = "2512.21434"
SIZES = (1000, 2000, 4000, 8000, 16000, 32000)
ALL_PAIRS = SIZES[:3]  # pocket sizes of what holds an n x n matrix
OBJECTS, DIGITS = 8, 600  # drawn for a seed
PER_CLUSTER = 20  # landmarks a cluster
SWEEP = (2, 5, 10, 20)
KEPT = (3, 5)
BANDWIDTHS = (0.7, 1.0, 2.0)

REAL = ("coil-20", "digits")
MORE = tuple(
    name for name in ("orl", "yale-b", "coil-100") if (at := samples.locate(name)) is not None and coil.find(at, name)
)
CONTROLS = ("blobs", "crossing")
SCALING = {f"n-{n}": float(n) for n in SIZES}

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
IMAGES = (*REAL, *MORE)
SMALL = tuple(name for name in IMAGES if name != "coil-100")

study = Study(
    paper=PAPER,
    arms=ARMS,
    conditions={
        "coil-20": "real: turning objects, 8 drawn a seed",
        "digits": "real: handwritten digits, 600 drawn a seed",
        **{name: f"real: {name}" for name in MORE},
        "blobs": "control: round clusters, k-means is right",
        "crossing": "control: subspaces at small angles",
        **{name: f"simulated: {int(n):,} samples on ten bent subspaces" for name, n in SCALING.items()},
    },
    arm_conditions={
        "kmeans": [*IMAGES, *CONTROLS],
        "spectral-knn": IMAGES,
        "sklearn-spectral": tuple(SCALING),
        "lsr-full": [*SMALL, *SCALING],
        "dsc-full": SMALL,
        "lsc": [*IMAGES, *CONTROLS, *SCALING],
        "lsc-latent": IMAGES,
        "landmark-raw": [*IMAGES, *CONTROLS, *SCALING],
        "pretrained-only": [*IMAGES, *CONTROLS],
        "random-landmarks": ["digits"],
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
            sizes={f"n-{n}": float(n) for n in ALL_PAIRS}, paper="O(n^3) of subspace clustering (abstract)",
        ),
        Slope(
            "seconds", name="C2-sklearn", method="sklearn-spectral", at_most=1.2, expected="contradicted",
            sizes={f"n-{n}": float(n) for n in ALL_PAIRS}, paper="none: ours",
        ),
        Better("acc", name="C3", method="sdsnet", baseline="landmark-raw", conditions=REAL, paper="none: ours"),
        Better(
            "acc", name="C3-joint", method="sdsnet", baseline="pretrained-only", conditions=REAL, paper="none: ours"
        ),
        Better("acc", name="C4", method="sdsnet", baseline=["lsc", "lsc-latent"], conditions=REAL, paper="none: ours"),
        Better("acc", name="C5", method="sdsnet", baseline="spectral-knn", conditions=REAL, paper="none: ours"),
        Better(
            "acc", name="control: blobs", method="sdsnet", baseline="kmeans", conditions=["blobs"],
            expected="not supported",
        ),
        Better(
            "acc", name="control: crossing", method="sdsnet", baseline="lsc", conditions=["crossing"],
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
    },
    seeds={"pocket": 5, "full": 10},
    data=lambda scale: "real and simulated",
    tolerances={"seconds": None, "peak_mb": None},
    tolerance=1e-3,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One clustering task, with the pretrained network and the landmarks that arms share."""

    inputs: Tensor
    raw: NDArray[np.float32]
    truth: NDArray[np.int64]
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
    for name in (*IMAGES, *CONTROLS):
        inputs, truth = draw(name, scale, rng, data)
        cases[name] = make_case(inputs, truth, name, seed, scale, device)
    return cases


def draw(
    name: str, scale: str, rng: np.random.Generator, data: Path | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Samples of a condition: pictures `(n, H, W)` or vectors `(n, D)`, and their classes."""
    smoke = scale == "smoke"
    if name == "digits":
        images, truth = digits()
        rows = np.arange(len(truth)) if scale == "full" else rng.choice(len(truth), 150 if smoke else DIGITS, False)
        return images[rows], truth[rows]
    if name in CONTROLS:
        n = 150 if smoke else DIGITS
        made = (
            gaussian_blobs(n, rng, distance=6.0)
            if name == "blobs"
            else union_of_subspaces(n, rng, dim=4, angle=0.4, noise=0.2)
        )
        return made.rows.astype(np.float32), made.labels
    images, truth = pictures(name, data if scale == "full" else None, scale == "full")
    if scale != "full":
        objects = np.unique(truth)
        kept = rng.choice(objects, 4 if smoke else min(OBJECTS, len(objects)), replace=False)
        rows = np.flatnonzero(np.isin(truth, kept))[:: 2 if smoke else 1]
        images, truth = images[rows], np.unique(truth[rows], return_inverse=True)[1]
    return images, truth


@lru_cache(maxsize=1)
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """scikit-learn's digits, 8x8 pixels in [0, 1]."""
    found = load_digits()
    return (found.images / 16).astype(np.float32), found.target


@lru_cache(maxsize=4)
def pictures(name: str, data: Path | None, needed: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """An official image set, or turntable pictures in place of COIL-20."""
    folders = [folder for folder in (data, samples.locate(name)) if folder is not None]
    file = next((file for folder in folders if (file := coil.find(folder, name))), None)
    if file is None:
        if needed:
            raise InputError(f"the full scale needs {coil.OFFICIAL[name]}: put it in a folder and pass --data FOLDER")
        images, truth = turntable(20, 72, np.random.default_rng(0))
        return images, truth.astype(np.int64)
    found = coil.read_mat(file)
    if found.labels is None:
        raise InputError(f"{file}: holds no classes to compare with; expected the variable gnd")
    return found.images, found.labels


def make_case(
    inputs: NDArray[np.float32], truth: NDArray[np.int64], name: str, seed: int, scale: str, device: str = "cpu"
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
        network = DenseAutoencoder(x.shape[1])
    pretrain(network.to(device), x, training.pretrain_epochs, training.batch, training.learning_rate, seed)
    raw, latents = unit_rows(inputs.reshape(len(inputs), -1)), latents_of(network, x)
    return Case(
        x, raw, truth, k, network, latents, choose_landmarks(raw, m, seed=seed),
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
        return ridge(case.raw, case.raw_landmarks, case, seed)
    if arm == "pretrained-only":
        return ridge(case.latents, case.latent_landmarks, case, seed)
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
    return ridge(z, net.landmarks, case, seed)


def first(found: Found) -> float:
    """The silhouette, by which a setting is chosen."""
    return found[0]


def ridge(z: NDArray, landmarks: Landmarks, case: Case, seed: int) -> tuple[list[Found], dict[str, Any]]:
    """Ridge codes in six settings; then the chosen one with fewer landmarks."""
    lam, kept, found = select_codes(z, landmarks, case.k, RIDGES, KEPT, seed)

    def labels(u: NDArray) -> NDArray:
        return factor_spectral(landmark_codes(z, u, lam, kept), case.k, seed, 5).labels

    return [(q, factor.labels) for q, factor in found], by_landmarks(z, case, seed, labels)


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


def grow(arm: str, n: int, seed: int, scale: str) -> dict[str, float]:
    """Processor seconds and peak memory at one size; only the need where an n x n matrix is too large."""
    n = max(60, n // 32) if scale == "smoke" else n
    dense = arm in ("lsr-full", "sklearn-spectral")
    needed = 8 * n**2 / 2**20
    if dense and not may_hold(n, needed, scale):
        return {"needed_mb": needed}
    made = union_of_subspaces(n, np.random.default_rng([seed, n]), bend=64, noise=0.1)
    torch.manual_seed(seed)
    tracemalloc.start()
    start = time.process_time()
    labels = grown_labels(arm, made.rows, seed, min(PER_CLUSTER * 10, n // 2))
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    measured = {"seconds": seconds, "peak_mb": peak, "acc": clustering_accuracy(made.labels, labels)}
    return {**measured, "needed_mb": needed} if dense else measured


def grown_labels(arm: str, rows: NDArray[np.float64], seed: int, m: int) -> NDArray:
    """Ten clusters by one arm at one setting."""
    k, z = 10, unit_rows(rows)
    if arm == "sdsnet":
        inputs = torch.from_numpy(rows.astype(np.float32))
        how = Training(pretrain_epochs=1, joint_epochs=1, batch=250, restarts=2)
        return SDSNet(DenseAutoencoder(rows.shape[1]), k, m, how, seed).fit(inputs).labels
    if arm == "landmark-raw":
        return SubspaceClustering(k, n_landmarks=m, n_init=2, random_state=seed).fit_predict(rows)
    if arm == "lsc":
        u = choose_landmarks(z, m, seed=seed).points
        return factor_spectral(gaussian_codes(z, u, 1.0), k, seed, 2).labels
    if arm == "lsr-full":
        return spectral_of_graph(largest_per_row(self_expression(z, 0.1), 8), k, seed, 2)[1]
    return SpectralClustering(k, n_init=2, random_state=seed).fit_predict(z)


def may_hold(n: int, needed_mb: float, scale: str) -> bool:
    """Whether an arm over all pairs runs at this size; some four such matrices are alive at once."""
    if scale != "full":
        return n <= max(ALL_PAIRS)
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20 if hasattr(os, "sysconf") else 4096
    return 4 * needed_mb < free


@study.figure
def figure(evidence: Evidence) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    draw_accuracy(axes[0, 0], evidence)
    draw_sweep(axes[0, 1], evidence)
    draw_growth(axes[1, 0], evidence, "seconds")
    draw_growth(axes[1, 1], evidence, "peak_mb")
    return figure


def draw_accuracy(axis: Any, evidence: Evidence) -> None:
    """Accuracy of every arm on the real sets."""
    arms = [arm for arm in evidence.arms if arm != "sklearn-spectral"]
    for shift, condition in zip((0.15, -0.15), REAL, strict=True):
        colour = f"C{REAL.index(condition)}"
        for row, arm in enumerate(arms):
            if condition not in evidence.conditions_of(arm):
                continue
            mean, low, high = evidence.mean_interval("acc", arm, condition)
            by_labels = np.nanmean(evidence.values("acc_by_labels", arm, condition))
            axis.plot([low, high], [row + shift] * 2, color=colour, lw=2)
            axis.plot(mean, row + shift, "o", color=colour, label=condition if arm == "kmeans" else None)
            axis.plot(by_labels, row + shift, "|", color="0.2", ms=9)
    axis.plot([], [], "|", color="0.2", label="setting chosen by labels")
    axis.set_yticks(range(len(arms)), arms)
    axis.set_xlabel(evidence.label("acc"))
    axis.set_title("Quality, no labels used (mean, 95 % interval)")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)


def draw_sweep(axis: Any, evidence: Evidence) -> None:
    """Accuracy against the number of landmarks."""
    for i, arm in enumerate(("lsc", "lsc-latent", "landmark-raw", "pretrained-only", "sdsnet")):
        for condition, style in zip(REAL, ("-o", "--s"), strict=True):
            values = evidence.series("acc_by_m", arm, condition)
            if values.size:
                axis.plot(SWEEP, values.mean(axis=0), style, color=f"C{i}", label=arm if style == "-o" else None)
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
    for i, arm in enumerate(("sklearn-spectral", "lsr-full", "lsc", "landmark-raw", "sdsnet")):
        cost = np.array([np.nanmean(_measured(evidence, metric, arm, name)) for name in SCALING])
        there = np.isfinite(cost) & (cost > 0)
        if there.sum() < 2:
            continue
        sizes = np.array(SIZES, dtype=float)
        slope = np.polyfit(np.log(sizes[there]), np.log(cost[there]), 1)[0]
        axis.plot(sizes[there], cost[there], "-o", color=f"C{i}", label=f"{arm}: n^{slope:.2f}")
        if metric == "peak_mb" and arm == "sklearn-spectral":
            need = np.array([np.nanmean(_measured(evidence, "needed_mb", arm, name)) for name in SCALING])
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


def _measured(evidence: Evidence, metric: str, arm: str, condition: str) -> NDArray:
    values = evidence.values(metric, arm, condition)
    values = values[np.isfinite(values)]
    return values if values.size else np.array([np.inf])


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
