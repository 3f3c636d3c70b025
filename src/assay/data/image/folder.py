"""Labelled images and features as users keep them: class folders, a CSV, or arrays.

| layout | read by |
|---|---|
| `root/<class>/**/*.jpg` (png, bmp, gif, tif, webp) | `read_class_folders` |
| CSV `path,label[,group][,video,frame]`, paths relative to the CSV | `read_label_table` |
| `features.npy` (N, D) or `probs.npy` (N, K) with a CSV of labels | `read_array`, `read_labels` |

Paths of a table must stay inside its folder. Arrays are read without pickle. Everything that a file may do wrong
raises `DataError`, which names the file and says what was expected.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class DataError(ValueError):
    """A user's file cannot be used; the message is one line with the file and what was expected."""


@dataclass(frozen=True)
class LabelTable:
    """Rows of a labelled data set.

    Attributes:
        names: (N,) name of each row: the path relative to `root` (or a row number for arrays).
        labels: (N,) class index.
        classes: class names, sorted; `labels` indexes them.
        root: folder that the names are relative to.
        group: (N,) patient, video or scene of each row: rows of one group are not independent; None if unknown.
        video, frame: (N,) video name and frame number, for rows that are frames of videos.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    root: Path
    group: NDArray[np.str_] | None = None
    video: NDArray[np.str_] | None = None
    frame: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """File of a row."""
        return self.root / self.names[row]

    @property
    def given(self) -> list[str]:
        """Class name of each row."""
        return [self.classes[label] for label in self.labels]


class ImageRows(torch.utils.data.Dataset):
    """The images of a table as float tensors (3, size, size) in [0, 1], read when asked for."""

    def __init__(self, table: LabelTable, size: int) -> None:
        self.table, self.size = table, size

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(load_image(self.table.path(int(row)), self.size))

    def stacked(self) -> torch.Tensor:
        """All images in memory, (N, 3, size, size)."""
        return torch.stack([self[row] for row in range(len(self))])


def read_class_folders(root: Path) -> LabelTable:
    """Images below `root/<class>/`, at any depth; the class is the first folder. Hidden files are skipped.

    Raises:
        DataError: no such folder, fewer than two classes with images, or a link that leads out of `root`.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one folder per class inside it")
    names, given = [], []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
                names.append(str(_contained(root, file.relative_to(root)).as_posix()))
                given.append(folder.name)
    return table_of(names, given, root)


def read_label_table(file: Path) -> LabelTable:
    """A CSV with columns `path,label` and optionally `group`, `video`, `frame`; other columns are ignored.

    A video without a group is its own group.

    Raises:
        DataError: unreadable CSV, missing columns or values, a path outside the CSV's folder, a missing image,
            a frame that is no number, or fewer than two classes.
    """
    rows = _rows(file, ("path", "label"))
    names = [_contained(file.parent, Path(row["path"]), f"{file}, line {i}").as_posix() for i, row in rows]
    for name in names:
        if not (file.parent / name).is_file():
            raise DataError(f"{file.parent / name}: named in {file.name}, but there is no such file")
    video, frame = _column(rows, "video"), _column(rows, "frame")
    numbers = None
    if frame is not None:
        try:
            numbers = np.array([int(value) for value in frame])
        except ValueError as error:
            raise DataError(f"{file}: column frame must hold whole numbers ({error})") from None
    group = _column(rows, "group")
    return table_of(
        names, [row["label"] for _, row in rows], file.parent, video if group is None else group, video, numbers
    )


def read_labels(file: Path, rows: int | None = None) -> LabelTable:
    """A CSV with a column `label` (optionally `path` or `name`, `group`, `video`, `frame`) that belongs to an array.

    Args:
        rows: number of rows the array has; None: not checked.

    Raises:
        DataError: unreadable CSV, no column `label`, another number of rows, or fewer than two classes.
    """
    found = _rows(file, ("label",))
    if rows is not None and len(found) != rows:
        raise DataError(f"{file}: {len(found)} rows, but the array has {rows}")
    names = _column(found, "path")
    names = _column(found, "name") if names is None else names
    video, frame = _column(found, "video"), _column(found, "frame")
    group = _column(found, "group")
    try:
        numbers = None if frame is None else np.array([int(value) for value in frame])
    except ValueError as error:
        raise DataError(f"{file}: column frame must hold whole numbers ({error})") from None
    rowname = [f"row {i}" for i in range(len(found))] if names is None else list(names)
    given = [row["label"] for _, row in found]
    return table_of(rowname, given, file.parent, video if group is None else group, video, numbers)


def read_array(file: Path, columns: str = "columns") -> NDArray[np.float32]:
    """A numeric `.npy` matrix (N, D) with finite entries.

    Args:
        columns: what the columns are, for messages.

    Raises:
        DataError: not an `.npy` file, pickled, not a numeric matrix, or not finite.
    """
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: not a plain .npy array ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "fiu" or array.shape[0] == 0:
        what = f"shape {array.shape}, type {array.dtype}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{file}: expected a numeric matrix (rows, {columns}), got {what}")
    if not np.isfinite(array).all():
        raise DataError(f"{file}: holds values that are not finite")
    return array.astype(np.float32)


def load_image(file: Path, size: int) -> NDArray[np.float32]:
    """An image as (3, size, size) in [0, 1]: the centre square, resampled with antialiasing.

    Raises:
        DataError: the file cannot be read as an image.
    """
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                box = (left, top, left + side, top + side)
                small = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, box=box)
    except Exception as error:  # Pillow raises many kinds for damaged files (OSError, SyntaxError, struct.error, ...)
        raise DataError(f"{file}: unreadable image ({error})") from None
    return np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 255


def image_hash(image: NDArray[np.float32]) -> int:
    """64-bit difference hash: whether brightness falls from each cell of an 8x9 grid to its right neighbour.

    Args:
        image: (3, H, W), H at least 8 and W at least 9.
    """
    grey = image.mean(axis=0)
    rows = np.array_split(np.arange(grey.shape[0]), 8)
    columns = np.array_split(np.arange(grey.shape[1]), 9)
    cells = np.array([[grey[np.ix_(r, c)].mean() for c in columns] for r in rows])
    bits = (cells[:, 1:] < cells[:, :-1]).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)


def near_duplicate_images(
    images: Iterable[NDArray[np.float32]], distance: int = 2, difference: float = 0.03
) -> list[list[int]]:
    """Sets of images that are nearly equal; sets of one are left out.

    Images whose hashes are linked (`near_duplicates`) are compared as grey 16x16 pictures: each joins the first one of
    its set that differs from it by at most `difference` on average. Flat pictures share hashes without being alike.

    Args:
        images: each (3, H, W) in [0, 1], H and W at least 16.
    """
    hashes, small = [], []
    for image in images:
        hashes.append(image_hash(image))
        parts = (np.array_split(np.arange(side), 16) for side in image.shape[1:])
        starts = [[part[0] for part in axis] for axis in parts]
        sums = np.add.reduceat(np.add.reduceat(image.mean(axis=0), starts[0], axis=0), starts[1], axis=1)
        small.append(sums / (image.shape[1] * image.shape[2] / 256))
    found = []
    for linked in near_duplicates(hashes, distance):
        sets: list[list[int]] = []
        for row in linked:
            near = next((one for one in sets if np.abs(small[one[0]] - small[row]).mean() <= difference), None)
            if near is None:
                sets.append([row])
            else:
                near.append(row)
        found += [rows for rows in sets if len(rows) > 1]
    return found


def near_duplicates(hashes: Sequence[int], distance: int = 3) -> list[list[int]]:
    """Sets of rows that are linked by hashes differing in at most `distance` of 64 bits; sets of one are left out.

    Hashes that differ in at most d bits agree in one of d + 1 bands of bits, so only rows that share a band are
    compared: exact, and fast on large sets.

    Raises:
        ValueError: a distance outside 0..15.
    """
    if not 0 <= distance <= 15:
        raise ValueError(f"distance must lie in 0..15, got {distance}")
    parent = list(range(len(hashes)))

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[int, int] = {}
    for row, value in enumerate(hashes):  # equal hashes first, so that bands compare distinct ones only
        parent[row] = find(first.setdefault(value, row))
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges):
        bands: dict[int, list[int]] = {}
        for value in first:
            bands.setdefault((value >> int(low)) & ((1 << int(high - low)) - 1), []).append(value)
        for members in bands.values():
            for i, a in enumerate(members):
                for b in members[i + 1 :]:
                    if (a ^ b).bit_count() <= distance:
                        parent[find(first[a])] = find(first[b])
    sets: dict[int, list[int]] = {}
    for row in range(len(hashes)):
        sets.setdefault(find(row), []).append(row)
    return [rows for rows in sets.values() if len(rows) > 1]


def table_of(
    names: Sequence[str],
    given: Sequence[str],
    root: Path,
    group: Sequence[str] | None = None,
    video: Sequence[str] | None = None,
    frame: NDArray[np.int64] | None = None,
) -> LabelTable:
    """A table from names and class names.

    Raises:
        DataError: no rows, or a single class.
    """
    classes = tuple(sorted(set(given)))
    if len(classes) < 2:
        found = f"one class ({classes[0]!r})" if classes else "no labelled rows"
        raise DataError(f"{root}: found {found}; finding wrong labels needs at least two classes")
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[name] for name in given], dtype=np.int64)
    groups = None if group is None else np.asarray(group, dtype=str)
    videos = None if video is None else np.asarray(video, dtype=str)
    return LabelTable(tuple(names), labels, classes, root, groups, videos, frame)


def _contained(root: Path, relative: Path, where: str = "") -> Path:
    """`relative` if it stays inside `root` when links are followed."""
    target = (root / relative).resolve()
    if relative.is_absolute() or not target.is_relative_to(root.resolve()):
        raise DataError(f"{where or root}: path {str(relative)!r} leads out of {root}")
    return relative


def _rows(file: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and row of a CSV that has the needed columns, values stripped."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.DictReader(handle)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            missing = [name for name in needed if name not in header]
            if missing:
                raise DataError(f"{file}: no column {missing[0]!r}; the header is {','.join(header) or 'empty'}")
            rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: unreadable CSV ({error})") from None
    for line, row in rows:
        for name in needed:
            if not row[name]:
                raise DataError(f"{file}, line {line}: no {name}")
    return rows


def _column(rows: list[tuple[int, dict[str, str]]], name: str) -> list[str] | None:
    return [row[name] for _, row in rows] if rows and name in rows[0][1] else None
