"""PKA in a FLUX transformer of diffusers: an attention processor, LoRA for condition tokens, the cached pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.methods.generation._scoped_kernels import KV, local_attention, pka_attention
from assay.methods.generation._scoped_keywords import ScopeTracker, Span, keyword_relevance
from assay.nn.lora import LoRA
from assay.nn.rope import rotate


@dataclass(frozen=True)
class FluxCondition:
    """A condition picture as FLUX takes pictures.

    Attributes:
        kind: one of the LoRA's kinds, such as `edges` or `subject`.
        latents: packed latents `(B, M, in_channels)`.
        ids: positions `(M, 3)`: the image's own for a spatial condition, beside the image for a subject.
        grid: rows and columns.
        spatial: on the image's grid; else a subject.
    """

    kind: str
    latents: Tensor
    ids: Tensor
    grid: tuple[int, int]
    spatial: bool = True


class FluxConditionLoRA(nn.Module):
    """What condition tokens add to a frozen `FluxTransformer2DModel`: embedders, LoRA and a weight in the softmax.

    Args:
        transformer: a FLUX transformer; only its sizes are read.
        kinds: names of the conditions to train.
        rank: of every change.
        weight: how many image keys a condition's key counts for at the start (learned afterwards).

    Raises:
        ValueError: no kinds.
    """

    def __init__(
        self,
        transformer: nn.Module,
        kinds: Sequence[str] = ("edges", "depth", "subject"),
        rank: int = 16,
        weight: float = 1.0,
    ):
        super().__init__()
        if not kinds:
            raise ValueError("no kinds of condition given; name at least one, such as 'edges'")
        self.kinds, self.rank = tuple(kinds), rank
        width, channels = transformer.inner_dim, transformer.config.in_channels
        self.embed = nn.ModuleDict({kind: LoRA(channels, width, rank) for kind in kinds})
        self.mark = nn.ParameterDict({kind: nn.Parameter(torch.zeros(width)) for kind in kinds})
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: LoRA(width, width, rank) for name in ("query", "key", "value", "out")})
            for _ in flux_attentions(transformer)
        )
        self.bias = nn.Parameter(torch.full((len(self.layers), len(self.kinds)), weight).log())

    def tokens(self, transformer: nn.Module, condition: FluxCondition) -> Tensor:
        """Tokens `(B, M, width)` of a condition before the first block."""
        return transformer.x_embedder(condition.latents) + self.added(condition)

    def added(self, condition: FluxCondition) -> Tensor:
        """What the LoRA adds to the embedding of a condition's latents."""
        self.check(condition)
        return self.embed[condition.kind](condition.latents) + self.mark[condition.kind].to(condition.latents.dtype)

    def check(self, condition: FluxCondition) -> None:
        """Raises ValueError for a kind the LoRA was not trained for."""
        if condition.kind not in self.kinds:
            raise ValueError(f"condition {condition.kind!r}: the LoRA was trained for {', '.join(self.kinds)}")


@dataclass
class FluxConditions:
    """What the processors of one transformer share while a picture is drawn.

    Attributes:
        text_length, grid: T, and rows and columns of the image tokens.
        near, scoped: for every layer the spatial conditions and the subjects (from `cache_flux_conditions`).
        window: side of the image's window on a condition; None: a condition is seen in full.
        spans: keyword span of every subject. tracker: keeps the scopes; None: subjects are seen everywhere.
        scopes: fixed scopes `(B, J, N)` in place of a tracker's; after a step, the scopes it used.
        extra: condition tokens appended to the sequence (concatenate-and-attend); the LoRA then acts on them there.
        lora: used with `extra`.
    """

    text_length: int
    grid: tuple[int, int]
    near: Sequence[Sequence[KV]] = ()
    scoped: Sequence[Sequence[KV]] = ()
    window: int | None = 1
    spans: Sequence[Span] = ()
    tracker: ScopeTracker | None = None
    scopes: Tensor | None = None
    extra: int = 0
    lora: FluxConditionLoRA | None = None
    maps: list[Tensor] = field(default_factory=list, repr=False)

    def attend(self, layer: int, layers: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Joint attention of one layer, text first, `(B, H, T + N, D)`."""
        if not self.near and not self.scoped:
            return F.scaled_dot_product_attention(q, k, v)
        t, count = self.text_length, self.grid[0] * self.grid[1]
        text, image = slice(0, t), slice(t, t + count)
        near = list(self.near[layer]) if self.near else []
        scoped = list(self.scoped[layer]) if self.scoped else []
        if self.tracker is not None and scoped:
            if layer == 0:
                self.maps = []
                self.scopes = self.tracker.current(len(q), len(scoped), q.device)
            self.maps.append(keyword_relevance(q[:, :, image].detach(), k[:, :, text].detach(), self.spans))
            if layer + 1 == layers:
                self.tracker.observe(torch.stack(self.maps).mean(dim=0))
        everywhere = torch.ones(count, dtype=torch.bool, device=q.device)
        scopes = [everywhere] * len(scoped) if self.scopes is None else list(self.scopes.unbind(1))
        if self.window is None:
            near, scoped, scopes = [], [*near, *scoped], [everywhere] * len(near) + scopes
        return pka_attention(q, k, v, image, text, near, self.window or 1, self.grid, scoped, scopes)


class PkaFluxAttnProcessor:
    """Attention processor for `FluxTransformer2DModel`, one for each layer.

    Computes what diffusers' own processor does, with the layer's conditions added to what image tokens see.

    Args:
        layer: number of the layer, double-stream blocks first. layers: how many there are.
        shared: conditions and scopes.

    Raises:
        ValueError: (when called) the projections are fused, or an attention mask is given.
    """

    def __init__(self, layer: int, layers: int, shared: FluxConditions):
        self.layer, self.layers, self.shared = layer, layers, shared

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if getattr(attn, "fused_projections", False) or attention_mask is not None:
            raise ValueError("PKA reads the projections apart and takes no mask; call unfuse_qkv_projections() first")
        change = self._change()
        extra = self.shared.extra if change is not None else 0
        q, k, v = (
            heads(_with_change(getattr(attn, f"to_{name[0]}"), hidden_states, extra, change, name), attn.head_dim)
            for name in ("query", "key", "value")
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        words = 0
        if encoder_hidden_states is not None:
            words = encoder_hidden_states.shape[1]
            eq, ek, ev = (
                heads(project(encoder_hidden_states), attn.head_dim)
                for project in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            )
            q = torch.cat([attn.norm_added_q(eq), q], dim=2)
            k = torch.cat([attn.norm_added_k(ek), k], dim=2)
            v = torch.cat([ev, v], dim=2)
        q, k = rotate(q, image_rotary_emb), rotate(k, image_rotary_emb)
        joined = self.shared.attend(self.layer, self.layers, q, k, v).transpose(1, 2).flatten(2).to(hidden_states.dtype)
        if encoder_hidden_states is None:
            return joined
        text, image = joined[:, :words], joined[:, words:]
        return attn.to_out[1](_with_change(attn.to_out[0], image, extra, change, "out")), attn.to_add_out(text)

    def _change(self) -> nn.ModuleDict | None:
        shared = self.shared
        return shared.lora.layers[self.layer] if shared.extra and shared.lora is not None else None


def heads(x: Tensor, head_dim: int) -> Tensor:
    """`(B, N, width)` as `(B, H, N, head_dim)`."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def flux_blocks(transformer: nn.Module) -> list[nn.Module]:
    """Blocks in the order they run: double-stream, then single-stream."""
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def flux_attentions(transformer: nn.Module) -> list[nn.Module]:
    """The attention of every block, in order."""
    return [block.attn for block in flux_blocks(transformer)]


@contextmanager
def pka_processors(transformer: nn.Module, shared: FluxConditions) -> Iterator[FluxConditions]:
    """Inside the block the transformer attends to the shared conditions; its own processors come back after it."""
    attentions = flux_attentions(transformer)
    before = [attn.processor for attn in attentions]
    try:
        for layer, attn in enumerate(attentions):
            attn.set_processor(PkaFluxAttnProcessor(layer, len(attentions), shared))
        yield shared
    finally:
        for attn, processor in zip(attentions, before, strict=True):
            attn.set_processor(processor)


def cache_flux_conditions(
    transformer: nn.Module,
    lora: FluxConditionLoRA,
    conditions: Sequence[FluxCondition],
    present: Sequence[Tensor | None] | None = None,
    window: int | None = 3,
) -> tuple[list[list[KV]], list[list[KV]]]:
    """Keys and values of all conditions in all layers, by one pass of each through the blocks at t = 0.

    The pass sees neither image nor text: modulation is by t = 0 and an empty pooled prompt, attention inside the
    condition alone (a window of that side if spatial; None or a subject: all of it).

    Returns:
        `(near, scoped)`: for every layer the spatial conditions and the subjects, each in the given order.
    """
    present = [None] * len(conditions) if present is None else present
    layers = len(lora.layers)
    near: list[list[KV]] = [[] for _ in range(layers)]
    scoped: list[list[KV]] = [[] for _ in range(layers)]
    for condition, here in zip(conditions, present, strict=True):
        tokens = lora.tokens(transformer, condition)
        vector = _vector_at_zero(transformer, tokens)
        rotary = transformer.pos_embed(condition.ids)
        for layer, block in enumerate(flux_blocks(transformer)):
            change, bias = lora.layers[layer], lora.bias[layer, lora.kinds.index(condition.kind)]
            inside = partial(_inside, block.attn, change, rotary, condition, window)
            tokens, k, v = _advance(block, tokens, vector, inside, change["out"])
            (near if condition.spatial else scoped)[layer].append(KV(k, v, here, bias))
    return near, scoped


@contextmanager
def appended(transformer: nn.Module, lora: FluxConditionLoRA, conditions: Sequence[FluxCondition]) -> Iterator[None]:
    """Inside the block, the embedder adds what the LoRA adds to the condition latents at the end of the sequence."""
    added = torch.cat([lora.added(condition) for condition in conditions], dim=1)

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        start = output.shape[1] - added.shape[1]
        return torch.cat([output[:, :start], output[:, start:] + added], dim=1)

    handle = transformer.x_embedder.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _vector_at_zero(transformer: nn.Module, tokens: Tensor) -> Tensor:
    zero = tokens.new_zeros(len(tokens))
    pooled = tokens.new_zeros(len(tokens), transformer.config.pooled_projection_dim)
    if transformer.config.guidance_embeds:
        return transformer.time_text_embed(zero, zero, pooled)
    return transformer.time_text_embed(zero, pooled)


def _inside(
    attn: Any,
    change: nn.ModuleDict,
    rotary: tuple[Tensor, Tensor],
    condition: FluxCondition,
    window: int | None,
    normed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of a condition to itself: result `(B, M, width)`, keys and values `(B, H, M, D)`."""
    q = rotate(attn.norm_q(heads(attn.to_q(normed) + change["query"](normed), attn.head_dim)), rotary)
    k = rotate(attn.norm_k(heads(attn.to_k(normed) + change["key"](normed), attn.head_dim)), rotary)
    v = heads(attn.to_v(normed) + change["value"](normed), attn.head_dim)
    if condition.spatial and window is not None:
        attended = local_attention(q, k, v, condition.grid, window)
    else:
        attended = F.scaled_dot_product_attention(q, k, v)
    return attended.transpose(1, 2).flatten(2), k, v


def _advance(
    block: nn.Module,
    tokens: Tensor,
    vector: Tensor,
    inside: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    out: LoRA,
) -> tuple[Tensor, Tensor, Tensor]:
    """A double- or single-stream block for tokens that attend to themselves: tokens, keys, values."""
    if hasattr(block, "norm1"):
        normed, gate, shift_mlp, scale_mlp, gate_mlp = block.norm1(tokens, emb=vector)
        attended, k, v = inside(normed)
        tokens = tokens + gate.unsqueeze(1) * (block.attn.to_out[0](attended) + out(attended))
        normed = block.norm2(tokens) * (1 + scale_mlp[:, None]) + shift_mlp[:, None]
        return tokens + gate_mlp.unsqueeze(1) * block.ff(normed), k, v
    normed, gate = block.norm(tokens, emb=vector)
    hidden = block.act_mlp(block.proj_mlp(normed))
    attended, k, v = inside(normed)
    joined = torch.cat([attended + out(attended), hidden], dim=2)
    return tokens + gate.unsqueeze(1) * block.proj_out(joined), k, v


def _with_change(project: nn.Module, x: Tensor, extra: int, change: nn.ModuleDict | None, name: str) -> Tensor:
    """A projection, with the LoRA's change on the last `extra` rows."""
    result = project(x)
    if change is None or not extra:
        return result
    return torch.cat([result[:, :-extra], result[:, -extra:] + change[name](x[:, -extra:])], dim=1)
