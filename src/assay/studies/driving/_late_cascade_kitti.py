"""LCF3D on KITTI object folders: results of two detectors in, fused results, pictures and a report out."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay import __version__
from assay.data.points import kitti
from assay.data.points.kitti_calib import KittiCalibration, read_kitti_calibration
from assay.errors import InputError
from assay.geometry.boxes3d import EDGES, box_corners
from assay.geometry.lidar_camera import Calibration, project_boxes
from assay.methods.driving.frustum_localizer import Crops, FrustumLocalizer, fit_localizer
from assay.methods.driving.late_cascade_fusion import (
    KITTI,
    Boxes2D,
    Boxes3D,
    FusedBoxes,
    FusionOptions,
    LateCascadeFusion,
    join_crops,
    training_crops,
)

PAPER = "2601.09812"
TYPES = ("Pedestrian", "Cyclist", "Car")
LEAST_OBJECTS = 30  # labelled objects with enough points, below which no localizer is trained
COLOURS = {
    "matched": (60, 200, 90),
    "recovered": (255, 170, 0),
    "out_of_view": (150, 150, 150),
    "removed": (220, 60, 60),
}


@dataclass(frozen=True)
class Training:
    """How to train a localizer."""

    backbone: str = "pointnet2"
    steps: int = 3000
    seed: int = 0
    points: int = 512


@dataclass
class KittiInput:
    """A frame's files, read."""

    frame: str
    points: Tensor
    files: KittiCalibration
    calib: Calibration
    lidar: Boxes3D
    image: Boxes2D


@dataclass
class Report:
    """What was done, for report.json.

    Attributes:
        localizer: "given", "trained", or why there is none.
        training_objects: labelled objects with enough points.
        frames, boxes3d, boxes2d, out_of_view: counts of what came in.
        matched, recovered, kept_out_of_view, removed: counts of what came out.
        other_types: boxes of types that are not fused, left out.
    """

    localizer: str = "none: late fusion only"
    training_objects: int = 0
    frames: int = 0
    boxes3d: int = 0
    boxes2d: int = 0
    out_of_view: int = 0
    matched: int = 0
    recovered: int = 0
    kept_out_of_view: int = 0
    removed: int = 0
    other_types: dict[str, int] = field(default_factory=dict)


def fuse_folder(
    root: Path,
    boxes3d: Path,
    boxes2d: Path,
    out: Path,
    options: FusionOptions,
    *,
    model: Path | None,
    training: Training | None,
    categories: Sequence[str],
    draw: bool,
) -> dict[str, Any]:
    """Fuse every frame that the lidar detector has a result for; see `apply` of the study.

    Raises:
        InputError: missing frames (listed), files that cannot be read, or no frame at all.
    """
    folder = kitti.object_folder(root)
    report = Report()
    image_results = coco_results(boxes2d, categories) if boxes2d.suffix == ".json" else None
    frames = kitti.frame_ids(boxes3d)
    if not frames:
        raise InputError(f"{boxes3d} holds no result files such as 000042.txt")
    _check_files(folder, frames, None if image_results is not None else boxes2d)
    localizer, points = None, 512
    if model is not None:
        localizer, points = load_localizer(model)
        report.localizer = "given"
    out.mkdir(parents=True, exist_ok=True)
    if training is not None:
        localizer, report.training_objects = train_on_labels(folder, training)
        points = training.points
        if localizer is None:
            found = report.training_objects
            report.localizer = (
                f"none: {found} labelled objects with enough points, {LEAST_OBJECTS} needed; late fusion only"
            )
        else:
            report.localizer = "trained"
            save_localizer(out / "model", localizer, points)
    fusion = LateCascadeFusion(localizer, options, localizer_points=points)
    (out / "data").mkdir()
    with (out / "sources.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["frame", "row", "type", "score", "source", "image_row"])
        for frame in frames:
            lidar, _ = _detections3d(folder, boxes3d, frame, report)
            given = image_results.get(frame, _no_rects()) if image_results is not None else None
            image, rows2d = _detections2d(boxes2d, frame, report, given)
            read = read_frame(folder, frame, lidar, image)
            fused = fusion(read.points, read.lidar, read.image, read.calib)
            rects = _write_frame(out, read, fused)
            for row, label in enumerate(fused.labels.tolist()):
                partner = int(fused.partner[row])
                given_row = rows2d[partner] if partner >= 0 else ""
                score = f"{float(fused.scores[row]):.6f}"
                table.writerow([frame, row, TYPES[label], score, fused.source[row], given_row])
            _count(report, read, fused, options)
            if draw:
                _draw(out / "overlay", folder, read, fused, rects)
    (out / "report.json").write_text(json.dumps({"options": asdict(options), **asdict(report)}, indent=2) + "\n")
    return asdict(report)


def read_frame(folder: Path, frame: str, lidar: Callable[[KittiCalibration], Boxes3D], image: Boxes2D) -> KittiInput:
    """Scan and calibration of a frame, with the detections.

    Raises:
        InputError: a file is missing or wrong; the calibration needs P2, R0_rect and Tr_velo_to_cam.
    """
    path = folder / "calib" / f"{frame}.txt"
    files = read_kitti_calibration(path)
    if 2 not in files.projections or files.lidar_to_camera is None:
        lacking = "P2" if 2 not in files.projections else "Tr_velo_to_cam"
        raise InputError(f"{path} has no {lacking}; a KITTI object calibration has P2, R0_rect and Tr_velo_to_cam")
    if "R0_rect" not in path.read_text(encoding="utf-8") and "R_rect" not in path.read_text(encoding="utf-8"):
        raise InputError(f"{path} has no R0_rect; a KITTI object calibration has P2, R0_rect and Tr_velo_to_cam")
    pose = np.eye(4)
    pose[:3] = files.lidar_to_rectified()
    size = _image_size(folder, frame)
    try:
        calib = Calibration(torch.from_numpy(files.projections[2]), torch.from_numpy(pose), size)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    points = torch.from_numpy(kitti.read_velodyne(folder / "velodyne" / f"{frame}.bin"))
    return KittiInput(frame, points, files, calib, lidar(files), image)


def train_on_labels(
    folder: Path, training: Training, frames: Sequence[str] | None = None
) -> tuple[FrustumLocalizer | None, int]:
    """Train on label_2 of the folder: the localizer and the number of objects, None when there are too few."""
    generator = torch.Generator().manual_seed(training.seed)
    torch.manual_seed(training.seed)
    frames = kitti.frame_ids(folder / "label_2") if frames is None else frames
    parts = [_frame_crops(folder, frame, training.points, generator) for frame in frames]
    count = sum(number for _, number in parts)
    crops = join_crops([part for part, _ in parts])
    if crops is None or count < LEAST_OBJECTS:
        return None, count
    net = FrustumLocalizer(len(TYPES), 5, backbone=training.backbone)
    fit_localizer(net, crops, steps=training.steps, generator=generator)
    return net, count


def save_localizer(folder: Path, net: FrustumLocalizer, points: int) -> None:
    """Write config.json and localizer.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "paper": PAPER,
        "version": __version__,
        "classes": list(TYPES),
        "backbone": net.backbone,
        "heading_bins": net.heading_bins,
        "sizes": net.sizes.tolist(),
        "points": points,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / "localizer.safetensors")


def load_localizer(folder: Path) -> tuple[FrustumLocalizer, int]:
    """A localizer written by `save_localizer`, and the points it takes.

    Raises:
        InputError: not such a folder.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config["paper"] != PAPER or tuple(config["classes"]) != TYPES:
            raise InputError(f"{folder} holds a model of {config['paper']} for {config['classes']}, not for {TYPES}")
        net = FrustumLocalizer(len(TYPES), 5, config["sizes"], int(config["heading_bins"]), backbone=config["backbone"])
        net.load_state_dict(load_file(folder / "localizer.safetensors"))
        return net.eval(), int(config["points"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder} holds no localizer (config.json, localizer.safetensors): {error}") from error


def coco_results(path: Path, categories: Sequence[str]) -> dict[str, kitti.KittiObjects]:
    """2-D boxes by frame from a COCO results file: a list of {image_id, category_id, bbox [x, y, w, h], score}.

    An `image_id` that is a number names the frame with six digits. Categories without a class are left out.

    Raises:
        InputError: not such a file, or a category not written as `1=Pedestrian`.
    """
    names = {}
    for pair in categories:
        number, _, word = pair.partition("=")
        if not number.strip().isdigit() or word not in TYPES:
            raise InputError(f"--categories takes pairs such as 1=Pedestrian with {', '.join(TYPES)}; got {pair!r}")
        names[int(number)] = word
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, list[tuple[str, list[float], float]]] = {}
        for row in rows:
            word = names.get(int(row["category_id"]))
            frame = f"{row['image_id']:06d}" if isinstance(row["image_id"], int) else Path(str(row["image_id"])).stem
            x, y, w, h = (float(value) for value in row["bbox"])
            found.setdefault(frame, [])
            if word is not None:
                found[frame].append((word, [x, y, x + w, y + h], float(row["score"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no COCO results file (a list with image_id, category_id, bbox, score): {error}"
        ) from error
    return {frame: _rect_objects(lines) for frame, lines in found.items()}


def study_frames(root: Path, frame_class: type, points: int, generator: torch.Generator):
    """Frames of the full-scale study: by condition, for validation, and the training frustums.

    `root` is a KITTI object folder with ImageSets/{train,val}.txt and results under lidar/ and image/; lidar_shift/
    and image_night/ stand in for them in these conditions.
    """
    folder = kitti.object_folder(root)
    train, test = (kitti.read_split(root / "ImageSets" / f"{name}.txt") for name in ("train", "val"))
    tuning = test[::10] if len(test) >= 50 else test
    test = [frame for frame in test if frame not in set(tuning)] or test

    def frames(names: Sequence[str], lidar: str, image: str, yaw: float = 0.0) -> list[Any]:
        if not ((root / lidar).is_dir() and (root / image).is_dir()):
            return []
        return [_study_frame(root, folder, name, root / lidar, root / image, yaw, frame_class) for name in names]

    conditions = {
        "same": frames(test, "lidar", "image"),
        "shift": frames(test, "lidar_shift", "image"),
        "night": frames(test, "lidar", "image_night"),
        "miscalibrated": frames(test, "lidar", "image", 2.0),
    }
    if not conditions["same"]:
        raise InputError(f"{root}: expected result folders lidar/ and image/ and frames in ImageSets/val.txt")
    crops = join_crops([_frame_crops(folder, name, points, generator)[0] for name in train])
    return conditions, frames(tuning, "lidar", "image"), crops


def _study_frame(root, folder, name, lidar_folder, image_folder, yaw, frame_class):
    from assay.data.scenes.street import jittered

    report = Report()
    lidar, _ = _detections3d(folder, lidar_folder, name, report)
    image, _ = _detections2d(image_folder, name, report, None)
    read = read_frame(folder, name, lidar, image)
    boxes, labels, rects = _labels(folder, name, read.files)
    calib = read.calib
    if yaw:
        wrong = torch.from_numpy(jittered(calib.lidar_to_cam.numpy(), yaw=yaw))
        calib = Calibration(calib.cam_to_img, wrong, calib.image_size)
    return frame_class(read.points, read.lidar, read.image, calib, boxes, labels, rects)


def _frame_crops(folder: Path, frame: str, points: int, generator: torch.Generator) -> tuple[Crops | None, int]:
    """Training frustums of a labelled frame, and of how many objects."""
    read = read_frame(folder, frame, lambda _: _no_boxes(), Boxes2D(torch.zeros(0, 4), torch.zeros(0), _no_labels()))
    boxes, labels, rects = _labels(folder, frame, read.files)
    parts = [
        training_crops(
            read.points, boxes[i : i + 1], labels[i : i + 1], rects[i : i + 1], read.calib, count=points, options=KITTI,
            generator=generator,
        )
        for i in range(len(boxes))
    ]  # fmt: skip
    return join_crops(parts), sum(part is not None for part in parts)


def _labels(folder: Path, frame: str, files: KittiCalibration) -> tuple[Tensor, Tensor, Tensor]:
    """Labelled boxes in lidar axes, classes and image boxes of the three types."""
    objects = kitti.read_objects(folder / "label_2" / f"{frame}.txt")
    objects = objects.select(np.isin(objects.types, TYPES))
    labels = torch.tensor([TYPES.index(word) for word in objects.types], dtype=torch.long)
    return torch.from_numpy(objects.lidar_boxes(files)).float(), labels, torch.from_numpy(objects.rects).float()


def _detections3d(folder: Path, results: Path, frame: str, report: Report):
    """Lidar boxes of a frame, to be moved to lidar axes once its calibration is read, and their rows in the file."""
    path = results / f"{frame}.txt"
    objects, rows = _known(kitti.read_objects(path), report)
    if objects.scores is None and len(objects):
        raise InputError(f"{path} has no scores; a KITTI result file has 16 words a line")
    if (objects.sizes <= 0).any():
        raise InputError(
            f"{path}: a 3-D box needs sizes above 0; row {int((objects.sizes <= 0).any(1).argmax())} has not"
        )
    report.boxes3d += len(objects)

    def to_lidar(files: KittiCalibration) -> Boxes3D:
        boxes = torch.from_numpy(objects.lidar_boxes(files)).float()
        scores = torch.from_numpy(objects.scores if objects.scores is not None else np.zeros(0)).float()
        return Boxes3D(boxes, scores, _label_rows(objects))

    return to_lidar, rows


def _detections2d(results: Path, frame: str, report: Report, given: kitti.KittiObjects | None):
    path = results / f"{frame}.txt"
    objects, rows = _known(given if given is not None else kitti.read_objects(path), report)
    if objects.scores is None and len(objects):
        raise InputError(f"{path} has no scores; a KITTI result file has 16 words a line")
    scores = objects.scores if objects.scores is not None else np.zeros(0)
    report.boxes2d += len(objects)
    try:
        boxes = Boxes2D(torch.from_numpy(objects.rects).float(), torch.from_numpy(scores).float(), _label_rows(objects))
    except ValueError as error:
        raise InputError(f"{results if given is not None else path}, frame {frame}: {error}") from error
    return boxes, rows


def _known(objects: kitti.KittiObjects, report: Report) -> tuple[kitti.KittiObjects, list[int]]:
    """The three types, and their rows; others are counted."""
    rows = np.flatnonzero(np.isin(objects.types, TYPES))
    for word in objects.types[~np.isin(objects.types, TYPES)]:
        report.other_types[str(word)] = report.other_types.get(str(word), 0) + 1
    return objects.select(rows), rows.tolist()


def _label_rows(objects: kitti.KittiObjects) -> Tensor:
    return torch.tensor([TYPES.index(word) for word in objects.types], dtype=torch.long)


def _check_files(folder: Path, frames: Sequence[str], boxes2d: Path | None) -> None:
    places = [(folder / "velodyne", ".bin"), (folder / "calib", ".txt")]
    if boxes2d is not None:
        if not boxes2d.is_dir():
            raise InputError(f"{boxes2d} is no folder of result files and no COCO .json")
        places.append((boxes2d, ".txt"))
    for place, suffix in places:
        missing = [frame for frame in frames if not (place / f"{frame}{suffix}").is_file()]
        if missing:
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            raise InputError(f"{place} lacks frames {', '.join(missing[:10])}{more}")


def _write_frame(out: Path, read: KittiInput, fused: FusedBoxes) -> np.ndarray:
    rects, _ = project_boxes(fused.boxes, read.calib)
    types = [TYPES[label] for label in fused.labels.tolist()]
    objects = kitti.objects_from_lidar(
        types, fused.boxes.double().numpy(), rects.numpy(), fused.scores.numpy(), read.files
    )
    kitti.write_objects(out / "data" / f"{read.frame}.txt", objects)
    return rects.numpy()


def _count(report: Report, read: KittiInput, fused: FusedBoxes, options: FusionOptions) -> None:
    _, in_view = project_boxes(read.lidar.boxes, read.calib)
    report.frames += 1
    report.out_of_view += int((~in_view).sum())
    counts = {word: fused.source.count(word) for word in set(fused.source)}
    report.matched += counts.get("matched", 0)
    report.recovered += counts.get("recovered", 0)
    report.kept_out_of_view += counts.get("out_of_view", 0)
    report.removed += len(read.lidar) - counts.get("matched", 0) - counts.get("out_of_view", 0)


def _draw(folder: Path, data: Path, read: KittiInput, fused: FusedBoxes, rects: np.ndarray) -> None:
    """Overlay: lidar boxes that went in red, matched ones green, recovered ones orange, 2-D boxes in white."""
    folder.mkdir(exist_ok=True)
    path = data / "image_2" / f"{read.frame}.png"
    picture = Image.open(path).convert("RGB") if path.is_file() else Image.new("RGB", read.calib.image_size[::-1])
    pen = ImageDraw.Draw(picture)
    for rect in read.image.boxes.tolist():
        pen.rectangle(rect, outline=(255, 255, 255))
    stays = {tuple(box) for box in fused.boxes.tolist()}
    gone = torch.tensor([tuple(box) not in stays for box in read.lidar.boxes.tolist()], dtype=torch.bool)
    for box in read.lidar.boxes[gone]:
        _wireframe(pen, box, read.calib, COLOURS["removed"])
    for i, box in enumerate(fused.boxes):
        colour = COLOURS.get(fused.source[i], (255, 255, 255))
        _wireframe(pen, box, read.calib, colour)
        word = f"{TYPES[int(fused.labels[i])]} {float(fused.scores[i]):.2f}"
        pen.text((rects[i, 0] + 1, max(rects[i, 1] - 11, 0)), word, fill=colour)
    picture.save(folder / f"{read.frame}.png")


def _wireframe(pen: ImageDraw.ImageDraw, box: Tensor, calib: Calibration, colour: tuple[int, int, int]) -> None:
    uv, depth = calib.project(box_corners(box.double()))
    for a, b in EDGES:
        if depth[a] > 0.1 and depth[b] > 0.1:
            pen.line([*uv[a].tolist(), *uv[b].tolist()], fill=colour, width=2)
    if depth[0] > 0.1 and depth[3] > 0.1 and depth[4] > 0.1 and depth[7] > 0.1:  # a cross on the front
        pen.line([*uv[0].tolist(), *uv[7].tolist()], fill=colour)
        pen.line([*uv[3].tolist(), *uv[4].tolist()], fill=colour)


def _image_size(folder: Path, frame: str) -> tuple[int, int]:
    path = folder / "image_2" / f"{frame}.png"
    try:
        with Image.open(path) as picture:
            return picture.height, picture.width
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: the image gives the size of the view") from error
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture") from error


def _rect_objects(lines: list[tuple[str, list[float], float]]) -> kitti.KittiObjects:
    count = len(lines)
    unknown = -np.ones(count)
    return kitti.KittiObjects(
        types=np.array([word for word, _, _ in lines], dtype=str),
        truncated=unknown,
        occluded=unknown,
        alpha=unknown * 10,
        rects=np.array([rect for _, rect, _ in lines], float).reshape(-1, 4),
        sizes=-np.ones((count, 3)),
        locations=-1000 * np.ones((count, 3)),
        rotation_y=unknown * 10,
        scores=np.array([score for _, _, score in lines], float),
    )


def _no_rects() -> kitti.KittiObjects:
    return _rect_objects([])


def _no_boxes() -> Boxes3D:
    return Boxes3D(torch.zeros(0, 7), torch.zeros(0), _no_labels())


def _no_labels() -> Tensor:
    return torch.zeros(0, dtype=torch.long)
