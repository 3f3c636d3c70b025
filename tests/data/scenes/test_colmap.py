"""COLMAP and INRIA cameras: round trips, the documented bytes, real files, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch

from assay.data.samples import locate
from assay.data.scenes.cameras_json import read_cameras_json, write_cameras_json
from assay.data.scenes.colmap import (
    ColmapCamera,
    ColmapImage,
    ColmapPoints,
    Reconstruction,
    find_model,
    read_colmap,
    write_colmap,
)
from assay.errors import InputError
from assay.geometry.cameras import intrinsics, sphere_of_views

TEXT = {
    "cameras.txt": "# List\n1 PINHOLE 640 480 500.5 501 320 240\n7 OPENCV 640 480 500 500 320 240 0.1 0 0 0.01\n",
    "images.txt": (
        "# Image list with two lines of data per image\n"
        "1 0.5 0.5 0.5 0.5 1 2 3 1 a b.jpg\n"
        "10.5 20.25 -1 30 40 4\n"
        "2 1 0 0 0 0 0 0 7 sub/c.jpg\n"
        "\n"
    ),
    "points3D.txt": "# points\n4 0.1 0.2 0.3 255 128 0 0.75 1 1 2 0\n",
}


@pytest.fixture
def model() -> Reconstruction:
    g = np.random.default_rng(0)
    q = g.standard_normal(4)
    cameras = {
        3: ColmapCamera(3, "SIMPLE_RADIAL", 64, 48, (50.1, 32.0, 24.0, 0.0)),
        1: ColmapCamera(1, "PINHOLE", 8, 6, (5, 6, 4, 3)),
    }
    images = {
        5: ColmapImage(
            5, q / np.linalg.norm(q), g.standard_normal(3), 3, "dir/ä b.png", g.random((4, 2)), np.array([9, -1, 2, 9])
        ),
        6: ColmapImage(6, np.array([1.0, 0, 0, 0]), np.zeros(3), 1, "b.png"),
    }
    points = ColmapPoints(
        np.array([9, 2]), g.standard_normal((2, 3)), np.array([[1, 2, 3], [255, 0, 9]], np.uint8), g.random(2),
        [np.array([[5, 0], [5, 3]]), np.array([[5, 2]])],
    )  # fmt: skip
    return Reconstruction(cameras, images, points)


@pytest.mark.parametrize("binary", [True, False])
def test_round_trip_keeps_every_digit(tmp_path, model, binary):
    write_colmap(tmp_path / "sparse/0", model, binary=binary)
    again = read_colmap(tmp_path)
    assert again.cameras == model.cameras
    for id_, image in model.images.items():
        other = again.images[id_]
        assert (other.name, other.camera_id) == (image.name, image.camera_id)
        for name in ("quaternion", "translation", "keypoints", "point_ids"):
            assert np.array_equal(getattr(other, name), getattr(image, name))
    for name in ("ids", "xyz", "rgb", "error"):
        assert np.array_equal(getattr(again.points, name), getattr(model.points, name))
    assert all(np.array_equal(a, b) for a, b in zip(again.points.tracks, model.points.tracks, strict=True))
    assert len(read_colmap(tmp_path, points=False).points) == 0


def test_the_documented_text(tmp_path):
    for name, text in TEXT.items():
        (tmp_path / name).write_text(text)
    model = read_colmap(tmp_path)
    image = model.image("a b.jpg")
    camera = model.camera(image)
    assert (camera.fx, camera.fy, camera.width) == (500.5, 501, 640)
    assert torch.allclose(camera.R, torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64))
    assert image.point_ids.tolist() == [-1, 4]
    assert model.image("c.jpg").keypoints.shape == (0, 2)
    assert model.points.tracks[0].tolist() == [[1, 1], [2, 0]]
    with pytest.raises(InputError, match=r"distortion.*OPENCV"):
        model.camera(model.image("c.jpg"))
    with pytest.raises(InputError, match=r"'d\.jpg' is not in the model"):
        model.image("d.jpg")


def test_the_documented_bytes(tmp_path):
    """Written by hand from the format's page, not by our writer."""
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 2, 1, 20, 10, 9.0, 8.0, 10.0, 5.0))
    image = struct.pack("<Qi7di", 1, 11, 1.0, 0, 0, 0, 0.5, 0, 2, 2) + b"x.png\0"
    (tmp_path / "images.bin").write_bytes(image + struct.pack("<Qddqddq", 2, 1.5, 2.5, 77, 3.5, 4.5, -1))
    point = struct.pack("<QQ3d3Bd", 1, 77, 0.1, 0.2, 0.3, 10, 20, 30, 0.25) + struct.pack("<Qii", 1, 11, 0)
    (tmp_path / "points3D.bin").write_bytes(point)
    model = read_colmap(tmp_path)
    assert model.cameras[2].parameters == (9, 8, 10, 5)
    assert model.images[11].keypoints.tolist() == [[1.5, 2.5], [3.5, 4.5]]
    assert model.images[11].point_ids.tolist() == [77, -1]
    assert model.points.rgb.tolist() == [[10, 20, 30]]
    assert model.points.error.tolist() == [0.25]
    assert model.points.tracks[0].tolist() == [[11, 0]]


def test_what_is_refused(tmp_path, model):
    with pytest.raises(InputError, match="no COLMAP model"):
        find_model(tmp_path)
    write_colmap(tmp_path, model)
    whole = (tmp_path / "images.bin").read_bytes()
    for length in (4, 30, 75, len(whole) - 3):
        (tmp_path / "images.bin").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"images\.bin is not a COLMAP images file"):
            read_colmap(tmp_path)
    huge = bytearray(whole)
    huge[84:92] = struct.pack("<Q", 2**60)  # a count far beyond the file must not be allocated
    (tmp_path / "images.bin").write_bytes(bytes(huge))
    with pytest.raises(InputError):
        read_colmap(tmp_path)
    (tmp_path / "images.bin").unlink()
    with pytest.raises(InputError, match=r"no images\.bin"):
        read_colmap(tmp_path)
    bad = tmp_path / "bad"
    bad.mkdir()
    for name, text in TEXT.items():
        (bad / name).write_text(text)
    (bad / "cameras.txt").write_text("1 PINHOLE 640 480 500 320 240\n7 PINHOLE 640 480 5 5 3 2\n")
    with pytest.raises(InputError, match="PINHOLE has 4 parameters"):
        read_colmap(bad)
    (bad / "cameras.txt").write_text("1 PINHOLE 640 480 5 5 3 2\n")
    with pytest.raises(InputError, match="camera 7"):
        read_colmap(bad)


def test_cameras_json_round_trip_and_refusals(tmp_path):
    K = intrinsics(40, 30, fov=60, dtype=torch.float64)
    cameras = {f"v{i}": c for i, c in enumerate(sphere_of_views(5, K=K, width=40, height=30))}
    write_cameras_json(tmp_path / "cameras.json", cameras)
    again = read_cameras_json(tmp_path / "cameras.json")
    for name, camera in cameras.items():
        for part in ("R", "t", "K"):
            assert torch.allclose(getattr(again[name], part), getattr(camera, part), atol=1e-12)
    for text, message in (
        ("{", "cannot be read"),
        ("{}", "list of cameras"),
        ('[{"img_name": "a", "width": 4, "height": 3, "fx": 1}]', r"camera 0: 'rotation' is missing"),
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match=message):
            read_cameras_json(tmp_path / "bad.json")


def test_real_cameras_json():
    folder = locate("gsplat-garden")
    if folder is None:
        pytest.skip("sample set gsplat-garden is not here")
    cameras = read_cameras_json(folder / "derived/cameras.json")
    assert len(cameras) == 3
    points = (
        np.load(folder / "assets/test_garden.npz", allow_pickle=False)
        if (folder / "assets/test_garden.npz").is_file()
        else None
    )
    if points is not None and "means3d" in points:
        middle = torch.from_numpy(np.median(points["means3d"], 0)).double()
        for camera in cameras.values():
            pixels, depth = camera.project(middle)
            assert depth > 0
            assert 0 < pixels[0] < camera.width
