"""The stack network of stage 1: shared encoder, attention across the frames, soft weights, refinement.

Nothing in it depends on the order of the frames or on picture-wide statistics, so tiles with a halo of `HALO` pixels
give what the whole picture gives.

Source: 2512.21495
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HALO = 72  # pixels, a multiple of 8; reach of StackFusion with three levels and two rounds is 69
POSITIONS = 1 << 17  # tokens that attend at a time when no gradients are wanted: bounds the memory
GAIN = 8.0  # brings local contrast to the order of 1
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Fusion:
    """Fused picture and where it came from.

    Attributes:
        image: `([B,] 3, H, W)`, a convex combination of the frames at every pixel.
        weights: `([B,] N, H, W)`, not negative, sum 1 over N.
        logits: what the weights were made from, shaped alike.
    """

    image: Tensor
    weights: Tensor
    logits: Tensor


def luma(images: Tensor) -> Tensor:
    """Brightness `(..., H, W)` of colour pictures `(..., 3, H, W)`."""
    return (images * images.new_tensor(LUMA)[:, None, None]).sum(-3)


def combine(stack: Tensor, weights: Tensor) -> Tensor:
    """`sum_n w_n I_n` of frames `(..., N, 3, H, W)` and weights `(..., N, H, W)`."""
    return (stack * weights.unsqueeze(-3)).sum(-4)


class StackAttention(nn.Module):
    """At every position the N frames attend to one another: one head, no positional code, residual.

    Keys and values are the frames' tokens and the means of their 3x3 neighbourhoods.

    Shapes: `(B, N, C, H, W)` -> the same.
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, width)
        self.own, self.around = nn.Linear(channels, 2 * width), nn.Linear(channels, 2 * width)
        self.out = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, _, height, width = x.shape
        mean = F.avg_pool2d(x.flatten(0, 1), 3, 1, 1, count_include_pad=False).unflatten(0, (batch, frames))
        tokens, means = x.permute(0, 3, 4, 1, 2), mean.permute(0, 3, 4, 1, 2)  # (B, H, W, N, C)
        rows = height if torch.is_grad_enabled() else max(1, POSITIONS // (batch * width * frames))
        parts = [self._attend(a, b) for a, b in zip(tokens.split(rows, 1), means.split(rows, 1), strict=True)]
        return x + torch.cat(parts, dim=1).permute(0, 3, 4, 1, 2)

    def _attend(self, tokens: Tensor, means: Tensor) -> Tensor:
        tokens, means = self.norm(tokens), self.norm(means)
        query = self.query(tokens)
        key, value = torch.cat([self.own(tokens), self.around(means)], dim=-2).chunk(2, dim=-1)
        share = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return self.out(share @ value)


class StackFusion(nn.Module):
    """Stage 1: from a focus stack of any length to soft weights and the fused picture.

    1. features of each frame's local contrast at strides 2, 4, 8; attention across frames at each;
    2. a light decoder gives a focus logit per frame and pixel, `w = softmax_n(f_n / T)`, `J = sum_n w_n I_n`;
    3. `rounds` times: |I_n - J| and the frame's gradient are fed back and correct the logits.

    T is 1 in training and `temperature` otherwise. A constant added to all frames adds itself to the result.

    Args:
        width: channels at stride 2; 2 and 3 times as many at strides 4 and 8.
        levels: of the encoder.
        rounds: of refinement.
        temperature: T outside of training.

    Shapes:
        `(B, N, 3, H, W)` in [0, 1] -> `Fusion`.

    Raises:
        ValueError: fewer than two frames, or another shape.
    """

    def __init__(self, width: int = 16, levels: int = 3, rounds: int = 2, temperature: float = 0.3) -> None:
        super().__init__()
        self.config = {"width": width, "levels": levels, "rounds": rounds, "temperature": temperature}
        self.rounds, self.temperature, self.multiple = rounds, temperature, 2**levels
        widths = [width * (level + 1) for level in range(levels)]
        inputs = [2, *widths[:-1]]
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(inputs, widths, strict=True))
        self.mix = nn.ModuleList(nn.Conv2d(b, b, 3, 1, 1) for b in widths)
        self.attend = nn.ModuleList(StackAttention(b) for b in widths)
        self.grow = nn.ModuleList(
            nn.Conv2d(widths[level + 1] + widths[level], widths[level], 3, 1, 1) for level in range(levels - 1)
        )
        self.head = nn.Sequential(nn.Conv2d(width + 2, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 1, 3, 1, 1))
        self.refine = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU(), nn.Conv2d(8, 1, 3, 1, 1)
        )  # fmt: skip

    def forward(self, stack: Tensor) -> Fusion:
        if stack.ndim != 5 or stack.shape[1] < 2 or stack.shape[2] != 3:
            raise ValueError(f"expected stacks (B, N, 3, H, W) of at least two frames, got {tuple(stack.shape)}")
        grey = luma(stack)
        logits = self._logits(grey)
        temperature = 1.0 if self.training else self.temperature
        slope = GAIN * _gradient(grey)
        weights = (logits / temperature).softmax(1)
        for _ in range(self.rounds):
            apart = GAIN * (stack - combine(stack, weights)[:, None]).abs().mean(2)
            clues = torch.stack([logits, apart, slope], dim=2).flatten(0, 1)
            logits = logits + _by_frame(self.refine, clues)[:, 0].unflatten(0, logits.shape[:2])
            weights = (logits / temperature).softmax(1)
        return Fusion(combine(stack, weights), weights, logits)

    def _logits(self, grey: Tensor) -> Tensor:
        """Focus logits `(B, N, H, W)` from brightness; means are taken out before anything else."""
        batch, frames, height, width = grey.shape
        local = grey - F.avg_pool2d(grey, 9, 1, 4, count_include_pad=False)
        clues = GAIN * torch.stack([local, grey - grey.mean(1, keepdim=True)], dim=2).flatten(0, 1)
        pad = (-width % self.multiple, -height % self.multiple)
        x = clues = F.pad(clues, (0, pad[0], 0, pad[1]), mode="replicate")
        levels = []
        for shrink, mix, attend in zip(self.shrink, self.mix, self.attend, strict=True):
            x = F.silu(shrink(x))
            x = x + F.silu(mix(x))
            x = attend(x.unflatten(0, (batch, frames))).flatten(0, 1)
            levels.append(x)
        for level in reversed(range(len(self.grow))):
            x = F.silu(self.grow[level](torch.cat([_double(x), levels[level]], dim=1)))
        logits = _by_frame(lambda a, b: self.head(torch.cat([_double(a), b], dim=1)), x, clues)
        logits = logits[:, 0, :height, :width]
        return logits.unflatten(0, (batch, frames))


def _by_frame(net: Callable[..., Tensor], *parts: Tensor) -> Tensor:
    """Frame after frame when no gradients are wanted: full-size features of all frames are never held at once."""
    if torch.is_grad_enabled():
        return net(*parts)
    return torch.cat([net(*one) for one in zip(*(part.split(1) for part in parts), strict=True)])


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _gradient(grey: Tensor) -> Tensor:
    """Sum of absolute central differences, `(B, N, H, W)`."""
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    dx = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    dy = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return 0.5 * (dx.abs() + dy.abs())
