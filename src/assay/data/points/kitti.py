"""KITTI object files: velodyne scans, labels and detection results, and the way of boxes between camera and lidar.

A line of `label_2` holds 15 words: type, truncation (0 to 1), occlusion (0 to 3), alpha, the box in the image
(x1, y1, x2, y2), height, width, length (metres), the middle of the box's floor in rectified camera axes (x, y, z),
and rotation_y; a result file adds a score. Boxes in lidar axes are `(x, y, z, l, w, h, yaw)` about their centre.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay.data.points.kitti_calib import KittiCalibration
from assay.errors import InputError

Floats = NDArray[np.float64]
FRAME_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


@dataclass
class KittiObjects:
    """The lines of one label or result file.

    Attributes:
        types: words such as `"Car"`, `(N,)`; `"DontCare"` marks regions without labels.
        truncated, occluded, alpha: `(N,)`.
        rects: boxes in the image, `(N, 4)` pixels.
        sizes: height, width, length in metres, `(N, 3)`.
        locations: middle of the floor in rectified camera axes, `(N, 3)` metres.
        rotation_y: `(N,)` radians.
        scores: `(N,)`; None for labels.
    """

    types: NDArray[np.str_]
    truncated: Floats
    occluded: Floats
    alpha: Floats
    rects: Floats
    sizes: Floats
    locations: Floats
    rotation_y: Floats
    scores: Floats | None = None

    def __len__(self) -> int:
        return len(self.types)

    def select(self, rows: ArrayLike) -> KittiObjects:
        """Those lines that `rows` (indices or a mask) names."""
        picked = {name: value[rows] for name, value in vars(self).items() if value is not None}
        return replace(self, **picked)

    def lidar_boxes(self, calibration: KittiCalibration) -> Floats:
        """Boxes `(N, 7)` in lidar axes; the heading is carried over as a direction, so tilted mountings are right."""
        centre = self.locations - np.array([0, 0.5, 0]) * self.sizes[:, :1]
        R, t = _rotation_translation(calibration)
        heading = np.stack([np.cos(self.rotation_y), np.zeros(len(self)), -np.sin(self.rotation_y)], -1) @ R
        yaw = np.arctan2(heading[:, 1], heading[:, 0])
        return np.concatenate([(centre - t) @ R, self.sizes[:, [2, 1, 0]], yaw[:, None]], 1)


def read_velodyne(path: Path) -> NDArray[np.float32]:
    """A scan: `(N, 4)` float32, x, y, z in metres and reflectance 0 to 1.

    Raises:
        InputError: no such file, or its size is no multiple of four float32.
    """
    try:
        size = path.stat().st_size
        if size % 16:
            raise InputError(f"{path} has {size} bytes; a velodyne scan holds four float32 a point (a multiple of 16)")
        return np.fromfile(path, "<f4").reshape(-1, 4)
    except OSError as error:
        raise InputError(f"{path} cannot be read as a velodyne scan: {error.strerror}") from error


def read_objects(path: Path) -> KittiObjects:
    """Read a label (15 words a line) or result file (16 words); an empty file holds no objects.

    Raises:
        InputError: no such file, or a line that is neither.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a KITTI object file: {error}") from error
    widths = {len(words) for words in lines}
    if not widths <= {15, 16} or len(widths) > 1:
        raise InputError(f"{path}: expected 15 words a line (label) or 16 (result with score); got {sorted(widths)}")
    try:
        values = np.array([words[1:] for words in lines], float).reshape(len(lines), max(widths, default=16) - 1)
    except ValueError as error:
        raise InputError(f"{path}: every word after the type must be a number ({error})") from error
    if not np.isfinite(values).all():
        raise InputError(f"{path}: values must be finite")
    return KittiObjects(
        types=np.array([words[0] for words in lines], dtype=str),
        truncated=values[:, 0],
        occluded=values[:, 1],
        alpha=values[:, 2],
        rects=values[:, 3:7],
        sizes=values[:, 7:10],
        locations=values[:, 10:13],
        rotation_y=values[:, 13],
        scores=values[:, 14] if values.shape[1] == 15 else None,
    )


def write_objects(path: Path, objects: KittiObjects) -> None:
    """Write a label file, or a result file when there are scores (four decimals, six for scores)."""
    scores = [""] * len(objects) if objects.scores is None else [f" {score:.6f}" for score in objects.scores]
    lines = []
    for i, word in enumerate(objects.types):
        numbers = [*objects.rects[i], *objects.sizes[i], *objects.locations[i], objects.rotation_y[i]]
        head = f"{word} {objects.truncated[i]:g} {objects.occluded[i]:g} {objects.alpha[i]:.4f}"
        lines.append(head + "".join(f" {number:.4f}" for number in numbers) + scores[i] + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def objects_from_lidar(
    types: ArrayLike, boxes: ArrayLike, rects: ArrayLike, scores: ArrayLike | None, calibration: KittiCalibration
) -> KittiObjects:
    """Lidar boxes `(N, 7)` with their rectangles `(N, 4)` as KITTI objects; truncation and occlusion unknown (-1)."""
    boxes = np.asarray(boxes, float).reshape(-1, 7)
    R, t = _rotation_translation(calibration)
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))], -1) @ R.T
    rotation_y = np.arctan2(-heading[:, 2], heading[:, 0])
    locations = boxes[:, :3] @ R.T + t + np.array([0, 0.5, 0]) * boxes[:, 5:6]
    alpha = rotation_y - np.arctan2(locations[:, 0], locations[:, 2])
    unknown = -np.ones(len(boxes))
    return KittiObjects(
        types=np.asarray(types, dtype=str).reshape(len(boxes)),
        truncated=unknown,
        occluded=unknown,
        alpha=(alpha + np.pi) % (2 * np.pi) - np.pi,
        rects=np.asarray(rects, float).reshape(-1, 4),
        sizes=boxes[:, [5, 4, 3]],
        locations=locations,
        rotation_y=rotation_y,
        scores=None if scores is None else np.asarray(scores, float).reshape(len(boxes)),
    )


def object_folder(root: Path) -> Path:
    """The folder with `velodyne` and `calib`: `root` itself or its `training` or `testing`.

    Raises:
        InputError: none of them.
    """
    for folder in (root, root / "training", root / "testing"):
        if (folder / "calib").is_dir():
            return folder
    raise InputError(f"{root} is no KITTI object folder: expected velodyne/, calib/ and image_2/ in it or in training/")


def frame_ids(folder: Path, suffix: str = ".txt") -> list[str]:
    """Names (without suffix) of the frames in a folder, sorted.

    Raises:
        InputError: no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of frames")
    return sorted(path.stem for path in folder.glob(f"*{suffix}") if FRAME_ID.fullmatch(path.stem))


def read_split(path: Path) -> list[str]:
    """Frame ids of an ImageSets file, one a line.

    Raises:
        InputError: no such file, or a line that cannot be a frame id.
    """
    try:
        ids = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as a list of frames: {error}") from error
    bad = [word for word in ids if not FRAME_ID.fullmatch(word)]
    if bad:
        raise InputError(f"{path}: {bad[0]!r} is no frame id such as 000042")
    return ids


def _rotation_translation(calibration: KittiCalibration) -> tuple[Floats, Floats]:
    """Lidar to rectified camera, `X_cam = R X_lidar + t`.

    R is made orthonormal (files keep few digits), so that boxes come back to the file's numbers.
    """
    T = calibration.lidar_to_rectified()
    u, _, vt = np.linalg.svd(T[:, :3])
    return u @ vt, T[:, 3]
