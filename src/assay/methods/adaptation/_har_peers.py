"""Peers of MicroBi-ConvLSTM in activity recognition: TinierHAR, DeepConvLSTM, random convolution kernels with ridge.

Sources: TinierHAR's layout follows its public code; DeepConvLSTM follows Ordonez and Roggen 2016; the kernels follow
MiniRocket (Dempster et al. 2021). Used in 2602.06523.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TinierHAR(nn.Module):
    """Residual depthwise-separable convolutions over time, sensors kept apart, then a bidirectional GRU with attention.

    Two blocks pool time by two each, `extra_blocks` further ones do not; block outputs have F, 2F, 2F, ... maps.

    Args:
        channels: sensors C. classes: K. filters: F. extra_blocks: blocks without pooling. gru: units per direction.

    Shapes:
        (B, C, T) -> (B, K), T at least 4; any T at one set of parameters.
    """

    def __init__(
        self, channels: int, classes: int, filters: int = 8, extra_blocks: int = 4, gru: int = 16, dropout: float = 0.5
    ) -> None:
        super().__init__()
        wide = 2 * filters
        blocks = [_Block(1, filters, pool=True), _Block(filters, wide, pool=True)]
        blocks += [_Block(wide, wide, pool=False) for _ in range(extra_blocks)]
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(wide * channels, gru, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * gru, 1)
        self.head = nn.Linear(2 * gru, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, C, T) -> (B, K)."""
        maps = self.blocks(x.transpose(1, 2).unsqueeze(1))  # (B, 2F, T/4, C)
        states, _ = self.gru(self.dropout(maps.transpose(1, 2).flatten(2)))
        weight = torch.softmax(self.attention(states), dim=1)
        return self.head((weight * states).sum(dim=1))


class DeepConvLSTM(nn.Module):
    """Four convolutions over time with sensors kept apart, two LSTM layers, a classifier on the last state.

    Args:
        channels: sensors C. classes: K. filters: maps of each convolution. hidden: LSTM units.

    Shapes:
        (B, C, T) -> (B, K), T at least 17.
    """

    def __init__(self, channels: int, classes: int, filters: int = 64, hidden: int = 128, dropout: float = 0.5) -> None:
        super().__init__()
        inputs = [1, filters, filters, filters]
        self.convs = nn.ModuleList(nn.Conv2d(width, filters, (5, 1)) for width in inputs)
        self.lstm = nn.LSTM(filters * channels, hidden, num_layers=2, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, C, T) -> (B, K)."""
        x = x.transpose(1, 2).unsqueeze(1)
        for conv in self.convs:
            x = torch.relu(conv(x))
        states, _ = self.lstm(self.dropout(x.transpose(1, 2).flatten(2)))
        return self.head(self.dropout(states[:, -1]))


class RandomKernels:
    """Shares of positive outputs of fixed convolution kernels, read by ridge regression; nothing is trained by descent.

    The 84 kernels have nine taps, three of weight 2 and six of weight -1, at dilations 1, 2, 4, ...; each reads a
    random subset of the channels, and its thresholds are quantiles of its output on random training windows. The ridge
    penalty is chosen by leave-one-out error.

    Args:
        features: about how many features; each costs one threshold and K weights.
        generator: draws channels and windows.
    """

    def __init__(self, features: int = 2000, *, generator: torch.Generator) -> None:
        self.features, self.generator = features, generator

    def fit(self, x: Tensor, y: Tensor) -> RandomKernels:
        """Learn thresholds and ridge weights from windows (N, C, T) and classes (N,)."""
        channels, steps = x.shape[1:]
        dilations = [2**i for i in range(16) if 8 * 2**i < steps] or [1]
        per_kernel = max(self.features // (84 * len(dilations)), 1)
        base = torch.full((84, 9), -1.0)
        for row, taps in enumerate(combinations(range(9), 3)):
            base[row, list(taps)] = 2.0
        quantiles = (torch.arange(1, per_kernel + 1) * 0.6180339887) % 1
        self.bank = []
        for dilation in dilations:
            used = torch.rand(84, channels, generator=self.generator).argsort(dim=1) < torch.randint(
                1, channels + 1, (84, 1), generator=self.generator
            )
            weight = used[:, :, None] * base[:, None, :]
            some = x[torch.randint(0, len(x), (min(len(x), 16),), generator=self.generator)]
            out = _convolve(some, weight, dilation).transpose(0, 1).flatten(1)
            self.bank.append((weight, dilation, torch.quantile(out, quantiles, dim=1).T.contiguous()))
        table = self.transform(x)
        self.mean, self.std = table.mean(0), table.std(0) + 1e-6
        self._ridge(((table - self.mean) / self.std).double(), F.one_hot(y).double() * 2 - 1)
        return self

    def transform(self, x: Tensor) -> Tensor:
        """Features of windows, (N, C, T) -> (N, F), shares in [0, 1]."""
        parts = []
        for weight, dilation, thresholds in self.bank:
            out = _convolve(x, weight, dilation)
            parts += [(out > thresholds[:, i, None]).float().mean(dim=2) for i in range(thresholds.shape[1])]
        return torch.cat(parts, dim=1)

    def predict(self, x: Tensor) -> Tensor:
        """Classes, (N, C, T) -> (N,)."""
        return ((((self.transform(x) - self.mean) / self.std).double()) @ self.weight + self.bias).argmax(dim=1)

    def parameter_count(self) -> int:
        """Numbers to store: thresholds, standardisation, ridge weights and offsets."""
        return self.weight.numel() + self.bias.numel() + 3 * len(self.mean)

    def _ridge(self, x: Tensor, target: Tensor) -> None:
        """Weights of least leave-one-out error over penalties; solved in the smaller of samples and features."""
        self.bias = target.mean(dim=0)
        centred = target - self.bias
        if len(x) <= x.shape[1]:
            values, vectors = torch.linalg.eigh(x @ x.T)
            scores, back = vectors, x.T @ vectors
            power = values.clamp(min=0)
        else:
            values, vectors = torch.linalg.eigh(x.T @ x)
            power = values.clamp(min=0)
            root = power.sqrt().clamp(min=1e-12)
            scores, back = (x @ vectors) / root, vectors * root
        rotated = scores.T @ centred
        best = np.inf
        for alpha in np.logspace(-1, 5, 13):
            hat = 1 / len(x) + (scores**2) @ (power / (power + alpha))  # the offset is fitted too
            left = centred - scores @ ((power / (power + alpha))[:, None] * rotated)
            error = float(((left / (1 - hat).clamp(min=1e-9)[:, None]) ** 2).mean())
            if error < best:
                best, self.weight = error, back @ (rotated / (power + alpha)[:, None])


def _convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return F.conv1d(x, weight, dilation=dilation, padding=4 * dilation)


class _Block(nn.Module):
    """Depthwise convolution over time, pointwise convolution, normalisation, ReLU, pooling; plus a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool) -> None:
        super().__init__()
        shortcut: list[nn.Module] = []
        if inputs != outputs:
            shortcut += [nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)]
        self.main = nn.Sequential(
            nn.Conv2d(inputs, inputs, (5, 1), padding=(2, 0), groups=inputs),
            nn.Conv2d(inputs, outputs, 1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
        self.shortcut = nn.Sequential(*shortcut)
        self.pool = nn.MaxPool2d((2, 1)) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.main(x)) + self.pool(self.shortcut(x))
