"""Pairs of image patches seen from two places, with their true correspondence pixel by pixel.

From a stereo pair the correspondence is the measured disparity; from a ray-cast scene it is exact: the ray of every
pixel of the patch meets the surface, and the point is projected into the second picture. Neither uses a local model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.data.scenes.ray_cast import PHOTOS, Ellipsoid, Rectangle, Scene, Solid, Texture, photo
from assay.data.stereo import StereoPair, plane_normals
from assay.geometry.cameras import Camera, homogeneous, intrinsics, look_at, relative_pose
from assay.geometry.patches import patch_offsets

SIZE = 31
TEXTURE = 0.02
TILT_EDGES = (0, 10, 20, 30, 40, 50, 60, 70, 80)


@dataclass(frozen=True)
class PatchPairs:
    """Points of one pair of pictures with what surrounds them. Float64, pixels; N points, patches of S = `SIZE` pixels.

    Attributes:
        image1, image2: grey pictures, `(H, W)`.
        K1, K2, R, t: intrinsics, and the pose of camera 2 seen from camera 1.
        p1: points at pixel centres of image 1, `(N, 2)`.
        n: unit normals in camera 1, away from it, `(N, 3)`.
        depth: z of every pixel of the patch around each point, `(N, S, S)`.
        truth: where every pixel of the patch is in image 2, `(N, S, S, 2)`.
    """

    image1: Tensor
    image2: Tensor
    K1: Tensor
    K2: Tensor
    R: Tensor
    t: Tensor
    p1: Tensor
    n: Tensor
    depth: Tensor
    truth: Tensor

    def __len__(self) -> int:
        return len(self.p1)

    @property
    def point_depth(self) -> Tensor:
        """z of the points, `(N,)`."""
        return self.depth[:, SIZE // 2, SIZE // 2]

    @property
    def p2(self) -> Tensor:
        """The points in image 2, `(N, 2)`."""
        return self.truth[:, SIZE // 2, SIZE // 2]

    @property
    def tilt(self) -> Tensor:
        """Angle between surface and image plane of camera 1, degrees, `(N,)`."""
        return torch.rad2deg(torch.acos(self.n[:, 2].abs().clamp(max=1)))

    def rows(self, index: Tensor) -> PatchPairs:
        """The same pictures with a choice of points."""
        chosen = {name: getattr(self, name)[index] for name in ("p1", "n", "depth", "truth")}
        return PatchPairs(**{field.name: chosen.get(field.name, getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class Candidates:
    """Pixels of a stereo pair around which a whole patch has its correspondence.

    Attributes:
        rows, columns: of the pixels, `(M,)`.
        tilt: of the surface, degrees, `(M,)`.
        tile: number of the square of `tile_size` pixels that holds the pixel, `(M,)`; neighbours are not independent.
        normals: of all pixels, `(H, W, 3)`.
    """

    rows: Tensor
    columns: Tensor
    tilt: Tensor
    tile: Tensor
    normals: Tensor


def stereo_candidates(pair: StereoPair, *, spacing: int = 7, max_jump: float = 2.0, tile_size: int = 40) -> Candidates:
    """Where patches of `SIZE` pixels lie on a smooth surface that both cameras see.

    Asked of every patch: a plane fits its middle 15 pixels, all its disparities are known and change by at most
    `max_jump` pixels from one to the next, all are seen in the other picture, and the standard deviation of its grey
    values is at least `TEXTURE`. Only every `spacing`-th row and column is looked at: patches that overlap nearly whole
    would let a rare small surface count many times.
    """
    d = pair.disparity
    normals, good = plane_normals(pair.depth, pair.camera1.K)
    jump = torch.zeros_like(d, dtype=torch.bool)
    for axis in (0, 1):
        step = d.diff(dim=axis).abs() > max_jump
        pad = (0, 0, 0, 1) if axis == 0 else (0, 1, 0, 0)
        jump |= F.pad(step, pad)
    bad = ~pair.seen | jump | ~torch.isfinite(d)
    whole = F.max_pool2d(F.pad(bad[None].double(), (SIZE // 2,) * 4, value=1.0), SIZE, 1)[0] == 0
    textured = _local_deviation(pair.image1.mean(-1)) >= TEXTURE
    rows, columns = (good & whole & textured).nonzero().T
    thin = (rows % spacing == spacing // 2) & (columns % spacing == spacing // 2)
    rows, columns = rows[thin], columns[thin]
    tilt = torch.rad2deg(torch.acos(normals[rows, columns, 2].clamp(-1, 1)))
    tile = (rows // tile_size) * (d.shape[1] // tile_size + 1) + columns // tile_size
    return Candidates(rows, columns, tilt, tile, normals)


def stereo_patches(pair: StereoPair, candidates: Candidates, chosen: Tensor) -> PatchPairs:
    """The patches around chosen candidates `(N,)`."""
    rows, columns = candidates.rows[chosen], candidates.columns[chosen]
    offsets = patch_offsets(SIZE, torch.zeros(1)).long()
    i, j = rows[:, None, None] + offsets[..., 1], columns[:, None, None] + offsets[..., 0]
    p1 = torch.stack([j, i], -1) + 0.5
    shift = torch.stack([pair.disparity[i, j], torch.zeros_like(pair.disparity[i, j])], -1)
    R, t = relative_pose(pair.camera1, pair.camera2)
    middle = SIZE // 2
    return PatchPairs(
        pair.image1.mean(-1), pair.image2.mean(-1), pair.camera1.K, pair.camera2.K, R, t,
        p1[:, middle, middle].double(), candidates.normals[rows, columns], pair.depth[i, j], p1 - shift,
    )  # fmt: skip


def spread_over_tilts(tilt: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Indices of about `count` rows, equally many from every ten degrees of tilt as far as there are any."""
    bins = np.digitize(tilt.numpy(), TILT_EDGES[1:-1])
    queues = [rng.permutation(np.flatnonzero(bins == b)).tolist() for b in np.unique(bins)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(queue.pop())
    return torch.tensor(sorted(chosen), dtype=torch.long)


def ray_cast_patches(
    kind: str, tilt: float, count: int, generator: torch.Generator, *, width: int = 320, height: int = 240
) -> PatchPairs:
    """Patches of one textured surface in two random views.

    Camera 1 looks along z at a surface about 3 units away that carries a photo of scikit-image. Camera 2 is 0.15 to 0.5
    of that distance away, looks at about the same spot and is rolled; its rotation is at most 40 degrees.

    Args:
        kind: `"plane"`, `"sphere"` (an ellipsoid), or `"rotation"` (a plane; camera 2 only turns).
        tilt: of the plane against the image, degrees; of no account to an ellipsoid, which has all tilts.
        count: at most so many points.

    Raises:
        ValueError: another kind.
    """
    if kind not in ("plane", "sphere", "rotation"):
        raise ValueError(f"kind must be 'plane', 'sphere' or 'rotation'; got {kind!r}")

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    middle = torch.tensor([0.0, 0, 3], dtype=torch.float64)
    name = PHOTOS[int(torch.randint(len(PHOTOS) - 2, (), generator=generator))]  # without the two dark ones
    paint = Texture(photo(name, 512), 4.0, (float(draw(0, 4)), float(draw(0, 4))))
    surface: Solid
    if kind == "sphere":
        axes = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
        surface = Ellipsoid(middle, draw(0.9, 1.4, 3), axes, paint)
    else:
        about = float(draw(0, 2 * math.pi))
        slope = math.radians(tilt)
        normal = torch.tensor(
            [math.sin(slope) * math.cos(about), math.sin(slope) * math.sin(about), -math.cos(slope)],
            dtype=torch.float64,
        )
        axes = torch.linalg.qr(torch.cat([normal[:, None], torch.eye(3, dtype=torch.float64)[:, :2]], 1))[0]
        surface = Rectangle(middle, torch.full((3,), 1.7), axes[:, [1, 2, 0]], paint)
    scene = Scene([surface], background=(0.5, 0.5, 0.5))
    K = intrinsics(width, height, fov=50, dtype=torch.float64)
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    first = Camera(eye, zero, K, width, height)
    second = _second_view(first, middle, draw, kind == "rotation")
    view = scene.render(first, 2)
    image1, image2 = view.image.mean(-1), scene.render(second, 2).image.mean(-1)

    half = SIZE // 2
    free = 1 - F.max_pool2d(F.pad((view.solid < 0)[None].double(), (half,) * 4, value=1.0), SIZE, 1)[0]
    textured = _local_deviation(image1) >= TEXTURE
    facing = torch.rad2deg(torch.acos(view.normal[..., 2].abs().clamp(max=1)))
    rows, columns = ((free > 0) & textured & (facing < TILT_EDGES[-1])).nonzero().T
    order = torch.randperm(len(rows), generator=generator)[: 6 * count]
    rows, columns = rows[order], columns[order]
    pixels = first.pixel_centres()[rows, columns][:, None, None] + patch_offsets(SIZE, K)
    rays = homogeneous(first.normalise(pixels))
    distance = scene.cast(zero, rays.reshape(-1, 3)).distance.reshape(rays.shape[:-1])
    points = rays * distance[..., None]
    truth, ahead = second.project(points)
    corners = points[:, [0, 0, half, -1, -1], [0, -1, half, 0, -1]]
    margin = (truth > 8).all(-1) & (truth[..., 0] < width - 8) & (truth[..., 1] < height - 8)
    ok = (margin & (ahead > 0) & distance.isfinite()).all((1, 2))
    ok &= scene.visible(second, corners.reshape(-1, 3).nan_to_num(0, 0, 0)).reshape(-1, 5).all(1)
    R, t = relative_pose(first, second)
    normal = -view.normal[rows, columns]
    pairs = PatchPairs(image1, image2, K, K, R, t, pixels[:, half, half], normal, distance, truth)
    ok &= (pairs.tilt < TILT_EDGES[-1]) & ((pairs.n * homogeneous(first.normalise(pairs.p1))).sum(-1) > 0.1)
    return pairs.rows(ok.nonzero()[:count, 0])


def _local_deviation(grey: Tensor, window: int = 21) -> Tensor:
    """Standard deviation of the grey values around every pixel, `(H, W)`."""
    mean, square = (F.avg_pool2d(x[None], window, 1, window // 2)[0] for x in (grey, grey * grey))
    return (square - mean**2).clamp(min=0).sqrt()


def _second_view(first: Camera, middle: Tensor, draw, only_turn: bool) -> Camera:
    """A random second view whose rotation is at most 40 degrees."""
    while True:
        roll = math.radians(float(draw(-40, 40)))
        if only_turn:
            centre, target = torch.zeros(3, dtype=torch.float64), middle + 0.3 * draw(-1, 1, 3)
        else:
            way = draw(-1, 1, 3) * torch.tensor([1.0, 1.0, 0.6])
            centre = way / way.norm() * float(draw(0.15, 0.5)) * middle[2]
            target = middle + 0.2 * draw(-1, 1, 3)
        R, _ = look_at(centre, target, torch.tensor([0.0, -1, 0]))
        c, s = math.cos(roll), math.sin(roll)
        R = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64) @ R
        angle = math.degrees(math.acos(max(-1.0, min(1.0, (float(R.trace()) - 1) / 2))))
        if angle <= 40:
            return Camera(R, -R @ centre, first.K, first.width, first.height)
