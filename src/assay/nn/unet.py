"""A small U-Net: residual blocks, an optional time embedding, condition channels, and room for a control branch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_features(t: Tensor, width: int) -> Tensor:
    """Cosines and sines of a time step `(B,)` at `width / 2` frequencies from 1 towards 1e-4: `(B, width)`.

    Raises:
        ValueError: an odd width.
    """
    if width % 2:
        raise ValueError(f"the width of time features must be even, got {width}")
    half = width // 2
    speed = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device) / half)
    angle = t.float()[:, None] * speed
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@dataclass(frozen=True)
class Encoded:
    """What the encoder half leaves for the decoder half.

    Attributes:
        skips: output of each level, finest first, `(B, widths[l], ceil(H / 2^l), ceil(W / 2^l))`.
        middle: output of the innermost block, shaped as the last skip.
        time: embedding `(B, time_width)`, None for a network without time.
    """

    skips: tuple[Tensor, ...]
    middle: Tensor
    time: Tensor | None

    def plus(self, control: Sequence[Tensor]) -> Encoded:
        """With the outputs of a control branch added: one tensor for each skip and one for the middle.

        Raises:
            ValueError: another number of tensors.
        """
        if len(control) != len(self.skips) + 1:
            raise ValueError(f"expected {len(self.skips) + 1} control tensors, got {len(control)}")
        skips = tuple(skip + added for skip, added in zip(self.skips, control, strict=False))
        return replace(self, skips=skips, middle=self.middle + control[-1])


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, time added, norm, SiLU, convolution; around it a skip (1x1 where the width changes)."""

    def __init__(self, inputs: int, outputs: int, time_width: int = 0) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(time_width, outputs) if time_width else None
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class UNet(nn.Module):
    """Encoder, middle block and decoder with a skip at every level; sides of any length.

    Args:
        in_channels: of the picture that is denoised or mapped.
        out_channels: of the output.
        widths: channels of each level, finest first; each level halves the resolution.
        blocks: residual blocks of a level, on each side.
        time_width: channels of the time embedding; 0 for a network without time.
        condition_channels: of a picture of the same size that is stacked onto the input.

    Shapes:
        `(B, in_channels, H, W)`, time `(B,)`, condition `(B, condition_channels, H, W)` -> `(B, out_channels, H, W)`.

    Raises:
        ValueError: no widths, or no blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (16, 32, 48),
        blocks: int = 1,
        time_width: int = 64,
        condition_channels: int = 0,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1:
            raise ValueError(f"expected widths and at least one block, got {tuple(widths)} and {blocks}")
        self.config = {
            "in_channels": in_channels, "out_channels": out_channels, "widths": list(widths), "blocks": blocks,
            "time_width": time_width, "condition_channels": condition_channels,
        }  # fmt: skip
        self.time_width = time_width
        self.time = (
            nn.Sequential(nn.Linear(time_width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
            if time_width
            else None
        )
        self.enter = nn.Conv2d(in_channels + condition_channels, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        inputs = widths[0]
        for level, width in enumerate(widths):
            self.down.append(
                nn.ModuleList(ResidualBlock(inputs if b == 0 else width, width, time_width) for b in range(blocks))
            )
            self.up.append(
                nn.ModuleList(ResidualBlock(2 * width if b == 0 else width, width, time_width) for b in range(blocks))
            )
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(widths[level + 1], width, 3, padding=1))
            inputs = width
        self.middle = ResidualBlock(widths[-1], widths[-1], time_width)
        self.leave = nn.Sequential(_norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], out_channels, 3, padding=1))
        nn.init.zeros_(self.leave[2].weight)
        nn.init.zeros_(self.leave[2].bias)

    def embed(self, t: Tensor | None) -> Tensor | None:
        """Embedding of time steps `(B,)`, None for a network without time.

        Raises:
            ValueError: a time is missing, or given to a network without time.
        """
        if (t is None) != (self.time is None):
            raise ValueError("a network with a time embedding needs a time, and one without takes none")
        return None if t is None else self.time(timestep_features(t, self.time_width).to(self.enter.weight.dtype))

    def encode(
        self, x: Tensor, t: Tensor | None = None, condition: Tensor | None = None, hint: Tensor | None = None
    ) -> Encoded:
        """The encoder half; `hint` is added after the first convolution (a control branch puts its picture there)."""
        time = self.embed(t)
        h = self.enter(x if condition is None else torch.cat([x, condition], dim=1))
        h = h if hint is None else h + hint
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, time)
            skips.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        return Encoded(tuple(skips), self.middle(h, time), time)

    def decode(self, encoded: Encoded) -> Tensor:
        """The decoder half."""
        h = encoded.middle
        for level in reversed(range(len(self.up))):
            skip = encoded.skips[level]
            if level < len(self.grow):
                h = self.grow[level](F.interpolate(h, size=skip.shape[-2:], mode="nearest"))
            h = torch.cat([h, skip], dim=1)
            for block in self.up[level]:
                h = block(h, encoded.time)
        return self.leave(h)

    def forward(
        self,
        x: Tensor,
        t: Tensor | None = None,
        condition: Tensor | None = None,
        control: Sequence[Tensor] | None = None,
    ) -> Tensor:
        encoded = self.encode(x, t, condition)
        return self.decode(encoded if control is None else encoded.plus(control))


def _norm(channels: int) -> nn.GroupNorm:
    groups = next(g for g in (8, 6, 4, 3, 2, 1) if channels % g == 0)
    return nn.GroupNorm(groups, channels)
