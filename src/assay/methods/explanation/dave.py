"""DAVE: pixel attribution for vision transformers from the effective part of the gradient, averaged over small moves.

Every operation of a vision transformer is linear with coefficients that depend on its input, so a logit is

    f_k(X) = <L_k(X), X> + b_k(X),      grad f_k = L_k(X) + [dL_k/dX]^T X + grad b_k

L is the effective map; what is left of the gradient says how the coefficients would vary, not what they do with the
image, and is dropped. Averaging L over small transformations that are undone afterwards cancels what belongs to the
patch grid, averaging over noise and a low-pass filter what is unstable:

    M_k(X) = LP_sigma( mean over g and eps of T_g^-1 [ sum_c L_k(T_g X + eps) * (T_g X + eps) ]_c )

Source: 2602.06613
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.methods.explanation._frozen import (
    Mixing,
    Rules,
    UnsupportedLayer,
    frozen_operators,
    replayed_operators,
)
from assay.methods.explanation._transforms import Transform, Transforms, reynolds_average

__all__ = [
    "Transform",
    "Transforms",
    "UnsupportedLayer",
    "attention_weights",
    "completeness",
    "cosine_to",
    "dave",
    "effective_gradient",
    "frozen_operators",
    "full_gradient",
    "logits_of",
    "low_pass",
    "normalise",
    "patch_artifact",
    "patch_of",
    "replayed_operators",
    "reynolds_average",
]

Target = int | Sequence[int] | Tensor | Callable[[Any], Tensor]
Form = Literal["contribution", "sensitivity"]
Gradient = Literal["effective", "full"]


def effective_gradient(
    model: nn.Module, x: Tensor, target: Target, *, contrast: bool = False, rules: Rules | None = None
) -> Tensor:
    """L_k(X): the gradient of the logit with all input-dependent coefficients held fixed.

    Args:
        model: in eval mode; see `frozen_operators` for what is supported.
        x: images (B, 3, H, W).
        target: class per image (B,) or one for all; or a function from the model's output to scores (B,), such as
            `cosine_to(prototype)` for a model without classes.
        contrast: explain f_k - logsumexp of the other logits instead of f_k.
        rules: for layers of your own, see `frozen_operators`.

    Returns:
        (B, 3, H, W).

    Raises:
        UnsupportedLayer: a layer is not known.
        ValueError: train mode, image sides that the patch does not divide, or a target out of range.
    """
    _check(model, x)
    with torch.enable_grad(), frozen_operators(model, rules=rules):
        leaf = x.detach().requires_grad_()
        output = model(leaf)
    return _back(output, leaf, target, contrast)


def full_gradient(model: nn.Module, x: Tensor, target: Target, *, contrast: bool = False) -> Tensor:
    """The plain gradient of the same score, (B, 3, H, W)."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        output = model(leaf)
    return _back(output, leaf, target, contrast)


def dave(
    model: nn.Module,
    x: Tensor,
    target: Target,
    *,
    transforms: Transforms | None = None,
    noise: float = 0.05,
    repeats: int = 2,
    lowpass: float | None = None,
    form: Form = "contribution",
    contrast: bool = False,
    batch: int = 32,
    seed: int = 0,
    gradient: Gradient = "effective",
    rules: Rules | None = None,
) -> Tensor:
    """Attribution of a score to pixels.

    Costs `len(transforms) * repeats` forward and backward passes per image.

    Args:
        model: in eval mode.
        x: images (B, 3, H, W) as the model takes them.
        target: as in `effective_gradient`; a function is given the output for some moved images at a time.
        transforms: moves to average over; 16 shifts within a patch when None.
        noise: standard deviation of the noise as a share of each image's range of values. The same draws serve every
            image, so a map does not depend on what else is in the batch.
        repeats: draws of noise per transformation; 1 when there is no noise.
        lowpass: standard deviation of the filter in pixels; a quarter of the patch when None, no filter at 0.
        form: `contribution`: effective map times image, summed over channels; `sensitivity`: norm of the averaged
            effective map over channels, without sign.
        contrast: as in `effective_gradient`.
        batch: images in one pass of the model.
        seed: of the noise.
        gradient: `full` takes the plain gradient instead of the effective one (an ablation).

    Returns:
        (B, H, W); signed in the contribution form.

    Raises:
        UnsupportedLayer: a layer is not known.
        ValueError: as in `effective_gradient`; a negative noise or filter, or no pass at all.
    """
    if noise < 0 or (lowpass or 0) < 0 or repeats < 1 or batch < 1:
        raise ValueError(f"noise and lowpass must not be negative, repeats and batch positive, got {noise}, {lowpass}")
    patch = _check(model, x)
    transforms = Transforms.shifts(patch) if transforms is None else transforms
    repeats = repeats if noise else 1
    classes = None if callable(target) else _classes(target, x)
    spread = noise * (x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True))
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn((len(transforms) * repeats if noise else 0, *x.shape[1:]), generator=generator).to(x)

    def passes(moved: Tensor, rows: Tensor) -> Tensor:
        if noise:
            moved = moved + spread[rows[:, 0]] * draws[rows[:, 1]]
        goal = target if classes is None else classes[rows[:, 0].to(classes.device)]
        if gradient == "effective":
            found = effective_gradient(model, moved, goal, contrast=contrast, rules=rules)
        else:
            found = full_gradient(model, moved, goal, contrast=contrast)
        return (found * moved).sum(dim=1, keepdim=True) if form == "contribution" else found

    found = reynolds_average(passes, x, transforms, repeats, batch)
    found = found[:, 0] if form == "contribution" else found.norm(dim=1)
    return low_pass(found, patch / 4 if lowpass is None else lowpass)


def completeness(model: nn.Module, x: Tensor, target: Target, *, rules: Rules | None = None) -> Tensor:
    """What is missing from f(X) = <L(X), X> + b(X), per image (B,): zero up to rounding.

    b is the output for an image of zeros under the coefficients recorded at X.
    """
    _check(model, x)
    with torch.enable_grad(), frozen_operators(model, rules=rules, keep=True) as tape:
        leaf = x.detach().requires_grad_()
        output = model(leaf)
    effective = _back(output, leaf, target, False)
    with torch.no_grad(), replayed_operators(model, tape, rules=rules):
        offset = _scores(model(torch.zeros_like(x)), target, x, False)
    return _scores(output, target, x, False).detach() - (effective * x).sum(dim=(1, 2, 3)) - offset


def attention_weights(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Attention of every layer in order, each (B, heads, N, N), of any supported model."""
    with torch.no_grad(), frozen_operators(model, keep=True) as tape:
        model(x)
    found = [op.weights if isinstance(op, Mixing) else getattr(op, "value", None) for op in tape]
    return [w for w in found if w is not None and w.ndim == 4]


def normalise(maps: Tensor) -> Tensor:
    """For display: the positive part of maps (..., H, W), each over its maximum; zero where nothing is positive."""
    positive = maps.clamp_min(0)
    highest = positive.amax(dim=(-2, -1), keepdim=True)
    return positive / torch.where(highest > 0, highest, 1.0)


def low_pass(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) under a Gaussian of `sigma` pixels, cut at four sigma, borders reflected; as they are at 0."""
    if sigma == 0:
        return maps
    reach = min(max(1, round(4 * sigma)), min(maps.shape[-2:]) - 1)
    x = torch.arange(-reach, reach + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    stack = F.pad(maps.unsqueeze(1), (reach, reach, reach, reach), mode="reflect")
    stack = F.conv2d(F.conv2d(stack, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return stack[:, 0]


def patch_artifact(maps: Tensor, patch: int) -> float:
    """How far the patch grid stands out of the maps' spectrum, in dB.

    Mean, over the frequencies m / patch (0 < m <= patch / 2) on both axes, of the power there relative to the mean
    power of the bins 2 to 4 away on the same axis. The spectrum is the mean over maps of the power under a Hann
    window. About 0 dB for noise; grid lines stand out however weak or blurred the whole map is.

    Args:
        maps: (H, W) or (B, H, W).
        patch: side of a patch in pixels, at least 2; both sides are multiples of it, at least 8 times as long.
    """
    maps = maps.detach().double()
    maps = maps.unsqueeze(0) if maps.ndim == 2 else maps
    height, width = maps.shape[-2:]
    if patch < 2 or height % patch or width % patch or min(height, width) < 8 * patch:
        raise ValueError(f"maps must be at least 8 patches of {patch} px or more on each side, got {height}x{width}")
    maps = maps - maps.mean(dim=(-2, -1), keepdim=True)
    window = torch.hann_window(height, dtype=maps.dtype, device=maps.device).view(-1, 1) * torch.hann_window(
        width, dtype=maps.dtype, device=maps.device
    )
    power = torch.fft.fft2(maps * window).abs().square().mean(dim=0).cpu().numpy()
    ratios = []
    for line, side in ((power[:, 0], height), (power[0], width)):
        for m in range(1, patch // 2 + 1):
            peak = m * side // patch
            around = [(peak + sign * step) % side for step in (2, 3, 4) for sign in (-1, 1)]
            floor = float(line[around].mean())
            ratios.append(float(line[peak]) / max(floor, 1e-12 * float(power.max()), np.finfo(float).tiny))
    return float(10 * np.log10(max(np.mean(ratios), 1e-30)))


def cosine_to(prototype: Tensor) -> Callable[[Any], Tensor]:
    """Score of a model without classes: cosine of its pooled output to a prototype (D,), the norm held fixed."""

    def score(output: Any) -> Tensor:
        features = logits_of(output)
        return features @ (prototype / prototype.norm()).to(features) / features.norm(dim=-1).detach()

    return score


def logits_of(output: Any) -> Tensor:
    """Logits (B, K) of a model's output: a tensor, or Hugging Face's `logits` or pooled features."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "image_embeds", "pooler_output"):
        found = getattr(output, name, None)
        if found is not None:
            return found
    raise ValueError(f"cannot read scores from an output of type {type(output).__name__}; give target as a function")


def patch_of(model: nn.Module) -> int:
    """Side of the model's patches in pixels."""
    for holder in (getattr(model, "options", None), getattr(model, "config", None)):
        for inner in (holder, getattr(holder, "vision_config", None)):
            found = getattr(inner, "patch", None) or getattr(inner, "patch_size", None)
            if found is not None:
                return int(found[0] if isinstance(found, (tuple, list)) else found)
    raise UnsupportedLayer(f"{type(model).__name__} has no patch size; it is not a vision transformer known here")


def _check(model: nn.Module, x: Tensor) -> int:
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"images must be a floating-point (B, C, H, W), got {x.dtype} {tuple(x.shape)}")
    patch = patch_of(model)
    if x.shape[-2] % patch or x.shape[-1] % patch or min(x.shape[-2:]) < patch:
        raise ValueError(f"image sides must be multiples of the patch ({patch} px), got {tuple(x.shape[-2:])}")
    return patch


def _classes(target: Any, x: Tensor) -> Tensor:
    classes = torch.as_tensor(target, device=x.device)
    classes = classes.expand(len(x)) if classes.ndim == 0 else classes
    if classes.shape != (len(x),) or classes.is_floating_point():
        raise ValueError(f"target must be a class per image, ({len(x)},), got {tuple(classes.shape)} {classes.dtype}")
    return classes


def _scores(output: Any, target: Target, x: Tensor, contrast: bool) -> Tensor:
    if callable(target):
        if contrast:
            raise ValueError("contrast needs classes; a score function can subtract what it likes itself")
        return target(output)
    logits, classes = logits_of(output), _classes(target, x)
    count = logits.shape[-1]
    if len(classes) and not (int(classes.min()) >= 0 and int(classes.max()) < count):
        raise ValueError(f"target must lie in 0..{count - 1}, got {int(classes.min())}..{int(classes.max())}")
    own = logits.gather(1, classes.view(-1, 1))[:, 0]
    if not contrast:
        return own
    if count < 2:
        raise ValueError("contrast needs at least two classes")
    others = logits.masked_fill(F.one_hot(classes, count).bool(), -torch.inf)
    return own - torch.logsumexp(others, dim=1)


def _back(output: Any, leaf: Tensor, target: Target, contrast: bool) -> Tensor:
    with torch.enable_grad():
        score = _scores(output, target, leaf, contrast)
    return torch.autograd.grad(score.sum(), leaf)[0]
