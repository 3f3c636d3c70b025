"""Writing samples as mixes of landmarks: choice of landmarks, ridge codes, Gaussian codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

Floats = NDArray[np.floating]
Ints = NDArray[np.int64]
Choice = Literal["kmeans", "random", "points", "leverage"]
Codes = Floats | sparse.csr_array

BLOCK = 4096  # rows coded at once: memory does not grow with the square of anything


@dataclass(frozen=True)
class Landmarks:
    """The few vectors by which all samples are expressed.

    Attributes:
        points: `(m, p)`.
        source: `(m,)` sample each landmark is; None where landmarks are no samples (centres).
    """

    points: Floats
    source: Ints | None = None

    def self_index(self, n: int) -> Ints | None:
        """For each of `n` samples the landmark that it is, -1 for none; None where landmarks are no samples."""
        if self.source is None:
            return None
        own = np.full(n, -1, dtype=np.int64)
        own[self.source] = np.arange(len(self.source))
        return own


def unit_rows(z: Floats) -> Floats:
    """Rows scaled to unit length; rows of zeros stay."""
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.finfo(z.dtype).tiny ** 0.5)


def choose_landmarks(z: Floats, m: int, how: Choice = "kmeans", seed: int = 0) -> Landmarks:
    """Landmarks of samples `z` `(n, p)`.

    - `kmeans`: centres of mini-batch k-means.
    - `points`: the sample nearest to each centre (a sample is taken once).
    - `random`: samples drawn without replacement.
    - `leverage`: samples drawn by their ridge leverage z_i (Z^T Z + a I)^{-1} z_i^T, a the mean eigenvalue.

    Raises:
        ValueError: m outside 1..n-1, or an unknown choice.
    """
    n = len(z)
    if not 1 <= m < n:
        raise ValueError(f"m must lie in 1..{n - 1} for {n} samples, got {m}")
    rng = np.random.default_rng(seed)
    if how == "random":
        source = np.sort(rng.choice(n, m, replace=False))
        return Landmarks(z[source], source)
    if how == "leverage":
        gram = (z.T @ z).astype(np.float64)
        gram[np.diag_indices_from(gram)] += max(np.trace(gram) / len(gram), np.finfo(float).tiny)
        leverage = np.maximum((z * np.linalg.solve(gram, z.T).T).sum(axis=1), 0) + 1e-12
        source = np.sort(rng.choice(n, m, replace=False, p=leverage / leverage.sum()))
        return Landmarks(z[source], source)
    if how not in get_args(Choice):
        raise ValueError(f"unknown choice of landmarks {how!r}; choose from: {', '.join(get_args(Choice))}")
    from sklearn.cluster import MiniBatchKMeans

    batch = min(n, max(1024, 3 * m))
    found = MiniBatchKMeans(m, batch_size=batch, n_init=1, max_iter=20, random_state=seed).fit(z)
    centres = found.cluster_centers_.astype(z.dtype)
    if how == "kmeans":
        return Landmarks(centres)
    nearest = np.unique(_nearest(centres, z))
    if len(nearest) < m:  # two centres shared a sample: fill up with others
        rest = np.setdiff1d(np.arange(n), nearest)
        nearest = np.sort(np.concatenate([nearest, rng.choice(rest, m - len(nearest), replace=False)]))
    return Landmarks(z[nearest], nearest)


def code_blocks(
    z: Floats,
    u: Floats,
    lam: float,
    s: int | None = None,
    nonneg: bool = True,
    self_index: Ints | None = None,
    block: int = BLOCK,
) -> Iterator[tuple[Codes, int]]:
    """`landmark_codes` in blocks of rows, each with the number of its rows that no landmark expressed."""
    m = len(u)
    if z.ndim != 2 or u.ndim != 2 or z.shape[1] != u.shape[1]:
        raise ValueError(f"z (n, p) and u (m, p) of one width expected, got {z.shape} and {u.shape}")
    if not lam > 0:
        raise ValueError(f"lam must be positive, got {lam}")
    if s is not None and not 1 <= s <= m:
        raise ValueError(f"s must lie in 1..{m}, got {s}")
    gram = u.astype(np.float64) @ u.T.astype(np.float64)
    gram[np.diag_indices(m)] += lam
    inverse = np.linalg.inv(gram)
    encoder = (u.T @ inverse).astype(z.dtype)  # one product per sample: O(m p)
    for begin in range(0, len(z), block):
        part = z[begin : begin + block]
        c = part @ encoder
        own = None if self_index is None else self_index[begin : begin + block]
        if own is not None:
            rows = np.flatnonzero(own >= 0)
            j = own[rows]
            c[rows] -= (c[rows, j] / inverse[j, j])[:, None] * inverse[j]
            c[rows, j] = 0
        if nonneg:
            np.maximum(c, 0, out=c)
        yield _finish(c, s, nonneg, part, u, own)


def landmark_codes(
    z: Floats,
    u: Floats,
    lam: float,
    s: int | None = None,
    nonneg: bool = True,
    self_index: Ints | None = None,
) -> Codes:
    """Coefficients that express each sample by landmarks, Z ~ C U.

        c_i = argmin |z_i - c U|^2 + lam |c|^2 = z_i U^T (U U^T + lam I)^{-1}

    Then, to keep to the sample's own subspace, negative coefficients are cut (`nonneg`), only the `s` largest by
    amount are kept, and with `nonneg` rows are scaled to sum 1. A row that is left without any coefficient gets a 1 at
    its nearest landmark.

    Args:
        z: samples `(n, p)`.
        u: landmarks `(m, p)`.
        lam: ridge weight, > 0, in units of squared length.
        s: coefficients kept in a row; None: all.
        nonneg: cut and scale.
        self_index: `(n,)` landmark that a sample is, -1 for none; it gets coefficient 0, and the solution is the ridge
            solution on the other landmarks.

    Returns:
        `(n, m)`: CSR where `s` is given, else dense.

    Raises:
        ValueError: widths differ, lam is not positive, or s is outside 1..m.
    """
    blocks = [codes for codes, _ in code_blocks(z, u, lam, s, nonneg, self_index)]
    return _stack(blocks)


def unexpressed(z: Floats, u: Floats, lam: float, self_index: Ints | None = None) -> int:
    """How many samples have no positive coefficient, so that their nearest landmark stands for them."""
    return sum(count for _, count in code_blocks(z, u, lam, 1, True, self_index))


def gaussian_codes(z: Floats, u: Floats, bandwidth: float, s: int = 3, self_index: Ints | None = None) -> Codes:
    """Codes of landmark spectral clustering: exp(-d^2 / (2 h^2)) on the s nearest landmarks, rows scaled to sum 1.

    Args:
        bandwidth: h as a multiple of the mean distance to the s-th nearest landmark.
        self_index: as in `landmark_codes`.

    Raises:
        ValueError: a bandwidth that is not positive.
    """
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    parts = []
    for begin in range(0, len(z), BLOCK):
        d = _squared(z[begin : begin + BLOCK], u)
        if self_index is not None:
            rows = np.flatnonzero(self_index[begin : begin + BLOCK] >= 0)
            d[rows, self_index[begin + rows]] = np.inf
        place = np.argpartition(d, s - 1, axis=1)[:, :s]
        parts.append((np.take_along_axis(d, place, axis=1), place))
    near, place = (np.concatenate(column) for column in zip(*parts, strict=True))
    h2 = bandwidth**2 * np.maximum(np.sqrt(near.max(axis=1)).mean() ** 2, np.finfo(float).tiny)
    w = np.exp(-(near - near.min(axis=1, keepdims=True)) / (2 * h2))  # the row's scale cancels
    return _csr(w / w.sum(axis=1, keepdims=True), place, len(u))


def ridge_codes(
    z: Tensor, u: Tensor, lam: float, s: int | None = None, nonneg: bool = True, self_index: Tensor | None = None
) -> Tensor:
    """`landmark_codes` as a differentiable function of samples `(B, p)` and landmarks `(m, p)`, dense `(B, m)`.

    Gradients flow through the solve of the m x m system; which coefficients are kept is held fixed. Rows without any
    coefficient stay zero.
    """
    m = len(u)
    eye = torch.eye(m, dtype=u.dtype, device=u.device)
    gram = u @ u.T + lam * eye
    c = torch.linalg.solve(gram, u @ z.T).T
    if self_index is not None:
        inverse = torch.linalg.inv(gram)
        j = self_index.clamp(min=0)
        step = c.gather(1, j[:, None]) / inverse.diagonal()[j][:, None] * inverse[j]
        own = torch.nn.functional.one_hot(j, m).bool() & (self_index >= 0)[:, None]
        c = torch.where((self_index >= 0)[:, None], c - step, c).masked_fill(own, 0.0)
    if nonneg:
        c = c.clamp(min=0)
    if s is not None and s < m:
        keep = torch.zeros_like(c, dtype=torch.bool).scatter_(1, c.abs().topk(s, dim=1).indices, True)
        c = c * keep
    return c / c.sum(dim=1, keepdim=True).clamp(min=1e-12) if nonneg else c


def _finish(c: Floats, s: int | None, nonneg: bool, z: Floats, u: Floats, own: Ints | None) -> tuple[Codes, int]:
    """Keep the s largest, fill rows of zeros, scale."""
    zero = np.flatnonzero(~c.any(axis=1))
    if len(zero):
        d = _squared(z[zero], u)
        if own is not None:
            mine = np.flatnonzero(own[zero] >= 0)
            d[mine, own[zero][mine]] = np.inf
        c[zero, d.argmin(axis=1)] = 1
    if s is None:
        return (c / c.sum(axis=1, keepdims=True) if nonneg else c), len(zero)
    place = np.argpartition(-np.abs(c), s - 1, axis=1)[:, :s]
    kept = np.take_along_axis(c, place, axis=1)
    return _csr(kept / kept.sum(axis=1, keepdims=True) if nonneg else kept, place, len(u)), len(zero)


def _csr(values: Floats, columns: Ints, m: int) -> sparse.csr_array:
    n, s = values.shape
    codes = sparse.csr_array((values.ravel(), columns.ravel(), np.arange(0, n * s + 1, s)), shape=(n, m))
    codes.eliminate_zeros()
    codes.sort_indices()
    return codes


def _stack(blocks: list[Codes]) -> Codes:
    return sparse.vstack(blocks, format="csr") if sparse.issparse(blocks[0]) else np.concatenate(blocks)


def _squared(a: Floats, b: Floats) -> Floats:
    """Squared distances `(len(a), len(b))`."""
    return np.maximum((a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T, 0)


def _nearest(a: Floats, b: Floats) -> Ints:
    """For each row of `a` the nearest row of `b`, in blocks of `b`'s rows."""
    best = np.full(len(a), np.inf)
    place = np.zeros(len(a), dtype=np.int64)
    for begin in range(0, len(b), BLOCK):
        d = _squared(a, b[begin : begin + BLOCK])
        j = d.argmin(axis=1)
        nearer = d[np.arange(len(a)), j] < best
        best[nearer], place[nearer] = d[np.arange(len(a)), j][nearer], begin + j[nearer]
    return place
