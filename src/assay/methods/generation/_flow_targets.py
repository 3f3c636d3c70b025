"""Jumps, targets and rectification of FlowConsist: functions of a network of two times. Source: 2602.06346."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from assay.nn.flow import expand_time

TwoTime = Callable[..., Tensor]
Form = Literal["discrete", "jvp"]
LATEST = 0.97  # times of rectification; near 1 little of a point is left after noising


def jump(u: Tensor, x: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """`x_r = x_t - (t - r) u` for average velocities u `(N, ...)`; the identity where r = t."""
    return x - expand_time(t - r, x) * u


@torch.no_grad()
def sample(net: TwoTime, noise: Tensor, steps: int = 1, condition: Tensor | None = None) -> Tensor:
    """Carry noise `(N, ...)` to data by `steps` jumps between `steps + 1` even times: one call of the net each.

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps {steps}: at least 1 is needed")
    x, times = noise, torch.linspace(1, 0, steps + 1).tolist()
    for now, later in pairwise(times):
        t, r = x.new_full((len(x),), now), x.new_full((len(x),), later)
        x = jump(net(x, t, r, condition), x, t, r)
    return x


def own_velocity(net: TwoTime, condition: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    """The marginal velocity `u(x, t, t)` of a net, as `assay.nn.flow.integrate` takes it."""
    return lambda x, t: net(x, t, t, condition)


@torch.no_grad()
def consistency_target(
    net: TwoTime,
    x: Tensor,
    t: Tensor,
    r: Tensor,
    velocity: Tensor,
    step: float = 0.25,
    form: Form = "discrete",
    condition: Tensor | None = None,
) -> Tensor:
    """What `u(x_t, t, r)` should be, given the velocity at (x_t, t); no gradient flows.

    discrete: with `s = max(t - step, r)` and `x_s = x_t - (t - s) v`, the weighted mean
    `((t - s) v + (s - r) u(x_s, s, r)) / (t - r)`. It depends on v also through the place of x_s, so random velocities
    of mean v do not give the target of v.
    jvp: `v - (t - r) (v . d_x u + d_t u)`, the limit of small steps. It is linear in v, so they do.

    Args:
        net: gives u; of the discrete form usually the averaged weights.
        x: `(N, ...)`.
        t, r: `(N,)` in [0, 1], r <= t. Where r = t the target is v.
        velocity: v, `(N, ...)`.
        step: D of the discrete form, above 0.
        form: "discrete", or "jvp" (the net must allow forward differentiation).
        condition: `(N,)` or None, handed to the net.

    Raises:
        ValueError: times out of order or range, a step that is not positive, or an unknown form.
    """
    _check_times(t, r)
    if form == "jvp":
        _, change = torch.func.jvp(
            lambda x, t, r: net(x, t, r, condition), (x, t, r), (velocity, torch.ones_like(t), torch.zeros_like(r))
        )
        return (velocity - expand_time(t - r, x) * change).detach()
    if form != "discrete":
        raise ValueError(f"unknown form {form!r}; choose from: discrete, jvp")
    if not step > 0:
        raise ValueError(f"step {step}: must be above 0")
    s = torch.maximum(t - step, r)
    onward = net(jump(velocity, x, t, s), s, r, condition)
    share = expand_time(torch.where(s > r, (t - s) / (t - r).clamp(min=1e-12), torch.ones_like(t)), x)
    return torch.where(share == 1, velocity, share * velocity + (1 - share) * onward)


def forward_kernel(t_from: Tensor | float, t_to: Tensor | float) -> tuple[Tensor, Tensor]:
    """Weights (a, b) that take x at `t_from` to a later time in law: `x_to = a x_from + b z`, z ~ N(0, I).

    `a = (1 - to) / (1 - from)`, `b = sqrt(to^2 - from^2 a^2)`.

    Raises:
        ValueError: a time outside [0, 1], or `t_to` not later than `t_from`.
    """
    t_from, t_to = torch.as_tensor(t_from), torch.as_tensor(t_to)
    _check_range(t_from, t_to)
    if bool((t_to <= t_from).any()):
        raise ValueError("the time noised to must be later than the time noised from")
    a = (1 - t_to) / (1 - t_from)
    return a, (t_to**2 - t_from**2 * a**2).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Rectification:
    """What `rectify` gives.

    Attributes:
        gradient: direction `(N, ...)` in which the jumped points differ from real ones; descend along it. No gradient
            flows through it.
        auxiliary_loss: loss of the auxiliary net on the same points.
    """

    gradient: Tensor
    auxiliary_loss: Tensor


def rectify(
    net_ema: TwoTime,
    auxiliary: TwoTime,
    xh: Tensor,
    r: Tensor,
    generator: torch.Generator | None = None,
    condition: Tensor | None = None,
    tau: Tensor | None = None,
) -> Rectification:
    """Compare the law of generated points at time r with the real one, through their velocities at a later time tau.

    The points are noised to tau with the exact kernel. The auxiliary net `w(x, tau, r)` learns the velocity of what
    was generated by denoising; its target is `((tau / b) z - x_tau) / (1 - tau)` (for r = 0 `z - xh`), weighted by
    `((1 - tau) b / tau)^2`. The gradient is `tau (u(x_tau, tau, tau) - w)`: as the score is `-(x + (1 - t) v) / t`,
    that of the reverse Kullback-Leibler divergence up to a positive weight.

    Args:
        net_ema: knows the velocity of real data at r = t.
        auxiliary: w; only its loss carries gradients.
        xh: generated points `(N, ...)` at times r.
        r: `(N,)`, below 0.97.
        generator: of tau and z.
        condition: `(N,)` or None, handed to both nets.
        tau: `(N,)`; None: `r + (1 - r) U(0.05, 0.95)`, at most 0.97.

    Raises:
        ValueError: a time outside [0, 1], or tau not later than r.
    """
    xh = xh.detach()
    if tau is None:
        share = torch.rand(len(xh), generator=generator).to(xh)
        tau = (r + (1 - r) * (0.05 + 0.9 * share)).clamp(max=LATEST)
    z = torch.randn(xh.shape, generator=generator).to(xh)
    a, b = forward_kernel(r, tau)
    x = expand_time(a, xh) * xh + expand_time(b, xh) * z
    target = (expand_time(tau / b, x) * z - x) / expand_time(1 - tau, x)
    generated = auxiliary(x, tau, r, condition)
    weight = expand_time(((1 - tau) * b / tau).square(), x)
    loss = (weight * (generated - target).square()).mean()
    with torch.no_grad():
        gradient = expand_time(tau, x) * (net_ema(x, tau, tau, condition) - generated)
    return Rectification(gradient, loss)


def _check_range(*times: Tensor) -> None:
    for time in times:
        if not bool(((time >= 0) & (time <= 1)).all()):
            raise ValueError("times must lie in [0, 1]")


def _check_times(t: Tensor, r: Tensor) -> None:
    _check_range(t, r)
    if bool((r > t).any()):
        raise ValueError("r must not be later than t: jumps go from t back to r")
