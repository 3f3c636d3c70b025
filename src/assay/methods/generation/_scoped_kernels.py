"""Attention over image, text, position-aligned conditions and keyword-scoped subjects: one softmax, few pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# Stands for "not seen". Finite, so that rows without any key have a gradient (zero) instead of NaN.
UNSEEN = -1e5


@dataclass(frozen=True)
class KV:
    """Keys and values of one spatial condition or one subject.

    Attributes:
        k, v: `(B, H, N, D)` for a condition on the image's grid, `(B, H, M, D)` for a subject.
            A batch of 1 serves every sample.
        present: `(B,)` bool; False where a sample goes without (dropped in training). None: everywhere present.
        bias: a number added to every score of these keys, `log` of how much more they weigh; None: nothing.
    """

    k: Tensor
    v: Tensor
    present: Tensor | None = None
    bias: Tensor | None = None


Partial = tuple[Tensor, Tensor]
"""An attention over some of the keys: output `(B, H, Q, D)` and log of the summed exponentials `(B, H, Q)`."""


def pka_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    image_slice: slice,
    text_slice: slice,
    conditions: Sequence[KV] = (),
    window: int = 1,
    grid: tuple[int, int] | None = None,
    subjects: Sequence[KV] = (),
    scopes: Sequence[Tensor] | Tensor = (),
) -> Tensor:
    """Joint attention in which an image token sees of each condition its own place, of each subject its scope.

    For image token i at grid position p the softmax runs over

        text and image keys,  condition keys in the window around p,  keys of subject j if i is in scope j

    and for text tokens over text and image keys alone. The three parts are computed apart and merged exactly by
    their log-sum-exp: `out = sum_a exp(lse_a - lse) out_a`, `lse = log sum_a exp(lse_a)`. No mask over all pairs is
    built; the cost is `(N + T)^2 + N K w^2 + sum_j |scope_j| M` pairs of keys and queries (`pair_count`).

    Args:
        q, k, v: joint sequence of text and image, `(B, H, N + T, D)`.
        image_slice, text_slice: where the N image and T text tokens stand in it; together they cover it.
        conditions: K conditions with one token for each image token.
        window: side of the window, odd (cells).
        grid: rows and columns of the image tokens; needed with conditions.
        subjects: J subjects with tokens of their own.
        scopes: for every subject the image tokens that see it, bool `(N,)` or `(B, N)`; a tensor `(B, J, N)` also.

    Returns:
        `(B, H, N + T, D)`.

    Raises:
        ValueError: an even window, a condition on another grid, a scope missing or of the wrong length.

    Source: 2602.06850 (the merge, and who else attends, are ours).
    """
    count = _checked(q, image_slice, text_slice, conditions, window, grid, subjects, scopes)
    if not conditions and not subjects:
        return F.scaled_dot_product_attention(q, k, v)
    dense, dense_sum = _attend(q, k, v)
    q_image = q[:, :, image_slice]
    parts: list[Partial] = [(dense[:, :, image_slice], dense_sum[:, :, image_slice])]
    if conditions:
        assert grid is not None
        parts.append(_window_part(q_image, conditions, grid, window))
    parts += [
        _scoped_part(q_image, kv, _batched(seen, len(q), count))
        for kv, seen in zip(subjects, _listed(scopes), strict=True)
    ]
    image = merge(parts)
    text = dense[:, :, text_slice]
    return torch.cat([text, image] if text_slice.start < image_slice.start else [image, text], dim=2)


def merge(parts: Sequence[Partial]) -> Tensor:
    """One attention from attentions over disjoint keys: weights `exp(lse_a - lse)`. Output `(B, H, Q, D)`."""
    sums = torch.stack([part[1] for part in parts])
    weights = (sums - sums.logsumexp(dim=0)).exp().unsqueeze(-1)
    return sum(weight.to(part[0].dtype) * part[0] for weight, part in zip(weights, parts, strict=True))


def local_attention(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], window: int = 3) -> Tensor:
    """Attention of the tokens of one grid to the `window` x `window` cells around each, `(B, H, N, D)`."""
    index, inside = window_index(grid, window)
    count = q.shape[2]
    if count <= 64:  # few cells: gathering the windows costs more than the scores that the mask throws away
        near = (torch.zeros(count, count).scatter_add_(1, index, inside.float()) > 0).to(q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    return _window_part(q, [KV(k, v)], grid, window)[0]


def dense_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    image_slice: slice,
    text_slice: slice,
    conditions: Sequence[KV] = (),
    window: int = 1,
    grid: tuple[int, int] | None = None,
    subjects: Sequence[KV] = (),
    scopes: Sequence[Tensor] | Tensor = (),
) -> Tensor:
    """What `pka_attention` computes, by one softmax over all keys under an explicit mask. Slow; for tests."""
    seen = reference_mask(q, image_slice, text_slice, conditions, window, grid, subjects, scopes)
    keys = torch.cat([k, *(kv.k.expand(len(q), -1, -1, -1) for kv in (*conditions, *subjects))], dim=2)
    values = torch.cat([v, *(kv.v.expand(len(q), -1, -1, -1) for kv in (*conditions, *subjects))], dim=2)
    bias = [k.new_zeros(k.shape[2]), *(_bias(kv) + kv.k.new_zeros(kv.k.shape[2]) for kv in (*conditions, *subjects))]
    scores = q @ keys.transpose(-1, -2) / math.sqrt(q.shape[-1]) + torch.cat(bias)
    return scores.masked_fill(~seen[:, None], -math.inf).softmax(dim=-1) @ values


def reference_mask(
    q: Tensor,
    image_slice: slice,
    text_slice: slice,
    conditions: Sequence[KV] = (),
    window: int = 1,
    grid: tuple[int, int] | None = None,
    subjects: Sequence[KV] = (),
    scopes: Sequence[Tensor] | Tensor = (),
) -> Tensor:
    """Which query sees which key: bool `(B, N + T, N + T + K N + J M)`; text and image, conditions, subjects."""
    count = _checked(q, image_slice, text_slice, conditions, window, grid, subjects, scopes)
    batch, _, joint, _ = q.shape
    blocks = [torch.ones(batch, joint, joint, dtype=torch.bool, device=q.device)]
    for kv in conditions:
        index, inside = window_index(grid or (0, 0), window)
        near = torch.zeros(count, count).scatter_add_(1, index, inside.float()) > 0
        block = torch.zeros(batch, joint, count, dtype=torch.bool, device=q.device)
        block[:, image_slice] = near.to(q.device) & _present(kv, batch)[:, None, None]
        blocks.append(block)
    for kv, scope_j in zip(subjects, _listed(scopes), strict=True):
        block = torch.zeros(batch, joint, kv.k.shape[2], dtype=torch.bool, device=q.device)
        block[:, image_slice] = (_batched(scope_j, batch, count) & _present(kv, batch)[:, None])[..., None]
        blocks.append(block)
    return torch.cat(blocks, dim=-1)


@lru_cache(maxsize=32)
def window_index(grid: tuple[int, int], window: int) -> tuple[Tensor, Tensor]:
    """The cells around every cell of a grid.

    Args:
        grid: rows and columns `(h, w)`.
        window: side, odd (cells).

    Returns:
        index `(N, window^2)` long, and whether the cell lies inside the grid, bool of the same shape
        (an outside cell points at the nearest inside one).

    Raises:
        ValueError: an even window.
    """
    _check_window(window)
    reach = torch.arange(window) - window // 2
    rows = torch.arange(grid[0])[:, None, None, None] + reach[:, None]
    columns = torch.arange(grid[1])[None, :, None, None] + reach[None, :]
    rows, columns = torch.broadcast_tensors(rows, columns)
    inside = (rows >= 0) & (rows < grid[0]) & (columns >= 0) & (columns < grid[1])
    index = rows.clamp(0, grid[0] - 1) * grid[1] + columns.clamp(0, grid[1] - 1)
    return index.reshape(-1, window**2), inside.reshape(-1, window**2)


def pair_count(
    n: int,
    t: int,
    k: int,
    window: int = 1,
    j: int = 0,
    m: int = 0,
    rho: float = 0.3,
    grid: tuple[int, int] | None = None,
    scoped: Sequence[int] | None = None,
) -> dict[str, float]:
    """Key-query pairs of one attention layer.

    Args:
        n, t: image and text tokens. k: spatial conditions of n tokens. window: side. j, m: subjects, tokens of each.
        rho: share of image tokens that see a subject, before dilation.
        grid: counts the windows cut by the border exactly; without it every window counts in full.
        scoped: the true sizes of the scopes; `ceil(rho n)` each when not given.

    Returns:
        `dense`: everything appended, everything attends, `(n + t + k n + j m)^2`;
        `cached`: conditions do not look back but are seen in full, `(n + t)^2 + n (k n + j m)`;
        `pka`: `(n + t)^2 + n k w^2 + sum_j |scope_j| m`;
        `once`: what the conditions spend among themselves, once per picture, `k n 9 + j m^2`.
    """
    _check_window(window)
    sizes = [math.ceil(rho * n)] * j if scoped is None else list(scoped)
    if len(sizes) != j:
        raise ValueError(f"{len(sizes)} scope sizes for {j} subjects")
    cells = n * window**2 if grid is None else int(window_index(grid, window)[1].sum())
    near = n * 9 if grid is None else int(window_index(grid, 3)[1].sum())
    return {
        "dense": float((n + t + k * n + j * m) ** 2),
        "cached": float((n + t) ** 2 + n * (k * n + j * m)),
        "pka": float((n + t) ** 2 + k * cells + sum(sizes) * m),
        "once": float(k * near + j * m**2),
    }


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """Attention to all keys. Without gradients the fused kernels are used, which never hold the score matrix."""
    if not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)):
        fused = _fused(q, k, v)
        if fused is not None:
            return fused
    scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])
    total = scores.logsumexp(dim=-1)
    return (scores - total.unsqueeze(-1)).exp().to(v.dtype) @ v, total


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Partial | None:
    # PyTorch's public attention keeps its log-sum-exp to itself; these operators hand it out. Other versions or
    # devices may lack them: then the plain formula serves.
    batch = q.shape[0]
    q, k, v = q.contiguous(), k.expand(batch, -1, -1, -1).contiguous(), v.expand(batch, -1, -1, -1).contiguous()
    try:
        if q.device.type == "cpu":
            out, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2]
        elif q.device.type == "cuda":
            out, total = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
        else:
            return None
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    return out, total[..., : q.shape[2]].float()


def _window_part(q: Tensor, conditions: Sequence[KV], grid: tuple[int, int], window: int) -> Partial:
    index, inside = (part.to(q.device) for part in window_index(grid, window))
    scores, values = [], []
    for kv in conditions:
        near_k, near_v = (x.unsqueeze(3) if window == 1 else x[:, :, index] for x in (kv.k, kv.v))
        score = (q.unsqueeze(3) * near_k).sum(dim=-1).float() / math.sqrt(q.shape[-1]) + _bias(kv)
        unseen = ~(inside & _present(kv, len(q))[:, None, None])[:, None]
        scores.append(score.masked_fill(unseen, UNSEEN))
        values.append(near_v)
    score = torch.cat(scores, dim=-1)
    total = score.logsumexp(dim=-1)
    weight = (score - total.unsqueeze(-1)).exp()
    shares = weight.to(q.dtype).split(window**2, dim=-1)
    return sum((share.unsqueeze(-1) * value).sum(dim=3) for share, value in zip(shares, values, strict=True)), total


def _scoped_part(q: Tensor, subject: KV, scope: Tensor) -> Partial:
    """Attention of the scoped rows alone; rows are gathered to the longest scope of the batch and scattered back."""
    scope = scope & _present(subject, len(q))[:, None]
    longest = int(scope.sum(dim=1).max())
    full = q.new_zeros(q.shape)
    total = torch.full(q.shape[:-1], UNSEEN, device=q.device)
    if not longest:
        return full, total
    rows = scope.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    valid = scope.gather(1, rows)
    wide = rows[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[-1])
    part, part_sum = _attend(q.gather(2, wide), subject.k, subject.v)
    part_sum = (part_sum + _bias(subject)).masked_fill(~valid[:, None], UNSEEN)
    return full.scatter(2, wide, part), total.scatter(2, wide[..., 0], part_sum)


def _checked(
    q: Tensor,
    image_slice: slice,
    text_slice: slice,
    conditions: Sequence[KV],
    window: int,
    grid: tuple[int, int] | None,
    subjects: Sequence[KV],
    scopes: Sequence[Tensor] | Tensor,
) -> int:
    """Number of image tokens, after checking that everything fits together."""
    _check_window(window)
    count, words = (len(range(*part.indices(q.shape[2]))) for part in (image_slice, text_slice))
    if count + words != q.shape[2]:
        raise ValueError(f"{count} image and {words} text tokens do not make up the sequence of {q.shape[2]}")
    if conditions and (grid is None or grid[0] * grid[1] != count):
        raise ValueError(f"grid {grid} does not hold the {count} image tokens")
    for number, kv in enumerate(conditions):
        if kv.k.shape[2] != count:
            raise ValueError(f"condition {number} has {kv.k.shape[2]} tokens, the image grid {grid} has {count}")
    listed = _listed(scopes)
    if len(listed) != len(subjects):
        raise ValueError(f"{len(listed)} scopes for {len(subjects)} subjects")
    for number, seen in enumerate(listed):
        if seen.shape[-1] != count:
            raise ValueError(f"scope {number} has {seen.shape[-1]} entries, the image has {count} tokens")
    return count


def _check_window(window: int) -> None:
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window {window}: an odd number of cells is needed, so that it has a centre")


def _listed(scopes: Sequence[Tensor] | Tensor) -> list[Tensor]:
    return list(scopes.unbind(1)) if isinstance(scopes, Tensor) else list(scopes)


def _batched(scope: Tensor, batch: int, count: int) -> Tensor:
    return scope.bool().expand(batch, count)


def _bias(kv: KV) -> Tensor | float:
    return 0.0 if kv.bias is None else kv.bias


def _present(kv: KV, batch: int) -> Tensor:
    if kv.present is None:
        return torch.ones(batch, dtype=torch.bool, device=kv.k.device)
    return kv.present.expand(batch)
