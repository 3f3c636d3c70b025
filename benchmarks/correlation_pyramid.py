"""The correlation pyramid beside the package convexAdam: memory and time at one stride and search radius."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from benchmarks._measure import row

STRIDE, SEARCH, STEPS = 3, 4, 20
REPEATS = 3

COMMON = f"""
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import torch
from assay.data.volumes.mni import mni_brain
torch.set_num_threads(1)
brain = mni_brain(2)
fixed = torch.from_numpy(brain.grey * 0.5 + brain.white * 0.3 + brain.inside * 0.05)
moving = torch.from_numpy(brain.t1.copy()).roll((2, 3, -2), (0, 1, 2))
g, q, steps = {STRIDE}, {SEARCH}, {STEPS}

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name + ":"))

def measured(run):
    run(8)  # code and pools are loaded; a small volume
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark starts anew
    before = status("VmRSS")
    start = time.process_time()
    run(1)
    print(json.dumps([status("VmHWM") - before, time.process_time() - start]))
"""

OURS = """
from assay.methods.geometry3d.correlation_pyramid import register
def run(thin):
    n = 24 if thin > 1 else 1000
    register(fixed[:n, :n, :n] + 1e-3, moving[:n, :n, :n] + 1e-3, strides={strides}, q=q if thin == 1 else 1, radius=2,
             dilation=2, refine=steps, average={average})
measured(run)
"""

PEER = """
from convexAdam.convex_adam_MIND import convex_adam_pt
def run(thin):
    n = 24 if thin > 1 else 1000
    convex_adam_pt(fixed[:n, :n, :n] + 1e-3, moving[:n, :n, :n] + 1e-3, mind_r=2, mind_d=2, grid_sp=g,
                   disp_hw=q if thin == 1 else 1, selected_niter=steps, dtype=torch.float32,
                   device=torch.device("cpu"))
measured(run)
"""


def rows() -> list[dict[str, Any]]:
    """Peak memory above what was held before, and seconds of one core; each in a process of its own, by turns."""
    programs = {
        "one": OURS.format(strides=(STRIDE,), average=False),
        "all": OURS.format(strides="(6, 5, 4, 3)", average=True).replace(
            "(6, 5, 4, 3)", "(6, 5, 4, 3) if thin == 1 else (3,)"
        ),
        "peer": PEER,
    }
    found: dict[str, list[list[float]]] = {name: [] for name in programs}
    for _ in range(REPEATS):
        for name, program in programs.items():
            found[name].append(_run(program))
    memory = {name: float(np.median([m for m, _ in values])) for name, values in found.items()}
    seconds = {name: float(np.median([s for _, s in values])) for name, values in found.items()}
    level, pyramid = f"one level, {STEPS} steps", f"strides 6, 5, 4, 3, {STEPS} steps"
    against = f"against convexAdam (stride {STRIDE}, search radius {SEARCH}, 80 x 96 x 80 voxels)"
    return [
        row(f"peak memory, {level}, {against}", memory["one"] / memory["peer"], "of its", at_most=1.5),
        row(f"peak memory, {pyramid}, {against}", memory["all"] / memory["peer"], "of its", at_most=1.5),
        row(f"time, {level}, {against}", seconds["one"] / seconds["peer"], "of its", at_most=1),
        row(f"time, {pyramid}, {against}", seconds["all"] / seconds["peer"], "of its"),
    ]


def _run(program: str) -> list[float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", COMMON + program], capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])
