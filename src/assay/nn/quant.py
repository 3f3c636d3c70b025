"""Post-training quantisation: folding, ranges, scales, fake quantisation, and arithmetic a microcontroller has.

An affine quantiser maps a real x to q = clamp(round(x / s) + z, q_min, q_max) and back to (q - z) s. Weights use
z = 0 and one scale per output channel; activations use one scale and zero point per tensor.

Rounding is half away from zero here (`round_away`), as C integer code does it; scales that a device applies are fixed
point numbers (`fixed_point`, `rescale`), so that a simulation and the device agree to the last bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Ints = NDArray[np.int64]
Calibration = Literal["percentile", "entropy"]


@dataclass(frozen=True)
class Affine:
    """Scale and zero point of one tensor, with the least and largest code."""

    scale: float
    zero_point: int
    low: int = 0
    high: int = 255

    def quantize(self, x: Tensor) -> Tensor:
        """Codes of x, int64, same shape."""
        return (round_away(x.double() / self.scale) + self.zero_point).clamp(self.low, self.high).long()

    def dequantize(self, codes: Tensor) -> Tensor:
        """Real values of codes, float32."""
        return ((codes - self.zero_point).double() * self.scale).float()

    def fake(self, x: Tensor) -> Tensor:
        """Quantised and dequantised x; gradients pass straight through inside the range and are 0 outside."""
        inside = x.clamp((self.low - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale)
        return inside + (self.dequantize(self.quantize(x.detach())) - inside).detach()


def affine(low: float, high: float, bits: int = 8) -> Affine:
    """Unsigned quantiser of the range [low, high], widened to hold 0 so that 0 is exact.

    Raises:
        ValueError: a bound that is not finite, low > high, or bits outside 2..16.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ValueError(f"a range needs finite low <= high, got {low} and {high}")
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must lie in 2..16, got {bits}")
    low, high, top = min(low, 0.0), max(high, 0.0), 2**bits - 1
    scale = (high - low) / top
    scale = scale if scale > 1e-30 else 1.0
    return Affine(scale, int(min(max(math.floor(-low / scale + 0.5), 0), top)), 0, top)


def round_away(x: Tensor) -> Tensor:
    """Nearest whole number, halves away from zero."""
    return torch.trunc(x + torch.copysign(torch.full_like(x, 0.5), x))


def quantize_weight(weight: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Symmetric codes with one scale per row, s = max|w| / (2**(bits-1) - 1).

    Args:
        weight: `(O, ...)`, output channels first.

    Returns:
        Codes int64 `(O, ...)` and scales float64 `(O,)`; a row of zeros has scale 1. |w - s q| <= s / 2.
    """
    top = 2 ** (bits - 1) - 1
    rows = weight.detach().double().flatten(1)
    scale = rows.abs().amax(dim=1) / top
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = round_away(rows / scale[:, None]).clamp(-top, top).long()
    return codes.reshape(weight.shape), scale


def fold_batchnorm(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """A copy of a convolution (or linear layer) that also does the batch normalisation behind it.

    w' = w g / sqrt(v + eps), b' = (b - m) g / sqrt(v + eps) + beta, with the running mean m and variance v.

    Args:
        conv: `nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d` or `nn.Linear`.
        norm: a batch normalisation with running statistics over its outputs.

    Raises:
        ValueError: statistics are not tracked, or the channels differ.
    """
    mean, var = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
    if mean is None or var is None:
        raise ValueError("only a normalisation with running statistics can be folded")
    if len(mean) != conv.weight.shape[0]:
        raise ValueError(f"{conv.weight.shape[0]} output channels, but the normalisation has {len(mean)}")
    gain = torch.rsqrt(var.double() + norm.eps)
    gain = gain * norm.weight.detach().double() if norm.weight is not None else gain
    shift = norm.bias.detach().double() if norm.bias is not None else torch.zeros_like(gain)
    bias = conv.bias.detach().double() if conv.bias is not None else torch.zeros_like(gain)
    folded = copy.deepcopy(conv)
    shape = (-1,) + (1,) * (conv.weight.ndim - 1)
    dtype = conv.weight.dtype
    folded.weight = nn.Parameter((conv.weight.detach().double() * gain.reshape(shape)).to(dtype))
    folded.bias = nn.Parameter(((bias - mean.double()) * gain + shift).to(dtype))
    return folded


def activation_range(
    values: Tensor | Iterable[Tensor], how: Calibration = "percentile", percentile: float = 99.99, bits: int = 8
) -> tuple[float, float]:
    """Range of an activation to quantise, from a calibration sample.

    `"percentile"` keeps the middle: the given percentile and its mirror. `"entropy"` picks the symmetric clipping
    bound whose quantised histogram has the least Kullback-Leibler divergence from the observed one.

    Args:
        values: one tensor or several, any shapes.
        percentile: in (50, 100].

    Raises:
        ValueError: no values, values that are not finite, or an unknown rule.
    """
    parts = [values] if isinstance(values, Tensor) else list(values)
    x = np.concatenate([p.detach().cpu().numpy().astype(np.float64).ravel() for p in parts]) if parts else np.zeros(0)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError("calibration needs at least one value, and finite ones")
    if how == "percentile":
        if not 50 < percentile <= 100:
            raise ValueError(f"percentile must lie in (50, 100], got {percentile}")
        low, high = np.percentile(x, [100 - percentile, percentile])
        return float(low), float(high)
    if how == "entropy":
        bound = _entropy_bound(np.abs(x), 2 ** (bits - 1))
        return max(float(x.min()), -bound), min(float(x.max()), bound)
    raise ValueError(f"calibration is 'percentile' or 'entropy', not {how!r}")


def fixed_point(scale: float) -> tuple[int, int]:
    """A positive real as mantissa and shift: scale = m / 2**shift, m in [2**30, 2**31).

    Raises:
        ValueError: a scale that is not positive or needs a shift outside 1..62.
    """
    if not scale > 0 or not math.isfinite(scale):
        raise ValueError(f"a scale must be positive and finite, got {scale}")
    fraction, exponent = math.frexp(scale)
    mantissa = round(fraction * 2**31)
    if mantissa == 2**31:
        mantissa, exponent = 2**30, exponent + 1
    shift = 31 - exponent
    if shift > 62:  # a scale of practically nothing: fewer digits, still the same value
        mantissa, shift = mantissa >> min(shift - 62, 31), 62
    if shift < 1:
        raise ValueError(f"scale {scale} is too large for a 32-bit multiplier")
    return mantissa, shift


def rescale(accumulator: Ints, mantissa: Ints | int, shift: Ints | int) -> Ints:
    """floor(accumulator * mantissa / 2**shift + 1/2) in 64-bit integers; |accumulator| < 2**31."""
    shift = np.asarray(shift, dtype=np.int64)
    half = np.int64(1) << (shift - 1)
    return (np.asarray(accumulator, dtype=np.int64) * np.asarray(mantissa, dtype=np.int64) + half) >> shift


def _entropy_bound(magnitude: NDArray[np.float64], levels: int, bins: int = 2048) -> float:
    """Clipping bound of least divergence between the clipped histogram and its image in `levels` codes."""
    top = float(magnitude.max())
    if top == 0:
        return 0.0
    count, edges = np.histogram(magnitude, bins=bins, range=(0, top))
    count = count.astype(np.float64)
    best, bound = np.inf, top
    for keep in range(levels, bins + 1, 16):
        observed = count[:keep].copy()
        observed[-1] += count[keep:].sum()
        cell = np.arange(keep) * levels // keep
        used = count[:keep] > 0
        mass = np.bincount(cell, weights=count[:keep], minlength=levels)
        wide = np.bincount(cell, weights=used, minlength=levels)
        coded = np.where(used, (mass / np.maximum(wide, 1))[cell], 0)
        if not coded.sum():
            continue
        p, q = observed / observed.sum(), coded / coded.sum()
        q = np.maximum(q, 1e-12)
        divergence = float(np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0)))
        if divergence < best:
            best, bound = divergence, float(edges[keep])
    return bound
