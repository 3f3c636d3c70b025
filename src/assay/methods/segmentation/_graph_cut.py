"""Graphs of tokens, anchor nodes, and the first eigenvectors of the normalised cut.

    (D - W) y = lambda D y,   D = diag(W 1);     u = D^1/2 y is an eigenvector of S = D^-1/2 W D^-1/2 with 1 - lambda

The trivial pair (lambda = 0, y constant) is known and projected out, so the wanted pairs are the largest of S.

Source: 2602.06912 (anchors), normalised cuts (Shi and Malik 2000), TokenCut (2202.11539), LOBPCG (Knyazev 2001)
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Kind = Literal["hard", "soft"]
Solver = Literal["lobpcg", "eigsh", "dense"]

TOLERANCE = 1e-10
BASIS = 40  # most vectors of the search space before it is condensed
STEPS = 1000
SMALL = 64  # nodes up to which the dense solver is taken


class Spectrum(NamedTuple):
    """The first non-trivial pairs of a normalised cut.

    Attributes:
        values: `(k,)` ascending, in [0, 2].
        vectors: `(M, k)`, D-orthogonal to the constant vector and to each other, y^T D y = sum(D).
    """

    values: Tensor
    vectors: Tensor


def affinity(x: Tensor, tau: float = 0.2, eps: float = 1e-5, kind: Kind = "hard", beta: float = 0.15) -> Tensor:
    """Symmetric weights between tokens.

    `hard`: W_ij = 1 where x_i . x_j > tau, else eps. `soft`: W_ij = exp((x_i . x_j - 1) / beta).

    Args:
        x: `(N, D)`, l2-normalised here.

    Returns:
        `(N, N)` in the dtype of `x`.

    Raises:
        ValueError: another shape, a zero or non-finite token, or an option out of its range.
    """
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"tokens must be (N, D) with N of at least 2, got {tuple(x.shape)}")
    if not 0 <= eps < 1 or not -1 <= tau < 1 or beta <= 0:
        raise ValueError(f"expected 0 <= eps < 1, -1 <= tau < 1 and beta > 0, got {eps}, {tau} and {beta}")
    if kind not in ("hard", "soft"):
        raise ValueError(f"unknown kind of affinity {kind!r}; choose hard or soft")
    x = unit(x)
    W = x @ x.T
    W = torch.maximum(W, W.T)  # a product need not be symmetric to the last bit
    if kind == "hard":
        return W.gt_(tau).mul_(1 - eps).add_(eps)
    return W.sub_(1).div_(beta).exp_()


def unit(x: Tensor) -> Tensor:
    """Rows `(..., D)` of length 1.

    Raises:
        ValueError: a row is zero or not finite.
    """
    length = x.norm(dim=-1, keepdim=True)
    if not bool((length.isfinite() & (length > 0)).all()):
        raise ValueError("every token must be finite and not zero")
    return x / length


def add_anchors(W: Tensor, p: Tensor, kappa: float) -> Tensor:
    """The graph with anchor nodes behind its tokens, W_ia = kappa * mean degree * p_ia; anchors are not linked.

    Args:
        W: `(N, N)` weights of the tokens.
        p: `(N,)` in [0, 1], the share of the foreground anchor (the background anchor gets 1 - p); or `(N, A)`, the
            share of each of A anchors.
        kappa: strength of the prior relative to the mean degree.

    Returns:
        `(N + 2, N + 2)`, foreground anchor first; or `(N + A, N + A)`.

    Raises:
        ValueError: shapes that do not fit, shares out of [0, 1], or a strength that is not positive.
    """
    n = len(W)
    if W.shape != (n, n) or p.ndim not in (1, 2) or len(p) != n:
        raise ValueError(f"expected W (N, N) and p (N,) or (N, A), got {tuple(W.shape)} and {tuple(p.shape)}")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("shares p must lie in 0..1")
    if not kappa > 0:
        raise ValueError(f"kappa must be positive, got {kappa}")
    shares = torch.stack([p, 1 - p], dim=1) if p.ndim == 1 else p
    links = (kappa * W.sum(dim=1).mean() * shares).to(W)
    whole = W.new_zeros(n + links.shape[1], n + links.shape[1])
    whole[:n, :n], whole[:n, n:], whole[n:, :n] = W, links, links.T
    return whole


def fiedler(
    W: Tensor, k: int = 1, solver: Solver = "lobpcg", *, start: Tensor | None = None, tolerance: float = TOLERANCE
) -> Spectrum:
    """The k non-trivial generalised eigenpairs of the normalised cut with the smallest values.

    `lobpcg` searches, block by block, the space of the current vectors, their residuals and earlier directions; that
    space is condensed when it reaches `BASIS` vectors. Started at fixed vectors, it gives the same bytes every time
    on one machine. Where it does not converge, `eigsh` (ARPACK, fixed start) takes over. `dense` is exact and slow.
    The sign of a vector is arbitrary.

    Args:
        W: `(M, M)` symmetric, not negative, every row with a positive sum.
        start: `(M, any)` start vectors; a fixed set when None.
        tolerance: largest norm of the residual S u - (1 - lambda) u of a unit vector u; single precision stops at 1e-5.

    Raises:
        ValueError: W is not a symmetric matrix of finite numbers, a node has no links, or k is out of 1..M-1.
    """
    m = len(W)
    if W.ndim != 2 or W.shape != (m, m) or m < 2:
        raise ValueError(f"W must be a square matrix of at least 2 nodes, got {tuple(W.shape)}")
    if not 1 <= k < m:
        raise ValueError(f"k must lie in 1..{m - 1}, got {k}")
    degree = W.sum(dim=1)
    if not bool(degree.isfinite().all()):
        raise ValueError("W holds numbers that are not finite")
    if not torch.equal(W, W.T) and not torch.allclose(W, W.T, rtol=1e-6, atol=1e-6 * float(W.abs().max())):
        raise ValueError("W is not symmetric")
    if float(degree.min()) <= 0 or float(W.min()) < 0:
        raise ValueError("every node needs a positive sum of weights, and no weight may be negative")
    if solver not in ("lobpcg", "eigsh", "dense"):
        raise ValueError(f"unknown solver {solver!r}; choose lobpcg, eigsh or dense")
    root = degree.sqrt()
    trivial = root / root.norm()
    found, small = None, m <= max(SMALL, 4 * k)
    if solver == "lobpcg" and not small:
        given = fixed_start(m, k, W) if start is None else start.reshape(m, -1).to(W)
        found = _block_search(W, root, k, given, tolerance if W.dtype == torch.float64 else max(tolerance, 1e-5))
    if found is None:
        S = W / root / root[:, None]
        if solver != "dense" and not small:
            found = _arpack(S, trivial, k, start, tolerance)
        values, u = _dense(S, trivial, k) if found is None else found
    else:
        values, u = found
    return Spectrum((1 - values).clamp(0, 2), u / root[:, None] * degree.sum().sqrt())


def _block_search(W: Tensor, root: Tensor, k: int, start: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Largest pairs of S beside the trivial one, `(k,)` and `(M, k)`, or None when it takes too long.

    Rayleigh-Ritz on an orthonormal basis (rows of V, behind the trivial vector) that grows by the residuals of the
    leading k Ritz vectors. When it is full, the leading third is kept, with the leading vectors of one step before.
    """
    m, size = len(W), max(BASIS, 8 * k)
    V, SV = W.new_empty(size + 1, m), W.new_empty(size + 1, m)
    H = W.new_zeros(size + 1, size + 1)
    V[0] = root / root.norm()
    SV[0] = V[0]
    used, previous = 1, W.new_empty(0, 0)
    fresh = _orthonormal(torch.cat([start, fixed_start(m, k, W)], dim=1).T, V[:1])[:k]
    for _ in range(STEPS):
        new = slice(used, used + len(fresh))
        V[new] = fresh
        SV[new] = _times(W, fresh / root) / root
        used = new.stop
        links = V[1:used] @ SV[new].T
        H[1:used, new], H[new, 1:used] = links, links.T
        small = H[1:used, 1:used]
        theta, Q = torch.linalg.eigh((small + small.T) / 2)
        theta, Q = theta.flip(0)[:k], Q.flip(1)
        lead = Q[:, :k]
        X = lead.T @ V[1:used]
        residual = lead.T @ SV[1:used] - theta[:, None] * X
        if float(residual.norm(dim=1).max()) <= tolerance:
            return theta, X.T
        if used + k > size:
            before = torch.zeros(used - 1, previous.shape[1]).to(W)
            before[: len(previous)] = previous
            kept = Q[:, : max(2 * k, size // 3)]
            C = torch.cat([kept.T, _orthonormal(before.T, kept.T)])
            V[1 : len(C) + 1], SV[1 : len(C) + 1] = C @ V[1:used], C @ SV[1:used]
            H[1 : len(C) + 1, 1 : len(C) + 1] = C @ small @ C.T
            used, previous = len(C) + 1, W.new_empty(0, 0)
        else:
            previous = lead
        fresh = _orthonormal(residual, V[:used])
        if not len(fresh):
            return theta, X.T  # nothing is left to search
    return None


def _times(W: Tensor, rows: Tensor) -> Tensor:
    """W times each row `(k, M)`, for a symmetric W; one row at a time where that is quicker."""
    return (W @ rows[0])[None] if len(rows) == 1 else rows @ W


def _orthonormal(rows: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal rows spanning what `rows` add to an orthonormal `basis`; those that add nothing are dropped."""
    kept: list[Tensor] = []
    for row in rows:
        length = float(row.norm())
        if not length > 0:
            continue
        row = row / length
        for _ in range(2):
            row = row - (basis @ row) @ basis
            for other in kept:
                row = row - (other @ row) * other
        rest = float(row.norm())
        if rest > 1e-10:
            row = row / rest
            if rest < 1e-3:  # what is left is mostly rounding: clean once more
                row = row - (basis @ row) @ basis
                row = row / row.norm()
            kept.append(row)
    return torch.stack(kept) if kept else rows[:0]


def fixed_start(m: int, count: int, like: Tensor) -> Tensor:
    """Start vectors `(m, count)` without structure, the same on every machine."""
    rows = torch.arange(1, m + 1, dtype=torch.float64)[:, None]
    steps = torch.tensor([(2.0 + j) ** 0.5 for j in range(count)], dtype=torch.float64)
    return ((rows * steps) % 1 - 0.5).to(like)


def _arpack(S: Tensor, trivial: Tensor, k: int, start: Tensor | None, tolerance: float) -> tuple[Tensor, Tensor] | None:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    matrix, q = S.cpu().numpy().astype(np.float64), trivial.cpu().numpy().astype(np.float64)

    def deflated(x: np.ndarray) -> np.ndarray:
        x = x.reshape(-1)
        return matrix @ x - q * (2 * (q @ x))  # the trivial value 1 becomes -1, the smallest

    first = fixed_start(len(S), 1, S) if start is None else start.reshape(len(S), -1).to(S)
    first = first[:, first.norm(dim=0) > 0][:, :1]
    first = first - trivial[:, None] * (trivial @ first)
    try:
        values, vectors = eigsh(
            LinearOperator(matrix.shape, matvec=deflated, dtype=np.float64), k=k, which="LA",
            v0=first[:, 0].cpu().numpy().astype(np.float64), tol=tolerance,
        )  # fmt: skip
    except ArpackNoConvergence:
        return None
    return torch.from_numpy(values[::-1].copy()).to(S), torch.from_numpy(vectors[:, ::-1].copy()).to(S)


def _dense(S: Tensor, trivial: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(S - 2 * torch.outer(trivial, trivial))
    return values.flip(0)[:k], vectors.flip(1)[:, :k]
