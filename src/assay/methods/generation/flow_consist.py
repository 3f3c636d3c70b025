"""FlowConsist: one-step flow models that are supervised along their own trajectories.

On the path `x_t = (1 - t) x0 + t e` (t = 0 data, t = 1 noise) a network `u(x, t, r)`, r <= t, is the average velocity
from t back to r: the jump is `x_r = x_t - (t - r) u`, and `u(x, t, t)` is the marginal velocity `E[e - x0 | x_t]`.
Jumps are learned from the network's own later jumps, and the next point of the target must lie on the trajectory. A
step along `e - x0` of the random pair at hand leaves it; a step along the marginal velocity, as the network's averaged
weights know it by now, does not. What error is left over long jumps is taken out by matching the law of the jumped
points to that of real ones at all times of the path (rectification).

`net(x (N, ...), t (N,), r (N,), condition=None) -> (N, ...)` is any network of two times, such as those of
`assay.nn.two_time`. Source: 2602.06346; step, schedule and weights are ours where the abstract is silent.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from assay.methods.generation._flow_targets import (
    Form,
    Rectification,
    consistency_target,
    forward_kernel,
    jump,
    own_velocity,
    rectify,
    sample,
)
from assay.nn.flow import EMA, expand_time, guided, path_point, velocity_target

__all__ = [
    "FlowConsist", "Rectification", "consistency_target", "forward_kernel", "jump", "own_velocity", "path_point",
    "rectify", "sample",
]  # fmt: skip

ADAPTIVE = 0.3  # c of the weight 1 / (loss + c) of the derivative form


class FlowConsist:
    """The training of a network of two times: flow matching, consistency with its own velocity, rectification.

    Steps before `warm * steps` are flow matching alone (a velocity that is not learned yet must not supervise). Then
    `fm_share` of a batch stays at r = t, and the rest learns `u(x_t, t, r)` from `consistency_target`. The auxiliary
    net starts there, as a copy of the averaged weights, and learns alone for a tenth of the steps before the network
    follows it. Use:

        flow = FlowConsist(net, rectify_weight=0.6, steps=2000)
        for step in range(flow.steps):
            losses = flow.loss(batch, step)
            optimizer.zero_grad(); losses["loss"].backward(); flow.clip(); optimizer.step(); flow.update_ema()

    with an optimizer over `flow.parameters()`. Or `flow.fit(draw)`, which does that.

    Args:
        net: trains.
        auxiliary: w of the rectification, of net's interface; None: a copy of net, where one is needed.
        velocity: what steps of targets follow: "marginal" (the averaged weights' own), "conditional" (of the random
            pair), or a function (x, t) that knows better.
        form: see `consistency_target`; in the jvp form u is of the training weights, and samples are weighted by
            1 / (loss + 0.3).
        step: D of the discrete form.
        rectify_weight: weight of the rectification (entries averaged); 0: none.
        warm: share of the steps with flow matching alone.
        steps: training steps in all.
        fm_share: share of a batch at r = t after the warm part.
        ema: decay of the averaged weights.
        rectify_batch: samples of a step that are rectified.
        guidance: classifier-free guidance that is learned into the velocity; 1: none. The target of flow matching is
            then `guidance v_c + (1 - guidance) u_ema(x, t, t, null)` for rows that keep their condition.
        class_dropout: share of rows that lose their condition.
        null: the condition that means none; needed with guidance or dropout.
        generator: of times, noise and dropout.

    Attributes:
        ema: averaged weights in `ema.average`; sample with these.

    Raises:
        TypeError: a net that takes no second time.
        ValueError: settings out of range, or guidance or dropout without `null`.
    """

    def __init__(
        self,
        net: nn.Module,
        auxiliary: nn.Module | None = None,
        velocity: Literal["marginal", "conditional"] | Callable[[Tensor, Tensor], Tensor] = "marginal",
        form: Form = "discrete",
        step: float = 0.25,
        rectify_weight: float = 0.0,
        warm: float = 0.3,
        steps: int = 2000,
        fm_share: float = 0.5,
        ema: float = 0.99,
        rectify_batch: int = 64,
        guidance: float = 1.0,
        class_dropout: float = 0.0,
        null: int | None = None,
        generator: torch.Generator | None = None,
    ):
        for given in (net, auxiliary):
            if given is not None and not _takes_two_times(given):
                raise TypeError(f"{type(given).__name__} takes no second time; expected net(x, t, r, condition=None)")
        if not callable(velocity) and velocity not in ("marginal", "conditional"):
            raise ValueError(f"unknown velocity {velocity!r}; choose from: marginal, conditional, or give a function")
        if form not in ("discrete", "jvp") or not 0 < step <= 1 or steps < 1 or rectify_weight < 0:
            raise ValueError(
                f"form {form!r} must be discrete or jvp, step {step} in (0, 1], steps {steps} at least 1 and "
                f"rectify_weight {rectify_weight} at least 0"
            )
        if not (0 <= warm <= 1 and 0 < fm_share < 1 and 0 <= class_dropout < 1):
            raise ValueError(
                f"warm {warm} in [0, 1], fm_share {fm_share} in (0, 1), class_dropout {class_dropout} in [0, 1)"
            )
        if null is None and (guidance != 1 or class_dropout > 0):
            raise ValueError("guidance and class_dropout need null, the condition that means none")
        self.net, self.velocity, self.form, self.step = net, velocity, form, step
        self.auxiliary = copy.deepcopy(net) if auxiliary is None and rectify_weight > 0 else auxiliary
        self.rectify_weight, self.warm, self.steps, self.fm_share = rectify_weight, warm, steps, fm_share
        self.rectify_batch, self.guidance, self.class_dropout, self.null = rectify_batch, guidance, class_dropout, null
        self.generator = generator
        self.ema = EMA(net, ema)
        self._auxiliary_started = False

    def parameters(self) -> list[nn.Parameter]:
        """What trains: the weights of the network and, where there is one, of the auxiliary net."""
        nets = [self.net] if self.auxiliary is None else [self.net, self.auxiliary]
        return [p for net in nets for p in net.parameters()]

    def clip(self, norm: float = 2.0) -> None:
        """Clip the gradient of the network and that of the auxiliary net to a norm, each by itself."""
        for net in (self.net, self.auxiliary):
            if net is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), norm)

    def update_ema(self) -> None:
        """Take the present weights into the averaged ones; once after every optimizer step."""
        self.ema.update(self.net)

    def loss(
        self, x0: Tensor, step: int, condition: Tensor | None = None, noise: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch at a step: "flow", "consistency", "rectification", "auxiliary", and their sum "loss".

        The auxiliary net's loss has gradients to that net only, all others to the network only, so one backward pass
        over the sum serves both.

        Args:
            x0: data `(N, ...)`, N at least 2.
            step: number of the training step, from 0.
            condition: `(N,)` or None.
            noise: `(N, ...)` where data are paired with noise; None: drawn.
        """
        warming = step < round(self.warm * self.steps)
        condition = self._dropped(condition)
        noise = self._normal(x0.shape, x0) if noise is None else noise
        n = len(x0) if warming else max(1, round(self.fm_share * len(x0)))
        t, r = self._times(len(x0), x0)
        t[:n] = self._uniform(n, x0)
        r[:n] = t[:n]
        x, pair = path_point(x0, noise, t), velocity_target(x0, noise)
        target = self._flow_target(x[:n], t[:n], pair[:n], _rows(condition, slice(n)))
        zero = x0.new_zeros(())
        losses = {"consistency": zero, "rectification": zero, "auxiliary": zero}
        if warming:
            losses["flow"] = (self.net(x, t, r, condition) - target).square().mean()
        else:
            rest = slice(n, None)
            about = _rows(condition, rest)
            v = self._supervision(x[rest], t[rest], pair[rest], about)
            u_of = self.net if self.form == "jvp" else self.ema.average
            later = consistency_target(u_of, x[rest], t[rest], r[rest], v, self.step, self.form, about)
            error = (self.net(x, t, r, condition) - torch.cat([target, later])).square().flatten(1).mean(dim=1)
            losses["flow"], jumps = error[:n].mean(), error[n:]
            losses["consistency"] = (jumps / (jumps.detach() + ADAPTIVE) if self.form == "jvp" else jumps).mean()
            if self.rectify_weight > 0:
                losses |= self._rectification(x0, noise, step, condition)
        losses["loss"] = losses["flow"] + losses["consistency"] + losses["auxiliary"] + losses["rectification"]
        return losses

    def fit(
        self,
        draw: Callable[[], tuple[Tensor, Tensor | None, Tensor | None]],
        learning_rate: float = 1e-3,
        optimizer: torch.optim.Optimizer | None = None,
        start: int = 0,
        stop: int | None = None,
        seen: Callable[[int, dict[str, Tensor]], Any] | None = None,
    ) -> torch.optim.Optimizer:
        """Train from step `start` to before `stop` with Adam, a rate that falls as half a cosine, and clipping at 2.

        Args:
            draw: gives data, condition (or None) and noise (or None) of a batch.
            learning_rate: of the first of all steps.
            optimizer: of an earlier part; None: a new one.
            start, stop: part of the steps; None: to the end.
            seen: called with the step and its losses.

        Returns:
            The optimizer, for going on.
        """
        made = optimizer or torch.optim.Adam(self.net.parameters(), learning_rate, fused=True)
        if self.auxiliary is not None and len(made.param_groups) == 1:
            made.add_param_group({"params": list(self.auxiliary.parameters())})
        for step in range(start, self.steps if stop is None else stop):
            for group in made.param_groups:
                group["lr"] = learning_rate * (1 + math.cos(math.pi * step / self.steps)) / 2
            x0, condition, noise = draw()
            losses = self.loss(x0, step, condition, noise)
            made.zero_grad(set_to_none=True)
            losses["loss"].backward()
            self.clip()
            made.step()
            self.update_ema()
            if seen is not None:
                seen(step, losses)
        return made

    def _times(self, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Larger and smaller of two uniforms; a fifth at t = 1, half of these at r = 0; a step apart if steps count."""
        pair = torch.stack([self._uniform(n, like), self._uniform(n, like)])
        t, r = pair.max(dim=0)[0], pair.min(dim=0)[0]
        kind = self._uniform(n, like)
        t = torch.where(kind < 0.2, torch.ones_like(t), t)
        r = torch.where(kind < 0.1, torch.zeros_like(r), r)
        if self.form == "discrete":
            r = torch.where(t >= self.step, torch.minimum(r, (t - self.step).clamp(min=0)), r)
        return t, r

    def _flow_target(self, x: Tensor, t: Tensor, pair: Tensor, condition: Tensor | None) -> Tensor:
        if self.guidance == 1 or condition is None:
            return pair
        with torch.no_grad():
            free = self.ema.average(x, t, t, torch.full_like(condition, self.null))
        kept = expand_time((condition != self.null).to(x), x)
        return torch.where(kept > 0, guided(pair, free, self.guidance), pair)

    @torch.no_grad()
    def _supervision(self, x: Tensor, t: Tensor, pair: Tensor, condition: Tensor | None) -> Tensor:
        if callable(self.velocity):
            return self.velocity(x, t)
        if self.velocity == "marginal":
            return self.ema.average(x, t, t, condition)
        return self._flow_target(x, t, pair, condition)

    def _rectification(self, x0: Tensor, noise: Tensor, step: int, condition: Tensor | None) -> dict[str, Tensor]:
        assert self.auxiliary is not None
        if not self._auxiliary_started:
            self.auxiliary.load_state_dict(self.ema.average.state_dict())
            self._auxiliary_started = True
        n = min(self.rectify_batch, len(x0))
        rows = slice(len(x0) - n, None)  # the end of the batch; its start is at r = t
        t, r = self._uniform(n, x0), self._uniform(n, x0)
        t[: (n + 1) // 2] = 1.0
        r = torch.where(r < 0.5, torch.zeros_like(r), (2 * r - 1) * t).clamp(max=0.9)
        x, about = path_point(x0[rows], noise[rows], t), _rows(condition, rows)
        alone = step < round(self.warm * self.steps) + round(0.1 * self.steps)
        with torch.set_grad_enabled(not alone):
            xh = jump(self.net(x, t, r, about), x, t, r)
        found = rectify(self.ema.average, self.auxiliary, xh, r, self.generator, about)
        pull = self.rectify_weight * (xh * found.gradient).mean()
        return {"rectification": x0.new_zeros(()) if alone else pull, "auxiliary": found.auxiliary_loss}

    def _dropped(self, condition: Tensor | None) -> Tensor | None:
        if condition is None or not self.class_dropout:
            return condition
        lost = torch.rand(len(condition), generator=self.generator).to(condition.device) < self.class_dropout
        return torch.where(lost, torch.full_like(condition, self.null), condition)

    def _uniform(self, n: int, like: Tensor) -> Tensor:
        return torch.rand(n, generator=self.generator).to(like)

    def _normal(self, shape: torch.Size, like: Tensor) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(like)


def _rows(condition: Tensor | None, rows: slice) -> Tensor | None:
    return None if condition is None else condition[rows]


def _takes_two_times(net: nn.Module) -> bool:
    given = inspect.signature(net.forward).parameters
    needed = [p for p in given.values() if p.default is p.empty]
    return "r" in given or len(needed) >= 3 or any(p.kind is p.VAR_POSITIONAL for p in needed)
