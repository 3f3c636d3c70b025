"""Volumes and transforms in files: against nibabel, through oblique anisotropic headers, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("SimpleITK")
pytest.importorskip("nibabel")

import nibabel as nib
import SimpleITK
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from assay.data import samples
from assay.data.volumes.itk_transforms import (
    displacement_image,
    map_points,
    read_displacement,
    rigid_transform,
    write_displacement,
    write_transform,
)
from assay.data.volumes.volume import (
    Volume,
    from_itk,
    isotropic_grid,
    on_grid,
    read_itk,
    read_volume,
    to_itk,
    write_volume,
)
from assay.errors import InputError


def oblique(
    shape: tuple[int, int, int] = (20, 24, 18), spacing: tuple[float, float, float] = (0.8, 1.2, 2.0)
) -> Volume:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix() * np.array(spacing)
    affine[:3, 3] = [-12.0, 40.0, 7.5]
    data = gaussian_filter(np.random.default_rng(0).normal(size=shape), 2) * 100 + 50
    return Volume(data.astype(np.float32), affine)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_volume_comes_back(tmp_path: Path, suffix: str) -> None:
    volume = oblique()
    write_volume(tmp_path / f"v{suffix}", volume)
    back = read_volume(tmp_path / f"v{suffix}")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(back.spacing, [0.8, 1.2, 2.0], atol=1e-5)
    points = np.random.default_rng(1).uniform(0, 17, (9, 3))
    np.testing.assert_allclose(back.to_voxels(back.to_mm(points)), points, atol=1e-9)


def test_headers_read_as_nibabel_reads_them(tmp_path: Path) -> None:
    volume = oblique()
    nib.save(nib.Nifti1Image(volume.data, volume.affine), tmp_path / "v.nii.gz")
    back = read_volume(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(back.data, volume.data)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "volumes-nifti/niivue-images/MR_Gd.nii.gz",
        "volumes-nifti/niivue-images/spmMotor.nii.gz",
        "totalsegmentator/tests/reference_files/example_ct_sm.nii.gz",
    ],
)
def test_real_headers_read_as_nibabel_reads_them(name: str) -> None:
    folder = samples.locate(name.split("/")[0])
    if folder is None:
        pytest.skip(f"the sample {name.split('/')[0]} is not here")
    path = folder / name.split("/", 1)[1]
    image, ours = nib.load(path), read_volume(path)
    assert ours.shape == image.shape
    np.testing.assert_allclose(ours.affine, image.affine, atol=2e-3)
    np.testing.assert_allclose(ours.data, image.get_fdata(), rtol=1e-5, atol=1e-3)


def test_on_another_grid() -> None:
    volume = oblique()
    grid = isotropic_grid(to_itk(volume), 1.0)
    work = from_itk(on_grid(to_itk(volume), grid))
    np.testing.assert_allclose(work.spacing, 1.0)
    corner = work.to_voxels(volume.to_mm(np.array([[19.0, 23.0, 17.0]])))[0]
    assert (corner <= np.array(work.shape) - 1 + 1e-6).all()  # reaches the last voxel
    spot = work.to_mm(np.array([[7.0, 12.0, 15.0]]))
    from scipy.ndimage import map_coordinates

    expected = map_coordinates(volume.data, volume.to_voxels(spot).T, order=1)[0]
    assert work.data[7, 12, 15] == pytest.approx(expected, rel=1e-4)


def test_a_field_means_the_same_to_itk(tmp_path: Path) -> None:
    work = from_itk(on_grid(to_itk(oblique()), isotropic_grid(to_itk(oblique()), 1.5)))
    rng = np.random.default_rng(2)
    u = np.stack([gaussian_filter(rng.normal(size=work.shape), 2) * 12 for _ in range(3)])
    write_displacement(tmp_path / "u.nii.gz", u, work.affine)
    voxels = rng.integers(2, np.array(work.shape) - 2, (30, 3))
    moved = voxels + u[:, voxels[:, 0], voxels[:, 1], voxels[:, 2]].T
    theirs = work.to_voxels(map_points(read_displacement(tmp_path / "u.nii.gz"), work.to_mm(voxels)))
    np.testing.assert_allclose(theirs, moved, atol=1e-3)
    image = displacement_image(u, work.affine)
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert image.GetSize() == work.shape


def test_a_motion_means_the_same_to_itk(tmp_path: Path) -> None:
    grid = from_itk(isotropic_grid(to_itk(oblique()), 1.5))
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [4, -6, 3], degrees=True).as_matrix()
    motion[:3, 3] = [1.5, -2.0, 0.5]
    write_transform(tmp_path / "rigid.tfm", rigid_transform(motion, grid.affine))
    voxels = np.random.default_rng(3).uniform(0, 12, (20, 3))
    theirs = map_points(SimpleITK.ReadTransform(str(tmp_path / "rigid.tfm")), grid.to_mm(voxels))
    np.testing.assert_allclose(grid.to_voxels(theirs), voxels @ motion[:3, :3].T + motion[:3, 3], atol=1e-5)
    with pytest.raises(ValueError, match="not rigid"):
        rigid_transform(motion, oblique().affine)


def test_what_is_no_volume(tmp_path: Path) -> None:
    cases = {
        "flat.nii.gz": nib.Nifti1Image(np.zeros((8, 8), np.float32), np.eye(4)),
        "series.nii.gz": nib.Nifti1Image(np.zeros((8, 8, 8, 3), np.float32), np.eye(4)),
    }
    for name, image in cases.items():
        nib.save(image, tmp_path / name)
        with pytest.raises(InputError, match="expected a 3D volume"):
            read_itk(tmp_path / name)
    write_volume(tmp_path / "nan.nrrd", Volume(np.full((8, 8, 8), np.nan, np.float32), np.eye(4)))
    with pytest.raises(InputError, match="not finite"):
        read_itk(tmp_path / "nan.nrrd")
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8, 1), np.float32), np.eye(4)), tmp_path / "one.nii.gz")
    assert read_volume(tmp_path / "one.nii.gz").shape == (8, 8, 8)  # a fourth axis of one is no series
    (tmp_path / "words.nii.gz").write_text("not a volume")
    with pytest.raises(InputError, match="not a volume"):
        read_itk(tmp_path / "words.nii.gz")
    with pytest.raises(InputError, match="no such file"):
        read_itk(tmp_path / "absent.nii.gz")
    with pytest.raises(InputError, match="folder"):
        read_itk(tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        write_volume(tmp_path / "v.unknown", oblique())
    with pytest.raises(InputError, match="spacing"):
        isotropic_grid(to_itk(oblique()), 0.0)
    with pytest.raises(InputError, match="no such"):
        read_displacement(tmp_path / "absent.nii.gz")
    write_volume(tmp_path / "scalar.nii.gz", oblique())
    with pytest.raises(InputError, match="three values"):
        read_displacement(tmp_path / "scalar.nii.gz")
