"""Applied to KITTI folders: real frames in, result files and a picture out; a made folder for training and errors."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from assay.data.points import kitti
from assay.data.points.kitti_calib import read_kitti_calibration
from assay.data.samples import locate
from assay.data.scenes import street
from assay.errors import InputError, MissingExtra
from assay.geometry.boxes3d import box3d_iou
from assay.studies.driving import _late_cascade_kitti as kitti_fusion
from assay.studies.driving import late_cascade_fusion as study

REAL = locate("kitti-object")


def made_folder(root, frames=3):
    """A KITTI object folder of simulated streets, and perfect results of both detectors."""
    camera = street.StreetCamera()
    P, T = camera.matrices()
    folder = root / "training"
    for name in ("velodyne", "calib", "image_2", "label_2"):
        (folder / name).mkdir(parents=True)
    (root / "lidar").mkdir()
    (root / "image").mkdir()
    for k in range(frames):
        frame = f"{k:06d}"
        scene = street.make_street(k + 1)
        scan, view = street.scan_street(scene), street.photograph(scene)
        scan.points.tofile(folder / "velodyne" / f"{frame}.bin")
        numbers = {"P2": P, "R0_rect": np.eye(3), "Tr_velo_to_cam": T[:3]}
        text = "".join(f"{name}: {' '.join(f'{x:.12e}' for x in M.ravel())}\n" for name, M in numbers.items())
        (folder / "calib" / f"{frame}.txt").write_text(text)
        Image.fromarray((view.image.transpose(1, 2, 0) * 255).astype(np.uint8)).save(
            folder / "image_2" / f"{frame}.png"
        )
        seen = (scan.hits >= 5) & (view.visible > 0.2)
        types = np.array([study.CLASSES[label] for label in scene.labels[seen]])
        calib = read_kitti_calibration(folder / "calib" / f"{frame}.txt")
        objects = kitti.objects_from_lidar(types, scene.boxes[seen], view.rects[seen], None, calib)
        kitti.write_objects(folder / "label_2" / f"{frame}.txt", objects)
        objects.scores = np.full(len(objects), 0.9)
        kitti.write_objects(root / "image" / f"{frame}.txt", objects)
        kitti.write_objects(root / "lidar" / f"{frame}.txt", objects.select(np.arange(len(objects)) % 3 > 0))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_folder(tmp_path_factory.mktemp("kitti"))


def read_sources(out):
    with (out / "sources.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.skipif(REAL is None, reason="no KITTI sample here")
def test_real_frames_in_result_files_and_pictures_out(tmp_path):
    folder = kitti.object_folder(REAL)
    for name in ("lidar", "image"):
        (tmp_path / name).mkdir()
    true = {}
    for frame in kitti.read_split(REAL / "ImageSets" / "trainval.txt"):
        objects = kitti.read_objects(folder / "label_2" / f"{frame}.txt")
        objects = objects.select(np.isin(objects.types, study.CLASSES) & (objects.locations[:, 2] < 40))
        objects.scores = np.full(len(objects), 0.8)
        true[frame] = objects
        kitti.write_objects(tmp_path / "image" / f"{frame}.txt", objects)
        ghost = objects.select([0] * min(len(objects), 1))
        ghost.locations = ghost.locations + np.array([3.0, 0, 6.0])
        parts = [o.lidar_boxes(read_kitti_calibration(folder / "calib" / f"{frame}.txt")) for o in (objects, ghost)]
        both = kitti.objects_from_lidar(
            [*objects.types, *ghost.types], np.concatenate(parts), np.zeros((len(objects) + len(ghost), 4)),
            [0.8] * len(objects) + [0.7] * len(ghost), read_kitti_calibration(folder / "calib" / f"{frame}.txt"),
        )  # fmt: skip
        kitti.write_objects(tmp_path / "lidar" / f"{frame}.txt", both)
    out = tmp_path / "fused"
    report = study.apply(REAL, tmp_path / "lidar", tmp_path / "image", out)
    assert report["frames"] == 3
    for frame, objects in true.items():
        found = kitti.read_objects(out / "data" / f"{frame}.txt")
        assert len(found) == len(objects)  # the ghosts are gone, what the camera confirmed is there
        files = read_kitti_calibration(folder / "calib" / f"{frame}.txt")
        iou = box3d_iou(torch.from_numpy(found.lidar_boxes(files)), torch.from_numpy(objects.lidar_boxes(files)))
        assert not len(objects) or bool((iou.amax(0) > 0.99).all())
        picture = np.array(Image.open(out / "overlay" / f"{frame}.png")).astype(int)
        original = np.array(Image.open(folder / "image_2" / f"{frame}.png").convert("RGB")).astype(int)
        assert picture.shape == original.shape
        assert not len(objects) or (np.abs(picture - original).sum(-1) > 0).sum() > 200
    assert {row["source"] for row in read_sources(out)} == {"matched"}


def test_training_recovers_what_the_lidar_results_lack(made, tmp_path, monkeypatch):
    monkeypatch.setattr(kitti_fusion, "LEAST_OBJECTS", 5)
    out = tmp_path / "fused"
    report = study.apply(made, made / "lidar", made / "image", out, train=True, backbone="pointnet", steps=40)
    assert report["localizer"] == "trained"
    assert report["recovered"] > 0
    assert report["matched"] > 0
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["paper"] == "2601.09812"
    again = tmp_path / "again"
    second = study.apply(made, made / "lidar", made / "image", again, model=out / "model", draw=False)
    assert second["recovered"] == report["recovered"]
    for frame in kitti.frame_ids(out / "data"):
        assert (again / "data" / f"{frame}.txt").read_text() == (out / "data" / f"{frame}.txt").read_text()
    assert not (again / "overlay").exists()
    assert {"matched", "recovered"} == {row["source"] for row in read_sources(out)}


def test_too_few_labels_fuse_late_only_and_say_so(made, tmp_path, monkeypatch):
    monkeypatch.setattr(kitti_fusion, "LEAST_OBJECTS", 10_000)
    report = study.apply(made, made / "lidar", made / "image", tmp_path / "o", train=True, backbone="pointnet", steps=1)
    assert "late fusion only" in report["localizer"]
    assert report["recovered"] == 0


def test_coco_results_give_the_same_as_kitti_files(made, tmp_path):
    rows = []
    for frame in kitti.frame_ids(made / "image"):
        objects = kitti.read_objects(made / "image" / f"{frame}.txt")
        for word, (x1, y1, x2, y2), score in zip(objects.types, objects.rects, objects.scores, strict=True):
            number = study.CLASSES.index(word) + 1
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": int(frame), "category_id": number, "bbox": box, "score": score})
    rows.append({"image_id": 0, "category_id": 77, "bbox": [0, 0, 5, 5], "score": 0.9})
    (tmp_path / "coco.json").write_text(json.dumps(rows))
    a = study.apply(made, made / "lidar", made / "image", tmp_path / "a", draw=False)
    b = study.apply(made, made / "lidar", tmp_path / "coco.json", tmp_path / "b", draw=False)
    assert a == b
    assert a["matched"] > 3
    for frame in kitti.frame_ids(made / "lidar"):
        assert (tmp_path / "a" / "data" / f"{frame}.txt").read_text() == (
            tmp_path / "b" / "data" / f"{frame}.txt"
        ).read_text()


def _lines(path, change):
    path.write_text("".join(change(line) for line in path.read_text().splitlines(keepends=True)))


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda r: (r / "training" / "velodyne" / "000001.bin").unlink(), "lacks frames 000001"),
        (lambda r: (r / "image" / "000000.txt").unlink(), "lacks frames 000000"),
        (lambda r: _lines(r / "training" / "calib" / "000000.txt", lambda s: "" if s.startswith("P2") else s), "P2"),
        (
            lambda r: _lines(r / "training" / "calib" / "000000.txt", lambda s: "" if s.startswith("R0") else s),
            "R0_rect",
        ),
        (
            lambda r: _lines(r / "training" / "calib" / "000000.txt", lambda s: "" if "velo" in s else s),
            "Tr_velo_to_cam",
        ),
        (lambda r: _lines(r / "lidar" / "000000.txt", lambda s: s.rsplit(" ", 1)[0] + "\n"), "scores"),
        (lambda r: (r / "lidar" / "000000.txt").write_text("nonsense\n"), "15 words"),
        (lambda r: (r / "training" / "image_2" / "000000.png").unlink(), "missing"),
        (lambda r: [p.unlink() for p in (r / "lidar").iterdir()], "no result files"),
    ],
)
def test_bad_folders_are_told_in_one_line(tmp_path, harm, word):
    root = made_folder(tmp_path / "kitti", frames=2)
    harm(root)
    with pytest.raises(InputError, match=word) as error:
        study.apply(root, root / "lidar", root / "image", tmp_path / "out")
    assert "\n" not in str(error.value)


def test_bad_options(made, tmp_path):
    with pytest.raises(InputError, match="least3d"):
        study.apply(made, made / "lidar", made / "image", tmp_path / "o", least3d=[0.1])
    with pytest.raises(InputError, match="either"):
        study.apply(made, made / "lidar", made / "image", tmp_path / "o", train=True, model=tmp_path)
    with pytest.raises(InputError, match="localizer"):
        study.apply(made, made / "lidar", made / "image", tmp_path / "o", model=tmp_path)
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(InputError, match="pairs"):
        study.apply(made, made / "lidar", tmp_path / "c.json", tmp_path / "o", categories=["one"])
    (tmp_path / "d.json").write_text('[{"image_id": 1}]')
    with pytest.raises(InputError, match="COCO"):
        study.apply(made, made / "lidar", tmp_path / "d.json", tmp_path / "o")


def test_full_scale_path_on_a_small_folder(made, monkeypatch):
    (made / "ImageSets").mkdir(exist_ok=True)
    (made / "ImageSets" / "train.txt").write_text("000000\n000001\n")
    (made / "ImageSets" / "val.txt").write_text("000001\n000002\n")
    small = study.Size(0, 0, 0, 0, 0, localizer_steps=2, points=48)
    monkeypatch.setitem(study.SIZES, "full", small)
    try:
        shared = study.prepare(0, "full", made)
    except MissingExtra as error:
        pytest.skip(str(error))
    assert len(shared.frames["same"]) == len(shared.frames["miscalibrated"]) > 0
    result = study.trial("late_only", "same", 0, "full", shared)
    assert result["map_small"] > 0.3
    assert result["image_ap"] == pytest.approx(1.0, abs=0.01)
    assert np.isnan(study.trial("lcf", "night", 0, "full", shared)["map_small"])
    with pytest.raises(InputError, match="--data"):
        study.prepare(0, "full")


@pytest.mark.skipif(locate("nuscenes-mini-sample") is None, reason="no nuScenes sample here")
def test_six_real_cameras_confirm_what_they_see_and_drop_ghosts():
    from assay.data.points.nuscenes import DETECTION_CLASSES, NuScenes, detection_class
    from assay.geometry.lidar_camera import Calibration, project_boxes
    from assay.methods.driving.late_cascade_fusion import NUSCENES, Boxes2D, Boxes3D, LateCascadeFusion, frustums

    release = NuScenes(locate("nuscenes-mini-sample"))
    frame = release.frame(release.tokens[0])
    calibs = []
    for camera in frame.cameras.values():
        P = np.concatenate([camera.intrinsics, np.zeros((3, 1))], 1)
        calibs.append(Calibration(torch.from_numpy(P), torch.from_numpy(camera.lidar_to_cam), camera.image_size))
    boxes = torch.from_numpy(frame.boxes).float()
    labels = torch.tensor([DETECTION_CLASSES.index(detection_class(str(c))) for c in frame.categories])
    image, seen = [], torch.zeros(len(boxes), dtype=torch.bool)
    for calib in calibs:
        rects, in_view = project_boxes(boxes, calib)
        seen |= in_view
        image.append(Boxes2D(rects[in_view].float(), torch.full((int(in_view.sum()),), 0.9), labels[in_view]))
    ghosts = boxes[seen][:5] + torch.tensor([0, 0, 12.0, 0, 0, 0, 0])  # in the sky, where no image box is
    given = Boxes3D(
        torch.cat([boxes, ghosts]), torch.full((len(boxes) + 5,), 0.8), torch.cat([labels, labels[seen][:5]])
    )
    fused = LateCascadeFusion(None, NUSCENES)(torch.from_numpy(frame.points), given, image, calibs)
    confirmed = box3d_iou(fused.boxes, boxes[seen]).amax(0) > 0.99
    assert float(confirmed.float().mean()) > 0.9  # boxes of one class that overlap from above count once
    assert int(seen.sum()) > 50
    assert fused.source.count("out_of_view") <= int((~seen).sum()) + 5
    # Every camera finds points in the views of its boxes, those behind the car too.
    for calib, view in zip(calibs, image, strict=True):
        large = view.boxes[((view.boxes[:, 2:] - view.boxes[:, :2]).amin(1) > 60)]
        cut = frustums(torch.from_numpy(frame.points), large, calib, 0.0, 10, forward_only=False)
        assert len(cut) == 0 or any(f is not None for f in cut)
