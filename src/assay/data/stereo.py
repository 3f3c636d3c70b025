"""Rectified stereo pairs with true disparity: the motorcycle of scikit-image, and Middlebury or ETH3D folders."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import InputError
from assay.geometry.cameras import Camera


@dataclass(frozen=True)
class StereoPair:
    """Two rectified pictures; the world is camera 1. All tensors float64.

    Attributes:
        name: of the scene.
        image1, image2: left and right, `(H, W, 3)`, 0 to 1.
        camera1, camera2: pinhole cameras; lengths in the unit of the calibration (millimetres).
        disparity: column left minus column right, pixels, `(H, W)`; NaN where unknown.
        seen: whether the left pixel is known to be seen on the right (not hidden, inside the picture), `(H, W)`.
    """

    name: str
    image1: Tensor
    image2: Tensor
    camera1: Camera
    camera2: Camera
    disparity: Tensor
    seen: Tensor

    @property
    def depth(self) -> Tensor:
        """z of the left pixels, `(H, W)`; NaN where unknown."""
        baseline = -float(self.camera2.t[0])
        offset = self.camera2.cx - self.camera1.cx
        return self.camera1.fx * baseline / (self.disparity + offset)


@lru_cache(maxsize=1)
def motorcycle() -> StereoPair:
    """The motorcycle of Middlebury 2014, as scikit-image ships it (500 x 741, depth in millimetres).

    Credit: D. Scharstein et al., High-resolution stereo datasets with subpixel-accurate ground truth, GCPR 2014.
    """
    from skimage import data

    left, right, disparity = data.stereo_motorcycle()
    K1 = np.array([[994.978, 0, 311.193], [0, 994.978, 254.877], [0, 0, 1]])
    K2 = K1 + np.array([[0, 0, 31.086], [0, 0, 0], [0, 0, 0]])
    return _pair("motorcycle", left, right, disparity, K1, K2, 193.001)


def read_stereo_folder(folder: Path) -> StereoPair:
    """A scene of Middlebury 2014 or ETH3D two-view: `im0.png, im1.png, calib.txt`, and `disp0GT.pfm` or `disp0.pfm`.

    `mask0nocc.png` (255: seen in both) is used where it is there.

    Raises:
        InputError: a file that is missing or not in its format.
    """
    from skimage.io import imread

    folder = Path(folder)
    truth = next((folder / name for name in ("disp0GT.pfm", "disp0.pfm") if (folder / name).is_file()), None)
    missing = [name for name in ("im0.png", "im1.png", "calib.txt") if not (folder / name).is_file()]
    if missing or truth is None:
        raise InputError(f"{folder} is no stereo scene: missing {', '.join(missing) or 'disp0GT.pfm or disp0.pfm'}")
    calibration = read_middlebury_calibration(folder / "calib.txt")
    left, right, disparity = imread(folder / "im0.png"), imread(folder / "im1.png"), read_pfm(truth)
    if left.shape[:2] != disparity.shape or right.shape[:2] != disparity.shape:
        raise InputError(
            f"{folder}: pictures {left.shape}, {right.shape} and disparity {disparity.shape} differ in size"
        )
    pair = _pair(folder.name, left, right, disparity, *calibration)
    mask = folder / "mask0nocc.png"
    if not mask.is_file():
        return pair
    seen = pair.seen & torch.from_numpy(imread(mask) == 255)
    return StereoPair(**{**vars(pair), "seen": seen})


def read_middlebury_calibration(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """K of both cameras (counted from pixel centres, as in the file) and the baseline, in the file's unit.

    Raises:
        InputError: `cam0`, `cam1` or `baseline` missing or not numbers.
    """
    try:
        values = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
        K1, K2 = (
            np.array(re.split(r"[;\s]+", values[c].strip().strip("[]")), float).reshape(3, 3) for c in ("cam0", "cam1")
        )
        return K1, K2, float(values["baseline"])
    except KeyError as error:
        raise InputError(f"{path}: {error} is missing from the calibration") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a Middlebury calibration: {error}") from error


def read_pfm(path: Path) -> NDArray[np.float32]:
    """A one-channel .pfm picture, top row first, `(H, W)`; infinite values mean unknown.

    Raises:
        InputError: not such a file, or one that is cut off.
    """
    data = Path(path).read_bytes()
    head = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.eE+-]+)\s", data)
    if head is None:
        raise InputError(f"{path} is not a one-channel PFM file (it must begin with 'Pf', width, height and scale)")
    width, height, scale = int(head[1]), int(head[2]), float(head[3])
    if len(data) - head.end() < 4 * width * height:
        raise InputError(f"{path} is cut off: {width}x{height} values are announced")
    values = np.frombuffer(data, "<f4" if scale < 0 else ">f4", width * height, head.end())
    return values.reshape(height, width)[::-1].astype(np.float32)


def write_pfm(path: Path, values: NDArray[np.float32]) -> None:
    """Write a one-channel .pfm picture `(H, W)`."""
    height, width = values.shape
    Path(path).write_bytes(b"Pf\n%d %d\n-1\n" % (width, height) + values[::-1].astype("<f4").tobytes())


def plane_normals(depth: Tensor, K: Tensor, *, window: int = 15, max_residual: float = 0.01) -> tuple[Tensor, Tensor]:
    """Surface normals of a depth map by a plane fit in every window.

    On a plane the inverse depth is linear in the image, `1/Z = mᵀp` with `m = n/d`; the fit is the least-squares m.

    Args:
        depth: z `(H, W)`, NaN or infinite where unknown.
        K: intrinsics in pixels, `(3, 3)`.
        window: side of the window, odd.
        max_residual: largest root mean square of the relative error of 1/Z; above it there is no plane.

    Returns:
        normals `(H, W, 3)`, unit, in camera axes, pointing away from the camera (positive along the ray); and whether
        the fit is good: every depth in the window known, and the residual small, `(H, W)`.
    """
    height, width = depth.shape
    known = torch.isfinite(depth) & (depth > 0)
    inverse = torch.where(known, 1 / depth, 0.0).double()
    weights = known.double()
    half = window // 2

    def total(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[None, None], window, 1, half, count_include_pad=True)[0, 0] * window**2

    # Offsets from the window's middle would differ from pixel to pixel: sum about fixed axes, then move the origin.
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    count, full = total(weights), window**2
    good = (count > full - 0.5) & (y >= half) & (y < height - half) & (x >= half) & (x < width - half)
    spread = window * window * (window * window - 1) / 12  # sum of squared offsets over a full window
    mean = total(inverse) / full
    slope_x = (total(inverse * x) - x * total(inverse)) / spread
    slope_y = (total(inverse * y) - y * total(inverse)) / spread
    variance = total(inverse**2) / full - mean**2 - (slope_x**2 + slope_y**2) * spread / full
    residual = variance.clamp(min=0).sqrt() / mean.clamp(min=1e-300)
    # mᵀp with p = K⁻¹ (x + 1/2, y + 1/2, 1): the row vector (slope_x, slope_y, rest) K = mᵀ
    rest = mean - slope_x * (x + 0.5) - slope_y * (y + 0.5)
    m = torch.stack([slope_x, slope_y, rest], -1) @ K.double()
    normals = m / m.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return normals, good & (residual <= max_residual)


def _pair(name, left, right, disparity, K1, K2, baseline) -> StereoPair:
    from skimage import color, util

    images = []
    for image in (left, right):
        image = util.img_as_float(image)
        images.append(torch.from_numpy(color.gray2rgb(image) if image.ndim == 2 else image[..., :3].copy()))
    height, width = disparity.shape
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    eye, zero = torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    shift = torch.tensor([-baseline, 0, 0], dtype=torch.float64)
    camera1 = Camera(eye, zero, torch.from_numpy(K1 + half), width, height)
    camera2 = Camera(eye, shift, torch.from_numpy(K2 + half), width, height)
    disparity = torch.from_numpy(np.where(np.isfinite(disparity), disparity, np.nan).astype(float))
    return StereoPair(name, images[0], images[1], camera1, camera2, disparity, _seen_on_the_right(disparity))


def _seen_on_the_right(disparity: Tensor, tolerance: float = 1.0) -> Tensor:
    """Left pixels whose column on the right is inside the picture and not taken by something nearer."""
    height, width = disparity.shape
    known = torch.isfinite(disparity)
    value = torch.where(known, disparity, -torch.inf)
    column = torch.arange(width).double() - torch.where(known, disparity, 0.0)
    inside = known & (column >= 0) & (column <= width - 1)
    nearest = torch.full((height, width), -torch.inf, dtype=torch.float64)
    for target in (column.floor(), column.ceil()):
        index = torch.where(inside, target, 0).long()
        nearest = nearest.scatter_reduce(1, index, torch.where(inside, value, -torch.inf), "amax")
    back = nearest.gather(1, torch.where(inside, column.round(), 0).long())
    return inside & (value >= back - tolerance)
