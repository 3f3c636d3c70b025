"""Low-rank adaptation of linear layers of our own modules (peft does it for Hugging Face models)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LoRA(nn.Module):
    """The low-rank change of a linear map: `(alpha / rank) * B A x`, with B = 0 at the start.

    Args:
        inputs, outputs: width of x `(..., inputs)` and of the result `(..., outputs)`.
        rank: rows of A.
        alpha: numerator of the scale; the rank itself when None (scale 1).

    Raises:
        ValueError: rank below 1.

    Source: LoRA (2106.09685).
    """

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float | None = None):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank {rank}: at least 1 is needed")
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        self.scale = (rank if alpha is None else alpha) / rank
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        change = F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))  # weights may be kept in float32
        return change if self.scale == 1 else self.scale * change

    def matrix(self) -> Tensor:
        """The change as a full matrix `(outputs, inputs)`."""
        return self.scale * (self.up @ self.down)


class LoRALinear(nn.Module):
    """A frozen linear layer and its low-rank change: `W x + b + (alpha / rank) * B A x`."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float | None = None):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.change = LoRA(base.in_features, base.out_features, rank, alpha).to(base.weight)
        self.enabled = True

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.change(x) if self.enabled else self.base(x)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One plain linear layer that computes the same."""
        plain = nn.Linear(self.base.in_features, self.base.out_features, self.base.bias is not None).to(
            self.base.weight
        )
        plain.weight.copy_(self.base.weight + self.change.matrix())
        if self.base.bias is not None:
            plain.bias.copy_(self.base.bias)
        return plain


def add_lora(module: nn.Module, chosen: Callable[[str], bool], rank: int, alpha: float | None = None) -> list[str]:
    """Wrap, in place, the linear layers whose dotted name is chosen; everything else is frozen.

    Returns:
        names of the wrapped layers.

    Raises:
        ValueError: no linear layer was chosen; the names to choose from are listed.
    """
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    names = [name for name in linear if chosen(name)]
    if not names:
        raise ValueError(f"no linear layer chosen for LoRA; choose from: {', '.join(linear) or 'none'}")
    module.requires_grad_(False)
    for name in names:
        _replace(module, name, LoRALinear(module.get_submodule(name), rank, alpha))
    return names


def merge_lora(module: nn.Module) -> nn.Module:
    """Replace, in place, every `LoRALinear` by one plain linear layer; returns the module."""
    for name, part in list(module.named_modules()):
        if isinstance(part, LoRALinear):
            _replace(module, name, part.merged())
    return module


def lora_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of every `LoRA` in a module."""
    for part in module.modules():
        if isinstance(part, LoRA):
            yield from part.parameters()


@contextmanager
def lora_disabled(module: nn.Module) -> Iterator[None]:
    """Inside the block every `LoRALinear` computes its frozen base alone."""
    wrapped = [part for part in module.modules() if isinstance(part, LoRALinear)]
    before = [part.enabled for part in wrapped]
    try:
        for part in wrapped:
            part.enabled = False
        yield
    finally:
        for part, enabled in zip(wrapped, before, strict=True):
            part.enabled = enabled


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, part)
