"""Where seeds run: processes of this machine, or a Ray cluster; both through joblib."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from assay.errors import AssayError, UnknownName, require
from assay.lab.store import Result
from assay.lab.worker import SeedJob, run_seed

ENGINES = ("local", "ray")


class WorkerDiedError(Exception):
    """A worker process ended without a word: killed, out of memory, or crashed in native code."""


def check_engine(engine: str) -> None:
    """Raise UnknownName unless the engine exists."""
    if engine not in ENGINES:
        raise UnknownName(f"unknown engine {engine!r}; choose from: {', '.join(ENGINES)}")


def default_jobs(threads: int) -> int:
    """As many workers as this machine has cores for, at `threads` each."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, threads))


def run_jobs(jobs: Sequence[SeedJob], engine: str, workers: int, threads: int) -> Iterator[list[Result]]:
    """Run seeds, and hand back what each returned as it ends, in any order.

    Raises:
        WorkerDiedError: a local worker process died; its seed's remaining trials have not run.
    """
    check_engine(engine)
    if engine == "ray":
        yield from _on_ray(jobs, workers)
    elif workers == 1 and len(jobs) >= 1:
        yield from map(run_seed, jobs)
    else:
        yield from _on_processes(jobs, workers, threads)


def run_apart(job: SeedJob, threads: int) -> list[Result]:
    """Run one job alone in a process of its own, so that its death can be pinned on it."""
    for returned in _on_processes([job], 2, threads):
        return returned
    return []


def _on_processes(jobs: Sequence[SeedJob], workers: int, threads: int) -> Iterator[list[Result]]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import BrokenProcessPool

    try:
        with parallel_config(backend="loky", n_jobs=workers, inner_max_num_threads=threads):
            # Seeds go out in small batches as workers come free: memory stays flat and progress shows early.
            pool = Parallel(return_as="generator_unordered", batch_size="auto", pre_dispatch="2*n_jobs")
            yield from pool(delayed(run_seed)(job) for job in jobs)
    except BrokenProcessPool as error:
        raise WorkerDiedError(str(error).splitlines()[0]) from error


def _on_ray(jobs: Sequence[SeedJob], workers: int) -> Iterator[list[Result]]:
    ray = require("ray", "ray")
    register_ray = require("ray.util.joblib", "ray").register_ray
    from joblib import Parallel, delayed, parallel_config

    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
        except ConnectionError as error:
            raise AssayError("no Ray cluster answers; start one with `ray start --head`, then run again") from error
    register_ray()
    with parallel_config(backend="ray", n_jobs=workers):
        yield from Parallel(batch_size=1)(delayed(run_seed)(job) for job in jobs)
