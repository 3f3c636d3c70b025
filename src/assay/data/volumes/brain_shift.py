"""Pairs of a brain's MRI and its simulated image after it moved, deformed and was partly cut away, with the truth.

The fixed image is what the probe sees; the moving one is the T1 template. A point x of the fixed image shows the
tissue at `x + u(x)` of the template, both in voxels:

    x + u(x) = R (x - c) + c + t + shift(x) + pull(x)

R, t: rigid motion about the brain's centre c. shift: a cubic spline through normal values on a 4 x 5 x 4 grid. pull:
around a cavity, tissue of the template that lay farther out was drawn in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import binary_erosion, map_coordinates
from scipy.spatial.transform import Rotation

from assay.data.volumes.mni import Brain
from assay.data.volumes.ultrasound import Probe, place_probe, simulate_ultrasound
from assay.data.volumes.volume import Floats

LANDMARKS = 60
MARGIN = 8.0  # mm a landmark keeps from the edge of the fan


@dataclass(frozen=True)
class Pair:
    """Two volumes (H, W, D) on one grid, their masks, and what is known of the motion between them.

    Attributes:
        u: true displacement (3, H, W, D) in voxels on the fixed grid.
        landmarks: points (N, 3) of the fixed volume in voxels.
        targets: the same points in the moving volume.
        spacing: mm per voxel.
        cavity: where tissue was taken out (fixed grid); all False where none was.
    """

    fixed: Floats
    moving: Floats
    mask_fixed: np.ndarray
    mask_moving: np.ndarray
    u: Floats
    landmarks: Floats
    targets: Floats
    spacing: float
    cavity: np.ndarray


def brain_shift_pair(
    brain: Brain,
    rng: np.random.Generator,
    *,
    image: Literal["ultrasound", "t1"] = "ultrasound",
    looks: int = 24,
    degrees: float = 6.0,
    millimetres: float = 6.0,
    shift_sd: float = 2.4,
    resection: bool = False,
) -> Pair:
    """Draw a pair.

    Args:
        brain: the template.
        image: what the fixed volume is: ultrasound, or (as a control) the T1 image itself, cut to the fan.
        looks: Rayleigh fields averaged in the speckle.
        degrees, millimetres: the largest rotation and translation about and along each axis.
        shift_sd: standard deviation of the spline's values in mm, along each axis.
        resection: cut a cavity with semi-axes of 8 to 14 mm, and pull the tissue around it in by 2 to 4 mm.

    Raises:
        ValueError: too little tissue in view for the landmarks.
    """
    shape = brain.t1.shape
    spacing = float(np.linalg.norm(brain.affine[:3, 0]))
    grid = np.indices(shape, dtype=np.float32)
    where = np.argwhere(brain.inside)
    centre = (where.min(0) + where.max(0)) / 2
    probe = place_probe(brain.inside, rng, spacing)
    u = rigid_motion(
        grid, centre, rng.uniform(-degrees, degrees, 3), rng.uniform(-millimetres, millimetres, 3) / spacing
    )
    u += spline_shift(grid, rng, shift_sd / spacing)
    cavity = np.zeros(shape, bool)
    if resection:
        cavity, pull = cut_cavity(grid, brain, probe, rng, spacing)
        u += pull

    def seen(m: Floats, order: int = 1) -> Floats:
        return map_coordinates(m, grid + u, order=order, mode="constant", cval=0.0, output=np.float32)

    midline = np.exp(-0.5 * ((grid[0] - centre[0]) * spacing / 1.5) ** 2) * (grid[2] > centre[2] - 10 / spacing)
    scan = simulate_ultrasound(
        seen(brain.grey), seen(brain.white), seen(brain.fluid), seen(midline.astype(np.float32)), probe, rng, looks,
        cavity if resection else None,
    )  # fmt: skip
    fixed = scan.image
    if image == "t1":
        fixed = np.where(scan.fan & (seen(brain.inside.astype(np.float32), 0) > 0) & ~cavity, seen(brain.t1), 0)
    points = draw_landmarks(
        scan.reflection,
        scan.fan & ~cavity & (seen(brain.inside.astype(np.float32)) > 0.5),
        rng,
        round(MARGIN / spacing),
    )
    targets = points + u[:, points[:, 0], points[:, 1], points[:, 2]].T
    return Pair(
        fixed.astype(np.float32), np.array(brain.t1), fixed > 0, brain.inside, u.astype(np.float32),
        points.astype(np.float64), targets.astype(np.float64), spacing, cavity,
    )  # fmt: skip


def rigid_motion(grid: Floats, centre: Floats, degrees: Floats, shift: Floats) -> Floats:
    """Displacement (3, H, W, D) in voxels of a rotation (Euler angles about the axes) about `centre` and a shift."""
    R = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    away = grid - np.asarray(centre)[:, None, None, None]
    return np.tensordot(R - np.eye(3), away, 1) + np.asarray(shift)[:, None, None, None]


def spline_shift(grid: Floats, rng: np.random.Generator, sd: float) -> Floats:
    """Displacement (3, H, W, D): a cubic spline through normal values, sd `sd`, on 4 x 5 x 4 points over the volume."""
    knots = (4, 5, 4)
    place = np.stack([g * ((k - 1) / max(n - 1, 1)) for g, k, n in zip(grid, knots, grid.shape[1:], strict=True)])
    return np.stack([map_coordinates(rng.normal(0, sd, knots), place, order=3, mode="nearest") for _ in range(3)])


def cut_cavity(
    grid: Floats, brain: Brain, probe: Probe, rng: np.random.Generator, spacing: float
) -> tuple[np.ndarray, Floats]:
    """An ellipsoid below the probe, and the displacement around it (3, H, W, D), both on the fixed grid, in voxels."""
    axes = rng.uniform(8, 14, 3) / spacing
    aside = rng.uniform(-15, 15, 3) / spacing
    middle = np.asarray(probe.apex) + np.asarray(probe.axis) * (20 + rng.uniform(20, 45)) / spacing
    middle = middle + aside - np.asarray(probe.axis) * float(aside @ probe.axis)
    away = grid - middle[:, None, None, None]
    scaled = np.sqrt(((away / axes[:, None, None, None]) ** 2).sum(0))
    cavity = (scaled < 1) & brain.inside
    distance = np.sqrt((away**2).sum(0))
    beyond = np.maximum(scaled - 1, 0) * axes.mean()  # about the distance from the cavity's wall
    strength = rng.uniform(2, 4) / spacing * np.exp(-beyond * spacing / 10.0) * (scaled >= 1)
    return cavity, strength * away / np.maximum(distance, 1e-6)


def draw_landmarks(
    reflection: Floats, allowed: np.ndarray, rng: np.random.Generator, margin: int, count: int = LANDMARKS
) -> np.ndarray:
    """Voxels (N, 3), at least `margin` inside `allowed`, drawn without repeats in proportion to the reflection.

    Raises:
        ValueError: fewer voxels than landmarks.
    """
    core = binary_erosion(allowed, iterations=margin)
    where = np.argwhere(core)
    weight = reflection[core].astype(np.float64)
    if len(where) < count or np.count_nonzero(weight) < count:
        raise ValueError(f"{len(where)} voxels lie {margin} voxels inside the view, expected at least {count}")
    return where[rng.choice(len(where), count, replace=False, p=weight / weight.sum())]
