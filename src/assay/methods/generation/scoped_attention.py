"""PKA: a diffusion transformer steered by many conditions without attending to all of them.

Spatial conditions (edges, depth) are seen only at the image token's own place, subjects only where their keyword is
being drawn. Conditions do not look back at the image, so their keys and values are computed once per picture.
Training draws the time from where the conditions change the velocity most.

Source: 2602.06850. The abstract names the three ideas; formulas, the one-way design and the defaults are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from assay.methods.generation._scoped_flux import (
    FluxConditionLoRA,
    FluxConditions,
    PkaFluxAttnProcessor,
    cache_flux_conditions,
)
from assay.methods.generation._scoped_kernels import (
    KV,
    UNSEEN,
    dense_reference,
    local_attention,
    merge,
    pair_count,
    pka_attention,
    reference_mask,
    window_index,
)
from assay.methods.generation._scoped_keywords import (
    ScopeTracker,
    grow,
    keyword_relevance,
    scope,
    scope_from_mask,
    span_mask,
)
from assay.nn.dit import DiT, DiTBlock, Modulation, Rotary, State, patchify
from assay.nn.flow import guided
from assay.nn.lora import LoRA
from assay.nn.rope import rotate

__all__ = [
    "KV", "Cache", "Contexts", "FluxConditionLoRA", "FluxConditions", "MultiConditionBlock", "MultiConditionDiT",
    "Pattern", "PkaFluxAttnProcessor", "ScopeTracker", "SensitivitySampler", "cache_conditions",
    "cache_flux_conditions", "dense_reference", "draw", "grow", "keyword_relevance", "merge", "pair_count",
    "pka_attention", "reference_mask", "scope", "scope_from_mask", "span_mask", "window_index",
]  # fmt: skip


@dataclass(frozen=True)
class Pattern:
    """Who attends to whom.

    Attributes:
        one_way: conditions attend only among themselves (and can be cached); else everything attends to everything.
        aligned: an image token sees a spatial condition in its window only (PAA); else all of it.
        scoped: a subject is seen in its scope only (KSA); else everywhere.
        window: side of the image's window on a condition (cells, odd).
        inner_window: side of a spatial condition's window on itself.
    """

    one_way: bool = True
    aligned: bool = True
    scoped: bool = True
    window: int = 1
    inner_window: int = 3


PKA = Pattern()


@dataclass(frozen=True)
class Cache:
    """Keys and values of all conditions in every block; they hold for all times.

    Attributes:
        conditions: for every block the K spatial conditions.
        subjects: for every block the J subjects.
    """

    conditions: Sequence[Sequence[KV]]
    subjects: Sequence[Sequence[KV]]


@dataclass(frozen=True)
class Part:
    """One condition among the condition tokens.

    Attributes:
        place: where its tokens stand. grid: rows and columns. number: which of the model's conditions it is.
        spatial: a condition on the image's grid; else a subject.
        present: see `KV`.
    """

    place: slice
    grid: tuple[int, int]
    number: int
    spatial: bool
    present: Tensor | None = None


@dataclass(frozen=True)
class Contexts:
    """The tokens of all conditions, one after another, on their way through the blocks.

    Attributes:
        tokens: `(B, sum of M, width)`.
        vector: time embedding of t = 0, `(1, width)`.
        rotary: rotations of all tokens.
        parts: which condition stands where.
    """

    tokens: Tensor
    vector: Tensor
    rotary: Rotary
    parts: tuple[Part, ...]


class MultiConditionBlock(nn.Module):
    """A `DiTBlock` that condition tokens pass too, with LoRA on their projections; image and text are untouched.

    Args:
        block: the block of the base model; frozen.
        rank: of the changes to query, key, value and output.
        weights: for every condition, then every subject, how many image keys one of its keys counts for at the
            start; the logarithm is learned, as a bias of its scores.
    """

    def __init__(self, block: DiTBlock, rank: int = 16, weights: Sequence[float] = (1.0, 1.0, 1.0)):
        super().__init__()
        self.block = block.requires_grad_(False)
        width = block.image.out.in_features
        self.change = nn.ModuleDict({name: LoRA(width, width, rank) for name in ("query", "key", "value", "out")})
        self.bias = nn.Parameter(torch.tensor(list(weights)).log())

    def project(self, contexts: Contexts) -> tuple[Tensor, Tensor, Tensor, Modulation]:
        """Queries, keys and values `(B, H, M, D)` of the condition tokens, and their modulation."""
        stream, modulation = self.block.image, self.block.image.modulate(contexts.vector)
        x = stream.normed(contexts.tokens, modulation)
        q = stream.query_norm(stream.split(stream.query(x) + self.change["query"](x)))
        k = stream.key_norm(stream.split(stream.key(x) + self.change["key"](x)))
        v = stream.split(stream.value(x) + self.change["value"](x))
        return rotate(q, contexts.rotary), rotate(k, contexts.rotary), v, modulation

    def finish(self, contexts: Contexts, attended: Tensor, modulation: Modulation) -> Contexts:
        """Condition tokens after the block."""
        stream = self.block.image
        joined = attended.transpose(1, 2).flatten(2)
        moved = contexts.tokens + modulation.gate1 * (stream.out(joined) + self.change["out"](joined))
        return replace(contexts, tokens=stream.add_mlp(moved, modulation))

    def advance(self, contexts: Contexts, pattern: Pattern = PKA, last: bool = False) -> tuple[Contexts, list[KV]]:
        """One block of the conditions, each attending to itself alone: spatial ones in windows, subjects in full.

        After the `last` block nobody needs the tokens; they are left as they were.
        """
        q, k, v, modulation = self.project(contexts)
        kvs = [KV(k[:, :, p.place], v[:, :, p.place], p.present, self.bias[p.number]) for p in contexts.parts]
        if last:
            return contexts, kvs
        attended = [
            local_attention(q[:, :, part.place], kv.k, kv.v, part.grid, pattern.inner_window)
            if part.spatial and pattern.aligned
            else nn.functional.scaled_dot_product_attention(q[:, :, part.place], kv.k, kv.v)
            for part, kv in zip(contexts.parts, kvs, strict=True)
        ]
        return self.finish(contexts, torch.cat(attended, dim=2), modulation), kvs

    def forward(
        self,
        state: State,
        grid: tuple[int, int],
        conditions: Sequence[KV],
        subjects: Sequence[KV],
        scopes: Sequence[Tensor] | Tensor,
        pattern: Pattern = PKA,
        observe: Callable[[Tensor, Tensor], None] | None = None,
    ) -> State:
        """One block of image and text.

        Args:
            state: image and text tokens.
            conditions, subjects: this block's entry of the cache.
            scopes: see `pka_attention`.
            observe: called with image queries and text keys, for `keyword_relevance`.
        """
        words, count = state.text.shape[1], state.image.shape[1]
        image, text = slice(words, words + count), slice(0, words)
        everywhere = torch.ones(count, dtype=torch.bool, device=state.image.device)
        if not pattern.scoped:
            scopes = [everywhere] * len(subjects)
        if not pattern.aligned:  # a condition seen in full is treated like a subject that is seen everywhere
            subjects = [*conditions, *subjects]
            scopes = [everywhere] * len(conditions) + (
                list(scopes.unbind(1)) if isinstance(scopes, Tensor) else list(scopes)
            )
            conditions = []

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if observe is not None:
                observe(q[:, :, image], k[:, :, text])
            return pka_attention(q, k, v, image, text, conditions, pattern.window, grid, subjects, scopes)

        return self.block(state, attend)

    def together(self, state: State, contexts: Contexts) -> tuple[State, Contexts]:
        """Concatenate-and-attend, the design PKA replaces: image, text and all conditions attend to all."""
        block = self.block
        image, text = block.image.modulate(state.vector), block.text.modulate(state.vector)
        *own, modulation = self.project(contexts)
        streams = [
            block.text.project(state.text, text, state.text_rotary),
            block.image.project(state.image, image, state.rotary),
            own,
        ]
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*streams, strict=True))
        batch, words, count = len(q), state.text.shape[1], state.image.shape[1]
        bias = [q.new_zeros(batch, words + count)]
        for part in contexts.parts:
            column = self.bias[part.number].to(q.dtype).expand(batch, part.place.stop - part.place.start)
            bias.append(column if part.present is None else column.masked_fill(~part.present[:, None], UNSEEN))
        attended = _attention_with_bias(q, k, v, torch.cat(bias, dim=1))
        state = replace(
            state,
            image=block.image.finish(state.image, attended[:, :, words : words + count], image),
            text=block.text.finish(state.text, attended[:, :, :words], text),
        )
        return state, self.finish(contexts, attended[:, :, words + count :], modulation)


class MultiConditionDiT(nn.Module):
    """A pretrained `DiT` with spatial conditions and subjects; only LoRA and the condition embedders train.

    Args:
        base: pretrained; frozen.
        spatial: channels of every spatial condition, such as `(1, 1)` for edges and depth.
        subjects: largest number of subjects.
        rank: of the LoRA.
        pattern: who attends to whom.
        weights: for every spatial condition, then every subject, how many image keys one of its keys counts for at the
            start (learned afterwards); 1 when None. A window of w^2 keys that stands for all h w cells wants about
            `h w / w^2`, else what a condition says is drowned at first.

    Raises:
        ValueError: another number of weights than of conditions and subjects.
    """

    def __init__(
        self,
        base: DiT,
        spatial: Sequence[int] = (1, 1),
        subjects: int = 1,
        rank: int = 16,
        pattern: Pattern = PKA,
        weights: Sequence[float] | None = None,
    ):
        super().__init__()
        weights = [1.0] * (len(spatial) + subjects) if weights is None else list(weights)
        if len(weights) != len(spatial) + subjects:
            raise ValueError(f"{len(weights)} weights for {len(spatial)} conditions and {subjects} subjects")
        self.base = base.requires_grad_(False)
        self.pattern = pattern
        self.embedders = nn.ModuleList(nn.Linear(c * base.patch**2, base.width) for c in spatial)
        self.subject_embedder = nn.Linear(base.channels * base.patch**2, base.width)
        with torch.no_grad():  # a subject is a picture: start from how the base model reads pictures
            self.subject_embedder.weight.copy_(base.embed.weight)
            self.subject_embedder.bias.copy_(base.embed.bias)
        self.subjects = subjects
        self.blocks = nn.ModuleList(MultiConditionBlock(block, rank, weights) for block in base.blocks)

    def trainable(self) -> list[nn.Parameter]:
        """LoRA and condition embedders."""
        return [p for p in self.parameters() if p.requires_grad]

    def contexts(
        self,
        conditions: Sequence[Tensor],
        subjects: Sequence[Tensor] = (),
        present: Sequence[Tensor | None] | None = None,
    ) -> Contexts:
        """Condition pictures as tokens before the first block.

        Args:
            conditions: K pictures `(B, C_k, H, W)`. subjects: J pictures `(B, C, h, w)`.
            present: for each of them, conditions first, bool `(B,)` or None.

        Raises:
            ValueError: more conditions or subjects than the model was made for.
        """
        if len(conditions) > len(self.embedders) or len(subjects) > self.subjects:
            raise ValueError(
                f"{len(conditions)} conditions and {len(subjects)} subjects; the model was made for at most "
                f"{len(self.embedders)} and {self.subjects}"
            )
        pictures = [*conditions, *subjects]
        tokens, rotaries, parts = [], [], []
        start = 0
        for number, picture in enumerate(pictures):
            spatial = number < len(conditions)
            grid = (picture.shape[-2] // self.base.patch, picture.shape[-1] // self.base.patch)
            embed = self.embedders[number] if spatial else self.subject_embedder
            tokens.append(embed(patchify(picture, self.base.patch)))
            # Conditions lie on the image's own positions; subjects beside it, so no cell is mistaken for another.
            aside = (0.0, 0.0) if spatial else (0.0, 64.0 * (number - len(conditions) + 1))
            rotaries.append(self.base.rotary(grid, picture.device, aside))
            kind = number if spatial else len(self.embedders) + number - len(conditions)
            here = None if present is None else present[number]
            parts.append(Part(slice(start, start + grid[0] * grid[1]), grid, kind, spatial, here))
            start += grid[0] * grid[1]
        if not pictures:
            raise ValueError("no condition and no subject given; call the base model instead")
        joined = torch.cat(tokens, dim=1)
        rotary = tuple(torch.cat(part) for part in zip(*rotaries, strict=True))
        return Contexts(joined, self.base.vector(joined.new_zeros(1)), rotary, tuple(parts))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor,
        contexts: Contexts | Cache,
        scopes: Sequence[Tensor] | Tensor = (),
        spans: Tensor | Sequence[tuple[int, int]] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Velocity `(B, C, H, W)` and, with keyword `spans`, the mean relevance over blocks `(B, J, N)`.

        Args:
            contexts: from `contexts`, or (one-way patterns) the `Cache` of `cache_conditions`.
            scopes: see `pka_attention`; used by scoped patterns.
        """
        state = self.base.begin(x, t, text)
        grid = (x.shape[-2] // self.base.patch, x.shape[-1] // self.base.patch)
        maps: list[Tensor] = []

        def observe(q: Tensor, k: Tensor) -> None:
            maps.append(keyword_relevance(q.detach(), k.detach(), spans))

        if self.pattern.one_way:
            cache = contexts if isinstance(contexts, Cache) else cache_conditions(self, contexts)
            for block, near, scoped in zip(self.blocks, cache.conditions, cache.subjects, strict=True):
                state = block(state, grid, near, scoped, scopes, self.pattern, None if spans is None else observe)
        else:
            if isinstance(contexts, Cache):
                raise ValueError("conditions that look back at the image change at every step; pass contexts, no cache")
            for block in self.blocks:
                state, contexts = block.together(state, contexts)
        return self.base.end(state, x), torch.stack(maps).mean(dim=0) if maps else None


def cache_conditions(model: MultiConditionDiT, contexts: Contexts) -> Cache:
    """Keys and values of all conditions in all blocks; they depend neither on the time nor on image or text."""
    near, scoped = [], []
    for number, block in enumerate(model.blocks):
        contexts, kvs = block.advance(contexts, model.pattern, last=number + 1 == len(model.blocks))
        near.append([kv for kv, part in zip(kvs, contexts.parts, strict=True) if part.spatial])
        scoped.append([kv for kv, part in zip(kvs, contexts.parts, strict=True) if not part.spatial])
    return Cache(near, scoped)


@torch.no_grad()
def draw(
    model: MultiConditionDiT,
    noise: Tensor,
    text: Tensor,
    contexts: Contexts,
    times: Tensor,
    spans: Tensor | Sequence[tuple[int, int]] | None = None,
    tracker: ScopeTracker | None = None,
    guidance: float = 1.0,
    null_text: Tensor | None = None,
    scopes: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Draw pictures by Euler steps.

    Args:
        noise: `(B, C, H, W)`. text: `(B, T)`. times: falling, `(S + 1,)`.
        contexts: from `model.contexts`; cached here when the pattern allows.
        spans, tracker: keywords and how their scopes are kept; for scoped patterns.
        guidance: over the text only; other than 1 it needs `null_text` and doubles the calls.
        scopes: fixed scopes `(B, J, N)` instead of a tracker's.

    Returns:
        pictures `(B, C, H, W)` and the last scopes `(B, J, N)` (None without subjects in scope).
    """
    ready = cache_conditions(model, contexts) if model.pattern.one_way else contexts
    count = sum(not part.spatial for part in contexts.parts)
    scoped = model.pattern.one_way and model.pattern.scoped and count > 0
    if scoped and scopes is None and (tracker is None or spans is None):
        raise ValueError("subjects in scope need their keyword spans and a ScopeTracker, or fixed scopes")
    x, used = noise, scopes
    for now, later in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        t = x.new_full((len(x),), now)
        watch = scoped and scopes is None
        if watch:
            used = tracker.current(len(x), count, x.device)
        seen = used if scoped else ()
        velocity, relevance = model(x, t, text, ready, seen, spans if watch else None)
        if guidance != 1.0:
            if null_text is None:
                raise ValueError("guidance needs null_text, the words that stand for no caption")
            velocity = guided(velocity, model(x, t, null_text, ready, seen)[0], guidance)
        if watch:
            tracker.observe(relevance)
        x = x + (later - now) * velocity
    return x, used if scoped else None


def _attention_with_bias(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention with a number `(B, L)` added to all scores of a key, as one more channel: no score matrix is held."""
    size = q.shape[-1]
    column = (bias * math.sqrt(size))[:, None, :, None].expand(-1, q.shape[1], -1, -1)
    q = torch.cat([q, torch.ones_like(q[..., :1])], dim=-1)
    k = torch.cat([k, column], dim=-1)
    v = nn.functional.pad(v, (0, 1))
    return nn.functional.scaled_dot_product_attention(q, k, v, scale=1 / math.sqrt(size))[..., :size]


@dataclass
class SensitivitySampler:
    """Draws training times where the conditions matter (CSAS).

    `S(t) = E|v(x_t, t, c) - v(x_t, t, none)|^2 / E|v(x_t, t, c)|^2` is measured in bins of t, by decayed sums;
    times are drawn from `p_b = (1 - mix) / B + mix S_b^power / sum S^power`, uniform inside a bin. Bins not yet
    measured count with the mean of the others.

    Args:
        bins: B. mix: share of the reweighting, 0 is uniform. power: exponent.
        decay: of the sums, at each update that touches a bin.
        corrected: `weight` undoes the reweighting (unbiased for the uniform objective, only the variance changes);
            else it is one, and the reweighting is the objective.

    Source: 2602.06850 (idea); bins, mixture and correction are ours.
    """

    bins: int = 20
    mix: float = 0.8
    power: float = 1.0
    decay: float = 0.99
    corrected: bool = False
    changed: Tensor = field(init=False, repr=False)
    total: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.mix < 1:
            raise ValueError(f"mix {self.mix}: at least 0 and below 1 is needed, or some times are never drawn")
        self.changed, self.total = torch.zeros(self.bins), torch.zeros(self.bins)

    @torch.no_grad()
    def update(self, t: Tensor, v_cond: Tensor, v_free: Tensor) -> None:
        """Take in velocities with and without conditions, `(B, ...)`, at times `(B,)`."""
        place = self._bin(t)
        hits = torch.zeros(self.bins).index_add_(0, place, torch.ones(len(place)))
        share = torch.where(hits > 0, self.decay, 1.0)
        for sums, value in ((self.changed, v_cond - v_free), (self.total, v_cond)):
            size = value.float().square().flatten(1).mean(dim=1).cpu()
            sums.mul_(share).index_add_(0, place, size)

    def sensitivity(self) -> Tensor:
        """S of every bin, `(bins,)`."""
        known = self.total > 0
        if not known.any():
            return torch.ones(self.bins)
        measured = self.changed / self.total.clamp_min(torch.finfo(torch.float32).tiny)
        return torch.where(known, measured, measured[known].mean())

    def density(self) -> Tensor:
        """Probability of every bin, `(bins,)`; sums to 1."""
        weight = self.sensitivity().double() ** self.power
        if not weight.sum() > 0:
            weight = torch.ones_like(weight)
        return ((1 - self.mix) / self.bins + self.mix * weight / weight.sum()).float()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Times `(n,)` in (0, 1)."""
        place = torch.multinomial(self.density(), n, replacement=True, generator=generator)
        return (place + torch.rand(n, generator=generator)) / self.bins

    def weight(self, t: Tensor) -> Tensor:
        """Weights `(n,)` of the loss at drawn times: `(1 / B) / p_b` when corrected, else 1."""
        if not self.corrected:
            return torch.ones(len(t))
        return 1 / (self.bins * self.density()[self._bin(t)])

    def _bin(self, t: Tensor) -> Tensor:
        return (t.detach().cpu() * self.bins).long().clamp(0, self.bins - 1)
