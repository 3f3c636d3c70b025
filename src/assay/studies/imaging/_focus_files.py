"""Focus stacks as users keep them: a folder of pictures in 8 or 16 bits, or a TIFF of several pages; and back.

Frames are unpacked one at a time into plain files on disk, so that a window of all of them can be read without
holding the stack in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from assay.errors import InputError, require

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
WRITABLE = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
LARGEST = 200_000_000  # pixels of a frame


@dataclass(frozen=True)
class Frames:
    """An unpacked stack.

    Attributes:
        names: of the frames, in order of focus as named.
        files: raw pixels `(H, W, 3)` of each.
        height, width: in pixels.
        depth: 8 or 16 bits a channel.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    height: int
    width: int
    depth: int

    def read(self, top: int, bottom: int, left: int, right: int) -> Tensor:
        """A window of all frames, `(N, 3, h, w)` in [0, 1]."""
        kind = np.dtype(np.uint8 if self.depth == 8 else np.uint16)
        row = self.width * 3 * kind.itemsize
        made = torch.empty(len(self.files), 3, bottom - top, right - left)
        for index, file in enumerate(self.files):
            band = np.fromfile(file, kind, (bottom - top) * self.width * 3, offset=top * row)
            part = band.reshape(bottom - top, self.width, 3)[:, left:right]
            made[index] = torch.from_numpy(part.transpose(2, 0, 1).astype(np.float32) / (2**self.depth - 1))
        return made

    def small(self, side: int) -> tuple[Tensor, int]:
        """All frames averaged over blocks so that the longer side is about `side`: `(N, 3, h, w)`, and the block."""
        block = max(1, round(max(self.height, self.width) / side))
        rows, columns = self.height // block, self.width // block
        made = torch.empty(len(self.files), 3, rows, columns)
        step = max(1, 256 // block) * block
        for top in range(0, rows * block, step):
            bottom = min(top + step, rows * block)
            part = self.read(top, bottom, 0, columns * block)
            made[:, :, top // block : bottom // block] = torch.nn.functional.avg_pool2d(part, block)
        return made, block


def open_stack(source: Path, scratch: Path, resize: bool = False) -> Frames:
    """Unpack a stack into files below `scratch`.

    Args:
        source: folder of pictures, taken in the order of their names, or a TIFF of several pages.
        resize: draw frames of another size to that of the first (only sensible where they are aligned afterwards).

    Raises:
        InputError: no such stack, fewer than two frames, an unreadable picture, or sizes that differ.
    """
    names, files, shape, deep = [], [], None, 8
    for name, pixels in _pictures(source):
        if pixels.shape[0] * pixels.shape[1] > LARGEST:
            raise InputError(f"{name}: more than {LARGEST:,} pixels")
        if shape is None:
            shape = pixels.shape
        elif pixels.shape != shape and resize:
            small = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
            small = torch.nn.functional.interpolate(small, shape[:2], mode="bilinear", antialias=True)[0]
            pixels = small.permute(1, 2, 0).round().numpy().astype(pixels.dtype)
        elif pixels.shape != shape:
            raise InputError(
                f"{name}: {pixels.shape[1]}x{pixels.shape[0]} pixels, but the first frame has {shape[1]}x{shape[0]};"
                " crop them alike or give --register"
            )
        file = scratch / f"{len(files):05d}.raw"
        pixels.tofile(file)
        names.append(name)
        files.append((file, pixels.dtype))
        deep = max(deep, 8 * pixels.dtype.itemsize)
    if len(files) < 2 or shape is None:
        found = f"one frame ({names[0]})" if names else "no pictures"
        raise InputError(f"{source}: {found}; a focus stack needs at least two frames ({', '.join(SUFFIXES)})")
    for file, kind in files:
        if 8 * kind.itemsize != deep:  # 8-bit frames among 16-bit ones
            (np.fromfile(file, np.uint8).astype(np.uint16) * 257).tofile(file)
    return Frames(tuple(names), tuple(file for file, _ in files), shape[0], shape[1], deep)


def write_picture(file: Path, pixels: NDArray) -> None:
    """A picture `(H, W, 3)` or `(H, W)`, 8 or 16 bits; 16-bit colour PNG goes through SimpleITK.

    Raises:
        InputError: a suffix that cannot hold it.
    """
    suffix = file.suffix.lower()
    if suffix in (".tif", ".tiff"):
        require("tifffile", "imaging").imwrite(file, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack")
    elif pixels.dtype == np.uint16 and pixels.ndim == 3:
        if suffix != ".png":
            raise InputError(f"{file.name}: the frames have 16 bits; give an --out that ends in .png or .tif")
        sitk = require("SimpleITK", "imaging")
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(file))
    else:
        Image.fromarray(pixels).save(file, **({"quality": 95} if suffix in (".jpg", ".jpeg") else {}))


def _pictures(source: Path) -> Iterator[tuple[str, NDArray]]:
    if source.is_file():
        if source.suffix.lower() not in (".tif", ".tiff"):
            raise InputError(f"{source}: expected a folder of frames, or a TIFF of several pages")
        yield from _pages(source)
        return
    if not source.is_dir():
        raise InputError(f"no such file or folder: {source}")
    root = source.resolve()
    for file in sorted(source.iterdir(), key=lambda path: path.name):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file():
            if not file.resolve().is_relative_to(root):
                raise InputError(f"{file}: leads out of {source}")
            yield file.name, _picture(file)


def _pages(file: Path) -> Iterator[tuple[str, NDArray]]:
    tifffile = require("tifffile", "imaging")
    try:
        with tifffile.TiffFile(file) as opened:
            for number, page in enumerate(opened.pages):
                yield f"{file.name}, page {number + 1}", _colour(page.asarray(), f"{file.name}, page {number + 1}")
    except InputError:
        raise
    except Exception as error:  # damaged files raise many kinds
        raise InputError(f"{file}: unreadable TIFF ({error})") from error


def _picture(file: Path) -> NDArray:
    if file.suffix.lower() in (".tif", ".tiff"):
        pages = list(_pages(file))
        if len(pages) != 1:
            raise InputError(f"{file}: {len(pages)} pages in a frame of a folder; give the file itself as the stack")
        return pages[0][1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.format == "PNG" and _bits_of_png(file) == 16 and image.mode != "I;16":
                    sitk = require("SimpleITK", "imaging")
                    return _colour(sitk.GetArrayFromImage(sitk.ReadImage(str(file))), str(file))
                pixels = np.asarray(image if image.mode in ("L", "RGB", "RGBA", "LA", "I;16") else image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{file}: unreadable image ({error})") from error
    return _colour(pixels, str(file))


def _bits_of_png(file: Path) -> int:
    with file.open("rb") as handle:
        return handle.read(25)[24]


def _colour(pixels: NDArray, name: str) -> NDArray:
    """Three channels of 8 or 16 bits; transparency is left out."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 2, 3, 4) or pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{name}: expected grey or colour of 8 or 16 bits, got {pixels.shape} of {pixels.dtype}")
    pixels = pixels[..., :1] if pixels.shape[2] < 3 else pixels[..., :3]
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
