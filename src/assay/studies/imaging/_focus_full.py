"""GMFF at full scale: photographs from folders, Stable Diffusion 2.1 base with a control branch as stage 2.

FOLDER/train/**    sharp photographs to train on (such as DUTS-TR-Image), any picture format
FOLDER/test/**     sharp photographs to judge on
FOLDER/model/      the diffusion model in diffusers' layout; fetched from the hub when it is not there
FOLDER/real/       optional: real stacks named lytro-NN-A.jpg, lytro-NN-B.jpg, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assay.data.focus_stack import FocusStack, Take
from assay.data.image.folder import IMAGE_SUFFIXES
from assay.errors import InputError
from assay.methods.imaging.focus_fusion import Restorer, fit_denoiser
from assay.studies.imaging._focus_data import restoration_batches
from assay.studies.imaging._focus_models import Sizes

MODEL = "stabilityai/stable-diffusion-2-1-base"


def photographs_in(folder: Path) -> list[Path]:
    """Pictures below a folder, sorted.

    Raises:
        InputError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of sharp photographs")
    root = folder.resolve()
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES and file.resolve().is_relative_to(root)
    ]
    if not found:
        raise InputError(f"{folder}: no pictures in it; expected {', '.join(IMAGE_SUFFIXES)}")
    return found


def folder_cropper(folder: Path) -> Take:
    """Square crops of the photographs of a folder; each is first made smaller by up to 2, or larger where too small."""
    from PIL import Image

    files = photographs_in(folder)

    def take(rng: np.random.Generator, side: int) -> np.ndarray:
        file = files[int(rng.integers(len(files)))]
        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise InputError(f"{file}: unreadable image ({error})") from error
        window = side * float(rng.uniform(1, 2))
        window = min(window, *image.size)
        left, top = (float(rng.uniform(0, length - window)) for length in image.size)
        box = (left, top, left + window, top + window)
        part = image.resize((side, side), Image.Resampling.BILINEAR, box=box)
        return np.asarray(part, dtype=np.float32) / 255

    return take


def train_latent_restorer(
    model: str | Path, fused: Sequence[Tensor], stacks: Sequence[FocusStack], sizes: Sizes, seed: int, device: str,
    lr: float,
) -> Restorer:  # fmt: skip
    """The control branch of a frozen latent diffusion model, trained on pairs of fused picture and truth."""
    restorer = Restorer.from_pretrained(model)
    restorer.denoiser.to(device)
    restorer.codec.vae.to(device)
    updates, batch, side = sizes.restore
    crops = restoration_batches(fused, stacks, np.random.default_rng([seed, 2]), batch, side)

    def draw() -> tuple[Tensor, ...]:
        return tuple(part.to(device) for part in crops())

    fit_denoiser(restorer.denoiser, restorer.codec, draw, updates, torch.Generator().manual_seed(seed), lr)
    return restorer
