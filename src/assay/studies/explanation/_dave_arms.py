"""The maps that DAVE is compared with, each `(model, x (B, 3, H, W), target (B,)) -> (B, H, W)`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.methods.explanation.dave import attention_weights, full_gradient, logits_of, low_pass, patch_of

PASSES = 32


def gradient_norm(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Norm of the gradient over channels."""
    return full_gradient(model, x, target).norm(dim=1)


def input_x_gradient(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Gradient times input, summed over channels."""
    return (full_gradient(model, x, target) * x).sum(dim=1)


def blurred_input_x_gradient(model: nn.Module, x: Tensor, target: Tensor, sigma: float) -> Tensor:
    """The same under a Gaussian: the plain remedy against grid lines."""
    return low_pass(input_x_gradient(model, x, target), sigma)


def smoothgrad_x_input(
    model: nn.Module, x: Tensor, target: Tensor, noise: float, passes: int = PASSES, seed: int = 0
) -> Tensor:
    """Gradient times input, each of a noisy copy, averaged; noise as a share of the image's range."""
    generator = torch.Generator().manual_seed(seed)
    spread = noise * (x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True))
    total = torch.zeros_like(x[:, 0])
    for _ in range(passes):
        noisy = x + spread * torch.randn(x.shape[1:], generator=generator).to(x)
        total += input_x_gradient(model, noisy, target)
    return total / passes


def integrated_gradients(model: nn.Module, x: Tensor, target: Tensor, passes: int = PASSES) -> Tensor:
    """Gradient along the straight path from zero (mid-grey here) to the image, midpoint rule, times the image."""
    total = torch.zeros_like(x)
    for i in range(passes):
        total += full_gradient(model, x * ((i + 0.5) / passes), target)
    return (total * x).sum(dim=1) / passes


def grad_cam(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM on the patch tokens that enter the last attention (past it, no patch reaches a class token)."""
    seen: list[Tensor] = []
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    hooks = [norm.register_forward_hook(lambda m, i, output: seen.append(output)) for norm in norms]
    try:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            score = logits_of(model(leaf)).gather(1, target.view(-1, 1)).sum()
    finally:
        for hook in hooks:
            hook.remove()
    tokens = seen[-3]  # pre-norm blocks end with: norm before attention, norm before the MLP, last norm
    (grads,) = torch.autograd.grad(score, tokens)
    rows, columns = (side // patch_of(model) for side in x.shape[-2:])
    tokens, grads = tokens[:, -rows * columns :], grads[:, -rows * columns :]
    cam = (tokens * grads.mean(dim=1, keepdim=True)).sum(dim=-1).relu().detach()
    return _to_pixels(cam, rows, columns, x)


def attention_rollout(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Product over layers of (mean attention + identity) / 2, the same for every class.

    The row of the class token; the mean row of the patches where the head reads their mean.
    """
    joined = torch.eye(1)
    for weights in attention_weights(model, x):
        mean = weights.mean(dim=1)
        step = (mean + torch.eye(mean.shape[-1]).to(mean)) / 2
        joined = step @ joined if joined.ndim == 3 else step
    rows, columns = (side // patch_of(model) for side in x.shape[-2:])
    patches = slice(-rows * columns, None)
    mean = getattr(getattr(model, "options", None), "readout", "class") == "mean"
    seen = joined[:, patches].mean(dim=1) if mean else joined[:, 0]
    return _to_pixels(seen[:, patches], rows, columns, x)


def centre_prior(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """A Gaussian bump in the middle, whatever the image."""
    height, width = x.shape[-2:]
    y = torch.linspace(-1, 1, height).view(-1, 1)
    bump = torch.exp(-(y**2 + torch.linspace(-1, 1, width) ** 2) / (2 * 0.5**2))
    return bump.to(x).expand(len(x), -1, -1)


def _to_pixels(patches: Tensor, rows: int, columns: int, x: Tensor) -> Tensor:
    maps = patches.view(-1, 1, rows, columns)
    return nn.functional.interpolate(maps, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
