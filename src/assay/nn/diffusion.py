"""Denoising diffusion in discrete steps: schedules, what a network may predict, and DDIM sampling.

    x_t = a_t x + s_t e,    a_t^2 + s_t^2 = 1,    e ~ N(0, I),    t = 0 .. T - 1

A network predicts the noise e ("eps"), the data x ("x") or v = a_t e - s_t x ("v").

Source: DDPM (2006.11239), DDIM (2010.02502), v-prediction (2202.00512), cosine schedule (2102.09672)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Prediction = Literal["eps", "v", "x"]
Predict = Callable[[Tensor, Tensor], Tensor]
CLEAN = -1  # the step before step 0: no noise at all


@dataclass(frozen=True)
class Schedule:
    """How much of the data is left at each step.

    Attributes:
        kept: a_t^2, `(T,)`, falling.

    Raises:
        ValueError: not a falling sequence between 0 and 1.
    """

    kept: Tensor

    def __post_init__(self) -> None:
        if self.kept.ndim != 1 or not (self.kept > 0).all() or not (self.kept < 1).all():
            raise ValueError("kept must be a vector of values between 0 and 1")
        if (self.kept.diff() >= 0).any():
            raise ValueError("kept must fall from step to step")

    def __len__(self) -> int:
        return len(self.kept)

    @classmethod
    def linear(cls, steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
        """Variances of the added noise grow linearly (DDPM)."""
        return cls(torch.cumprod(1 - torch.linspace(first, last, steps), 0))

    @classmethod
    def scaled_linear(cls, steps: int = 1000, first: float = 8.5e-4, last: float = 0.012) -> Schedule:
        """Standard deviations of the added noise grow linearly (Stable Diffusion)."""
        return cls(torch.cumprod(1 - torch.linspace(first**0.5, last**0.5, steps) ** 2, 0))

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, most: float = 0.999) -> Schedule:
        """a_t^2 falls as a squared cosine."""
        grid = torch.arange(steps + 1, dtype=torch.float64) / steps
        level = torch.cos((grid + offset) / (1 + offset) * math.pi / 2) ** 2
        return cls(torch.cumprod(1 - (1 - level[1:] / level[:-1]).clamp(max=most), 0).float())

    def scales(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and s_t, shaped so that they multiply `like`; `CLEAN` gives 1 and 0.

        Raises:
            ValueError: a step outside CLEAN .. T - 1.
        """
        steps = torch.as_tensor(t, device=like.device)
        if steps.min() < CLEAN or steps.max() >= len(self):
            raise ValueError(f"steps must lie in {CLEAN}..{len(self) - 1}, got {steps.min()}..{steps.max()}")
        kept = torch.cat([self.kept.to(like), torch.ones(1).to(like)])[steps]  # CLEAN is the last place
        kept = kept.reshape(-1, *[1] * (like.ndim - 1)) if kept.ndim else kept
        return kept.sqrt(), (1 - kept).sqrt()

    def noisy(self, x: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """x_t."""
        a, s = self.scales(t, x)
        return a * x + s * noise

    def target(self, x: Tensor, noise: Tensor, t: Tensor | int, prediction: Prediction = "v") -> Tensor:
        """What a network of that kind should predict."""
        a, s = self.scales(t, x)
        return {"eps": noise, "x": x, "v": a * noise - s * x}[prediction]

    def split(
        self, x_t: Tensor, output: Tensor, t: Tensor | int, prediction: Prediction = "v"
    ) -> tuple[Tensor, Tensor]:
        """Data and noise that a network's output stands for."""
        a, s = self.scales(t, x_t)
        if prediction == "v":
            return a * x_t - s * output, s * x_t + a * output
        if prediction == "eps":
            return (x_t - s * output) / a, output
        return output, (x_t - a * output) / s


def even_times(steps: int, total: int, last: int | None = None) -> list[int]:
    """Steps from high to low, `total // steps` apart and ending at 0 (the usual "leading" spacing).

    Args:
        steps: how many; at most `total`.
        total: T of the schedule.
        last: highest step wanted; None for all of the range.
    """
    _check_steps(steps, total)
    top = total if last is None else last + 1
    return [i * max(top // steps, 1) for i in reversed(range(steps))]


def quadratic_times(steps: int, last: int) -> list[int]:
    """Steps from `last` to near 0 whose distance shrinks towards the data: `last (i / steps)^2`, repeats left out."""
    _check_steps(steps, last + 1)
    return sorted({round(last * (i / steps) ** 2) for i in range(1, steps + 1)}, reverse=True)


def ddim_step(
    schedule: Schedule,
    x_t: Tensor,
    output: Tensor,
    t: int,
    before: int,
    prediction: Prediction = "v",
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """From step t to an earlier one.

        x_before = a_b x + sqrt(s_b^2 - w^2) e + w n,    w = eta (s_b / s_t) sqrt(1 - a_t^2 / a_b^2),    n ~ N(0, I)

    `eta=0` draws nothing; `eta=1` between neighbouring steps is DDPM's ancestral sampling.

    Args:
        x_t, output: sample and network output, one shape.
        t, before: this step and the earlier one (`CLEAN` for the end).
    """
    clean, noise = schedule.split(x_t, output, t, prediction)
    a_t, s_t = schedule.scales(t, x_t)
    a_b, s_b = schedule.scales(before, x_t)
    fresh = eta * (s_b / s_t) * (1 - (a_t / a_b) ** 2).clamp(min=0).sqrt()
    made = a_b * clean + (s_b**2 - fresh**2).clamp(min=0).sqrt() * noise
    if eta == 0:
        return made
    drawn = torch.randn(x_t.shape, generator=generator, dtype=x_t.dtype, device=x_t.device)
    return made + fresh * drawn


def ddim(
    schedule: Schedule,
    predict: Predict,
    x: Tensor,
    times: Sequence[int],
    prediction: Prediction = "v",
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sample: from a picture at step `times[0]` down to the data.

    Args:
        predict: network output for `x_t (B, ...)` and steps `(B,)`.
        x: noisy start, at the noise of the first step.
        times: steps from high to low.

    Raises:
        ValueError: times that do not fall.
    """
    if any(later <= earlier for later, earlier in pairwise(times)):
        raise ValueError(f"times must fall, got {list(times)}")
    for t, before in pairwise([*times, CLEAN]):
        output = predict(x, torch.full((len(x),), t, device=x.device))
        x = ddim_step(schedule, x, output, t, before, prediction, eta, generator)
    return x


def _check_steps(steps: int, total: int) -> None:
    if not 1 <= steps <= total:
        raise ValueError(f"expected 1..{total} sampling steps, got {steps}")
