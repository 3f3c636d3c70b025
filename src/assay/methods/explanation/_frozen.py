"""A transformer read as a linear map whose coefficients depend on the input, and that map alone differentiated.

| operation | as coefficient times input | held fixed |
|---|---|---|
| layer normalisation | gamma * (x - mean(x)) / sigma + beta | 1 / sigma; taking the mean stays part of the map |
| attention | A v | A = softmax(q k^T / sqrt(d)) |
| GELU, SiLU, quick GELU, ReLU | g x | g = Phi(x), sigmoid(x), sigmoid(1.702 x), [x > 0] |

Values of the forward pass are those of the plain model to the bit; only the way back differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Rule = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
Rules = Mapping[type[nn.Module], Rule | None]

LINEAR = (
    nn.Linear, nn.Conv2d, nn.LayerNorm, nn.GELU, nn.SiLU, nn.ReLU, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Embedding,
    nn.Flatten, nn.Unflatten, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
)  # fmt: skip
NAMED = ("GELUActivation", "GELUTanh", "SiLUActivation", "LayerScale", "DropPath")  # ends of class names elsewhere


class UnsupportedLayer(ValueError):
    """A layer of the model is not known to be linear with input-dependent coefficients."""


class Operator(Protocol):
    """An affine map with its coefficients filled in."""

    def push(self, x: Tensor) -> Tensor:
        """The map."""
        ...

    def pull(self, g: Tensor) -> Tensor:
        """The adjoint of its linear part."""
        ...


@dataclass(frozen=True)
class Normalisation:
    """x -> gamma * (x - mean(x)) * inverse_sigma + beta, over the last `axes` axes."""

    inverse_sigma: Tensor
    gamma: Tensor | float
    beta: Tensor | float
    axes: int

    def push(self, x: Tensor) -> Tensor:
        return (x - x.mean(self._over, keepdim=True)) * self.inverse_sigma * self.gamma + self.beta

    def pull(self, g: Tensor) -> Tensor:
        scaled = g * self.gamma * self.inverse_sigma
        return scaled - scaled.mean(self._over, keepdim=True)

    @property
    def _over(self) -> tuple[int, ...]:
        return tuple(range(-self.axes, 0))


@dataclass(frozen=True)
class Gate:
    """x -> gate * x."""

    gate: Tensor

    def push(self, x: Tensor) -> Tensor:
        return x * self.gate

    pull = push


@dataclass(frozen=True)
class Mixing:
    """v -> A v, with A (..., N, N)."""

    weights: Tensor

    def push(self, x: Tensor) -> Tensor:
        return self.weights @ x

    def pull(self, g: Tensor) -> Tensor:
        return self.weights.transpose(-2, -1) @ g


@dataclass(frozen=True)
class Constant:
    """What is a coefficient as a whole: softmax, and sigmoid or tanh inside an activation."""

    value: Tensor

    def push(self, x: Tensor) -> Tensor:
        return self.value

    def pull(self, g: Tensor) -> Tensor:
        return torch.zeros_like(g)


Tape = list[Operator]


@contextmanager
def frozen_operators(model: nn.Module, *, rules: Rules | None = None, keep: bool = False) -> Iterator[Tape]:
    """Within the block, gradients of the model are those of its effective map.

    Works on every model whose attention is `softmax` or `scaled_dot_product_attention`, in particular `assay.nn.vit`
    and `ViT`, `DeiT`, `Dinov2` and `CLIPVision` models of Hugging Face with eager or sdpa attention. Forward values do
    not change, the model is not changed, and everything is as before when the block ends.

    Args:
        model: in eval mode.
        rules: for layers of your own, class -> `rule(module, x) -> (linear, gate)` with module(x) = gate * linear and
            the gate held fixed (a B-cos layer: `linear` = W x, `gate` = |cos|^(B-1)); None declares a class linear.
        keep: fill the tape that is yielded with the operators in order of use, for `replayed_operators`.

    Raises:
        UnsupportedLayer: a layer is not known; it is named.
        ValueError: the model is in train mode.
    """
    rules = rules or {}
    check_layers(model, rules)
    tape: Tape = []
    with _Frozen(tape if keep else None, None) as mode, _ruled(model, rules, mode):
        yield tape


@contextmanager
def replayed_operators(model: nn.Module, tape: Tape, *, rules: Rules | None = None) -> Iterator[None]:
    """Within the block, the model is the affine map whose coefficients the tape holds, whatever it is given.

    One forward pass of the same batch size; differentiable as usual.
    """
    with _Frozen(None, iter(tape)) as mode, _ruled(model, rules or {}, mode):
        yield


def check_layers(model: nn.Module, rules: Rules | None = None) -> None:
    """Raise `UnsupportedLayer` or `ValueError` where `frozen_operators` would."""
    if model.training:
        raise ValueError("the model is in train mode, where dropout makes maps random; call model.eval() first")
    config: Any = getattr(model, "config", None)
    kernel = getattr(config, "_attn_implementation", None)
    if kernel not in (None, "eager", "sdpa"):
        raise UnsupportedLayer(
            f"attention {kernel!r} hides its weights; load the model with attn_implementation='sdpa'"
        )
    rules = rules or {}
    for name, module in model.named_modules():
        kind = type(module)
        if kind in rules:
            continue
        if "SwiGLU" in kind.__name__ or isinstance(module, nn.MultiheadAttention):
            raise UnsupportedLayer(f"{name}: {kind.__name__} is a product of two paths, not a gate on one")
        leaf = next(module.children(), None) is None
        if leaf and not isinstance(module, LINEAR) and not kind.__name__.endswith(NAMED) and _computes(module):
            raise UnsupportedLayer(
                f"{name or 'the model'}: {kind.__name__} is not known to be linear with input-dependent coefficients;"
                " give a rule for it"
            )


class _Frozen(TorchFunctionMode):
    """Replaces the operations of the table above; records their operators, or takes them from a tape."""

    def __init__(self, record: Tape | None, replay: Iterator[Operator] | None) -> None:
        super().__init__()
        self.record, self.replay = record, replay

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _HANDLED:
            return _HANDLED[func](self, func, *args, **kwargs)
        if func in _REFUSED:
            raise UnsupportedLayer(
                f"{getattr(func, '__name__', func)} is not known to be linear with fixed coefficients"
            )
        return func(*args, **kwargs)

    def finish(self, x: Tensor, make: Callable[[], tuple[Tensor, Operator]]) -> Tensor:
        """The value of an operation on x; its operator goes to the tape and becomes its way back."""
        if self.replay is not None:
            return next(self.replay).push(x)
        with torch.no_grad():
            value, operator = make()
        if self.record is not None:
            self.record.append(operator)
        return value if isinstance(operator, Constant) else _Value.apply(x, [value], operator.pull)


class _Value(torch.autograd.Function):
    """A given value whose gradient with respect to x is given too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: list[Tensor], pull: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.pull = pull
        return value[0]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        return ctx.pull(g), None, None


def _layer_norm(
    mode: _Frozen, func: Any, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *rest: Any
) -> Tensor:
    def make() -> tuple[Tensor, Operator]:
        value, _, inverse = torch.native_layer_norm(x, list(shape), weight, bias, eps)
        gamma, beta = (1.0 if weight is None else weight), (0.0 if bias is None else bias)
        return value, Normalisation(inverse, gamma, beta, len(shape))

    return mode.finish(x, make)


def _gelu(mode: _Frozen, func: Any, x: Tensor, approximate: str = "none") -> Tensor:
    def make() -> tuple[Tensor, Operator]:
        if approximate == "tanh":
            gate = 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        else:
            gate = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
        return func(x, approximate=approximate), Gate(gate)

    return mode.finish(x, make)


def _silu(mode: _Frozen, func: Any, x: Tensor, inplace: bool = False) -> Tensor:
    return mode.finish(x, lambda: (F.silu(x), Gate(torch.sigmoid(x))))


def _relu(mode: _Frozen, func: Any, x: Tensor, inplace: bool = False) -> Tensor:
    return mode.finish(x, lambda: (torch.relu(x), Gate((x > 0).to(x.dtype))))


def _constant(mode: _Frozen, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    def make() -> tuple[Tensor, Operator]:
        value = func(x, *args, **kwargs)
        return value, Constant(value)

    return mode.finish(x, make)


def _attention(
    mode: _Frozen, func: Any, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if is_causal or enable_gqa or dropout_p:
        raise UnsupportedLayer("attention is causal, grouped or drops weights")

    def make() -> tuple[Tensor, Operator]:
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return func(query, key, value, attn_mask=attn_mask, scale=scale), Mixing(torch.softmax(scores, dim=-1))

    return mode.finish(value, make)


_HANDLED: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.gelu: _gelu,
    F.silu: _silu,
    F.relu: _relu,
    torch.relu: _relu,
    F.scaled_dot_product_attention: _attention,
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _constant),
    **dict.fromkeys((torch.sigmoid, Tensor.sigmoid, F.sigmoid, torch.tanh, Tensor.tanh, F.tanh), _constant),
}
_REFUSED = {
    F.group_norm, F.instance_norm, F.batch_norm, F.rms_norm, F.multi_head_attention_forward, F.log_softmax, F.elu,
    F.mish, F.hardswish, F.softplus, F.glu, F.normalize, torch.exp, torch.log,
}  # fmt: skip


@contextmanager
def _ruled(model: nn.Module, rules: Rules, mode: _Frozen) -> Iterator[None]:
    """Modules that have a rule of their own compute by it."""
    changed = [(m, rules[type(m)]) for m in model.modules() if rules.get(type(m)) is not None]
    try:
        for module, rule in changed:
            module.forward = partial(_by_rule, mode, module.forward, module, rule)
        yield
    finally:
        for module, _ in changed:
            del module.forward


def _by_rule(mode: _Frozen, forward: Callable[..., Tensor], module: nn.Module, rule: Rule, x: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        linear, gate = rule(module, x)
        return mode.finish(linear, lambda: (forward(x), Gate(gate)))


def _computes(module: nn.Module) -> bool:
    """Whether a module without children does something of its own; containers that hold nothing do not."""
    return not isinstance(module, (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.Sequential))
