"""A street ahead of a car, ray-cast exactly: a lidar scan, a camera image, and the boxes of cars and people.

Lidar axes: x ahead, y left, z up, origin on the road below the sensors. The road is the plane z = 0 with 3 cm of
roughness. Objects stand in a front sector without touching: cars (two boxes), pedestrians (an upright capsule),
cyclists (a thin box with a capsule), and clutter without labels: poles, bins, bushes, walls. Clutter resembles people
in shape, not in colour. A lidar return at true range r has the range r + N(0, 0.02 m) and is lost with probability

    p = dropout * (r / 50)^2 + 0.15 * (1 - reflectivity),        at most 0.95.

The image is Lambert-shaded, blurred, exposed at random and noisy. Boxes are `(x, y, z, l, w, h, yaw)` about their
centre. Rectangles in the image are the outlines of the whole object as an annotator would draw them, not the
projections of its box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Images = NDArray[np.float32]

CLASSES = ("pedestrian", "cyclist", "car")
SUN = np.array([-0.5, 0.4, 0.77])
GROUND = -1
SKY = -2


@dataclass(frozen=True)
class Lidar:
    """A spinning lidar, cut to a front sector.

    Attributes:
        beams: rows, evenly spaced in elevation.
        elevation: lowest and highest in degrees.
        step: between columns, degrees.
        sector: width of the sector ahead, degrees.
        height: above the road, metres.
        noise: standard deviation of a range, metres.
        dropout: share of returns lost at 50 m.
    """

    beams: int = 64
    elevation: tuple[float, float] = (-24.9, 2.0)
    step: float = 0.5
    sector: float = 90.0
    height: float = 1.8
    noise: float = 0.02
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if self.beams < 1 or self.step <= 0 or not 0 < self.sector <= 170 or self.height <= 0:
            raise ValueError(
                f"a lidar needs beams, step, height above 0 and a sector of at most 170 degrees; got {self}"
            )


@dataclass(frozen=True)
class StreetCamera:
    """A level pinhole camera that looks ahead, with square pixels."""

    width: int = 320
    height: int = 96
    fov: float = 90.0
    position: tuple[float, float, float] = (0.2, 0.0, 1.65)

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(math.radians(self.fov) / 2)

    def matrices(self) -> tuple[Floats, Floats]:
        """`cam_to_img` (3, 4) in pixels and `lidar_to_cam` (4, 4); lidar axes with the origin on the road."""
        P = np.array([[self.focal, 0, self.width / 2, 0], [0, self.focal, self.height / 2, 0], [0, 0, 1, 0]], float)
        T = np.eye(4)
        T[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
        T[:3, 3] = -T[:3, :3] @ np.array(self.position)
        return P, T


@dataclass(frozen=True)
class Solid:
    """A part of an object: upright box, upright cylinder, or sphere.

    Attributes:
        kind: `"box"`, `"cylinder"` or `"sphere"`.
        centre: `(3,)`; size: (l, w, h) of a box, (radius, radius, height) of a cylinder, (radius,) * 3 of a sphere.
        yaw: of a box, radians.
        colour: RGB 0 to 1; upper: RGB above the height `split`.
        reflectivity: 0 to 1, of the lidar's light.
        owner: index of the object it belongs to.
    """

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float = 0.0
    colour: tuple[float, float, float] = (0.5, 0.5, 0.5)
    upper: tuple[float, float, float] = (0.5, 0.5, 0.5)
    split: float = math.inf
    reflectivity: float = 0.5
    owner: int = 0


@dataclass
class Street:
    """What stands in the street.

    Attributes:
        solids: parts of all objects.
        boxes: of labelled objects, `(N, 7)`; labels `(N,)` index `CLASSES`.
        owners: object index of each labelled object, `(N,)`.
        seed: of everything random in its sensors.
    """

    solids: list[Solid]
    boxes: Floats
    labels: NDArray[np.int64]
    owners: NDArray[np.int64]
    seed: int


@dataclass
class Scan:
    """A lidar scan.

    Attributes:
        points: `(P, 4)` float32: x, y, z in metres (origin on the road below the sensor), reflectance 0 to 1.
        owners: object each point lies on, `(P,)`; -1 the road.
        hits: rays that meet each labelled object before any return is lost, `(N,)`.
    """

    points: NDArray[np.float32]
    owners: NDArray[np.int64]
    hits: NDArray[np.int64]


@dataclass
class View:
    """A camera image.

    Attributes:
        image: `(3, H, W)` float32, 0 to 1.
        rects: outline of each labelled object as if nothing stood before it, `(N, 4)` pixels; zero where out of view.
        visible: share of that outline's pixels that are seen, `(N,)`.
    """

    image: Images
    rects: Floats
    visible: Floats


def make_street(
    seed: int,
    *,
    counts: Sequence[float] = (4, 2, 4, 10),
    distance: tuple[float, float] = (5.0, 43.0),
    sector: float = 84.0,
    width: float = 38.0,
) -> Street:
    """A random street.

    Args:
        seed: of the layout and of the sensors that look at it.
        counts: expected numbers (Poisson) of pedestrians, cyclists, cars and clutter.
        distance: nearest and farthest object, metres.
        sector: width of the sector in which objects stand, degrees.
        width: objects stand at |y| below half of it, metres.

    Raises:
        ValueError: not four counts, or an empty range.
    """
    if len(counts) != 4 or not 0 < distance[0] < distance[1] or sector <= 0:
        raise ValueError(f"make_street: got counts {tuple(counts)}, distance {distance}, sector {sector}")
    rng = np.random.default_rng([seed, 1])
    solids: list[Solid] = []
    boxes, labels, owners = [], [], []
    taken: list[tuple[float, float, float]] = []
    kinds = np.repeat([2, 1, 0, 3], rng.poisson(np.asarray(counts)[[2, 1, 0, 3]]))  # large things find room first
    for owner, kind in enumerate(kinds):
        radius = (0.45, 1.0, 2.4, 0.9)[kind]
        place = _place(rng, taken, radius, distance, sector, width)
        if place is None:
            continue
        taken.append((*place, radius))
        if kind == 3:
            solids += _clutter(rng, *place, owner)
            continue
        parts, box = (_pedestrian, _cyclist, _car)[kind](rng, *place, owner)
        solids += parts
        boxes.append(box)
        labels.append(kind)
        owners.append(owner)
    return Street(
        solids, np.array(boxes, float).reshape(-1, 7), np.array(labels, np.int64), np.array(owners, np.int64), seed
    )


def scan_street(street: Street, lidar: Lidar | None = None) -> Scan:
    """Scan a street; the same street and lidar give the same points."""
    lidar = lidar or Lidar()
    rng = np.random.default_rng([street.seed, 2, lidar.beams])
    azimuth = np.deg2rad(np.arange(-lidar.sector / 2, lidar.sector / 2, lidar.step))
    elevation = np.deg2rad(np.linspace(*lidar.elevation, lidar.beams))[:, None]
    directions = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation) * np.ones_like(azimuth),
        ],
        -1,
    )
    origin = np.array([0, 0, lidar.height])
    rough = rng.normal(0, 0.03, directions.shape[:2])
    distance, owner, solid, _ = _cast(street, origin, directions, azimuth, rough)
    albedo = np.array([s.reflectivity for s in street.solids] + [0.0, 0.25])  # the last two: sky, ground
    reflectivity = albedo[solid]
    measured = distance + rng.normal(0, lidar.noise, distance.shape)
    with np.errstate(invalid="ignore"):
        lost = np.clip(lidar.dropout * (distance / 50) ** 2 + 0.15 * (1 - reflectivity), 0, 0.95)
    kept = np.isfinite(distance) & (distance < 70) & (rng.random(distance.shape) >= lost)
    xyz = origin + measured[kept][:, None] * directions[kept]
    shine = np.clip(reflectivity[kept] + rng.normal(0, 0.08, kept.sum()), 0, 1)
    hits = np.array([(owner == o).sum() for o in street.owners], np.int64)
    return Scan(np.concatenate([xyz, shine[:, None]], 1).astype(np.float32), owner[kept], hits)


def photograph(street: Street, camera: StreetCamera | None = None) -> View:
    """Picture of a street; the same street and camera give the same picture."""
    camera = camera or StreetCamera()
    rng = np.random.default_rng([street.seed, 3])
    u = (np.arange(camera.width) + 0.5 - camera.width / 2) / camera.focal
    v = (np.arange(camera.height) + 0.5 - camera.height / 2) / camera.focal
    directions = np.stack(np.broadcast_arrays(1.0, -u[None], -v[:, None]), -1).astype(float)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    azimuth = -np.arctan(u)
    origin = np.array(camera.position)
    alone: dict[int, NDArray[np.bool_]] = {}
    distance, owner, solid, normal = _cast(street, origin, directions, azimuth, None, alone)
    image = _shade(street, rng, origin, directions, distance, solid, normal)
    image = (image + np.roll(image, 1, 1) * 0.35 + np.roll(image, -1, 1) * 0.35) / 1.7
    image = image * rng.uniform(0.75, 1.2) + rng.normal(0, 0.02, image.shape)
    rects, visible = np.zeros((len(street.owners), 4)), np.zeros(len(street.owners))
    for i, o in enumerate(street.owners):
        mask = alone.get(int(o))
        if mask is None or not mask.any():
            continue
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        rects[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        visible[i] = (mask & (owner == o)).sum() / mask.sum()
    return View(np.clip(image, 0, 1).transpose(2, 0, 1).astype(np.float32), rects, visible)


def at_night(image: Images, rng: np.random.Generator, *, contrast: float = 0.1, noise: float = 0.03) -> Images:
    """The picture in the dark: contrast times `contrast` and sensor noise, brightened again as a camera would."""
    dark = image * contrast + rng.normal(0, noise, image.shape)
    return np.clip(dark / max(contrast, 1e-6) * 0.5, 0, 1).astype(np.float32)


def in_fog(image: Images, points: NDArray[np.float32], rng: np.random.Generator, *, visibility: float = 30.0):
    """Fog of a visibility in metres: a paler picture, and returns that are lost as exp(-2 r / visibility) says.

    Returns:
        the picture and the points that are left.
    """
    kept = rng.random(len(points)) < np.exp(-2 * np.linalg.norm(points[:, :3], axis=1) / (3 * visibility))
    return (0.35 * image + 0.65 * 0.75).astype(np.float32), points[kept]


def jittered(lidar_to_cam: Floats, yaw: float = 0.0, shift: Sequence[float] = (0.0, 0.0, 0.0)) -> Floats:
    """A wrong calibration: the pose `(4, 4)` after the lidar was turned by `yaw` degrees about z and moved (metres)."""
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    wrong = np.array([[c, -s, 0, shift[0]], [s, c, 0, shift[1]], [0, 0, 1, shift[2]], [0, 0, 0, 1]])
    return lidar_to_cam @ wrong


def fewer_beams(lidar: Lidar, beams: int, *, lower: float = 0.0) -> Lidar:
    """The same lidar with other beams, mounted `lower` metres lower."""
    return replace(lidar, beams=beams, height=lidar.height - lower)


def _place(rng, taken, radius, distance, sector, width):
    """A spot on the road, clear of what is taken; None when there is no room."""
    for _ in range(30):
        angle = math.radians(rng.uniform(-sector / 2, sector / 2))
        r = rng.uniform(distance[0] + radius, distance[1])
        x, y = r * math.cos(angle), r * math.sin(angle)
        if abs(y) < width / 2 and all(math.hypot(x - a, y - b) > radius + c for a, b, c in taken):
            return x, y
    return None


def _hue(rng, strength=0.75, low=0.25):
    """A vivid colour."""
    position = rng.uniform(0, 3)
    rgb = np.array([max(0.0, 1 - min(abs(position - k), 3 - abs(position - k))) for k in range(3)])
    return tuple(low + strength * rgb * rng.uniform(0.7, 1.0))


def _grey(rng, low, high):
    return tuple(np.clip(rng.uniform(low, high) + rng.normal(0, 0.03, 3), 0, 1))


def _capsule(x, y, bottom, top, radius, **paint):
    """An upright capsule: a cylinder between two spheres."""
    low, high = bottom + radius, top - radius
    return [
        Solid("cylinder", (x, y, (low + high) / 2), (radius, radius, high - low), **paint),
        Solid("sphere", (x, y, low), (radius,) * 3, **paint),
        Solid("sphere", (x, y, high), (radius,) * 3, **paint),
    ]


def _pedestrian(rng, x, y, owner):
    radius, height = rng.uniform(0.25, 0.35), rng.uniform(1.5, 1.9)
    paint = {"colour": _hue(rng), "upper": (0.85, 0.62, 0.5), "split": height * 0.82}
    parts = _capsule(x, y, 0.0, height, radius, **paint, reflectivity=rng.uniform(0.2, 0.7), owner=owner)
    return parts, (x, y, height / 2, 2 * radius, 2 * radius, height, rng.uniform(-math.pi, math.pi))


def _cyclist(rng, x, y, owner):
    yaw, scale = rng.uniform(-math.pi, math.pi), rng.uniform(0.9, 1.1)
    length, top = 1.7 * scale, rng.uniform(1.6, 1.85)
    shine = rng.uniform(0.2, 0.7)
    frame = Solid("box", (x, y, 0.45), (length, 0.25, 0.9), yaw, _grey(rng, 0.1, 0.3), reflectivity=shine, owner=owner)
    paint = {"colour": _hue(rng), "upper": (0.85, 0.62, 0.5), "split": top * 0.85}
    rider = _capsule(x, y, 0.6, top, 0.28, **paint, reflectivity=shine, owner=owner)
    return [frame, *rider], (x, y, top / 2, length, 0.56, top, yaw)


def _car(rng, x, y, owner):
    yaw, (l, w, h) = rng.uniform(-math.pi, math.pi), np.array([4.2, 1.75, 0.8]) * rng.uniform(0.9, 1.1, 3)
    paint = _hue(rng) if rng.random() < 0.5 else _grey(rng, 0.1, 0.9)
    shine = rng.uniform(0.3, 0.9)
    cabin_x, cabin_y = x - 0.25 * math.cos(yaw), y - 0.25 * math.sin(yaw)
    body = Solid("box", (x, y, 0.25 + h / 2), (l, w, h), yaw, paint, reflectivity=shine, owner=owner)
    cabin = Solid(
        "box",
        (cabin_x, cabin_y, 0.25 + h + 0.35),
        (2.2, 1.6, 0.7),
        yaw,
        (0.15, 0.2, 0.25),
        paint,
        0.9 + h,
        shine,
        owner,
    )
    top = 0.25 + h + 0.7
    return [body, cabin], (x, y, top / 2, l, w, top, yaw)


def _clutter(rng, x, y, owner):
    kind = rng.choice(["pole", "bin", "bush", "wall", "post"], p=[0.3, 0.2, 0.2, 0.1, 0.2])
    shine = rng.uniform(0.1, 0.8)
    if kind == "pole":
        radius, height = rng.uniform(0.08, 0.2), rng.uniform(2, 5)
        return [
            Solid("cylinder", (x, y, height / 2), (radius, radius, height), 0, _grey(rng, 0.4, 0.7),
                  reflectivity=shine, owner=owner)
        ]  # fmt: skip
    if kind == "bin":
        return [
            Solid("cylinder", (x, y, 0.55), (0.3, 0.3, 1.1), 0, _grey(rng, 0.1, 0.3), reflectivity=shine, owner=owner)
        ]
    if kind == "post":  # a capsule as tall as a person, painted like street furniture
        return _capsule(
            x, y, 0, rng.uniform(1.3, 1.9), rng.uniform(0.2, 0.35), colour=_grey(rng, 0.2, 0.6), reflectivity=shine,
            owner=owner,
        )  # fmt: skip
    if kind == "bush":
        green = (rng.uniform(0.1, 0.25), rng.uniform(0.3, 0.5), 0.12)
        balls = []
        for _ in range(rng.integers(1, 5)):
            radius = rng.uniform(0.25, 0.55)
            dx, dy, dz = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), rng.uniform(0, 0.6)
            centre = (x + dx, y + dy, radius + dz)
            balls.append(Solid("sphere", centre, (radius,) * 3, 0, green, reflectivity=shine, owner=owner))
        return balls
    size = (rng.uniform(0.8, 1.6), 0.25, rng.uniform(0.8, 2.2))
    colour = (0.6, 0.45, 0.38)
    return [
        Solid("box", (x, y, size[2] / 2), size, rng.uniform(-math.pi, math.pi), colour, reflectivity=shine, owner=owner)
    ]


def _cast(street, origin, directions, azimuth, rough, alone=None):
    """First hit of a grid of unit rays `(R, C, 3)` whose columns have one azimuth each.

    Returns range (infinite: none), owner, solid (-1 ground, -2 sky, as indices from the end), normals. With `alone`, a
    dict, it is filled with each owner's mask as if nothing stood before it.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = -origin[2] / directions[..., 2]
        if rough is not None:
            distance = (rough - origin[2]) / directions[..., 2]
    distance = np.where((distance > 0) & (directions[..., 2] < 0), distance, np.inf)
    grounded = np.isfinite(distance)
    owner = np.where(grounded, GROUND, SKY)
    solid = np.where(grounded, GROUND, SKY)
    normal = np.zeros(directions.shape)
    normal[..., 2] = 1.0
    for index, part in enumerate(street.solids):
        first, last = _columns(part, origin, azimuth)
        if first >= last:
            continue
        window = (slice(None), slice(first, last))
        near, facing = _hit(part, origin, directions[window])
        if alone is not None:
            mask = alone.setdefault(part.owner, np.zeros(distance.shape, bool))
            mask[window] |= np.isfinite(near)
        closer = near < distance[window]
        distance[window][closer] = near[closer]
        owner[window][closer] = part.owner
        solid[window][closer] = index
        normal[window][closer] = facing(closer)
    return distance, owner, solid, normal


def _columns(part, origin, azimuth):
    """Range of columns in which a part can be seen."""
    dx, dy = part.centre[0] - origin[0], part.centre[1] - origin[1]
    reach = {"box": math.hypot(*part.size[:2]) / 2}.get(part.kind, part.size[0])
    away = math.hypot(dx, dy)
    if away <= reach:
        return 0, len(azimuth)
    middle, half = math.atan2(dy, dx), math.asin(reach / away)
    inside = ((azimuth >= middle - half) & (azimuth <= middle + half)).nonzero()[0]
    return (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, 0)


def _hit(part, origin, directions):
    """Range to a part along unit rays (infinite: missed) and a function from a mask to normals there."""
    c, s = math.cos(part.yaw), math.sin(part.yaw)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    o = (origin - np.array(part.centre)) @ turn
    d = directions @ turn if part.yaw else directions
    if part.kind == "sphere":
        near = _root((d * d).sum(-1), (d * o).sum(-1), float(o @ o) - part.size[0] ** 2)
        return near, lambda mask: (o + near[mask][:, None] * d[mask]) / part.size[0]
    if part.kind == "cylinder":
        side = _root((d[..., :2] ** 2).sum(-1), (d[..., :2] * o[:2]).sum(-1), float(o[:2] @ o[:2]) - part.size[0] ** 2)
        side = np.where(
            np.abs(o[2] + np.where(np.isfinite(side), side, 0) * d[..., 2]) <= part.size[2] / 2, side, np.inf
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            cap = (part.size[2] / 2 - o[2]) / d[..., 2]
            over = ((o[:2] + cap[..., None] * d[..., :2]) ** 2).sum(-1) <= part.size[0] ** 2
        cap = np.where(over & (cap > 0) & (o[2] > part.size[2] / 2), cap, np.inf)
        near = np.minimum(side, cap)

        def facing(mask):
            at = o + near[mask][:, None] * d[mask]
            flat = np.concatenate([at[:, :2] / part.size[0], np.zeros((len(at), 1))], 1)
            return np.where((cap[mask] < side[mask])[:, None], np.array([0.0, 0, 1]), flat)

        return near, facing
    half = np.array(part.size) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (-half - o) / d, (half - o) / d
    entry, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
    near = np.where((entry <= leave) & (entry > 0), entry, np.inf)

    def facing_box(mask):
        at = (o + near[mask][:, None] * d[mask]) / half
        side = np.abs(at).argmax(-1)
        flat = np.zeros_like(at)
        flat[np.arange(len(at)), side] = np.sign(at[np.arange(len(at)), side])
        return flat @ turn.T

    return near, facing_box


def _root(a, b, c):
    """Smaller positive root of a t² + 2 b t + c = 0, infinite where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = b * b - a * c
        t = (-b - np.sqrt(np.where(inside >= 0, inside, np.nan))) / a
    return np.where(t > 1e-6, t, np.inf)  # NaN compares false


def _shade(street, rng, origin, directions, distance, solid, normal):
    count = len(street.solids)
    lower = np.array([s.colour for s in street.solids] + [(0.65, 0.75, 0.9), (0.32, 0.32, 0.34)]).reshape(count + 2, 3)
    upper = np.array([s.upper for s in street.solids] + [(0.65, 0.75, 0.9), (0.32, 0.32, 0.34)]).reshape(count + 2, 3)
    split = np.array([s.split for s in street.solids] + [np.inf, np.inf])
    height = origin[2] + np.where(np.isfinite(distance), distance, 0) * directions[..., 2]
    colour = np.where((height > split[solid])[..., None], upper[solid], lower[solid])
    light = 0.55 + 0.45 * np.clip(normal @ SUN, 0, 1)
    light = np.where(solid == SKY, 1.0, light)
    paved = solid == GROUND
    grain = rng.normal(0, 0.02, distance.shape) * paved
    return colour * light[..., None] + grain[..., None]
