"""Motions of voxel coordinates as ITK transforms, which SimpleITK, ANTs and 3D Slicer apply to images and points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from assay.data.volumes.volume import EXTRA, LPS, Floats, Volume, to_itk, write_itk
from assay.errors import InputError, require


def displacement_image(u: Floats, affine: Floats) -> Any:
    """A field `u` (3, H, W, D) in voxels as ITK's image of displacement vectors, LPS millimetres.

    The field takes fixed to moving, both on the grid `affine` (4, 4, RAS), as an ITK transform does.
    """
    turn = (LPS @ affine)[:3, :3]
    vectors = np.einsum("ij,jhwd->hwdi", turn, np.asarray(u, np.float64))
    return to_itk(Volume(vectors, affine), vector=True)


def rigid_transform(motion: Floats, affine: Floats) -> Any:
    """A rigid motion (4, 4) of voxel coordinates on an isotropic grid as an ITK transform of LPS millimetres.

    Raises:
        ValueError: not rigid in millimetres.
    """
    sitk = require("SimpleITK", EXTRA)
    grid = LPS @ affine
    world = grid @ np.asarray(motion, float) @ np.linalg.inv(grid)
    R = world[:3, :3]
    if not np.allclose(R @ R.T, np.eye(3), atol=1e-5) or np.linalg.det(R) < 0:
        raise ValueError("the motion is not rigid in millimetres, expected a grid of one spacing")
    U, _, Vh = np.linalg.svd(R)
    transform = sitk.VersorRigid3DTransform()
    transform.SetMatrix((U @ Vh).flatten().tolist(), 1e-6)
    transform.SetTranslation(world[:3, 3].tolist())
    return transform


def write_displacement(path: Path, u: Floats, affine: Floats) -> None:
    """Write a field (3, H, W, D) in voxels as an ITK vector field in float32; read it with `read_displacement`."""
    sitk = require("SimpleITK", EXTRA)
    write_itk(path, sitk.Cast(displacement_image(u, affine), sitk.sitkVectorFloat32))


def read_displacement(path: Path) -> Any:
    """A displacement field as an ITK transform, fixed to moving.

    Raises:
        InputError: no such file, or not a field of three values a voxel.
    """
    sitk = require("SimpleITK", EXTRA)
    if not Path(path).is_file():
        raise InputError(f"no such file: {path}")
    try:
        image = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
    except RuntimeError as error:
        raise InputError(f"{path}: not an image that SimpleITK reads") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 3:
        raise InputError(f"{path}: expected a 3D field with three values a voxel")
    return sitk.DisplacementFieldTransform(image)


def write_transform(path: Path, transform: Any) -> None:
    """Write an ITK transform (`.tfm`, `.h5`).

    Raises:
        InputError: a place or suffix that cannot be written.
    """
    sitk = require("SimpleITK", EXTRA)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        sitk.WriteTransform(transform, str(path))
    except RuntimeError as error:
        raise InputError(f"cannot write the transform {path}") from error


def map_points(transform: Any, points: Floats) -> Floats:
    """RAS points (N, 3) of the fixed image carried into the moving one by an ITK transform."""
    flip = np.diag(LPS)[:3]
    return np.array([transform.TransformPoint((p * flip).tolist()) for p in np.asarray(points, float)]) * flip
