"""Frames of a user's video: from a file through PyAV, or from a folder of pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError, require

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
THUMB, MOST_THUMBS = 16, 512


@dataclass(frozen=True)
class Frames:
    """Frames spread evenly over a video.

    Attributes:
        images: each (H, W, 3) of bytes, in the order of time.
        seconds: time of each; the frame's number for a folder of pictures.
        thumbs: (M, 16, 16) grey in [0, 1] of many more frames, to find where a picture comes from.
        total: frames of the whole video.
    """

    images: list[NDArray[np.uint8]]
    seconds: list[float]
    thumbs: NDArray[np.float32]
    total: int


def read_frames(path: Path, count: int, longest: int = 768) -> Frames:
    """`count` frames (all, where there are fewer): the middles of as many equal parts.

    Args:
        path: a video file in any format FFmpeg reads, or a folder of pictures, taken in natural order of their names.
        longest: larger frames are reduced to this longer side (pixels).

    Raises:
        InputError: nothing is there, or it cannot be read.
        MissingExtra: PyAV is not installed (extra `evaluation`).
    """
    if count < 1:
        raise InputError(f"{count} frames: expected at least 1")
    if path.is_dir():
        return _folder(path, count, longest)
    if not path.is_file():
        raise InputError(f"video {path} does not exist")
    return _file(path, count, longest)


def pictures_in(folder: Path) -> list[Path]:
    """Picture files of a folder, `f2` before `f10`.

    Raises:
        InputError: there is none.
    """
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".") and p.is_file()]
    if not found:
        raise InputError(f"{folder} holds no pictures ({', '.join(PICTURES)})")
    return sorted(found, key=lambda p: [(0, int(s), "") if s.isdigit() else (1, 0, s)
                                        for s in re.split(r"(\d+)", p.name.casefold())])  # fmt: skip


def read_picture(path: Path, longest: int = 768) -> NDArray[np.uint8]:
    """A picture file as (H, W, 3) of bytes; transparency over white.

    Raises:
        InputError: it cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture)
            elif picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
                values = np.asarray(picture, dtype=np.float64)
                span = max(float(np.ptp(values)), 1e-12)
                picture = Image.fromarray(((values - values.min()) / span * 255).astype(np.uint8))
            picture = picture.convert("RGB")
            picture.thumbnail((longest, longest))
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"picture {path} cannot be read: {str(error)[:120] or type(error).__name__}") from error


def thumb(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A picture as 16 x 16 grey values in [0, 1]."""
    from PIL import Image

    small = Image.fromarray(image).convert("L").resize((THUMB, THUMB), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def nearest_distance(image: NDArray[np.uint8], thumbs: NDArray[np.float32]) -> float:
    """Mean absolute difference in [0, 1] to the most similar of many frames' thumbs."""
    return float(np.abs(thumbs - thumb(image)).mean(axis=(1, 2)).min())


def _wanted(total: int, count: int) -> list[int]:
    count = min(count, total)
    return [int((2 * part + 1) * total / (2 * count)) for part in range(count)]


def _folder(path: Path, count: int, longest: int) -> Frames:
    files = pictures_in(path)
    chosen = _wanted(len(files), count)
    looked = sorted({*chosen, *_wanted(len(files), MOST_THUMBS)})
    images, thumbs = {}, []
    for number in looked:
        image = read_picture(files[number], longest)
        thumbs.append(thumb(image))
        if number in chosen:
            images[number] = image
    return Frames([images[n] for n in chosen], [float(n) for n in chosen], np.array(thumbs), len(files))


def _file(path: Path, count: int, longest: int) -> Frames:
    av = require("av", "evaluation")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video")
            total = sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)
        if not total:
            raise InputError(f"{path} holds no frames")
        chosen, looked = set(_wanted(total, count)), set(_wanted(total, MOST_THUMBS))
        images, seconds, thumbs, number = [], [], [], -1
        last = None
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number in chosen or number in looked:
                    last = _reduced(frame, longest)
                    thumbs.append(thumb(last))
                    if number in chosen:
                        images.append(last)
                        seconds.append(float(frame.time if frame.time is not None else number))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(f"video {path} cannot be read: {str(error).splitlines()[0][:120]}") from error
    if not images and last is not None:
        images, seconds = [last], [0.0]
    if not images:
        raise InputError(f"video {path}: none of its frames can be decoded")
    return Frames(images, seconds, np.array(thumbs), number + 1)


def _reduced(frame: object, longest: int) -> NDArray[np.uint8]:
    picture = frame.to_image()  # type: ignore[attr-defined]
    picture.thumbnail((longest, longest))
    return np.asarray(picture.convert("RGB"))
