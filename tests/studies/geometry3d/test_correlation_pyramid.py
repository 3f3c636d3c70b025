"""The pyramid's study: its hooks, and `apply` from NIfTI to transforms that SimpleITK applies to the same result."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("SimpleITK")
pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

import SimpleITK
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from assay.data import samples
from assay.data.volumes.itk_transforms import map_points, read_displacement
from assay.data.volumes.landmarks import LandmarkPairs, write_csv, write_tag
from assay.data.volumes.volume import Volume, read_itk, read_volume, write_volume
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.studies.geometry3d import _pyramid_apply as parts
from assay.studies.geometry3d import correlation_pyramid as module
from assay.studies.geometry3d.correlation_pyramid import prepare, study, trial

QUICK = [
    "--spacing", "2.5", "--strides", "4", "--strides", "3", "--search", "2", "--radius", "1", "--refine", "5",
]  # fmt: skip


def placed(data: np.ndarray, spacing: tuple[float, ...], degrees: tuple[float, ...], centre: np.ndarray) -> Volume:
    """A volume with oblique axes and its middle at `centre` (RAS mm)."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * np.array(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(data.shape) - 1) / 2)
    return Volume(data.astype(np.float32), affine)


@pytest.fixture(scope="module")
def oblique(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LandmarkPairs]:
    """Two volumes of one smooth pattern, each with its own oblique, anisotropic header, moved against each other."""
    folder = tmp_path_factory.mktemp("oblique")
    pattern = gaussian_filter(np.random.default_rng(0).normal(size=(70, 70, 70)), 3, mode="wrap")  # 2 mm, at 0
    pattern = (pattern - pattern.min()) / np.ptp(pattern) + 0.05

    def seen(v: Volume, motion: np.ndarray) -> Volume:
        """The pattern sampled on a volume's grid after a motion of millimetres."""
        world = v.to_mm(np.argwhere(np.ones(v.shape))) @ motion[:3, :3].T + motion[:3, 3]
        values = map_coordinates(pattern, (world / 2 + 34.5).T, order=1, mode="grid-wrap").reshape(v.shape)
        return Volume(values.astype(np.float32), v.affine)

    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [2, -3, 4], degrees=True).as_matrix()
    motion[:3, 3] = [4.0, -3.0, 2.5]
    fixed = placed(np.zeros((60, 50, 28)), (1.6, 2.0, 3.5), (12, -8, 25), np.array([3.0, -2.0, 5.0]))
    moving = placed(np.zeros((64, 60, 40)), (2.1, 2.3, 3.0), (-5, 10, -30), np.array([0.0, 2.0, 3.0]))
    fixed, moving = seen(fixed, motion), seen(moving, np.eye(4))
    moving = Volume(1.3 - moving.data, moving.affine)  # another contrast
    write_volume(folder / "fixed.nii.gz", fixed)
    write_volume(folder / "moving.nii.gz", moving)
    voxels = np.random.default_rng(1).uniform(12, 0.7 * np.array(fixed.shape), (20, 3))
    voxels[:, 2] = np.random.default_rng(2).uniform(8, 20, 20)
    places = fixed.to_mm(voxels)
    return folder, LandmarkPairs(places, places @ motion[:3, :3].T + motion[:3, 3])


@pytest.fixture(scope="module")
def applied(oblique: tuple[Path, LandmarkPairs], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder, pairs = oblique
    torch.set_num_threads(1)
    write_csv(folder / "points.csv", pairs)
    out = tmp_path_factory.mktemp("applied") / "out"
    files = [str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz")]
    run_apply(study, [*files, "--out", str(out), "--landmarks", str(folder / "points.csv"), *QUICK])
    return out, json.loads((out / "report.json").read_text())


def test_it_finds_the_motion(applied: tuple[Path, dict]) -> None:
    _, report = applied
    assert report["landmarks"] == 20
    assert report["tre_after_mm"] < 0.5 * report["tre_before_mm"]
    assert report["spacing_mm"] == 2.5
    assert set(report["seconds_by_level"]) == {"4", "3"}
    assert 0 <= report["folding_percent"] < 5


def test_simpleitk_applies_the_field_to_the_same_result(
    oblique: tuple[Path, LandmarkPairs], applied: tuple[Path, dict]
) -> None:
    """Points and volume, from the written files alone, within 0.1 voxel; headers oblique and anisotropic."""
    folder, pairs = oblique
    out, report = applied
    field = read_displacement(out / "displacement.nii.gz")
    moved = map_points(field, pairs.fixed)
    assert float(np.linalg.norm(moved - pairs.moving, axis=1).mean()) == pytest.approx(report["tre_after_mm"], abs=2e-3)

    given = parts.read_inputs(folder / "fixed.nii.gz", folder / "moving.nii.gz", 2.5)
    result = parts.register_inputs(given, (4, 3), 2, 5, 1.25, "rigid", 1, "cpu")
    grid = Volume(given.fixed, given.affine)
    ours = result.map_points(torch.from_numpy(grid.to_voxels(pairs.fixed))).numpy()  # the method's own mapping
    assert float(np.abs(ours - grid.to_voxels(moved)).max()) < 0.1

    fixed, moving = read_itk(folder / "fixed.nii.gz"), read_itk(folder / "moving.nii.gz")
    again = SimpleITK.Resample(moving, fixed, field, SimpleITK.sitkLinear, 0.0)
    warped = read_itk(out / "warped.nii.gz")
    assert warped.GetSize() == fixed.GetSize()
    np.testing.assert_allclose(warped.GetDirection(), fixed.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(again), SimpleITK.GetArrayFromImage(warped), atol=1e-3)
    source, target = read_volume(folder / "moving.nii.gz"), read_volume(out / "warped.nii.gz")
    for place, moved_to in zip(pairs.fixed, moved, strict=True):  # the volume was read where the points went
        here = map_coordinates(target.data, target.to_voxels(place[None]).T, order=1)[0]
        there = map_coordinates(source.data, source.to_voxels(moved_to[None]).T, order=1)[0]
        assert here == pytest.approx(there, abs=0.05)


def test_the_rigid_part_is_an_itk_transform(oblique: tuple[Path, LandmarkPairs], applied: tuple[Path, dict]) -> None:
    out, report = applied
    transform = SimpleITK.ReadTransform(str(out / "rigid.tfm"))
    moved = map_points(transform, oblique[1].fixed)
    error = float(np.linalg.norm(moved - oblique[1].moving, axis=1).mean())
    assert error == pytest.approx(report["tre_rigid_mm"], abs=2e-3)
    assert error < 0.7 * report["tre_before_mm"]
    assert (out / "overlay.png").stat().st_size > 5000


def test_a_real_scan_comes_back(tmp_path: Path) -> None:
    """A real MR, its contrast turned around and its header moved by a known amount."""
    folder = samples.locate("volumes-nifti")
    if folder is None:
        pytest.skip("the sample volumes-nifti is not here")
    scan = read_itk(folder / "niivue-images" / "MR_Gd.nii.gz")
    small = SimpleITK.Shrink(scan, [3, 3, 3])
    inside = small > 0
    turned = SimpleITK.Mask(float(SimpleITK.GetArrayViewFromImage(small).max()) + 10 - small, inside)
    origin = np.add(turned.GetOrigin(), (5.0, -4.0, 3.0))  # LPS: moving lies 5 mm to the left
    turned.SetOrigin(origin.tolist())
    SimpleITK.WriteImage(small, str(tmp_path / "fixed.nii.gz"))
    SimpleITK.WriteImage(turned, str(tmp_path / "moving.nii.gz"))
    out = tmp_path / "out"
    options = ["--spacing", "3", "--strides", "4", "--strides", "3", "--strides", "2", "--search", "2", "--radius", "1"]
    run_apply(study, [str(tmp_path / "fixed.nii.gz"), str(tmp_path / "moving.nii.gz"), "--out", str(out), *options])
    field = read_displacement(out / "displacement.nii.gz")
    mask = SimpleITK.GetArrayFromImage(SimpleITK.BinaryErode(inside, [4, 4, 4]))
    errors = []
    for z, y, x in np.argwhere(mask)[::2003]:
        point = np.array(small.TransformIndexToPhysicalPoint([int(x), int(y), int(z)]))
        errors.append(np.linalg.norm(np.array(field.TransformPoint(point.tolist())) - point - [5.0, -4.0, 3.0]))
    assert float(np.median(errors)) < 2.0  # of 7.1 mm, on a 3 mm grid


def test_tags_may_name_the_mri_first(oblique: tuple[Path, LandmarkPairs], tmp_path: Path) -> None:
    folder, pairs = oblique
    write_tag(tmp_path / "p.tag", pairs.swapped())
    files = [str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz"), "--out", str(tmp_path / "out"), *QUICK]
    files = [*files, "--landmarks", str(tmp_path / "p.tag"), "--swap-landmarks", "--refine", "0"]
    run_apply(study, files)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["tre_after_mm"] == pytest.approx(report["tre_rigid_mm"], abs=0.02)  # without refinement it is rigid


def test_what_is_refused(oblique: tuple[Path, LandmarkPairs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, pairs = oblique
    fixed, moving = str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz")
    source = read_volume(folder / "moving.nii.gz")
    far = source.affine.copy()
    far[:3, 3] += 500
    write_volume(tmp_path / "far.nii.gz", Volume(source.data, far))
    write_volume(tmp_path / "empty.nii.gz", Volume(-source.data, source.affine))
    write_csv(tmp_path / "away.csv", LandmarkPairs(pairs.fixed + 900, pairs.moving))
    out = tmp_path / "out"
    cases = [
        ([fixed, str(tmp_path / "none.nii.gz")], "no such file"),
        ([fixed, str(tmp_path / "far.nii.gz")], "place them apart"),
        ([fixed, str(tmp_path / "empty.nii.gz")], "--moving-mask"),
        ([fixed, moving, "--strides", "6"], "8 x 6"),
        ([fixed, moving, "--spacing", "0"], "spacing"),
        ([fixed, moving, "--search", "0"], "--search"),
        ([fixed, moving, "--landmarks", str(tmp_path / "away.csv")], "outside the fixed volume"),
        ([fixed, moving, "--spacing", "40"], "one voxel|8 x"),
    ]
    for arguments, message in cases:
        quick = [] if any(a.startswith("--s") for a in arguments) else QUICK
        if "--strides" in arguments or "--search" in arguments:
            quick = ["--spacing", "2.5"]
        with pytest.raises(InputError, match=message):
            run_apply(study, [*arguments, "--out", str(out), *quick])
        assert not out.exists(), "nothing may be left behind"
    monkeypatch.setattr(parts, "free_memory", lambda device="cpu": 60_000_000)
    with pytest.raises(InputError, match=r"the largest that fits is --search \d"):
        run_apply(study, [fixed, moving, "--out", str(out), *QUICK[:6], "--search", "9"])
    with pytest.raises(InputError, match="folder"):
        run_apply(study, [fixed, moving, "--out", str(tmp_path / "a.nii.gz")])


def test_every_arm_and_condition() -> None:
    shared = prepare(0, "smoke", None)
    assert set(shared) == set(study.conditions)
    assert shared["ultrasound"].cavity
    everywhere = tuple(study.conditions)
    found = {
        (arm, condition): trial(arm, condition, 0, "smoke", shared, "cpu")
        for arm in ("identity", "rigid_mi", "convexadam", "mcpo")
        for condition in study.arm_conditions.get(arm, everywhere)
        if condition in ("ultrasound", "same_modality_2mm")
    }
    for (arm, _), metrics in found.items():
        assert 0 < metrics["tre_mean_mm"] < 30
        assert ("tre_by_level" in metrics) == (arm in ("convexadam", "mcpo"))
    curve = found["mcpo", "ultrasound"]["tre_by_level"]
    assert len(curve) == 5
    assert curve[-1] == found["mcpo", "ultrasound"]["tre_mean_mm"]
    assert np.array(found["mcpo", "ultrasound"]["pictures"]).shape == (3, 54, 54)
    assert "pictures" not in found["mcpo", "same_modality_2mm"]


def test_the_same_motion_in_every_condition_but_the_small_one() -> None:
    shared = prepare(1, "smoke", None)
    one, other = shared["ultrasound"], shared["same_modality"]
    assert torch.equal(one.moving, other.moving)
    shift = (one.targets - one.landmarks).mean(0)
    assert float((shift - (other.targets - other.landmarks).mean(0)).norm()) < 1.0  # other landmarks, one motion
    small = shared["same_modality_2mm"]
    assert float((small.targets - small.landmarks).abs().max()) * small.spacing <= 2.0 + 1e-5


def test_the_full_scale_reads_real_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.data.volumes.brain_shift import brain_shift_pair
    from assay.data.volumes.mni import mni_brain

    brain = mni_brain(3, (54, 64, 54))
    pair = brain_shift_pair(brain, np.random.default_rng(0))
    for name, data in (("0000", pair.fixed), ("0001", pair.moving)):
        write_volume(tmp_path / "imagesTr" / f"ReMIND2Reg_0100_{name}.nii.gz", Volume(data, brain.affine))
    (tmp_path / "landmarksTr").mkdir()
    for name, points in (("0000", pair.landmarks), ("0001", pair.targets)):
        np.savetxt(tmp_path / "landmarksTr" / f"ReMIND2Reg_0100_{name}.csv", points, delimiter=",")
    names = {side: f"imagesTr/ReMIND2Reg_0100_000{i}.nii.gz" for i, side in enumerate(("fixed", "moving"))}
    (tmp_path / "ReMIND2Reg_dataset.json").write_text(json.dumps({"registration_val": [names]}))
    case = module.real_case(tmp_path, 3)
    np.testing.assert_allclose(case.targets.numpy(), pair.targets, atol=1e-3)
    assert case.spacing == pytest.approx(3.0)
    monkeypatch.setitem(module.SETTINGS, "full", module.SETTINGS["smoke"])
    found = trial("mcpo", "ultrasound", 0, "full", {"ultrasound": case}, "cpu")
    assert found["tre_mean_mm"] < 12
    with pytest.raises(InputError, match="ReMIND2Reg or RESECT"):
        prepare(0, "full", None)
