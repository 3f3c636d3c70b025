"""Landmark subspace clustering beside scikit-learn's SpectralClustering: growth up to 32,000 samples.

The peer keeps an n x n matrix: it runs as far as four of them fit into free memory, and stops after `PATIENCE` seconds.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from typing import Any

import numpy as np
from sklearn.base import ClusterMixin
from sklearn.cluster import SpectralClustering
from threadpoolctl import threadpool_limits

from assay.data.subspaces import union_of_subspaces
from assay.methods.retrieval.landmark_subspace import SubspaceClustering
from assay.metrics.clustering import clustering_accuracy

SIZES = (1000, 2000, 4000, 8000, 16000, 32000)
GROUPS, LANDMARKS = 10, 200
PATIENCE = 60.0


def rows() -> list[dict[str, Any]]:
    """Exponents, and time and memory of the landmarks over those of the peer at its largest size, in one run."""
    ours: dict[int, tuple[float, float, float]] = {}
    peer: dict[int, tuple[float, float, float]] = {}
    with threadpool_limits(1):
        for n in SIZES:
            made = union_of_subspaces(n, np.random.default_rng(n), bend=64, noise=0.1)
            mine = SubspaceClustering(GROUPS, n_landmarks=LANDMARKS, n_init=5, random_state=0)
            ours[n] = _cost(mine, made.rows, made.labels)
            patient = not peer or max(seconds for seconds, _, _ in peer.values()) < PATIENCE / 6
            if len(peer) == len(ours) - 1 and patient and 4 * 8 * n**2 < _free():
                unit = made.rows / np.linalg.norm(made.rows, axis=1, keepdims=True)
                peer[n] = _cost(SpectralClustering(GROUPS, n_init=5, random_state=0), unit, made.labels)
    last = max(peer)
    slope, theirs = _slope(ours), _slope({n: cost for n, cost in peer.items() if n >= 1000})
    time_ratio, memory_ratio = ours[last][0] / peer[last][0], ours[last][1] / peer[last][1]
    doubling = max(ours[2 * n][0] / ours[n][0] for n in SIZES[2:-1])
    name = "SpectralClustering"
    return [
        _row(f"landmarks, seconds over n = {SIZES[0]}..{SIZES[-1]}", slope, "exponent", "at most 1.2", slope <= 1.2),
        _row("landmarks, worst t(2n)/t(n) from n = 4000", doubling, "times", "at most 2.5", doubling <= 2.5),
        _row(f"{name}, seconds over n = {SIZES[0]}..{last}", theirs, "exponent", "", None),
        _row(f"n = {last}: seconds over {name}'s", time_ratio, "times", "at most 1", time_ratio <= 1),
        _row(f"n = {last}: memory over {name}'s", memory_ratio, "times", "at most 0.5", memory_ratio <= 0.5),
        _row(f"n = {last}: accuracy less {name}'s", ours[last][2] - peer[last][2], "difference", "", None),
        _row(f"n = {SIZES[-1]}: memory", ours[SIZES[-1]][1], "MB", "at most 200", ours[SIZES[-1]][1] <= 200),
    ]


def _cost(estimator: ClusterMixin, x: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Processor seconds, peak MB and accuracy of one fit."""
    tracemalloc.start()
    start = time.process_time()
    labels = estimator.fit_predict(x)
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return seconds, peak, clustering_accuracy(truth, labels)


def _slope(costs: dict[int, tuple[float, float, float]]) -> float:
    if len(costs) < 2:
        return float("nan")
    return float(np.polyfit(np.log(list(costs)), np.log([seconds for seconds, _, _ in costs.values()]), 1)[0])


def _free() -> float:
    """Bytes of free memory."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):
        return 4e9


def _row(what: str, value: float, unit: str, limit: str, ok: bool | None) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "limit": limit, "ok": ok}
