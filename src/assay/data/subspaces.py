"""Simulated samples near subspaces, and the cases in which subspaces are the wrong picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Rows with the group they were drawn from.

    Attributes:
        rows: `(N, D)`.
        labels: `(N,)` group 0..K-1.
    """

    rows: Floats
    labels: NDArray[np.int64]


def subspace_bases(groups: int, dim: int, ambient: int, angle: float, rng: np.random.Generator) -> Floats:
    """Orthonormal bases `(groups, ambient, dim)` whose principal angles to a common subspace all equal `angle`.

        B_g = cos(angle) * B_0 + sin(angle) * Q_g,   Q_g random, orthonormal and orthogonal to B_0

    `angle = pi/2` gives unrelated random subspaces, a small one subspaces that nearly coincide.

    Args:
        angle: radians in (0, pi/2].

    Raises:
        ValueError: an angle outside that range, or `ambient < 2 * dim`.
    """
    if not 0 < angle <= np.pi / 2:
        raise ValueError(f"angle must lie in (0, pi/2], got {angle}")
    if ambient < 2 * dim:
        raise ValueError(f"ambient must be at least twice dim, got {ambient} and {dim}")
    common = np.linalg.qr(rng.normal(size=(ambient, dim)))[0]
    bases = []
    for _ in range(groups):
        own = rng.normal(size=(ambient, dim))
        own = np.linalg.qr(own - common @ (common.T @ own))[0]
        bases.append(np.cos(angle) * common + np.sin(angle) * own)
    return np.stack(bases)


def union_of_subspaces(
    n: int,
    rng: np.random.Generator,
    *,
    groups: int = 10,
    dim: int = 5,
    ambient: int = 64,
    angle: float = np.pi / 2,
    noise: float = 0.0,
    bend: int = 0,
) -> Samples:
    """Samples x = f(B_g w) + noise * e, with w standard normal scaled to unit length and e standard normal / sqrt(D).

    f is the identity, or with `bend` > 0 a fixed random network of two layers, x = V relu(U y) with `bend` hidden
    units, scaled to unit mean square length: the groups then lie on curved pieces, not on subspaces.

    Args:
        n: samples, groups equally likely in turn.
        angle: see `subspace_bases`.

    Raises:
        ValueError: n below the number of groups, or as in `subspace_bases`.
    """
    if n < groups:
        raise ValueError(f"n must be at least the {groups} groups, got {n}")
    bases = subspace_bases(groups, dim, ambient, angle, rng)
    labels = rng.permutation(np.arange(n) % groups)
    weights = rng.normal(size=(n, dim))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    rows = np.empty((n, ambient))
    for g in range(groups):
        mine = labels == g
        rows[mine] = weights[mine] @ bases[g].T
    if bend:
        first = rng.normal(size=(ambient, bend))
        second = rng.normal(size=(bend, ambient)) / np.sqrt(bend)
        rows = np.maximum(rows @ first, 0) @ second
        rows /= np.sqrt((rows**2).sum(axis=1).mean())
    rows += noise / np.sqrt(ambient) * rng.normal(size=rows.shape)
    return Samples(rows, labels)


def gaussian_blobs(
    n: int, rng: np.random.Generator, *, groups: int = 10, ambient: int = 64, distance: float = 4.0
) -> Samples:
    """Samples x = c_g + e, e standard normal, centres drawn so that their expected distance is `distance`.

    The clusters are points: nearest centre is the right rule.
    """
    centres = rng.normal(size=(groups, ambient)) * distance / np.sqrt(2 * ambient)
    labels = rng.permutation(np.arange(n) % groups)
    return Samples(centres[labels] + rng.normal(size=(n, ambient)), labels)


def turntable(
    objects: int, views: int, rng: np.random.Generator, size: int = 32
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pictures of objects on a turntable, seen from the side: what stands in for COIL where it is not at hand.

    An object is a solid with elliptic cross-sections, lit from the front. Its outline widens and narrows as it turns
    and the texture of its surface passes by, while proportions and brightness stay: a view resembles the next one most
    and the opposite one still, as in COIL.

    Returns:
        Images `(objects * views, size, size)` in [0, 1], equal steps round the object, and their object
        `(objects * views,)`.
    """
    from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates

    columns = 4 * size  # of the texture that is wrapped round
    across = (np.arange(size) + 0.5) / size * 2 - 1
    height = np.repeat(np.arange(size, dtype=float)[:, None], size, axis=1)
    pictures = []
    for _ in range(objects):
        outline = _to_unit(gaussian_filter1d(rng.normal(size=size), rng.uniform(0.08, 0.2) * size, mode="nearest"))
        half_width = 0.4 + 0.5 * outline[:, None]
        flatness = rng.uniform(0.4, 1)
        grain = rng.uniform(0.06, 0.15) * size
        texture = _to_unit(gaussian_filter(rng.normal(size=(size, columns)), (grain, 2 * grain), mode="wrap"))
        albedo = rng.uniform(0.5, 0.8) + rng.uniform(0.4, 0.9) * (texture - 0.5)
        for angle in 2 * np.pi * np.arange(views) / views:
            ratio = across / (half_width * np.hypot(np.cos(angle), flatness * np.sin(angle)))
            longitude = (np.arcsin(np.clip(ratio, -1, 1)) + angle) / (2 * np.pi)
            light = np.sqrt(np.clip(1 - ratio**2, 0, 1))
            pictures.append(map_coordinates(albedo, [height, columns * longitude], order=1, mode="grid-wrap") * light)
    return np.clip(pictures, 0, 1).astype(np.float32), np.repeat(np.arange(objects), views)


def _to_unit(values: Floats) -> Floats:
    """Stretched to [0, 1]."""
    return (values - values.min()) / np.ptp(values)
