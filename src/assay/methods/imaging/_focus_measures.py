"""Measures of focus, classical fusion, and where a stack cannot be trusted.

Source: 2512.21495; sum-modified-Laplacian: Nayar and Nakagawa 1994; guided-filter weights: Li, Kang and Hu 2013
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.methods.imaging._focus_network import Fusion, combine, luma
from assay.methods.segmentation._guided_filter import guided_filter

Measure = Literal["sml", "lap", "tenengrad"]


def as_stack(frames: Tensor | Sequence[Tensor]) -> Tensor:
    """Frames as one tensor `(N, 3, H, W)`, checked.

    Raises:
        ValueError: fewer than two frames, unequal sizes, no colour pictures, or values outside [0, 1].
    """
    if not isinstance(frames, Tensor):
        sizes = {tuple(frame.shape) for frame in frames}
        if len(sizes) > 1:
            raise ValueError(f"frames of a stack must have one size, got {', '.join(map(str, sorted(sizes)))}")
        frames = torch.stack(list(frames)) if sizes else torch.empty(0, 3, 1, 1)
    if frames.ndim != 4 or frames.shape[1] != 3 or len(frames) < 2:
        raise ValueError(f"expected at least two colour frames (N, 3, H, W), got {tuple(frames.shape)}")
    if not (frames.min() >= 0 and frames.max() <= 1):
        raise ValueError(f"values must lie in 0..1, got {frames.min():g}..{frames.max():g}")
    return frames


def focus_measure(stack: Tensor, kind: Measure = "sml", size: int = 9) -> Tensor:
    """How sharp every frame is at every pixel, a mean over a window.

    sml: |2I - I_left - I_right| + |2I - I_up - I_down|; lap: squared Laplacian; tenengrad: squared Sobel gradient.

    Args:
        stack: `(N, 3, H, W)`.
        size: side of the window in pixels, odd.

    Returns:
        `(N, H, W)`, not negative.

    Raises:
        ValueError: a stack `as_stack` refuses, another kind, or an even window.
    """
    if kind not in ("sml", "lap", "tenengrad") or size < 1 or size % 2 == 0:
        raise ValueError(f"expected sml, lap or tenengrad and an odd window, got {kind!r} and {size}")
    grey = luma(as_stack(stack))
    if kind == "tenengrad":
        padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")
        sobel = grey.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
        answers = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).square().sum(1)
    else:
        across, down = _second_differences(grey, 1)
        answers = across.abs() + down.abs() if kind == "sml" else (across + down).square()
    return window_mean(answers, size)


def classical_fuse(
    stack: Tensor,
    measure: Measure = "sml",
    guided: bool = True,
    *,
    size: int = 9,
    radius: int = 4,
    epsilon: float = 1e-3,
) -> Fusion:
    """The sharpest frame at every pixel; `guided`: its map smoothed along each frame's edges by a guided filter.

    Args:
        stack: `(N, 3, H, W)`.
        size: window of the measure.
        radius, epsilon: of the guided filter.

    Returns:
        a `Fusion` whose logits are the measure.
    """
    sharpness = focus_measure(stack, measure, size)
    weights = one_hot(sharpness)
    if guided:
        soft = [guided_filter(g, w, radius, epsilon) for g, w in zip(luma(stack), weights, strict=True)]
        weights = torch.stack(soft).clamp(min=0)
        weights = weights / weights.sum(0).clamp(min=1e-6)
        weights = torch.where(weights.sum(0) > 0.5, weights, one_hot(sharpness))
    return Fusion(combine(stack, weights), weights, sharpness)


def one_hot(logits: Tensor) -> Tensor:
    """All weight on the largest logit, `(N, H, W)` or `(B, N, H, W)`; the hard selection that leaves seams."""
    axis = logits.ndim - 3
    return torch.zeros_like(logits).scatter_(axis, logits.argmax(axis, keepdim=True), 1.0)


def missing_focus_mask(
    stack: Tensor,
    threshold: float = 0.2,
    *,
    size: int = 17,
    noise: float | None = None,
    sharpest: float | None = None,
) -> Tensor:
    """Where no frame is sharp although there is something to be sharp.

    Blur removes fine detail before coarse. At each pixel, the largest energy over the frames of second differences one
    pixel apart, less the noise's, is set against the largest energy of those four pixels apart in a smoothed
    picture: the prior of how much detail such a texture has. The ratio is judged by what the picture's sharpest
    places reach (at most 1): below `threshold` of it focus is missing. Where even the coarse energy is that of
    noise, nothing is said.

    Args:
        stack: `(N, 3, H, W)`.
        threshold: smaller marks less.
        size: side of the window in pixels, odd.
        noise: standard deviation of the frames' noise; None: estimated (from the median of a filter that sees little
            else, the least over the frames).
        sharpest: ratio of the sharpest places; None: of this stack (`sharpest_ratio`).

    Returns:
        bool `(H, W)`.
    """
    if not threshold > 0:
        raise ValueError(f"expected a threshold above 0, got {threshold}")
    sharp, prior, known = _detail(stack, size, noise)
    sharpest = _sharpest(sharp, prior, known) if sharpest is None else sharpest
    return window_mean(((sharp < threshold * sharpest * prior) & known)[None].float(), 7)[0] > 0.5


def sharpest_ratio(stack: Tensor, *, size: int = 17, noise: float | None = None) -> float:
    """Ratio of fine to coarse detail that a tenth of the textured places exceed, at most 1; 0 without texture."""
    return _sharpest(*_detail(stack, size, noise))


def _detail(stack: Tensor, size: int, noise: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Fine energy, coarse energy, and whether the coarse one is above noise, `(H, W)` each."""
    if size % 2 == 0:
        raise ValueError(f"expected an odd window, got {size}")
    grey = luma(as_stack(stack))
    variance = (noise_level(grey) if noise is None else noise * _LUMA_NOISE) ** 2
    fine = sum(part.square() for part in _second_differences(grey, 1))
    coarse = sum(part.square() for part in _second_differences(_smooth(grey), 4))
    sharp = (window_mean(fine, size) - 12 * variance).clamp(min=0).amax(0)
    prior = (window_mean(coarse, size) - 0.13 * variance).clamp(min=0).amax(0)
    return sharp, prior, prior > 2e-4 + 2 * variance


def _sharpest(sharp: Tensor, prior: Tensor, known: Tensor) -> float:
    ratio = (sharp[known] / prior[known])[:: max(1, int(known.sum()) // 100_000)]
    return min(1.0, float(ratio.quantile(0.9))) if len(ratio) else 0.0


def depth_edges(weights: Tensor, sure: float = 0.7) -> Tensor:
    """Pixels where the frame in focus changes, both sides being sure of theirs: bool `(H, W)`.

    Neighbouring frames share a surface that lies between them, and on flat ground the choice wavers; so weights are
    first averaged over 9x9 pixels, and a change counts where the winner's mean weight reaches `sure` on both sides.

    Args:
        weights: `(N, H, W)`.
    """
    mean = window_mean(weights, 9)
    best, label = mean.max(0)
    label = torch.where(best >= sure, label, -1)
    edge = torch.zeros_like(label, dtype=torch.bool)
    for step in (4, 6):  # the unsure seam between two sure sides is a few pixels wide
        half = step // 2
        for a, b, place in (
            (label[:, step:], label[:, :-step], edge[:, half:-half]),
            (label[step:], label[:-step], edge[half:-half]),
        ):
            place |= (a != b) & (a >= 0) & (b >= 0)
    return edge


def noise_level(grey: Tensor) -> float:
    """Standard deviation of the noise of frames `(N, H, W)`: the least over the frames of a robust estimate.

    Source: the mask of Immerkær 1996, with a median for the mean.
    """
    kernel = grey.new_tensor([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[None, None]
    answers = F.conv2d(grey[:, None], kernel).flatten(1).abs()
    return float((answers.median(1).values / 0.6745 / 6).min())


_LUMA_NOISE = 0.669  # of independent noise in three channels, left in their weighted sum


def window_mean(x: Tensor, size: int) -> Tensor:
    """Mean over a window, cut off at the border, of maps `(N, H, W)`."""
    wide = F.avg_pool2d(x, (1, size), 1, (0, size // 2), count_include_pad=False)
    return F.avg_pool2d(wide, (size, 1), 1, (size // 2, 0), count_include_pad=False)


def _second_differences(grey: Tensor, step: int) -> tuple[Tensor, Tensor]:
    padded = F.pad(grey, (step, step, step, step), mode="replicate")
    middle = slice(step, -step)
    across = 2 * grey - padded[:, middle, : -2 * step] - padded[:, middle, 2 * step :]
    down = 2 * grey - padded[:, : -2 * step, middle] - padded[:, 2 * step :, middle]
    return across, down


def _smooth(grey: Tensor, sigma: float = 2.0, half: int = 6) -> Tensor:
    place = torch.arange(-half, half + 1, dtype=grey.dtype, device=grey.device)
    kernel = torch.exp(-0.5 * (place / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = F.pad(grey[:, None], (half,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]
