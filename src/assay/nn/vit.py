"""Vision transformer: ViT, DeiT and DINOv2 in one class, from 32-pixel pocket sizes to the published weights.

    tokens   z_0 = [class, (distillation,) patches] + positions
    block    z <- z + s_1 * Attention(LN_1(z));   z <- z + s_2 * MLP(LN_2(z))      (s: layer scale, or 1)
    logits   head(readout(LN(z_L)))

Everything that methods reach for is a plain attribute: `blocks[i].norm1`, `.attention` (`query`, `key`, `value`, `out`,
all `nn.Linear`), `.norm2`, `.mlp`; the steps are `embed` -> `encode` -> `read` -> `logits`. Heads can be cut with
`Attention.keep_heads`. Weights of Hugging Face models come in by `from_hugging_face` (see `vit_weights`).

Source: ViT (2010.11929), DeiT (2012.12877), DINOv2 (2304.07193)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Readout = Literal["class", "mean", "class+mean"]
BlockHook = Callable[[int, Tensor], Tensor | None]


@dataclass(frozen=True)
class ViTOptions:
    """Shape of a `ViT`.

    Attributes:
        image_size: height and width in pixels that the positions are learnt for.
        patch: side of a patch in pixels.
        width: C, size of a token.
        depth: number of blocks.
        heads: attention heads of a block.
        classes: number of logits K; 0: no head, `logits` are the features read out.
        channels: channels of the image.
        hidden: width of the MLP; four times `width` when None.
        readout: features of the head: the class token, the mean of the patch tokens, or both side by side.
        distillation: a second special token with a head of its own; logits are the mean of both heads (DeiT).
        layer_scale: start value of a learnt factor per channel behind attention and MLP (DINOv2); None: no factor.
        eps: of the layer normalisations.
        dropout: of tokens, attention outputs and MLP outputs, in training only.
    """

    image_size: tuple[int, int] = (32, 32)
    patch: int = 4
    width: int = 96
    depth: int = 6
    heads: int = 4
    classes: int = 10
    channels: int = 3
    hidden: int | None = None
    readout: Readout = "class"
    distillation: bool = False
    layer_scale: float | None = None
    eps: float = 1e-6
    dropout: float = 0.0


class Attention(nn.Module):
    """Multi-head self-attention, `out(concat_h softmax(q_h k_h^T / sqrt(d)) v_h)`, with separate projections.

    Args:
        width: C.
        heads: h, which must divide C; d = C / h.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads must divide the width, got {heads} heads and width {width}")
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens (B, N, C) -> (B, N, C); with `return_attention` also the weights (B, heads, N, N), rows summing to 1.

        The weights are computed explicitly when asked for, by the fused kernel otherwise.
        """
        q, k, v = (self._split(part(tokens)) for part in (self.query, self.key, self.value))
        if return_attention:
            weights = torch.softmax(q @ k.transpose(-2, -1) * self.head_width**-0.5, dim=-1)
            return self.out(self._join(weights @ v)), weights
        return self.out(self._join(F.scaled_dot_product_attention(q, k, v)))

    @torch.no_grad()
    def keep_heads(self, kept: Sequence[int]) -> None:
        """Cut all heads but those named, in place: the projections get smaller, the width of tokens stays.

        Raises:
            ValueError: no head is kept, one is named twice, or one does not exist.
        """
        if not kept or len(set(kept)) < len(kept) or not all(0 <= head < self.heads for head in kept):
            raise ValueError(f"heads to keep must be distinct and lie in 0..{self.heads - 1}, got {list(kept)}")
        rows = torch.cat([torch.arange(h * self.head_width, (h + 1) * self.head_width) for h in kept])
        for name in ("query", "key", "value"):
            setattr(self, name, _sliced(getattr(self, name), rows, 0))
        self.out = _sliced(self.out, rows, 1)
        self.heads = len(kept)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.head_width)).transpose(1, 2)

    def _join(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class LayerScale(nn.Module):
    """One learnt factor per channel: (..., C) -> (..., C)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Block(nn.Module):
    """Pre-norm transformer block: attention and a GELU MLP, each added to its input."""

    def __init__(self, options: ViTOptions) -> None:
        super().__init__()
        width, hidden = options.width, options.hidden or 4 * options.width
        self.norm1 = nn.LayerNorm(width, eps=options.eps)
        self.attention = Attention(width, options.heads)
        self.norm2 = nn.LayerNorm(width, eps=options.eps)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        scaled = options.layer_scale is not None
        self.scale1, self.scale2 = (
            LayerScale(width, options.layer_scale) if scaled else nn.Identity() for _ in range(2)
        )
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, tokens: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Tokens (B, N, C) -> (B, N, C), with `return_attention` also the attention weights (B, heads, N, N)."""
        weights = None
        attended = self.attention(self.norm1(tokens), return_attention)
        if return_attention:
            attended, weights = attended
        tokens = tokens + self.dropout(self.scale1(attended))
        tokens = tokens + self.dropout(self.scale2(self.mlp(self.norm2(tokens))))
        return (tokens, weights) if return_attention else tokens


@dataclass(frozen=True)
class ViTOutput:
    """What a forward pass gives when more than logits is asked for.

    Attributes:
        logits: (B, K).
        tokens: (B, S + N, C) after the last normalisation, S special tokens first.
        attention: per block (B, heads, S + N, S + N); empty when not asked for.
    """

    logits: Tensor
    tokens: Tensor
    attention: tuple[Tensor, ...] = ()


class ViT(nn.Module):
    """Vision transformer.

    Shapes:
        images (B, channels, H, W) -> logits (B, K). H and W are multiples of the patch; where they are not the
        image size of the options, positions are resampled (bicubic).

    Raises:
        ValueError: the image size is no multiple of the patch, or heads do not divide the width.
    """

    def __init__(self, options: ViTOptions | None = None, **changes: Any) -> None:
        super().__init__()
        options = replace(options or ViTOptions(), **changes)
        rows, columns = (side // options.patch for side in options.image_size)
        if rows * options.patch != options.image_size[0] or columns * options.patch != options.image_size[1]:
            raise ValueError(f"image size {options.image_size} is no multiple of the patch {options.patch}")
        self.options = options
        self.grid = (rows, columns)
        self.special = 2 if options.distillation else 1
        width = options.width
        self.patches = nn.Conv2d(options.channels, width, options.patch, stride=options.patch)
        self.special_tokens = nn.Parameter(torch.zeros(1, self.special, width))
        self.positions = nn.Parameter(torch.zeros(1, self.special + rows * columns, width))
        self.dropout = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.depth))
        self.norm = nn.LayerNorm(width, eps=options.eps)
        features = 2 * width if options.readout == "class+mean" else width
        self.head = nn.Linear(features, options.classes) if options.classes else nn.Identity()
        self.distillation_head = nn.Linear(width, options.classes) if options.distillation and options.classes else None
        nn.init.trunc_normal_(self.special_tokens, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def embed(self, images: Tensor) -> Tensor:
        """Images (B, channels, H, W) -> tokens with positions (B, S + N, C).

        Raises:
            ValueError: H or W is no multiple of the patch.
        """
        if images.shape[-2] % self.options.patch or images.shape[-1] % self.options.patch:
            raise ValueError(
                f"images must be multiples of the patch ({self.options.patch} px), got"
                f" {images.shape[-2]}x{images.shape[-1]}"
            )
        maps = self.patches(images)
        tokens = maps.flatten(2).transpose(1, 2)
        special = self.special_tokens.expand(len(images), -1, -1)
        return self.dropout(torch.cat([special, tokens], dim=1) + self.positions_for(maps.shape[-2:]))

    def positions_for(self, grid: Sequence[int]) -> Tensor:
        """Position embeddings (1, S + rows * columns, C) of a grid of patches."""
        if tuple(grid) == self.grid:
            return self.positions
        special, learnt = self.positions[:, : self.special], self.positions[:, self.special :]
        learnt = learnt.transpose(1, 2).unflatten(-1, self.grid)
        resampled = F.interpolate(learnt, size=tuple(grid), mode="bicubic", align_corners=False)
        return torch.cat([special, resampled.flatten(2).transpose(1, 2)], dim=1)

    def encode(self, tokens: Tensor, on_block: BlockHook | None = None) -> Tensor:
        """Tokens (B, S + N, C) through all blocks and the last normalisation.

        Args:
            on_block: called as `on_block(i, tokens)` after block i; what it returns, if anything, replaces the tokens
                (adapters, token pruning, early exits).
        """
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            changed = on_block(i, tokens) if on_block else None
            tokens = tokens if changed is None else changed
        return self.norm(tokens)

    def read(self, tokens: Tensor) -> Tensor:
        """Features of the head from normalised tokens: (B, C), or (B, 2C) for `class+mean`."""
        first, mean = tokens[:, 0], tokens[:, self.special :].mean(dim=1)
        if self.options.readout == "class":
            return first
        return mean if self.options.readout == "mean" else torch.cat([first, mean], dim=-1)

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, K) from normalised tokens; with distillation the mean of both heads."""
        found = self.head(self.read(tokens))
        if self.distillation_head is not None:
            found = (found + self.distillation_head(tokens[:, 1])) / 2
        return found

    def forward(
        self,
        images: Tensor,
        *,
        return_tokens: bool = False,
        return_attention: bool = False,
        on_block: BlockHook | None = None,
    ) -> Tensor | ViTOutput:
        """Logits (B, K), or a `ViTOutput` when tokens or attention are asked for."""
        tokens, attention = self.embed(images), []
        if not return_attention:
            tokens = self.encode(tokens, on_block)
        else:
            for i, block in enumerate(self.blocks):
                tokens, weights = block(tokens, return_attention=True)
                attention.append(weights)
                changed = on_block(i, tokens) if on_block else None
                tokens = tokens if changed is None else changed
            tokens = self.norm(tokens)
        logits = self.logits(tokens)
        return ViTOutput(logits, tokens, tuple(attention)) if return_tokens or return_attention else logits

    def save(self, folder: Path) -> None:
        """Write `model.safetensors` and `config.json`, from which `load_vit` makes the model again.

        Raises:
            ValueError: heads were cut, so the options no longer describe the weights.
        """
        from safetensors.torch import save_file

        if any(block.attention.heads != self.options.heads for block in self.blocks):
            raise ValueError("a model whose heads were cut cannot be saved by its options")
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in self.state_dict().items()},
                  folder / "model.safetensors")  # fmt: skip
        (folder / "config.json").write_text(json.dumps({"model_type": "assay-vit", **asdict(self.options)}, indent=1))


def load_vit(folder: Path) -> ViT:
    """The model that `ViT.save` wrote, in eval mode.

    Raises:
        ValueError: the folder holds another kind of model, or options and weights do not fit together.
        OSError: a file is missing.
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict) or config.pop("model_type", None) != "assay-vit":
        raise ValueError(f"{folder}: config.json does not describe a ViT of this package")
    try:
        config["image_size"] = tuple(config["image_size"])
        model = ViT(ViTOptions(**config))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{folder}: weights and config.json do not fit together ({error})") from error
    return model.eval()


def _sliced(layer: nn.Linear, kept: Tensor, axis: int) -> nn.Linear:
    """A linear layer with only some of its outputs (axis 0) or inputs (axis 1)."""
    kept = kept.to(layer.weight.device)
    weight = layer.weight.index_select(axis, kept)
    small = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None).to(weight)
    small.weight.copy_(weight)
    if layer.bias is not None:
        small.bias.copy_(layer.bias if axis == 1 else layer.bias[kept])
    return small.requires_grad_(layer.weight.requires_grad)
