"""Networks of GMFF's study: their sizes, their training on stacks, and small ones as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from assay.data.focus_stack import FocusStack
from assay.errors import InputError
from assay.methods.imaging.focus_fusion import (
    PixelCodec,
    PixelDenoiser,
    Regressor,
    Restorer,
    StackFusion,
    fit_denoiser,
    fit_fusion,
    fit_regressor,
    lacking,
)
from assay.nn.unet import UNet
from assay.studies.imaging._focus_data import fusion_batches, restoration_batches

SHIPPED = Path(__file__).parent / "_focus_weights"
PAPER = "2512.21495"


@dataclass(frozen=True)
class Sizes:
    """Networks and training.

    Attributes:
        width: of the stack network.
        widths: of the U-Nets of stage 2 and of the regression.
        stacks, size: how many training stacks, and their side in pixels.
        fusion: updates, batch and side of the crops of stage 1.
        restore: the same of stage 2 and of the regression.
    """

    width: int = 12
    widths: tuple[int, ...] = (12, 24, 36)
    stacks: int = 40
    size: int = 96
    fusion: tuple[int, int, int] = (100, 4, 48)
    restore: tuple[int, int, int] = (200, 12, 48)


def train_fusion(stacks: Sequence[FocusStack], sizes: Sizes, rng: np.random.Generator, lr: float) -> StackFusion:
    """Stage 1."""
    updates, batch, side = sizes.fusion
    model = StackFusion(width=sizes.width)
    fit_fusion(model, fusion_batches(stacks, rng, batch, side), updates, lr)
    return model.eval()


@torch.no_grad()
def fuse_all(model: StackFusion, stacks: Sequence[FocusStack]) -> list[Tensor]:
    """Fused picture of each stack."""
    return [model(stack.frames[None]).image[0] for stack in stacks]


def train_restorer(
    fused: Sequence[Tensor], stacks: Sequence[FocusStack], sizes: Sizes, seed: int, lr: float
) -> Restorer:
    """Stage 2 in pixels."""
    updates, batch, side = sizes.restore
    codec = PixelCodec()
    spread = lacking(codec, torch.stack(list(fused)), torch.stack([stack.truth for stack in stacks]))
    denoiser = PixelDenoiser(UNet(3, 3, sizes.widths, time_width=32, condition_channels=3), spread)
    draw = restoration_batches(fused, stacks, np.random.default_rng([seed, 2]), batch, side)
    fit_denoiser(denoiser, codec, draw, updates, torch.Generator().manual_seed(seed), lr)
    return Restorer(denoiser.eval(), codec)


def train_regressor(
    fused: Sequence[Tensor], stacks: Sequence[FocusStack], sizes: Sizes, seed: int, lr: float
) -> Regressor:
    """The regression, on the same crops in the same order as stage 2."""
    updates, batch, side = sizes.restore
    model = Regressor(UNet(3, 3, sizes.widths, time_width=0))
    fit_regressor(model, restoration_batches(fused, stacks, np.random.default_rng([seed, 2]), batch, side), updates, lr)
    return model.eval()


def save(module: torch.nn.Module, config: dict[str, Any], file: Path) -> None:
    """Weights as half-precision safetensors, with what is needed to build the network again."""
    state = {name: value.detach().half().contiguous() for name, value in module.state_dict().items()}
    save_file(state, str(file), {"paper": PAPER, "config": json.dumps(config)})


def load_fusion(file: Path = SHIPPED / "stage1.safetensors") -> StackFusion:
    """A stack network that `save` wrote; by default the one that ships.

    Raises:
        InputError: not such a file.
    """
    config, state = _read(file, "width")
    return _filled(lambda: StackFusion(**config), state, file)


def load_restorer(file: Path = SHIPPED / "restorer.safetensors") -> Restorer:
    """A small restorer that `save` wrote; by default the one that ships.

    Raises:
        InputError: not such a file.
    """
    config, state = _read(file, "widths")
    return Restorer(_filled(lambda: PixelDenoiser(UNet(**config)), state, file))


def _filled(build: Any, state: dict[str, Tensor], file: Path) -> Any:
    try:
        module = build()
        module.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{file}: these weights do not fit the network ({str(error).splitlines()[0]})") from error
    return module.eval()


def _read(file: Path, needed: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not file.is_file():
        raise InputError(f"no such file: {file}")
    try:
        with safe_open(str(file), "pt") as held:
            meta = held.metadata() or {}
            state = {name: held.get_tensor(name).float() for name in held.keys()}  # noqa: SIM118 (no mapping)
        config = json.loads(meta.get("config", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file} is no safetensors file of this paper ({error})") from error
    if meta.get("paper") != PAPER or needed not in config:
        raise InputError(f"{file} does not hold the expected network of {PAPER}")
    return config, state
