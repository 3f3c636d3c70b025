"""Affine maps between calibrated cameras: how a patch is sheared, in closed form. (2602.06805)

The note has no experiments, so the claims are ours and follow its statement. Patches of up to 31 pixels are carried
from one picture to the other by the closed form and by what block matchers do without a normal (a shifted window, or
one that is scaled and turned), and compared with the true position of every pixel. The truth never comes from a local
model: on the Middlebury motorcycle it is the measured disparity, on textured planes and ellipsoids it is ray casting.

The inverse problem (normal from a noisy affine match) and the refinement of a match are ours as well. A plane through
hundreds of depths with independent noise gives better normals than one affine match in general motion (1.8 against 3.7
degrees on planes), worse ones on the short baseline of the motorcycle (32 against 13), where neither is good. Weighting
the six equations gains little. Finite differences of the homography give the same map in about the same time: the
closed form is worth its exactness and its derivatives here, not speed.

How far this reaches: on the motorcycle nearly every steep and textured surface is the floor, so C2 is a statement about
that floor; there are few patches tilted between 40 and 70 degrees. A first version took points whose patches overlapped
almost whole and five scenes a seed, and could not decide C2, C3 and C5 (same sign, wide intervals). Points are now
thinned to every seventh row and column, there are ten scenes, and a tilt bin needs five points instead of ten to be
counted; seeds that were not looked at before (5 to 9) agree in sign on all three. The spread over seeds is taken as
the standard error itself, which is right for the resampled picture and too careful for the fresh scenes.
"""

from __future__ import annotations

import time
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from assay.data.scenes.patch_pairs import (
    SIZE,
    TILT_EDGES,
    PatchPairs,
    ray_cast_patches,
    spread_over_tilts,
    stereo_candidates,
    stereo_patches,
)
from assay.data.scenes.two_views import read_two_views
from assay.data.stereo import StereoPair, motorcycle, read_stereo_folder
from assay.errors import InputError
from assay.geometry.cameras import homogeneous
from assay.geometry.patches import patch_offsets, sample, warp_patch
from assay.lab import Better, Bound, Evidence, Gate, NotWorse, Same, Study, resample_groups
from assay.methods.geometry3d.affine_cameras import (
    affine_between,
    affine_from_homography,
    affine_parts,
    homography_from_plane,
    normal_from_affine,
)
from assay.methods.geometry3d.affine_refinement import refine_match
from assay.metrics.image import ssd, zncc
from assay.studies.geometry3d._affine_apply import invert_matches, map_points

WINDOW = 21
RADII = (3, 5, 7, 10, 15)
CIRCLES = (1.0, 2.0, 4.0, 8.0, 16.0)
SD_AFFINE, SD_POINT = 0.02, 0.5  # noise of a match: entries of A, and pixels of p2
WRONG_BY = 20.0  # degrees, start of the refinement
SCENES = {"smoke": 1, "pocket": 10, "full": 20}
POINTS = {"smoke": 40, "pocket": 400, "full": 2000}
EXACT = ("planes", "spheres")
PLACES = ("stereo", *EXACT)
STRUCTURE = "no figure; a closed form of pose, image coordinates and surface normal (abstract)"

study = Study(
    paper="2602.06805",
    arms={
        "translation": "window shifted to the true position, as block matchers do",
        "similarity": "shifted, scaled by the ratio of depths and turned by the roll",
        "rotation_only": "the two parts of the formula that know no normal",
        "affine_fronto": "the formula with the viewing ray for a normal",
        "affine": "the formula",
        "dlt_numeric": "the same by finite differences of the homography",
        "homography": "the exact warp of the tangent plane",
        "normal_linear4": "normal from the four affine equations of a noisy match",
        "normal_linear6": "normal from all six equations",
        "normal_weighted6": "six equations weighted by their covariance",
        "normal_depth_pca": "plane fitted to the patch's depths, each with the noise of a match",
        "refine": "Gauss-Newton on the pictures from a normal that is 20 degrees off",
    },
    claims=[
        Better(
            "warp_error_px", method="affine", baseline=("translation", "rotation_only"), higher=False,
            conditions=PLACES, paper=STRUCTURE, name="C1",
        ),
        Better(
            "zncc_slanted", method="affine", baseline=("translation", "similarity"), conditions=["stereo"],
            paper="no figure; the note checks the formula on rectified stereo", name="C2",
        ),
        Better(
            "normal_err_deg", method="normal_linear6", baseline="normal_linear4", higher=False, conditions=EXACT,
            name="C3",
        ),
        Bound("truncation_slope", method="affine", at_least=1.8, conditions=EXACT, name="C4"),
        Better(
            "zncc_slanted", method="affine", baseline="affine_fronto", conditions=["stereo", "planes"],
            paper=STRUCTURE, name="C5",
        ),
        NotWorse("zncc", method="affine", baseline="homography", margin=0.01, conditions=PLACES, name="C6"),
        Better(
            "normal_err_deg", method="refine", baseline_metric="normal_err_start", higher=False, conditions=PLACES,
            name="C7",
        ),
        Same(
            "zncc_fronto", method="affine", baseline="translation", margin=0.02, conditions=["stereo"],
            expected="supported", name="N1",
            text="control: within 10 degrees of the image plane the formula equals a shifted window to 0.02 ZNCC",
        ),
        Same(
            "warp_error_px", method="affine", baseline="rotation_only", margin=1e-6, conditions=["rotation"],
            expected="supported", name="N2", text="control: without a baseline the normal changes nothing",
        ),
    ],
    conditions={
        "stereo": "real: Middlebury motorcycle with measured disparity, rectified",
        "planes": "ray-cast photos on planes, general motion",
        "spheres": "ray-cast photos on ellipsoids, general motion",
        "rotation": "control: the camera only turns",
    },
    arm_conditions={
        "normal_linear4": EXACT,  # rank 2 on rectified stereo
        "normal_linear6": PLACES,
        "normal_weighted6": PLACES,
        "normal_depth_pca": PLACES,
        "refine": PLACES,
    },
    gates=[
        Gate(
            "zncc_fronto", method="translation", condition="stereo", at_least=0.8, claims=["C2", "C5"],
            why="the patches must be matchable where no deformation is expected",
        )
    ],
    metrics={
        "warp_error_px": "error of the warped grid, patches of 7 to 31 pixels (px)",
        "zncc": "ZNCC of 21x21 patches",
        "zncc_slanted": "ZNCC where the surface is tilted by more than 45°",
        "zncc_fronto": "ZNCC where the surface is tilted by less than 10°",
        "ssd": "mean squared difference of 21x21 patches",
        "truncation_slope": "growth order of the error against the homography",
        "microseconds": "time for one map (µs)",
        "normal_err_deg": "median error of the normal (°)",
        "within_5deg": "share of normals within 5°",
    },
    seeds=5,
    data="real and simulated",
    resampled=True,
    tolerances={"microseconds": None},
)  # fmt: skip


@lru_cache(maxsize=4)
def _real(folder: Path | None) -> tuple:
    """Stereo pairs with their candidates: the scenes in the folder, or the motorcycle."""
    pairs: list[StereoPair] = [motorcycle()]
    if folder is not None:
        scenes = sorted(p for p in folder.iterdir() if (p / "calib.txt").is_file())
        if not scenes:
            raise InputError(
                f"{folder} has no scenes in the Middlebury or ETH3D two-view layout (im0.png, calib.txt, ...)"
            )
        pairs = [read_stereo_folder(p) for p in scenes]
    return tuple((pair, stereo_candidates(pair)) for pair in pairs)


@study.prepare
def prepare(seed: int, scale: str, data: Path | None) -> dict[str, list[PatchPairs]]:
    """The patches of every condition; on real pictures a seed is a bootstrap resample of tiles of 40 pixels.

    The planes of a seed are spread evenly over tilts from 0 to 75 degrees.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    real = _real(data if scale == "full" else None)
    shared: dict[str, list[PatchPairs]] = {"stereo": []}
    for pair, candidates in real:
        drawn = torch.from_numpy(resample_groups(candidates.tile.numpy(), seed))
        chosen = drawn[spread_over_tilts(candidates.tilt[drawn], POINTS[scale] // min(len(real), 4), rng)]
        shared["stereo"].append(stereo_patches(pair, candidates, chosen))
    scenes = SCENES[scale]
    size = {"width": 160, "height": 120} if scale == "smoke" else {}
    for condition, kind in (("planes", "plane"), ("spheres", "sphere"), ("rotation", "rotation")):
        count = min(scenes, 4) if condition == "rotation" else scenes  # the control has no spread to average out
        tilts = (np.arange(count) + rng.random(count)) / count * 75
        shared[condition] = [
            ray_cast_patches(kind, float(tilt), POINTS[scale] // max(scenes, 2), generator, **size) for tilt in tilts
        ]
    return shared


@study.trial
def trial(arm: str, condition: str, seed: int, shared: dict[str, list[PatchPairs]]) -> dict:
    """One arm on all points of a condition."""
    generator = torch.Generator().manual_seed(seed)
    sets = [points for points in shared[condition] if len(points)]
    if arm == "refine":
        return _refine(sets, generator)
    if arm.startswith("normal_"):
        return _normals(arm, sets, generator)
    return _warps(arm, condition, seed, sets)


def affine_of_arm(arm: str, P: PatchPairs) -> Tensor:
    """The 2x2 map of an arm at every point, `(N, 2, 2)`, pixels."""
    pose = {"K1": P.K1, "K2": P.K2, "strict": False}
    ray = homogeneous((P.p1 - P.K1[:2, 2]) @ torch.linalg.inv(P.K1[:2, :2]).T)
    if arm == "translation":
        return torch.eye(2, dtype=P.p1.dtype).expand(len(P), 2, 2)
    if arm == "similarity":
        U, _, V = torch.linalg.svd(P.R[:2, :2])
        s = affine_between(P.R, P.t, P.p1, P.n, depth=P.point_depth, **pose).s
        return (U @ V) * (P.K2[0, 0] / P.K1[0, 0]) / s[:, None, None]
    if arm == "rotation_only":
        return affine_parts(P.R, P.t, P.p1, P.n, depth=P.point_depth, **pose)[:, :2].sum(1)
    if arm == "affine_fronto":
        return affine_between(P.R, P.t, P.p1, ray / ray.norm(dim=-1, keepdim=True), depth=P.point_depth, **pose).A
    if arm == "dlt_numeric":
        H, h = _pixel_homography(P), 1e-3
        steps = [_through(H, P.p1 + h * e) - _through(H, P.p1 - h * e) for e in torch.eye(2, dtype=P.p1.dtype)]
        return torch.stack(steps, -1) / (2 * h)
    if arm == "homography":  # its derivative; the warp itself is not affine
        return affine_from_homography(_pixel_homography(P), P.p1).A
    return affine_between(P.R, P.t, P.p1, P.n, depth=P.point_depth, **pose).A


def _warps(arm: str, condition: str, seed: int, sets: list[PatchPairs]) -> dict:
    errors, scores, differences, tilts, circles, seconds = [], [], [], [], [], 0.0
    eye = torch.eye(2, dtype=torch.float64)
    for P in sets:
        start = time.perf_counter()
        A = affine_of_arm(arm, P)
        seconds += time.perf_counter() - start
        H = _pixel_homography(P)

        def warp(offsets: Tensor, A: Tensor = A, H: Tensor = H, P: PatchPairs = P) -> Tensor:
            """Where the arm puts p1 + offsets `(..., 2)`; `(N, ..., 2)`."""
            spread = (len(P), *(1,) * (offsets.ndim - 1), 2)
            if arm == "homography":
                return _through(H.reshape(len(P), *(1,) * (offsets.ndim - 1), 3, 3), P.p1.reshape(spread) + offsets)
            return P.p2.reshape(spread) + (A.reshape(*spread[:-1], 2, 2) @ offsets[..., None])[..., 0]

        off = (warp(patch_offsets(SIZE, A)) - P.truth).norm(dim=-1)
        middle = SIZE // 2
        by_radius = [off[:, middle - r : middle + r + 1, middle - r : middle + r + 1] for r in RADII]
        errors.append(torch.stack([e.square().mean((1, 2)).sqrt() for e in by_radius], -1))
        left = warp_patch(P.image1[None], P.p1, eye, WINDOW)[:, 0]
        right = sample(P.image2[None], warp(patch_offsets(WINDOW, A)))[:, 0]
        scores.append(zncc(left, right))
        differences.append(ssd(left, right))
        tilts.append(P.tilt)
        rim = torch.tensor([[np.cos(a), np.sin(a)] for a in np.arange(8) * np.pi / 4], dtype=A.dtype)
        onto = [_through(H[:, None], P.p1[:, None] + r * rim) for r in CIRCLES]
        circles.append(
            torch.stack([(warp(r * rim) - q).norm(dim=-1).mean(1) for r, q in zip(CIRCLES, onto, strict=True)], -1)
        )
    error, score, tilt = torch.cat(errors), torch.cat(scores), torch.cat(tilts)
    truncation = torch.cat(circles).mean(0)
    result = {
        "warp_error_px": float(error.mean()),
        "warp_error_by_radius": error.mean(0),
        "zncc": float(score.mean()),
        "ssd": float(torch.cat(differences).mean()),
        "zncc_by_tilt": [_mean(score[(tilt >= a) & (tilt < b)]) for a, b in pairwise(TILT_EDGES)],
        "truncation_by_radius": truncation,
        "microseconds": 1e6 * seconds / len(error),
    }
    for name, part in (("zncc_slanted", tilt > 45), ("zncc_fronto", tilt < 10)):
        if int(part.sum()) >= 5:
            result[name] = float(score[part].mean())
    if condition in EXACT and float(truncation.min()) > 1e-9:
        result["truncation_slope"] = float(np.polyfit(np.log(CIRCLES), np.log(truncation), 1)[0])
    if condition == "stereo" and seed == 0 and arm in ("translation", "affine"):
        result |= _examples(arm, sets[0])
    return result


def _examples(arm: str, P: PatchPairs, count: int = 4) -> dict:
    """Patches for the figure: steep places with the most texture, apart from each other; left and warped right."""
    left = warp_patch(P.image1[None], P.p1, torch.eye(2, dtype=torch.float64), SIZE)[:, 0]
    rows: list[int] = []
    for row in torch.argsort(left.std((1, 2)) * (P.tilt > 60), descending=True).tolist():
        if len(rows) < count and all(float((P.p1[row] - P.p1[other]).norm()) > 3 * SIZE for other in rows):
            rows.append(row)
    chosen = P.rows(torch.tensor(rows))
    right = warp_patch(P.image2[None], chosen.p2, affine_of_arm(arm, chosen), SIZE)[:, 0]
    return {"patches": (torch.stack([left[rows], right]) * 255).round()}


def _normals(arm: str, sets: list[PatchPairs], generator: torch.Generator) -> dict:
    """Error of the normal from a match whose true map is fitted to the true correspondence, plus noise."""
    angles = []
    reach = 7  # the map is fitted within this radius: measured disparity is too noisy for less
    for P in sets:
        offsets = patch_offsets(2 * reach + 1, P.p1).reshape(-1, 2)
        middle = SIZE // 2
        part = slice(middle - reach, middle + reach + 1)
        moved = (P.truth[:, part, part] - P.p2[:, None, None]).flatten(1, 2)
        A = (torch.linalg.pinv(offsets) @ moved).mT
        noise = torch.randn(len(P), 6, generator=generator, dtype=A.dtype)
        A, p2 = A + SD_AFFINE * noise[:, :4].reshape(-1, 2, 2), P.p2 + SD_POINT * noise[:, 4:]
        if arm == "normal_depth_pca":
            found = _plane_of_depths(P, generator)
        else:
            sd = torch.tensor([SD_AFFINE] * 4 + [SD_POINT] * 2, dtype=A.dtype)
            covariance = torch.diag(sd**2) if arm == "normal_weighted6" else None
            found = normal_from_affine(
                A, P.R, P.t, P.p1, p2, covariance=covariance, K1=P.K1, K2=P.K2,
                affine_only=arm == "normal_linear4", strict=False,
            ).n  # fmt: skip
        angles.append(_angle(found, P.n))
    return _normal_metrics(torch.cat(angles))


def _refine(sets: list[PatchPairs], generator: torch.Generator) -> dict:
    """Error of the normal after fitting the pictures from a start that is 20 degrees and 1 % of depth off."""
    angles, starts, scores = [], [], []
    for P in sets:
        side = torch.linalg.cross(P.n, torch.randn(P.n.shape, generator=generator, dtype=P.n.dtype))
        side = side / side.norm(dim=-1, keepdim=True)
        turn = np.deg2rad(WRONG_BY)
        n0 = np.cos(turn) * P.n + np.sin(turn) * side
        ray = homogeneous((P.p1 - P.K1[:2, 2]) @ torch.linalg.inv(P.K1[:2, :2]).T)
        # A start that is seen edge-on or from behind is turned to the other side.
        n0 = torch.where((n0 * ray).sum(-1, keepdim=True) < 0.1, np.cos(turn) * P.n - np.sin(turn) * side, n0)
        depth0 = P.point_depth * (1 + 0.01 * torch.randn(len(P), generator=generator, dtype=P.n.dtype))
        found = refine_match(P.image1, P.image2, P.p1, P.R, P.t, P.K1, P.K2, n0, depth0, radius=WINDOW // 2)
        angles.append(_angle(found.n, P.n))
        starts.append(_angle(n0, P.n))
        scores.append(found.zncc)
    score = torch.cat(scores).mean(0)
    result = _normal_metrics(torch.cat(angles))
    return result | {
        "normal_err_start": float(torch.cat(starts).median()),
        "zncc_start": score[0],
        "zncc": float(score[1]),
    }


def _plane_of_depths(P: PatchPairs, generator: torch.Generator) -> Tensor:
    """Normal of the plane through the patch's points, whose depths carry the error of a match: `dZ = Z² dw`."""
    part = slice(SIZE // 2 - WINDOW // 2, SIZE // 2 + WINDOW // 2 + 1)
    depth = P.depth[:, part, part].flatten(1)
    pixels = P.p1[:, None] + patch_offsets(WINDOW, P.p1).reshape(-1, 2)
    ray = homogeneous((pixels - P.K1[:2, 2]) @ torch.linalg.inv(P.K1[:2, :2]).T)
    p2 = (P.p2 - P.K2[:2, 2]) / P.K2[0, 0]
    s = affine_between(P.R, P.t, P.p1, P.n, depth=P.point_depth, K1=P.K1, K2=P.K2, strict=False).s
    pixels_per_w = P.K2[0, 0] * (P.t[:2] - P.t[2] * p2).norm(dim=-1) / s
    sd = depth**2 * (SD_POINT / pixels_per_w)[:, None]
    points = ray * (depth + sd * torch.randn(depth.shape, generator=generator, dtype=depth.dtype))[..., None]
    centred = points - points.mean(1, keepdim=True)
    n = torch.linalg.eigh(centred.mT @ centred)[1][..., 0]
    return torch.where((n * P.n).sum(-1, keepdim=True) < 0, -n, n)


def _normal_metrics(angle: Tensor) -> dict:
    return {"normal_err_deg": float(angle.median()), "within_5deg": float((angle < 5).double().mean())}


def _pixel_homography(P: PatchPairs) -> Tensor:
    ray = homogeneous((P.p1 - P.K1[:2, 2]) @ torch.linalg.inv(P.K1[:2, :2]).T)
    H = homography_from_plane(P.R, P.t, P.n, P.point_depth * (P.n * ray).sum(-1))
    return P.K2 @ H @ torch.linalg.inv(P.K1)


def _through(H: Tensor, p: Tensor) -> Tensor:
    q = (H @ homogeneous(p)[..., None])[..., 0]
    return q[..., :2] / q[..., 2:]


def _angle(a: Tensor, b: Tensor) -> Tensor:
    return torch.rad2deg(torch.acos((a * b).sum(-1).clamp(-1, 1)))


def _mean(x: Tensor) -> float:
    return float(x.mean()) if len(x) else float("nan")


@study.figure
def figure(evidence: Evidence):
    """ZNCC against tilt, error against patch radius, normals, and patches of the real pair."""
    import matplotlib.pyplot as plt

    colours = {
        "translation": "#999999", "similarity": "#e69f00", "rotation_only": "#cc79a7", "affine_fronto": "#56b4e9",
        "affine": "#d55e00", "homography": "#009e73",
    }  # fmt: skip
    fig = plt.figure(figsize=(12, 8.6), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.15, 1])
    tilt_axis, error_axis, normal_axis = top.subplots(1, 3)

    middles = np.convolve(TILT_EDGES, [0.5, 0.5], "valid")
    for arm, colour in colours.items():
        styles = {"color": colour, "label": arm.replace("_", " "), "lw": 3.0 if arm == "affine" else 1.2}
        styles["ls"] = "--" if arm in ("homography", "affine_fronto", "rotation_only") else "-"
        zncc_by_tilt = evidence.series("zncc_by_tilt", arm, "stereo")
        if zncc_by_tilt.size and arm not in ("similarity", "rotation_only"):  # on a rectified pair both equal the shift
            there = np.isfinite(zncc_by_tilt).any(0)
            tilt_axis.plot(middles[there], np.nanmean(zncc_by_tilt[:, there], 0), marker="o", ms=3, **styles)
        growth = evidence.series("warp_error_by_radius", arm, "planes")
        if growth.size and arm != "homography":
            error_axis.plot([2 * r + 1 for r in RADII], growth.mean(0), marker="o", ms=3, **styles)
    truncation = evidence.series("truncation_by_radius", "affine", "planes")
    if truncation.size:
        error_axis.plot(
            [2 * r + 1 for r in CIRCLES], truncation.mean(0), color="#d55e00", ls=":", marker="s", ms=3,
            label="affine against the homography",
        )  # fmt: skip
    tilt_axis.set(xlabel="tilt of the surface (°)", ylabel=evidence.label("zncc"), title="real stereo (motorcycle)")
    error_axis.set(
        xscale="log", yscale="log", xlabel="patch size (px)", ylabel="error of the warped grid (px)",
        title="planes, general motion",
    )  # fmt: skip
    error_axis.set_xticks([3, 5, 9, 15, 21, 31], [3, 5, 9, 15, 21, 31])
    error_axis.minorticks_off()
    arms = ["normal_linear4", "normal_linear6", "normal_weighted6", "normal_depth_pca", "refine"]
    shown = [c for c in PLACES if c in evidence.conditions]
    for i, condition in enumerate(shown):
        rows = [evidence.mean_interval("normal_err_deg", arm, condition) for arm in arms]
        mean, low, high = np.array(rows, float).T
        place = np.arange(len(arms)) + 0.26 * (i - 1)
        bars = np.nan_to_num(np.stack([mean - low, high - mean]))
        normal_axis.bar(
            place, np.nan_to_num(mean), 0.24, yerr=bars, label=condition, color=["#0072b2", "#f0c419", "#999999"][i]
        )
    normal_axis.axhline(WRONG_BY, color="k", lw=0.8, ls=":")
    normal_axis.text(len(arms) - 0.5, WRONG_BY, "start of refine", ha="right", va="bottom", fontsize=8)
    normal_axis.set_xticks(range(len(arms)), [a.removeprefix("normal_").replace("_", " ") for a in arms], rotation=25)
    normal_axis.set(ylabel=evidence.label("normal_err_deg"), title="normals")
    for axis in (tilt_axis, error_axis, normal_axis):
        axis.legend(fontsize=7, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)

    shift, affine = (evidence.series("patches", arm, "stereo") for arm in ("translation", "affine"))
    if shift.size and affine.size:
        left, shifted, warped = shift[0][0], shift[0][1], affine[0][1]
        bottom.suptitle(
            "patches of the pair: left view; right view shifted; right view warped by the formula; differences",
            fontsize=10,
        )
        axes = bottom.subplots(2, 10, squeeze=False)
        for k in range(min(4, len(left))):
            start = 5 * (k % 2)
            pictures = [
                left[k],
                shifted[k],
                warped[k],
                _difference(shifted[k], left[k]),
                _difference(warped[k], left[k]),
            ]
            for j, (picture, title) in enumerate(
                zip(pictures, ["left", "shifted", "affine", "left − shifted", "left − affine"], strict=True)
            ):
                axis = axes[k // 2][start + j]
                signed = j >= 3
                axis.imshow(
                    picture,
                    cmap="RdBu" if signed else "gray",
                    vmin=-60 if signed else None,
                    vmax=60 if signed else None,
                )
                axis.set_title(title, fontsize=8)
                axis.set_axis_off()
    return fig


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Difference after matching brightness, which ZNCC does not see either."""
    scaled = (a - a.mean()) * (b.std() / max(a.std(), 1e-9)) + b.mean()
    return scaled - b


@study.apply
def apply(
    model: Path,
    out: Path = Path("affines.csv"),
    pair: tuple[str, str] | None = None,
    images: Path | None = None,
    points: str = "auto",
    depth: Path | None = None,
    inverse: Path | None = None,
    origin: Literal["corner", "centre"] = "corner",
    size: int = 21,
    limit: int = 2000,
) -> dict:
    """Affine maps of the patches around points, from two calibrated pictures; or normals from affine matches.

    Writes a table with one row a point: x1, y1, x2, y2, a11, a12, a21, a22, nx, ny, nz, s, zncc (the normal in the axes
    of the first camera and towards it), and beside it an .html with the patches. With --inverse the table holds
    x1, y1, x2, y2, nx, ny, nz, depth, residual, sd_deg instead, and an oriented point cloud .ply lies beside it.

    Args:
        model: COLMAP folder (.txt or .bin), KITTI calib.txt, or .json with K1, K2, R, t.
        out: the table to write (.csv); .html or .ply lie beside it.
        pair: the two pictures: names in the COLMAP model, paths otherwise.
        images: folder of the pictures of a COLMAP model.
        points: csv with the columns x1, y1; or auto: the model's own points, or a grid over the depth map.
        depth: depth map of the first picture, .npy or .tif (z), or KITTI disparity .png; else the model's 3D points.
        inverse: csv of affine matches x1, y1, x2, y2, a11, a12, a21, a22, from which normals and depths are found.
        origin: where (0, 0) is in points, matches and json: corner (COLMAP) or centre (OpenCV) of the first pixel.
        size: side of the patches in pixels, odd.
        limit: at most so many points are chosen by auto.
    """
    if size < 3 or size % 2 == 0:
        raise InputError(f"--size must be odd and at least 3; got {size}")
    if limit < 1:
        raise InputError(f"--limit must be at least 1; got {limit}")
    views = read_two_views(model, pair, images=images, depth=depth, centre_origin=origin == "centre")
    shift = 0.5 if origin == "centre" else 0.0
    if inverse is not None:
        return invert_matches(views, inverse, out, shift)
    return map_points(views, points, out, shift, size, limit)
