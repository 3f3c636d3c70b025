"""COLMAP reconstructions: `cameras`, `images` and `points3D`, as .txt or .bin, read and written.

Format: https://colmap.github.io/format.html. Poses map world to camera, quaternions are (w, x, y, z), image
coordinates count from the outer corner of the first pixel: Assay's own conventions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from assay.errors import InputError
from assay.geometry.cameras import Camera
from assay.geometry.distortion import COLMAP_PARAMETERS, Lens, split_parameters

_MODELS = tuple(COLMAP_PARAMETERS)
_NO_POINT = -1


@dataclass
class ColmapCamera:
    """A camera: `model` is a key of `COLMAP_PARAMETERS`, `parameters` are in that order, in pixels."""

    id: int
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]

    @property
    def lens(self) -> Lens:
        """Intrinsics and distortion."""
        return split_parameters(self.model, self.parameters)


@dataclass
class ColmapImage:
    """An image: pose (world to camera), its camera, and the keypoints with the ids of their 3D points.

    Attributes:
        quaternion: (w, x, y, z), shape `(4,)`.
        translation: shape `(3,)`.
        keypoints: `(P, 2)`, pixels.
        point_ids: `(P,)` int64, -1 where a keypoint has no 3D point.
    """

    id: int
    quaternion: NDArray[np.float64]
    translation: NDArray[np.float64]
    camera_id: int
    name: str
    keypoints: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    point_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def rotation(self) -> NDArray[np.float64]:
        """World to camera, `(3, 3)`."""
        from scipy.spatial.transform import Rotation

        return Rotation.from_quat(np.roll(self.quaternion, -1)).as_matrix()


@dataclass
class ColmapPoints:
    """The 3D points.

    Attributes:
        ids: `(N,)` int64.
        xyz: `(N, 3)`.
        rgb: `(N, 3)` uint8.
        error: mean reprojection error in pixels, `(N,)`.
        tracks: for every point an int array `(T, 2)` of (image id, keypoint index).
    """

    ids: NDArray[np.int64]
    xyz: NDArray[np.float64]
    rgb: NDArray[np.uint8]
    error: NDArray[np.float64]
    tracks: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def empty() -> ColmapPoints:
        """No points."""
        zeros = np.zeros
        return ColmapPoints(zeros(0, np.int64), zeros((0, 3)), zeros((0, 3), np.uint8), zeros(0), [])


@dataclass
class Reconstruction:
    """Cameras and images by id, and the points."""

    cameras: dict[int, ColmapCamera]
    images: dict[int, ColmapImage]
    points: ColmapPoints = field(default_factory=ColmapPoints.empty)

    def image(self, name: str) -> ColmapImage:
        """The image of that name; the file name alone will do where only one image has it.

        Raises:
            InputError: no such image, or several.
        """
        found = [i for i in self.images.values() if i.name == name]
        found = found or [i for i in self.images.values() if Path(i.name).name == name]
        if len(found) != 1:
            some = ", ".join(sorted(i.name for i in self.images.values())[:5])
            what = "is not in the model" if not found else "names several images of the model"
            raise InputError(f"image {name!r} {what}; it has {len(self.images)} images: {some} ...")
        return found[0]

    def camera(self, image: ColmapImage) -> Camera:
        """Pinhole camera of an image, float64.

        Raises:
            InputError: its camera model has distortion; the message names the model.
        """
        source = self.cameras[image.camera_id]
        lens = source.lens
        if lens.kind != "pinhole":
            raise InputError(
                f"camera {source.id} of {image.name} has lens distortion (model {source.model}); undistort first, "
                "for instance with: colmap image_undistorter"
            )
        R, t = torch.from_numpy(image.rotation), torch.from_numpy(np.asarray(image.translation, float))
        return Camera(R, t, lens.K, source.width, source.height)


def find_model(folder: Path) -> Path:
    """The folder that holds the model: `folder` itself, or its `sparse/0`, `sparse`, `0` or `colmap/sparse/0`.

    Raises:
        InputError: none of them does.
    """
    for inside in (".", "sparse/0", "sparse", "0", "colmap/sparse/0", "dslr_calibration_undistorted"):
        if any((folder / inside / f"cameras{ending}").is_file() for ending in (".bin", ".txt")):
            return folder / inside
    raise InputError(f"{folder} holds no COLMAP model: expected cameras, images and points3D as .bin or .txt")


def read_colmap(folder: Path, *, points: bool = True) -> Reconstruction:
    """Read a model folder; .bin is taken where both kinds are there.

    Args:
        folder: as for `find_model`.
        points: read points3D, which may be large (and may be missing).

    Raises:
        InputError: no model there, or a file that is cut off or not in the format.
    """
    folder = find_model(Path(folder))
    binary = (folder / "cameras.bin").is_file()
    ending = ".bin" if binary else ".txt"
    readers = _BINARY if binary else _TEXT
    files = {name: folder / f"{name}{ending}" for name in ("cameras", "images", "points3D")}
    if not files["images"].is_file():
        raise InputError(f"{folder} has cameras{ending} but no images{ending}")
    parts = []
    for name, path in files.items():
        if name == "points3D" and not (points and path.is_file()):
            parts.append(ColmapPoints.empty())
            continue
        try:
            parts.append(readers[name](path))
        except InputError:
            raise
        except (ValueError, IndexError, struct.error, UnicodeDecodeError, OverflowError) as error:
            raise InputError(f"{path} is not a COLMAP {name} file: {error}") from error
    model = Reconstruction(*parts)
    for image in model.images.values():
        if image.camera_id not in model.cameras:
            raise InputError(f"{files['images']}: image {image.name} has camera {image.camera_id}, which is not there")
    return model


def write_colmap(folder: Path, model: Reconstruction, *, binary: bool = True) -> None:
    """Write a model into a folder, which is made if need be. Numbers keep all their digits."""
    folder.mkdir(parents=True, exist_ok=True)
    (_write_binary if binary else _write_text)(folder, model)


def _text_lines(path: Path, keep_empty: bool = False) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            line = line.strip()
            if not line.startswith("#") and (line or keep_empty):
                yield line


def _text_cameras(path: Path) -> dict[int, ColmapCamera]:
    cameras = {}
    for line in _text_lines(path):
        id_, model, width, height, *rest = line.split()
        camera = ColmapCamera(int(id_), model, int(width), int(height), tuple(map(float, rest)))
        _ = camera.lens  # the model must be known and its parameters complete
        cameras[camera.id] = camera
    return cameras


def _text_images(path: Path) -> dict[int, ColmapImage]:
    images = {}
    lines = _text_lines(path, keep_empty=True)
    for line in lines:
        if not line:
            continue
        id_, *pose, camera_id, name = line.split(maxsplit=9)
        pose = np.array(pose, float)
        table = np.array(next(lines, "").split(), float).reshape(-1, 3)
        images[int(id_)] = ColmapImage(
            int(id_), pose[:4], pose[4:7], int(camera_id), name, table[:, :2].copy(), table[:, 2].astype(np.int64)
        )
    return images


def _text_points(path: Path) -> ColmapPoints:
    ids, rows, tracks = [], [], []
    for line in _text_lines(path):
        words = line.split()
        ids.append(int(words[0]))
        rows.append([float(word) for word in words[1:8]])
        tracks.append(np.array(words[8:], np.int64).reshape(-1, 2))
    table = np.array(rows, float).reshape(-1, 7)
    return ColmapPoints(np.array(ids, np.int64), table[:, :3], table[:, 3:6].astype(np.uint8), table[:, 6], tracks)


class _Bytes:
    """A file's bytes, read in order; running out of them is an error."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values

    def array(self, dtype: np.dtype, count: int) -> NDArray:
        if count * dtype.itemsize > len(self.data) - self.at:
            raise ValueError("the file is cut off")
        values = np.frombuffer(self.data, dtype, count, self.at)
        self.at += count * dtype.itemsize
        return values

    def name(self) -> str:
        end = self.data.index(b"\0", self.at)
        text = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return text


_KEYPOINT = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
_TRACK = np.dtype("<i4")


def _binary_cameras(path: Path) -> dict[int, ColmapCamera]:
    source = _Bytes(path)
    cameras = {}
    for _ in range(source.take("Q")[0]):
        id_, number, width, height = source.take("iiQQ")
        if not 0 <= number < len(_MODELS):
            raise ValueError(f"camera {id_} has model number {number}; known are 0 to {len(_MODELS) - 1}")
        model = _MODELS[number]
        count = len(COLMAP_PARAMETERS[model].split())
        cameras[id_] = ColmapCamera(id_, model, width, height, source.take(f"{count}d"))
    return cameras


def _binary_images(path: Path) -> dict[int, ColmapImage]:
    source = _Bytes(path)
    images = {}
    for _ in range(source.take("Q")[0]):
        id_, *pose, camera_id = source.take("i7di")
        name = source.name()
        table = source.array(_KEYPOINT, source.take("Q")[0])
        images[id_] = ColmapImage(
            id_, np.array(pose[:4]), np.array(pose[4:]), camera_id, name, table["xy"].copy(), table["point"].copy()
        )
    return images


def _binary_points(path: Path) -> ColmapPoints:
    source = _Bytes(path)
    ids, xyz, rgb, error, tracks = [], [], [], [], []
    for _ in range(source.take("Q")[0]):
        id_, x, y, z, red, green, blue, off, length = source.take("Q3d3BdQ")
        ids.append(id_)
        xyz.append((x, y, z))
        rgb.append((red, green, blue))
        error.append(off)
        tracks.append(source.array(_TRACK, 2 * length).reshape(-1, 2).astype(np.int64))
    count = len(ids)
    return ColmapPoints(
        np.array(ids, np.int64),
        np.array(xyz, float).reshape(count, 3),
        np.array(rgb, np.uint8).reshape(count, 3),
        np.array(error, float),
        tracks,
    )


_TEXT = {"cameras": _text_cameras, "images": _text_images, "points3D": _text_points}
_BINARY = {"cameras": _binary_cameras, "images": _binary_images, "points3D": _binary_points}


def _write_text(folder: Path, model: Reconstruction) -> None:
    def words(*values: object) -> str:
        return " ".join(repr(float(v)) if isinstance(v, float | np.floating) else str(v) for v in values)

    cameras = [words(c.id, c.model, c.width, c.height, *map(float, c.parameters)) for c in model.cameras.values()]
    images = []
    for image in model.images.values():
        images.append(words(image.id, *image.quaternion, *image.translation, image.camera_id, image.name))
        keypoints = zip(image.keypoints, image.point_ids, strict=True)
        images.append(" ".join(words(x, y, int(point)) for (x, y), point in keypoints))
    p = model.points
    points = [
        words(int(p.ids[i]), *p.xyz[i], *map(int, p.rgb[i]), p.error[i], *map(int, p.tracks[i].ravel()))
        for i in range(len(p))
    ]
    for name, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        (folder / f"{name}.txt").write_text("\n".join(["# written by Assay", *lines]) + "\n", encoding="utf-8")


def _write_binary(folder: Path, model: Reconstruction) -> None:
    chunks = [struct.pack("<Q", len(model.cameras))]
    for c in model.cameras.values():
        values = tuple(map(float, c.parameters))
        chunks.append(struct.pack(f"<iiQQ{len(values)}d", c.id, _MODELS.index(c.model), c.width, c.height, *values))
    (folder / "cameras.bin").write_bytes(b"".join(chunks))

    chunks = [struct.pack("<Q", len(model.images))]
    for image in model.images.values():
        table = np.empty(len(image.keypoints), _KEYPOINT)
        table["xy"], table["point"] = image.keypoints, image.point_ids
        chunks.append(struct.pack("<i7di", image.id, *image.quaternion, *image.translation, image.camera_id))
        chunks += [image.name.encode("utf-8"), b"\0", struct.pack("<Q", len(table)), table.tobytes()]
    (folder / "images.bin").write_bytes(b"".join(chunks))

    p = model.points
    chunks = [struct.pack("<Q", len(p))]
    for i in range(len(p)):
        chunks.append(struct.pack("<Q3d3BdQ", int(p.ids[i]), *p.xyz[i], *p.rgb[i], p.error[i], len(p.tracks[i])))
        chunks.append(p.tracks[i].astype(_TRACK).tobytes())
    (folder / "points3D.bin").write_bytes(b"".join(chunks))
