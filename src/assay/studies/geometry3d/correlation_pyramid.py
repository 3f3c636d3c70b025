"""MCPO: MRI aligned to ultrasound by dense correlation at four scales, without training. (2602.06288)

Real anatomy, simulated ultrasound: the MNI152 T1 image is the moving volume; the fixed one is what a probe would show
of the same brain after it was turned by up to 6 degrees and moved by up to 6 mm about and along each axis, bent by a
spline, and in every second pair partly cut away. The simulator works from tissue maps and knows nothing of the features
by which volumes are compared. The truth is known everywhere; TRE is measured at 60 strong reflectors in view.

The baseline is convexAdam, which the method builds on: one level of the same search, then 80 gradient steps. Its
stride (6, 5, 4, 3), smoothness (0.6, 1.25, 2.5) and final smoothing were tuned on two pairs that no trial sees (see
`_pyramid_tuning`); the pyramid keeps the released settings, except for a smaller search radius (4) and smaller
features (2), which both share. One level with 80 steps takes about as long as the pyramid with 20, so C1 is the
comparison at equal time; C1b gives the baseline more (160 steps), C1c both (80 steps after the pyramid). CPU time is
recorded (`cpu_seconds`) and not compared on verify.

What the tuning pairs showed before any trial was run: the search of four levels halves the error of the first, but the
gradient steps that follow take either start to much the same place. With motions of this size one coarse level is near
enough for them; the tuned baseline ended 0.07 mm below the pyramid with 20 steps and level with it at 80, and another
smoothness did not help the pyramid. A difference is to be expected only where a start is so far off that the steps are
caught, as they may be under full speckle (`single_look`). Nothing was changed after the trials.

Controls: the T1 image itself in place of ultrasound, with the same motion and with a shift of at most 2 mm. Where
contrast is the same and the motion small a chain of levels has nothing to add.

At full scale `--data FOLDER` holds ReMIND2Reg (Learn2Reg) or RESECT; the pairs take the place of `ultrasound`, the
settings are the released ones, and the other conditions are simulated at 1 mm.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from assay.data.volumes.brain_shift import Pair, brain_shift_pair
from assay.data.volumes.landmarks import read_landmarks
from assay.data.volumes.learn2reg import find_pairs
from assay.data.volumes.mni import mni_brain
from assay.data.volumes.volume import from_itk, isotropic_grid, on_grid, read_itk
from assay.errors import InputError
from assay.geometry.warp import jacobian_determinant, warp
from assay.lab import Better, Evidence, Same, Study
from assay.methods.geometry3d.correlation_pyramid import Registration, register
from assay.metrics.registration import folding_share, target_registration_error
from assay.studies.geometry3d._pyramid_apply import (
    check_landmarks,
    checkerboard,
    grey,
    read_inputs,
    register_inputs,
    write_results,
)
from assay.studies.geometry3d._pyramid_peers import rigid_by_information

SPACING = {"smoke": 3, "pocket": 2, "full": 1}  # mm
CROP = {"smoke": (54, 64, 54), "pocket": (80, 96, 80), "full": (160, 192, 160)}
SETTINGS: dict[str, dict[str, Any]] = {
    "smoke": {"q": 2, "radius": 1, "dilation": 1},
    "pocket": {"q": 4, "radius": 2, "dilation": 2},
    "full": {},  # the released ones
}

ONE_LEVEL: dict[str, Any] = {"chain": "deformable", "average": False, "data_weight": 12.0}
ARM_SETTINGS: dict[str, dict[str, Any]] = {
    # Tuned on cases 1000 and 1001, see _pyramid_tuning.
    "convexadam": {**ONE_LEVEL, "strides": (6,), "smooth": 1.25, "refine": 80},
    "convexadam_equal_time": {**ONE_LEVEL, "strides": (6,), "smooth": 1.25, "refine": 160},
    "mcpo": {},
    "mcpo_80_steps": {"refine": 80},
    "mcpo_coarse": {"strides": (6,)},
    "mcpo_last_weight": {"average": False},
    "mcpo_no_inverse": {"inverse": False},
    "mcpo_deformable": {"chain": "deformable"},
}
ULTRASOUND_ONLY = (
    "convexadam_equal_time",
    "mcpo_80_steps",
    "mcpo_coarse",
    "mcpo_last_weight",
    "mcpo_no_inverse",
    "mcpo_deformable",
)
USEFUL = 0.5  # mm: a quarter of a voxel

study = Study(
    paper="2602.06288",
    arms={
        "identity": "floor: nothing is moved",
        "rigid_mi": "rigid, mutual information, three levels (SimpleITK): what is at hand",
        "convexadam": "one level and 80 Adam steps; stride and smoothness tuned",
        "convexadam_equal_time": "the same with 160 steps: takes longer than mcpo",
        "mcpo": "four levels chained by rigid motions, then 20 Adam steps; released settings",
        "mcpo_80_steps": "ours: the same with as many steps as the baseline takes",
        "mcpo_coarse": "ablation: the first level only",
        "mcpo_last_weight": "ablation: the field of the last smoothing weight instead of the mean over six",
        "mcpo_no_inverse": "ablation: matched in one direction",
        "mcpo_deformable": "ours: levels hand on their field instead of a rigid motion",
    },
    conditions={
        "ultrasound": "simulated ultrasound of a moved, deformed brain, in part with a cavity",
        "single_look": "the same with the full speckle of a single image",
        "same_modality": "control: the T1 image itself, moved, cut to the fan",
        "same_modality_2mm": "control: the same, shifted by at most 2 mm along each axis",
    },
    arm_conditions={
        "rigid_mi": ["ultrasound", "single_look"],
        **{arm: ["ultrasound"] for arm in ULTRASOUND_ONLY},
    },
    claims=[
        Better(
            "tre_mean_mm", name="C1", method="mcpo", baseline="convexadam", higher=False, conditions=["ultrasound"],
            paper="first place in ReMIND2Reg, Learn2Reg 2025; mean TRE 1.798 mm on RESECT",
        ),
        Better(
            "tre_mean_mm", name="C1b", method="mcpo", baseline="convexadam_equal_time", higher=False,
            conditions=["ultrasound"], paper="none: the baseline with more time",
        ),
        Better(
            "tre_mean_mm", name="C1c", method="mcpo_80_steps", baseline="convexadam_equal_time", higher=False,
            conditions=["ultrasound"], paper="none: both with more time",
        ),
        Better(
            "tre_rigid_mm", name="C2", method="mcpo", baseline_metric="tre_first_level_mm", higher=False,
            conditions=["ultrasound"], paper="'global optimisation and local detail' over the levels",
            text="TRE of the rigid motion after stride 3 is lower than after stride 6",
        ),
        Better(
            "tre_mean_mm", name="C3", method="mcpo", baseline="mcpo_last_weight", higher=False,
            conditions=["ultrasound"], paper="'weight-balanced' coupled convex optimisation",
        ),
        Better(
            "tre_mean_mm", name="C4", method="mcpo", baseline_metric="tre_rigid_mm", higher=False,
            conditions=["ultrasound"], paper="none: ours",
            text="the final refinement lowers the TRE of the rigid motion",
        ),
        Better(
            "tre_mean_mm", name="C5", method="mcpo", baseline="rigid_mi", higher=False, conditions=["ultrasound"],
            paper="none: what a practitioner has at hand",
        ),
        *(
            Same(
                "tre_mean_mm", name=f"control: {name}", method="mcpo", baseline="convexadam", margin=USEFUL,
                conditions=[condition], expected="supported",
            )
            for name, condition in (("same contrast", "same_modality"), ("small shift", "same_modality_2mm"))
        ),
    ],
    metrics={
        "tre_mean_mm": "mean TRE (mm)",
        "tre_rigid_mm": "mean TRE of the last level's rigid motion (mm)",
        "tre_first_level_mm": "mean TRE after the first level (mm)",
        "tre_by_level": "mean TRE after each level and after refinement (mm)",
        "folding_percent": "voxels in view that fold (%)",
        "cpu_seconds": "CPU time (s)",
        "cavity": "whether tissue was taken out",
        "pictures": "a slice: fixed, moving, warped (0 to 99)",
    },
    seeds=5,
    data=lambda scale: "real and simulated" if scale == "full" else "simulated",
    tolerance=2e-2,
    tolerances={"cpu_seconds": None, "pictures": None, "folding_percent": None, "tre_by_level": None},
    time_limit={"full": 7200},
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A pair as tensors (H, W, D), with landmarks and their true places in voxels (N, 3)."""

    fixed: torch.Tensor
    moving: torch.Tensor
    mask_fixed: torch.Tensor
    mask_moving: torch.Tensor
    landmarks: torch.Tensor
    targets: torch.Tensor
    spacing: float
    cavity: bool


@study.prepare
def prepare(seed: int, scale: str, data: Path | None) -> dict[str, Case]:
    if scale == "full" and data is None:
        raise InputError("the full scale needs ReMIND2Reg or RESECT: pass their folder as --data FOLDER")
    brain = mni_brain(SPACING[scale], CROP[scale])

    def drawn(**settings: Any) -> Case:
        return as_case(brain_shift_pair(brain, np.random.default_rng([2602_06288, seed]), **settings))

    resection = seed % 2 == 0
    return {
        "ultrasound": drawn(resection=resection) if data is None else real_case(data, seed),
        "single_look": drawn(resection=resection, looks=1),
        "same_modality": drawn(image="t1", resection=resection),
        "same_modality_2mm": drawn(image="t1", degrees=0.0, millimetres=2.0, shift_sd=0.0),
    }


def as_case(pair: Pair) -> Case:
    """A simulated pair as tensors."""
    volumes = (pair.fixed, pair.moving, pair.mask_fixed, pair.mask_moving, pair.landmarks, pair.targets)
    return Case(*(torch.from_numpy(np.array(v)) for v in volumes), pair.spacing, bool(pair.cavity.any()))


def real_case(folder: Path, seed: int) -> Case:
    """The `seed`-th real pair (in turn), on the fixed volume's grid at 0.5 mm."""
    pairs = find_pairs(folder)
    pair = pairs[seed % len(pairs)]
    points = pair.read_landmarks()
    images = [read_itk(path) for path in (pair.fixed, pair.moving)]
    grid = isotropic_grid(images[0], max(0.5, min(images[0].GetSpacing())))
    fixed, moving = (from_itk(on_grid(image, grid)) for image in images)
    tensors = [torch.from_numpy(np.ascontiguousarray(v)) for v in (fixed.data, moving.data)]
    places = [torch.from_numpy(fixed.to_voxels(p)) for p in (points.fixed, points.moving)]
    return Case(*tensors, tensors[0] > 0, tensors[1] > 0, *places, float(fixed.spacing[0]), False)


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: dict[str, Case], device: str) -> dict[str, Any]:
    case = shared[condition]

    def error(moved: torch.Tensor) -> float:
        return float(target_registration_error(moved.cpu(), case.targets, case.spacing).mean())

    start = time.process_time()
    found: dict[str, Any] = {"cavity": float(case.cavity)}
    if arm == "identity":
        return found | {"tre_mean_mm": error(case.landmarks)}
    if arm == "rigid_mi":
        volumes = (case.fixed, case.moving, case.mask_fixed, case.mask_moving)
        motion = torch.from_numpy(rigid_by_information(*(v.numpy() for v in volumes)))
        seconds = time.process_time() - start
        return found | {"tre_mean_mm": error(case.landmarks @ motion[:3, :3].T + motion[:3, 3]), "cpu_seconds": seconds}
    result = register_arm(arm, case, scale, device)
    found["cpu_seconds"] = time.process_time() - start
    points = case.landmarks.to(result.u.device)
    levels = [error(level.map_points(points)) for level in result.per_level]
    final = error(result.map_points(points))
    inside = case.mask_fixed.numpy()
    found |= {
        "tre_mean_mm": final,
        "tre_rigid_mm": levels[-1],
        "tre_first_level_mm": levels[0],
        "tre_by_level": [*levels, final],
        "folding_percent": 100 * folding_share(jacobian_determinant(result.u[None])[0].cpu().numpy(), inside),
    }
    if arm == "mcpo" and seed == 0 and condition == "ultrasound":
        found["pictures"] = pictures(case, result)
    return found


def register_arm(arm: str, case: Case, scale: str, device: str = "cpu") -> Registration:
    """Register a case as one of the arms does."""
    volumes = [v.to(device) for v in (case.fixed, case.moving, case.mask_fixed, case.mask_moving)]
    return register(
        volumes[0], volumes[1], mask_fixed=volumes[2], mask_moving=volumes[3], **(SETTINGS[scale] | ARM_SETTINGS[arm])
    )


def pictures(case: Case, result: Registration) -> list[list[list[float]]]:
    """The middle slice across the second axis of the fixed, moving and warped volume, as whole numbers 0 to 99."""
    warped = warp(case.moving[None, None], result.u[None].cpu(), padding="zeros")[0, 0]
    across = case.fixed.shape[1] // 2
    return [(grey(v[:, across].numpy()) * 99).round().tolist() for v in (case.fixed, case.moving, warped)]


@study.figure
def figure(evidence: Evidence) -> Any:
    """TRE of every arm, TRE along the levels, the controls, and a checkerboard before and after."""
    import matplotlib.pyplot as plt

    fig = plt.figure(figsize=(12.5, 8), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.1, 1])
    box_axis, level_axis = top.subplots(1, 2, width_ratios=[1.4, 1])
    arms = [a for a in evidence.arms if np.isfinite(evidence.values("tre_mean_mm", a, "ultrasound")).any()]
    values = [evidence.values("tre_mean_mm", a, "ultrasound") for a in arms]
    for place, (arm, tre) in enumerate(zip(arms, values, strict=True)):
        tre = tre[np.isfinite(tre)]
        colour = "C3" if arm == "mcpo" else "C0" if not arm.startswith("mcpo") else "C1"
        box_axis.boxplot(tre, positions=[place], widths=0.55, medianprops={"color": colour})
        box_axis.plot(np.full(len(tre), place), tre, "o", ms=4, color=colour, alpha=0.7)
    box_axis.set_xticks(range(len(arms)), [a.replace("_", " ") for a in arms], rotation=30, ha="right")
    box_axis.set(ylabel=evidence.label("tre_mean_mm"), title="simulated ultrasound: one point a pair", ylim=(0, None))
    box_axis.grid(axis="y", alpha=0.3)

    for arm, colour in (("mcpo", "C3"), ("mcpo_deformable", "C1"), ("mcpo_last_weight", "C4")):
        curves = evidence.series("tre_by_level", arm, "ultrasound")
        start = evidence.values("tre_mean_mm", "identity", "ultrasound")
        if not curves.size or len(start) != len(curves):
            continue
        whole = np.column_stack([start, curves])
        level_axis.plot(whole.mean(0), "o-", color=colour, label=arm.replace("_", " "))
        if arm == "mcpo":
            level_axis.plot(whole.T, "-", color=colour, alpha=0.2, lw=1)
    level_axis.set_xticks(range(6), ["start", "6", "5", "4", "3", "refined"])
    level_axis.set(xlabel="after the level of stride", ylabel=evidence.label("tre_mean_mm"), ylim=(0, None))
    level_axis.set_title("level by level")
    level_axis.legend()
    level_axis.grid(alpha=0.3)

    before, after, other = bottom.subplots(1, 3, width_ratios=[1, 1, 1.4])
    shown = evidence.series("pictures", "mcpo", "ultrasound")
    for axis, title in ((before, "ultrasound and MRI before"), (after, "after")):
        axis.set_axis_off()
        if shown.size:
            fixed, moving, warped = shown[0]
            axis.imshow(checkerboard(fixed, moving if axis is before else warped).T, cmap="gray", origin="lower")
            axis.set_title(title)
    places = [c for c in evidence.conditions if c != "ultrasound"]
    compared = ("identity", "convexadam", "mcpo")
    for i, condition in enumerate(places):
        for j, arm in enumerate(compared):
            mean, low, high = evidence.mean_interval("tre_mean_mm", arm, condition)
            x = i + (j - 1) * 0.25
            other.bar(x, mean, 0.22, color=f"C{(7, 0, 3)[j]}", label=arm if i == 0 else None)
            other.plot([x, x], [low, high], color="0.2")
    other.set_xticks(range(len(places)), [c.replace("_", " ") for c in places])
    other.set(ylabel=evidence.label("tre_mean_mm"), title="hard condition and controls", ylim=(0, None))
    other.legend()
    return fig


@study.apply
def apply(
    fixed: Path,
    moving: Path,
    out: Path = Path("registered"),
    landmarks: Path | None = None,
    swap_landmarks: bool = False,
    fixed_mask: Path | None = None,
    moving_mask: Path | None = None,
    spacing: float = 1.0,
    strides: list[int] = [6, 5, 4, 3],  # noqa: B006 - the command line shows it
    search: int = 6,
    radius: int = 3,
    refine: int = 20,
    smooth: float = 1.25,
    chain: Literal["rigid", "deformable"] = "rigid",
    device: Literal["cpu", "cuda"] = "cpu",
) -> dict[str, Any]:
    """Align one volume to another of the same anatomy, whatever their contrast: an MRI to an ultrasound, say.

    Writes a folder: warped.nii.gz (the moving volume on the fixed one's grid), displacement.nii.gz (an ITK vector field
    in LPS millimetres, fixed to moving: SimpleITK, ANTs and 3D Slicer apply it), rigid.tfm (an ITK transform: the rigid
    part), overlay.png and report.json. The headers must place the two volumes roughly over each other.

    Args:
        fixed: the volume to align to, such as the ultrasound: NIfTI, NRRD, MHA and what else SimpleITK reads.
        moving: the volume to be aligned.
        out: folder to write.
        landmarks: pairs of points to measure with: an MNI .tag file (fixed volume first), or a CSV with the columns
            fixed_x, fixed_y, fixed_z, moving_x, moving_y, moving_z in RAS millimetres.
        swap_landmarks: the file names the moving volume's points first, as RESECT's MRI-beforeUS.tag does.
        fixed_mask: where the fixed volume holds something; values above 0 when not given (not for CT).
        moving_mask: the same for the moving volume.
        spacing: millimetres of the grid on which the volumes are matched.
        strides: pooling of the levels in voxels of that grid, one --strides each.
        search: search radius of a level, in its pooled voxels.
        radius: radius and dilation of the features, in voxels.
        refine: gradient steps of the final refinement; 0 leaves the result rigid.
        smooth: weight of smoothness in the refinement.
        chain: what a level hands on to the next: its rigid motion, or its whole field.
        device: where to compute.
    """
    if out.suffix in (".gz", ".nii", ".json"):
        raise InputError(f"--out {out.name}: expected the name of a folder, the files in it have fixed names")
    given = read_inputs(fixed, moving, spacing, fixed_mask, moving_mask)
    points = None
    if landmarks is not None:
        points = read_landmarks(landmarks)
        points = points.swapped() if swap_landmarks else points
        check_landmarks(points, given, landmarks)
    result = register_inputs(given, strides, search, refine, smooth, chain, radius, device)
    return write_results(given, result, points, out)
