"""What `apply` of the affine maps does with two views: maps at points, or normals of matches, written to files."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from assay.data.image.patch_sheet import write_patch_sheet
from assay.data.points.columns import read_columns, write_columns
from assay.data.points.ply import write_oriented_points
from assay.data.scenes.two_views import TwoViews, planes_at
from assay.errors import InputError
from assay.geometry.cameras import homogeneous, relative_pose
from assay.geometry.patches import sample, warp_patch
from assay.methods.geometry3d.affine_cameras import affine_between, normal_covariance, normal_from_affine
from assay.metrics.image import zncc

MAP_COLUMNS = ("x1", "y1", "x2", "y2", "a11", "a12", "a21", "a22", "nx", "ny", "nz", "s", "zncc")
NORMAL_COLUMNS = ("x1", "y1", "x2", "y2", "nx", "ny", "nz", "depth", "residual", "sd_deg")
SD_AFFINE, SD_POINT = 0.02, 0.5  # assumed noise of a match: entries of A, and pixels of p2
SHOWN = 60  # rows of the contact sheet


def map_points(views: TwoViews, points: str, out: Path, shift: float, size: int, limit: int) -> dict:
    """Affine maps at points given as a table, or chosen; the table, and the patches beside it. Returns the counts."""
    camera1, camera2 = views.camera1, views.camera2
    R, t = relative_pose(camera1, camera2)
    if views.depth is None and views.sparse is None:
        raise InputError("no depth: give --depth, or a COLMAP model whose first picture sees 3D points")
    if points != "auto":
        p1 = read_columns(Path(points), ("x1", "y1")) + shift
    elif views.depth is not None:
        p1 = _grid_over(views, size, limit)
    else:
        p1 = views.keypoints[torch.linspace(0, len(views.keypoints) - 1, min(limit, len(views.keypoints))).long()]
    z, n = planes_at(views, p1)
    known = torch.isfinite(z)
    ray = homogeneous(camera1.normalise(p1))
    edge_on = known & ((n * ray).sum(-1).abs() < 1e-3)
    A, p2, s = affine_between(R, t, p1, n, depth=z, K1=camera1.K, K2=camera2.K, strict=False)
    inside = (s > 0) & (p2 > 0).all(-1) & (p2[:, 0] < camera2.width) & (p2[:, 1] < camera2.height)
    keep = known & ~edge_on & inside
    skipped = {
        "no depth or no plane at the point": int((~known).sum()),
        "seen edge-on": int(edge_on.sum()),
        "outside the second picture": int((known & ~edge_on & ~inside).sum()),
    }
    if not bool(keep.any()):
        raise InputError(f"none of {len(p1)} points could be used: {_counted(skipped)}")
    p1, p2, A, n, s = p1[keep], p2[keep], A[keep], n[keep], s[keep]
    score = torch.full((len(p1),), torch.nan, dtype=p1.dtype)
    result: dict = {"points": len(p1), "skipped": {why: count for why, count in skipped.items() if count}}
    if views.image1 is not None and views.image2 is not None:
        grey1, grey2 = (image.mean(-1)[None] for image in (views.image1, views.image2))
        eye = torch.eye(2, dtype=p1.dtype)
        patches = [
            warp_patch(grey, p, a, size)[:, 0] for grey, p, a in ((grey1, p1, eye), (grey2, p2, eye), (grey2, p2, A))
        ]
        plain, score = zncc(patches[0], patches[1]), zncc(patches[0], patches[2])
        result |= {"zncc shifted": round(float(plain.mean()), 4), "zncc affine": round(float(score.mean()), 4)}
        captions = [
            f"({x:.1f}, {y:.1f}): ZNCC {a:.3f} shifted, {b:.3f} affine"
            for (x, y), a, b in zip((p1 - shift).tolist(), plain.tolist(), score.tolist(), strict=True)
        ]
        shown = torch.linspace(0, len(p1) - 1, min(SHOWN, len(p1))).long().tolist()
        write_patch_sheet(
            out.with_suffix(".html"),
            "Patches in two views",
            f"{len(shown)} of {len(p1)} points: the first view, the second shifted, the second under the affine map.",
            ("first", "second, shifted", "second, affine"),
            [(captions[i], [p[i].numpy() for p in patches]) for i in shown],
        )
    table = torch.cat([p1 - shift, p2 - shift, A.flatten(1), -n, s[:, None], score[:, None]], 1)
    write_columns(out, MAP_COLUMNS, table)
    return result


def invert_matches(views: TwoViews, matches: Path, out: Path, shift: float) -> dict:
    """Normals and depths of affine matches; the table, and an oriented point cloud beside it. Returns the counts."""
    camera1, camera2 = views.camera1, views.camera2
    R, t = relative_pose(camera1, camera2)
    if float(t.norm()) == 0:
        raise InputError(
            "the two cameras stand in one place: without a baseline an affine match says nothing of the normal"
        )
    table = read_columns(matches, ("x1", "y1", "x2", "y2", "a11", "a12", "a21", "a22"))
    p1, p2, A = table[:, :2] + shift, table[:, 2:4] + shift, table[:, 4:].reshape(-1, 2, 2)
    K = {"K1": camera1.K, "K2": camera2.K}
    noise = torch.diag(torch.tensor([SD_AFFINE] * 4 + [SD_POINT] * 2, dtype=A.dtype) ** 2)
    plane = normal_from_affine(A, R, t, p1, p2, covariance=noise, strict=False, **K)
    spread = normal_covariance(A, R, t, p1, p2, noise, **K).diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    z = plane.depth(camera1.normalise(p1))
    ray2 = homogeneous(camera2.normalise(p2))
    sine = torch.linalg.cross(t.expand_as(ray2), ray2).norm(dim=-1) / (t.norm() * ray2.norm(dim=-1))
    good = torch.isfinite(plane.n).all(-1) & torch.isfinite(z) & (z > 0) & (sine > 1e-4)
    good &= camera2.project(camera1.unproject(p1, torch.where(good, z, 1.0)))[1] > 0
    if not bool(good.any()):
        raise InputError(f"none of the {len(table)} matches gives a surface in front of both cameras")
    p1, p2, n, z, spread = p1[good], p2[good], plane.n[good], z[good], spread[good]
    columns = [p1 - shift, p2 - shift, -n, z[:, None], plane.residual[good, None], torch.rad2deg(spread)[:, None]]
    write_columns(out, NORMAL_COLUMNS, torch.cat(columns, 1))
    colours = None
    if views.image1 is not None:
        values = sample(views.image1.permute(2, 0, 1), p1[:, None, None])[:, :, 0, 0]
        colours = (values.clamp(0, 1) * 255).round().byte().numpy()
    world, normals = camera1.unproject(p1, z), -n @ camera1.R
    write_oriented_points(out.with_suffix(".ply"), world.numpy(), normals.numpy(), colours)
    return {
        "normals": len(p1),
        "skipped": int((~good).sum()),
        "median predicted error (deg)": round(float(torch.rad2deg(spread).median()), 2),
    }


def _grid_over(views: TwoViews, size: int, limit: int) -> Tensor:
    """Pixel centres on a grid over the known depths, at most `limit`."""
    rows, columns = torch.isfinite(views.depth).nonzero().T
    step = max(1, int((len(rows) / limit) ** 0.5))
    on_grid = (rows % step == step // 2) & (columns % step == step // 2)
    p1 = torch.stack([columns[on_grid], rows[on_grid]], -1).double() + 0.5
    half = size / 2
    inside = (p1 > half).all(-1) & (p1[:, 0] < views.camera1.width - half) & (p1[:, 1] < views.camera1.height - half)
    return p1[inside][:limit]


def _counted(skipped: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in skipped.items() if count)
