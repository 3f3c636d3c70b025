"""Pinhole cameras: projection, rays, and cameras placed around a scene.

Conventions, the same everywhere in Assay:

- camera axes: x right, y down, z forward (OpenCV, COLMAP);
- a pose maps world to camera, `X_cam = R X_world + t`;
- image coordinates have their origin at the outer corner of the first pixel, so the pixel in row i and column j
  has its centre at `(j + 0.5, i + 0.5)` (COLMAP). Readers of formats that count from pixel centres add the half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion.

    Attributes:
        R: rotation from world to camera, shape `(3, 3)`.
        t: translation from world to camera, shape `(3,)`, in the scene's length unit.
        K: intrinsics in pixels, shape `(3, 3)`: `[[fx, skew, cx], [0, fy, cy], [0, 0, 1]]`.
        width, height: image size in pixels.

    Raises:
        ValueError: wrong shapes, a size below one pixel, a focal length not above zero, or an R that is no rotation.
    """

    R: Tensor
    t: Tensor
    K: Tensor
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.R.shape != (3, 3) or self.t.shape != (3,) or self.K.shape != (3, 3):
            shapes = f"R {tuple(self.R.shape)}, t {tuple(self.t.shape)}, K {tuple(self.K.shape)}"
            raise ValueError(f"a camera needs R (3, 3), t (3,) and K (3, 3); got {shapes}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a camera needs a size of at least 1x1 pixels; got {self.width}x{self.height}")
        if not (self.K[0, 0] > 0 and self.K[1, 1] > 0):
            raise ValueError("focal lengths must be positive")
        check_rotation(self.R)

    @property
    def centre(self) -> Tensor:
        """Position of the camera in the world, shape `(3,)`."""
        return -self.R.T @ self.t

    @property
    def fx(self) -> float:
        """Horizontal focal length in pixels."""
        return float(self.K[0, 0])

    @property
    def fy(self) -> float:
        """Vertical focal length in pixels."""
        return float(self.K[1, 1])

    @property
    def cx(self) -> float:
        """Column of the principal point in image coordinates."""
        return float(self.K[0, 2])

    @property
    def cy(self) -> float:
        """Row of the principal point in image coordinates."""
        return float(self.K[1, 2])

    @property
    def forward(self) -> Tensor:
        """Viewing direction in the world, a unit vector of shape `(3,)`."""
        return self.R[2]

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Camera:
        """The same camera with its tensors on another device or of another type."""
        R, t, K = (x.to(device=device, dtype=dtype) for x in (self.R, self.t, self.K))
        return replace(self, R=R, t=t, K=K)

    def resized(self, width: int, height: int) -> Camera:
        """The same view sampled on `width` x `height` pixels."""
        factors = [width / self.width, height / self.height, 1.0]
        return replace(self, K=torch.diag(self.K.new_tensor(factors)) @ self.K, width=width, height=height)

    def to_camera(self, points: Tensor) -> Tensor:
        """World points `(..., 3)` in camera axes, `(..., 3)`."""
        return points @ self.R.T + self.t

    def to_world(self, points: Tensor) -> Tensor:
        """Points in camera axes `(..., 3)` in the world, `(..., 3)`."""
        return (points - self.t) @ self.R

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """World points `(..., 3)` to image coordinates `(..., 2)` and depths `(...)`.

        The depth is the z coordinate in camera axes; where it is not positive the point is behind the camera and its
        image coordinates mean nothing.
        """
        local = self.to_camera(points)
        return (local @ self.K.T)[..., :2] / local[..., 2:], local[..., 2]

    def unproject(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """Image coordinates `(..., 2)` at z depths `(...)` to world points `(..., 3)`."""
        return self.to_world(homogeneous(self.normalise(pixels)) * depth[..., None])

    def normalise(self, pixels: Tensor) -> Tensor:
        """Image coordinates `(..., 2)` to normalised ones, the point where the ray meets z = 1, `(..., 2)`."""
        return (homogeneous(pixels) @ torch.linalg.inv(self.K).T)[..., :2]

    def pixel_centres(self) -> Tensor:
        """Image coordinates of all pixel centres, `(height, width, 2)`."""
        rows = torch.arange(self.height, dtype=self.K.dtype, device=self.K.device) + 0.5
        columns = torch.arange(self.width, dtype=self.K.dtype, device=self.K.device) + 0.5
        return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)

    def rays(self) -> tuple[Tensor, Tensor]:
        """Ray of every pixel in the world: origin `(3,)` and directions `(height, width, 3)`.

        A direction has a z of 1 in camera axes, so the distance along it is the depth.
        """
        return self.centre, homogeneous(self.normalise(self.pixel_centres())) @ self.R


def homogeneous(x: Tensor) -> Tensor:
    """Append a one: `(..., D)` to `(..., D + 1)`."""
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def intrinsics(
    width: int, height: int, *, fov: float | None = None, focal: float | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """K of a centred camera with square pixels, `(3, 3)`.

    Args:
        width, height: image size in pixels.
        fov: horizontal field of view in degrees; or
        focal: focal length in pixels.

    Raises:
        ValueError: not exactly one of `fov` and `focal`, or a `fov` outside (0, 180).
    """
    if (fov is None) == (focal is None):
        raise ValueError("give exactly one of fov and focal")
    if fov is not None:
        if not 0 < fov < 180:
            raise ValueError(f"fov must lie between 0 and 180 degrees; got {fov}")
        focal = 0.5 * width / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=dtype)


def look_at(eye: Tensor, target: Tensor, up: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pose of a camera at `eye` that looks at `target`: R `(..., 3, 3)` and t `(..., 3)`, world to camera.

    Args:
        eye, target: world points `(..., 3)`.
        up: world direction that points up in the image, `(3,)`; +z when not given. Where it is parallel to the
            viewing direction another one is chosen.

    Raises:
        ValueError: `eye` and `target` coincide.
    """
    target = torch.as_tensor(target, dtype=eye.dtype, device=eye.device)
    up = eye.new_tensor([0.0, 0.0, 1.0]) if up is None else torch.as_tensor(up, dtype=eye.dtype, device=eye.device)
    forward = target - eye
    length = forward.norm(dim=-1, keepdim=True)
    if bool((length == 0).any()):
        raise ValueError("look_at: eye and target coincide")
    forward = forward / length
    right = torch.linalg.cross(forward, up.expand_as(forward))
    other = torch.linalg.cross(forward, up.roll(1).expand_as(forward))
    right = torch.where(right.norm(dim=-1, keepdim=True) > 1e-6 * up.norm(), right, other)
    right = right / right.norm(dim=-1, keepdim=True)
    R = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)
    return R, -(R @ eye[..., None])[..., 0]


def sphere_of_views(
    count: int,
    *,
    centre: Tensor | None = None,
    radius: float = 3.0,
    K: Tensor,
    width: int,
    height: int,
    elevation: tuple[float, float] = (-90.0, 90.0),
    turn: float = 0.0,
    up: Tensor | None = None,
) -> list[Camera]:
    """Cameras spread evenly over a sphere (or a band of it), all looking at its centre.

    The positions follow a Fibonacci spiral, so `count` views have nearly equal areas.

    Args:
        count: how many cameras.
        centre: centre of the sphere in the world, `(3,)`; the origin when not given.
        radius: in the scene's length unit.
        K, width, height: of every camera.
        elevation: lowest and highest elevation over the plane across `up`, in degrees.
        turn: rotation of the spiral about `up`, in degrees (a random one gives different views by seed).
        up: world direction that points up, `(3,)`; +z when not given.

    Raises:
        ValueError: no camera asked for, a radius that is not positive, or an empty band.
    """
    low, high = elevation
    if count < 1 or radius <= 0 or not -90 <= low <= high <= 90:
        raise ValueError(f"sphere_of_views: got count {count}, radius {radius}, elevation {elevation}")
    up = K.new_tensor([0.0, 0.0, 1.0]) if up is None else torch.as_tensor(up, dtype=K.dtype, device=K.device)
    centre = torch.zeros_like(up) if centre is None else torch.as_tensor(centre, dtype=K.dtype, device=K.device)
    up = up / up.norm()
    step = (torch.arange(count, dtype=K.dtype, device=K.device) + 0.5) / count
    bottom, top = math.sin(math.radians(low)), math.sin(math.radians(high))
    rise = bottom + (top - bottom) * step
    angle = math.radians(turn) + math.pi * (3 - math.sqrt(5)) * torch.arange(count, dtype=K.dtype, device=K.device)
    side = torch.linalg.cross(up, up.new_tensor([1.0, 0.0, 0.0]) if up[0].abs() < 0.9 else up.new_tensor([0.0, 1, 0]))
    side = side / side.norm()
    ahead = torch.linalg.cross(side, up)
    flat = (1 - rise**2).clamp(min=0).sqrt()
    offsets = rise[:, None] * up + (flat * angle.cos())[:, None] * ahead + (flat * angle.sin())[:, None] * side
    eyes = centre + radius * offsets
    R, t = look_at(eyes, centre.expand_as(eyes), up)
    return [Camera(R[i], t[i], K, width, height) for i in range(count)]


def relative_pose(first: Camera, second: Camera) -> tuple[Tensor, Tensor]:
    """Pose of `second` seen from `first`: `X2 = R X1 + t` in camera axes; `(3, 3)` and `(3,)`."""
    R = second.R @ first.R.T
    return R, second.t - R @ first.t


def check_rotation(R: Tensor, tolerance: float = 1e-3) -> None:
    """Make sure that R `(..., 3, 3)` is orthonormal and not mirrored.

    Raises:
        ValueError: it is not, by more than `tolerance`.
    """
    off = (R @ R.transpose(-1, -2) - torch.eye(3, dtype=R.dtype, device=R.device)).abs().amax()
    if not off <= tolerance or bool((torch.linalg.det(R) < 0).any()):
        raise ValueError(f"R is not a rotation: R Rᵀ is off the identity by {float(off):.3g}, or R mirrors")
