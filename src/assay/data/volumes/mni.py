"""The ICBM 152 (2009a, symmetric) brain that comes inside nilearn: T1 image, grey and white matter.

Free to use with the notice of the McConnell Brain Imaging Centre, which nilearn carries.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from assay.data.volumes.volume import EXTRA, Floats
from assay.errors import require

FILES = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


@dataclass(frozen=True)
class Brain:
    """One grid with a T1 image (0..1, 0 outside the brain), grey and white matter (0..1), and its affine (RAS)."""

    t1: Floats
    grey: Floats
    white: Floats
    affine: Floats

    @property
    def inside(self) -> np.ndarray:
        """Mask of the brain with the fluid in and around it."""
        return self.t1 > 0

    @property
    def fluid(self) -> Floats:
        """Share of a voxel that is neither grey nor white matter, inside the brain."""
        return np.where(self.inside, np.clip(1 - self.grey - self.white, 0, 1), 0).astype(np.float32)


@lru_cache(maxsize=4)
def mni_brain(spacing: int = 2, crop: tuple[int, int, int] | None = (80, 96, 80)) -> Brain:
    """Load the template at a whole spacing in mm (means over cubes of voxels), cut to `crop` voxels around the brain.

    Raises:
        MissingExtra: nilearn or nibabel is not installed.
        ValueError: a spacing below 1, or a crop that is larger than the volume.
    """
    if spacing < 1:
        raise ValueError(f"spacing must be at least 1 mm, got {spacing}")
    nib = require("nibabel", EXTRA)
    folder = _folder()
    maps, affine = [], np.eye(4)
    for name in ("t1", "gm", "wm"):
        image = nib.load(folder / FILES.format(name))
        maps.append(_block_mean(np.asarray(image.dataobj, dtype=np.float32) / 255.0, spacing))
        affine = image.affine.astype(float).copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, (spacing - 1) / 2)
    affine[:3, :3] *= spacing
    if crop is not None:
        shape = maps[0].shape
        if any(c > n for c, n in zip(crop, shape, strict=True)):
            raise ValueError(f"a crop of {crop} does not fit into {shape}")
        where = np.argwhere(maps[0] > 0)
        middle = (where.min(0) + where.max(0) + 1) / 2
        start = [int(np.clip(round(m - c / 2), 0, n - c)) for m, c, n in zip(middle, crop, shape, strict=True)]
        maps = [m[tuple(slice(s, s + c) for s, c in zip(start, crop, strict=True))].copy() for m in maps]
        affine[:3, 3] += affine[:3, :3] @ np.array(start, float)
    for m in (*maps, affine):
        m.setflags(write=False)
    return Brain(*maps, affine)


def _folder() -> Path:
    """Where nilearn keeps the template; found without importing nilearn, which takes seconds."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        require("nilearn", EXTRA)
        raise AssertionError("unreachable")
    return Path(spec.origin).parent / "datasets" / "data"


def _block_mean(volume: Floats, side: int) -> Floats:
    shape = [n // side for n in volume.shape]
    cut = volume[tuple(slice(0, n * side) for n in shape)]
    blocks = cut.reshape(shape[0], side, shape[1], side, shape[2], side)
    return blocks.mean((1, 3, 5)).astype(np.float32)
