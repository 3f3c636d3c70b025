"""The statistics behind a verdict: pure functions of one-dimensional arrays, one number per seed.

Two rules hold throughout. Values that are not finite are left out. And numbers that agree to about twelve digits
are equal: a spread or a distance below that is rounding, not evidence. So a constant away from the boundary has
p = 0, one on the boundary p = 1, and fewer than two numbers have no interval (NaN) and p = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Side = Literal["two-sided", "greater", "less"]

ROUNDING = 1e-12
EXACT_UP_TO = 14  # numbers whose 2**n sign patterns are all tried


def finite(x: ArrayLike) -> Array:
    """The finite numbers of `x`, shape `(n,)`."""
    values = np.asarray(x, dtype=float).ravel()
    return values[np.isfinite(values)]


def standard_error(x: ArrayLike) -> float:
    """s / sqrt(n) of independent numbers, with s the standard deviation (n - 1 in its divisor)."""
    values = finite(x)
    return _spread(values) / np.sqrt(values.size) if values.size else np.nan


def resampled_error(x: ArrayLike) -> float:
    """Standard error of the mean of bootstrap figures: s * sqrt((n + 1) / (n - 1)), not s / sqrt(n).

    Each of n seeds draws a resample from one fixed data set and computes the figure on it. The figures scatter around
    the figure of the data set with the sampling error sigma of a data set of that size; this is what the bootstrap is
    for. More seeds measure sigma better but bring no new data: dividing by sqrt(n) would let any difference, also one
    that is an accident of the data set, become significant by running more seeds.

    The factor tends to 1 and pays for n being small. The mean of the figures errs by at most sigma**2 * (1 + 1/n): the
    data set's own error and that of averaging n figures. Where one seed is the data as they are, it has no resampling
    error and s**2 is sigma**2 * (1 - 1/n) on average. (n + 1) / (n - 1) covers both. What no number of resamples
    mends: a data set of G groups shows its own sigma**2 only as (G - 1) / G of it, so few groups err more.
    """
    values = finite(x)
    n = values.size
    return _spread(values) * np.sqrt((n + 1) / (n - 1)) if n > 1 else np.nan


def t_interval(x: ArrayLike, level: float = 0.95, standard_error: float | None = None) -> tuple[float, float, float]:
    """Mean and its Student t interval, mean -/+ t(n - 1) * standard error.

    Args:
        x: one number per seed.
        level: coverage of the interval.
        standard_error: of the mean; s / sqrt(n) when not given.

    Returns:
        (mean, low, high); the interval is NaN for fewer than two numbers, the mean for none.
    """
    from scipy.special import stdtrit

    values = finite(x)
    if values.size < 2:
        return (float(values[0]) if values.size else np.nan), np.nan, np.nan
    mean = float(values.mean())
    half = float(stdtrit(values.size - 1, 0.5 + level / 2)) * _error(values, standard_error)
    return mean, mean - half, mean + half


def t_p(x: ArrayLike, boundary: float = 0.0, side: Side = "two-sided", standard_error: float | None = None) -> float:
    """Student t p-value of the mean of `x` against a boundary, t = (mean - boundary) / standard error, n - 1 df.

    Args:
        x: one number per seed.
        boundary: the mean under the null.
        side: the alternative; `"greater"` for a mean above the boundary.
        standard_error: of the mean; s / sqrt(n) when not given.
    """
    from scipy.special import stdtr

    values = finite(x)
    if values.size < 2:
        return 1.0
    distance = _distance(values, boundary)
    error = _error(values, standard_error)
    if distance == 0 and error == 0:
        return 1.0
    t = distance / error if error else np.copysign(np.inf, distance)
    if side == "two-sided":
        return float(2 * stdtr(values.size - 1, -abs(t)))
    return float(stdtr(values.size - 1, -t if side == "greater" else t))


def tost_p(differences: ArrayLike, margin: float, standard_error: float | None = None) -> float:
    """Equivalence by two one-sided t tests: max of p(mean > -margin) and p(mean < margin)."""
    above = t_p(differences, -margin, "greater", standard_error)
    below = t_p(differences, margin, "less", standard_error)
    return max(above, below)


def sign_flip_p(differences: ArrayLike, boundary: float = 0.0, samples: int = 20_000, seed: int = 0) -> float:
    """Two-sided permutation p: the share of sign patterns whose mean is at least as far from 0 as the observed one.

    Under the null each d = difference - boundary is as likely as -d. All 2**n patterns are tried up to n = 14;
    beyond, `samples` random ones, p = (1 + hits) / (1 + samples). The smallest p that n seeds can reach is 2**(1 - n).
    """
    values = finite(differences)
    if values.size < 2:
        return 1.0
    d = values - boundary
    d[np.abs(d) <= ROUNDING * np.maximum(np.abs(values), abs(boundary))] = 0.0
    reach = abs(d.sum()) * (1 - ROUNDING)
    if d.size <= EXACT_UP_TO:
        sums = d[:1]  # the first sign is fixed: a pattern and its mirror are equally far from 0
        for value in d[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= reach))
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, samples, 1000):
        signs = rng.integers(0, 2, size=(min(1000, samples - start), d.size)) * 2.0 - 1.0
        hits += int(np.sum(np.abs(signs @ d) >= reach))
    return (1 + hits) / (1 + samples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p, in the order given: running maximum of (m - rank) * p over the sorted ones, at most 1."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]


def slope(sizes: ArrayLike, values: ArrayLike) -> float:
    """Growth order: the least-squares slope of log(values) on log(sizes).

    NaN unless all are positive and finite and at least two sizes differ.
    """
    n, v = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if not (np.all(np.isfinite(n)) and np.all(np.isfinite(v)) and np.all(n > 0) and np.all(v > 0)):
        return np.nan
    x = np.log(n) - np.log(n).mean() if n.size else n
    total = float(x @ x)
    return float(x @ np.log(v)) / total if total else np.nan


def constant_at(x: ArrayLike, boundary: float) -> bool:
    """Whether all of at least two numbers are the boundary itself."""
    values = finite(x)
    return bool(values.size > 1 and _spread(values) == 0 and _distance(values, boundary) == 0)


def _spread(values: Array) -> float:
    if values.size < 2:
        return np.nan
    s = float(values.std(ddof=1))
    return s if s > ROUNDING * float(np.abs(values).max()) else 0.0


def _distance(values: Array, boundary: float) -> float:
    d = float(values.mean()) - boundary
    return d if abs(d) > ROUNDING * max(float(np.abs(values).max()), abs(boundary)) else 0.0


def _error(values: Array, given: float | None) -> float:
    return standard_error(values) if given is None else given
