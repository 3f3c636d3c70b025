"""How far two samples' laws lie apart: sliced Wasserstein, Frechet distance, and features of a frozen classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sliced_wasserstein(
    x: Tensor, y: Tensor, projections: int = 128, p: float = 2.0, generator: torch.Generator | None = None
) -> float:
    """Sliced Wasserstein distance: `(mean over directions of W_p^p of the projections)^(1/p)`.

    Samples of unequal size are compared at as many quantiles as the smaller one has rows. Zero for equal samples; two
    samples of one law keep a distance that falls with their size.

    Args:
        x, y: `(N, d)` and `(M, d)`.
        projections: random directions; the same for equal generators.
        p: order, at least 1.

    Raises:
        ValueError: no rows, other widths, or p below 1.
    """
    _check(x, y)
    if p < 1:
        raise ValueError(f"order p {p}: at least 1 is needed")
    directions = torch.randn(x.shape[1], projections, generator=generator).to(x)
    directions = directions / directions.norm(dim=0)
    a, b = (x @ directions).sort(dim=0)[0], (y @ directions).sort(dim=0)[0]
    if len(a) != len(b):
        at = (torch.arange(min(len(a), len(b)), device=x.device) + 0.5) / min(len(a), len(b))
        a, b = (rows[(at * len(rows)).long()] for rows in (a, b))
    return float((a - b).abs().pow(p).mean() ** (1 / p))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean `(d,)` and covariance `(d, d)` of rows `(N, d)`, N at least 2, in double precision."""
    x = x.double()
    return x.mean(dim=0), torch.cov(x.T).reshape(x.shape[1], x.shape[1])


def frechet_from_moments(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """Frechet distance of two Gaussians: `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))`.

    The square (Wasserstein-2 squared), as FID is given. Singular covariances are fine.
    """
    (mean1, cov1), (mean2, cov2) = first, second
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    gap = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross
    return float(gap.clamp(min=0))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance of the Gaussians fitted to samples `(N, d)` and `(M, d)`, N and M at least 2.

    Few rows for the width make it large even for equal laws: compare figures of equal sizes only.

    Raises:
        ValueError: fewer than two rows, or other widths.
    """
    _check(x, y, least=2)
    return frechet_from_moments(moments(x), moments(y))


class ClassifierFeatures(nn.Module):
    """The last hidden layer of a small classifier, as a frozen space in which to compare samples.

    Args:
        dim: entries of a row.
        classes: classes.
        width: features.
        hidden: width of the first layer.

    Shapes: rows `(N, dim)` to features `(N, width)`; `logits` gives `(N, classes)`.
    """

    def __init__(self, dim: int, classes: int, width: int = 32, hidden: int = 128):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1))

    def logits(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        return self.head(self(x))

    @classmethod
    def trained(
        cls, x: Tensor, labels: Tensor, width: int = 32, hidden: int = 128, steps: int = 300, batch: int = 128,
        seed: int = 0,
    ) -> ClassifierFeatures:  # fmt: skip
        """Fit to rows `(N, ...)` and labels `(N,)` with Adam at 3e-3, then freeze; the same for equal seeds."""
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = cls(x[0].numel(), int(labels.max()) + 1, width, hidden)
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(len(x), (batch,), generator=generator)
            loss = nn.functional.cross_entropy(net.logits(x[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return net.requires_grad_(False).eval()


def _check(x: Tensor, y: Tensor, least: int = 1) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < least:
        raise ValueError(
            f"samples {tuple(x.shape)} and {tuple(y.shape)}: rows of one width, at least {least}, expected"
        )
