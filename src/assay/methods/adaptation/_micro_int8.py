"""MicroBi-ConvLSTM in whole numbers: post-training quantisation and its exact simulation.

Batch normalisation is folded, weights get 8 bits and a scale per output channel (per gate row in the LSTM), activations
8 bits and a scale per tensor from calibration windows. Sums are 32-bit, rescaled by fixed-point multipliers; gates and
cell state are fixed point, the sigmoid is a table of 257 entries read with linear interpolation, and
tanh(z) = 2 sigmoid(2 z) - 1. Nothing but the last scaling of the logits is floating point.

    gate sum z:     Q12 in 16 bits (z in [-8, 8), saturating)
    sigmoid, tanh:  Q15
    cell state c:   Q12 in 16 bits, saturating
    hidden state h: 8 bits with scale 1/127

Source: 2602.06523 (that 8 bits after training suffice); the arithmetic is ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from assay.nn.quant import Affine, Ints, activation_range, affine, fixed_point, fold_batchnorm, quantize_weight, rescale

if TYPE_CHECKING:
    from assay.methods.adaptation.micro_conv_lstm import MicroBiConvLSTM

GATE_ONE = 1 << 12  # 1.0 of a gate sum and of the cell state
HIDDEN_SCALE = 1 / 127
SIGMOID = np.array([round(32768 / (1 + math.exp(8 - i / 16))) for i in range(257)], dtype=np.int64)  # Q15 on [-8, 8]


@dataclass(frozen=True)
class Stage:
    """A convolution with ReLU and pooling: codes `(O, I, k)`, bias `(O,)`, multiplier and shift `(O,)`."""

    weight: Ints
    weight_scale: NDArray[np.float64]
    bias: Ints
    mantissa: Ints
    shift: Ints
    pool: int
    input: Affine
    output: Affine


@dataclass(frozen=True)
class Direction:
    """One direction of the LSTM, gate rows in the order input, forget, cell, output.

    Codes of input weights `(4H, D)` and hidden weights `(4H, H)`, each with multipliers to Q12; bias `(4H,)` in Q12.
    """

    weight_in: Ints
    scale_in: NDArray[np.float64]
    mantissa_in: Ints
    shift_in: Ints
    weight_hidden: Ints
    scale_hidden: NDArray[np.float64]
    mantissa_hidden: Ints
    shift_hidden: Ints
    bias: Ints


@dataclass(frozen=True)
class QuantModel:
    """The quantised network.

    Attributes:
        window: length T of the calibration windows; the C header is made for it.
        readout: of the network.
        stages: convolutions, first to last.
        directions: forward, and backward when the network has it.
        head: codes `(K, D)`; head_scale `(K,)`, real scale of a code of weight times one of the hidden state.
        head_bias: `(K,)`, real.
    """

    channels: int
    window: int
    readout: str
    stages: tuple[Stage, ...]
    directions: tuple[Direction, ...]
    head: Ints
    head_scale: NDArray[np.float32]
    head_bias: NDArray[np.float32]

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the integer network, (B, C, T) -> (B, K) float32.

        Raises:
            ValueError: another number of channels.
        """
        if x.ndim != 3 or x.shape[1] != self.channels:
            raise ValueError(f"expected windows (B, {self.channels}, T), got {tuple(x.shape)}")
        sequence = self.sequence(x).transpose(0, 2, 1)
        hidden = np.concatenate(
            [run_direction(d, sequence[:, :: -1 if i else 1], self.readout) for i, d in enumerate(self.directions)],
            axis=1,
        )
        sums = (hidden @ self.head.T).astype(np.float32)
        if self.readout == "mean":
            sums /= np.float32(sequence.shape[1])
        return torch.from_numpy(sums * self.head_scale + self.head_bias)

    def sequence(self, x: Tensor) -> Ints:
        """Codes that the LSTM reads, `(B, D, T')`."""
        codes = self.stages[0].input.quantize(x).numpy()
        for stage in self.stages:
            codes = run_stage(stage, codes)
        return codes

    def state(self) -> dict[str, NDArray]:
        """What a device stores: int8 weights, int32 biases and multipliers, shifts, scales of the logits, the table."""
        found: dict[str, NDArray] = {"sigmoid": SIGMOID.astype(np.uint16)}
        for i, stage in enumerate(self.stages):
            found[f"conv{i}.weight"] = stage.weight.astype(np.int8)
            found[f"conv{i}.bias"] = stage.bias.astype(np.int32)
            found[f"conv{i}.mantissa"] = stage.mantissa.astype(np.int32)
            found[f"conv{i}.shift"] = stage.shift.astype(np.int8)
        for i, d in enumerate(self.directions):
            name = f"lstm{i}"
            found[f"{name}.weight_in"] = d.weight_in.astype(np.int8)
            found[f"{name}.weight_hidden"] = d.weight_hidden.astype(np.int8)
            found[f"{name}.bias"] = d.bias.astype(np.int32)
            for part in ("in", "hidden"):
                found[f"{name}.mantissa_{part}"] = getattr(d, f"mantissa_{part}").astype(np.int32)
                found[f"{name}.shift_{part}"] = getattr(d, f"shift_{part}").astype(np.int8)
        found |= {"head.weight": self.head.astype(np.int8), "head.scale": self.head_scale, "head.bias": self.head_bias}
        return found

    def flash_bytes(self) -> int:
        """Bytes of `state`."""
        return sum(array.nbytes for array in self.state().values())

    def to_c(self, path: str | Path, name: str = "micro") -> Path:
        """Write a C99 header that needs no library: constants and `int NAME_run(const float *x, float *logits)`.

        It takes one window of `window` steps, channels last, and returns the class; see the header's own comment.

        Raises:
            ValueError: a name that is no C identifier.
        """
        from assay.methods.adaptation._micro_c import header

        target = Path(path)
        target.write_text(header(self, name), encoding="ascii")
        return target


def quantize(model: MicroBiConvLSTM, calibration: Tensor, percentile: float = 99.99) -> QuantModel:
    """Quantise a trained network after training.

    Args:
        model: in evaluation mode or not; it is not changed.
        calibration: windows `(N, C, T)` that set the ranges of the activations; about 200 are enough.
        percentile: of the activations kept, see `assay.nn.quant.activation_range`.

    Raises:
        ValueError: a network without LSTM, or no calibration windows.
    """
    if model.lstm is None:
        raise ValueError("only a network with an LSTM is quantised here")
    if calibration.ndim != 3 or not len(calibration):
        raise ValueError(f"calibration needs windows (N, C, T), got {tuple(calibration.shape)}")
    stages = []
    with torch.no_grad():
        x = calibration.detach().cpu().float()
        before = affine(*activation_range(x, percentile=percentile))
        for conv, norm, size in zip(model.convs, model.norms, model.pool, strict=True):
            folded = fold_batchnorm(conv, norm).cpu()
            x = torch.relu(folded(x))
            x = F.max_pool1d(x, size) if size > 1 else x
            after = affine(0.0, activation_range(x, percentile=percentile)[1])
            stages.append(_stage(folded, before, after, size))
            before = after
    ways = ("", "_reverse") if model.lstm.bidirectional else ("",)
    head, scale = quantize_weight(model.head.weight.cpu())
    return QuantModel(
        channels=model.channels,
        window=calibration.shape[2],
        readout=model.readout,
        stages=tuple(stages),
        directions=tuple(_direction(model.lstm, way, before.scale) for way in ways),
        head=head.numpy(),
        head_scale=(scale.numpy() * HIDDEN_SCALE).astype(np.float32),
        head_bias=model.head.bias.detach().cpu().numpy().astype(np.float32),
    )


def accumulate(stage: Stage, codes: Ints) -> Ints:
    """32-bit sums of a convolution, bias included: `(B, I, T)` -> `(B, O, T)`; exact (doubles hold whole numbers)."""
    centred = torch.from_numpy(codes - stage.input.zero_point).double()
    weight = torch.from_numpy(stage.weight).double()
    sums = F.conv1d(centred, weight, padding=stage.weight.shape[2] // 2)
    return sums.numpy().astype(np.int64) + stage.bias[:, None]


def run_stage(stage: Stage, codes: Ints) -> Ints:
    """Convolution, ReLU, pooling: codes `(B, I, T)` -> `(B, O, T // pool)`."""
    sums = rescale(accumulate(stage, codes), stage.mantissa[:, None], stage.shift[:, None])
    out = np.clip(sums, 0, stage.output.high)
    steps = out.shape[2] // stage.pool
    return out[:, :, : steps * stage.pool].reshape(*out.shape[:2], steps, stage.pool).max(axis=3)


def run_direction(d: Direction, codes: Ints, readout: str) -> Ints:
    """LSTM over codes `(B, T, D)`: the last hidden state, or the sum of all, `(B, H)`."""
    cells = d.weight_hidden.shape[1]
    given = (codes.astype(np.float64) @ d.weight_in.T.astype(np.float64)).astype(np.int64)
    given = rescale(given, d.mantissa_in, d.shift_in) + d.bias
    hidden = np.zeros((len(codes), cells), dtype=np.int64)
    cell, total = np.zeros_like(hidden), np.zeros_like(hidden)
    for step in range(codes.shape[1]):
        z = _saturate(given[:, step] + rescale(hidden @ d.weight_hidden.T, d.mantissa_hidden, d.shift_hidden))
        i, f, g, o = (z[:, k * cells : (k + 1) * cells] for k in range(4))
        new = (sigmoid(f) * cell + (1 << 14)) >> 15
        cell = _saturate(new + ((sigmoid(i) * tanh(g) + (1 << 17)) >> 18))
        out = (sigmoid(o) * tanh(cell) + (1 << 14)) >> 15
        hidden = (out * 127 + (1 << 14)) >> 15
        total += hidden
    return total if readout == "mean" else hidden


def sigmoid(z: Ints) -> Ints:
    """Q12 -> Q15, by the table."""
    u = z + 32768
    i = u >> 8
    return SIGMOID[i] + (((SIGMOID[i + 1] - SIGMOID[i]) * (u & 255) + 128) >> 8)


def tanh(z: Ints) -> Ints:
    """Q12 -> Q15."""
    return 2 * sigmoid(_saturate(2 * z)) - 32768


def _saturate(x: Ints) -> Ints:
    return np.clip(x, -32768, 32767)


def _stage(conv: torch.nn.Module, before: Affine, after: Affine, pool: int) -> Stage:
    codes, scale = quantize_weight(conv.weight)
    unit = scale.numpy() * before.scale
    bias = np.clip(np.rint(conv.bias.detach().double().numpy() / unit), -(2**30), 2**30).astype(np.int64)
    mantissa, shift = _multipliers(unit / after.scale)
    return Stage(codes.numpy(), scale.numpy(), bias, mantissa, shift, pool, before, after)


def _direction(lstm: torch.nn.LSTM, way: str, input_scale: float) -> Direction:
    codes_in, scale_in = quantize_weight(getattr(lstm, f"weight_ih_l0{way}").cpu())
    codes_hidden, scale_hidden = quantize_weight(getattr(lstm, f"weight_hh_l0{way}").cpu())
    bias = (getattr(lstm, f"bias_ih_l0{way}") + getattr(lstm, f"bias_hh_l0{way}")).detach().cpu().double().numpy()
    return Direction(
        codes_in.numpy(),
        scale_in.numpy(),
        *_multipliers(scale_in.numpy() * input_scale * GATE_ONE),
        codes_hidden.numpy(),
        scale_hidden.numpy(),
        *_multipliers(scale_hidden.numpy() * HIDDEN_SCALE * GATE_ONE),
        np.rint(bias * GATE_ONE).astype(np.int64),
    )


def _multipliers(scales: NDArray[np.float64]) -> tuple[Ints, Ints]:
    pairs = np.array([fixed_point(float(s)) for s in scales], dtype=np.int64)
    return pairs[:, 0], pairs[:, 1]
