"""Running recorded trials again and comparing."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay.lab import record, runner
from assay.lab.judge import Verdict
from assay.lab.runner import Options, Progress
from assay.lab.study import Study


@dataclass
class Differences:
    """How a re-run differs from the record.

    Attributes:
        metrics: one line per metric beyond its tolerance.
        verdicts: one line per claim whose outcome changed.
        timings: one line per claim that is decided in one run and undecided in the other, and rests on figures that
            the study does not compare, such as seconds. Told, and no difference: another machine times differently.
        failed: one line per trial that failed or is missing now.
        compared: how many figures were compared.
    """

    metrics: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    timings: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    compared: int = 0

    @property
    def any(self) -> bool:
        return bool(self.metrics or self.verdicts or self.failed)


def verify(study: Study, recorded: record.Record, options: Options, *, extra: str = "all",
           progress: Progress | None = None) -> Differences:  # fmt: skip
    """Run the recorded trials again, in a store of their own, and compare metrics and verdicts."""
    with tempfile.TemporaryDirectory(prefix="assay-verify-") as folder:
        again = replace(
            options, scale=recorded.scale, seeds=len(recorded.seeds), arms=None, store=Path(folder) / "trials.sqlite"
        )
        outcome = runner.run(study, again, extra=extra, progress=progress)
    found = Differences()
    now = {(r.trial.arm, r.trial.condition, r.trial.seed): r for r in outcome.results}
    for trial in recorded.trials:
        name = f"{trial.arm}{' in ' + trial.condition if trial.condition else ''}, seed {trial.seed}"
        result = now.get((trial.arm, trial.condition, trial.seed))
        if result is None or not result.ok:
            found.failed.append(f"{name}: {'not in the study any more' if result is None else last_line(result.error)}")
            continue
        for metric, old in trial.metrics.items():
            tolerance = study.metric_tolerance(metric)
            if tolerance is None:
                continue
            found.compared += 1
            if metric not in result.metrics:
                found.metrics.append(f"{name}: {metric} is not measured any more")
            elif not agree(old, result.metrics[metric], tolerance):
                found.metrics.append(f"{name}: {metric} was {_short(old)}, is {_short(result.metrics[metric])}")
    evidence = record.evidence_of(study, recorded.scale, recorded.seeds, outcome.results)
    judged = {verdict.name: verdict for verdict in record.judged(study, evidence)}
    for verdict in recorded.verdicts:
        new = judged.get(verdict["name"])
        says = new.outcome if new else "not claimed any more"
        if says == verdict["outcome"]:
            continue
        line = f"{verdict['name']}: was {verdict['outcome']}, is {says}"
        if new is not None and "inconclusive" in (says, verdict["outcome"]) and _timed(study, verdict, new):
            found.timings.append(line)
        else:
            found.verdicts.append(line)
    return found


def _timed(study: Study, old: dict[str, Any], new: Verdict) -> bool:
    """Whether a changed outcome rests on figures that are not compared: its own, or, through the correction for
    several tests alone, those of another claim.
    """
    return study.metric_tolerance(old["metric"]) is None or agree(old["p"], new.p, 1e-6)


def agree(old: Any, new: Any, tolerance: float) -> bool:
    """Whether two figures (or nested lists of them) agree within a relative tolerance."""
    if isinstance(old, Sequence) and isinstance(new, Sequence):
        return len(old) == len(new) and all(agree(a, b, tolerance) for a, b in zip(old, new, strict=True))
    if isinstance(old, Sequence) or isinstance(new, Sequence):
        return False
    a, b = (math.nan if value is None else float(value) for value in (old, new))
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.isnan(a) == math.isnan(b) or not (math.isfinite(a) or math.isfinite(b))
    return math.isclose(a, b, rel_tol=max(tolerance, 1e-9), abs_tol=max(tolerance, 1e-9) * 1e-2)


def last_line(error: str) -> str:
    """What a traceback says in its last line."""
    return error.strip().splitlines()[-1] if error.strip() else "failed"


def _short(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, Sequence) else "missing" if value is None else f"{value:.6g}"
