"""The runner and the reading commands: what they cost beside the work itself."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._measure import row

STUDY = '''
"""A study that costs nothing, or a second of pure compute."""

import os
import time

from assay.lab import Bound, Study

study = Study(
    paper="2603.00002",
    arms=[f"arm{i}" for i in range(int(os.environ.get("BENCH_ARMS", 1)))],
    claims=[Bound("value", method="arm0", at_most=1.0)],
)


@study.trial
def trial(arm, seed):
    deadline = time.thread_time() + float(os.environ.get("BENCH_COMPUTE", 0))
    while time.thread_time() < deadline:
        sum(range(1000))
    return {"value": float(seed)}
'''


def rows() -> list[dict[str, Any]]:
    """Whole-process CPU of the reading commands, and the runner's overhead, memory and scaling."""
    found = []
    for arguments in (["--help"], ["list"], ["show", "2602.06830"]):
        seconds = median(_cpu([sys.executable, "-m", "assay.cli", *arguments]) for _ in range(5))
        found.append(row(f"CPU of assay {' '.join(arguments)}", seconds, "s", at_most=0.35))
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "assay_bench"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "study.py").write_text(textwrap.dedent(STUDY))
        empty = _run(folder, "empty", seeds=100, arms=10, jobs=2)
        start = _run(folder, "start", seeds=1, arms=1, jobs=2)
        overhead = (empty["seconds"] - start["seconds"]) * 2 / 1000
        found.append(row("overhead of an empty trial (1,000 trials, 2 jobs)", overhead * 1000, "ms", at_most=50))
        again = _run(folder, "empty", seeds=100, arms=10, jobs=2)
        found.append(row("cost of a finished trial that is skipped", again["seconds"] * 1000 / 1000, "ms", at_most=1.5))
        large = _run(folder, "large", seeds=1000, arms=10, jobs=2)
        small = _run(folder, "small", seeds=10, arms=10, jobs=2)
        found.append(
            row("memory growth of the runner over 10,000 trials", large["mb"] - small["mb"], "MiB", at_most=50)
        )
        one = _run(folder, "one", seeds=96, arms=1, jobs=1, compute=1.0)
        two = _run(folder, "two", seeds=96, arms=1, jobs=2, compute=1.0)
        times = one["seconds"] / two["seconds"]
        found.append(row("throughput of two workers against one (trials of 1 s)", times, "times", at_least=1.8))
    return found


def _run(folder: str, store: str, *, seeds: int, arms: int, jobs: int, compute: float = 0.0) -> dict[str, float]:
    """Run the study in a process of its own; wall seconds of the run and peak memory of the runner."""
    code = f"""
import json, resource, time
from assay.lab import runner
from assay.lab.registry import load_module
study = load_module("assay_bench.study")
start = time.perf_counter()
outcome = runner.run(study, runner.Options(seeds={seeds}, jobs={jobs}))
seconds = time.perf_counter() - start
assert not outcome.failed
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
    env = {
        **os.environ,
        "PYTHONPATH": folder,
        "ASSAY_HOME": f"{folder}/{store}",
        "BENCH_ARMS": str(arms),
        "BENCH_COMPUTE": str(compute),
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    seconds, mb = json.loads(done.stdout.strip().splitlines()[-1])
    return {"seconds": seconds, "mb": mb}


def _cpu(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
