"""FlowConsist's study: data with what is known of them, the common start of a seed's arms, and what is measured."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from assay.data.gaussian_flow import GaussianMixture, MonotonePairs, ring
from assay.methods.generation.flow_consist import (
    FlowConsist,
    consistency_target,
    jump,
    own_velocity,
    path_point,
    sample,
)
from assay.metrics.distribution import ClassifierFeatures, frechet_distance, sliced_wasserstein
from assay.nn.flow import integrate
from assay.nn.two_time import TwoTimeMLP

Batch = tuple[Tensor, Tensor | None, Tensor | None]
ODE_STEPS, TRUE_STEPS = 25, 400  # Heun's method, two calls a step: a network's own ODE, the truth
POINTS, DRAWS = 128, 1024  # at which targets are judged, and data that may have led to each
PATH = torch.linspace(1, 0, 9)  # times of the drawn trajectories


@dataclass(frozen=True)
class Plan:
    """Sizes of a data set's trainings: steps, the warm share, batch, network, and the rate that every arm has."""

    steps: int
    warm: float
    batch: int
    hidden: int
    rectify_weight: float
    rectify_batch: int
    learning_rate: float = 1e-3
    early: float = 0.0  # warm share of the ablation
    ema: float = 0.99
    blocks: int = 2


@dataclass(frozen=True)
class Task:
    """A data set of one seed, with the start that its arms share: flow matching for the warm part."""

    plan: Plan
    seed: int
    draw: Callable[[torch.Generator], Batch]
    noise: Tensor  # held out
    start: FlowConsist
    optimizer: torch.optim.Optimizer
    begun: FlowConsist | None = None  # where the ablation leaves the common path; None: at its very beginning
    begun_optimizer: torch.optim.Optimizer | None = None
    real: Tensor | None = None  # held-out data to compare samples with
    truth: Tensor | None = None  # where the true flow carries `noise`
    law: GaussianMixture | None = None
    images: Images | None = None
    true_path: Tensor | None = None  # of the first eight noises, (9, 8, 2)


def generator(seed: int, part: int) -> torch.Generator:
    """Independent streams of a seed."""
    return torch.Generator().manual_seed(2602_06346 + 1_000_003 * seed + part)


def begin(
    plan: Plan,
    seed: int,
    net: nn.Module,
    draw: Callable[[torch.Generator], Batch],
    settings: Mapping[str, Any] | None = None,
    **known: Any,
) -> Task:
    """Train the common start, and keep the earlier point at which the ablation leaves it."""
    flow = FlowConsist(
        net, steps=plan.steps, warm=plan.warm, rectify_batch=plan.rectify_batch, ema=plan.ema, **(settings or {})
    )
    flow.generator, data = generator(seed, 1), generator(seed, 2)
    early, until = round(plan.early * plan.steps), round(plan.warm * plan.steps)
    optimizer = torch.optim.Adam(net.parameters(), plan.learning_rate, fused=True)
    flow.fit(lambda: draw(data), plan.learning_rate, optimizer, 0, early)
    begun, begun_optimizer = copy.deepcopy((flow, optimizer))
    flow.fit(lambda: draw(data), plan.learning_rate, optimizer, early, until)
    return Task(
        plan, seed, draw, start=flow, optimizer=optimizer, begun=begun, begun_optimizer=begun_optimizer, **known
    )


def finish(
    task: Task, early: bool = False, rectified: bool = False, only_flow: bool = False, **settings: Any
) -> tuple[FlowConsist, float]:
    """Train an arm from the common start to the end; its network and seconds a step."""
    plan = task.plan
    pair = (task.begun, task.begun_optimizer) if early else (task.start, task.optimizer)
    flow, optimizer = copy.deepcopy(pair)
    assert flow is not None
    flow.warm = 1.0 if only_flow else plan.early if early else plan.warm
    for name, value in settings.items():
        setattr(flow, name, value)
    if rectified:
        flow.rectify_weight, flow.auxiliary = plan.rectify_weight, copy.deepcopy(flow.net)
    flow.generator, data = generator(task.seed, 3), generator(task.seed, 4)
    first = round((plan.early if early else plan.warm) * plan.steps)
    begun = time.perf_counter()
    flow.fit(lambda: task.draw(data), plan.learning_rate, optimizer, first)
    return flow, (time.perf_counter() - begun) / max(plan.steps - first, 1)


def rings_task(plan: Plan, seed: int, tested: int) -> Task:
    """Eight Gaussians on a circle; the true flow map by a fine solve of the closed velocity."""
    law = ring()
    noise = torch.randn(tested, 2, generator=generator(seed, 5))
    return begin(
        plan, seed, TwoTimeMLP(2, plan.hidden, plan.blocks), lambda g: (law.sample(plan.batch, g), None, None),
        noise=noise, real=law.sample(tested, generator(seed, 6)), truth=law.flow_map(noise, TRUE_STEPS), law=law,
        true_path=torch.stack([law.flow_map(noise[:8], 100, float(r)) if r < 1 else noise[:8] for r in PATH]),
    )  # fmt: skip


def paired_task(plan: Plan, seed: int, tested: int) -> Task:
    """The control: pairs along straight paths that never cross, so that a pair's velocity is the marginal one."""
    pairs = MonotonePairs()

    def draw(g: torch.Generator) -> Batch:
        noise = torch.randn(plan.batch, 2, generator=g)
        return pairs.pair(noise), None, noise

    noise = torch.randn(tested, 2, generator=generator(seed, 5))
    other = torch.randn(tested, 2, generator=generator(seed, 6))
    return begin(
        plan,
        seed,
        TwoTimeMLP(2, plan.hidden, plan.blocks),
        draw,
        noise=noise,
        real=pairs.pair(other),
        truth=pairs.pair(noise),
    )


@dataclass(frozen=True)
class Images:
    """Held-out pictures as `(M, ...)`, the frozen features in which samples are compared, and classes to draw."""

    held: Tensor
    features: Callable[[Tensor], Tensor]
    labels: Tensor | None = None


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Images]:
    """Real digits of 8x8 pixels as rows in [-1, 1]: 1200 to train on, the others held out; always the same split."""
    from sklearn.datasets import load_digits

    given = load_digits()
    x, labels = torch.tensor(given.data / 8 - 1, dtype=torch.float32), torch.tensor(given.target)
    order = torch.randperm(len(x), generator=generator(0, 8))
    train, held = order[:1200], order[1200:]
    return x[train], Images(x[held], ClassifierFeatures.trained(x[train], labels[train]))


def digits_task(plan: Plan, seed: int, tested: int) -> Task:
    """Real digits, without their classes."""
    train, images = digits()

    def draw(g: torch.Generator) -> Batch:
        return train[torch.randint(len(train), (plan.batch,), generator=g)], None, None

    noise = torch.randn(tested, 64, generator=generator(seed, 5))
    return begin(plan, seed, TwoTimeMLP(64, plan.hidden, plan.blocks), draw, noise=noise, images=images)


def one_time(net: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A net of one time as one of two: the velocity at t for every r."""
    return lambda x, t, r, condition=None: net(x, t, t, condition)


def in_parts(net: nn.Module, labels: Tensor | None, most: int = 4096) -> Callable[..., Tensor]:
    """The net on its own device, some rows at a time; row i of what it is given belongs to class `labels[i]`."""
    device = next(net.parameters()).device

    def call(x: Tensor, t: Tensor, r: Tensor, condition: None = None) -> Tensor:
        given = [x, t, r] if labels is None else [x, t, r, labels[: len(x)]]
        parts = [net(*(v.to(device) for v in rows)) for rows in zip(*(v.split(most) for v in given), strict=True)]
        return torch.cat(parts).to(x.device)

    return call


def rms(gap: Tensor) -> float:
    """Root of the mean squared length of rows."""
    return float(gap.square().flatten(1).sum(dim=1).mean().sqrt())


@torch.no_grad()
def measure(task: Task, flow: FlowConsist, jumps: bool = True) -> dict[str, Any]:
    """What samples of the averaged weights are worth: one, two and four jumps, and the net's own ODE.

    Args:
        jumps: False for a net that only knows velocities: its one step is Euler's.
    """
    average = in_parts(flow.ema.average, None if task.images is None else task.images.labels)
    net = average if jumps else one_time(average)
    once = sample(net, task.noise)
    ode = integrate(own_velocity(average), task.noise, torch.linspace(1, 0, ODE_STEPS + 1), "heun")
    found: dict[str, Any] = {"self_drift": rms(once - ode)}
    if task.truth is not None:
        found["map_rmse"] = rms(once - task.truth)
    if task.real is not None and task.real.shape[1] == 2:
        apart = lambda x: sliced_wasserstein(x, task.real, generator=generator(0, 9))  # noqa: E731
        found |= {f"swd{n}": apart(once if n == 1 else sample(net, task.noise, n)) for n in (1, 2, 4)}
        found["swd_ode"] = apart(ode)
    if task.images is not None:
        held, features = task.images.held, task.images.features
        real = features(held)
        for name, x in (("", once), ("_two", sample(net, task.noise, 2)), ("_ode", ode)):
            found[f"frechet_features{name}"] = frechet_distance(features(x), real)
            if x.shape[1:] == held.shape[1:]:
                found[f"frechet_pixels{name}"] = frechet_distance(x.flatten(1), held.flatten(1))
        found["pictures"] = (once[:16].view(16, 8, 8) * 100).round() / 100 if once[0].numel() == 64 else []
    if task.law is not None:
        found |= _against_closed_form(task, flow, once)
        one = torch.ones(8)
        found["path"] = [
            jump(net(task.noise[:8], one, r.expand(8)), task.noise[:8], one, r.expand(8)).tolist() for r in PATH
        ]
        found["true_path"] = task.true_path
    return found


def _against_closed_form(task: Task, flow: FlowConsist, once: Tensor) -> dict[str, float]:
    """Drift beyond the step's own error, and bias and variance of the targets that the arm was trained on."""
    law, g = task.law, generator(task.seed, 7)
    assert law is not None
    found = {}
    if flow.form == "discrete":
        by_steps = integrate(law.velocity, task.noise, torch.linspace(1, 0, round(1 / flow.step) + 1), "euler")
        found["excess_rmse"] = rms(once - by_steps)
    n, draws = POINTS, DRAWS
    t = 0.3 + 0.7 * torch.rand(n, generator=g)
    r = (t - max(flow.step, 0.1)).clamp(min=0) * torch.rand(n, generator=g)
    x = path_point(law.sample(n, g), torch.randn(n, 2, generator=g), t)
    net, settings = flow.ema.average, {"step": flow.step, "form": flow.form}
    best = consistency_target(net, x, t, r, law.velocity(x, t), **settings)
    if flow.velocity == "conditional":
        pairs = (x - law.posterior_sample(x, t, draws, g)) / t[:, None]
        rows = [v.expand(draws, *v.shape).flatten(0, 1) for v in (x, t, r)]
        used = consistency_target(net, *rows, pairs.flatten(0, 1), **settings).view(draws, n, 2)
    else:
        v = net(x, t, t) if flow.velocity == "marginal" else law.velocity(x, t)
        used = consistency_target(net, x, t, r, v, **settings)[None]
    spread = used.var(dim=0, unbiased=False).sum(dim=1)
    found["target_variance"] = float(spread.mean()) * len(used) / max(len(used) - 1, 1)
    # Of the squared gap what the finite number of draws adds is taken off.
    gap = (used.mean(dim=0) - best).square().sum(dim=1) - spread / max(len(used) - 1, 1)
    found["target_bias"] = float(gap.mean().clamp(min=0).sqrt())
    return found
