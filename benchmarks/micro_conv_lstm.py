"""MicroBi-ConvLSTM: sizes on the eight public sets' shapes, 8 bits against 32 in onnxruntime, the C header compiled."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from assay.methods.adaptation.micro_conv_lstm import (
    Fit,
    MicroBiConvLSTM,
    QuantModel,
    TinierHAR,
    fit,
    flash_bytes,
    predict,
    quantize,
    ram_bytes,
    to_onnx,
)
from assay.metrics.cost import parameter_count
from assay.studies.adaptation._micro_arms import EIGHT
from benchmarks._measure import one_thread, ratio, row, side_by_side

MAIN = """#include <stdio.h>
#include "micro.h"
int main(void) {
  static float x[micro_WINDOW * micro_CHANNELS]; float logits[micro_CLASSES];
  while (fread(x, sizeof x, 1, stdin) == 1) {
    micro_run(x, logits);
    for (int k = 0; k < micro_CLASSES; k++) printf("%.9g ", logits[k]);
    printf("\\n");
  }
  return 0;
}
"""


def rows() -> list[dict[str, Any]]:
    """Sizes need no peer; without onnxruntime or a C compiler their rows are left out."""
    with one_thread():
        return [*_sizes(), *_agreement()]


def _sizes() -> list[dict[str, Any]]:
    found, params, files, off = [], [], [], 0
    for name, (channels, classes, steps) in EIGHT.items():
        torch.manual_seed(0)
        net = MicroBiConvLSTM(channels, classes).eval()
        params.append(parameter_count(net))
        off = max(off, abs(params[-1] - (80 * channels + 33 * classes + 9104)))
        files.append(len(to_onnx(quantize(net, torch.randn(4, channels, steps)))) / 1024)
        shape = f"{name} ({channels} channels, {classes} classes, {steps} steps)"
        found += [
            row(f"{shape}: parameters", params[-1], "parameters"),
            row(f"{shape}: 8-bit ONNX file", files[-1], "KB"),
            row(f"{shape}: 8-bit constants in C", flash_bytes(net) / 1024, "KB"),
            row(f"{shape}: 8-bit working memory", ram_bytes(net, steps) / 1024, "KB"),
        ]
    against = mean(parameter_count(TinierHAR(c, k)) for c, k, _ in EIGHT.values()) / mean(params)
    share = mean(params) / 11_400
    return [
        *found,
        row("parameters off the formula, most of eight sets", off, "parameters", at_least=0, at_most=0),
        row("mean parameters over the paper's 11.4K", share, "times", at_least=0.95, at_most=1.05),
        row("mean 8-bit ONNX file (paper: 23.0 KB)", mean(files), "KB", at_most=25),
        row("TinierHAR's parameters over ours", against, "times", at_least=2.5),
    ]


def _agreement() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    wave = torch.sin(
        0.05 * (2 + 4 * y)[:, None, None] * torch.arange(128) + 6.28 * torch.rand(400, 9, 1, generator=generator)
    )
    x = wave + 0.5 * torch.randn(wave.shape, generator=generator)
    torch.manual_seed(0)
    net = fit(MicroBiConvLSTM(9, 2), x, y, Fit(updates=30, lr=1e-2), generator=generator)
    small = quantize(net, x[:200])
    return [*_onnxruntime(net, small, x), *_compiled(small, x)]


def _onnxruntime(net: MicroBiConvLSTM, small: QuantModel, x: torch.Tensor) -> list[dict[str, Any]]:
    try:
        import onnxruntime as runtime
    except ImportError:
        return []
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    one = {"x": x[:1].numpy()}
    floats, eights = (
        runtime.InferenceSession(to_onnx(m), options, providers=["CPUExecutionProvider"]) for m in (net, small)
    )
    said = eights.run(None, {"x": x.numpy()})[0].argmax(1)
    same = float((said == small(x).argmax(1).numpy()).mean())
    kept = float((said == predict(net, x).argmax(1).numpy()).mean())

    def many(session: Any) -> Callable[[], None]:
        return lambda: [session.run(None, one) for _ in range(200)] and None

    times = ratio(side_by_side(many(eights), many(floats), repeats=5, warm=0))
    return [
        row("8 bits in onnxruntime: classes equal to the integer network", same, "share", at_least=0.98),
        row("8 bits in onnxruntime: classes equal to the float network", kept, "share", at_least=0.98),
        row("8 bits in onnxruntime: time over float, one window", times, "times"),
    ]


def _compiled(small: QuantModel, x: torch.Tensor) -> list[dict[str, Any]]:
    if shutil.which("cc") is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        small.to_c(Path(folder) / "micro.h")
        (Path(folder) / "main.c").write_text(MAIN)
        subprocess.run(["cc", "-std=c99", "-O2", "main.c", "-o", "main"], cwd=folder, check=True)
        given = x.transpose(1, 2).contiguous().numpy().tobytes()
        run = subprocess.run([f"{folder}/main"], input=given, capture_output=True, check=True)
        table = np.array([[float(v) for v in line.split()] for line in run.stdout.decode().splitlines()])
    off = float(np.abs(table - small(x).numpy()).max())
    return [row("C header: largest difference of a logit from the simulation", off, "", at_most=1e-4)]
