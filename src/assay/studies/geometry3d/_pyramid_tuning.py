"""How the baseline of the pyramid's study was tuned: `python -m assay.studies.geometry3d._pyramid_tuning [CASE ...]`.

Stride, smoothness and steps of one level with refinement (convexAdam), on cases that no trial sees. The pyramid's own
smoothness and steps go through the same grid, so that one can tell what tuning alone is worth; the study's main arm
keeps the released ones. Prints TRE (mm) and CPU seconds, case by case, and then the means, best first.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import torch

from assay.data.volumes.brain_shift import brain_shift_pair
from assay.data.volumes.mni import mni_brain
from assay.geometry.warp import sample
from assay.methods.geometry3d._pyramid_search import smooth_box
from assay.methods.geometry3d.correlation_pyramid import FINE, mind_ssc, pool, refine_field, register, replicate_outside
from assay.metrics.registration import target_registration_error

CASES = (1000, 1001)
SMOOTH = (0.6, 1.25, 2.5)
STEPS = {"one level, stride 5": (80, 160), "pyramid": (20, 80)}
NAMES = ("pyramid", *(f"one level, stride {g}" for g in (3, 4, 5, 6)))
ONE_LEVEL = {"chain": "deformable", "average": False}


def main(cases: tuple[int, ...] = CASES, names: tuple[str, ...] = NAMES) -> None:
    torch.set_num_threads(1)
    brain = mni_brain(2)
    found: dict[tuple[str, int, float, str], list[tuple[float, float]]] = {}
    for case in cases:
        pair = brain_shift_pair(brain, np.random.default_rng(case), resection=case % 2 == 0)
        volumes = [torch.from_numpy(np.array(v)) for v in (pair.fixed, pair.moving, pair.mask_fixed, pair.mask_moving)]
        fixed, moving, mask_fixed, mask_moving = volumes
        points = torch.from_numpy(pair.landmarks).float().T[None, :, :, None, None]
        fine = [
            pool(mind_ssc(replicate_outside(v[None, None], m[None, None]), 2, 2), FINE)
            for v, m in ((fixed, mask_fixed), (moving, mask_moving))
        ]

        def note(key: tuple[str, int, float, str], u: torch.Tensor, seconds: float, pair=pair, points=points) -> None:
            moved = (points + sample(u, points))[0, :, :, 0, 0].T.numpy()
            tre = float(target_registration_error(moved, pair.targets, pair.spacing).mean())
            found.setdefault(key, []).append((tre, seconds))
            print(f"{tre:6.3f} mm  {seconds:5.1f} s ", *key, flush=True)

        for name in names:
            start = time.process_time()
            settings = {} if name == "pyramid" else {**ONE_LEVEL, "strides": (int(name[-1]),)}
            u = register(
                fixed, moving, mask_fixed=mask_fixed, mask_moving=mask_moving, q=4, radius=2, dilation=2, refine=0,
                **settings,
            ).u[None]  # fmt: skip
            first = time.process_time() - start
            note((name, 0, 0.0, ""), u, first)
            for smooth in SMOOTH:
                for steps in STEPS.get(name, (80,)):
                    start = time.process_time()
                    refined = refine_field(u, *fine, steps, smooth, 15.0 if name == "pyramid" else 12.0, False)
                    seconds = first + time.process_time() - start
                    note((name, steps, smooth, "rough"), refined, seconds)
                    note(
                        (name, steps, smooth, "smoothed"), smooth_box(smooth_box(smooth_box(refined, 5), 5), 5), seconds
                    )
    for key, values in sorted(found.items(), key=lambda item: float(np.mean(item[1], 0)[0])):
        mean, seconds = np.mean(values, 0)
        print(f"mean {mean:6.3f} mm  {seconds:5.1f} s ", *key)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or CASES)
