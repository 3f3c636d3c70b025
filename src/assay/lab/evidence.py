"""The trials of a study as numbers by seed, for verdicts and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.lab.statistics import resampled_error, t_interval

Metrics = Mapping[str, Any]


@dataclass
class Evidence:
    """Finished trials of one study at one scale.

    Attributes:
        paper: arXiv id.
        scale: `smoke`, `pocket` or `full`.
        seeds, arms, conditions: what the trials cover, in the study's order (conditions: `("",)` when there are none).
        trials: (arm, condition, seed) -> metrics of finished trials.
        labels: metric name -> words for axes.
        verdicts: the judged claims, as plain data.
        arm_conditions: conditions of the arms that have fewer. None: not known, and taken from the trials there are
            (a condition in which every trial failed then goes unseen).
        resampled: seeds are resamples of one fixed data set, see `statistics.resampled_error`; or the conditions in
            which they are.
    """

    paper: str
    scale: str
    seeds: Sequence[int]
    arms: Sequence[str]
    conditions: Sequence[str]
    trials: Mapping[tuple[str, str, int], Metrics]
    labels: Mapping[str, str] = field(default_factory=dict)
    verdicts: Sequence[Mapping[str, Any]] = ()
    arm_conditions: Mapping[str, Sequence[str]] | None = None
    resampled: bool | Sequence[str] = False

    def label(self, metric: str) -> str:
        """Words for an axis."""
        return self.labels.get(metric, metric)

    def values(self, metric: str, arm: str, condition: str | None = None) -> NDArray[np.float64]:
        """One number per seed, shape `(S,)`; NaN where the trial failed or lacks the metric.

        Without `condition`: the mean over the arm's conditions (NaN if one of them is missing).
        """
        conditions = [condition] if condition is not None else self.conditions_of(arm)
        table = [[self._number(metric, arm, c, seed) for c in conditions] for seed in self.seeds]
        return np.asarray(table, dtype=float).reshape(len(self.seeds), len(conditions)).mean(axis=1)

    def series(self, metric: str, arm: str, condition: str = "") -> NDArray[np.float64]:
        """A list-valued metric, shape `(S, ...)`, of the seeds that have it."""
        found = [self.trials.get((arm, condition, seed), {}).get(metric) for seed in self.seeds]
        return np.asarray([value for value in found if value is not None], dtype=float)

    def mean_interval(self, metric: str, arm: str, condition: str | None = None) -> tuple[float, float, float]:
        """Mean over seeds and its 95% Student t interval; the interval is NaN for fewer than two seeds."""
        x = self.values(metric, arm, condition)
        conditions = [condition] if condition is not None else self.conditions_of(arm)
        return t_interval(x, standard_error=resampled_error(x) if self.resamples(conditions) else None)

    def resamples(self, conditions: Iterable[str]) -> bool:
        """Whether seeds are resamples of one fixed data set in any of these conditions."""
        if isinstance(self.resampled, bool):
            return self.resampled
        return any(condition in self.resampled for condition in conditions)

    def conditions_of(self, arm: str) -> list[str]:
        """The conditions an arm runs in, in the study's order."""
        if self.arm_conditions is not None:
            wanted = self.arm_conditions.get(arm, self.conditions)
            return [c for c in self.conditions if c in wanted]
        present = {c for (a, c, _) in self.trials if a == arm}
        return [c for c in self.conditions if c in present] or list(self.conditions)

    def _number(self, metric: str, arm: str, condition: str, seed: int) -> float:
        value = self.trials.get((arm, condition, seed), {}).get(metric, np.nan)
        return float(value) if isinstance(value, (Real, np.bool_)) else np.nan
