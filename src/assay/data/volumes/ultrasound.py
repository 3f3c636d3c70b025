"""Simulated ultrasound of a brain from maps of its tissue: what a fan-shaped 3D probe on its surface would show.

Amplitude at a voxel x at distance r(x) from the probe, along the beam b(x):

    A(x) = (echo(x) + 6 |∇Z(x)·b(x)|) speckle(x) exp(-0.006 r(x)),    I(x) = log(1 + 20 A) / log(21)

`echo` is the echogenicity of the tissue (grey .45, white .30, fluid .05, sulci .80, falx .90), `Z` its impedance
(1.55, 1.57, 1.50; smoothed by 0.7 voxel), and `speckle` the root mean square of independent Rayleigh fields, one for
each direction that a 3D probe compounds. r is in mm, ∇ is per voxel. Nothing here knows of self-similarity features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from assay.data.volumes.volume import Floats

ECHO = {"grey": 0.45, "white": 0.30, "fluid": 0.05, "sulci": 0.80, "falx": 0.90}
IMPEDANCE = {"grey": 1.55, "white": 1.57, "fluid": 1.50}
NEAR, FAR = 20.0, 124.0  # mm from the probe
ABOVE = 16.0  # mm between the probe and the brain
HALF_ANGLE = 42.0  # degrees
ATTENUATION = 0.006  # per mm
REFLECTION = 6.0
COMPRESSION = 20.0


@dataclass(frozen=True)
class Probe:
    """Where the beams start, in voxels, the axis of the fan (a unit vector), and the grid's mm per voxel."""

    apex: Floats
    axis: Floats
    spacing: float = 2.0

    def fan(self, shape: tuple[int, ...]) -> tuple[np.ndarray, Floats, Floats]:
        """Mask of the fan (H, W, D), distance from the probe in mm, and beam directions (3, H, W, D)."""
        away = np.indices(shape, dtype=np.float32) - np.asarray(self.apex, np.float32)[:, None, None, None]
        distance = np.sqrt((away**2).sum(0))
        beam = away / np.maximum(distance, 1e-6)
        depth = distance * np.float32(self.spacing)
        along = np.tensordot(np.asarray(self.axis, np.float32), beam, 1)
        mask = (along > np.cos(np.deg2rad(HALF_ANGLE))) & (depth >= NEAR) & (depth <= FAR)
        return mask, depth, beam


@dataclass(frozen=True)
class Ultrasound:
    """An image (H, W, D) in 0..1, 0 outside the fan; the fan; and how strongly each voxel reflects."""

    image: Floats
    fan: np.ndarray
    reflection: Floats


def place_probe(inside: np.ndarray, rng: np.random.Generator, spacing: float = 2.0, tilt: float = 15.0) -> Probe:
    """A probe `ABOVE` the top (last axis) of a brain, turned from the vertical by up to `tilt` degrees.

    Raises:
        ValueError: an empty mask.
    """
    if not inside.any():
        raise ValueError("expected a mask of the brain, it is empty")
    where = np.argwhere(inside)
    centre = (where.min(0) + where.max(0)) / 2
    a, b = np.deg2rad(rng.uniform(-tilt, tilt, 2))
    outward = np.array([np.sin(a), np.sin(b) * np.cos(a), np.cos(a) * np.cos(b)])
    steps = np.arange(0, max(inside.shape), 0.5)
    path = np.round(centre + steps[:, None] * outward).astype(int)
    path = path[((path >= 0) & (path < inside.shape)).all(1)]
    last = np.nonzero(inside[tuple(path.T)])[0].max() if inside[tuple(path.T)].any() else 0
    return Probe(centre + (steps[last] + ABOVE / spacing) * outward, -outward, spacing)


def simulate_ultrasound(
    grey: Floats,
    white: Floats,
    fluid: Floats,
    midline: Floats,
    probe: Probe,
    rng: np.random.Generator,
    looks: int = 24,
    cavity: np.ndarray | None = None,
) -> Ultrasound:
    """The image of tissue maps (H, W, D, shares in 0..1) on the probe's grid.

    Args:
        midline: share of a voxel that can be falx where it is fluid: the plane between the hemispheres.
        looks: Rayleigh fields that are averaged; 1 is the full speckle of a single image.
        cavity: where tissue was taken out; filled with fluid.

    Raises:
        ValueError: maps of different shapes, or fewer than one look.
    """
    if len({m.shape for m in (grey, white, fluid, midline)}) > 1 or looks < 1:
        raise ValueError(f"expected maps of one shape and at least one look, got {grey.shape}, {white.shape}, {looks=}")
    if cavity is not None:
        grey, white = np.where(cavity, 0, grey), np.where(cavity, 0, white)
        fluid, midline = np.where(cavity, 1, fluid), np.where(cavity, 0, midline)
    fan, depth, beam = probe.fan(grey.shape)
    sulci = fluid * np.clip((gaussian_filter(grey, 3 / probe.spacing) - 0.2) / 0.2, 0, 1)
    falx = fluid * midline
    echo = ECHO["grey"] * grey + ECHO["white"] * white + ECHO["fluid"] * fluid
    echo = np.maximum(echo, np.maximum(ECHO["sulci"] * sulci, ECHO["falx"] * falx))
    outside = np.clip(1 - grey - white - fluid, 0, 1)
    impedance = (
        IMPEDANCE["grey"] * grey + IMPEDANCE["white"] * white + IMPEDANCE["fluid"] * (fluid + outside)
    )  # around the brain it is as in fluid: no bone
    slopes = np.gradient(gaussian_filter(impedance, 0.7))
    reflection = np.abs(sum(s * b for s, b in zip(slopes, beam, strict=True)))
    # The mean square of n Rayleigh fields of unit power is gamma distributed with shape n and mean 1.
    speckle = np.sqrt(rng.gamma(looks, 1 / looks, grey.shape))
    amplitude = (echo + REFLECTION * reflection) * speckle * np.exp(-ATTENUATION * depth)
    image = np.log1p(COMPRESSION * amplitude) / np.log1p(COMPRESSION)
    return Ultrasound(np.where(fan, np.maximum(image, 1e-6), 0).astype(np.float32), fan, reflection.astype(np.float32))
