"""Mode experts: which tokens of one kind of data matter to another, learned without a given structure.

A mode is a set of tokens (the drugs of a trial, its diseases, its criteria). For every ordered pair x -> y of modes a
router gives each token of x a share p in (0, 1), an expert lets the tokens p x look at all tokens of y, and tokens with
p < theta are dropped. What is left of all experts is joined by self-attention and averaged into one logit.

Source: 2501.06823. Where the paper's public code differs from the idea, this module keeps the idea and the tests hold
the difference: in that code layers, experts and routers stay outside the model's parameters (`freeze_experts` gives
that model), its contrast does not contrast (`contrast="published"`), and its class weight scales the whole loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.methods.fusion._mode_losses import cauchy_loss, npair_loss, published_contrast
from assay.nn.grouped import GroupedLayer, GroupedLinear, sinusoids

__all__ = [
    "MEOut", "ModeExperts", "ResidualProjection", "cauchy_loss", "freeze_experts", "mode_loss", "npair_loss",
    "published_contrast",
]  # fmt: skip

Pair = tuple[str, str]
Contrast = Literal["npair", "published"]


@dataclass
class MEOut:
    """What the model says of a batch.

    Attributes:
        logit: (B,).
        probs: for x -> y the router's p, (B, L_x).
        keep: for x -> y the tokens of x that count, (B, L_x): not padded and p >= theta.
        real: for each mode its tokens that are not padded, (B, L).
        experts: for x -> y the expert's output, (B, L_x, E).
        contrast: the form of contrast the model is trained with.
    """

    logit: Tensor
    probs: dict[Pair, Tensor]
    keep: dict[Pair, Tensor]
    real: dict[str, Tensor]
    experts: dict[Pair, Tensor]
    contrast: Contrast = "npair"


class ResidualProjection(nn.Module):
    """W2 relu(W1 x) + S x with a hidden width of (D + E) / 2; S is the identity where D = E. (..., D) -> (..., E)"""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = (inputs + outputs) // 2
        self.main = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.shortcut(x)


class Routers(nn.Module):
    """R routers at once, p = sigmoid(W2 relu(W1 x) + S x). (R, B, L, E) -> (R, B, L)"""

    def __init__(self, routers: int, width: int) -> None:
        super().__init__()
        hidden = (width + 1) // 2
        self.up = GroupedLinear(routers, width, hidden)
        self.down = GroupedLinear(routers, hidden, 1)
        self.shortcut = GroupedLinear(routers, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.down(self.up(x).relu()) + self.shortcut(x)).squeeze(-1)


class ModeExperts(nn.Module):
    """Mode experts over M >= 2 modes.

        h_x  = layers_x(project_x(tokens_x) + positions)
        p_xy = sigmoid(router_xy(h_x));  keep_xy = not padded and p_xy >= theta
        z_xy = expert_xy(p_xy h_x, h_y)                         cross-attention, all tokens of y as keys and values
        logit = head(mean over kept slots of layers(concat z_xy + positions))

    A mode may come in parts (inclusion and exclusion criteria): parts share projection and layers and are attended
    separately, each has routers of its own, and as keys and in experts they are one mode.

    Layers and experts of all modes and pairs are computed together; modes are padded to one length for that.

    Args:
        dims: mode -> width of its tokens, in the order in which slots are joined.
        e: width E of the model.
        heads, layers: of every attention stack.
        theta: tokens with p below it are dropped; 0 drops none.
        pairs: ordered pairs with an expert; None for all M (M - 1). An empty tuple joins the modes' own tokens
            without any expert (the ablation `self-only`).
        reduce: pooling over kept slots.
        contrast: form of the contrast that `mode_loss` uses.
        parts: mode -> names of its parts, for modes in parts.
        dropout: in all layers.
        positions: add sinusoids to tokens and to slots. Without them the order of tokens in a mode has no effect.

    Raises:
        ValueError: fewer than two modes, theta outside [0, 1), an unknown mode in `pairs` or `parts`, or an odd
            reduction or contrast.

    Source: 2501.06823
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        e: int = 16,
        heads: int = 2,
        layers: int = 2,
        theta: float = 0.25,
        pairs: Sequence[Pair] | None = None,
        reduce: Literal["mean", "sum"] = "mean",
        contrast: Contrast = "npair",
        *,
        parts: Mapping[str, Sequence[str]] | None = None,
        dropout: float = 0.005,
        positions: bool = True,
    ) -> None:
        super().__init__()
        self.modes = tuple(dims)
        self.pairs: tuple[Pair, ...] = tuple(permutations(self.modes, 2) if pairs is None else pairs)
        self.parts = {mode: tuple((parts or {}).get(mode, (mode,))) for mode in self.modes}
        _check(self.modes, self.pairs, parts or {}, theta, reduce, contrast)
        self.e, self.theta, self.reduce, self.contrast, self.positions = e, theta, reduce, contrast, positions
        self.streams = tuple((mode, part) for mode in self.modes for part in self.parts[mode])
        self.routes = tuple((part, pair) for pair in self.pairs for part in self.parts[pair[0]])

        hidden = max(e // 2, 1)
        self.project = nn.ModuleDict({mode: ResidualProjection(dims[mode], e) for mode in self.modes})
        self.mode_layers = nn.ModuleList(
            GroupedLayer(len(self.modes), e, heads, hidden, dropout) for _ in range(layers)
        )
        self.routers = Routers(len(self.routes), e) if self.pairs else None
        self.experts = nn.ModuleList(
            GroupedLayer(len(self.pairs), e, heads, hidden, dropout) for _ in range(layers if self.pairs else 0)
        )
        self.compensation = nn.ModuleList(GroupedLayer(1, e, heads, hidden, dropout) for _ in range(layers))
        self.head = ResidualProjection(e, 1)

    def forward(self, tokens: Mapping[str, Tensor], pad: Mapping[str, Tensor]) -> MEOut:
        """
        Args:
            tokens: part (or mode, where it has no parts) -> (B, L, D).
            pad: the same -> (B, L), true for padding. What stands in padded tokens has no effect.

        Raises:
            ValueError: a part is missing, shapes differ, or all modes of a row are padded.
        """
        self._check_batch(tokens, pad)
        states = self._states(tokens, pad)
        state = {mode: torch.cat([states[part] for part in self.parts[mode]], 1) for mode in self.modes}
        hidden = {mode: torch.cat([pad[part] for part in self.parts[mode]], 1) for mode in self.modes}
        real = {mode: ~mask for mode, mask in hidden.items()}
        if not self.pairs:
            slots, kept = torch.cat(list(state.values()), 1), torch.cat(list(real.values()), 1)
            return MEOut(self._join(slots, kept), {}, {}, real, {}, self.contrast)
        probs = self._route(states)
        keep = {(x, y): real[x] & (p >= self.theta) for (x, y), p in probs.items()}
        experts = self._experts(state, hidden, probs)
        slots = torch.cat([experts[pair] for pair in self.pairs], 1)
        kept = torch.cat([keep[pair] for pair in self.pairs], 1)
        return MEOut(self._join(slots, kept), probs, keep, real, experts, self.contrast)

    def _states(self, tokens: Mapping[str, Tensor], pad: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Self-attended tokens of every part. Parts of a mode share weights, so they are stacked along the batch."""
        most = max(len(parts) for parts in self.parts.values())
        length = max(tokens[part].shape[1] for _, part in self.streams)
        rows, masks = [], []
        for mode in self.modes:
            own = [self._embed(mode, tokens[part], pad[part]) for part in self.parts[mode]]
            own += [own[0].new_zeros(own[0].shape)] * (most - len(own))
            hide = [pad[part] for part in self.parts[mode]]
            hide += [torch.ones_like(hide[0])] * (most - len(hide))
            rows.append(torch.cat([_lengthen(x, length) for x in own]))
            masks.append(torch.cat([F.pad(m, (0, length - m.shape[1]), value=True) for m in hide]))
        x, mask = torch.stack(rows), torch.stack(masks)
        for layer in self.mode_layers:
            x = layer(x, x, mask)
        states = {}
        for g, mode in enumerate(self.modes):
            for part, state in zip(self.parts[mode], x[g].chunk(most), strict=False):
                states[part] = state[:, : tokens[part].shape[1]]
        return states

    def _embed(self, mode: str, x: Tensor, pad: Tensor) -> Tensor:
        state = self.project[mode](x.masked_fill(pad[..., None], 0.0))  # padding may hold anything, also NaN
        return state + sinusoids(x.shape[1], self.e).to(state) if self.positions else state

    def _route(self, states: Mapping[str, Tensor]) -> dict[Pair, Tensor]:
        assert self.routers is not None
        length = max(states[part].shape[1] for part, _ in self.routes)
        p = self.routers(torch.stack([_lengthen(states[part], length) for part, _ in self.routes]))
        by_pair: dict[Pair, list[Tensor]] = {}
        for (part, pair), row in zip(self.routes, p, strict=True):
            by_pair.setdefault(pair, []).append(row[:, : states[part].shape[1]])
        return {pair: torch.cat(by_pair[pair], 1) for pair in self.pairs}

    def _experts(
        self, state: Mapping[str, Tensor], hidden: Mapping[str, Tensor], probs: Mapping[Pair, Tensor]
    ) -> dict[Pair, Tensor]:
        length = max(x.shape[1] for x in state.values())
        query = torch.stack([_lengthen(probs[x, y][..., None] * state[x], length) for x, y in self.pairs])
        memory = torch.stack([_lengthen(state[y], length) for _, y in self.pairs])
        mask = torch.stack([F.pad(hidden[y], (0, length - hidden[y].shape[1]), value=True) for _, y in self.pairs])
        for layer in self.experts:
            query = layer(query, memory, mask)
        return {(x, y): query[g, :, : state[x].shape[1]] for g, (x, y) in enumerate(self.pairs)}

    def _join(self, slots: Tensor, kept: Tensor) -> Tensor:
        if self.positions:
            slots = slots + sinusoids(slots.shape[1], self.e).to(slots)
        for layer in self.compensation:
            slots = layer(slots[None], slots[None], ~kept[None])[0]
        total = (slots * kept[..., None]).sum(1)
        if self.reduce == "mean":
            total = total / kept.sum(1, keepdim=True).clamp(min=1)
        return self.head(total).squeeze(-1)

    def _check_batch(self, tokens: Mapping[str, Tensor], pad: Mapping[str, Tensor]) -> None:
        names = [part for _, part in self.streams]
        if missing := [name for name in names if name not in tokens or name not in pad]:
            raise ValueError(f"no tokens or no padding mask for {', '.join(missing)}; expected {', '.join(names)}")
        for name in names:
            if tokens[name].dim() != 3 or tokens[name].shape[:2] != pad[name].shape:
                raise ValueError(
                    f"{name}: tokens {tuple(tokens[name].shape)} and padding {tuple(pad[name].shape)}; "
                    "expected (B, L, D) and (B, L)"
                )
        empty = torch.stack([pad[name].all(1) for name in names]).all(0)
        if empty.any():
            raise ValueError(
                f"{int(empty.sum())} rows have no token in any mode, the first is row {int(empty.int().argmax())}"
            )


def freeze_experts(model: ModeExperts) -> ModeExperts:
    """Leave layers, routers and experts as they were drawn, and train projections, compensation and head only.

    This is what the public code does: there they lie in plain dictionaries, which a module does not look into.
    Returns the same model.
    """
    for part in (model.mode_layers, model.routers, model.experts):
        for parameter in part.parameters() if part is not None else ():
            parameter.requires_grad_(False)
    return model


def mode_loss(
    out: MEOut,
    y: Tensor,
    rho1: float = 0.05,
    rho2: float = 0.01,
    pos_weight: float | None = None,
    *,
    eps: float = 0.25,
    tau: float = 0.2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """BCE + rho1 * sum over x -> y of cauchy(p_xy) + rho2 * contrast, a scalar.

    Args:
        out: of `ModeExperts`.
        y: (B,) of 0 and 1.
        rho1, rho2: weights; a term of weight 0 is not computed.
        pos_weight: factor on the loss of positives, n_negative / n_positive to balance the classes.
        eps, tau: of the two terms.
        generator: draws the slots that the published contrast compares.
    """
    weight = None if pos_weight is None else out.logit.new_tensor(pos_weight)
    loss = F.binary_cross_entropy_with_logits(out.logit, y.to(out.logit), pos_weight=weight)
    if rho1 and out.probs:
        loss = loss + rho1 * torch.stack([cauchy_loss(p, eps, out.real[x]) for (x, _), p in out.probs.items()]).sum()
    if rho2 and out.experts:
        if out.contrast == "published":
            loss = loss + rho2 * published_contrast(out.experts, out.keep, tau, generator)
        else:
            loss = loss + rho2 * npair_loss(out.experts, out.keep, tau)
    return loss


def _lengthen(x: Tensor, length: int) -> Tensor:
    """(B, L, E) padded by zeros to (B, length, E)."""
    return F.pad(x, (0, 0, 0, length - x.shape[1]))


def _check(
    modes: Sequence[str],
    pairs: Sequence[Pair],
    parts: Mapping[str, Sequence[str]],
    theta: float,
    reduce: str,
    form: str,
) -> None:
    if len(modes) < 2:
        raise ValueError(f"mode experts need at least two modes, got {list(modes)}")
    if not 0 <= theta < 1:
        raise ValueError(f"theta must lie in [0, 1), got {theta}")
    if reduce not in ("mean", "sum") or form not in ("npair", "published"):
        raise ValueError(f"reduce is mean or sum and contrast npair or published, got {reduce!r} and {form!r}")
    if odd := [pair for pair in pairs if len(pair) != 2 or pair[0] == pair[1] or not set(pair) <= set(modes)]:
        raise ValueError(f"pairs must join two different modes of {list(modes)}, got {odd[0]}")
    if odd := [mode for mode in parts if mode not in modes]:
        raise ValueError(f"parts are given for {odd[0]!r}, which is none of the modes {list(modes)}")
