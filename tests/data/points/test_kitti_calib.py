"""KITTI calibrations: the documented lines, a real frame, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.io import imsave

from assay.data.points.kitti_calib import read_kitti_calibration, read_kitti_disparity
from assay.data.samples import locate
from assay.errors import InputError

TEXT = "P0: 700 0 600 0 0 700 180 0 0 0 1 0\nP1: 700 0 600 -350 0 700 180 0 0 0 1 0\n"


def test_cameras_project_as_the_matrices_do(tmp_path):
    (tmp_path / "calib.txt").write_text(TEXT)
    calibration = read_kitti_calibration(tmp_path / "calib.txt")
    right = calibration.camera(1, 1242, 375)
    assert right.t.tolist() == pytest.approx([-0.5, 0, 0])
    point = torch.tensor([1.0, 2, 10, 1], dtype=torch.float64)
    image = torch.from_numpy(calibration.projections[1]) @ point
    assert torch.allclose(right.project(point[:3])[0], image[:2] / image[2] + 0.5)
    with pytest.raises(InputError, match="no camera 2"):
        calibration.camera(2, 10, 10)
    with pytest.raises(InputError, match="Tr_velo_to_cam"):
        calibration.lidar_to_rectified()


def test_raw_layout(tmp_path):
    text = (
        "calib_time: 09-Jan-2012 13:57:47\nP_rect_02: 700 0 600 40 0 700 180 0 0 0 1 0\nR_rect_00: 1 0 0 0 1 0 0 0 1\n"
    )
    (tmp_path / "calib_cam_to_cam.txt").write_text(text)
    assert list(read_kitti_calibration(tmp_path / "calib_cam_to_cam.txt").projections) == [2]


def test_lidar_points_fall_into_the_picture():
    folder = locate("kitti-object")
    if folder is None:
        pytest.skip("sample set kitti-object is not here")
    calibration = read_kitti_calibration(folder / "training/calib/000000.txt")
    points = np.fromfile(folder / "training/velodyne/000000.bin", np.float32).reshape(-1, 4)[:, :3].astype(float)
    camera = calibration.camera(2, 1224, 370)
    T = torch.from_numpy(calibration.lidar_to_rectified())
    pixels, depth = camera.project(torch.from_numpy(points) @ T[:, :3].T + T[:, 3])
    ahead = (depth > 0) & (pixels[:, 0] > 0) & (pixels[:, 0] < 1224) & (pixels[:, 1] > 0) & (pixels[:, 1] < 370)
    assert int(ahead.sum()) > 5000
    assert float((pixels[ahead, 1] > 150).double().mean()) > 0.9  # the lidar sees little above the horizon


@pytest.mark.parametrize(
    ("text", "message"),
    [("hello", "no projection matrix"), ("P0: 1 2 3", "3 numbers"), (TEXT + "R0_rect: 1 2", "R0_rect needs 9")],
)
def test_what_is_refused(tmp_path, text, message):
    (tmp_path / "calib.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_kitti_calibration(tmp_path / "calib.txt")


def test_disparity(tmp_path):
    imsave(tmp_path / "d.png", np.array([[0, 256, 384]] * 3, np.uint16), check_contrast=False)
    disparity = read_kitti_disparity(tmp_path / "d.png")
    assert np.isnan(disparity[0, 0])
    assert disparity[0, 1:].tolist() == [1, 1.5]
    imsave(tmp_path / "e.png", np.zeros((3, 3), np.uint8), check_contrast=False)
    with pytest.raises(InputError, match="16-bit"):
        read_kitti_disparity(tmp_path / "e.png")
    (tmp_path / "f.png").write_text("no picture")
    with pytest.raises(InputError, match="cannot be read"):
        read_kitti_disparity(tmp_path / "f.png")
