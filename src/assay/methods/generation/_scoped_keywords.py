"""Which image tokens a subject concerns: read from the attention to its keyword, kept over the sampling steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Span = tuple[int, int]


def span_mask(spans: Sequence[Span] | Tensor, length: int) -> Tensor:
    """Keyword spans as a mask over text tokens.

    Args:
        spans: `(start, stop)` of every subject's keyword; or a ready mask, `(J, T)` or `(B, J, T)`.
        length: T.

    Returns:
        bool `(J, T)` or `(B, J, T)`.

    Raises:
        ValueError: an empty span, or one that leaves the text.
    """
    if isinstance(spans, Tensor):
        mask = spans.bool()
        if mask.shape[-1] != length:
            raise ValueError(f"keyword mask over {mask.shape[-1]} tokens, the text has {length}")
    else:
        for start, stop in spans:
            if start < 0 or stop > length:
                raise ValueError(f"keyword span {start}:{stop} lies outside the text of {length} tokens")
        mask = torch.zeros(len(spans), length, dtype=torch.bool)
        for row, (start, stop) in zip(mask, spans, strict=True):
            row[start:stop] = True
    if not mask.any(dim=-1).all():
        raise ValueError("empty keyword span: every subject needs at least one token of the text")
    return mask


def keyword_relevance(q_image: Tensor, k_text: Tensor, spans: Sequence[Span] | Tensor) -> Tensor:
    """How much each image token attends to each subject's keyword, among the words.

    `a_ij = mean over heads of sum_{w in span j} softmax_text(q_i k_w / sqrt(D))`

    Args:
        q_image: `(B, H, N, D)`. k_text: `(B, H, T, D)`.
        spans: as in `span_mask`.

    Returns:
        `(B, J, N)`, between 0 and 1.

    Source: 2602.06850.
    """
    mask = span_mask(spans, k_text.shape[2]).to(q_image.device)
    attention = (q_image @ k_text.transpose(-1, -2) / math.sqrt(q_image.shape[-1])).float().softmax(dim=-1).mean(dim=1)
    return torch.einsum("bnt,bjt->bjn", attention, mask.float().expand(len(attention), -1, -1))


def scope(relevance: Tensor, grid: tuple[int, int], rho: float = 0.3, dilate: int = 1) -> Tensor:
    """The `ceil(rho N)` most relevant image tokens, grown by `dilate` cells on every side.

    Args:
        relevance: `(B, J, N)`.
        grid: rows and columns, `h w = N`.
        rho: share of tokens, in [0, 1].
        dilate: cells; 0 leaves exactly `ceil(rho N)`.

    Returns:
        bool `(B, J, N)`; for equal relevance the earlier token is taken, so that scopes of growing rho are nested.

    Raises:
        ValueError: rho outside [0, 1], or a grid of another size.
    """
    count = relevance.shape[-1]
    if not 0 <= rho <= 1:
        raise ValueError(f"rho {rho}: a share between 0 and 1 is needed")
    if grid[0] * grid[1] != count:
        raise ValueError(f"grid {grid} does not hold the {count} image tokens")
    order = relevance.argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(relevance, dtype=torch.bool)
    chosen.scatter_(-1, order[..., : math.ceil(rho * count)], True)
    return grow(chosen, grid, dilate)


def grow(chosen: Tensor, grid: tuple[int, int], cells: int) -> Tensor:
    """Dilate a bool map `(B, J, N)` on its grid by `cells` on every side."""
    if not cells:
        return chosen
    maps = chosen.reshape(-1, 1, *grid).float()
    return F.max_pool2d(maps, 2 * cells + 1, stride=1, padding=cells).reshape(chosen.shape) > 0


def scope_from_mask(mask: Tensor, grid: tuple[int, int], dilate: int = 1) -> Tensor:
    """Scope of a subject whose place is known (training data): the tokens its mask touches, grown by `dilate`.

    Args:
        mask: `(B, J, H, W)`, above zero where the subject is seen.
        grid: rows and columns of the image tokens.

    Returns:
        bool `(B, J, N)`.
    """
    touched = F.adaptive_max_pool2d(mask.float(), grid).flatten(-2) > 0
    return grow(touched, grid, dilate)


class ScopeTracker:
    """The scope of every subject along the sampling steps.

    During the first `free_steps` every image token sees every subject, because the picture is still noise and the
    attention to the keyword says little. After that the scope is that of the relevance seen so far,
    `R <- ema R + (1 - ema) a`, so a step uses the map of the steps before it.

    Args:
        grid: rows and columns of the image tokens.
        rho, dilate: as in `scope`.
        free_steps: steps without restriction; at least 1, for the first map.
        ema: share of the old map that is kept.
    """

    def __init__(self, grid: tuple[int, int], rho: float = 0.3, dilate: int = 1, free_steps: int = 2, ema: float = 0.5):
        if free_steps < 1:
            raise ValueError(f"free_steps {free_steps}: the first step has no map yet, at least 1 is needed")
        self.grid, self.rho, self.dilate, self.free_steps, self.ema = grid, rho, dilate, free_steps, ema
        self.step = 0
        self.relevance: Tensor | None = None

    def current(self, batch: int, subjects: int, device: torch.device | str = "cpu") -> Tensor:
        """Scopes for the coming step, bool `(B, J, N)`."""
        if self.step < self.free_steps or self.relevance is None:
            return torch.ones(batch, subjects, self.grid[0] * self.grid[1], dtype=torch.bool, device=device)
        return scope(self.relevance, self.grid, self.rho, self.dilate)

    def observe(self, relevance: Tensor) -> None:
        """Take in the relevance `(B, J, N)` of the step just done."""
        seen = relevance.detach()
        self.relevance = seen if self.relevance is None else self.ema * self.relevance + (1 - self.ema) * seen
        self.step += 1
