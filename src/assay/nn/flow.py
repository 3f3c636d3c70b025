"""Flow matching on the straight path from data (t = 0) to noise (t = 1).

    x_t = (1 - t) x + t e,        v = dx_t/dt = e - x,        e ~ N(0, I)

Times broadcast over everything but the batch axis. Source: flow matching (2210.02747), rectified flow (2209.03003).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Velocity = Callable[[Tensor, Tensor], Tensor]


def expand_time(t: Tensor, like: Tensor) -> Tensor:
    """A time `(B,)` or `()` as `(B, 1, ..., 1)`, so that it multiplies `like`."""
    return t.reshape(-1, *[1] * (like.ndim - 1)) if t.ndim else t


def path_point(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The point `(1 - t) x + t noise` of the path."""
    t = expand_time(t, x)
    return (1 - t) * x + t * noise


def velocity_target(x: Tensor, noise: Tensor) -> Tensor:
    """The velocity `noise - x` of the path."""
    return noise - x


def clean_from_velocity(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Data at the end of a straight path: `x_t - t v`."""
    return x_t - expand_time(t, x_t) * velocity


def noise_from_velocity(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Noise at the start of a straight path: `x_t + (1 - t) v`."""
    return x_t + (1 - expand_time(t, x_t)) * velocity


def score_from_velocity(x_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Gradient of the log density of x_t, `-(x_t + (1 - t) v) / t`; t > 0."""
    return -noise_from_velocity(x_t, velocity, t) / expand_time(t, x_t)


def velocity_from_score(x_t: Tensor, score: Tensor, t: Tensor) -> Tensor:
    """The inverse of `score_from_velocity`: `-(x_t + t score) / (1 - t)`; t < 1."""
    t = expand_time(t, x_t)
    return -(x_t + t * score) / (1 - t)


def draw_times(
    n: int,
    generator: torch.Generator | None = None,
    kind: Literal["uniform", "logit-normal"] = "uniform",
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Training times `(n,)` in (0, 1): uniform, or the logistic function of a normal draw."""
    if kind == "uniform":
        return torch.rand(n, generator=generator)
    if kind == "logit-normal":
        return torch.sigmoid(mean + std * torch.randn(n, generator=generator))
    raise ValueError(f"unknown kind of times {kind!r}; choose from: uniform, logit-normal")


def flow_loss(velocity: Velocity, x: Tensor, noise: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of `weight * |velocity(x_t, t) - (noise - x)|^2` over batch and entries; `weight` is `(B,)`."""
    error = (velocity(path_point(x, noise, t), t) - velocity_target(x, noise)).square()
    return error.mean() if weight is None else (expand_time(weight, error) * error).mean()


def time_steps(steps: int, shift: float = 1.0) -> Tensor:
    """Times from 1 down to 0, `(steps + 1,)`: `s u / (1 + (s - 1) u)` of a uniform u.

    Args:
        steps: solver steps, at least 1.
        shift: above 1 spends more of the steps near the noise (large pictures want about 3).
    """
    if steps < 1:
        raise ValueError(f"steps {steps}: at least 1 is needed")
    u = torch.linspace(1, 0, steps + 1)
    return shift * u / (1 + (shift - 1) * u)


def integrate(velocity: Velocity, x: Tensor, times: Tensor, method: Literal["euler", "heun"] = "euler") -> Tensor:
    """Follow `dx/dt = velocity(x, t)` over `times`, in their order.

    Args:
        velocity: called with `x (B, ...)` and `t (B,)`.
        times: `(S + 1,)`; falling times go from noise to data.
        method: `euler` (one call a step, error O(h)) or `heun` (two calls, O(h^2); the step into t = 0 is Euler's).
    """
    if method not in ("euler", "heun"):
        raise ValueError(f"unknown solver {method!r}; choose from: euler, heun")
    for now, later in pairwise(times.tolist()):
        here = velocity(x, x.new_full((len(x),), now))
        moved = x + (later - now) * here
        if method == "heun" and later != 0:
            there = velocity(moved, x.new_full((len(x),), later))
            moved = x + (later - now) * (here + there) / 2
        x = moved
    return x


def guided(conditional: Tensor, free: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: `free + scale * (conditional - free)`."""
    return free + scale * (conditional - free)


class EMA:
    """Exponential moving average of a module's weights.

    Args:
        module: the module that trains.
        decay: share of the old average kept at each update; warmed up as `min(decay, (1 + n) / (10 + n))`.

    Attributes:
        average: a copy of the module that holds the averaged weights.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999):
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the module's present weights; buffers are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for old, new in zip(self.average.parameters(), module.parameters(), strict=True):
            old.lerp_(new.to(old), 1 - decay)
        for old, new in zip(self.average.buffers(), module.buffers(), strict=True):
            old.copy_(new)
