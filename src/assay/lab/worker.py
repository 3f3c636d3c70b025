"""What a process does with one seed: prepare, run its trials, store each at once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from assay.errors import AssayError, MissingExtra, StoreError
from assay.lab.registry import load_module, naming_extra
from assay.lab.store import Result, Setting, Store
from assay.lab.study import Study, Trial, call_with

PREPARE = "prepare"


class TrialTimeout(BaseException):
    """Raised inside a trial that exceeds its limit; not an `Exception`, so that a study cannot swallow it."""


@dataclass(frozen=True)
class SeedJob:
    """The unit that is scheduled: one seed's preparation and the trials that use it.

    `runner` is the process that waits for the results on this machine; 0 where workers are not its children.
    """

    module: str
    extra: str
    setting: Setting
    trials: tuple[Trial, ...]
    store: str
    run: str
    limit: float | None = None
    runner: int = 0


def run_seed(job: SeedJob) -> list[Result]:
    """Run one seed's trials; each is written to the store as it ends.

    Returns those results that could not be stored from here because the store lies on another machine;
    the caller stores them.
    """
    study = load_module(job.module, job.extra)
    reachable = Path(job.store).is_file()
    store = Store(Path(job.store)) if reachable else None
    away: list[Result] = []
    try:
        with _threads(study.threads):
            for result in _run(study, job, store):
                if store is not None:
                    store.put(job.setting, result, job.run)
                else:
                    away.append(result)
    finally:
        if store is not None:
            store.close()
    return away


def _run(study: Study, job: SeedJob, store: Store | None) -> Iterator[Result]:
    first = job.trials[0]
    given: dict[str, Any] = {
        "seed": first.seed,
        "scale": first.scale,
        "device": job.setting.device,
        "data": Path(job.setting.data) if job.setting.data else None,
    }
    trial_limit = job.limit or study.limit(first.scale)
    shared: Any = None
    if study.prepare_hook is not None:
        _seed_everything(study.paper, first.seed)
        try:
            limit = job.limit or study.time_limit.get(PREPARE, 4 * trial_limit)
            with _time_limit(limit, "preparation"), naming_extra(job.module, job.extra):
                shared = call_with(study.prepare_hook, given)
        except (StoreError, MissingExtra):
            raise
        except (Exception, TrialTimeout) as error:
            text = "in prepare: " + _explain(error)
            yield from (Result(trial, {}, 0.0, text) for trial in job.trials)
            return
    for trial in job.trials:
        if _orphaned(job.runner):
            return
        if store is not None:
            store.start(job.setting, trial, job.run)
        _seed_everything(study.paper, trial.seed)
        start = time.perf_counter()
        metrics: dict[str, Any] = {}
        error_text = ""
        try:
            with _time_limit(trial_limit, "trial"), naming_extra(job.module, job.extra):
                assert study.trial_hook is not None
                returned = call_with(
                    study.trial_hook, {**given, "arm": trial.arm, "condition": trial.condition, "shared": shared}
                )
                metrics = plain_metrics(returned)
        except (StoreError, MissingExtra):
            raise
        except (Exception, TrialTimeout) as error:
            error_text = _explain(error)
        yield Result(trial, metrics, time.perf_counter() - start, error_text)


def _orphaned(runner: int) -> bool:
    """Whether the run that wanted the results has been killed: its workers then stop at the next trial."""
    return runner not in (0, os.getpid(), os.getppid())


def plain_metrics(returned: Any) -> dict[str, Any]:
    """A trial's result as JSON-ready numbers: floats, or nested lists of floats.

    Raises:
        TypeError: the trial returned something else than names with numbers.
    """
    if not isinstance(returned, Mapping) or not returned:
        raise TypeError(f"a trial must return a mapping of metric name to number, got {type(returned).__name__}")
    return {str(name): _plain(name, value) for name, value in returned.items()}


def _plain(name: str, value: Any) -> Any:
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(name, item) for item in value]
    if isinstance(value, (bool, int, float)):
        return float(value)
    raise TypeError(f"metric {name!r} is {type(value).__name__}; expected a number or a list of numbers")


def _explain(error: BaseException) -> str:
    if isinstance(error, (AssayError, TrialTimeout)):
        return f"{type(error).__name__}: {error}"
    return "".join(traceback.format_exception(error)).strip()


def _seed_everything(paper: str, seed: int) -> None:
    number = int.from_bytes(hashlib.sha256(f"{paper}/{seed}".encode()).digest()[:4], "big")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002  libraries still read NumPy's global state
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(number)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with `count` threads: small layers on more threads than free cores run many times slower."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else 0
    if torch is not None:
        torch.set_num_threads(count)
    try:
        with threadpool_limits(limits=count):
            yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _time_limit(seconds: float, what: str) -> Iterator[None]:
    """Interrupt the block after `seconds`. Off the main thread, where signals do not reach, there is no limit."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TrialTimeout(f"the {what} exceeded its time limit of {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
