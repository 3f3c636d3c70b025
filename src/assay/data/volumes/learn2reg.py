"""Pairs of real MRI and ultrasound in the layouts in which ReMIND2Reg (Learn2Reg) and RESECT are released.

ReMIND2Reg: `ReMIND2Reg_dataset.json` (lists of `fixed` and `moving` under `registration_val` and others), volumes
`imagesTr/ReMIND2Reg_0100_0000.nii.gz` (ultrasound, fixed) and `_0001`, `_0002` (T1, T2). Landmarks, where there are
any, are tables of voxel positions without a heading, one a volume and named like it, in a folder `landmarks*` or
`keypoints*`. RESECT: `Case1/MRI/*FLAIR.nii.gz`, `Case1/US/*US-before.nii.gz`, `Case1/Landmarks/*MRI-beforeUS.tag`
(anywhere below the folder), the MRI being the tag file's first volume.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.data.volumes.landmarks import LandmarkPairs, read_tag
from assay.data.volumes.volume import Floats, read_volume
from assay.errors import InputError


@dataclass(frozen=True)
class RealPair:
    """Files of one pair. Landmarks: one `.tag` file (MRI first), or two tables (fixed, moving)."""

    name: str
    fixed: Path
    moving: Path
    landmarks: tuple[Path, ...] = ()

    def read_landmarks(self) -> LandmarkPairs:
        """The pair's landmarks in RAS millimetres.

        Raises:
            InputError: there are none, or the files do not fit each other.
        """
        if len(self.landmarks) == 1:
            return read_tag(self.landmarks[0]).swapped()
        if len(self.landmarks) != 2:
            raise InputError(f"{self.name} has no landmarks")
        places = []
        for table, volume in zip(self.landmarks, (self.fixed, self.moving), strict=True):
            places.append(read_volume(volume).to_mm(_read_voxels(table)))
        if len(places[0]) != len(places[1]):
            raise InputError(f"{self.name}: {len(places[0])} landmarks in one volume and {len(places[1])} in the other")
        return LandmarkPairs(places[0], places[1])


def find_pairs(folder: Path) -> list[RealPair]:
    """Every pair with landmarks below a folder in one of the two layouts.

    Raises:
        InputError: neither layout, or no pair that has landmarks.
    """
    folder = Path(folder)
    listed = sorted(folder.glob("*dataset.json"))
    pairs = remind_pairs(folder, listed[0]) if listed else resect_pairs(folder)
    pairs = [pair for pair in pairs if pair.landmarks]
    if not pairs:
        raise InputError(
            f"{folder}: no pair with landmarks; expected ReMIND2Reg (ReMIND2Reg_dataset.json, imagesTr/, landmarksTr/)"
            " or RESECT (Case1/MRI, Case1/US, Case1/Landmarks)"
        )
    return pairs


def remind_pairs(folder: Path, listing: Path) -> list[RealPair]:
    """The pairs a Learn2Reg `dataset.json` lists, whose files are there.

    Raises:
        InputError: a listing that is none, or that leads out of its folder.
    """
    try:
        content = json.loads(listing.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{listing}: not JSON") from error
    entries = [
        entry
        for key, rows in (content.items() if isinstance(content, dict) else ())
        if isinstance(rows, list)
        for entry in rows
        if isinstance(entry, dict) and {"fixed", "moving"} <= entry.keys()
    ]
    if not entries:
        raise InputError(f"{listing}: lists no pairs ('fixed' and 'moving')")
    pairs = {}
    for entry in entries:
        fixed, moving = (_inside(folder, str(entry[side]), listing) for side in ("fixed", "moving"))
        if fixed.is_file() and moving.is_file():
            name = f"{_stem(fixed)}-{_stem(moving)}"
            tables = tuple(t for v in (fixed, moving) if (t := _table_of(folder, v)) is not None)
            pairs[name] = RealPair(name, fixed, moving, tables if len(tables) == 2 else ())
    return list(pairs.values())


def resect_pairs(folder: Path) -> list[RealPair]:
    """The cases of RESECT: FLAIR as the moving, ultrasound before resection as the fixed volume."""
    pairs = []
    for tag in sorted(folder.rglob("*MRI-beforeUS.tag")):
        case = tag.name.split("-")[0]
        mri = sorted(folder.rglob(f"{case}-FLAIR.nii*"))
        ultrasound = sorted(folder.rglob(f"{case}-US-before.nii*"))
        if mri and ultrasound:
            pairs.append(RealPair(case, ultrasound[0], mri[0], (tag,)))
    return pairs


def _table_of(folder: Path, volume: Path) -> Path | None:
    found = [p for kind in ("landmarks", "keypoints") for p in sorted(folder.glob(f"{kind}*/{_stem(volume)}.csv"))]
    return found[0] if found else None


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _inside(folder: Path, name: str, listing: Path) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(f"{listing}: {name!r} leads out of the folder")
    return path


def _read_voxels(path: Path) -> Floats:
    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: expected rows of three numbers") from error
    if table.shape[1] != 3 or len(table) == 0:
        raise InputError(f"{path}: expected rows of three numbers, got {table.shape[1]} columns")
    return table
