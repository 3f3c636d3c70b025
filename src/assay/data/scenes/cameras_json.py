"""The `cameras.json` that splat trainers in the INRIA layout write beside a scene."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from assay.errors import InputError
from assay.geometry.cameras import Camera


def read_cameras_json(path: Path) -> dict[str, Camera]:
    """Image name -> camera, float64, in the order of the file.

    An entry holds `img_name`, `width`, `height`, `fx`, `fy`, `position` (camera in the world) and `rotation`
    (camera to world, rows). The principal point is the middle of the image unless `cx` and `cy` are given.

    Raises:
        InputError: the file is not JSON or not of this layout; the entry and what is wrong are named.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as cameras.json: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of cameras, as in the INRIA layout")
    cameras = {}
    for number, entry in enumerate(entries):
        try:
            width, height = int(entry["width"]), int(entry["height"])
            R = torch.tensor(entry["rotation"], dtype=torch.float64).T.contiguous()
            centre = torch.tensor(entry["position"], dtype=torch.float64)
            cx, cy = float(entry.get("cx", width / 2)), float(entry.get("cy", height / 2))
            K = torch.tensor([[float(entry["fx"]), 0, cx], [0, float(entry["fy"]), cy], [0, 0, 1]], dtype=torch.float64)
            cameras[str(entry.get("img_name", number))] = Camera(R, -R @ centre, K, width, height)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}: camera {number}: {what}") from error
    return cameras


def write_cameras_json(path: Path, cameras: Mapping[str, Camera]) -> None:
    """Write cameras in the INRIA layout (with `cx`, `cy` where the principal point is off the middle)."""
    entries = []
    for number, (name, camera) in enumerate(cameras.items()):
        entry = {
            "id": number,
            "img_name": name,
            "width": camera.width,
            "height": camera.height,
            "position": camera.centre.tolist(),
            "rotation": camera.R.T.tolist(),
            "fy": camera.fy,
            "fx": camera.fx,
        }
        if (camera.cx, camera.cy) != (camera.width / 2, camera.height / 2):
            entry |= {"cx": camera.cx, "cy": camera.cy}
        entries.append(entry)
    Path(path).write_text(json.dumps(entries), encoding="utf-8")
