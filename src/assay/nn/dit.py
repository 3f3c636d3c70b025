"""Diffusion transformer: image and text tokens in joint attention, modulated by the time (adaLN, zero-initialised)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.rope import grid_positions, rotary_angles, rotate

Rotary = tuple[Tensor, Tensor] | None
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def patchify(images: Tensor, patch: int) -> Tensor:
    """Images `(B, C, H, W)` as rows of patches `(B, H W / patch^2, C patch^2)`, row by row."""
    b, c, h, w = images.shape
    if h % patch or w % patch:
        raise ValueError(f"image {h}x{w} is not a multiple of the patch {patch}")
    cells = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return cells.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `patchify` for a grid of `(h, w)` patches."""
    b, _, entries = tokens.shape
    cells = tokens.reshape(b, *grid, entries // patch**2, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(b, entries // patch**2, grid[0] * patch, grid[1] * patch)


def time_features(t: Tensor, width: int, scale: float = 1000.0) -> Tensor:
    """Sines and cosines of a time `(B,)` in [0, 1] at `width / 2` frequencies from 1 to 1e-4: `(B, width)`."""
    speed = torch.exp(-math.log(10_000.0) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = scale * t.float()[:, None] * speed
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@dataclass(frozen=True)
class Modulation:
    """Shift, scale and gate of a stream's attention and MLP, `(B, 1, width)` each."""

    shift1: Tensor
    scale1: Tensor
    gate1: Tensor
    shift2: Tensor
    scale2: Tensor
    gate2: Tensor


class Stream(nn.Module):
    """What one kind of token passes through in a block: modulation, projections, output, MLP.

    Args:
        width: channels of a token.
        heads: attention heads; `width / heads` channels each.
        mlp_ratio: hidden width of the MLP over `width`.

    Raises:
        ValueError: `width` is not a multiple of `heads`.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        hidden = int(width * mlp_ratio)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def modulate(self, vector: Tensor) -> Modulation:
        """The six parts of the modulation by a vector `(B, width)`; all zero at the start."""
        return Modulation(*self.modulation(vector)[:, None].chunk(6, dim=-1))

    def split(self, x: Tensor) -> Tensor:
        """`(B, N, width)` as heads `(B, H, N, width / H)`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, x: Tensor, modulation: Modulation, rotary: Rotary = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(B, H, N, D)` of tokens `(B, N, width)`; queries and keys normed and rotated."""
        x = self.normed(x, modulation)
        query = rotate(self.query_norm(self.split(self.query(x))), rotary)
        key = rotate(self.key_norm(self.split(self.key(x))), rotary)
        return query, key, self.split(self.value(x))

    def normed(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens as the attention's projections see them."""
        return self.norm1(x) * (1 + modulation.scale1) + modulation.shift1

    def finish(self, x: Tensor, attended: Tensor, modulation: Modulation) -> Tensor:
        """Add the attention's result `(B, H, N, D)` and the MLP to the tokens `(B, N, width)`."""
        return self.add_mlp(x + modulation.gate1 * self.out(attended.transpose(1, 2).flatten(2)), modulation)

    def add_mlp(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Add the MLP to the tokens."""
        return x + modulation.gate2 * self.mlp(self.norm2(x) * (1 + modulation.scale2) + modulation.shift2)


class DiTBlock(nn.Module):
    """Joint attention of image and text tokens, text first.

    Args:
        width, heads, mlp_ratio: as in `Stream`.
        double: text has weights of its own (MMDiT); else both kinds share one stream.

    Source: DiT (2212.09748), MMDiT (2403.03206).
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0, double: bool = True):
        super().__init__()
        self.image = Stream(width, heads, mlp_ratio)
        self.words = Stream(width, heads, mlp_ratio) if double else None

    @property
    def text(self) -> Stream:
        """The stream that text tokens pass through."""
        return self.image if self.words is None else self.words

    def forward(self, state: State, attend: Attend = F.scaled_dot_product_attention) -> State:
        """One block.

        Args:
            state: tokens and what modulates them.
            attend: attention over the joint sequence, queries, keys and values `(B, H, T + N, D)`.
        """
        image, text = self.image.modulate(state.vector), self.text.modulate(state.vector)
        parts = zip(
            self.text.project(state.text, text, state.text_rotary),
            self.image.project(state.image, image, state.rotary),
            strict=True,
        )
        attended = attend(*(torch.cat(pair, dim=2) for pair in parts))
        t = state.text.shape[1]
        return replace(
            state,
            image=self.image.finish(state.image, attended[:, :, t:], image),
            text=self.text.finish(state.text, attended[:, :, :t], text),
        )


@dataclass(frozen=True)
class State:
    """What runs through the blocks.

    Attributes:
        image: `(B, N, width)`.
        text: `(B, T, width)`; T may be 0.
        vector: time and pooled text, `(B, width)`.
        rotary, text_rotary: rotations of image and text positions (None: text carries learned positions).
    """

    image: Tensor
    text: Tensor
    vector: Tensor
    rotary: Rotary
    text_rotary: Rotary = None


class DiT(nn.Module):
    """Velocity network for pictures under captions of a small vocabulary.

    The blocks stand in the list `blocks`; `begin` and `end` are what comes before and after, so that other code may
    run, cut, skip or wrap single blocks.

    Args:
        channels: of the picture.
        patch: side of a patch (pixels).
        vocabulary: number of words; word 0 is padding and stands, repeated, for "no caption".
        text_length: longest caption (words).
        width, depth, heads, mlp_ratio: size of the transformer.
        double: how many of the first blocks have separate text weights; all when None.
    """

    def __init__(
        self,
        channels: int = 3,
        patch: int = 4,
        vocabulary: int = 32,
        text_length: int = 8,
        width: int = 96,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        double: int | None = None,
    ):
        super().__init__()
        self.channels, self.patch, self.width, self.heads = channels, patch, width, heads
        self.embed = nn.Linear(channels * patch**2, width)
        self.word = nn.Embedding(vocabulary, width)
        self.word_position = nn.Parameter(0.02 * torch.randn(text_length, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(width, width)
        many = depth if double is None else double
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio, double=i < many) for i in range(depth))
        self.final = Final(width, channels * patch**2)

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Velocity `(B, C, H, W)` at pictures `x (B, C, H, W)`, times `t (B,)` and captions `text`.

        Args:
            text: words `(B, T)` long, or ready tokens `(B, T, width)` (words with other context appended, say).
        """
        state = self.begin(x, t, text)
        for block in self.blocks:
            state = block(state)
        return self.end(state, x)

    def begin(self, x: Tensor, t: Tensor, text: Tensor) -> State:
        """Tokens before the first block."""
        grid = (x.shape[-2] // self.patch, x.shape[-1] // self.patch)
        tokens = self.read(text)
        return State(self.embed(patchify(x, self.patch)), tokens, self.vector(t, tokens), self.rotary(grid, x.device))

    def end(self, state: State, x: Tensor) -> Tensor:
        """The velocity, shaped like `x`, from the tokens after the last block."""
        grid = (x.shape[-2] // self.patch, x.shape[-1] // self.patch)
        return unpatchify(self.final(state.image, state.vector), self.patch, grid)

    def read(self, text: Tensor) -> Tensor:
        """Text tokens `(B, T, width)` of words `(B, T)`; ready tokens pass unchanged."""
        if text.is_floating_point():
            return text
        if text.shape[1] > len(self.word_position):
            raise ValueError(f"caption of {text.shape[1]} words, at most {len(self.word_position)} are possible")
        return self.word(text) + self.word_position[: text.shape[1]]

    def vector(self, t: Tensor, tokens: Tensor | None = None) -> Tensor:
        """What modulates the blocks, `(B, width)`: the time, and the mean text token where there is text."""
        vector = self.time(time_features(t, self.width).to(self.embed.weight.dtype))
        return vector if tokens is None or not tokens.shape[1] else vector + self.pooled(tokens.mean(dim=1))

    def rotary(
        self, grid: tuple[int, int], device: torch.device | None = None, offset: tuple[float, float] = (0, 0)
    ) -> Rotary:
        """Rotations for the tokens of a grid."""
        return rotary_angles(grid_positions(grid, offset).to(device or "cpu"), self.width // self.heads)


class Final(nn.Module):
    """Modulated norm and a zero-initialised linear map `(B, N, width) -> (B, N, outputs)`."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, outputs)
        for part in (self.modulation[1], self.linear):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        shift, scale = self.modulation(vector)[:, None].chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)
