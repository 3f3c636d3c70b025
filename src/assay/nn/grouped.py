"""G transformer layers of one shape side by side, each with weights of its own, computed together.

Small layers cost more in calls than in arithmetic; G of them as one batched product cost little more than one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GroupedLinear(nn.Module):
    """y_g = x_g W_g + b_g for g = 1..G, each started as `nn.Linear` starts.

    Args:
        groups: G.
        inputs, outputs: widths I and O.

    Shapes:
        (G, ..., I) -> (G, ..., O)
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(groups, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        flat = torch.baddbmm(self.bias, x.flatten(1, -2), self.weight)
        return flat.view(*x.shape[:-1], -1)


class GroupedNorm(nn.Module):
    """Layer normalisation over the last axis with a gain and an offset a group. (G, ..., E) -> (G, ..., E)"""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, width))
        self.bias = nn.Parameter(torch.zeros(groups, width))

    def forward(self, x: Tensor) -> Tensor:
        shape = (x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])
        return nn.functional.layer_norm(x, x.shape[-1:]) * self.weight.view(shape) + self.bias.view(shape)


class GroupedAttention(nn.Module):
    """Multi-head attention, softmax(q k' / sqrt(E / H)) v, in each group. A query that may look at no key gets zero.

    Args:
        groups: G.
        width: E, a multiple of `heads`.
        heads: H.

    Raises:
        ValueError: `heads` does not divide `width`.
    """

    def __init__(self, groups: int, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query = GroupedLinear(groups, width, width)
        self.key_value = GroupedLinear(groups, width, 2 * width)
        self.out = GroupedLinear(groups, width, width)

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """
        Args:
            x: (G, B, L, E) queries.
            memory: (G, B, S, E) what is looked at.
            hidden: (G, B, S), true where a key must not be looked at.

        Returns:
            (G, B, L, E).
        """
        G, B, L, E = x.shape
        S, H = memory.shape[2], self.heads
        q = self.query(x).view(G * B, L, H, E // H).transpose(1, 2)
        k, v = self.key_value(memory).view(G * B, S, 2, H, E // H).permute(2, 0, 3, 1, 4)
        far = hidden.view(G * B, 1, 1, S) * -1e9
        score = (q / math.sqrt(E // H)) @ k.transpose(2, 3) + far
        # A softmax in four steps: torch's own is several times slower over so few keys. Nothing seen gives equal
        # weights here and is set to zero below.
        weight = (score - score.detach().amax(-1, keepdim=True)).exp()
        mixed = (weight / weight.sum(-1, keepdim=True)) @ v
        out = self.out(mixed.transpose(1, 2).reshape(G, B, L, E))
        return out.masked_fill(hidden.all(-1)[:, :, None, None], 0.0)


class GroupedLayer(nn.Module):
    """Post-norm transformer layer in each group.

        y = norm(x + drop(attention(x, memory)))
        z = norm(y + drop(W2 drop(relu(W1 y))))

    Args:
        groups: G.
        width: E.
        heads: H.
        hidden: width of the feed-forward part.
        dropout: share of units dropped in training.
    """

    def __init__(self, groups: int, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = GroupedAttention(groups, width, heads)
        self.norm = GroupedNorm(groups, width)
        self.up = GroupedLinear(groups, width, hidden)
        self.down = GroupedLinear(groups, hidden, width)
        self.norm_out = GroupedNorm(groups, width)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """Shapes as in `GroupedAttention.forward`."""
        y = self.norm(x + self.drop(self.attention(x, memory, hidden)))
        return self.norm_out(y + self.drop(self.down(self.drop(self.up(y).relu()))))


def sinusoids(length: int, width: int) -> Tensor:
    """(L, E): sin(t w_k) in even and cos(t w_k) in odd columns, w_k = 10000 ** (-2k / E)."""
    even = width + width % 2
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, even, 2) * (-math.log(10_000.0) / even))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]
