"""How the atoms of two sides are joined, and how much of the modality one direction gives away."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def bridge(
    z_img: ArrayLike, z_txt: ArrayLike, dictionary: ArrayLike, *, joint: float = 99.9, near: float = 90.0
) -> Floats:
    """Which picture atom goes with which text atom: B = Sigma * (D D^T), elementwise, `(K, K)`.

    Sigma_jl is the correlation over pairs of atom j in the picture with atom l in the text. Entries of Sigma below its
    `joint` percentile and of D D^T below its `near` percentile count as 0, so that B holds atoms that fire together and
    point the same way.

    Args:
        z_img, z_txt: `(n, K)` codes of pairs.
        dictionary: `(K, d)` unit rows.

    Raises:
        ValueError: shapes that do not fit.
    """
    a, b, rows = (np.asarray(x, dtype=np.float64) for x in (z_img, z_txt, dictionary))
    if a.shape != b.shape or a.ndim != 2 or rows.ndim != 2 or a.shape[1] != len(rows) or len(a) < 2:
        raise ValueError(f"codes of pairs over one dictionary expected, got {a.shape}, {b.shape}, {rows.shape}")
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    scale = np.outer(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0))
    sigma = (a.T @ b) / np.maximum(scale, 1e-12)
    gram = rows @ rows.T
    return np.where(sigma >= np.percentile(sigma, joint), sigma, 0) * np.where(
        gram >= np.percentile(gram, near), gram, 0
    )


def rho(joined: ArrayLike, energy: ArrayLike, bimodal: ArrayLike) -> float:
    """How much more of the bridge rests on bimodal atoms than on others, per unit of energy.

        rho = (mass of B in rows or columns of bimodal atoms / e) / (mass of B among the others / (1 - e))

    with e the share of energy in bimodal atoms. Above 1: bimodal atoms join the sides. Infinite where the others hold
    no mass, NaN where e is 0 or 1 and nothing can be compared.

    Args:
        joined: `(K, K)` from `bridge`.
        energy, bimodal: `(K,)`.

    Raises:
        ValueError: shapes that do not fit, or no energy.
    """
    b, power, both = np.asarray(joined, float), np.asarray(energy, float), np.asarray(bimodal, bool)
    if b.shape != (len(power), len(power)) or both.shape != power.shape or not power.sum() > 0:
        raise ValueError(f"a bridge over atoms with energy expected, got {b.shape}, {power.shape}, {both.shape}")
    e = power[both].sum() / power.sum()
    if e in (0.0, 1.0):
        return float("nan")
    alone = b[np.ix_(~both, ~both)].sum()
    touching = b.sum() - alone
    if alone == 0:
        return float("inf") if touching > 0 else float("nan")
    return float((touching / e) / (alone / (1 - e)))


def probe_accuracy(img: ArrayLike, txt: ArrayLike, directions: ArrayLike) -> Floats:
    """How well the projection on one direction tells picture from text, `(K,)` in [0.5, 1].

    The best threshold on <a, D_j>, either way round, with both sides weighted alike.

    Args:
        img, txt: `(n, d)`, `(m, d)` embeddings.
        directions: `(K, d)`.

    Raises:
        ValueError: widths that differ.
    """
    a, b, u = _three(img, txt, directions)
    found = np.empty(len(u))
    weight = np.concatenate([np.full(len(a), 1 / len(a)), np.full(len(b), -1 / len(b))])
    for j, direction in enumerate(u):
        values = np.concatenate([a @ direction, b @ direction])
        order = np.argsort(values, kind="stable")
        run = np.abs(np.cumsum(weight[order]))
        last = np.append(np.diff(values[order]) > 0, True)  # a threshold cannot part equal values
        found[j] = 0.5 + run[last].max() / 2
    return np.minimum(found, 1.0)


def fisher_ratio(img: ArrayLike, txt: ArrayLike, directions: ArrayLike) -> Floats:
    """Fisher's criterion along each direction, `(K,)`: (difference of means)^2 / (sum of variances)."""
    a, b, u = _three(img, txt, directions)
    left, right = a @ u.T, b @ u.T
    spread = left.var(axis=0) + right.var(axis=0)
    return (left.mean(axis=0) - right.mean(axis=0)) ** 2 / np.maximum(spread, 1e-12)


def _three(img: ArrayLike, txt: ArrayLike, directions: ArrayLike) -> tuple[Floats, Floats, Floats]:
    a, b, u = (np.asarray(x, dtype=np.float64) for x in (img, txt, directions))
    if not (a.ndim == b.ndim == u.ndim == 2 and a.shape[1] == b.shape[1] == u.shape[1]) or not len(a) or not len(b):
        raise ValueError(f"rows of one width expected, got {a.shape}, {b.shape} and {u.shape}")
    return a, b, u
