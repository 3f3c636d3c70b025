"""KITTI calibration text files (object, odometry, stereo) and disparity PNGs.

KITTI counts image coordinates from the centre of the first pixel; the cameras made here count from its corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from assay.errors import InputError
from assay.geometry.cameras import Camera


@dataclass
class KittiCalibration:
    """Rectified cameras and the way from the lidar to them.

    Attributes:
        projections: camera number (0 to 3) -> P `(3, 4)` in pixels, from rectified camera-0 axes.
        rectification: R0_rect `(3, 3)`; identity where the file has none.
        lidar_to_camera: Tr_velo_to_cam `(3, 4)` into unrectified camera-0 axes, in metres; None where absent.
    """

    projections: dict[int, NDArray[np.float64]]
    rectification: NDArray[np.float64]
    lidar_to_camera: NDArray[np.float64] | None

    def camera(self, number: int, width: int, height: int) -> Camera:
        """Camera `number` with rectified camera-0 axes as the world, float64, metres.

        Raises:
            InputError: the file has no such camera.
        """
        if number not in self.projections:
            raise InputError(f"the calibration has no camera {number}; it has {sorted(self.projections)}")
        P = torch.from_numpy(self.projections[number])
        K = P[:, :3].clone()
        t = torch.linalg.solve(K, P[:, 3])
        K[:2, 2] += 0.5
        return Camera(torch.eye(3, dtype=torch.float64), t, K, width, height)

    def lidar_to_rectified(self) -> NDArray[np.float64]:
        """Lidar points to rectified camera-0 axes, `(3, 4)`.

        Raises:
            InputError: the file has no lidar pose.
        """
        if self.lidar_to_camera is None:
            raise InputError("the calibration has no Tr_velo_to_cam")
        return self.rectification @ self.lidar_to_camera


def read_kitti_calibration(path: Path) -> KittiCalibration:
    """Read `P0..P3` (object, odometry) or `P_rect_00..P_rect_03` (raw, stereo 2015 `calib_cam_to_cam`).

    Raises:
        InputError: no such file, a line that is not numbers, or no projection matrix at all.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a KITTI calibration: {error}") from error
    matrices: dict[str, NDArray[np.float64]] = {}
    for line in lines:
        key, _, values = line.partition(":")
        try:
            matrices[key.strip()] = np.array(values.split(), float)
        except ValueError:
            continue  # dates and other words
    projections = {}
    for number in range(4):
        P = matrices.get(f"P{number}", matrices.get(f"P_rect_0{number}"))
        if P is not None:
            if P.size != 12:
                raise InputError(f"{path}: the projection of camera {number} has {P.size} numbers; expected 12")
            projections[number] = P.reshape(3, 4)
    if not projections:
        raise InputError(f"{path} has no projection matrix: expected lines such as 'P2: ' with 12 numbers")
    rectification = next((matrices[k] for k in ("R0_rect", "R_rect", "R_rect_00") if k in matrices), np.eye(3))
    lidar = next((matrices[k] for k in ("Tr_velo_to_cam", "Tr_velo_cam", "Tr") if k in matrices), None)
    if rectification.size != 9 or (lidar is not None and lidar.size != 12):
        raise InputError(f"{path}: R0_rect needs 9 and Tr_velo_to_cam 12 numbers")
    return KittiCalibration(projections, rectification.reshape(3, 3), None if lidar is None else lidar.reshape(3, 4))


def read_kitti_disparity(path: Path) -> NDArray[np.float64]:
    """Disparity in pixels, `(H, W)`, NaN where the PNG holds 0 (no value). The file holds uint16 of 256 x disparity.

    Raises:
        InputError: not a 16-bit grey PNG.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            values = np.asarray(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a disparity PNG: {error}") from error
    if values.ndim != 2 or values.dtype not in (np.uint16, np.int32):
        raise InputError(f"{path}: a KITTI disparity is a 16-bit grey PNG; got {values.dtype} of shape {values.shape}")
    return np.where(values > 0, values / 256.0, np.nan)
