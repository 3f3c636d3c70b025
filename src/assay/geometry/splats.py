"""Gaussian splats: the parameters of a scene, their projection into a view, and the renderer that is obviously right.

A pixel p sees the Gaussians sorted front to back. With the projected mean m, covariance S and opacity o of each,

    a = min(0.99, o exp(-1/2 (p - m)ᵀ S⁻¹ (p - m))),  taken as 0 below 1/255
    w = a Π_{in front} (1 - a),   colour = Σ w c + Π_{all} (1 - a) background.

`splat_render` holds the fast renderer that computes the same thing by tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from assay.geometry.cameras import Camera

MAX_ALPHA = 0.99
MIN_ALPHA = 1 / 255
BLUR = 0.3  # variance in square pixels that is added to every projected Gaussian, so that none falls between pixels
NEAR = 0.2  # depth in scene units in front of which a Gaussian is not drawn, as in the INRIA viewer

SH_0 = 0.28209479177387814


@dataclass(frozen=True)
class Splats:
    """N Gaussians, as trained (before activation).

    Attributes:
        means: centres in the world, shape `(N, 3)`, in the scene's length unit.
        quats: rotations as quaternions w, x, y, z, of any length above zero, `(N, 4)`.
        log_scales: logarithm of the standard deviations along the Gaussian's own axes, `(N, 3)`.
        opacity_logit: opacity before the sigmoid, `(N,)`.
        sh: spherical-harmonics coefficients of red, green, blue, `(N, K, 3)` with K = 1, 4, 9 or 16 (degree 0 to 3).

    Raises:
        ValueError: shapes that do not fit together.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    opacity_logit: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        wanted = {"means": (n, 3), "quats": (n, 4), "log_scales": (n, 3), "opacity_logit": (n,)}
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"splats: {name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if self.sh.ndim != 3 or self.sh.shape[0] != n or self.sh.shape[1] not in (1, 4, 9, 16) or self.sh.shape[2] != 3:
            raise ValueError(f"splats: sh has shape {tuple(self.sh.shape)}, expected ({n}, 1 | 4 | 9 | 16, 3)")
        if len({x.device for x in self.tensors().values()}) > 1:
            raise ValueError("splats: all tensors must be on one device")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return math.isqrt(self.sh.shape[1]) - 1

    @property
    def opacity(self) -> Tensor:
        """Opacities in (0, 1), shape `(N,)`."""
        return self.opacity_logit.sigmoid()

    def tensors(self) -> dict[str, Tensor]:
        """The five parameters by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def select(self, index: Tensor) -> Splats:
        """The Gaussians of an index `(M,)` or a mask `(N,)`."""
        return Splats(**{name: x[index] for name, x in self.tensors().items()})

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Splats:
        """The same Gaussians on another device or of another type."""
        return Splats(**{name: x.to(device=device, dtype=dtype) for name, x in self.tensors().items()})

    def detach(self) -> Splats:
        """A copy without gradients."""
        return Splats(**{name: x.detach().clone() for name, x in self.tensors().items()})

    def check(self) -> None:
        """Make sure that the scene can be rendered.

        Raises:
            ValueError: no Gaussians, parameters that are not finite, or a quaternion of length zero.
        """
        if len(self) == 0:
            raise ValueError("the scene holds no Gaussians")
        for name, x in self.tensors().items():
            bad = int((~torch.isfinite(x)).reshape(len(self), -1).any(1).sum())
            if bad:
                raise ValueError(f"{bad} of {len(self)} Gaussians have a {name} that is not finite")
        if bool((self.quats.norm(dim=1) == 0).any()):
            raise ValueError("a Gaussian has a quaternion of length zero")

    @classmethod
    def from_points(cls, points: Tensor, colors: Tensor, *, opacity: float = 0.1, degree: int = 0) -> Splats:
        """The usual start of training: round Gaussians as wide as the distance to the three nearest points.

        Args:
            points: `(N, 3)`, N at least 4.
            colors: `(N, 3)` in [0, 1].
            opacity: of every Gaussian.
            degree: of the spherical harmonics; coefficients above 0 start at zero.
        """
        from scipy.spatial import cKDTree

        n = points.shape[0]
        if n < 4:
            raise ValueError(f"from_points needs at least 4 points, got {n}")
        positions = points.detach().cpu().double().numpy()
        distances, _ = cKDTree(positions).query(positions, k=4)
        width = torch.as_tensor((distances[:, 1:] ** 2).mean(1)).clamp(min=1e-14).sqrt().to(points)
        sh = points.new_zeros(n, (degree + 1) ** 2, 3)
        sh[:, 0] = (colors - 0.5) / SH_0
        quats = points.new_zeros(n, 4)
        quats[:, 0] = 1
        logit = points.new_full((n,), math.log(opacity / (1 - opacity)))
        return cls(points.clone(), quats, width.log()[:, None].repeat(1, 3), logit, sh)


@dataclass(frozen=True)
class Projected:
    """The M Gaussians that touch a view, front to back (ties in depth keep their order).

    Attributes:
        ids: their rows in the scene, `(M,)`.
        mean: centres in image coordinates, `(M, 2)`, pixels.
        conic: the entries xx, xy, yy of the inverse covariance, `(M, 3)`, per square pixel.
        log_opacity: `(M,)`.
        color: red, green, blue of this view, `(M, 3)`, not below 0.
        depth: z in camera axes, `(M,)`.
        reach: half width and half height of the box outside of which alpha is below 1/255, `(M, 2)`, pixels.
    """

    ids: Tensor
    mean: Tensor
    conic: Tensor
    log_opacity: Tensor
    color: Tensor
    depth: Tensor
    reach: Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """Quaternions w, x, y, z `(N, 4)` of any length to rotations `(N, 3, 3)`."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def sh_basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics up to `degree` (at most 3) of unit vectors `(N, 3)`: `(N, (degree + 1)²)`.

    Sign and order are those of the 3DGS file format.
    """
    x, y, z = directions.unbind(-1)
    basis = [torch.full_like(x, SH_0)]
    if degree > 0:
        c = 0.4886025119029199
        basis += [-c * y, c * z, -c * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        c = 1.0925484305920792
        basis += [
            c * x * y, -c * y * z, 0.31539156525252005 * (2 * zz - xx - yy), -c * x * z,
            0.5462742152960396 * (xx - yy),
        ]  # fmt: skip
    if degree > 2:
        c = 0.4570457994644658
        basis += [
            -0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z, -c * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy), -c * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy), -0.5900435899266435 * x * (xx - 3 * yy),
        ]  # fmt: skip
    return torch.stack(basis, -1)


def view_colors(splats: Splats, centre: Tensor) -> Tensor:
    """Colours `(N, 3)` seen from a camera at `centre` `(3,)`: `max(0, 1/2 + Σ_k sh_k Y_k(direction))`."""
    if splats.degree == 0:
        return (0.5 + SH_0 * splats.sh[:, 0]).clamp(min=0)
    offset = splats.means - centre
    directions = offset / offset.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return (0.5 + torch.einsum("nk,nkc->nc", sh_basis(directions, splats.degree), splats.sh)).clamp(min=0)


def project_shapes(splats: Splats, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Projected centres `(N, 2)`, covariances xx, xy, yy `(N, 3)` in square pixels, and depths `(N,)`.

    The covariance is `J R Σ Rᵀ Jᵀ + 0.3 I` with J the Jacobian of the projection at the centre (which is held within
    30 % of the image's border, where the linear approximation still means something). Nothing is culled.
    """
    K = camera.K.to(splats.means)
    local = camera.to_camera(splats.means)
    x, y, z = local.unbind(-1)
    depth = torch.where(z.abs() < 1e-6, torch.full_like(z, 1e-6), z)
    mean = torch.stack([(K[0, 0] * x + K[0, 1] * y) / depth + K[0, 2], K[1, 1] * y / depth + K[1, 2]], -1)
    margin = (0.15 * camera.width / K[0, 0], 0.15 * camera.height / K[1, 1])
    u = (x / depth).clamp(-K[0, 2] / K[0, 0] - margin[0], (camera.width - K[0, 2]) / K[0, 0] + margin[0])
    v = (y / depth).clamp(-K[1, 2] / K[1, 1] - margin[1], (camera.height - K[1, 2]) / K[1, 1] + margin[1])
    zero = torch.zeros_like(u)
    rows = (
        torch.stack(
            [
                torch.stack([K[0, 0] + zero, K[0, 1] + zero, -(K[0, 0] * u + K[0, 1] * v)], -1),
                torch.stack([zero, K[1, 1] + zero, -K[1, 1] * v], -1),
            ],
            -2,
        )
        / depth[:, None, None]
    )
    axes = rows @ camera.R @ (rotation_matrices(splats.quats) * splats.log_scales.exp()[:, None, :])
    across, down = axes.unbind(-2)
    cov = torch.stack([(across**2).sum(-1) + BLUR, (across * down).sum(-1), (down**2).sum(-1) + BLUR], -1)
    return mean, cov, z


def invert_2x2(cov: Tensor) -> Tensor:
    """Inverse of symmetric 2x2 matrices given and returned as xx, xy, yy, `(..., 3)`."""
    xx, xy, yy = cov.unbind(-1)
    return torch.stack([yy, -xy, xx], -1) / (xx * yy - xy * xy)[..., None]


def project(splats: Splats, camera: Camera, *, near: float = NEAR) -> Projected:
    """The Gaussians that touch a view, sorted front to back. Differentiable in every parameter.

    Args:
        splats: the scene.
        camera: the view; its tensors take the scene's device and type.
        near: Gaussians whose centre is not deeper than this (scene units) are left out.
    """
    camera = camera.to(device=splats.means.device, dtype=splats.means.dtype)
    with torch.no_grad():
        mean, cov, z = project_shapes(splats, camera)
        opacity = splats.opacity
        reach = (2 * (opacity / MIN_ALPHA).clamp(min=1).log())[:, None].sqrt() * cov[:, ::2].sqrt()
        size = mean.new_tensor([camera.width, camera.height])
        seen = (z > near) & (opacity >= MIN_ALPHA) & ((mean + reach > 0) & (mean - reach < size)).all(-1)
        seen &= torch.isfinite(cov).all(-1) & (cov[:, 0] * cov[:, 2] > cov[:, 1] ** 2)
        ids = seen.nonzero()[:, 0]
        ids = ids[torch.argsort(z[ids], stable=True)]
    part = splats.select(ids)
    mean, cov, z = project_shapes(part, camera)
    log_opacity = torch.nn.functional.logsigmoid(part.opacity_logit)
    return Projected(ids, mean, invert_2x2(cov), log_opacity, view_colors(part, camera.centre), z, reach[ids])


@dataclass(frozen=True)
class DenseWeights:
    """What every visible Gaussian gives to every pixel, front to back.

    Attributes:
        ids: rows in the scene, `(M,)`.
        alpha, weight: `(P, M)` over the pixels of the rows given.
        leftover: transmittance behind all Gaussians, `(P,)`.
        color, depth: of the M Gaussians in this view, `(M, 3)` and `(M,)`.
    """

    ids: Tensor
    alpha: Tensor
    weight: Tensor
    leftover: Tensor
    color: Tensor
    depth: Tensor


def dense_weights(
    splats: Splats, camera: Camera, *, near: float = NEAR, rows: int | None = None
) -> Iterator[DenseWeights]:
    """Blending weights of all visible Gaussians at all pixels, a band of image rows at a time (all at once by default).

    Needs memory for `width * rows * M` numbers; written for clearness, not for speed. Differentiable.
    """
    view = project(splats, camera, near=near)
    pixels = camera.to(device=splats.means.device, dtype=splats.means.dtype).pixel_centres()
    for band in pixels.split(rows or camera.height):
        dx, dy = (band.reshape(-1, 1, 2) - view.mean).unbind(-1)
        power = -0.5 * (view.conic[:, 0] * dx * dx + view.conic[:, 2] * dy * dy) - view.conic[:, 1] * dx * dy
        alpha = (view.log_opacity + power).exp().clamp(max=MAX_ALPHA)
        alpha = torch.where(alpha < MIN_ALPHA, torch.zeros_like(alpha), alpha)
        through = torch.cumprod(1 - alpha, -1)
        before = torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], -1)
        leftover = through[:, -1] if through.shape[1] else through.new_ones(through.shape[0])
        yield DenseWeights(view.ids, alpha, before * alpha, leftover, view.color, view.depth)


def render_dense(splats: Splats, camera: Camera, background: Tensor | None = None, *, near: float = NEAR) -> Tensor:
    """Image `(H, W, 3)` by the formula above, over `background` `(3,)` (black when not given). Differentiable."""
    background = splats.means.new_zeros(3) if background is None else background.to(splats.means)
    bands = [w.weight @ w.color + w.leftover[:, None] * background for w in dense_weights(splats, camera, near=near)]
    return torch.cat(bands).reshape(camera.height, camera.width, 3)


def moved(splats: Splats, R: Tensor, t: Tensor) -> Splats:
    """The scene after the rigid motion `x -> R x + t`. Coefficients above degree 0 are not turned.

    Raises:
        ValueError: the scene has view-dependent colour.
    """
    if splats.degree:
        raise ValueError("moved: view-dependent colour is not turned; give a scene of degree 0")
    w, x, y, z = (splats.quats / splats.quats.norm(dim=-1, keepdim=True)).unbind(-1)
    a, b, c, d = _quaternion(R.to(splats.means)).unbind(-1)
    turned = torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        -1,
    )
    return replace(splats, means=splats.means @ R.to(splats.means).T + t.to(splats.means), quats=turned)


def _quaternion(R: Tensor) -> Tensor:
    # the eigenvector of the largest eigenvalue of this symmetric matrix is the rotation's quaternion (Bar-Itzhack)
    m = R
    K = R.new_zeros(4, 4)
    K[0, 0] = m[0, 0] + m[1, 1] + m[2, 2]
    K[0, 1], K[0, 2], K[0, 3] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    K[1, 1], K[2, 2], K[3, 3] = m[0, 0] - m[1, 1] - m[2, 2], m[1, 1] - m[0, 0] - m[2, 2], m[2, 2] - m[0, 0] - m[1, 1]
    K[1, 2], K[1, 3], K[2, 3] = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    return torch.linalg.eigh(K, UPLO="U").eigenvectors[:, -1]
