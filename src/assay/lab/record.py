"""Published evidence: one JSON file per paper, written from the store, never by hand."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

import assay
from assay.errors import StoreError
from assay.lab.code import code_hash
from assay.lab.paths import evidence_folder
from assay.lab.store import Result, by_name
from assay.lab.study import Study

if TYPE_CHECKING:
    from assay.lab.evidence import Evidence
    from assay.lab.judge import Verdict

_LIBRARIES = ("numpy", "scipy", "torch", "scikit-learn", "scikit-image", "transformers", "diffusers")
T = TypeVar("T", bound=BaseModel)
_TRIALS = ',\n "trials": ['


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TrialRecord(_Plain):
    """One finished trial."""

    arm: str
    condition: str = ""
    seed: int
    seconds: float
    metrics: dict[str, Any]


class Provenance(_Plain):
    """Where evidence came from."""

    package: str
    code: str
    python: str
    libraries: dict[str, str]
    system: str
    cpu: str
    cores: int
    device: str
    recorded: str
    seconds: float


class Summary(_Plain):
    """What a list or a card shows of recorded evidence; everything but the trials."""

    format: Literal[1]
    paper: str
    scale: str
    data: str
    seeds: list[int]
    arms: dict[str, str]
    conditions: dict[str, str]
    arm_conditions: dict[str, list[str]]
    metrics: dict[str, str]
    resampled: bool | list[str]
    verdicts: list[dict[str, Any]]
    provenance: Provenance

    @property
    def repeats(self) -> str:
        """What the repeats of a trial are, in words."""
        if isinstance(self.resampled, bool):
            return "resamples of one data set" if self.resampled else "seeds"
        return f"seeds (resamples of one data set in {', '.join(self.resampled)})"


class Record(Summary):
    """Recorded evidence of a paper."""

    trials: list[TrialRecord]

    def evidence(self) -> Evidence:
        """The trials as numbers by seed."""
        from assay.lab.evidence import Evidence

        return Evidence(
            paper=self.paper,
            scale=self.scale,
            seeds=self.seeds,
            arms=list(self.arms),
            conditions=list(self.conditions) or [""],
            trials={(t.arm, t.condition, t.seed): t.metrics for t in self.trials},
            labels=self.metrics,
            verdicts=self.verdicts,
            arm_conditions=self.arm_conditions,
            resampled=self.resampled,
        )


def evidence_path(paper: str) -> Path:
    """Where a paper's published evidence lies."""
    return evidence_folder() / f"{paper}.json"


def make(study: Study, scale: str, seeds: Sequence[int], results: Sequence[Result], device: str) -> Record:
    """Judge results and put them with their provenance into a record."""
    ended = [result for result in results if result.ok]
    evidence = evidence_of(study, scale, seeds, results)
    return Record(
        format=1,
        paper=study.paper,
        scale=scale,
        data=study.data_kind(scale),
        seeds=list(seeds),
        arms=_described(study.arms),
        conditions=_described(study.conditions),
        arm_conditions={arm: list(conditions) for arm, conditions in study.arm_conditions.items()},
        metrics=dict(study.metrics),
        resampled=study.resampled if isinstance(study.resampled, bool) else list(study.resampled),
        verdicts=[verdict.as_dict() for verdict in judged(study, evidence)],
        provenance=provenance(study, device, sum(result.seconds for result in ended)),
        trials=[
            TrialRecord(
                arm=r.trial.arm,
                condition=r.trial.condition,
                seed=r.trial.seed,
                seconds=round(r.seconds, 3),
                metrics=r.metrics,
            )
            for r in ended
        ],
    )


def evidence_of(study: Study, scale: str, seeds: Sequence[int], results: Sequence[Result]) -> Evidence:
    """Results of a run as numbers by seed."""
    from assay.lab.evidence import Evidence

    return Evidence(
        paper=study.paper,
        scale=scale,
        seeds=list(seeds),
        arms=list(study.arms),
        conditions=list(study.conditions) or [""],
        trials=by_name(results),
        labels=dict(study.metrics),
        arm_conditions=study.arm_conditions,
        resampled=study.resampled,
    )


def judged(study: Study, evidence: Evidence) -> list[Verdict]:
    """The verdicts of a study's claims on its evidence."""
    from assay.lab.judge import judge

    return judge(study.claims, study.gates, evidence)


def provenance(study: Study, device: str, seconds: float) -> Provenance:
    """The code, libraries and machine that evidence is made with now."""
    return Provenance(
        package=assay.__version__,
        code=code_hash(study.module),
        python=platform.python_version(),
        libraries={name: found for name in _LIBRARIES if (found := _version(name))},
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        device=_device_name(device),
        recorded=datetime.now(UTC).strftime("%Y-%m-%d"),
        seconds=round(seconds, 1),
    )


def write(record: Record) -> Path:
    """Write published evidence, in one step: a reader sees the old file or the new one."""
    path = evidence_path(record.paper)
    head = record.model_dump(exclude={"trials"}, mode="json")
    trials = ",\n  ".join(json.dumps(_compact(t.model_dump())) for t in record.trials)
    # The trials come last, so that a list of all papers need not read them.
    text = json.dumps(_compact(head), indent=1, ensure_ascii=False)[: -len("\n}")] + _TRIALS + f"\n  {trials}\n ]\n}}\n"
    write_atomically(path, text)
    return path


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(paper: str) -> Record | None:
    """Published evidence of a paper, or None.

    Raises:
        StoreError: the file is damaged.
    """
    text = _text(evidence_path(paper))
    return None if text is None else _parse(Record, paper, text)


def read_summary(paper: str) -> Summary | None:
    """Published evidence without its trials; cheap even where there are many.

    Raises:
        StoreError: the file is damaged.
    """
    text = _text(evidence_path(paper))
    if text is None:
        return None
    head, found, _ = text.partition(_TRIALS)
    return _parse(Summary, paper, head + "\n}") if found else _parse(Record, paper, text)


def is_stale(summary: Summary, module: str) -> bool:
    """Whether the code that made the evidence is no longer the code that is here."""
    return summary.provenance.code != code_hash(module)


def _parse(kind: type[T], paper: str, text: str) -> T:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise StoreError(
            f"the evidence file {evidence_path(paper)} is damaged ({where}: {first['msg']});"
            f" restore it, or make it anew with `assay run {paper}` and `assay record {paper}`"
        ) from error


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the evidence file {path} cannot be read: {error}") from error


def _compact(value: Any) -> Any:
    """NaN has no JSON form: it becomes null; floats keep ten digits, beyond which machines differ anyway."""
    if isinstance(value, float):
        return None if value != value or value in (float("inf"), float("-inf")) else float(f"{value:.10g}")
    if isinstance(value, Mapping):
        return {key: _compact(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_compact(item) for item in value]
    return value


def _described(names: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


def _device_name(device: str) -> str:
    if device != "cuda":
        return device
    import torch

    return f"cuda ({torch.cuda.get_device_name()})"
