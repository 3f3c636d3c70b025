"""Exact images of simple textured solids: the truth in depth, normal and colour for every ray.

A solid is a unit shape u (square, ball, cube, can) moved by `X = centre + R diag(size) u`. A ray `o + λ d` is taken
into unit coordinates, where its entry and exit are roots of a line or a quadratic; nothing is tessellated.
Texture coordinates are lengths along the surface, so a photo covers every solid at the same scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from assay.geometry.cameras import Camera

PHOTOS = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "rocket", "retina", "hubble_deep_field")
"""Photos in the scikit-image wheel that serve as textures."""


@dataclass(frozen=True)
class Texture:
    """A photo laid over a surface, mirrored at its edges so that it has no seams.

    Attributes:
        image: shape `(H, W, 3)`, values 0 to 1.
        extent: length that the width of the photo covers, in the scene's unit.
        offset: where the photo starts, in the scene's unit.
    """

    image: Tensor
    extent: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)

    def __call__(self, where: Tensor) -> Tensor:
        """Colour `(N, 3)` at surface coordinates `(N, 2)`, by bilinear interpolation."""
        height, width = self.image.shape[:2]
        scale = width / self.extent
        x = _mirror((where[:, 0] + self.offset[0]) * scale, width)
        y = _mirror((where[:, 1] + self.offset[1]) * scale, height)
        column, row = x.floor().clamp(max=width - 2), y.floor().clamp(max=height - 2)
        fx, fy = (x - column)[:, None], (y - row)[:, None]
        j, i = column.long(), row.long()
        above = self.image[i, j] * (1 - fx) + self.image[i, j + 1] * fx
        below = self.image[i + 1, j] * (1 - fx) + self.image[i + 1, j + 1] * fx
        return above * (1 - fy) + below * fy


Paint = Texture | tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """A unit shape, stretched, turned and moved into the world.

    Attributes:
        centre: world position, `(3,)`.
        size: half extents (radii) along the solid's own axes, `(3,)`.
        R: the solid's axes in the world as columns, `(3, 3)`.
        paint: a `Texture` or one colour.
    """

    centre: Tensor
    size: Tensor
    R: Tensor = field(default_factory=lambda: torch.eye(3, dtype=torch.float64))
    paint: Paint = (0.7, 0.7, 0.7)

    def __post_init__(self) -> None:
        for name, shape in (("centre", (3,)), ("size", (3,)), ("R", (3, 3))):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64)
            if value.shape != shape:
                raise ValueError(f"{name} of a solid must have shape {shape}; got {tuple(value.shape)}")
            object.__setattr__(self, name, value)
        if not bool((self.size > 0).all()):
            raise ValueError(f"size of a solid must be positive; got {self.size.tolist()}")

    def crossing(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Where rays `(N, 3)` in unit coordinates enter and leave, `(N,)` each; entry > exit where they miss."""
        raise NotImplementedError

    def unit_normal(self, points: Tensor) -> Tensor:
        """Outward normals, not scaled, at surface points `(N, 3)` in unit coordinates."""
        raise NotImplementedError

    def surface(self, points: Tensor) -> Tensor:
        """Surface coordinates `(N, 2)`, as lengths, at surface points `(N, 3)` in unit coordinates."""
        raise NotImplementedError

    def to_unit(self, points: Tensor) -> Tensor:
        """World points `(N, 3)` in unit coordinates."""
        return (points - self.centre) @ self.R / self.size

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """First hit of world rays `(N, 3)` in front of their origins, in lengths of the direction; infinite if none."""
        near, far = self.crossing(self.to_unit(origins), directions @ self.R / self.size)
        first = torch.where(near > 1e-9, near, far)
        return torch.where((near <= far) & (first > 1e-9), first, math.inf)

    def normal(self, points: Tensor) -> Tensor:
        """Outward unit normals in the world at world points `(N, 3)` of the surface."""
        outward = (self.unit_normal(self.to_unit(points)) / self.size) @ self.R.T
        return outward / outward.norm(dim=-1, keepdim=True)

    def colour(self, points: Tensor) -> Tensor:
        """Colours `(N, 3)` at world points `(N, 3)` of the surface."""
        if isinstance(self.paint, Texture):
            return self.paint(self.surface(self.to_unit(points)))
        return points.new_tensor(self.paint).expand(len(points), 3)


class Rectangle(Solid):
    """A flat rectangle in the plane of its own x and y axes; its normal is its z axis (size[2] is of no account)."""

    def crossing(self, origins, directions):
        at = -origins[:, 2] / directions[:, 2]
        inside = ((origins + at[:, None] * directions)[:, :2].abs() <= 1).all(-1)
        return at, torch.where(inside, at, -math.inf)

    def unit_normal(self, points):
        return points.new_tensor([0.0, 0.0, 1.0]).expand_as(points)

    def surface(self, points):
        return points[:, :2] * self.size[:2]


class Ellipsoid(Solid):
    """An ellipsoid with the radii `size`; a sphere where they are equal."""

    def crossing(self, origins, directions):
        return _quadratic(
            (directions**2).sum(-1), (origins * directions).sum(-1), (origins**2).sum(-1) - 1, inside_if_parallel=False
        )

    def unit_normal(self, points):
        return points

    def surface(self, points):
        longitude = torch.atan2(points[:, 1], points[:, 0])
        latitude = torch.asin(points[:, 2].clamp(-1, 1))
        return torch.stack([longitude * self.size[:2].mean(), latitude * self.size[2]], -1)


class Box(Solid):
    """A box; seen from within it is a room."""

    def crossing(self, origins, directions):
        a, b = (-1 - origins) / directions, (1 - origins) / directions
        return torch.minimum(a, b).amax(-1), torch.maximum(a, b).amin(-1)

    def unit_normal(self, points):
        side = points.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(points).scatter(-1, side, points.gather(-1, side).sign())

    def surface(self, points):
        side = points.abs().argmax(-1)
        others = torch.tensor([[1, 2], [0, 2], [0, 1]])[side]
        lengths = (points * self.size).gather(-1, others)
        return lengths + 0.37 * side[:, None] * float(self.size.sum())  # the faces show other parts of the photo


class Cylinder(Solid):
    """A cylinder about its own z axis with flat ends: radii `size[:2]`, half height `size[2]`."""

    def crossing(self, origins, directions):
        near, far = _quadratic(
            (directions[:, :2] ** 2).sum(-1),
            (origins[:, :2] * directions[:, :2]).sum(-1),
            (origins[:, :2] ** 2).sum(-1) - 1,
            inside_if_parallel=True,
        )
        a, b = (-1 - origins[:, 2]) / directions[:, 2], (1 - origins[:, 2]) / directions[:, 2]
        return torch.maximum(near, torch.minimum(a, b)), torch.minimum(far, torch.maximum(a, b))

    def unit_normal(self, points):
        end = points[:, 2:].abs() > points[:, :2].norm(dim=-1, keepdim=True)
        return torch.where(
            end, points * points.new_tensor([0.0, 0.0, 1.0]), points * points.new_tensor([1.0, 1.0, 0.0])
        )

    def surface(self, points):
        end = points[:, 2:].abs() > points[:, :2].norm(dim=-1, keepdim=True)
        around = torch.atan2(points[:, 1], points[:, 0]) * self.size[:2].mean()
        side = torch.stack([around, points[:, 2] * self.size[2]], -1)
        return torch.where(end, points[:, :2] * self.size[:2], side)


class Hits(NamedTuple):
    """What rays meet first.

    Attributes:
        distance: in lengths of the direction, `(N,)`; infinite for the background.
        solid: index of the solid, `(N,)`; -1 for the background.
        normal: unit normal in the world, facing the ray's origin, `(N, 3)`; zero for the background.
        colour: `(N, 3)`.
    """

    distance: Tensor
    solid: Tensor
    normal: Tensor
    colour: Tensor


class View(NamedTuple):
    """An image with its truth; depth, normal and solid belong to the pixel centres.

    Attributes:
        image: colours from 0 to 1, `(H, W, 3)`.
        depth: z in camera axes, `(H, W)`; infinite for the background.
        normal: unit normal in the world, facing the camera, `(H, W, 3)`; zero for the background.
        solid: index of the solid seen, `(H, W)`; -1 for the background.
    """

    image: Tensor
    depth: Tensor
    normal: Tensor
    solid: Tensor


@dataclass(frozen=True)
class Scene:
    """Solids before a background of one colour.

    Attributes:
        solids: what is there; the nearest hit wins.
        background: colour where no solid is hit.
        light: direction towards a distant light in the world, or None for surfaces that show their paint as it is.
        ambient: share of light on surfaces that face away from `light`.
    """

    solids: Sequence[Solid]
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    light: tuple[float, float, float] | None = None
    ambient: float = 0.5

    def cast(self, origins: Tensor, directions: Tensor) -> Hits:
        """Meet world rays, origins `(3,)` or `(N, 3)` and directions `(N, 3)`, with the scene. Computes in float64."""
        directions = directions.double()
        origins = origins.double().expand_as(directions)
        table = [solid.hit(origins, directions) for solid in self.solids]
        table.append(torch.full(directions.shape[:1], math.inf, dtype=torch.float64))
        distance, solid = torch.stack(table).min(0)
        solid = torch.where(distance.isinf(), -1, solid)
        normal = torch.zeros_like(directions)
        colour = directions.new_tensor(self.background).expand_as(directions).clone()
        for index, shape in enumerate(self.solids):
            seen = (solid == index).nonzero()[:, 0]
            if len(seen) == 0:
                continue
            points = origins[seen] + distance[seen, None] * directions[seen]
            outward = shape.normal(points)
            facing = (outward * directions[seen]).sum(-1, keepdim=True) < 0
            normal[seen] = torch.where(facing, outward, -outward)
            colour[seen] = shape.colour(points).double() * self._shade(normal[seen])
        return Hits(distance, solid, normal, colour)

    def render(self, camera: Camera, samples: int = 2) -> View:
        """Image of the scene; a pixel is the mean of `samples` x `samples` rays spread over it."""
        camera = camera.to(device="cpu", dtype=torch.float64)
        origin, directions = camera.rays()
        shape = directions.shape[:2]
        truth = self.cast(origin, directions.reshape(-1, 3))
        if samples == 1:
            image = truth.colour.reshape(*shape, 3)
        else:
            fine = camera.resized(camera.width * samples, camera.height * samples)
            colour = self.cast(origin, fine.rays()[1].reshape(-1, 3)).colour
            image = colour.reshape(shape[0], samples, shape[1], samples, 3).mean((1, 3))
        return View(image, truth.distance.reshape(shape), truth.normal.reshape(*shape, 3), truth.solid.reshape(shape))

    def visible(self, camera: Camera, points: Tensor, tolerance: float = 1e-4) -> Tensor:
        """Whether world points `(N, 3)` on surfaces are seen by a camera, not hidden and inside its image, `(N,)`."""
        camera = camera.to(device="cpu", dtype=torch.float64)
        points = points.double()
        pixels, depth = camera.project(points)
        inside = (pixels > 0).all(-1) & (pixels[:, 0] < camera.width) & (pixels[:, 1] < camera.height) & (depth > 0)
        distance = self.cast(camera.centre, points - camera.centre).distance
        return inside & (distance > 1 - tolerance)

    def _shade(self, normal: Tensor) -> Tensor:
        if self.light is None:
            return normal.new_ones(1)
        light = normal.new_tensor(self.light)
        return self.ambient + (1 - self.ambient) * (normal @ (light / light.norm())).clamp(min=0)[:, None]


@lru_cache(maxsize=32)
def photo(name: str, width: int | None = None) -> Tensor:
    """A photo of scikit-image as `(H, W, 3)` in [0, 1]; `width`: scaled down to so many pixels, without aliasing.

    Raises:
        ValueError: not one of `PHOTOS`.
    """
    from skimage import color, data, transform, util

    if name not in PHOTOS:
        raise ValueError(f"no photo {name!r}; choose from: {', '.join(PHOTOS)}")
    image = util.img_as_float(getattr(data, name)())
    image = color.gray2rgb(image) if image.ndim == 2 else image[..., :3]
    if width is not None and width < image.shape[1]:
        height = round(image.shape[0] * width / image.shape[1])
        image = transform.resize(image, (height, width), anti_aliasing=True)
    return torch.from_numpy(image.copy())


def room(generator: torch.Generator, *, texels: int = 128) -> Scene:
    """A furnished corner: grass floor, brick wall, one wall of flat colour; before them an ellipsoid, a cylinder and
    a fence of nine bars. The other sides are open to a bright background. The floor is z = 0 and spans 4 x 4 units.

    Args:
        generator: places and turns the objects and picks their photos.
        texels: width in pixels that the photos are scaled down to; small images want few.
    """

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    def paint(name: str, extent: float) -> Texture:
        return Texture(photo(name, texels), extent, (draw(0, extent), draw(0, extent)))

    chosen = torch.randperm(3, generator=generator).tolist()
    names = [("astronaut", "coffee", "chelsea")[i] for i in chosen]
    upright = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # own z axis along -y
    sideways = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # own z axis along +x
    flat = (draw(0.3, 0.8), draw(0.3, 0.8), draw(0.3, 0.8))
    solids: list[Solid] = [
        Rectangle(torch.tensor([0.0, 0, 0]), torch.tensor([2.0, 2, 1]), paint=paint("grass", 2.0)),
        Rectangle(torch.tensor([0.0, 2, 1]), torch.tensor([2.0, 1, 1]), upright, paint("brick", 1.5)),
        Rectangle(torch.tensor([-2.0, 0, 1]), torch.tensor([2.0, 1, 1]), sideways, flat),
        Ellipsoid(
            torch.tensor([draw(-1.0, -0.5), draw(0.1, 0.7), 0.5]),
            torch.tensor([draw(0.35, 0.5), draw(0.35, 0.5), 0.5]),
            turn_about_z(draw(0, math.pi)),
            paint(names[0], 1.2),
        ),
        Cylinder(
            torch.tensor([draw(0.5, 1.1), draw(0.2, 0.9), 0.6]),
            torch.tensor([0.35, 0.35, 0.6]),
            turn_about_z(draw(0, 2 * math.pi)),
            paint(names[1], 1.2),
        ),
    ]
    turn = turn_about_z(draw(-0.3, 0.3))
    start = torch.tensor([draw(-0.2, 0.2), draw(-1.1, -0.7), 0.35], dtype=torch.float64)
    wood = paint(names[2], 1.0)
    for bar in range(9):
        along = start + turn @ torch.tensor([0.2 * (bar - 4), 0.0, 0.0], dtype=torch.float64)
        solids.append(Box(along, torch.tensor([0.035, 0.035, 0.35]), turn, wood))
    return Scene(solids, background=(0.85, 0.9, 0.97))


def room_cameras(count: int, generator: torch.Generator, *, width: int, height: int, fov: float = 55.0) -> list[Camera]:
    """Cameras on the open side of `room`, 3.4 to 4.2 units from its middle, looking about there. Float32."""
    from assay.geometry.cameras import intrinsics, look_at

    u = torch.rand(count, 6, generator=generator, dtype=torch.float64)
    azimuth = torch.deg2rad(-90 + 10 + 70 * (u[:, 0] - 0.5))  # in front, a little to the side away from the flat wall
    rise = torch.deg2rad(12 + 30 * u[:, 1])
    distance = 3.4 + 0.8 * u[:, 2]
    target = torch.tensor([0.0, 0.3, 0.6]) + torch.tensor([0.5, 0.5, 0.2]) * (u[:, 3:] - 0.5)
    around = torch.stack([azimuth.cos() * rise.cos(), azimuth.sin() * rise.cos(), rise.sin()], -1)
    R, t = look_at(target + distance[:, None] * around, target)
    K = intrinsics(width, height, fov=fov)
    return [Camera(R[i].float(), t[i].float(), K, width, height) for i in range(count)]


def turn_about_z(angle: float) -> Tensor:
    """Rotation about the z axis by `angle` radians, `(3, 3)` float64."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)


def _mirror(x: Tensor, size: int) -> Tensor:
    """Texel position, from 0 to size - 1, of a coordinate along an endlessly mirrored photo."""
    period = 2 * (size - 1)
    x = torch.remainder(x, period)
    return torch.minimum(x, period - x)


def _quadratic(a: Tensor, b: Tensor, c: Tensor, *, inside_if_parallel: bool) -> tuple[Tensor, Tensor]:
    """Roots of `a λ² + 2 b λ + c`, ordered; with a = 0 everything (if c <= 0 and asked for) or nothing."""
    root = (b * b - a * c).clamp(min=0).sqrt()
    missed = (b * b - a * c) < 0
    near = torch.where(missed, math.inf, (-b - root) / a)
    far = torch.where(missed, -math.inf, (-b + root) / a)
    parallel = a < 1e-18
    within = (c <= 0) & inside_if_parallel
    near = torch.where(parallel, torch.where(within, -math.inf, math.inf), near)
    return near, torch.where(parallel, torch.where(within, math.inf, -math.inf), far)
