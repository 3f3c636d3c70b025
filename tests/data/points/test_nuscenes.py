"""nuScenes tables: a made release of two poses, and the real key frame."""

import json

import numpy as np
import pytest
import torch

from assay.data.points.nuscenes import DETECTION_CLASSES, NuScenes, detection_class, quaternion_matrix
from assay.data.samples import locate
from assay.errors import InputError
from assay.geometry.boxes3d import points_in_boxes

REAL = locate("nuscenes-mini-sample")


def release(root, lidar_file="samples/LIDAR_TOP/a.pcd.bin"):
    tables = root / "v1.0-mini"
    tables.mkdir()
    quarter = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)]  # 90 degrees about z
    write = {
        "sample": [{"token": "s", "timestamp": 1}],
        "sensor": [{"token": "l", "channel": "LIDAR_TOP"}, {"token": "c", "channel": "CAM_FRONT"}],
        "calibrated_sensor": [
            {"token": "cl", "sensor_token": "l", "translation": [1, 0, 2], "rotation": [1, 0, 0, 0],
             "camera_intrinsic": []},
            {"token": "cc", "sensor_token": "c", "translation": [0, 0, 1], "rotation": [1, 0, 0, 0],
             "camera_intrinsic": [[10, 0, 5], [0, 10, 5], [0, 0, 1]]},
        ],
        "ego_pose": [{"token": "e", "translation": [100, 50, 0], "rotation": quarter},
                     {"token": "f", "translation": [100, 51, 0], "rotation": quarter}],
        "sample_data": [
            {"token": "d1", "sample_token": "s", "ego_pose_token": "e", "calibrated_sensor_token": "cl",
             "is_key_frame": True, "filename": lidar_file, "height": 0, "width": 0},
            {"token": "d2", "sample_token": "s", "ego_pose_token": "f", "calibrated_sensor_token": "cc",
             "is_key_frame": True, "filename": "samples/CAM_FRONT/a.jpg", "height": 10, "width": 10},
        ],
        "sample_annotation": [
            {"token": "a", "sample_token": "s", "instance_token": "i", "translation": [100, 61, 2], "size": [2, 4, 1.5],
             "rotation": quarter, "num_lidar_pts": 3}
        ],
        "instance": [{"token": "i", "category_token": "k"}],
        "category": [{"token": "k", "name": "vehicle.car"}],
    }  # fmt: skip
    for name, rows in write.items():
        (tables / f"{name}.json").write_text(json.dumps(rows))
    (root / "samples" / "LIDAR_TOP").mkdir(parents=True)
    np.arange(15, dtype="<f4").tofile(root / "samples" / "LIDAR_TOP" / "a.pcd.bin")


def test_boxes_and_cameras_in_lidar_axes(tmp_path):
    release(tmp_path)
    frame = NuScenes(tmp_path).frame("s")
    assert frame.points.shape == (3, 5)
    # The car looks along world +y; the object is 11 m ahead of it, 10 m ahead of the lidar, at the lidar's height.
    assert frame.boxes[0] == pytest.approx([10, 0, 0, 4, 2, 1.5, 0])
    assert detection_class(str(frame.categories[0])) == "car"
    camera = frame.cameras["CAM_FRONT"]
    # The car drove one metre ahead between the exposures: the camera, 1 m behind the lidar, is level with it.
    np.testing.assert_allclose(camera.lidar_to_cam[:3, 3], [0, 0, 1], atol=1e-9)
    assert camera.image_size == (10, 10)


def test_files_outside_the_folder_and_missing_tables_are_refused(tmp_path):
    release(tmp_path, lidar_file="../../secret.bin")
    with pytest.raises(InputError, match="outside"):
        NuScenes(tmp_path).frame("s")
    with pytest.raises(InputError, match="key frame"):
        NuScenes(tmp_path).frame("unknown")
    with pytest.raises(InputError, match="none"):
        NuScenes(tmp_path / "v1.0-mini")
    with pytest.raises(InputError, match=r"v1\.0-mini"):
        NuScenes(tmp_path, "v1.0-trainval")


def test_quaternion_turns_as_expected():
    np.testing.assert_allclose(quaternion_matrix([2, 0, 0, 2]) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    with pytest.raises(ValueError, match="four"):
        quaternion_matrix([0, 0, 0, 0])


@pytest.mark.skipif(REAL is None, reason="no nuScenes sample here")
def test_real_boxes_hold_the_counted_points():
    release = NuScenes(REAL)
    frame = release.frame(release.tokens[0])
    assert len(frame.cameras) == 6
    assert all(camera.path.is_file() for camera in frame.cameras.values())
    assert {detection_class(str(c)) for c in frame.categories} <= set(DETECTION_CLASSES)
    counted = points_in_boxes(torch.from_numpy(frame.points[:, :3]).double(), torch.from_numpy(frame.boxes)).sum(0)
    assert np.corrcoef(counted.numpy(), frame.lidar_points)[0, 1] > 0.99
