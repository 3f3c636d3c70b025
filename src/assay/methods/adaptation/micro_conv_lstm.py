"""MicroBi-ConvLSTM: activity recognition in about eleven thousand parameters.

Two convolution stages, each halving the window, shorten a sensor window fourfold; one bidirectional LSTM reads what is
left and a linear layer names the activity. With C channels and K classes, and the widths used here,

    parameters = 80 C + 33 K + 9104,
    MACs = 80 C T + 2560 (T/2) + 6144 (T/4) + 32 K, linear in the window length T.

The paper gives the layout and the average size, not the widths; those here are chosen to meet that size.
`quantize` makes the 8-bit network: whole numbers only, also as a C header and as ONNX.

Source: 2602.06523
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.methods.adaptation._har_peers import DeepConvLSTM, RandomKernels, TinierHAR
from assay.methods.adaptation._micro_fit import Fit, fit, predict
from assay.methods.adaptation._micro_int8 import QuantModel, quantize
from assay.methods.adaptation._micro_onnx import to_onnx

__all__ = [
    "DeepConvLSTM",
    "Fit",
    "MicroBiConvLSTM",
    "QuantModel",
    "RandomKernels",
    "TinierHAR",
    "fit",
    "flash_bytes",
    "macs",
    "predict",
    "quantize",
    "ram_bytes",
    "to_onnx",
]

Readout = Literal["last", "mean"]


class MicroBiConvLSTM(nn.Module):
    """Convolution stages with pooling, one LSTM layer, a linear classifier.

    Args:
        channels: sensor channels C.
        classes: activities K.
        widths: feature maps of each stage.
        kernel: width of the convolutions in steps, odd.
        hidden: LSTM units per direction; 0 leaves the LSTM out and averages over time instead.
        bidirectional: read the sequence both ways.
        pool: max-pooling after each stage; 1 pools nothing.
        readout: `"last"` takes each direction's last state, `"mean"` averages its states over time.
        dropout: before the classifier, in training.

    Shapes:
        (B, C, T) -> (B, K); T at least the product of `pool` (`length` says so).

    Raises:
        ValueError: sizes that make no network; in `forward` a wrong shape or a window that pooling leaves empty.

    Source: 2602.06523
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32),
        kernel: int = 5,
        hidden: int = 16,
        bidirectional: bool = True,
        pool: Sequence[int] = (2, 2),
        readout: Readout = "last",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if channels < 1 or classes < 1 or hidden < 0 or not widths or len(widths) != len(pool):
            raise ValueError(
                f"channels and classes must be positive and widths and pool of equal length, got {channels}, {classes},"
                f" {tuple(widths)} and {tuple(pool)}"
            )
        if kernel < 1 or kernel % 2 == 0 or min(pool) < 1:
            raise ValueError(f"kernel must be odd and pool at least 1, got {kernel} and {tuple(pool)}")
        if readout not in ("last", "mean"):
            raise ValueError(f"readout is 'last' or 'mean', not {readout!r}")
        self.channels, self.classes, self.pool, self.readout = channels, classes, tuple(pool), readout
        inputs = [channels, *widths[:-1]]
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, kernel, padding=kernel // 2) for a, b in zip(inputs, widths, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        self.lstm = nn.LSTM(widths[-1], hidden, batch_first=True, bidirectional=bidirectional) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden * (1 + bidirectional) if hidden else widths[-1], classes)

    def length(self, window: int) -> int:
        """Steps that the LSTM sees of a window of T steps: floor division by each pool in turn.

        Raises:
            ValueError: nothing is left.
        """
        steps = window
        for size in self.pool:
            steps //= size
        if steps < 1:
            least = 1
            for size in self.pool:
                least *= size
            raise ValueError(f"a window of {window} steps is too short: pooling needs at least {least}")
        return steps

    def sequence(self, x: Tensor) -> Tensor:
        """Output of the convolution stages, (B, C, T) -> (B, length(T), width)."""
        if x.ndim != 3 or x.shape[1] != self.channels:
            raise ValueError(f"expected windows (B, {self.channels}, T), got {tuple(x.shape)}")
        self.length(x.shape[2])
        for conv, norm, size in zip(self.convs, self.norms, self.pool, strict=True):
            x = torch.relu(norm(conv(x)))
            x = F.max_pool1d(x, size) if size > 1 else x
        return x.transpose(1, 2)

    def features(self, x: Tensor) -> Tensor:
        """What the classifier reads, (B, C, T) -> (B, D) with D = hidden per direction."""
        sequence = self.sequence(x)
        if self.lstm is None:
            return sequence.mean(dim=1)
        states, (last, _) = self.lstm(sequence)
        return states.mean(dim=1) if self.readout == "mean" else last.transpose(0, 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, C, T) -> (B, K)."""
        return self.head(self.dropout(self.features(x)))


def macs(model: MicroBiConvLSTM, length: int) -> int:
    """Multiply-accumulate operations of one window of `length` steps; linear in the length.

    Raises:
        ValueError: the window is too short.
    """
    model.length(length)
    total, steps = 0, length
    for conv, size in zip(model.convs, model.pool, strict=True):
        total += conv.weight.numel() * steps
        steps //= size
    if model.lstm is not None:
        total += steps * sum(p.numel() for name, p in model.lstm.named_parameters() if name.startswith("weight"))
    return total + model.head.weight.numel()


def ram_bytes(model: MicroBiConvLSTM, length: int, bits: int = 8) -> int:
    """Working memory (bytes) of one window: the largest pair of an input and an output held at one time.

    Convolution and pooling are one pass, so the unpooled map is never stored. The LSTM adds gate sums (32 bits), hidden
    and cell states, the classifier its logits.
    """
    model.length(length)
    value = bits // 8
    held, steps, width = [], length, model.channels
    for conv, size in zip(model.convs, model.pool, strict=True):
        inputs = steps * width * value
        steps, width = steps // size, conv.out_channels
        held.append(inputs + steps * width * value)
    tail = 4 * model.classes
    if model.lstm is not None:
        cell, ways = model.lstm.hidden_size, 1 + model.lstm.bidirectional
        tail += 4 * 4 * cell + ways * cell * value + cell * max(value, 2)
    held.append(steps * width * value + tail)
    return max(held)


def flash_bytes(model: MicroBiConvLSTM, bits: int = 8) -> int:
    """Constants to store (bytes): with 32 bits all parameters after folding, with 8 what `QuantModel` keeps.

    8 bits: one byte a weight, four a bias, five for each channel's multiplier and shift, and the sigmoid table.

    Raises:
        ValueError: bits other than 8 and 32.
    """
    weights = [conv.weight for conv in model.convs] + [model.head.weight]
    biases = sum(conv.out_channels for conv in model.convs) + model.classes
    rows = 0
    if model.lstm is not None:
        weights += [p for name, p in model.lstm.named_parameters() if name.startswith("weight")]
        rows = 4 * model.lstm.hidden_size * (1 + model.lstm.bidirectional)
    numbers = sum(weight.numel() for weight in weights)
    if bits == 32:
        return 4 * (numbers + biases + rows)
    if bits != 8:
        raise ValueError(f"bits is 8 or 32, got {bits}")
    convolved = sum(conv.out_channels for conv in model.convs)
    scales = 5 * convolved + 10 * rows + 4 * model.classes
    return numbers + 4 * (biases + rows) + scales + (514 if rows else 0)
