"""What the benchmarks share: a row with its limit in words, and times taken by turns on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

Work = Callable[[], object]


def row(
    what: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """One figure; `ok` is None where nothing limits it."""
    if at_least is None and at_most is None:
        return {"what": what, "value": value, "unit": unit, "limit": "", "ok": None}
    if at_least is None:
        limit = f"at most {at_most:g}"
    elif at_most is None:
        limit = f"at least {at_least:g}"
    elif at_least == at_most:
        limit = f"exactly {at_most:g}"
    else:
        limit = f"{at_least:g} to {at_most:g}"
    ok = bool((at_least is None or value >= at_least) and (at_most is None or value <= at_most))
    return {"what": what, "value": value, "unit": unit, "limit": limit, "ok": ok}


def seconds(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    """How long one call takes; `time.thread_time` or `time.process_time` count processor time only."""
    start = clock()
    work()
    return clock() - start


def side_by_side(
    first: Work, second: Work, repeats: int, warm: int = 1, clock: Callable[[], float] = time.perf_counter
) -> list[tuple[float, float]]:
    """Seconds of both, called in turn so that a busy while falls on both; the first `warm` turns are left out."""
    pairs = [(seconds(first, clock), seconds(second, clock)) for _ in range(warm + repeats)]
    return pairs[warm:]


def ratio(pairs: list[tuple[float, float]]) -> float:
    """Median over the turns of the first's time over the second's."""
    return median(mine / peer for mine, peer in pairs)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, BLAS and OpenMP; as before afterwards."""
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
