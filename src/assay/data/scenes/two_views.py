"""Two calibrated views from the files users have: a COLMAP model, a KITTI calibration, or a JSON of K1, K2, R, t."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.data.points.kitti_calib import read_kitti_calibration, read_kitti_disparity
from assay.data.scenes.colmap import find_model, read_colmap
from assay.errors import InputError
from assay.geometry.cameras import Camera, check_rotation


@dataclass(frozen=True)
class TwoViews:
    """Two cameras of one world, and what is known of the first view.

    Attributes:
        camera1, camera2: float64.
        image1, image2: `(H, W, 3)` in [0, 1], float64; None where no pictures were given.
        depth: z in camera 1, `(H, W)`, NaN where unknown; None without a map.
        sparse: 3D points that view 1 saw, in the world, `(M, 3)`; None where the source has none.
        keypoints: where view 1 saw them, `(M, 2)`; None likewise.
    """

    camera1: Camera
    camera2: Camera
    image1: Tensor | None = None
    image2: Tensor | None = None
    depth: Tensor | None = None
    sparse: Tensor | None = None
    keypoints: Tensor | None = None


def read_two_views(
    model: Path,
    pair: tuple[str, str] | None,
    *,
    images: Path | None = None,
    depth: Path | None = None,
    centre_origin: bool = False,
) -> TwoViews:
    """Read two views.

    Args:
        model: a COLMAP folder; a KITTI `calib.txt` (cameras 2 and 3, or 0 and 1); or a .json with `K1, K2, R, t` and,
            if there are no pictures, `width` and `height`.
        pair: the two pictures: names in the COLMAP model, else paths.
        images: folder of the pictures of a COLMAP model; beside the model when not given.
        depth: of view 1: .npy or .tif with z, or a KITTI disparity PNG.
        centre_origin: K of a .json counts from the centre of the first pixel (OpenCV), not from its corner.

    Raises:
        InputError: a file that is missing, of another format, or does not fit the others.
    """
    model = Path(model)
    if model.is_dir():
        views = _from_colmap(model, pair, images)
    elif model.suffix.lower() == ".json":
        views = _from_json(model, pair, centre_origin)
    elif model.is_file():
        views = _from_kitti(model, pair, depth)
    else:
        raise InputError(f"{model} is neither a COLMAP folder, nor a KITTI calib.txt, nor a .json with K1, K2, R, t")
    for name, image, camera in (("first", views.image1, views.camera1), ("second", views.image2, views.camera2)):
        if image is not None and image.shape[:2] != (camera.height, camera.width):
            found = f"{image.shape[1]}x{image.shape[0]}"
            raise InputError(f"the {name} picture has {found} pixels, its camera {camera.width}x{camera.height}")
    if depth is None:
        return views
    return TwoViews(**{**vars(views), "depth": _read_depth(depth, views)})


def read_picture(path: Path) -> Tensor:
    """A picture as `(H, W, 3)` float64 in [0, 1].

    Raises:
        InputError: the file is no picture.
    """
    from PIL import Image
    from skimage import color, util

    try:
        with Image.open(path) as file:
            image = np.asarray(file.convert("RGB") if file.mode in ("P", "CMYK", "YCbCr") else file)
    except FileNotFoundError as error:
        raise InputError(f"no such picture: {path}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture: {error}") from error
    if image.ndim == 2:
        image = color.gray2rgb(image)
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise InputError(f"{path}: expected a grey or colour picture, got an array of shape {image.shape}")
    return torch.from_numpy(util.img_as_float64(image[..., :3]).copy())


def _from_colmap(folder: Path, pair: tuple[str, str] | None, images: Path | None) -> TwoViews:
    if pair is None:
        raise InputError("name two pictures of the COLMAP model: --pair a.jpg b.jpg")
    model = read_colmap(folder)
    first, second = (model.image(name) for name in pair)
    if first.id == second.id:
        raise InputError(f"--pair names {first.name} twice")
    place = find_model(folder)
    looked = (
        [images]
        if images
        else [folder / "images", place / "images", place.parent / "images", place.parents[1] / "images", place]
    )
    root = next((p for p in looked if p is not None and p.is_dir() and _inside(p, first.name).is_file()), None)
    if images is not None and root is None:
        raise InputError(f"{images} does not hold {first.name}")
    pictures = [None, None] if root is None else [read_picture(_inside(root, i.name)) for i in (first, second)]
    known = np.flatnonzero(first.point_ids >= 0)
    order = np.argsort(model.points.ids)
    ids = model.points.ids[order]
    at = np.searchsorted(ids, first.point_ids[known])
    there = at < len(ids)
    there[there] = ids[at[there]] == first.point_ids[known][there]
    sparse = torch.from_numpy(model.points.xyz[order[at[there]]])
    keypoints = torch.from_numpy(first.keypoints[known[there]])
    return TwoViews(
        model.camera(first), model.camera(second), *pictures,
        sparse=sparse if len(sparse) else None, keypoints=keypoints if len(sparse) else None,
    )  # fmt: skip


def _inside(root: Path, name: str) -> Path:
    """The path of a picture named by a model, which must not lead out of its folder."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise InputError(f"the model names a picture outside its folder: {name!r}")
    return path


def _from_kitti(path: Path, pair: tuple[str, str] | None, depth: Path | None) -> TwoViews:
    calibration = read_kitti_calibration(path)
    numbers = (2, 3) if {2, 3} <= set(calibration.projections) else (0, 1)
    if pair is not None:
        pictures = [read_picture(Path(name)) for name in pair]
        height, width = pictures[0].shape[:2]
    elif depth is not None and depth.suffix.lower() == ".png":
        pictures = [None, None]
        height, width = read_kitti_disparity(depth).shape
    else:
        raise InputError(
            "a KITTI calibration has no picture size: give --pair LEFT RIGHT, or --depth with a disparity PNG"
        )
    first, second = (calibration.camera(number, width, height) for number in numbers)
    return TwoViews(first, second, *pictures)


def _from_json(path: Path, pair: tuple[str, str] | None, centre_origin: bool) -> TwoViews:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        K1, K2, R, t = (torch.tensor(given[name], dtype=torch.float64) for name in ("K1", "K2", "R", "t"))
        t = t.reshape(3)
        check_rotation(R)
        pictures = [None, None] if pair is None else [read_picture(Path(name)) for name in pair]
        sizes = [
            (int(given["width"]), int(given["height"])) if p is None else (p.shape[1], p.shape[0]) for p in pictures
        ]
        if centre_origin:
            half = torch.tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], dtype=torch.float64)
            K1, K2 = K1 + half, K2 + half
        eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        return TwoViews(Camera(eye, zero, K1, *sizes[0]), Camera(R, t, K2, *sizes[1]), *pictures)
    except KeyError as error:
        raise InputError(
            f"{path}: {error} is missing; expected K1, K2, R, t (and width, height without --pair)"
        ) from error
    except (TypeError, ValueError, RuntimeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a JSON of K1, K2, R, t: {error}") from error


def _read_depth(path: Path, views: TwoViews) -> Tensor:
    kind = path.suffix.lower()
    values: NDArray
    try:
        if kind == ".png":
            disparity = read_kitti_disparity(path)
            R, t = (
                views.camera2.R @ views.camera1.R.T,
                views.camera2.t - views.camera2.R @ views.camera1.R.T @ views.camera1.t,
            )
            if not torch.allclose(R, torch.eye(3, dtype=R.dtype), atol=1e-6) or float(t[1:].abs().max()) > 0.05 * float(
                -t[0]
            ):
                raise InputError(f"{path} is a disparity, which needs a rectified pair; these cameras are not")
            values = views.camera1.fx * -float(t[0]) / (disparity + views.camera2.cx - views.camera1.cx)
        elif kind == ".npy":
            values = np.load(path, allow_pickle=False)
        elif kind in (".tif", ".tiff"):
            import tifffile

            values = tifffile.imread(path)
        else:
            raise InputError(f"{path}: a depth map is .npy or .tif (z), or a KITTI disparity .png")
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a depth map: {error}") from error
    wanted = (views.camera1.height, views.camera1.width)
    if values.shape != wanted or values.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: expected numbers of shape {wanted}, as the first picture; got {values.dtype} {values.shape}"
        )
    values = values.astype(float)
    return torch.from_numpy(np.where(np.isfinite(values) & (values > 0), values, np.nan))


def planes_at(
    views: TwoViews, points: Tensor, *, neighbours: int = 12, max_residual: float = 0.05
) -> tuple[Tensor, Tensor]:
    """Depth and normal of the surface at points of view 1.

    From the depth map: depth by its nearest pixel, normal by a plane fit in a window of 15 pixels. Without a map: a
    plane is fitted to the nearest 3D points that view 1 saw (inverse depth is linear in the image on a plane), leaving
    out the one that fits worst.

    Args:
        points: `(N, 2)`, pixels.
        neighbours: how many 3D points a plane is fitted to.
        max_residual: largest root mean square of the relative error of 1/Z that still counts as a plane.

    Returns:
        z `(N,)` and unit normals in camera 1, away from it, `(N, 3)`; NaN where there is no plane.

    Raises:
        InputError: neither map nor 3D points, or fewer of them than `neighbours`.
    """
    if views.depth is not None:
        return _planes_of_map(views, points)
    if views.sparse is None or views.keypoints is None or len(views.sparse) < neighbours:
        found = 0 if views.sparse is None else len(views.sparse)
        raise InputError(f"the first picture sees {found} 3D points; {neighbours} are needed to find a surface")
    from scipy.spatial import cKDTree

    camera = views.camera1
    z = camera.to_camera(views.sparse)[:, 2]
    ahead = z > 0
    seen, z = camera.normalise(views.keypoints[ahead]), z[ahead]
    _, index = cKDTree(seen.numpy()).query(camera.normalise(points).numpy(), k=min(neighbours, len(seen)))
    index = torch.from_numpy(index)
    p = torch.cat([seen[index], torch.ones(*index.shape, 1, dtype=seen.dtype)], -1)
    inverse = 1 / z[index]
    m = (torch.linalg.pinv(p) @ inverse[..., None])[..., 0]
    off = ((p @ m[..., None])[..., 0] - inverse).abs()
    weights = torch.ones_like(off).scatter(1, off.argmax(1, keepdim=True), 0.0)
    m = (torch.linalg.pinv(p * weights[..., None]) @ (inverse * weights)[..., None])[..., 0]
    off = (((p @ m[..., None])[..., 0] - inverse) * weights).square().sum(1) / weights.sum(1)
    # Points along a line in the picture do not fix a plane.
    spread = torch.linalg.svdvals(p[..., :2] - p[..., :2].mean(1, keepdim=True))
    here = torch.cat([camera.normalise(points), torch.ones(len(points), 1, dtype=points.dtype)], -1)
    w = (m * here).sum(-1)
    good = (w > 0) & (off.sqrt() <= max_residual * inverse.mean(1)) & (spread[:, 1] > 0.05 * spread[:, 0])
    n = m / m.norm(dim=-1, keepdim=True)
    return torch.where(good, 1 / w, torch.nan), torch.where(good[:, None], n, torch.nan)


def _planes_of_map(views: TwoViews, points: Tensor) -> tuple[Tensor, Tensor]:
    from assay.data.stereo import plane_normals

    depth, camera = views.depth, views.camera1
    assert depth is not None
    normals, good = plane_normals(depth, camera.K)
    columns, rows = points.floor().long().unbind(-1)
    inside = (columns >= 0) & (rows >= 0) & (columns < camera.width) & (rows < camera.height)
    rows, columns = torch.where(inside, rows, 0), torch.where(inside, columns, 0)
    known = inside & good[rows, columns]
    n = torch.where(known[:, None], normals[rows, columns], torch.nan)
    return torch.where(known, depth[rows, columns], torch.nan), n
