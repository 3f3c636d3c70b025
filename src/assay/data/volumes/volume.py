"""A volume and its place in space; files of every format that SimpleITK reads.

Arrays are indexed (i, j, k) as in the file, so that `affine` takes voxel indices to millimetres. Millimetres are RAS+
(x to the right, y to the front, z up), the convention of NIfTI. ITK's are LPS+: x and y have the other sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError, require

EXTRA = "geometry3d"
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # RAS millimetres to LPS ones, and back

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Volume:
    """Values (H, W, D) and the affine (4, 4) from voxel indices to RAS millimetres."""

    data: Floats
    affine: Floats

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return self.data.shape  # type: ignore[return-value]

    @property
    def spacing(self) -> Floats:
        """Millimetres between voxels along each axis: (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def to_mm(self, voxels: Floats) -> Floats:
        """Voxel positions (N, 3) in RAS millimetres."""
        return np.asarray(voxels, float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_voxels(self, points: Floats) -> Floats:
        """RAS millimetres (N, 3) as voxel positions."""
        return (np.asarray(points, float) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T


def read_volume(path: Path) -> Volume:
    """Read a scalar 3D volume: NIfTI, NRRD, MetaImage and whatever else SimpleITK opens.

    Raises:
        InputError: no such file, not a volume, not 3D, several values a voxel, or values that are not finite.
        MissingExtra: SimpleITK is not installed.
    """
    return from_itk(read_itk(path))


def read_itk(path: Path) -> Any:
    """The same as a SimpleITK image of float32. (ITK reads NaN in a NIfTI file, a common background, as 0.)

    Raises:
        InputError: as `read_volume`.
    """
    sitk = require("SimpleITK", EXTRA)
    path = Path(path)
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected one file such as .nii.gz, .nrrd or .mha")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines() if "orthonormal" in line)
        raise InputError(
            f"{path}: {reason or 'not a volume that SimpleITK reads (.nii, .nii.gz, .nrrd, .mha)'}"
        ) from error
    while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
        size = [*image.GetSize()[:-1], 0]
        image = sitk.Extract(image, size, [0] * len(size))
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise InputError(f"{path}: an image of size {image.GetSize()}, expected a 3D volume")
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path}: {image.GetNumberOfComponentsPerPixel()} values a voxel, expected 1")
    image = sitk.Cast(image, sitk.sitkFloat32)
    if not np.isfinite(sitk.GetArrayViewFromImage(image)).all():
        raise InputError(f"{path}: holds values that are not finite")
    return image


def from_itk(image: Any) -> Volume:
    """A SimpleITK image as a volume; the voxel order is kept, the millimetres become RAS."""
    sitk = require("SimpleITK", EXTRA)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), LPS @ affine)


def to_itk(volume: Volume, vector: bool = False) -> Any:
    """A volume as a SimpleITK image; `vector`: the data are (H, W, D, 3)."""
    sitk = require("SimpleITK", EXTRA)
    axes = (2, 1, 0, 3) if vector else (2, 1, 0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(np.transpose(volume.data, axes)), isVector=vector)
    affine = LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).flatten().tolist())
    return image


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume in the format that the suffix names.

    Raises:
        InputError: a suffix SimpleITK does not write, or a place that cannot be written.
    """
    write_itk(path, to_itk(volume))


def write_itk(path: Path, image: Any) -> None:
    """Write a SimpleITK image, compressed where the format can be.

    Raises:
        InputError: as `write_volume`.
    """
    sitk = require("SimpleITK", EXTRA)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:
        raise InputError(
            f"cannot write {path}: expected .nii.gz, .nrrd or .mha in a folder that can be written"
        ) from error


def on_grid(image: Any, grid: Any, transform: Any = None, nearest: bool = False) -> Any:
    """A SimpleITK image read on another's grid, through a transform from that grid's space; 0 outside."""
    sitk = require("SimpleITK", EXTRA)
    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    return sitk.Resample(image, grid, transform or sitk.Transform(), interpolator, 0.0, image.GetPixelID())


def isotropic_grid(image: Any, spacing: float) -> Any:
    """An empty image with the place and directions of another and one spacing (mm), reaching its last voxel's centre.

    Raises:
        InputError: a spacing that is not positive, or that leaves a side of fewer than two voxels.
    """
    sitk = require("SimpleITK", EXTRA)
    if not 0 < spacing < float("inf"):
        raise InputError(f"the spacing must be a positive number of millimetres, got {spacing:g}")
    extent = [(n - 1) * s for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    size = [int(np.ceil(e / spacing - 1e-6)) + 1 for e in extent]
    if min(size) < 2:
        raise InputError(f"a spacing of {spacing:g} mm leaves a side of one voxel; the volume is {extent} mm large")
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    grid.SetSpacing([float(spacing)] * 3)
    return grid
