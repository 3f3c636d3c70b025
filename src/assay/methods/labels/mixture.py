"""Two Gaussians in one dimension: is there a second population of large values, and who belongs to it?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture, lower mean first.

    Attributes:
        weight, mean, sd: (2,) each.
        log_likelihood: of the values it was fitted to.
        two: whether the values speak for two populations, see `fit_mixture`.
    """

    weight: Array
    mean: Array
    sd: Array
    log_likelihood: float
    two: bool

    def posterior(self, values: ArrayLike) -> Array:
        """Probability of the component with the higher mean, never falling as the value rises.

        The log-odds of two Gaussians are a quadratic a x^2 + b x + c, so with unequal variances the plain posterior
        turns round in one tail: the largest (or smallest) values would count as the other component. Beyond the
        turning point the value there is kept; elsewhere this is the plain posterior.
        """
        a, b, c = self._log_odds()
        x = np.asarray(values, dtype=float)
        if a > 0:
            x = np.maximum(x, -b / (2 * a))
        elif a < 0:
            x = np.minimum(x, -b / (2 * a))
        odds = np.clip(a * x**2 + b * x + c, -700, 700)
        return 1 / (1 + np.exp(-odds))

    def _log_odds(self) -> tuple[float, float, float]:
        (w0, w1), (m0, m1), (v0, v1) = self.weight, self.mean, self.sd**2
        a = 0.5 / v0 - 0.5 / v1
        b = m1 / v1 - m0 / v0
        c = 0.5 * m0**2 / v0 - 0.5 * m1**2 / v1 + np.log(w1 / w0) + 0.5 * np.log(v0 / v1)
        return float(a), float(b), float(c)


def fit_mixture(values: ArrayLike, *, iterations: int = 1000, tolerance: float = 1e-9) -> Mixture:
    """Fit two Gaussians by expectation-maximisation, started from the split with the least within-variance.

    The values speak for two populations when the Bayesian information criterion prefers two Gaussians (5 parameters)
    to one (2), and the means lie at least half a pooled standard deviation apart.

    Args:
        values: (N,) finite numbers.
        iterations: at most so many steps.
        tolerance: stop when the mean log-likelihood rises by less.

    Raises:
        ValueError: fewer than two values, or one that is not finite.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"a mixture needs at least two finite values, got shape {x.shape}")
    floor = max(1e-6 * x.var(), 1e-12)
    upper = (x > _best_split(x)).astype(float)
    before = -np.inf
    for _ in range(iterations):
        weight, mean, variance = _maximise(x, upper, floor)
        log = _log_density(x, weight, mean, variance)
        total = np.logaddexp(log[0], log[1])
        upper = np.exp(log[1] - total)
        if total.mean() - before < tolerance:
            break
        before = total.mean()
    order = np.argsort(mean)
    log_likelihood = float(total.sum())
    one = -0.5 * len(x) * (np.log(2 * np.pi * max(x.var(), floor)) + 1)
    bic_two, bic_one = 5 * np.log(len(x)) - 2 * log_likelihood, 2 * np.log(len(x)) - 2 * one
    apart = abs(mean[1] - mean[0]) >= 0.5 * np.sqrt(weight @ variance)
    sd = np.sqrt(variance)
    two = bic_two < bic_one and apart and x.var() > 0
    return Mixture(weight[order], mean[order], sd[order], log_likelihood, bool(two))


def _best_split(x: Array) -> float:
    """Threshold that minimises the variance within the two sides (Otsu); both sides keep a value if x varies."""
    s = np.sort(x)
    n = np.arange(1, len(s))
    left, total = np.cumsum(s)[:-1], s.sum()
    between = (left / n - (total - left) / (len(s) - n)) ** 2 * n * (len(s) - n)
    at = int(np.argmax(between))
    return float((s[at] + s[at + 1]) / 2)


def _maximise(x: Array, upper: Array, floor: float) -> tuple[Array, Array, Array]:
    share = np.stack([1 - upper, upper])
    size = share.sum(axis=1) + 1e-12
    mean = share @ x / size
    variance = (share * (x - mean[:, None]) ** 2).sum(axis=1) / size + floor
    return size / len(x), mean, variance


def _log_density(x: Array, weight: Array, mean: Array, variance: Array) -> Array:
    square = (x - mean[:, None]) ** 2 / variance[:, None]
    return np.log(weight)[:, None] - 0.5 * (square + np.log(2 * np.pi * variance)[:, None])
