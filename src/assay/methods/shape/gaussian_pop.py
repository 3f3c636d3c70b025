"""GaussianPOP: prune a Gaussian scene by the error that removing each Gaussian causes in the rendered images.

Of one pixel, with Gaussians sorted front to back, opacities a, transmittances T, weights w = T a and colours c,
removing Gaussian k takes its own share away and lets what lies behind it shine through more strongly:

    d_k = C - C without k = w_k c_k - a_k / (1 - a_k) B_k,    B_k = Σ_{i>k} w_i c_i + T_end background.

B is a running sum along the ray, so one compositing pass over a view gives the exact error of all N removals.
The score is `E_k = Σ_views Σ_pixels |d_k|²`, the change of the rendered images, or with photographs G the change of
their squared error, `Σ |d_k|² - 2 d_k·(C - G)`, which is negative where a Gaussian does harm.

Single errors do not add up for Gaussians that hide one another, so pruning goes in rounds that score the survivors
anew, each followed by a refinement. Scores in use elsewhere come from the same pass, for comparison.

Source: 2602.06830 (framework); the closed form above is checked against leave-one-out rendering in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from assay.geometry.cameras import Camera
from assay.geometry.splat_render import PAIRS, Block, blocks
from assay.geometry.splats import MAX_ALPHA, NEAR, Splats, invert_2x2, project_shapes

Kind = Literal["pop", "pop_target", "blend", "max_weight", "opacity", "sensitivity"]
Score = Callable[[Splats], Tensor]
Refine = Callable[[Splats, int], Splats]


def removal_error(
    splats: Splats,
    cameras: Sequence[Camera],
    *,
    background: Tensor | None = None,
    target: Sequence[Tensor] | Tensor | None = None,
    near: float = NEAR,
    chunk: int = PAIRS,
) -> Tensor:
    """Squared change of the rendered images when one Gaussian is removed, for every Gaussian.

    Args:
        splats: the scene, N Gaussians.
        cameras: V views; one compositing pass each.
        background: colour behind everything, `(3,)`; black when not given.
        target: V photographs `(H, W, 3)`; given, the change of the squared error against them.
        near: depth (scene units) in front of which Gaussians are not drawn.
        chunk: pixel-Gaussian pairs that are held at once; bounds the memory.

    Returns:
        `(N,)` float64, summed over views, pixels and channels; not negative without `target`.

    Raises:
        ValueError: no cameras, parameters that are not finite, or targets that do not fit the cameras.

    Source: 2602.06830.
    """
    kind: Kind = "pop" if target is None else "pop_target"
    return importance(splats, cameras, kind, background=background, target=target, near=near, chunk=chunk)


def importance(
    splats: Splats,
    cameras: Sequence[Camera],
    kind: Kind = "pop",
    *,
    background: Tensor | None = None,
    target: Sequence[Tensor] | Tensor | None = None,
    near: float = NEAR,
    chunk: int = PAIRS,
) -> Tensor:
    """A pruning score of every Gaussian, `(N,)` float64; all kinds share one compositing pass per view.

    Args:
        kind: `pop` and `pop_target` as `removal_error`; `blend`: sum of blending weights (LightGaussian);
            `max_weight`: largest blending weight (Mini-Splatting); `opacity`; `sensitivity`: logarithm of the
            determinant of the Gauss-Newton matrix of the images in mean and log scale (PUP-3DGS).
        splats, cameras, background, target, near, chunk: as `removal_error`.

    Raises:
        ValueError: as `removal_error`; an unknown kind; `pop_target` without a target.

    Source: 2602.06830; baselines of 2311.17245, 2403.14166 and 2406.10219.
    """
    _check(splats, cameras, kind, target)
    n, device = len(splats), splats.means.device
    if kind == "opacity":
        return splats.opacity.detach().double()
    background = splats.means.new_zeros(3) if background is None else background.to(splats.means)
    score = torch.zeros(n, dtype=torch.float64, device=device)
    normal = torch.zeros(n, 6, 6, dtype=torch.float64, device=device)
    for number, camera in enumerate(cameras):
        photo = None if kind != "pop_target" or target is None else target[number].to(splats.means).reshape(-1, 3)
        moments = torch.zeros(n, 5, 5, dtype=torch.float64, device=device)
        for block in blocks(splats, camera, near=near, pairs=chunk):
            ids = block.ids[block.valid]
            if kind == "max_weight":
                highest = block.weight.amax(1)[block.valid].double()
                score.scatter_reduce_(0, ids, highest, "amax")
            elif kind == "blend":
                score.index_add_(0, ids, block.weight.sum(1)[block.valid].double())
            elif kind == "sensitivity":
                moments.index_add_(0, ids, _moments(block, background)[block.valid].double())
            else:
                score.index_add_(0, ids, _error(block, background, photo).sum(1)[block.valid].double())
        if kind == "sensitivity":
            J = _shape_jacobian(splats, camera)
            normal += J.mT @ moments @ J
    if kind == "sensitivity":
        ridge = 1e-12 * torch.eye(6, dtype=torch.float64, device=device)  # unseen Gaussians rank last, not nowhere
        return torch.linalg.slogdet(normal + ridge).logabsdet
    return score


def prune(
    splats: Splats,
    cameras: Sequence[Camera],
    keep: float,
    *,
    rounds: int = 5,
    kind: Kind | Score = "pop",
    refine: Refine | None = None,
    background: Tensor | None = None,
    target: Sequence[Tensor] | Tensor | None = None,
    near: float = NEAR,
    chunk: int = PAIRS,
) -> tuple[Splats, Tensor]:
    """Simplify a trained scene in rounds: score the survivors, keep the highest `N keep^(r/rounds)`, refine.

    Args:
        splats, cameras, background, target, near, chunk: as `removal_error`.
        keep: share of the Gaussians to keep, in (0, 1]; above 1 their number.
        rounds: how often scores are computed anew; 1 is one-shot pruning.
        kind: name of a score (see `importance`), or a function from a scene to scores `(N,)`.
        refine: called after each round with the scene and the round's number from 0; returns the scene with the
            same Gaussians in the same order, better fitted.

    Returns:
        The simplified scene, and which rows of `splats` it consists of, ascending, `(M,)`.

    Raises:
        ValueError: as `importance`; a `keep` that leaves none or more than there are; rounds below 1; a `refine`
            that returns another number of Gaussians.

    Source: 2602.06830.
    """
    _check(splats, cameras, kind if isinstance(kind, str) else "opacity", target)
    index = torch.arange(len(splats), device=splats.means.device)
    for number, count in enumerate(schedule(len(splats), keep, rounds)):
        if count < len(splats):
            if isinstance(kind, str):
                scores = importance(splats, cameras, kind, background=background, target=target, near=near, chunk=chunk)
            else:
                scores = kind(splats)
            chosen = keep_highest(scores, count)
            splats, index = splats.select(chosen), index[chosen]
        if refine is not None:
            refined = refine(splats, number)
            if len(refined) != len(splats):
                raise ValueError(f"refine returned {len(refined)} Gaussians for {len(splats)}")
            splats = refined
    return splats, index


@dataclass
class TrainingPruner:
    """Prunes while a scene is trained: at each share of the steps in `at`, `keep^(1/len(at))` of the Gaussians stay.

    To be called from a training loop after densification has ended.

    Attributes:
        keep: share (or, above 1, number) of Gaussians left after the last pruning.
        at: shares of training at which to prune, ascending.
        kind, background, target, near: as in `prune`.

    Source: 2602.06830.
    """

    keep: float
    at: Sequence[float] = (0.4, 0.6, 0.8)
    kind: Kind | Score = "pop"
    background: Tensor | None = None
    target: Sequence[Tensor] | Tensor | None = None
    near: float = NEAR
    _counts: list[int] = field(default_factory=list, init=False, repr=False)

    def step(self, i: int, total: int, splats: Splats, cameras: Sequence[Camera]) -> Tensor | None:
        """Which Gaussians stay, a mask `(N,)`, at the steps that prune; None at all others.

        Args:
            i, total: number of the step from 0, and of all steps.
            splats: the scene as it is now.
            cameras: training views.
        """
        due = [round(share * total) for share in self.at]
        if i not in due:
            return None
        if i == due[0]:
            self._counts = schedule(len(splats), self.keep, len(due))
        elif not self._counts:
            raise ValueError("TrainingPruner.step was not called at its first pruning step")
        count = min(self._counts[due.index(i)], len(splats))
        if isinstance(self.kind, str):
            scores = importance(
                splats, cameras, self.kind, background=self.background, target=self.target, near=self.near
            )
        else:
            scores = self.kind(splats)
        mask = torch.zeros(len(splats), dtype=torch.bool, device=splats.means.device)
        mask[keep_highest(scores, count)] = True
        return mask


def schedule(n: int, keep: float, rounds: int) -> list[int]:
    """How many of n Gaussians are left after each round: `n keep^(r/rounds)`, the last exactly `round(n keep)`.

    Raises:
        ValueError: a `keep` that leaves none or more than n, or rounds below 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds}")
    last = 0
    if math.isfinite(keep) and keep > 0:
        last = round(keep * n) if keep <= 1 else int(keep)
    if not 1 <= last <= n or (keep > 1 and last != keep):
        raise ValueError(f"keep must be a share in (0, 1] or a number up to {n} that leaves at least one; got {keep}")
    return [round(n * (last / n) ** (r / rounds)) for r in range(1, rounds)] + [last]


def keep_highest(scores: Tensor, count: int) -> Tensor:
    """Ascending indices of the `count` highest scores; ties go to the lower index.

    Raises:
        ValueError: a score is not a number.
    """
    if bool(scores.isnan().any()):
        raise ValueError("a pruning score is not a number")
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def _check(splats: Splats, cameras: Sequence[Camera], kind: str, target: Sequence[Tensor] | Tensor | None) -> None:
    if kind not in get_args(Kind):
        raise ValueError(f"unknown score {kind!r}; choose from: {', '.join(get_args(Kind))}")
    if not cameras:
        raise ValueError("no cameras: removal errors are measured in views")
    splats.check()
    if kind != "pop_target":
        return
    if target is None or len(target) != len(cameras):
        raise ValueError(f"pop_target needs one target image per camera; got {0 if target is None else len(target)}")
    for image, camera in zip(target, cameras, strict=True):
        if tuple(image.shape) != (camera.height, camera.width, 3):
            raise ValueError(f"a target has shape {tuple(image.shape)}, its camera {(camera.height, camera.width, 3)}")


def _error(block: Block, background: Tensor, photo: Tensor | None) -> Tensor:
    """Squared change (or, with a photograph `(H W, 3)`, change of squared error) of each pixel, `(T, P, K)`.

    Sums run from the back: what is little there must not drown in the rounding of what is much in front. So all is
    held back to front, and the result turned round at the end.
    """
    weight = block.weight.flip(-1)
    odds = (block.alpha / (1 - block.alpha)).flip(-1)
    total = torch.zeros_like(weight)
    for channel in range(3):
        share = weight * block.color[:, None, :, channel].flip(-1)
        last = (block.leftover * background[channel])[..., None]
        composite = share.cumsum(-1).add_(last)
        full = composite[..., -1:].clone()
        d = share.addcmul_(composite.sub_(share), odds, value=-1)
        if photo is None:
            total.addcmul_(d, d)
        else:
            # pixels outside of the image have d = 0, so it does not matter which target they meet
            miss = full - photo[block.pixels.clamp(min=0), channel][..., None]
            total.addcmul_(d, d - 2 * miss)
    return total.flip(-1)


def _moments(block: Block, background: Tensor) -> Tensor:
    """Σ_pixels |d|² u uᵀ, `(T, K, 5, 5)`, with u the derivative of log(alpha) in projected mean and inverse covariance.

    Since dC/da = d/a and da = a d log(a), the colour's derivative in a parameter is d times that of log(alpha).
    """
    strength = _error(block, background, None).masked_fill(block.alpha >= MAX_ALPHA, 0)
    x, y = (block.centres[:, :, None] - block.mean[:, None]).unbind(-1)
    xx, xy, yy = (c[:, None] for c in block.conic.unbind(-1))
    u = [xx * x + xy * y, xy * x + yy * y, -0.5 * x * x, -x * y, -0.5 * y * y]
    found = block.alpha.new_zeros(*block.ids.shape, 5, 5)
    for i in range(5):
        weighted = strength * u[i]
        for j in range(i, 5):
            found[..., i, j] = found[..., j, i] = (weighted * u[j]).sum(1)
    return found


def _shape_jacobian(splats: Splats, camera: Camera) -> Tensor:
    """Derivative of projected mean and inverse covariance in mean and log scale, `(N, 5, 6)` float64."""
    scene = splats.detach().to(dtype=torch.float64)
    camera = camera.to(device=scene.means.device, dtype=torch.float64)
    with torch.enable_grad():
        leaves = [scene.means.requires_grad_(), scene.log_scales.requires_grad_()]
        mean, cov, _ = project_shapes(scene, camera)
        outputs = torch.cat([mean, invert_2x2(cov)], 1)
        # Gaussians do not depend on one another, so the gradient of a column's sum holds every row's own derivative
        rows = [torch.cat(torch.autograd.grad(outputs[:, i].sum(), leaves, retain_graph=True), 1) for i in range(5)]
    return torch.stack(rows, 1).nan_to_num(posinf=0.0, neginf=0.0)
