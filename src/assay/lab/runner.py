"""Running a study: which trials are missing, and what became of them."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from assay.errors import AssayError, UnknownName
from assay.lab.code import code_hash
from assay.lab.engines import WorkerDiedError, check_engine, default_jobs, run_apart, run_jobs
from assay.lab.paths import store_path
from assay.lab.store import Result, Setting, Store
from assay.lab.study import SCALES, Study, Trial
from assay.lab.worker import SeedJob

Progress = Callable[[int, int], None]

DEVICES = ("auto", "cpu", "cuda")


@dataclass
class Options:
    """How to run. None stands for the study's own choice.

    Attributes:
        scale: `smoke`, `pocket` or `full`.
        seeds: number of seeds, counted from 0.
        arms: run only these.
        engine: `local` or `ray`.
        jobs: worker processes.
        device: `auto`, `cpu` or `cuda`.
        data: folder with the real data set of the full scale.
        fresh: run finished trials again.
        time_limit: seconds a trial may take, in place of the study's limit.
        store: file of the trial store.
    """

    scale: str = "pocket"
    seeds: int | None = None
    arms: Sequence[str] | None = None
    engine: str = "local"
    jobs: int | None = None
    device: str = "auto"
    data: Path | None = None
    fresh: bool = False
    time_limit: float | None = None
    store: Path = field(default_factory=store_path)


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        setting: key of the stored trials.
        seeds: the seeds asked for.
        planned, skipped: how many trials were asked for, and how many of them were finished before.
        results: every stored result of the trials asked for.
    """

    setting: Setting
    scale: str
    seeds: list[int]
    planned: int
    skipped: int
    results: list[Result]

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if not result.ok]


def run(study: Study, options: Options, *, extra: str = "all", progress: Progress | None = None) -> Outcome:
    """Run what is missing of a study and return everything that was asked for.

    Raises:
        UnknownName: unknown scale, arm, engine or device.
        StoreError: the store cannot be written; finished trials are kept.
    """
    if options.scale not in SCALES:
        raise UnknownName(f"unknown scale {options.scale!r}; choose from: {', '.join(SCALES)}")
    check_engine(options.engine)
    count = study.seed_count(options.scale) if options.seeds is None else options.seeds
    if count < 1:
        raise AssayError(f"--seeds must be at least 1, got {count}")
    if options.jobs is not None and options.jobs < 1:
        raise AssayError(f"--jobs must be at least 1, got {options.jobs}")
    seeds = list(range(count))
    planned = study.trials(options.scale, seeds, options.arms)
    setting = setting_of(study, options)
    with Store(options.store) as store:
        finished = set() if options.fresh else store.finished(setting, options.scale)
        missing = [trial for trial in planned if (trial.arm, trial.condition, trial.seed) not in finished]
        if progress:
            progress(0, len(missing))
        if missing:
            _run_missing(study, options, setting, store, missing, extra, progress)
        wanted = set(planned)
        results = [result for result in store.results(setting, options.scale) if result.trial in wanted]
    return Outcome(setting, options.scale, seeds, len(planned), len(planned) - len(missing), results)


def setting_of(study: Study, options: Options) -> Setting:
    """The key under which a run's trials are stored."""
    data = str(options.data.expanduser().resolve()) if options.data else ""
    if options.data and not options.data.expanduser().is_dir():
        raise AssayError(f"--data {options.data}: no such folder")
    return Setting(study.paper, code_hash(study.module), pick_device(options.device), data)


def pick_device(device: str) -> str:
    """`auto` is CUDA where torch finds it, else the CPU."""
    if device not in DEVICES:
        raise UnknownName(f"unknown device {device!r}; choose from: {', '.join(DEVICES)}")
    if device == "cpu":
        return "cpu"
    try:
        import torch

        available = torch.cuda.is_available()
    except ImportError:
        available = False
    if device == "cuda" and not available:
        raise AssayError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return "cuda" if available else "cpu"


def _run_missing(
    study: Study,
    options: Options,
    setting: Setting,
    store: Store,
    missing: list[Trial],
    extra: str,
    progress: Progress | None,
) -> None:
    jobs = options.jobs or default_jobs(study.threads)
    run_id = uuid.uuid4().hex
    runner = os.getpid() if options.engine == "local" else 0

    def job_of(trials: Sequence[Trial]) -> SeedJob:
        return SeedJob(
            study.module, extra, setting, tuple(trials), str(options.store), run_id, options.time_limit, runner
        )

    waiting = [job_of(list(trials)) for _, trials in groupby(missing, key=lambda trial: trial.seed)]
    try:
        with _watched(options.store, run_id, len(missing), progress):
            while waiting:
                try:
                    for returned in run_jobs(waiting, options.engine, jobs, study.threads):
                        for result in returned:  # a worker that cannot reach the store hands its results back
                            store.put(setting, result, run_id)
                    break
                except WorkerDiedError as died:
                    waiting = _after_death(store, setting, waiting, run_id, str(died), study.threads)
    finally:
        store.forget_started(run_id)


def _after_death(
    store: Store, setting: Setting, jobs: list[SeedJob], run_id: str, reason: str, threads: int
) -> list[SeedJob]:
    """Find the trial that killed its worker by running each suspect alone; return the jobs that remain."""
    suspects = store.started(run_id)
    if not suspects:
        raise AssayError(f"a worker process died outside any trial: {reason}")
    for suspect in sorted(suspects):
        owner = next(job for job in jobs if suspect in job.trials)
        try:
            for result in run_apart(replace(owner, trials=(suspect,)), threads):
                store.put(setting, result, run_id)
        except WorkerDiedError:
            text = f"the worker process died in this trial (killed, out of memory, or a native crash): {reason}"
            store.put(setting, Result(suspect, {}, 0.0, text), run_id)
    ended = store.ended(run_id)
    left = [replace(job, trials=tuple(trial for trial in job.trials if trial not in ended)) for job in jobs]
    return [job for job in left if job.trials]


@contextmanager
def _watched(path: Path, run_id: str, total: int, progress: Progress | None) -> Iterator[None]:
    """Report how many trials have ended, twice a second, while the block runs."""
    if progress is None:
        yield
        return
    over = threading.Event()

    def watch() -> None:
        with Store(path) as store:
            while not over.wait(0.5):
                progress(store.count_ended(run_id), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        with Store(path) as store:
            progress(store.count_ended(run_id), total)
