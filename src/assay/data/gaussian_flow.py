"""Laws whose flow to noise is known: a mixture of Gaussians, and pairs along straight paths that never cross.

On the path `x_t = (1 - t) x + t e` (t = 1 noise) a Gaussian component (mean m, standard deviation s, in d dimensions)
stays one, `N((1 - t) m, var_t I)` with `var_t = (1 - t)^2 s^2 + t^2`. The marginal velocity `v(x, t) = E[e - x0 | x_t]`
of a mixture is therefore closed, and the flow map (where the probability-flow ODE carries a noise) needs one solve.

Source: flow matching (2210.02747).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from assay.nn.flow import expand_time, integrate


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of round Gaussians of one width.

    Attributes:
        means: `(K, d)`.
        std: standard deviation of every component and coordinate, above 0.
        weights: `(K,)`, summing to 1; None: all equal.

    Raises:
        ValueError: a width that is not positive, or weights that do not fit.
    """

    means: Tensor
    std: float
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if self.means.ndim != 2 or not self.std > 0:
            raise ValueError(f"means {tuple(self.means.shape)} and std {self.std}: expected (K, d) and above 0")
        w = self.weights
        if w is not None and (w.shape != self.means.shape[:1] or bool((w < 0).any()) or abs(float(w.sum()) - 1) > 1e-4):
            raise ValueError(f"weights must be {len(self.means)} shares that sum to 1")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws `(n, d)`."""
        shares = torch.ones(len(self.means)) if self.weights is None else self.weights
        which = torch.multinomial(shares, n, replacement=True, generator=generator)
        return self.means[which] + self.std * torch.randn(n, self.means.shape[1], generator=generator)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """Marginal velocity at `x (N, d)`, `t (N,)` or `()`, t in [0, 1]."""
        t = expand_time(t, x)
        share, var = self._posterior(x, t)
        slope = (t - (1 - t) * self.std**2) / var  # of a component's velocity, -m + slope (x - (1 - t) m)
        toward = share @ self.means.to(x)
        return slope * (x - (1 - t) * toward) - toward

    def posterior_sample(self, x: Tensor, t: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Data that may have led to each point: n draws of x0 given x_t, `(n, N, d)`; `t (N,)` in (0, 1]."""
        t = expand_time(t, x)
        share, var = self._posterior(x, t)
        which = torch.multinomial(share, n, replacement=True, generator=generator).T  # (n, N)
        mean = self.means.to(x)[which]
        gain = (1 - t) * self.std**2 / var
        spread = (t * self.std / var.sqrt()).expand_as(x)
        noise = torch.randn(mean.shape, generator=generator)
        return mean + gain * (x - (1 - t) * mean) + spread * noise

    def flow_map(self, noise: Tensor, steps: int = 400, until: float = 0.0) -> Tensor:
        """Where the ODE carries noises `(N, d)` from t = 1 to t = `until`, by Heun's method with `steps` steps."""
        return integrate(self.velocity, noise, torch.linspace(1, until, steps + 1), "heun")

    def _posterior(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the components given x_t `(N, K)`, and their variance at t."""
        means = self.means.to(x)
        var = (1 - t) ** 2 * self.std**2 + t**2
        # Of the squared distance to (1 - t) m what does not depend on the component is left out.
        near = (1 - t) * (x @ means.T) - (1 - t) ** 2 * means.square().sum(1) / 2
        prior = 0 if self.weights is None else self.weights.to(x).clamp(min=1e-30).log()
        return torch.softmax(prior + near / var, dim=1), var


def ring(modes: int = 8, radius: float = 1.5, std: float = 0.2) -> GaussianMixture:
    """Equal Gaussians on a circle in the plane."""
    angle = 2 * math.pi * torch.arange(modes) / modes
    return GaussianMixture(radius * torch.stack([angle.cos(), angle.sin()], dim=1), std)


class MonotonePairs:
    """Noise paired with data by the monotone map of every coordinate, `x_j = F^-1(Phi(e_j))`, F a law of two modes.

    The straight paths of such pairs never cross: the velocity of a pair is a function of the point and the time, and
    the flow map is the pairing itself.

    Args:
        mode: the modes lie at plus and minus this.
        std: standard deviation of a mode, above 0.
        dim: coordinates.
    """

    def __init__(self, mode: float = 1.0, std: float = 0.3, dim: int = 2):
        from scipy.stats import norm

        if not std > 0:
            raise ValueError(f"std {std}: must be above 0")
        self.dim = dim
        self.noise = np.linspace(-6, 6, 4001)
        at = np.linspace(-mode - 8 * std, mode + 8 * std, 20001)
        # In logits of the tails both distribution functions are resolved far out.
        law = np.logaddexp(norm.logcdf(at, -mode, std), norm.logcdf(at, mode, std)) - np.log(2)
        rest = np.logaddexp(norm.logsf(at, -mode, std), norm.logsf(at, mode, std)) - np.log(2)
        self.data = np.interp(norm.logcdf(self.noise) - norm.logsf(self.noise), law - rest, at)

    def pair(self, noise: Tensor) -> Tensor:
        """The data `(N, dim)` that belongs to noise `(N, dim)`."""
        return torch.from_numpy(np.interp(noise.double().numpy(), self.noise, self.data)).to(noise)
