"""What the study of 2602.06523 and its tuning share: a split set, the networks, training, and the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.data.series.windows import Windows, standardise
from assay.methods.adaptation.micro_conv_lstm import (
    DeepConvLSTM,
    Fit,
    MicroBiConvLSTM,
    TinierHAR,
    fit,
    predict,
    quantize,
    to_onnx,
)

EIGHT = {  # channels, classes, steps of a window
    "UCI-HAR": (9, 6, 128), "SKODA": (30, 10, 98), "Daphnet": (9, 2, 128), "Opportunity": (77, 18, 30),
    "PAMAP2": (36, 12, 170), "WISDM": (3, 6, 128), "MotionSense": (6, 6, 128), "UniMiB-SHAR": (3, 17, 151),
}  # fmt: skip

Maker = Callable[[int, int], nn.Module]
NETS: Mapping[str, Maker] = {
    "micro": MicroBiConvLSTM,
    "tinierhar": TinierHAR,
    "deepconvlstm": DeepConvLSTM,
    "micro-uni": lambda c, k: MicroBiConvLSTM(c, k, hidden=25, bidirectional=False),
    "micro-nolstm": lambda c, k: MicroBiConvLSTM(c, k, hidden=0),
    "micro-nopool": lambda c, k: MicroBiConvLSTM(c, k, pool=(1, 1)),
    "micro-onestage": lambda c, k: MicroBiConvLSTM(c, k, widths=(32,), pool=(4,)),
}
SMALL: Mapping[str, Maker] = {"deepconvlstm": lambda c, k: DeepConvLSTM(c, k, filters=16, hidden=32)}


@dataclass(frozen=True)
class Task:
    """Standardised windows of one set, split; `people` (N,) wore the sensor in the training windows.

    `net` is the small network trained on them, where it is already.
    """

    x: Tensor
    y: Tensor
    people: NDArray[np.str_]
    x_test: Tensor
    y_test: Tensor
    classes: int
    net: MicroBiConvLSTM | None = None


def split(windows: Windows, train_rows: NDArray, test_rows: NDArray) -> Task:
    """A task of these rows, standardised by the training rows."""
    mean, std = standardise(windows.x[train_rows])
    x, y = torch.from_numpy((windows.x - mean) / std), torch.from_numpy(windows.y)
    return Task(
        x[train_rows], y[train_rows], windows.subjects[train_rows], x[test_rows], y[test_rows], len(windows.classes)
    )


def train(make: Maker, task: Task, seed: int, how: Fit) -> Any:
    """A network of the task's shape trained on its training windows; start and order follow the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make(task.x.shape[1], task.classes)
        return fit(net, task.x, task.y, how, generator=torch.Generator().manual_seed(seed))


def held_out(task: Task, people: list[str]) -> Task:
    """The task's training windows alone, with these persons' held out as its test windows."""
    held = torch.from_numpy(np.isin(task.people, people))
    return replace(
        task, x=task.x[~held], y=task.y[~held], people=task.people[~held.numpy()], x_test=task.x[held],
        y_test=task.y[held], net=None,
    )  # fmt: skip


def macro_f1(said: Tensor, truth: Tensor, classes: int) -> float:
    """Mean over the classes that occur of F1, in percent."""
    scores = []
    for k in range(classes):
        hit, given, wanted = (int(n.sum()) for n in ((said == k) & (truth == k), said == k, truth == k))
        if wanted:
            scores.append(2 * hit / (given + wanted))
    return 100 * float(np.mean(scores))


def reached(net: nn.Module, task: Task) -> float:
    """Macro F1 of a network on the test windows."""
    return macro_f1(predict(net, task.x_test).argmax(1), task.y_test, task.classes)


@lru_cache(maxsize=1)
def kb_eight() -> float:
    """Mean size (KB) of the 8-bit ONNX file over the eight sets' shapes; weights do not change it."""
    sizes = []
    for channels, classes, steps in EIGHT.values():
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = MicroBiConvLSTM(channels, classes).eval()
        sizes.append(len(to_onnx(quantize(net, torch.randn(4, channels, steps, generator=generator)))))
    return float(np.mean(sizes)) / 1024
