"""Train the two small networks of GMFF and write them as files: `python -m assay.studies.imaging._focus_train OUT`.

Stacks are rendered from the photographs that the study trains on, or from those of `--photos FOLDER`. What it writes is
what `assay apply 2512.21495 --fusion OUT/stage1.safetensors --restore OUT` takes; the networks that ship were made so.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from assay.data.photos import cropper
from assay.studies.imaging._focus_data import TRAIN, layers_from, training_stacks
from assay.studies.imaging._focus_full import folder_cropper
from assay.studies.imaging._focus_models import Sizes, fuse_all, save, train_fusion, train_restorer
from assay.studies.imaging.focus_fusion import RATE_FUSION, RATE_RESTORE


def main(given: list[str]) -> int:
    """Train and write."""
    words = argparse.ArgumentParser(description="Train GMFF's small networks.")
    words.add_argument("out", type=Path, help="folder to write stage1.safetensors and restorer.safetensors into")
    words.add_argument("--photos", type=Path, help="folder of sharp photographs; default: those of the libraries")
    words.add_argument("--stacks", type=int, default=60, help="training stacks to render")
    words.add_argument("--updates", type=int, default=200, help="of stage 1; stage 2 has one and a half times as many")
    words.add_argument("--seed", type=int, default=0)
    options = words.parse_args(given)
    take = folder_cropper(options.photos) if options.photos else cropper(TRAIN)
    sizes = Sizes(stacks=options.stacks, fusion=(options.updates, 4, 64))
    sizes = replace(sizes, restore=(options.updates * 3 // 2, 12, 48))
    rng = np.random.default_rng([2512_21495, 99, options.seed])
    torch.manual_seed(options.seed)
    stacks = training_stacks(layers_from(take), rng, sizes.size, sizes.stacks)
    fusion = train_fusion(stacks, sizes, rng, RATE_FUSION)
    restorer = train_restorer(fuse_all(fusion, stacks), stacks, sizes, options.seed, RATE_RESTORE)
    options.out.mkdir(parents=True, exist_ok=True)
    save(fusion, fusion.config, options.out / "stage1.safetensors")
    save(restorer.denoiser, restorer.denoiser.unet.config, options.out / "restorer.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
