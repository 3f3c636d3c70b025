"""DAVE beside captum's SmoothGrad times input: the same number of passes over the same images, in one run.

Both give a model 32 images at a time. DAVE's passes hold the coefficients fixed, move the image and move the map back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import nn

from assay.methods.explanation.dave import Transforms, dave, effective_gradient, full_gradient, logits_of
from assay.nn.vit import ViT

PASSES, BATCH, REPEATS = 32, 32, 5


def rows() -> list[dict[str, Any]]:
    """Time per map relative to captum's on the pocket transformer and on a Hugging Face ViT, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rows()
    finally:
        torch.set_num_threads(threads)


def _rows() -> list[dict[str, Any]]:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    pocket = ViT(image_size=(32, 32), patch=4, width=64, depth=4, heads=4, hidden=128, readout="mean").eval()
    config = ViTConfig(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768,
                       image_size=64, patch_size=8, num_labels=10)  # fmt: skip
    published = ViTForImageClassification(config).eval()
    small, large = torch.randn(4, 3, 32, 32), torch.randn(2, 3, 64, 64)
    found = [
        _row(f"{PASSES} passes of DAVE against captum's SmoothGrad, pocket ViT", _equal_passes(pocket, small)),
        _row(f"{PASSES} passes of DAVE against captum's SmoothGrad, Hugging Face ViT", _equal_passes(published, large)),
    ]
    target = torch.zeros(len(small), dtype=torch.long)
    one, plain = _side_by_side(
        lambda: effective_gradient(pocket, small, target), lambda: full_gradient(pocket, small, target)
    )
    return [*found, _row("one effective gradient against one plain gradient, pocket ViT", one / plain)]


def _equal_passes(model: nn.Module, x: torch.Tensor) -> float:
    """DAVE's time over captum's."""
    from captum.attr import InputXGradient, NoiseTunnel

    target = torch.zeros(len(x), dtype=torch.long)
    tunnel = NoiseTunnel(InputXGradient(lambda images: logits_of(model(images))))
    shifts = Transforms.shifts(8, PASSES // 2)
    together = BATCH // len(x)

    def theirs() -> None:
        tunnel.attribute(x, nt_type="smoothgrad", nt_samples=PASSES, nt_samples_batch_size=together, stdevs=0.2,
                         target=target)  # fmt: skip

    ours, peer = _side_by_side(lambda: dave(model, x, target, transforms=shifts, batch=BATCH), theirs)
    return ours / peer


def _side_by_side(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """Median CPU seconds of each, taken in turn so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 1):
        for call, kept in zip((first, second), seconds, strict=True):
            started = time.process_time()
            call()
            if repeat:
                kept.append(time.process_time() - started)
    return median(seconds[0]), median(seconds[1])


def _row(what: str, value: float, limit: float = 1.5) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": "of the time", "limit": f"at most {limit:g}", "ok": value <= limit}
