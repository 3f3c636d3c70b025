"""Photographs with known cameras, as splat trainers read them: a COLMAP model, or `cameras.json`, and a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assay.data.scenes.colmap import Reconstruction
from assay.errors import InputError
from assay.geometry.cameras import Camera

IMAGE_TYPES = (".png", ".jpg", ".jpeg", ".JPG", ".JPEG", ".PNG")


def colmap_cameras(model: Reconstruction) -> dict[str, Camera]:
    """Image name -> camera, sorted by name (the order in which every 8th view is held out).

    Raises:
        InputError: the model has no images, or a camera with lens distortion.
    """
    if not model.images:
        raise InputError("the COLMAP model holds no images")
    return {image.name: model.camera(image) for image in sorted(model.images.values(), key=lambda i: i.name)}


def read_photos(
    folder: Path, cameras: Mapping[str, Camera], *, longest: int | None = None
) -> tuple[dict[str, Camera], dict[str, Tensor]]:
    """The photographs of cameras, and the cameras at the photographs' size.

    Args:
        folder: holds the images under the cameras' names, with or without an ending.
        cameras: image name -> camera. A photograph may be a scaled copy (as in `images_4`); the camera then follows.
        longest: scale photographs down so that no side is longer, in pixels.

    Returns:
        Image name -> camera, and image name -> `(H, W, 3)` float32 in [0, 1].

    Raises:
        InputError: a photograph is missing, unreadable, or of another shape than its camera.
    """
    from PIL import Image, UnidentifiedImageError

    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the photographs")
    sized, photos = {}, {}
    for name, camera in cameras.items():
        path = find_photo(folder, name)
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise InputError(f"{path} cannot be read as an image: {error}") from error
        width, height = image.size
        factor = width / camera.width
        if abs(camera.height * factor - height) > max(1.0, factor):
            raise InputError(f"{path} is {width}x{height} pixels, its camera {camera.width}x{camera.height}")
        if longest and max(width, height) > longest:
            width, height = fit_size(width, height, longest)
            image = image.resize((width, height), Image.Resampling.BOX)
        sized[name] = camera.resized(width, height)
        photos[name] = torch.from_numpy(np.asarray(image).copy()).float() / 255
    return sized, photos


def find_photo(folder: Path, name: str) -> Path:
    """The file of an image name inside a folder.

    Raises:
        InputError: there is none, or the name leads out of the folder.
    """
    base = folder.resolve()
    for candidate in [name, *(name + ending for ending in IMAGE_TYPES)]:
        path = (base / candidate).resolve()
        if not path.is_relative_to(base):
            raise InputError(f"image name {name!r} leads out of {folder}")
        if path.is_file():
            return path
    raise InputError(f"{folder} has no image {name!r}")


def fit_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """The size scaled down, if need be, so that no side is longer than `longest`."""
    factor = min(1.0, longest / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def hold_out(names: Iterable[str], every: int = 8) -> tuple[list[str], list[str]]:
    """Names for training and for testing: the first of every `every` is held out, as is usual for these data sets."""
    names = list(names)
    return [n for i, n in enumerate(names) if i % every], names[::every]
