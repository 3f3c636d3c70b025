"""Fitting Gaussian splats to photographs: the 3DGS loss, Adam with a rate per parameter, and a hook for pruning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from assay.geometry.cameras import Camera
from assay.geometry.splat_render import Backend, render
from assay.geometry.splats import NEAR, Splats
from assay.metrics.image import ssim

PruneHook = Callable[[int, int, Splats], Tensor | None]


@dataclass(frozen=True)
class Rates:
    """Adam learning rates, those of the INRIA code by default.

    Attributes:
        means: in units of the scene's extent; falls to a hundredth, exponentially, over the steps.
        quats, log_scales, opacity_logit: of the parameters of that name.
        sh: of the constant colour; higher degrees take a twentieth.
    """

    means: float = 1.6e-4
    quats: float = 1e-3
    log_scales: float = 5e-3
    opacity_logit: float = 0.05
    sh: float = 2.5e-3

    def times(self, factor: float) -> Rates:
        """All rates multiplied."""
        return Rates(**{name: factor * rate for name, rate in asdict(self).items()})


def photometric_loss(image: Tensor, target: Tensor) -> Tensor:
    """`0.8 L1 + 0.2 (1 - SSIM)` of images `(H, W, 3)`, a scalar; the window shrinks for images below 11 pixels."""
    side = min(image.shape[0], image.shape[1], 11)
    likeness = ssim(image.permute(2, 0, 1), target.permute(2, 0, 1), window=side - 1 + side % 2)
    return 0.8 * (image - target).abs().mean() + 0.2 * (1 - likeness)


def scene_extent(cameras: Sequence[Camera]) -> float:
    """1.1 times the largest distance of a camera from their mean, in the scene's unit; 1 for a single camera."""
    centres = torch.stack([camera.centre for camera in cameras])
    return 1.1 * float((centres - centres.mean(0)).norm(dim=1).max()) or 1.0


def train_splats(
    splats: Splats,
    cameras: Sequence[Camera],
    images: Sequence[Tensor],
    steps: int,
    *,
    generator: torch.Generator,
    rates: Rates | None = None,
    decay: bool = True,
    pace: Callable[[int], float] | None = None,
    background: Tensor | None = None,
    near: float = NEAR,
    backend: Backend | None = None,
    on_step: PruneHook | None = None,
) -> Splats:
    """Fit a scene to images of known cameras, one view a step; no Gaussian is added.

    Args:
        splats: the start; not changed.
        cameras, images: V views; images `(H, W, 3)` in [0, 1] of the cameras' sizes.
        steps: number of Adam steps.
        generator: orders the views (a CPU generator).
        rates: learning rates; the INRIA code's when not given.
        decay: let the rate of the means fall over the steps; off for short refinements.
        pace: factor on all rates at step i.
        background: colour behind everything, `(3,)`.
        near: as in `render`.
        backend: as in `render`.
        on_step: called before step i with `(i, steps, splats)`; a mask `(N,)` it returns says which Gaussians stay.

    Raises:
        ValueError: no views, numbers of cameras and images that differ, or an image of another size than its camera.
    """
    if not cameras or len(cameras) != len(images):
        raise ValueError(f"train_splats needs one image per camera; got {len(cameras)} cameras, {len(images)} images")
    for camera, image in zip(cameras, images, strict=True):
        if tuple(image.shape) != (camera.height, camera.width, 3):
            raise ValueError(f"an image has shape {tuple(image.shape)}, its camera {(camera.height, camera.width, 3)}")
    rates = rates or Rates()
    extent = scene_extent(cameras)
    leaves = _leaves(splats)
    optimizer = _adam(leaves, rates, extent)
    queue: list[int] = []
    for i in range(steps):
        mask = on_step(i, steps, _scene(leaves).detach()) if on_step is not None else None
        if mask is not None:
            leaves, optimizer = _keep(leaves, optimizer, mask, rates, extent)
        for group in optimizer.param_groups:
            fall = 0.01 ** (i / max(1, steps - 1)) if decay and group["name"] == "means" else 1.0
            group["lr"] = group["base"] * fall * (pace(i) if pace else 1.0)
        queue = queue or torch.randperm(len(cameras), generator=generator).tolist()
        view = queue.pop()
        scene = _scene(leaves)
        loss = photometric_loss(
            render(scene, cameras[view], background, near=near, backend=backend), images[view].to(scene.means)
        )
        optimizer.zero_grad(set_to_none=True)
        if not loss.requires_grad:
            continue  # nothing of the scene is in this view
        loss.backward()
        optimizer.step()
    return _scene(leaves).detach()


def _leaves(splats: Splats) -> dict[str, Tensor]:
    leaves = splats.detach().tensors()
    return leaves | {"sh": leaves["sh"][:, :1].clone(), "sh_rest": leaves["sh"][:, 1:].clone()}


def _scene(leaves: dict[str, Tensor]) -> Splats:
    rest = {name: x for name, x in leaves.items() if name != "sh_rest"}
    return Splats(**rest | {"sh": torch.cat([leaves["sh"], leaves["sh_rest"]], 1)})


def _adam(leaves: dict[str, Tensor], rates: Rates, extent: float) -> torch.optim.Adam:
    lr = asdict(rates) | {"means": rates.means * extent, "sh_rest": rates.sh / 20}
    # eps as in the INRIA code: gradients of single Gaussians are far below torch's default
    groups = [{"params": [x.requires_grad_()], "name": name, "base": lr[name]} for name, x in leaves.items()]
    return torch.optim.Adam(groups, eps=1e-15)


def _keep(
    leaves: dict[str, Tensor], optimizer: torch.optim.Adam, mask: Tensor, rates: Rates, extent: float
) -> tuple[dict[str, Tensor], torch.optim.Adam]:
    """The kept rows, with their Adam moments."""
    kept = {name: x.detach()[mask].clone() for name, x in leaves.items()}
    fresh = _adam(kept, rates, extent)
    for name, old in leaves.items():
        state = optimizer.state.get(old)
        if state:
            fresh.state[kept[name]] = {k: v[mask].clone() if v.ndim else v.clone() for k, v in state.items()}
    return kept, fresh
