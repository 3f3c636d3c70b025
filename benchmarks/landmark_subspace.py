"""Landmark subspace clustering beside scikit-learn's SpectralClustering: growth up to 32,000 samples.

The peer keeps an n x n matrix: it runs as far as four of them fit into free memory, and a size is left out when it
would take longer than `PATIENCE` seconds. Ratios are of runs one after the other, on the same samples.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.cluster import SpectralClustering

from assay.data.subspaces import union_of_subspaces
from assay.methods.retrieval.landmark_subspace import DenseAutoencoder, SDSNet, SubspaceClustering, Training
from assay.metrics.clustering import clustering_accuracy
from benchmarks._measure import one_thread, row

SIZES = (1000, 2000, 4000, 8000, 16000, 32000)
GROUPS, LANDMARKS = 10, 200
PATIENCE = 60.0
Cost = tuple[float, float, float]


def rows() -> list[dict[str, Any]]:
    """Exponents, and time and memory of the landmarks over those of the peer at its largest size, in one run."""
    with one_thread():
        return _rows()


def _rows() -> list[dict[str, Any]]:
    ours: dict[int, Cost] = {}
    deep: dict[int, Cost] = {}
    peer: dict[int, Cost] = {}
    _deep(np.random.default_rng(0).normal(size=(2 * LANDMARKS, 64)))  # what is loaded at first use counts for no size
    for n in SIZES:
        made = union_of_subspaces(n, np.random.default_rng(n), bend=64, noise=0.1)
        x, unit = made.rows, made.rows / np.linalg.norm(made.rows, axis=1, keepdims=True)
        mine = SubspaceClustering(GROUPS, n_landmarks=LANDMARKS, n_init=5, random_state=0)
        ours[n] = _cost(lambda x=x, mine=mine: mine.fit_predict(x), made.labels)
        deep[n] = _cost(lambda x=x: _deep(x), made.labels)
        patient = not peer or 6 * max(cost[0] for cost in peer.values()) < PATIENCE
        if len(peer) == len(ours) - 1 and patient and 4 * 8 * n**2 < _free():
            theirs = SpectralClustering(GROUPS, n_init=5, random_state=0)
            peer[n] = _cost(lambda unit=unit, theirs=theirs: theirs.fit_predict(unit), made.labels)
    last, most, name = max(peer), SIZES[-1], "SpectralClustering"
    slope, deep_slope = _slope(ours), _slope(deep)
    time_ratio, memory_ratio = ours[last][0] / peer[last][0], ours[last][1] / peer[last][1]
    doubling = max(ours[2 * n][0] / ours[n][0] for n in SIZES[2:-1])
    return [
        row(f"landmarks, seconds over n = {SIZES[0]}..{most}", slope, "exponent", at_most=1.2),
        row(f"with network, the same (7 epochs), n = {SIZES[0]}..{most}", deep_slope, "exponent", at_most=1.2),
        row("landmarks, worst t(2n)/t(n) from n = 4000", doubling, "times", at_most=2.5),
        row(f"{name}, seconds over n = {SIZES[0]}..{last}", _slope(peer), "exponent"),
        row(f"n = {last}: landmarks' seconds over {name}'s", time_ratio, "times", at_most=1),
        row(f"n = {last}: network's seconds over {name}'s", deep[last][0] / peer[last][0], "times"),
        row(f"n = {last}: memory over {name}'s", memory_ratio, "times", at_most=0.5),
        row(f"n = {last}: accuracy less {name}'s", ours[last][2] - peer[last][2], "difference"),
        row(f"n = {most}: memory over one n x n matrix", ours[most][1] / (8 * most**2 / 2**20), "times", at_most=0.05),
    ]  # fmt: skip


def _deep(x: np.ndarray) -> np.ndarray:
    """Clusters by `SDSNet` with a fixed number of epochs."""
    torch.manual_seed(0)
    network = DenseAutoencoder(x.shape[1], 2 * x.shape[1], 2 * x.shape[1])
    how = Training(pretrain_epochs=5, joint_epochs=2, batch=250, restarts=5)
    return SDSNet(network, GROUPS, LANDMARKS, how).fit(torch.from_numpy(x.astype(np.float32))).labels


def _cost(cluster: Callable[[], np.ndarray], truth: np.ndarray) -> Cost:
    """Processor seconds, peak MB of arrays and accuracy of one clustering."""
    tracemalloc.start()
    start = time.process_time()
    labels = cluster()
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak, clustering_accuracy(truth, labels)


def _slope(costs: dict[int, Cost]) -> float:
    if len(costs) < 2:
        return float("nan")
    return float(np.polyfit(np.log(list(costs)), np.log([seconds for seconds, _, _ in costs.values()]), 1)[0])


def _free() -> float:
    """Bytes of free memory."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):
        return 4e9
