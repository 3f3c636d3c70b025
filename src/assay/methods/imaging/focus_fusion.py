"""GMFF: merge a focus stack softly, then let a diffusion model redraw what no frame shows in focus.

    stage 1    J = sum_n w_n I_n          deterministic, soft weights, any number and order of frames
    stage 2    X ~ p(x | J)               diffusion under control of J
    result     J + m (X - J)              m: no frame in focus, or at a depth edge; 1 everywhere without trust

Stage 1 in the public descriptions uses MobileNetV3 features; here the encoder is a small one of its own. Stage 2
there is Stable Diffusion 2.1 with a control branch (`Restorer.from_pretrained`); the mask m and the start from a
noised J are this package's choices.

Source: 2512.21495
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.methods.imaging._focus_measures import (
    Measure,
    as_stack,
    classical_fuse,
    depth_edges,
    focus_measure,
    missing_focus_mask,
    one_hot,
)
from assay.methods.imaging._focus_network import Fusion, StackAttention, StackFusion, combine, luma
from assay.methods.imaging._focus_register import misregistration, register
from assay.methods.imaging._focus_restore import (
    ControlledDenoiser,
    Denoiser,
    DiffusersCodec,
    LatentDenoiser,
    PixelCodec,
    PixelDenoiser,
    Restorer,
    Start,
    denoising_loss,
    lacking,
    low_band,
    parameters_that_train,
    samples,
)
from assay.methods.imaging._focus_tiles import Tile, fuse_tiles
from assay.metrics.image import ssim
from assay.nn.control import ControlBranch
from assay.nn.unet import UNet

__all__ = [
    "GMFF", "ControlBranch", "ControlledDenoiser", "Denoiser", "DiffusersCodec", "Fusion", "LatentDenoiser", "Measure",
    "Misregistered", "PixelCodec", "PixelDenoiser", "Regressor", "Restorer", "Result", "StackAttention", "StackFusion",
    "Tile", "as_stack", "classical_fuse", "combine", "denoising_loss", "depth_edges", "fit_denoiser", "fit_fusion",
    "fit_regressor", "focus_measure", "fuse_tiles", "fusion_loss", "lacking", "low_band", "luma", "misregistration",
    "missing_focus_mask", "one_hot", "parameters_that_train", "register", "samples", "trust_mask",
]  # fmt: skip

Draw = Callable[[], tuple[Tensor, ...]]


class Misregistered(UserWarning):
    """The frames of a stack seem to be shifted against one another."""


@dataclass(frozen=True)
class Result:
    """What comes of a stack.

    Attributes:
        image: the result `(3, H, W)`.
        fused: stage 1 alone `(3, H, W)`.
        mask: share of each pixel that stage 2 made, from 0 to 1, `(H, W)`.
        weights: of stage 1, `(N, H, W)`.
        missing: where no frame is in focus, bool `(H, W)`.
    """

    image: Tensor
    fused: Tensor
    mask: Tensor
    weights: Tensor
    missing: Tensor

    @property
    def depth(self) -> Tensor:
        """Mean index of the frames by their weights, `(H, W)`; a depth map where frames are in order of focus."""
        return (self.weights * torch.arange(len(self.weights)).to(self.weights)[:, None, None]).sum(0)


def trust_mask(missing: Tensor, edges: Tensor | None = None, reach: int = 5, feather: int = 7) -> Tensor:
    """Where the sample may replace the fused picture, `(H, W)` from 0 to 1 with a soft rim.

    Args:
        missing: where no frame is in focus, bool `(H, W)`.
        edges: pixels of depth edges, bool `(H, W)`; None for none.
        reach: pixels around a depth edge that count.
        feather: width of the rim in pixels, odd.
    """
    hard = missing[None].float()
    if edges is not None:
        hard = torch.maximum(hard, F.max_pool2d(edges[None].float(), 2 * reach + 1, 1, reach))
    return F.avg_pool2d(hard, feather, 1, feather // 2, count_include_pad=False)[0]


class GMFF:
    """The cascade.

    Args:
        fusion: stage 1.
        restorer: stage 2; None stops after stage 1.
        threshold: of the missing-focus mask.
        reach: pixels around depth edges that stage 2 may touch; -1 keeps it away from them.
        trust: confine stage 2 to the mask; otherwise it redraws everything.
        strength, steps: of sampling.
    """

    def __init__(
        self,
        fusion: StackFusion,
        restorer: Restorer | None,
        *,
        threshold: float = 0.2,
        reach: int = 5,
        trust: bool = True,
        strength: float = 0.6,
        steps: int = 20,
    ) -> None:
        self.fusion, self.restorer = fusion.eval(), restorer
        self.threshold, self.reach, self.trust = threshold, reach, trust
        self.strength, self.steps = strength, steps

    @torch.no_grad()
    def __call__(self, stack: Tensor | Sequence[Tensor], seed: int = 0, start: Start = "image") -> Result:
        """Fuse and restore frames `(N, 3, H, W)` in [0, 1].

        Raises:
            ValueError: a stack that `as_stack` refuses.

        Warns:
            Misregistered: neighbouring frames seem shifted by more than a pixel.
        """
        stack = as_stack(stack)
        shift = misregistration(stack)
        if shift > 1:
            warnings.warn(f"frames seem shifted by {shift:.1f} pixels; align them first", Misregistered, stacklevel=2)
        fused = self.fusion(stack[None])
        image, weights = fused.image[0], fused.weights[0]
        missing = missing_focus_mask(stack, self.threshold)
        if self.restorer is None:
            return Result(image, image, torch.zeros_like(image[0]), weights, missing)
        edges = depth_edges(weights) if self.reach >= 0 else None
        mask = trust_mask(missing, edges, self.reach) if self.trust else torch.ones_like(image[0])
        made = self.restorer(image, mask, self.steps, self.strength, seed, start)
        return Result(made, image, mask, weights, missing)


class Regressor(torch.nn.Module):
    """The same U-Net without noise and time, trained to give the truth at once: J -> J + U-Net(J).

    Args:
        unet: 3 -> 3 channels, `time_width=0`.
    """

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, image: Tensor) -> Tensor:
        return image + 0.1 * self.unet(2 * image - 1)


def fusion_loss(found: Fusion, truth: Tensor, nearest: Tensor | None = None) -> Tensor:
    """`L1 + 0.2 (1 - SSIM) + 0.1 L1 of gradients + 0.05 CE(w, frame of least blur)`.

    Args:
        truth: `(B, 3, H, W)`.
        nearest: index of the frame of least blur `(B, H, W)`; None leaves that term out.
    """
    image = found.image
    loss = (image - truth).abs().mean() + 0.2 * (1 - ssim(image, truth).mean())
    for axis in (-1, -2):
        loss = loss + 0.1 * (image.diff(dim=axis) - truth.diff(dim=axis)).abs().mean()
    return loss if nearest is None else loss + 0.05 * F.cross_entropy(found.logits, nearest)


def fit_fusion(model: StackFusion, draw: Draw, updates: int, lr: float = 2e-3) -> list[float]:
    """Train stage 1.

    Args:
        draw: gives a batch: stacks `(B, N, 3, H, W)`, truth `(B, 3, H, W)`, frame of least blur `(B, H, W)`.

    Returns:
        the loss of each update.
    """

    def loss() -> Tensor:
        stack, truth, nearest = draw()
        return fusion_loss(model(stack), truth, nearest)

    return _descend(model, list(model.parameters()), loss, updates, lr)


def fit_denoiser(
    denoiser: Denoiser, codec: PixelCodec | DiffusersCodec, draw: Draw, updates: int, generator: torch.Generator,
    lr: float = 2e-3,
) -> list[float]:  # fmt: skip
    """Train stage 2 (what of it asks for gradients) on pairs of fused picture and truth, `(B, 3, H, W)` each."""

    def loss() -> Tensor:
        fused, truth = draw()
        with torch.no_grad():
            z, condition = codec.encode(truth), codec.encode(fused)
        return denoising_loss(denoiser, z, condition, generator)

    return _descend(denoiser, list(parameters_that_train(denoiser)), loss, updates, lr)


def fit_regressor(model: Regressor, draw: Draw, updates: int, lr: float = 2e-3) -> list[float]:
    """Train the regression of truth on the fused picture by L1."""

    def loss() -> Tensor:
        fused, truth = draw()
        return (model(fused) - truth).abs().mean()

    return _descend(model, list(model.parameters()), loss, updates, lr)


def _descend(
    module: torch.nn.Module, parameters: list[torch.nn.Parameter], loss: Callable[[], Tensor], updates: int, lr: float
) -> list[float]:
    """AdamW with a one-cycle rate and clipped gradients."""
    module.train()
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=max(updates, 2), pct_start=0.2)
    history = []
    for _ in range(updates):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        rate.step()
        history.append(float(value.detach()))
    module.eval()
    return history
