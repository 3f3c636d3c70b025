"""DAVE beside captum's SmoothGrad times input: the same number of passes over the same images, in one run.

Both give a model 32 images at a time. DAVE's passes hold the coefficients fixed, move the image and move the map back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from assay.methods.explanation.dave import Transforms, dave, effective_gradient, full_gradient, logits_of
from assay.nn.vit import ViT
from benchmarks._measure import one_thread, ratio, row, side_by_side

PASSES, BATCH, REPEATS = 32, 32, 5


def rows() -> list[dict[str, Any]]:
    """Time per map relative to captum's on the pocket transformer and on a Hugging Face ViT, on one core."""
    with one_thread():
        return _rows()


def _rows() -> list[dict[str, Any]]:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    pocket = ViT(image_size=(32, 32), patch=4, width=64, depth=4, heads=4, hidden=128, readout="mean").eval()
    config = ViTConfig(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, intermediate_size=768,
                       image_size=64, patch_size=8, num_labels=10)  # fmt: skip
    published = ViTForImageClassification(config).eval()
    small, large = torch.randn(4, 3, 32, 32), torch.randn(2, 3, 64, 64)
    against = f"{PASSES} passes of DAVE against captum's SmoothGrad"
    limit: Any = {"unit": "of the time", "at_most": 1.5}
    found = [
        row(f"{against}, pocket ViT", _equal_passes(pocket, small), **limit),
        row(
            f"{PASSES} passes of DAVE against captum's SmoothGrad, Hugging Face ViT",
            _equal_passes(published, large),
            **limit,
        ),
    ]
    target = torch.zeros(len(small), dtype=torch.long)
    one = _times(lambda: effective_gradient(pocket, small, target), lambda: full_gradient(pocket, small, target))
    return [*found, row("one effective gradient against one plain gradient, pocket ViT", one, **limit)]


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

    return _times(lambda: dave(model, x, target, transforms=shifts, batch=BATCH), theirs)


def _times(ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    return ratio(side_by_side(ours, theirs, REPEATS, clock=time.process_time))
