"""Cost of landmark clustering and of graphs over all pairs, as samples become more."""

from __future__ import annotations

import os
import time
import tracemalloc

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import SpectralClustering

from assay.data.subspaces import union_of_subspaces
from assay.methods.retrieval.landmark_subspace import (
    DenseAutoencoder,
    SDSNet,
    SubspaceClustering,
    Training,
    choose_landmarks,
    factor_spectral,
    gaussian_codes,
    unit_rows,
)
from assay.metrics.clustering import clustering_accuracy
from assay.studies.retrieval._landmark_baselines import largest_per_row, self_expression, spectral_of_graph

SIZES = (1000, 2000, 4000, 8000, 16000, 32000)
GROUPS, LANDMARKS = 10, 200
ALIVE = 4  # matrices of n x n numbers that an arm over all pairs holds at its peak
POCKET_MB = 2048.0  # what such an arm may take in a pocket trial
ALL_PAIRS = tuple(n for n in SIZES if ALIVE * 8 * n**2 / 2**20 <= POCKET_MB)
DENSE = ("lsr-full", "sklearn-spectral")


def grow(arm: str, n: int, seed: int, scale: str) -> dict[str, float]:
    """Processor seconds, peak memory of arrays and accuracy at one size, of one run that is watched for memory.

    Where an n x n matrix is too large, only what that matrix would need.
    """
    n = max(60, n // 32) if scale == "smoke" else n
    needed = 8 * n**2 / 2**20
    if arm in DENSE and not may_hold(needed, scale):
        return {"needed_mb": needed}
    made = union_of_subspaces(n, np.random.default_rng([seed, n]), bend=64, noise=0.1)
    tracemalloc.start()
    start = time.process_time()
    labels = grown_labels(arm, made.rows, seed)
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    measured = {"seconds": seconds, "peak_mb": peak, "acc": clustering_accuracy(made.labels, labels)}
    return {**measured, "needed_mb": needed} if arm in DENSE else measured


def grown_labels(arm: str, rows: NDArray[np.float64], seed: int) -> NDArray:
    """Ten clusters by one arm at one setting, from the rows as they come."""
    m = min(LANDMARKS, len(rows) // 2)
    if arm == "sdsnet":
        torch.manual_seed(seed)
        network = DenseAutoencoder(rows.shape[1], 2 * rows.shape[1], 2 * rows.shape[1])
        how = Training(pretrain_epochs=5, joint_epochs=2, batch=250, restarts=2)
        return SDSNet(network, GROUPS, m, how, seed).fit(torch.from_numpy(rows.astype(np.float32))).labels
    if arm == "landmark-raw":
        return SubspaceClustering(GROUPS, n_landmarks=m, n_init=2, random_state=seed).fit_predict(rows)
    z = unit_rows(rows)
    if arm == "lsc":
        u = choose_landmarks(z, m, seed=seed).points
        return factor_spectral(gaussian_codes(z, u, 1.0), GROUPS, seed, 2).labels
    if arm == "lsr-full":
        return spectral_of_graph(largest_per_row(self_expression(z, 0.1), 8), GROUPS, seed, 2)[1]
    return SpectralClustering(GROUPS, n_init=2, random_state=seed).fit_predict(z)


def may_hold(needed_mb: float, scale: str) -> bool:
    """Whether the matrices of an arm over all pairs fit: into a fixed allowance, at full scale into free memory."""
    if scale != "full":
        return ALIVE * needed_mb <= POCKET_MB
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20 if hasattr(os, "sysconf") else POCKET_MB
    return ALIVE * needed_mb < free
