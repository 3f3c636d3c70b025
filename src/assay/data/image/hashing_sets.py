"""The sets that image hashing is measured on, in their official layouts: CIFAR-10, MSCOCO, class folders.

| layout | set |
|---|---|
| `cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin`: a label byte and 3x32x32 bytes a picture | CIFAR-10 |
| `annotations/instances_<split>.json`, pictures in `<split>/` or `images/` | MSCOCO, many labels |
| `train/<class>/*.JPEG`, `val/<class>/*.JPEG`, or `<class>/*.JPEG` | ImageNet subsets |

CIFAR-10's Python files are pickles and are not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.data.image.folder import IMAGE_SUFFIXES, DataError, load_image
from assay.errors import InputError

CIFAR = "cifar-10-batches-bin"
RECORD = 1 + 3 * 32 * 32
Picture = NDArray[np.float32]


@dataclass(frozen=True)
class HashingSet:
    """Pictures with labels.

    Attributes:
        labels: `(N, C)` many-hot.
        classes: names of the columns.
        load: picture of a row at a size: `(3, size, size)` in [0, 1].
    """

    labels: NDArray[np.uint8]
    classes: tuple[str, ...]
    load: Callable[[int, int], Picture]

    def __len__(self) -> int:
        return len(self.labels)

    def pictures(self, size: int) -> Iterator[Picture]:
        """All pictures in the order of the labels, read one by one.

        Raises:
            InputError: a picture that cannot be read.
        """
        for row in range(len(self)):
            try:
                yield self.load(row, size)
            except DataError as error:
                raise InputError(str(error)) from None


def read_hashing_set(folder: Path) -> HashingSet:
    """The set that lies in a folder.

    Raises:
        InputError: none of the layouts, or damaged files.
    """
    if (folder / CIFAR).is_dir():
        return read_cifar10(folder / CIFAR)
    annotations = sorted((folder / "annotations").glob("instances_*.json"))
    if annotations:
        return read_coco_labels(folder, annotations)
    if folder.is_dir():
        return read_class_folders(folder)
    raise InputError(f"{folder}: no such folder")


def read_cifar10(folder: Path) -> HashingSet:
    """CIFAR-10 in its binary version.

    Raises:
        InputError: no batches, or a file of another length or with other labels.
    """
    names = folder / "batches.meta.txt"
    classes = names.read_text(encoding="utf-8").split() if names.is_file() else [str(c) for c in range(10)]
    parts = []
    for file in sorted(folder.glob("*_batch*.bin")):
        rows = np.fromfile(file, dtype=np.uint8)
        if not rows.size or rows.size % RECORD:
            raise InputError(f"{file}: {rows.size} bytes are no whole number of records of {RECORD}")
        parts.append(rows.reshape(-1, RECORD))
    if not parts:
        raise InputError(f"{folder}: no data_batch_*.bin or test_batch.bin (the binary version is read)")
    table = np.concatenate(parts)
    if table[:, 0].max() >= len(classes):
        raise InputError(f"{folder}: label {table[:, 0].max()}, but there are {len(classes)} classes")

    def load(row: int, size: int) -> Picture:
        from PIL import Image

        picture = Image.fromarray(table[row, 1:].reshape(3, 32, 32).transpose(1, 2, 0))
        resized = picture.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255

    return HashingSet(np.eye(len(classes), dtype=np.uint8)[table[:, 0]], tuple(classes), load)


def read_coco_labels(root: Path, annotations: list[Path]) -> HashingSet:
    """Pictures of COCO with the categories that occur in them; pictures without any, or without a file, are left out.

    Raises:
        InputError: JSON of another form, or no picture.
    """
    names: dict[int, str] = {}
    found: dict[Path, set[int]] = {}
    for file in annotations:
        split = file.stem.removeprefix("instances_")
        try:
            given = json.loads(file.read_text(encoding="utf-8"))
            names |= {int(c["id"]): str(c["name"]) for c in given["categories"]}
            files = {int(image["id"]): str(image["file_name"]) for image in given["images"]}
            marked = [(int(a["image_id"]), int(a["category_id"])) for a in given["annotations"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file}: no COCO instances ({type(error).__name__}: {error})") from None
        paths = {number: _picture(root, split, name) for number, name in files.items()}
        for number, category in marked:
            path = paths.get(number)
            if path is not None and category in names:
                found.setdefault(path, set()).add(category)
    if not found:
        raise InputError(f"{root}: no picture of {', '.join(file.name for file in annotations)} is here")
    columns = {category: i for i, category in enumerate(sorted({c for cs in found.values() for c in cs}))}
    paths_in_order = sorted(found)
    labels = np.zeros((len(found), len(columns)), dtype=np.uint8)
    for row, path in enumerate(paths_in_order):
        labels[row, [columns[category] for category in found[path]]] = 1
    return HashingSet(labels, tuple(names[c] for c in columns), lambda row, size: load_image(paths_in_order[row], size))


def read_class_folders(root: Path) -> HashingSet:
    """Pictures in a folder per class, below `train/` and `val/` where these are there.

    Raises:
        InputError: fewer than two classes with pictures, or a link that leads out of the folder.
    """
    splits = [root / name for name in ("train", "val", "test") if (root / name).is_dir()] or [root]
    rows: list[tuple[Path, str]] = []
    for split in splits:
        for folder in sorted(p for p in split.iterdir() if p.is_dir() and not p.name.startswith(".")):
            for file in sorted(folder.rglob("*")):
                if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith("."):
                    if not file.resolve().is_relative_to(root.resolve()):
                        raise InputError(f"{file}: a link that leads out of {root}")
                    rows.append((file, folder.name))
    classes = tuple(sorted({name for _, name in rows}))
    if len(classes) < 2:
        raise InputError(f"{root}: expected a folder of pictures for each of at least 2 classes, found {len(classes)}")
    labels = np.eye(len(classes), dtype=np.uint8)[[classes.index(name) for _, name in rows]]
    return HashingSet(labels, classes, lambda row, size: load_image(rows[row][0], size))


def _picture(root: Path, split: str, name: str) -> Path | None:
    """The file of a picture inside the root, or None."""
    for place in (root / split / name, root / "images" / split / name, root / "images" / name):
        if place.is_file() and place.resolve().is_relative_to(root.resolve()):
            return place
    return None
