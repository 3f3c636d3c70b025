"""A small causal language model over one vocabulary, with embeddings from elsewhere injected at chosen places.

    h_0 = token embedding, or the injected vector where `injected_at` is set
    h <- h + Attention(LN(h));   h <- h + MLP(LN(h))         attention causal, positions rotary
    logits = LN(h_L) E^T + b                                 E the token embedding (tied) or a matrix of its own

Pictures enter either as vectors (a vision encoder's features, brought to `width` by `project`) or as tokens (codes that
share the vocabulary with words). Nothing is kept between generation steps; each step reads the whole prefix again:
right by construction, and fast enough for some hundred tokens.

Source: decoder-only transformer (1706.03762, GPT-2), rotary positions (2104.09864)
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.nn.rope import rotary_angles, rotate


@dataclass(frozen=True)
class CausalLMOptions:
    """Shape of a `CausalLM`.

    Attributes:
        vocabulary: V, number of tokens.
        width: D, size of a token's vector; a multiple of twice `heads`.
        depth: number of blocks.
        heads: attention heads of a block.
        hidden: width of the MLP; four times `width` when None.
        longest: tokens of the longest sequence taken.
        feature_width: size F of the features that `project` takes; 0: no such layer.
        tied: logits through the token embedding; else through a matrix of their own.
        dropout: of attention and MLP outputs, in training only.
        rotary_base: base of the rotary angles; small for short sequences.
    """

    vocabulary: int = 64
    width: int = 64
    depth: int = 2
    heads: int = 4
    hidden: int | None = None
    longest: int = 256
    feature_width: int = 0
    tied: bool = True
    dropout: float = 0.0
    rotary_base: float = 100.0


class CausalBlock(nn.Module):
    """One pre-norm block. `attention_in` gives queries, keys and values in one product."""

    def __init__(self, options: CausalLMOptions) -> None:
        super().__init__()
        width, hidden = options.width, options.hidden or 4 * options.width
        self.heads = options.heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention_in, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(options.dropout)

    def forward(self, h: Tensor, rotary: tuple[Tensor, Tensor], allowed: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D). `allowed`: (B, 1, T, T) of booleans; None: plain causal attention."""
        q, k, v = self.attention_in(self.norm1(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, rotary), rotate(k, rotary)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=allowed is None)
        h = h + self.dropout(self.attention_out(mixed.transpose(1, 2).flatten(2)))
        return h + self.dropout(self.mlp(self.norm2(h)))


class CausalLM(nn.Module):
    """The model. `blocks[i].attention_in`, `.attention_out`, `.mlp` are plain attributes for methods that reach in.

    Args:
        options: its shape. changes: single options by name, such as `CausalLM(vocabulary=100, width=48)`.

    Raises:
        ValueError: an option is out of range, or `width` is no multiple of twice `heads`.
    """

    def __init__(self, options: CausalLMOptions | None = None, **changes: Any) -> None:
        super().__init__()
        options = replace(options or CausalLMOptions(), **changes)
        if min(options.vocabulary, options.width, options.depth, options.heads, options.longest) < 1:
            raise ValueError(f"sizes must be at least 1, got {options}")
        if options.width % (2 * options.heads):
            raise ValueError(f"width {options.width} is not a multiple of twice {options.heads} heads")
        self.options = options
        self.token = nn.Embedding(options.vocabulary, options.width)
        self.project = nn.Linear(options.feature_width, options.width) if options.feature_width else None
        self.blocks = nn.ModuleList(CausalBlock(options) for _ in range(options.depth))
        self.norm = nn.LayerNorm(options.width)
        self.out = nn.Linear(options.width, options.vocabulary)
        nn.init.normal_(self.token.weight, std=options.width**-0.5)
        nn.init.zeros_(self.out.bias)
        if options.tied:
            self.out.weight = self.token.weight
        for block in self.blocks:
            for layer in (block.attention_out, block.mlp[-1]):
                nn.init.normal_(layer.weight, std=0.5 / math.sqrt(options.width * options.depth))
                nn.init.zeros_(layer.bias)

    def embed(self, tokens: Tensor, injected: Tensor | None = None, injected_at: Tensor | None = None) -> Tensor:
        """Vectors that enter the first block, scaled so that an entry has about unit variance.

        Args:
            tokens: (B, T) token numbers; what stands at injected places does not matter (but must be in range).
            injected: (B, T, D) vectors, or (B, T, F) features for `project`. injected_at: (B, T) of booleans.

        Raises:
            ValueError: only one of the two is given, or a width fits neither D nor F.
        """
        h = self.token(tokens) * math.sqrt(self.options.width)
        if (injected is None) != (injected_at is None):
            raise ValueError("injected vectors and their places are given together or not at all")
        if injected is None or injected_at is None:
            return h
        if self.project is not None and injected.shape[-1] == self.options.feature_width:
            injected = self.project(injected)
        if injected.shape != h.shape:
            raise ValueError(
                f"injected {tuple(injected.shape)}, expected {tuple(h.shape)} or features before `project`"
            )
        return torch.where(injected_at[..., None], injected.to(h.dtype), h)

    def hidden(
        self,
        tokens: Tensor,
        injected: Tensor | None = None,
        injected_at: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states after the final norm, (B, T, D).

        Args:
            tokens, injected, injected_at: as for `embed`.
            padding: (B, T), true where there is nothing; it may lie anywhere. Other tokens' states do not depend on it:
                it is not attended to and takes up no position.

        Raises:
            ValueError: as for `embed`, or the sequence is longer than `longest`.
        """
        if tokens.shape[1] > self.options.longest:
            raise ValueError(f"{tokens.shape[1]} tokens; the model takes {self.options.longest}")
        h = self.embed(tokens, injected, injected_at)
        length, head = tokens.shape[1], self.options.width // self.options.heads
        allowed = None
        place = torch.arange(length, device=h.device)
        if padding is None or not padding.any():
            rotary = rotary_angles(place[:, None], head, self.options.rotary_base)
        else:
            where = ((~padding).cumsum(1) - 1).clamp(min=0)
            cosine, sine = rotary_angles(where.reshape(-1, 1), head, self.options.rotary_base)
            rotary = cosine.view(*where.shape, head)[:, None], sine.view(*where.shape, head)[:, None]
            allowed = (place[:, None] >= place) & ~padding[:, None, :]
            allowed = (allowed | torch.eye(length, dtype=torch.bool, device=h.device))[:, None]
        for block in self.blocks:
            h = block(h, rotary, allowed)
        return self.norm(h)

    def forward(
        self,
        tokens: Tensor,
        injected: Tensor | None = None,
        injected_at: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> Tensor:
        """Logits of the token after each place, (B, T, V). Arguments and errors as for `hidden`."""
        return self.out(self.hidden(tokens, injected, injected_at, padding))

    @torch.no_grad()
    def generate(
        self,
        tokens: Tensor,
        steps: int,
        *,
        injected: Tensor | None = None,
        injected_at: Tensor | None = None,
        padding: Tensor | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        allowed: Tensor | None = None,
        stop: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue sequences by `steps` tokens, (B, steps).

        Args:
            tokens, injected, injected_at, padding: the prompt, as for `hidden`.
            temperature: 0 takes the likeliest token.
            top_k: sample among the k likeliest; 0: among all.
            allowed: (V,) or (steps, V) of booleans: tokens that may be made at all, such as image codes.
            stop: token after which a row is filled with `stop`.
            generator: of the draws; on the model's device.

        Raises:
            ValueError: as for `hidden`, a negative temperature, or no token is allowed at a step.
        """
        if temperature < 0 or steps < 0:
            raise ValueError(f"temperature and steps must not be negative, got {temperature} and {steps}")
        if allowed is not None and not allowed.any(-1).all():
            raise ValueError("no token is allowed at some step")
        batch, made = len(tokens), []
        ended = torch.zeros(batch, dtype=torch.bool, device=tokens.device)
        for step in range(steps):
            logits = self.out(self.hidden(tokens, injected, injected_at, padding)[:, -1])
            if allowed is not None:
                logits = logits.masked_fill(~(allowed if allowed.ndim == 1 else allowed[step]), -math.inf)
            if top_k and top_k < logits.shape[1]:
                least = logits.topk(top_k).values[:, -1:]
                logits = logits.masked_fill(logits < least, -math.inf)
            if temperature == 0:
                new = logits.argmax(-1)
            else:
                new = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
            if stop is not None:
                new = torch.where(ended, stop, new)
                ended = ended | (new == stop)
            made.append(new)
            tokens = torch.cat([tokens, new[:, None]], 1)
            if injected is not None and injected_at is not None:
                injected, injected_at = F.pad(injected, (0, 0, 0, 1)), F.pad(injected_at, (0, 1))
            if padding is not None:
                padding = F.pad(padding, (0, 1))
        return torch.stack(made, 1) if made else tokens.new_zeros(batch, 0)

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, which is made."""
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.options), indent=2) + "\n", encoding="utf-8")
        save_model(self, str(folder / "model.safetensors"))


def load_causal_lm(folder: Path) -> CausalLM:
    """The model that `CausalLM.save` wrote.

    Raises:
        ValueError: the files are missing or do not fit one another.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        model = CausalLM(CausalLMOptions(**json.loads((folder / "config.json").read_text(encoding="utf-8"))))
        load_model(model, str(folder / "model.safetensors"))
    except (OSError, TypeError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} holds no causal language model: {str(error).splitlines()[0]}") from error
    return model.eval()
