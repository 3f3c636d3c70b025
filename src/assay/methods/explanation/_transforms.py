"""Small spatial transformations with their inverses, and averages of maps over a set of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Transform:
    """Rotate by `degrees` about the centre, mirror left to right, then shift; each step may be absent.

    Attributes:
        down, right: shift in whole pixels.
        degrees: rotation, counter-clockwise as seen (bilinear).
        mirror: whether left and right change places.
        wrap: what leaves the image on one side comes in on the other; otherwise what comes in is a reflection.
    """

    down: int = 0
    right: int = 0
    degrees: float = 0.0
    mirror: bool = False
    wrap: bool = False

    def apply(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), moved."""
        moved = _rotated(images, self.degrees, "reflection") if self.degrees else images
        moved = moved.flip(-1) if self.mirror else moved
        if self.wrap or not (self.down or self.right):
            return torch.roll(moved, (self.down, self.right), (-2, -1))
        y, x = abs(self.down), abs(self.right)
        padded = F.pad(moved, (x, x, y, y), mode="reflect")
        height, width = images.shape[-2:]
        return padded[..., y - self.down : y - self.down + height, x - self.right : x - self.right + width]

    def invert(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) moved back, and how far each pixel is known, (1, 1, H, W) in [0, 1].

        Unknown is what the transformation pushed out of the image; maps are 0 there.
        """
        known = torch.ones_like(maps[:1, :1])
        back = [self._unshift(t) for t in (maps, known)]
        if self.mirror:
            back = [t.flip(-1) for t in back]
        if self.degrees:
            back = [_rotated(t, -self.degrees, "zeros") for t in back]
            inside = _rotated(_rotated(known, self.degrees, "zeros"), -self.degrees, "zeros")
            known = (torch.minimum(back[1], inside) > 0.999).to(maps)
            return back[0] * known, known
        return back[0], back[1]

    def _unshift(self, maps: Tensor) -> Tensor:
        if self.wrap or not (self.down or self.right):
            return torch.roll(maps, (-self.down, -self.right), (-2, -1))
        y, x = abs(self.down), abs(self.right)
        padded = F.pad(maps, (x, x, y, y))
        height, width = maps.shape[-2:]
        return padded[..., y + self.down : y + self.down + height, x + self.right : x + self.right + width]


@dataclass(frozen=True)
class Transforms:
    """A set of transformations to average over.

    Raises:
        ValueError: the set is empty.
    """

    members: tuple[Transform, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("transforms are empty; Transforms.identity() averages over nothing but the image itself")

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Transform]:
        return iter(self.members)

    def __add__(self, other: Transforms) -> Transforms:
        return Transforms(self.members + other.members)

    @staticmethod
    def identity() -> Transforms:
        """Only the transformation that does nothing."""
        return Transforms((Transform(),))

    @staticmethod
    def shifts(patch: int, n: int = 16) -> Transforms:
        """n different shifts by -(patch // 2) to (patch - 1) // 2 pixels each way: all patch**2 if n reaches them.

        Otherwise an additive lattice that fills the square of shifts evenly, starting with no shift at all.
        """
        if patch < 1 or n < 1:
            raise ValueError(f"patch and n must be positive, got {patch} and {n}")
        low = -(patch // 2)
        if n >= patch * patch:
            return Transforms(tuple(Transform(low + i, low + j) for i in range(patch) for j in range(patch)))
        ratio = 1.32471795724474602596  # its powers are the plane's counterpart of the golden section
        found: dict[tuple[int, int], None] = {}
        i = 0
        while len(found) < n:
            place = (int(patch * ((0.5 + i / ratio) % 1)), int(patch * ((0.5 + i / ratio**2) % 1)))
            found.setdefault((low + place[0], low + place[1]))
            i += 1
        return Transforms(tuple(Transform(*shift) for shift in found))

    @staticmethod
    def torus(height: int, width: int) -> Transforms:
        """All circular shifts of an image: a group, so averages over it are exactly equivariant."""
        return Transforms(tuple(Transform(i, j, wrap=True) for i in range(height) for j in range(width)))

    @staticmethod
    def rotations(degrees: float = 5.0, n: int = 5) -> Transforms:
        """n rotations, evenly from -degrees to +degrees."""
        if n < 1:
            raise ValueError(f"n must be positive, got {n}")
        return Transforms(tuple(Transform(degrees=degrees * (2 * i / (n - 1) - 1) if n > 1 else 0.0) for i in range(n)))

    @staticmethod
    def flips() -> Transforms:
        """Nothing, and left to right."""
        return Transforms((Transform(), Transform(mirror=True)))


def reynolds_average(
    fn: Callable[[Tensor, Tensor], Tensor], images: Tensor, transforms: Transforms, repeats: int = 1, batch: int = 32
) -> Tensor:
    """Mean over transformations g and repeats of T_g^-1 fn(T_g images); each pixel over those that know it.

    Args:
        fn: `fn(moved (M, C, H, W), rows (M, 2)) -> (M, D, H, W)`; a row names the image and the pass.
        images: (B, C, H, W).
        repeats: passes per transformation; pass p has transformation p // repeats.
        batch: most images given to `fn` at once.

    Returns:
        (B, D, H, W).
    """
    passes = [transform for transform in transforms for _ in range(repeats)]
    parts = []
    for start in range(0, len(images), batch):
        some = images[start : start + batch]
        together = max(1, batch // len(some))
        total = weight = torch.zeros((), dtype=images.dtype, device=images.device)
        for first in range(0, len(passes), together):
            group = passes[first : first + together]
            moved = torch.cat([transform.apply(some) for transform in group])
            index = torch.arange(start, start + len(some)).repeat(len(group))
            number = torch.arange(first, first + len(group)).repeat_interleave(len(some))
            maps = fn(moved, torch.stack([index, number], dim=1))
            for transform, found in zip(group, maps.split(len(some)), strict=True):
                back, known = transform.invert(found)
                total, weight = total + back, weight + known
        parts.append(total / weight.clamp_min(1e-9))
    return torch.cat(parts)


def _rotated(images: Tensor, degrees: float, border: str) -> Tensor:
    """Images turned about their centre, in pixels (also where they are not square)."""
    angle = math.radians(degrees)
    height, width = images.shape[-2:]
    c, s = math.cos(angle), math.sin(angle)
    theta = images.new_tensor([[c, -s * height / width, 0], [s * width / height, c, 0]])
    grid = F.affine_grid(theta.expand(len(images), -1, -1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=border, align_corners=False)
