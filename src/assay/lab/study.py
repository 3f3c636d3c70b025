"""The declaration of a study: what is compared, on what, and which claims are judged."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from assay.errors import UnknownName
from assay.lab.claims import Claim, Gate

SCALES = ("smoke", "pocket", "full")
DEFAULT_SEEDS = {"smoke": 1, "pocket": 5, "full": 3}
DEFAULT_LIMITS = {"smoke": 120.0, "pocket": 900.0, "full": 86400.0}

Hook = Callable[..., Any]


@dataclass(frozen=True, order=True)
class Trial:
    """Name of one run: one arm in one condition with one seed at one scale."""

    seed: int
    arm: str
    condition: str
    scale: str

    def __str__(self) -> str:
        where = f" in {self.condition}" if self.condition else ""
        return f"{self.arm}{where}, seed {self.seed}, {self.scale}"


@dataclass
class Study:
    """A paper's claim put to the test.

    Args:
        paper: arXiv id.
        arms: contenders; a mapping gives each a sentence for the reader.
        claims: what is judged; names default to C1, C2, ... by position.
        conditions: names of the settings each arm runs in; empty: one setting.
        arm_conditions: conditions of single arms, where they are fewer than `conditions`.
        gates: figures that must hold before claims are judged.
        metrics: metric name -> words and unit for axes and tables, such as `"PSNR (dB)"`.
        seeds: how many seeds by scale; a number stands for pocket.
        data: `"real"`, `"simulated"` or `"real and simulated"`; shown beside every verdict.
            A function of the scale where it depends on what is installed.
        resampled: seeds are bootstrap resamples of one fixed data set; the spread over seeds is then
            the standard error itself and is not divided by the root of their number. Or the conditions in which they
            are, when others draw new data for every seed; a claim over both kinds is judged as resampled.
        tolerance: relative difference a re-run of a metric may show.
        tolerances: the same for single metrics; None for a metric that is not compared (seconds, bytes).
        threads: threads a trial computes with.
        time_limit: seconds a trial may take, by scale.

    The functions are registered by decorators and take any of the named arguments they want:
    `prepare(seed, scale, device, data)`, `trial(arm, condition, seed, scale, shared, device, data)`,
    `figure(evidence)`, `apply(<input paths>, out, **options)`.
    """

    paper: str
    arms: Sequence[str] | Mapping[str, str]
    claims: Sequence[Claim]
    conditions: Sequence[str] | Mapping[str, str] = ()
    arm_conditions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    gates: Sequence[Gate] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    seeds: int | Mapping[str, int] = field(default_factory=dict)
    data: str | Callable[[str], str] = "simulated"
    resampled: bool | Sequence[str] = False
    tolerance: float = 1e-4
    tolerances: Mapping[str, float | None] = field(default_factory=dict)
    threads: int = 1
    time_limit: Mapping[str, float] = field(default_factory=dict)

    prepare_hook: Hook | None = field(default=None, init=False, repr=False)
    trial_hook: Hook | None = field(default=None, init=False, repr=False)
    figure_hook: Hook | None = field(default=None, init=False, repr=False)
    apply_hook: Hook | None = field(default=None, init=False, repr=False)
    module: str = field(default="", init=False)

    def __post_init__(self) -> None:
        caller = sys._getframe(2).f_globals  # the study's module: __post_init__ <- __init__ <- module
        self.module = str(caller.get("__name__", ""))
        self.claims = [
            replace(
                claim,
                name=claim.name or f"C{i}",
                words=claim.words or _without_unit(self.metrics.get(claim.metric, "")),
            )
            for i, claim in enumerate(self.claims, 1)
        ]
        self._check()

    def _check(self) -> None:
        names = [claim.name for claim in self.claims]
        if len(set(names)) < len(names):
            raise ValueError(f"study {self.paper}: two claims share a name: {names}")
        for claim in self.claims:
            for arm in claim.arms():
                self._known("arm", arm, self.arms)
            others = getattr(claim, "baseline_conditions", None) or ()
            for condition in (*claim.conditions, *others, *getattr(claim, "sizes", ())):
                self._known("condition", condition, self.conditions)
        for condition in () if isinstance(self.resampled, bool) else self.resampled:
            self._known("condition", condition, self.conditions)
        for gate in self.gates:
            self._known("arm", gate.method, self.arms)
            for name in gate.claims:
                self._known("claim", name, names)
        for arm, conditions in self.arm_conditions.items():
            self._known("arm", arm, self.arms)
            for condition in conditions:
                self._known("condition", condition, self.conditions)

    def _known(self, what: str, name: str, choices: Sequence[str] | Mapping[str, str]) -> None:
        if name not in choices:
            raise UnknownName(f"study {self.paper} has no {what} {name!r}; choose from: {', '.join(choices) or 'none'}")

    def prepare(self, hook: Hook) -> Hook:
        """Register what all arms of one seed share; built once per seed and scale."""
        self.prepare_hook = hook
        return hook

    def trial(self, hook: Hook) -> Hook:
        """Register the trial: returns metric name -> number (or list of numbers, for figures)."""
        self.trial_hook = hook
        return hook

    def figure(self, hook: Hook) -> Hook:
        """Register the figure: takes an `Evidence`, returns a matplotlib figure."""
        self.figure_hook = hook
        return hook

    def apply(self, hook: Hook) -> Hook:
        """Register the use on a user's own files; its signature and docstring become the command line."""
        self.apply_hook = hook
        return hook

    def seed_count(self, scale: str) -> int:
        """How many seeds the study wants at a scale."""
        given = {"pocket": self.seeds} if isinstance(self.seeds, int) else dict(self.seeds)
        return int(given.get(scale, DEFAULT_SEEDS[scale]))

    def limit(self, scale: str) -> float:
        """Seconds a trial may take at a scale."""
        return float(self.time_limit.get(scale, DEFAULT_LIMITS[scale]))

    def data_kind(self, scale: str) -> str:
        """Whether the evidence of a scale is from real or simulated data."""
        return self.data(scale) if callable(self.data) else self.data

    def metric_tolerance(self, metric: str) -> float | None:
        """Relative difference a re-run of `metric` may show; None: not compared."""
        return self.tolerances.get(metric, self.tolerance)

    def trials(self, scale: str, seeds: Sequence[int], arms: Sequence[str] | None = None) -> list[Trial]:
        """Every trial of the given seeds, seed by seed.

        Raises:
            UnknownName: an unknown scale or arm; the choices are listed.
        """
        self._known("scale", scale, SCALES)
        for arm in arms or ():
            self._known("arm", arm, self.arms)
        chosen = [arm for arm in self.arms if arms is None or arm in arms]
        everywhere = tuple(self.conditions) or ("",)
        return [
            Trial(seed, arm, condition, scale)
            for seed, arm in product(seeds, chosen)
            for condition in self.arm_conditions.get(arm, everywhere)
        ]


def _without_unit(label: str) -> str:
    """`"held-out PSNR (dB)"` -> `"held-out PSNR"`."""
    return re.sub(r"\s*\([^()]*\)\s*$", "", label)


def call_with(hook: Hook, available: Mapping[str, Any]) -> Any:
    """Call a hook with those of the available arguments that its signature names."""
    wanted = inspect.signature(hook).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in wanted.values()):
        return hook(**available)
    return hook(**{name: value for name, value in available.items() if name in wanted})
