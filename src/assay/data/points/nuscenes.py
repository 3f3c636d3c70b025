"""nuScenes key frames from the official tables (JSON) and sensor files: lidar, six cameras, boxes in lidar axes.

Reads the released layout (`v1.0-*/` tables beside `samples/`) without further libraries. A lidar file `.pcd.bin` holds
five float32 a point: x, y, z (metres, x to the right and y ahead), intensity 0 to 255 and the ring.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay.errors import InputError

Floats = NDArray[np.float64]
Row = dict[str, Any]

DETECTION_CLASSES = (
    "car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone",
    "barrier",
)  # fmt: skip

# Categories of the annotation -> classes of the detection task; what is not here is not detected.
CATEGORY_TO_CLASS = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}  # fmt: skip


@dataclass
class NuScenesCamera:
    """One picture of a key frame.

    Attributes:
        channel: such as `"CAM_FRONT"`.
        path: the picture.
        image_size: (height, width) in pixels.
        intrinsics: `(3, 3)`.
        lidar_to_cam: `(4, 4)`; includes the car's motion between the two exposures.
    """

    channel: str
    path: Path
    image_size: tuple[int, int]
    intrinsics: Floats
    lidar_to_cam: Floats


@dataclass
class NuScenesFrame:
    """A key frame in lidar axes.

    Attributes:
        token: of the sample.
        points: `(N, 5)` float32.
        cameras: by channel.
        boxes: `(M, 7)`: centre, l, w, h in metres, yaw in radians.
        categories: of the boxes, `(M,)`, as in the table.
        lidar_points: points in each box as the table counts them, `(M,)`.
    """

    token: str
    points: NDArray[np.float32]
    cameras: dict[str, NuScenesCamera]
    boxes: Floats
    categories: NDArray[np.str_]
    lidar_points: NDArray[np.int64]


class NuScenes:
    """The tables of one release folder.

    Args:
        root: folder that holds `version/` and `samples/`.
        version: such as `"v1.0-mini"`; the only one there when not given.

    Raises:
        InputError: no tables, or several versions and none chosen.
    """

    def __init__(self, root: Path, version: str | None = None) -> None:
        self.root = Path(root)
        found = sorted(path.parent.name for path in self.root.glob("v1.0-*/sample.json"))
        if version is None and len(found) != 1:
            raise InputError(f"{root} holds {len(found)} nuScenes versions ({', '.join(found) or 'none'}); name one")
        self.version = version or found[0]
        if self.version not in found:
            raise InputError(f"{root} has no nuScenes tables {self.version!r}; found: {', '.join(found) or 'none'}")

    @cached_property
    def tokens(self) -> list[str]:
        """Tokens of all samples, in time."""
        return [row["token"] for row in sorted(self._table("sample"), key=lambda row: row["timestamp"])]

    def frame(self, token: str) -> NuScenesFrame:
        """Read a key frame.

        Raises:
            InputError: an unknown token, a missing file, or a file name that leaves the folder.
        """
        data = {self._channel(row): row for row in self._by_sample.get(token, []) if row["is_key_frame"]}
        if "LIDAR_TOP" not in data:
            raise InputError(f"{self.root}: sample {token} has no LIDAR_TOP key frame")
        lidar = data["LIDAR_TOP"]
        lidar_to_world = self._pose("ego_pose", lidar) @ self._pose("calibrated_sensor", lidar)
        cameras = {}
        for channel, row in data.items():
            sensor = self._rows("calibrated_sensor")[row["calibrated_sensor_token"]]
            if not sensor["camera_intrinsic"]:
                continue
            camera_to_world = self._pose("ego_pose", row) @ self._pose("calibrated_sensor", row)
            cameras[channel] = NuScenesCamera(
                channel=channel,
                path=self._file(row["filename"]),
                image_size=(int(row["height"]), int(row["width"])),
                intrinsics=np.array(sensor["camera_intrinsic"], float),
                lidar_to_cam=np.linalg.inv(camera_to_world) @ lidar_to_world,
            )
        rows = self._annotations.get(token, [])
        world_to_lidar = np.linalg.inv(lidar_to_world)
        return NuScenesFrame(
            token=token,
            points=self._points(self._file(lidar["filename"])),
            cameras=cameras,
            boxes=np.array([_box(row, world_to_lidar) for row in rows], float).reshape(-1, 7),
            categories=np.array([self._category(row) for row in rows], dtype=str),
            lidar_points=np.array([row["num_lidar_pts"] for row in rows], np.int64),
        )

    def _table(self, name: str) -> list[Row]:
        path = self.root / self.version / f"{name}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read as a nuScenes table: {error}") from error

    def _rows(self, name: str) -> dict[str, Row]:
        if name not in self._loaded:
            self._loaded[name] = {row["token"]: row for row in self._table(name)}
        return self._loaded[name]

    @cached_property
    def _loaded(self) -> dict[str, dict[str, Row]]:
        return {}

    @cached_property
    def _by_sample(self) -> dict[str, list[Row]]:
        return _grouped(self._table("sample_data"))

    @cached_property
    def _annotations(self) -> dict[str, list[Row]]:
        return _grouped(self._table("sample_annotation"))

    def _channel(self, row: Row) -> str:
        sensor = self._rows("calibrated_sensor")[row["calibrated_sensor_token"]]
        return self._rows("sensor")[sensor["sensor_token"]]["channel"]

    def _category(self, row: Row) -> str:
        instance = self._rows("instance")[row["instance_token"]]
        return self._rows("category")[instance["category_token"]]["name"]

    def _pose(self, table: str, row: Row) -> Floats:
        pose = self._rows(table)[row[f"{table}_token"]]
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = quaternion_matrix(pose["rotation"]), pose["translation"]
        return T

    def _file(self, name: str) -> Path:
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InputError(f"{self.root}: the table names a file outside the folder: {name!r}")
        return path

    @staticmethod
    def _points(path: Path) -> NDArray[np.float32]:
        try:
            values = np.fromfile(path, "<f4")
        except OSError as error:
            raise InputError(f"{path} cannot be read as a lidar scan: {error.strerror}") from error
        if len(values) % 5:
            raise InputError(f"{path} has {len(values)} float32; a nuScenes scan holds five a point")
        return values.reshape(-1, 5)


def detection_class(category: str) -> str | None:
    """Class of the detection task for a category of the annotation (a class names itself), or None."""
    return category if category in DETECTION_CLASSES else CATEGORY_TO_CLASS.get(category)


def quaternion_matrix(q: ArrayLike) -> Floats:
    """Rotation `(3, 3)` of a quaternion (w, x, y, z); its length does not matter.

    Raises:
        ValueError: not four numbers, or all zero.
    """
    q = np.asarray(q, float)
    if q.shape != (4,) or not np.linalg.norm(q) > 0:
        raise ValueError(f"a rotation needs four numbers (w, x, y, z), not all zero; got {q}")
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _box(row: Row, world_to_lidar: Floats) -> Floats:
    centre = world_to_lidar[:3, :3] @ np.array(row["translation"], float) + world_to_lidar[:3, 3]
    heading = world_to_lidar[:3, :3] @ quaternion_matrix(row["rotation"])[:, 0]
    width, length, height = row["size"]  # the table's order
    return np.array([*centre, length, width, height, np.arctan2(heading[1], heading[0])])


def _grouped(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["sample_token"], []).append(row)
    return groups
