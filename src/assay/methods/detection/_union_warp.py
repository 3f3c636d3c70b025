"""Distorting drawn text: elastic fields and the eight projective transforms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from assay.methods.detection._union_glyphs import Ink


def elastic_field(
    shape: tuple[int, int], alpha: float, sigma: float, rng: np.random.Generator, scale: float = 1.0
) -> NDArray[np.float64]:
    """Displacements (2, H, W) in pixels: uniform noise in [-1, 1], smoothed by `sigma`, times `alpha`.

    At another `scale` the smoothing is `scale * sigma` and displacements are `scale` times as large on average.
    """
    field = rng.uniform(-1, 1, (2, *shape))
    smooth = scale * sigma
    if smooth >= 0.3:
        field = np.stack([gaussian_filter(part, smooth, truncate=3.0) for part in field])
    return field * (alpha * scale * _spread(sigma) / _spread(smooth))


def _spread(sigma: float) -> float:
    """Standard deviation that smoothing by `sigma` leaves of independent noise of deviation one, nearly."""
    return 1 / np.sqrt(1 + 4 * np.pi * sigma**2)


def displaced(ink: Ink, field: NDArray[np.float64]) -> Ink:
    """Ink moved by a field: each pixel takes what lies at its place plus the displacement."""
    places = np.mgrid[: ink.alpha.shape[0], : ink.alpha.shape[1]] + field
    alpha = map_coordinates(ink.alpha, places, order=1, mode="constant", output=np.uint8)
    rows, columns = np.rint(places).astype(int)
    inside = (rows >= 0) & (rows < alpha.shape[0]) & (columns >= 0) & (columns < alpha.shape[1])
    owner = np.zeros_like(ink.owner)
    owner[inside] = ink.owner[rows[inside], columns[inside]]
    return Ink(alpha, owner)


@dataclass(frozen=True)
class Geometry:
    """One of the transforms and how strong it is.

    | kind | amount |
    |---|---|
    | `perspective_x`, `perspective_y` | far edge over near edge, across x or y; depth is foreshortened too |
    | `trapezoid_x`, `trapezoid_y` | one edge over the opposite one, nothing foreshortened |
    | `skew_x`, `skew_y` | degrees of shear along x or y |
    | `rotation`, `rotation_180` | degrees counter-clockwise |
    | `none` | unused |

    `flip` chooses the other edge, or the other sign of a skew or rotation.
    """

    kind: str = "none"
    amount: float = 0.0
    flip: bool = False

    def matrix(self, width: float, height: float) -> NDArray[np.float64]:
        """Homography (3, 3) from pixels of a width x height canvas to pixels of the transformed one."""
        sign = -1.0 if self.flip else 1.0
        if self.kind == "none":
            return np.eye(3)
        if self.kind == "skew_x":
            return np.array([[1, -sign * np.tan(np.radians(self.amount)), 0], [0, 1, 0], [0, 0, 1.0]])
        if self.kind == "skew_y":
            return np.array([[1, 0, 0], [-sign * np.tan(np.radians(self.amount)), 1, 0], [0, 0, 1.0]])
        if self.kind in ("rotation", "rotation_180"):
            turn = np.radians(180.0 if self.kind == "rotation_180" else sign * self.amount)
            c, s = np.cos(turn), np.sin(turn)
            x, y = width / 2, height / 2
            return np.array([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y], [0, 0, 1.0]])
        return quad_homography(width, height, self._quad(width, height))

    def _quad(self, w: float, h: float) -> list[tuple[float, float]]:
        """Where the corners (top left, top right, bottom right, bottom left) go."""
        r = self.amount
        if self.kind in ("perspective_x", "trapezoid_x"):
            far = w * (1 + r) / 2 if self.kind == "perspective_x" else w
            lost = h * (1 - r) / 2
            quad = [(0.0, 0.0), (far, lost), (far, h - lost), (0.0, h)]
            return [(far - x, y) for x, y in (quad[1], quad[0], quad[3], quad[2])] if self.flip else quad
        if self.kind in ("perspective_y", "trapezoid_y"):
            far = h * (1 + r) / 2 if self.kind == "perspective_y" else h
            lost = w * (1 - r) / 2
            quad = [(lost, 0.0), (w - lost, 0.0), (w, far), (0.0, far)]
            return [(x, far - y) for x, y in (quad[3], quad[2], quad[1], quad[0])] if self.flip else quad
        raise ValueError(f"no transform {self.kind!r}")


def quad_homography(width: float, height: float, quad: list[tuple[float, float]]) -> NDArray[np.float64]:
    """The homography that takes a rectangle's corners (clockwise from the top left) to four points."""
    rows, right = [], []
    for (x, y), (u, v) in zip([(0, 0), (width, 0), (width, height), (0, height)], quad, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    return np.append(np.linalg.solve(np.array(rows, dtype=float), np.array(right)), 1.0).reshape(3, 3)


def warped(layers: list[NDArray[np.uint8]], owner: NDArray[np.uint8], geometry: Geometry) -> tuple[
    list[NDArray[np.uint8]], NDArray[np.uint8]
]:  # fmt: skip
    """Layers (bilinear) and owners (nearest) on a canvas that just holds the transformed one."""
    if geometry.kind == "none":
        return layers, owner
    high, wide = owner.shape
    if geometry.kind == "rotation_180":
        return [layer[::-1, ::-1] for layer in layers], owner[::-1, ::-1]
    matrix = geometry.matrix(wide, high)
    corners = matrix @ np.array([[0, wide, wide, 0], [0, 0, high, high], [1, 1, 1, 1.0]])
    x, y = corners[:2] / corners[2]
    left, top = np.floor(x.min() + 1e-6), np.floor(y.min() + 1e-6)
    size = (max(int(np.ceil(x.max() - left - 1e-6)), 1), max(int(np.ceil(y.max() - top - 1e-6)), 1))
    back = np.linalg.inv(matrix) @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1.0]])
    data = tuple((back / back[2, 2]).ravel()[:8])

    def moved(layer: NDArray[np.uint8], how: Image.Resampling) -> NDArray[np.uint8]:
        picture = Image.fromarray(np.ascontiguousarray(layer))
        return np.asarray(picture.transform(size, Image.Transform.PERSPECTIVE, data, how))

    return [moved(layer, Image.Resampling.BILINEAR) for layer in layers], moved(owner, Image.Resampling.NEAREST)
