"""A user's folder of pictures as tensors in [-1, 1], and pictures written."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from assay.data.image.folder import IMAGE_SUFFIXES
from assay.errors import InputError

LEAST = 200
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Pictures:
    """Pictures `(N, C, S, S)` in [-1, 1], and their classes where folders name them.

    Attributes:
        names: paths below the folder.
        labels: `(N,)`, or None.
        classes: names of the classes, sorted; empty without.
    """

    x: Tensor
    names: tuple[str, ...]
    labels: Tensor | None
    classes: tuple[str, ...]


def read_pictures(root: Path, size: int, channels: str, by_folder: bool) -> Pictures:
    """Every picture below `root`; hidden files and links that lead out of it are left out.

    Transparent pictures are laid on white. Of 16-bit ones the full range counts.

    Args:
        root: folder.
        size: side that the centre square is brought to.
        channels: "auto" (all must agree), "grey" or "rgb".
        by_folder: the first folder below `root` is a picture's class.

    Raises:
        InputError: no folder, too few pictures, unreadable ones (named), grey and colour mixed, or no classes.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected a folder of pictures")
    files = [
        p for p in sorted(root.rglob("*"))
        if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and p.resolve().is_relative_to(root.resolve())
        and not any(part.startswith(".") for part in p.relative_to(root).parts)
    ]  # fmt: skip
    names = tuple(p.relative_to(root).as_posix() for p in files)
    if len(files) < LEAST:
        raise InputError(f"{root}: {len(files)} pictures ({', '.join(IMAGE_SUFFIXES)}); at least {LEAST} are needed")
    squares, grey, broken = [], [], []
    for name, file in zip(names, files, strict=True):
        try:
            square, is_grey = _read(file, size)
        except Exception:  # Pillow raises many kinds for damaged files (OSError, SyntaxError, struct.error, ...)
            broken.append(name)
            continue
        squares.append(square)
        grey.append(is_grey)
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise InputError(f"{root}: {len(broken)} pictures cannot be read: {', '.join(broken[:5])}{more}")
    if channels == "auto" and 0 < sum(grey) < len(grey):
        odd = names[grey.index(sum(grey) * 2 < len(grey))]
        raise InputError(
            f"{root}: {sum(grey)} grey and {len(grey) - sum(grey)} colour pictures (such as {odd}); "
            "bring them together with --channels grey or --channels rgb"
        )
    x = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
    if channels == "grey" or (channels == "auto" and grey[0]):
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
    labels, classes = _folders(root, names) if by_folder else (None, ())
    return Pictures((2 * x - 1).contiguous(), names, labels, classes)


def _folders(root: Path, names: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    bare = [name for name in names if "/" not in name]
    if bare:
        raise InputError(f"{root}: {bare[0]} lies in no class folder; sort pictures into folders or use --classes none")
    given = [name.split("/")[0] for name in names]
    classes = tuple(sorted(set(given)))
    if len(classes) < 2:
        raise InputError(f"{root}: one class folder ({classes[0]}); at least two are needed for --classes folders")
    return torch.tensor([classes.index(name) for name in given]), classes


def _read(file: Path, size: int) -> tuple[np.ndarray, bool]:
    """The centre square `(S, S, 3)` in [0, 1], and whether the file is grey."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file) as image:
            is_grey = image.mode in GREY_MODES
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            box = (left, top, left + side, top + side)
            if image.mode in ("I", "I;16", "I;16B", "I;16L"):
                image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8))
            elif "A" in image.mode or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small, dtype=np.float32) / 255, is_grey


def to_bytes(x: Tensor) -> np.ndarray:
    """Pictures `(N, C, H, W)` in [-1, 1] as `(N, H, W, 3)` bytes."""
    x = x.detach().cpu().expand(-1, 3, -1, -1) if x.shape[1] == 1 else x.detach().cpu()
    return ((x.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def write_grid(rows: Sequence[Tensor], file: Path) -> None:
    """Rows of pictures, each `(N, C, S, S)`, as one PNG."""
    lines = [np.concatenate(list(to_bytes(row)), axis=1) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines, axis=0)).save(file)
