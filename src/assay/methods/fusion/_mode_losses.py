"""The two terms that train mode experts beside the outcome: few tokens, and experts that tell pairs apart."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[str, str]


def cauchy_loss(p: Tensor, eps: float = 0.25, mask: Tensor | None = None) -> Tensor:
    """Mean of log(1 + (p / eps)^2): quadratic for p << eps, and its pull 2p / (eps^2 + p^2) is strongest at p = eps.

    A token that is worth much to the outcome keeps its large p at little cost, all others go to zero.

    Args:
        p: any shape.
        eps: where the pull is strongest.
        mask: same shape, true where p counts; None: everywhere. A mean over nothing is 0.

    Raises:
        ValueError: eps is not positive.

    Source: 2501.06823
    """
    if eps <= 0:
        raise ValueError(f"eps must be positive, got {eps}")
    cost = torch.log1p((p / eps) ** 2)
    if mask is None:
        return cost.mean()
    return (cost * mask).sum() / mask.sum().clamp(min=1)


def npair_loss(experts: Mapping[Pair, Tensor], keep: Mapping[Pair, Tensor], tau: float = 0.2) -> Tensor:
    """The two experts between the same modes should agree, experts between different ones should not.

        - log exp(s(xy, yx)) / (exp(s(xy, yx)) + sum over other pairs v of exp(s(xy, v))),  s = cosine / tau

    with z the mean of an expert's kept outputs; averaged over experts and rows in which both directions keep a token.
    Two modes have nothing to be told apart from: the loss is then 0. So it is where no row keeps enough.

    Args:
        experts: x -> y: (B, L_x, E).
        keep: x -> y: (B, L_x), true for tokens that count.
        tau: temperature.

    Raises:
        ValueError: tau is not positive.

    Source: 2501.06823; the form is ours.
    """
    if tau <= 0:
        raise ValueError(f"tau must be positive, got {tau}")
    names = [pair for pair in experts if pair[::-1] in experts]
    if not names:
        return torch.zeros((), device=next(iter(experts.values())).device) if experts else torch.zeros(())
    z = torch.stack([_pooled(experts[pair], keep[pair]) for pair in names], 1)  # (B, P, E)
    there = torch.stack([keep[pair].any(1) for pair in names], 1)  # (B, P)
    similarity = z @ z.transpose(1, 2) / tau  # (B, P, P)
    opposite = torch.tensor([names.index(pair[::-1]) for pair in names], device=z.device)
    rows = torch.arange(len(names), device=z.device)
    other = torch.tensor([[set(a) != set(b) for b in names] for a in names], device=z.device)
    positive = similarity[:, rows, opposite]
    negative = similarity.masked_fill(~(other & there[:, None, :]), -torch.inf)
    loss = torch.logsumexp(torch.cat([positive[..., None], negative], -1), -1) - positive
    counts = there & there[:, opposite]
    return (loss * counts).sum() / counts.sum().clamp(min=1)


def published_contrast(
    experts: Mapping[Pair, Tensor],
    keep: Mapping[Pair, Tensor],
    tau: float = 0.2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The contrast as the paper's public code has it, kept for comparison; it does not contrast.

        - mean over slots of log_softmax(pos / tau) + log_softmax(neg / tau)

    pos (B, K) sums, over unordered pairs, the cosines of the two directions' slots after a random shuffle of each; neg
    does so over chains x -> y, y -> z. Both enter alike: exchange them and nothing changes. The softmax runs over
    slots, so the loss only asks slots to be equally similar.

    Args:
        experts, keep, tau: as in `npair_loss`.
        generator: draws the shuffles.
    """
    names = list(experts)
    same = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a == b[::-1]]
    chained = [(a, b) for a in names for b in names if a[1] == b[0] and a[0] != b[1]]
    terms = [_slot_similarity(experts, keep, pairs, generator) for pairs in (same, chained) if pairs]
    return -torch.stack([F.log_softmax(term / tau, -1).mean() for term in terms]).sum()


def _slot_similarity(
    experts: Mapping[Pair, Tensor],
    keep: Mapping[Pair, Tensor],
    pairs: list[tuple[Pair, Pair]],
    generator: torch.Generator | None,
) -> Tensor:
    """Sum over pairs of experts of the cosines of their shuffled slots, cut to the shortest, (B, K)."""
    shortest = min(experts[name].shape[1] for pair in pairs for name in pair)

    def shuffled(name: Pair) -> Tensor:
        x = experts[name] * keep[name][..., None]
        return x[:, torch.randperm(x.shape[1], generator=generator).to(x.device)[:shortest]]

    return torch.stack([F.cosine_similarity(shuffled(a), shuffled(b), dim=-1) for a, b in pairs]).sum(0)


def _pooled(x: Tensor, keep: Tensor) -> Tensor:
    """Mean of kept tokens scaled to length 1; zero where none is kept. (B, L, E), (B, L) -> (B, E)"""
    return F.normalize((x * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp(min=1), dim=-1)
