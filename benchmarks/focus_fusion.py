"""Fusing ten photographs of 12 megapixels: memory and time of a process of its own; tiles beside the classical rule.

The process reads JPEG files, fuses them with the network that ships and writes the picture, the maps and the report.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from assay.data.focus_stack import blurred
from assay.data.photos import photo
from assay.methods.imaging.focus_fusion import fuse_tiles
from assay.studies.imaging._focus_models import load_fusion
from benchmarks._measure import one_thread, ratio, row, side_by_side

FRAMES, HEIGHT, WIDTH = 10, 3000, 4000
PROCESS = """
import json, resource, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from assay.studies.imaging.focus_fusion import apply
apply(Path(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.process_time()]))
"""


def rows() -> list[dict[str, Any]]:
    """Memory and time of the whole, error of the result, and the network's time beside the classical rule's."""
    with tempfile.TemporaryDirectory() as held, one_thread():
        folder = Path(held)
        truth, best = _write_stack(folder / "stack")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        done = subprocess.run(
            [sys.executable, "-c", PROCESS, str(folder / "stack"), str(folder / "fused.png")],
            capture_output=True, text=True, check=True, env=os.environ | threads,
        )  # fmt: skip
        peak, seconds = json.loads(done.stdout.splitlines()[-1])
        apart = np.abs(np.asarray(Image.open(folder / "fused.png"))[::5, ::5].astype(float) - truth[::5, ::5]).mean()
        what = f"{FRAMES} photographs of {HEIGHT * WIDTH / 1e6:.0f} megapixels"
        return [
            row(f"{what}: peak memory of the process", peak, "GiB", at_most=2),
            row(f"{what}: processor time, one thread, from files to files", seconds, "s", at_most=240),
            row(f"{what}: error over that of the JPEG frames where they are sharp", apart / best, "times", at_most=1.3),
            row(
                "4 frames of 640x640: time over the sum-modified Laplacian with a guided filter, same tiles",
                _beside_classical(), "times", at_most=15,
            ),
        ]  # fmt: skip


def _write_stack(folder: Path) -> tuple[np.ndarray, float]:
    """A photograph repeated to size, sharp in another band of each frame; and what JPEG costs in those bands."""
    folder.mkdir()
    whole = photo("china")
    repeats = -(-HEIGHT // whole.shape[0]), -(-WIDTH // whole.shape[1])
    truth = np.tile(whole, (*repeats, 1))[:HEIGHT, :WIDTH]
    soft = blurred(torch.from_numpy(whole.astype(np.float32)).permute(2, 0, 1), 9).permute(1, 2, 0)
    soft = np.tile(soft.numpy().round().astype(np.uint8), (*repeats, 1))[:HEIGHT, :WIDTH]
    band, lost = WIDTH // FRAMES, []
    for index in range(FRAMES):
        frame = soft.copy()
        frame[:, index * band : (index + 1) * band] = truth[:, index * band : (index + 1) * band]
        file = folder / f"{index}.jpg"
        Image.fromarray(frame).save(file, quality=95)
        here = np.s_[::5, index * band : (index + 1) * band]
        lost.append(np.abs(np.asarray(Image.open(file))[here].astype(float) - truth[here]).mean())
    return truth, float(np.mean(lost))


def _beside_classical() -> float:
    g = torch.Generator().manual_seed(0)
    stack, network = torch.rand(4, 3, 640, 640, generator=g), load_fusion()

    def read(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        return stack[..., top:bottom, left:right]

    def ours() -> None:
        list(fuse_tiles(read, 640, 640, network, noise=0.01))

    def theirs() -> None:
        list(fuse_tiles(read, 640, 640, None, noise=0.01))

    return ratio(side_by_side(ours, theirs, repeats=3, warm=0, clock=time.process_time))
