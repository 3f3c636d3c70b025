"""KITTI object files: written and read back, boxes there and back, real frames."""

import numpy as np
import pytest

from assay.data.points import kitti
from assay.data.points.kitti_calib import KittiCalibration, read_kitti_calibration
from assay.data.samples import locate
from assay.errors import InputError

REAL = locate("kitti-object")
LINE = "Car 0.10 1 1.85 387.6 181.5 423.8 203.1 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"


def calibration(tilt=0.02):
    c, s = np.cos(tilt), np.sin(tilt)
    axes = np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return KittiCalibration({2: np.eye(3, 4)}, np.eye(3), np.concatenate([axes, [[0.1], [-0.2], [0.3]]], 1))


def test_a_label_line_word_by_word(tmp_path):
    path = tmp_path / "000001.txt"
    path.write_text("")
    assert len(kitti.read_objects(path)) == 0
    path.write_text(LINE + "\n" + "DontCare -1 -1 -10 1 2 3 4 -1 -1 -1 -1000 -1000 -1000 -10\n")
    objects = kitti.read_objects(path)
    assert objects.types.tolist() == ["Car", "DontCare"]
    assert objects.rects[0].tolist() == [387.6, 181.5, 423.8, 203.1]
    assert objects.sizes[0].tolist() == [1.67, 1.87, 3.69]
    assert (objects.truncated[0], objects.occluded[0], objects.rotation_y[0]) == (0.1, 1.0, 1.57)
    assert objects.scores is None
    kept = objects.select(objects.types == "Car")
    assert len(kept) == 1


def test_an_untilted_car_ahead_has_the_expected_box():
    objects = kitti.KittiObjects(
        np.array(["Car"]), *np.zeros((3, 1)), np.zeros((1, 4)), np.array([[1.5, 1.6, 4.0]]),
        np.array([[2.0, 1.0, 20.0]]), np.array([-np.pi / 2]),
    )  # fmt: skip
    box = objects.lidar_boxes(calibration(0.0))[0]
    # camera x right, y down, z ahead; lidar x ahead, y left, z up; camera = axes @ lidar + (0.1, -0.2, 0.3)
    assert box == pytest.approx([20.0 - 0.3, -(2.0 - 0.1), -(1.0 - 0.75 + 0.2), 4.0, 1.6, 1.5, 0.0])


def test_boxes_come_back_through_lidar_and_files(tmp_path):
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.normal(0, 10, (20, 3)), rng.uniform(0.5, 4, (20, 3)), rng.uniform(-3, 3, (20, 1))], 1)
    objects = kitti.objects_from_lidar(["Car"] * 20, boxes, np.zeros((20, 4)), rng.random(20), calibration(0.0))
    path = tmp_path / "0.txt"
    kitti.write_objects(path, objects)
    again = kitti.read_objects(path)
    np.testing.assert_allclose(again.lidar_boxes(calibration(0.0)), boxes, atol=2e-4)
    np.testing.assert_allclose(again.scores, objects.scores, atol=1e-6)
    assert bool((np.abs(again.alpha) <= np.pi).all())


@pytest.mark.parametrize(
    "text", ["Car 1 2 3\n", LINE + "\n" + LINE + " 0.5\n", LINE.replace("58.49", "far"), LINE[:-4] + "nan"]
)
def test_bad_object_files_are_told_in_one_line(tmp_path, text):
    path = tmp_path / "x.txt"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        kitti.read_objects(path)
    assert "x.txt" in str(error.value)
    assert "\n" not in str(error.value)


def test_velodyne(tmp_path):
    scan = np.arange(12, dtype="<f4").reshape(3, 4)
    scan.tofile(tmp_path / "a.bin")
    np.testing.assert_array_equal(kitti.read_velodyne(tmp_path / "a.bin"), scan)
    (tmp_path / "b.bin").write_bytes(b"123")
    for name in ("b.bin", "missing.bin"):
        with pytest.raises(InputError, match=name):
            kitti.read_velodyne(tmp_path / name)


def test_splits_and_folders(tmp_path):
    (tmp_path / "val.txt").write_text("000001\n000007\n")
    assert kitti.read_split(tmp_path / "val.txt") == ["000001", "000007"]
    (tmp_path / "bad.txt").write_text("../../etc/passwd\n")
    with pytest.raises(InputError, match="frame id"):
        kitti.read_split(tmp_path / "bad.txt")
    with pytest.raises(InputError, match="calib"):
        kitti.object_folder(tmp_path)
    with pytest.raises(InputError, match="folder"):
        kitti.frame_ids(tmp_path / "nowhere")
    assert kitti.frame_ids(tmp_path) == ["bad", "val"]


@pytest.mark.skipif(REAL is None, reason="no KITTI sample here")
def test_real_boxes_hold_their_points_and_project_onto_their_rectangles():
    import torch

    from assay.geometry.boxes3d import points_in_boxes
    from assay.geometry.lidar_camera import Calibration, project_boxes
    from assay.metrics.boxes import box_iou

    folder = kitti.object_folder(REAL)
    checked = 0
    for frame in kitti.read_split(REAL / "ImageSets" / "trainval.txt"):
        files = read_kitti_calibration(folder / "calib" / f"{frame}.txt")
        objects = kitti.read_objects(folder / "label_2" / f"{frame}.txt")
        near = objects.select(
            (objects.types != "DontCare") & (objects.locations[:, 2] < 45) & (objects.truncated < 0.2)
        )
        boxes = torch.from_numpy(near.lidar_boxes(files))
        points = torch.from_numpy(kitti.read_velodyne(folder / "velodyne" / f"{frame}.bin")).double()
        assert bool((points_in_boxes(points, boxes).sum(0) > 20).all())
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = torch.from_numpy(files.lidar_to_rectified())
        rects, seen = project_boxes(boxes, Calibration(torch.from_numpy(files.projections[2]), pose, (375, 1242)))
        assert bool(seen.all())
        assert bool((box_iou(rects, torch.from_numpy(near.rects), paired=True) > 0.75).all())
        checked += len(near)
        back = kitti.objects_from_lidar(near.types, boxes.numpy(), near.rects, None, files)
        np.testing.assert_allclose(back.locations, near.locations, atol=1e-6)
        np.testing.assert_allclose(back.rotation_y, near.rotation_y, atol=2e-3)
    assert checked >= 5
