"""Simulated trials: sets of tokens of three modes whose outcome depends on which drug meets which disease."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
KINDS = 10
RELEVANT = 4  # of KINDS, so that six tokens in ten are irrelevant


@dataclass(frozen=True)
class SimulatedTrials:
    """Token sets with the truth.

    Attributes:
        tokens: drug, disease, inclusion, exclusion -> (N, L, D).
        pad: the same -> (N, L), true for padding. Every trial has at least one token of each.
        label: (N,) of 0 and 1.
        logit: (N,) the true log-odds.
        relevant: the same -> (N, L), tokens that bear on the outcome.
    """

    tokens: dict[str, Array]
    pad: dict[str, NDArray[np.bool_]]
    label: NDArray[np.float64]
    logit: NDArray[np.float64]
    relevant: dict[str, NDArray[np.bool_]]


def simulate_trials(
    n: int,
    seed: int,
    *,
    match: float = 4.0,
    strictness: float = 1.0,
    spread: float = 0.4,
    width: int = 12,
    lengths: tuple[int, int, int, int] = (3, 3, 2, 2),
) -> SimulatedTrials:
    """Draw trials of one world.

        logit = match * mean over relevant drugs k and diseases k' of u_k v_k'
              + strictness * (mean of w over relevant exclusion - mean of w over relevant inclusion criteria)
        label ~ Bernoulli(sigmoid(logit))

    A token is of one of ten kinds, of which the first four are relevant. u, v and w are +1 for two of these and -1 for
    the other two, so neither a drug nor a disease says anything alone (an XOR of signs), and a criterion does.
    A mean over nothing is 0. What is seen of a token is its kind's random direction plus noise. Directions belong to
    the world and are the same for every seed.

    Args:
        n: trials.
        seed: of the draw.
        match: strength of what only drug and disease together tell; 0 for none.
        strictness: strength of what criteria tell alone.
        spread: standard deviation of the noise on each entry of a token; its kind's entries have one of 1.
        width: D.
        lengths: most tokens of drug, disease, inclusion, exclusion.

    Raises:
        ValueError: no trials, no width, a length below 1 or negative noise.
    """
    if n < 1 or width < 1 or min(lengths) < 1 or spread < 0:
        raise ValueError(
            f"need trials, width and lengths above 0, got n {n}, width {width}, lengths {lengths}, {spread}"
        )
    world, rng = np.random.default_rng(2501_06823), np.random.default_rng([2501_06823, seed])
    sign = np.array([1.0, 1.0, -1.0, -1.0, *[0.0] * (KINDS - RELEVANT)])
    drug, disease, criterion = (world.standard_normal((KINDS, width)) for _ in range(3))
    names = ("drug", "disease", "inclusion", "exclusion")
    tokens, pad, relevant, effect = {}, {}, {}, {}
    for name, most, kinds in zip(names, lengths, (drug, disease, criterion, criterion), strict=True):
        kind = rng.integers(0, KINDS, (n, most))
        empty = np.arange(most) >= rng.integers(1, most + 1, n)[:, None]
        seen = kinds[kind] + spread * rng.standard_normal((n, most, width))
        tokens[name] = np.where(empty[..., None], 0.0, seen).astype(np.float32)
        pad[name] = empty
        relevant[name] = (kind < RELEVANT) & ~empty
        total = (sign[kind] * relevant[name]).sum(axis=1)
        effect[name] = total / np.maximum(relevant[name].sum(axis=1), 1)
    logit = match * effect["drug"] * effect["disease"] + strictness * (effect["exclusion"] - effect["inclusion"])
    label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(float)
    return SimulatedTrials(tokens, pad, label, logit, relevant)
