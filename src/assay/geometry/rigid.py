"""Rigid motion between matched points: Kabsch, and least trimmed squares against outliers."""

from __future__ import annotations

import torch
from torch import Tensor


def kabsch(x: Tensor, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rotation `R` (3, 3) and translation `t` (3,) that minimise `sum w |R x + t - y|²`, with `det R = +1`.

    Args:
        x, y: matched points (N, 3), at least three that are not on one line.
        weights: (N,), not negative, not all 0.

    Raises:
        ValueError: shapes that do not fit, or fewer than three points.
    """
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] != 3 or len(x) < 3:
        raise ValueError(f"expected two matched sets (N, 3), N >= 3, got {tuple(x.shape)} and {tuple(y.shape)}")
    w = torch.ones_like(x[:, 0]) if weights is None else weights.to(x)
    w = (w / w.sum())[:, None]
    mean_x, mean_y = (w * x).sum(0), (w * y).sum(0)
    U, _, Vh = torch.linalg.svd((w * (x - mean_x)).T @ (y - mean_y))
    V = Vh.T
    flip = torch.ones(3, dtype=x.dtype, device=x.device)
    flip[2] = torch.sign(torch.linalg.det(V @ U.T))
    R = V @ torch.diag(flip) @ U.T
    return R, mean_y - R @ mean_x


def least_trimmed_rigid(x: Tensor, y: Tensor, keep: float = 0.5, iters: int = 15) -> tuple[Tensor, Tensor]:
    """Rigid motion of the points that agree best: fit, keep the share `keep` with the smallest residuals, fit again.

    The first fit takes all points, the next `iters - 1` those that were kept. `keep=1` is `kabsch`.

    Args:
        x, y: matched points (N, 3).
        keep: share of the points kept, in (0, 1].
        iters: fits.

    Returns:
        `R` (3, 3) and `t` (3,), `y ~ R x + t`.

    Raises:
        ValueError: shapes that do not fit, `keep` outside (0, 1], or fewer than three points kept.
    """
    if not 0 < keep <= 1 or iters < 1:
        raise ValueError(f"keep must lie in (0, 1] and iters be at least 1, got {keep} and {iters}")
    R, t = kabsch(x, y)
    kept = int(keep * len(x))
    if kept < 3:
        raise ValueError(f"keeping {keep:g} of {len(x)} points leaves {kept}, expected at least 3")
    for _ in range(iters - 1):
        residual = (x @ R.T + t - y).square().sum(1)
        best = residual.topk(kept, largest=False).indices
        R, t = kabsch(x[best], y[best])
    return R, t


def as_matrix(R: Tensor, t: Tensor) -> Tensor:
    """`R` (3, 3) and `t` (3,) as one matrix (4, 4)."""
    matrix = torch.eye(4, dtype=R.dtype, device=R.device)
    matrix[:3, :3], matrix[:3, 3] = R, t
    return matrix
