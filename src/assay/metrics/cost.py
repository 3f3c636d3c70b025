"""What a computation costs: seconds, memory, parameters."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def median_seconds(
    run: Callable[[], Any],
    repeats: int = 5,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median time of a call (seconds), with as many threads as are set at the moment.

    Args:
        run: the computation. repeats: timed calls. warmup: calls before them.
        device: waits for the work queued on it before every reading.
        clock: wall time, or `time.process_time`: on one CPU thread the same, without the time other programs had.
    """
    if repeats < 1:
        raise ValueError(f"repeats {repeats}: at least 1 is needed")
    for _ in range(warmup):
        run()
    times = []
    for _ in range(repeats):
        _wait(device)
        start = clock()
        run()
        _wait(device)
        times.append(clock() - start)
    return statistics.median(times)


def peak_memory(run: Callable[[], Any], device: torch.device | str = "cpu") -> int:
    """Most memory that tensors made by a call held at one time, beyond what was held before (bytes).

    On a GPU from the allocator's own count; on the CPU from the allocations and releases the PyTorch profiler records.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _quiet(), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = run()
        del result
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def parameter_count(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters, shared ones once; only those that train with `trainable`."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def parameter_bytes(module: nn.Module) -> int:
    """Memory of the parameters (bytes)."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the profiler's native log lines, which pass Python by and go to file descriptor 2."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _wait(device: torch.device | str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
