"""Readers of ReMIND2Reg and RESECT on folders written as they are released."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("SimpleITK")

from assay.data.volumes.landmarks import LandmarkPairs, write_tag
from assay.data.volumes.learn2reg import find_pairs
from assay.data.volumes.volume import Volume, write_volume
from assay.errors import InputError


def volume(path: Path, shift: float) -> None:
    affine = np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] = shift
    write_volume(path, Volume(np.ones((6, 6, 6), np.float32), affine))


def remind(folder: Path) -> None:
    for number, shift in (("0000", 10.0), ("0001", 20.0)):
        volume(folder / "imagesTr" / f"ReMIND2Reg_0100_{number}.nii.gz", shift)
        (folder / "landmarksTr").mkdir(exist_ok=True)
        (folder / "landmarksTr" / f"ReMIND2Reg_0100_{number}.csv").write_text("1,2,3\n4,5,0\n")
    entry = {f: f"./imagesTr/ReMIND2Reg_0100_000{i}.nii.gz" for i, f in enumerate(("fixed", "moving"))}
    absent = {f: f"./imagesTr/ReMIND2Reg_0101_000{i}.nii.gz" for i, f in enumerate(("fixed", "moving"))}
    listing = {"name": "ReMIND2Reg", "numTraining": 0, "registration_val": [entry, absent]}
    (folder / "ReMIND2Reg_dataset.json").write_text(json.dumps(listing))


def test_remind(tmp_path: Path) -> None:
    remind(tmp_path)
    (pair,) = find_pairs(tmp_path)
    assert pair.fixed.name == "ReMIND2Reg_0100_0000.nii.gz"
    points = pair.read_landmarks()
    np.testing.assert_allclose(points.fixed, [[10.5, 11, 11.5], [12, 12.5, 10]])
    np.testing.assert_allclose(points.moving, points.fixed + 10)


def test_resect(tmp_path: Path) -> None:
    volume(tmp_path / "NIFTI/Case1/MRI/Case1-FLAIR.nii.gz", 0)
    volume(tmp_path / "NIFTI/Case1/US/Case1-US-before.nii.gz", 5)
    tags = tmp_path / "NIFTI/Case1/Landmarks"
    tags.mkdir()
    pairs = LandmarkPairs(np.array([[1.0, 2, 3]]), np.array([[4.0, 5, 6]]))  # the MRI first
    write_tag(tags / "Case1-MRI-beforeUS.tag", pairs)
    (case,) = find_pairs(tmp_path)
    assert case.moving.name == "Case1-FLAIR.nii.gz"
    np.testing.assert_allclose(case.read_landmarks().moving, pairs.fixed)


def test_folders_that_are_neither(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="RESECT"):
        find_pairs(tmp_path)
    remind(tmp_path)
    (tmp_path / "landmarksTr/ReMIND2Reg_0100_0001.csv").write_text("1,2,3\n")
    with pytest.raises(InputError, match="2 landmarks in one volume and 1"):
        find_pairs(tmp_path)[0].read_landmarks()
    (tmp_path / "landmarksTr/ReMIND2Reg_0100_0001.csv").write_text("1,2\n")
    with pytest.raises(InputError, match="three numbers"):
        find_pairs(tmp_path)[0].read_landmarks()
    listing = tmp_path / "ReMIND2Reg_dataset.json"
    listing.write_text(json.dumps({"registration_val": [{"fixed": "../../etc/x.nii.gz", "moving": "a"}]}))
    with pytest.raises(InputError, match="leads out"):
        find_pairs(tmp_path)
    listing.write_text("{}")
    with pytest.raises(InputError, match="lists no pairs"):
        find_pairs(tmp_path)
    listing.write_text("no json")
    with pytest.raises(InputError, match="not JSON"):
        find_pairs(tmp_path)
