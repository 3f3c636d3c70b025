"""What `apply` of the correlation pyramid does with two files: read, register on one grid, write what ITK reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.data.volumes.itk_transforms import (
    displacement_image,
    map_points,
    rigid_transform,
    write_displacement,
    write_transform,
)
from assay.data.volumes.landmarks import LandmarkPairs
from assay.data.volumes.volume import EXTRA, Floats, from_itk, isotropic_grid, on_grid, read_itk, write_itk
from assay.errors import InputError, require
from assay.geometry.warp import jacobian_determinant
from assay.methods.geometry3d.correlation_pyramid import Chain, Registration, largest_search, memory_bytes, register
from assay.metrics.registration import folding_share, target_registration_error


@dataclass(frozen=True)
class Inputs:
    """The two images as read, and both on one isotropic grid: arrays (H, W, D), masks, and the grid's affine (RAS)."""

    fixed_image: Any
    moving_image: Any
    fixed: Floats
    moving: Floats
    mask_fixed: np.ndarray
    mask_moving: np.ndarray
    affine: Floats


def read_inputs(
    fixed: Path, moving: Path, spacing: float, fixed_mask: Path | None = None, moving_mask: Path | None = None
) -> Inputs:
    """Read two volumes and put both on an isotropic grid over the fixed one, by their headers.

    Raises:
        InputError: files that are no 3D volumes, extents without overlap, or a mask with nothing in it.
    """
    sitk = require("SimpleITK", EXTRA)
    images = [read_itk(fixed), read_itk(moving)]
    masks = []
    for image, path, source in zip(images, (fixed_mask, moving_mask), (fixed, moving), strict=True):
        mask = image > 0 if path is None else on_grid(read_itk(path), image, nearest=True) > 0
        if not np.any(sitk.GetArrayViewFromImage(mask)):
            what = f"{path}: the mask" if path else f"{source}: the mask of values above 0"
            raise InputError(f"{what} is empty; give --{'fixed' if image is images[0] else 'moving'}-mask")
        masks.append(mask)
    grid = isotropic_grid(images[0], spacing)
    _within_memory(int(np.prod(grid.GetSize())) * 40, f"a grid of {grid.GetSize()} voxels; give a larger --spacing")
    # Smoothed before it is thinned out, so that fine structure does not alias.
    arrays = [from_itk(on_grid(_smoothed(image, spacing), grid)) for image in images]
    inside = [from_itk(on_grid(mask, grid, nearest=True)).data > 0 for mask in masks]
    for name, there, source in zip(("fixed", "moving"), inside, (fixed, moving), strict=True):
        if not there.any():
            raise InputError(
                f"{source}: nothing of the {name} volume lies where the fixed one is; their headers place them apart"
            )
    return Inputs(*images, arrays[0].data, arrays[1].data, *inside, arrays[0].affine)


def register_inputs(
    given: Inputs,
    strides: Sequence[int],
    search: int,
    refine: int,
    smooth: float,
    chain: Chain,
    radius: int,
    device: str,
) -> Registration:
    """Register, after it is sure that the memory will do.

    Raises:
        InputError: settings that do not fit the volume or the memory, or a device that is not there.
    """
    shape = given.fixed.shape
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device is here; expected --device cpu")
    if not strides or min(strides) < 1 or search < 1 or refine < 0 or smooth < 0 or radius < 1:
        raise InputError("expected strides, --search and --radius of at least 1, and no negative --refine or --smooth")
    needed, free = memory_bytes(shape, strides, search), free_memory(device)
    if needed > free:
        fits = largest_search(shape, strides, free)
        hint = f"the largest that fits is --search {fits}" if fits else "give a larger --spacing"
        raise InputError(
            f"--search {search} on {shape} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; {hint}"
        )
    tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (given.fixed, given.moving)]
    masks = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (given.mask_fixed, given.mask_moving)]
    result = register(
        *tensors, mask_fixed=masks[0], mask_moving=masks[1], strides=sorted(strides, reverse=True), q=search,
        refine=refine, smooth=smooth, chain=chain, radius=radius, dilation=radius,
    )  # fmt: skip
    result.u = result.u.cpu()
    return result


def write_results(given: Inputs, result: Registration, landmarks: LandmarkPairs | None, out: Path) -> dict[str, Any]:
    """Write the warped volume, the transforms, the overlay and the report into the folder `out`; returns the report."""
    sitk = require("SimpleITK", EXTRA)
    out.mkdir(parents=True, exist_ok=True)
    u = result.u.numpy()
    field = displacement_image(u, given.affine)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    warped = on_grid(given.moving_image, given.fixed_image, transform)
    write_itk(out / "warped.nii.gz", warped)
    write_displacement(out / "displacement.nii.gz", u, given.affine)
    rigid = rigid_transform(result.rigid.cpu().numpy(), given.affine)
    write_transform(out / "rigid.tfm", rigid)
    determinant = jacobian_determinant(result.u[None])[0].numpy()
    report: dict[str, Any] = {
        "grid": list(given.fixed.shape),
        "spacing_mm": round(float(np.linalg.norm(given.affine[:3, 0])), 4),
        "seconds": round(result.seconds, 2),
        "seconds_by_level": {str(level.stride): round(level.seconds, 2) for level in result.per_level},
        "mean_displacement_mm": round(_mean_shift(u, given), 3),
        "folding_percent": round(100 * folding_share(determinant, given.mask_fixed), 4),
    }
    if landmarks is not None:
        report["landmarks"] = len(landmarks)
        for name, moved in (
            ("before", landmarks.fixed),
            ("rigid", map_points(rigid, landmarks.fixed)),
            ("after", map_points(transform, landmarks.fixed)),
        ):
            report[f"tre_{name}_mm"] = round(float(target_registration_error(moved, landmarks.moving).mean()), 3)
    _draw(given, from_itk(on_grid(given.moving_image, _grid_of(field), transform)).data, out / "overlay.png")
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def check_landmarks(landmarks: LandmarkPairs, given: Inputs, path: Path) -> None:
    """Refuse landmarks that lie outside the fixed volume.

    Raises:
        InputError: fewer than half of the points lie inside.
    """
    voxels = (landmarks.fixed - given.affine[:3, 3]) @ np.linalg.inv(given.affine[:3, :3]).T
    inside = ((voxels > -1) & (voxels < np.array(given.fixed.shape))).all(1)
    if inside.mean() < 0.5:
        raise InputError(
            f"{path}: {int((~inside).sum())} of {len(inside)} points lie outside the fixed volume; expected RAS"
            " millimetres, the fixed volume's points first (--swap-landmarks exchanges them)"
        )


def free_memory(device: str = "cpu") -> int:
    """Bytes that can still be had."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 1 << 62  # not known: nothing is refused


def _within_memory(needed: int, what: str) -> None:
    if needed > free_memory():
        raise InputError(f"not enough memory for {what}")


def _smoothed(image: Any, spacing: float) -> Any:
    sitk = require("SimpleITK", EXTRA)
    for axis, (own, count) in enumerate(zip(image.GetSpacing(), image.GetSize(), strict=True)):
        if spacing > own * 1.01 and count >= 4:
            sigma = 0.5 * (spacing**2 - own**2) ** 0.5
            image = sitk.RecursiveGaussian(image, sigma, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
    return sitk.Cast(image, sitk.sitkFloat32)


def _grid_of(field: Any) -> Any:
    sitk = require("SimpleITK", EXTRA)
    return sitk.VectorIndexSelectionCast(field, 0)


def _mean_shift(u: Floats, given: Inputs) -> float:
    return float(np.linalg.norm(u[:, given.mask_fixed], axis=0).mean() * np.linalg.norm(given.affine[:3, 0]))


def _draw(given: Inputs, warped: Floats, path: Path) -> None:
    """Middle slices of the fixed volume's mask: fixed, moving, warped, and fixed and warped as a checkerboard."""
    from matplotlib.figure import Figure

    where = np.argwhere(given.mask_fixed)
    middle = ((where.min(0) + where.max(0)) // 2).tolist()
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(3, 4)
    shades = [grey(v) for v in (given.fixed, given.moving, warped)]
    for axis, row in enumerate(axes):
        slices = [np.take(v, middle[axis], axis).T for v in shades]
        pictures = (*slices, checkerboard(slices[0], slices[2]))
        for place, picture, title in zip(
            row, pictures, ("fixed", "moving", "moving, warped", "fixed and warped"), strict=True
        ):
            place.imshow(picture, cmap="gray", origin="lower", vmin=0, vmax=1)
            place.set_axis_off()
            if axis == 0:
                place.set_title(title)
    figure.savefig(path, dpi=90)


def grey(volume: Floats) -> Floats:
    """Values scaled so that the 1st percentile is 0 and the 99th 1."""
    low, high = np.percentile(volume, [1, 99])
    return np.clip((volume - low) / max(high - low, 1e-9), 0, 1)


def checkerboard(a: Floats, b: Floats, cells: int = 8) -> Floats:
    """Cells of two pictures of one shape in turn."""
    side = max(1, max(a.shape) // cells)
    rows, columns = np.indices(a.shape) // side
    return np.where((rows + columns) % 2 == 0, a, b)
