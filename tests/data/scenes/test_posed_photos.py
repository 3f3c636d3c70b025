"""Photographs by camera name: scaled copies, missing and foreign files, names that lead out of the folder."""

import numpy as np
import pytest
import torch
from PIL import Image

from assay.data.scenes.posed_photos import find_photo, fit_size, hold_out, read_photos
from assay.errors import InputError
from assay.geometry.cameras import Camera, intrinsics


def camera(width=40, height=30):
    return Camera(torch.eye(3), torch.zeros(3), intrinsics(width, height, fov=60.0), width, height)


def save(path, width=40, height=30):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return torch.from_numpy(pixels).float() / 255


def test_names_with_and_without_ending(tmp_path):
    pixels = save(tmp_path / "a.png")
    cameras, photos = read_photos(tmp_path, {"a": camera(), "a.png": camera()})
    assert torch.equal(photos["a"], pixels)
    assert torch.equal(photos["a.png"], pixels)
    assert torch.equal(cameras["a"].K, camera().K)


def test_cameras_follow_scaled_photographs(tmp_path):
    save(tmp_path / "a.png", 20, 15)
    cameras, photos = read_photos(tmp_path, {"a.png": camera()})
    assert (cameras["a.png"].width, cameras["a.png"].fx) == (20, pytest.approx(camera().fx / 2))
    cameras, photos = read_photos(tmp_path, {"a.png": camera()}, longest=10)
    assert photos["a.png"].shape == (8, 10, 3)
    assert cameras["a.png"].fx == pytest.approx(camera().fx / 4)


def test_photographs_that_do_not_fit(tmp_path):
    save(tmp_path / "a.png", 40, 20)
    with pytest.raises(InputError, match=r"a\.png is 40x20 pixels, its camera 40x30"):
        read_photos(tmp_path, {"a.png": camera()})
    with pytest.raises(InputError, match="has no image 'b'"):
        read_photos(tmp_path, {"b": camera()})
    (tmp_path / "c.png").write_text("no picture")
    with pytest.raises(InputError, match="cannot be read as an image"):
        read_photos(tmp_path, {"c.png": camera()})
    with pytest.raises(InputError, match="no such folder"):
        read_photos(tmp_path / "none", {"a": camera()})


def test_names_stay_in_the_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    save(tmp_path / "outside.png")
    for name in ("../outside.png", str(tmp_path / "outside.png")):
        with pytest.raises(InputError, match="leads out of"):
            find_photo(tmp_path / "inside", name)


def test_every_eighth_is_held_out():
    train, test = hold_out([f"{i:02d}" for i in range(17)])
    assert test == ["00", "08", "16"]
    assert len(train) == 14
    assert not set(train) & set(test)


def test_sizes_keep_their_shape():
    assert fit_size(1600, 1000, 800) == (800, 500)
    assert fit_size(300, 200, 800) == (300, 200)
    assert fit_size(3000, 1, 100) == (100, 1)
