"""One jump beside an ODE solve, what rectified training costs, and the Fréchet distance beside a matrix square root."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from assay.methods.generation.flow_consist import FlowConsist, own_velocity, sample
from assay.metrics.distribution import frechet_distance
from assay.nn.flow import integrate
from assay.nn.two_time import TwoTimeMLP
from benchmarks._measure import one_thread, ratio, row, side_by_side

WIDTH, ROWS, DIM = 384, 2000, 64


def rows() -> list[dict[str, Any]]:
    """Every figure a ratio of times taken by turns on one thread."""
    with one_thread():
        return [_sampling(), _training(), *_frechet()]


@torch.no_grad()
def _sampling() -> dict[str, Any]:
    net, noise, times = TwoTimeMLP(DIM, 128, 3), torch.randn(ROWS, DIM), torch.linspace(1, 0, 26)
    pairs = side_by_side(
        lambda: integrate(own_velocity(net), noise, times, "heun"), lambda: sample(net, noise), repeats=5
    )
    return row("25 Heun steps over one jump of the same network", ratio(pairs), "times", at_least=25)


def _training() -> dict[str, Any]:
    def steps(**settings: Any) -> Any:
        torch.manual_seed(0)
        flow = FlowConsist(TwoTimeMLP(DIM, 128, 3), steps=1000, generator=torch.Generator().manual_seed(0), **settings)
        x = torch.randn(128, DIM)
        return lambda: flow.fit(lambda: (x, None, None), start=600, stop=610)

    pairs = side_by_side(steps(warm=0.3, rectify_weight=4.5), steps(warm=1.0), repeats=5)
    return row("training step of FlowConsist over one of flow matching", ratio(pairs), "times", at_most=6)


def _frechet() -> list[dict[str, Any]]:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(ROWS, WIDTH)) @ rng.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5 for _ in range(2))

    def theirs() -> float:
        c1, c2 = np.cov(x.T), np.cov(y.T)
        gap = np.square(x.mean(0) - y.mean(0)).sum()
        return float(gap + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real))

    def ours() -> float:
        return frechet_distance(torch.from_numpy(x), torch.from_numpy(y))

    pairs = side_by_side(ours, theirs, repeats=5, clock=time.process_time)
    apart = abs(ours() / theirs() - 1)
    what = f"Fréchet distance, {WIDTH} features"
    return [
        row(f"{what}: time over the usual matrix square root (SciPy)", ratio(pairs), "times", at_most=1.25),
        row(f"{what}: relative difference", apart, "", at_most=1e-6),
    ]
