"""A user's pictures for hashing, with labels or without."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.data.image.folder import IMAGE_SUFFIXES, DataError, load_image
from assay.errors import InputError

HEADERS = {"file", "path", "image", "name", "filename"}


@dataclass(frozen=True)
class Files:
    """Pictures of a folder.

    Attributes:
        root: folder that the names are relative to.
        names: of the pictures.
        labels: `(N, C)` many-hot; no columns where there are no labels.
        classes: names of the columns.
    """

    root: Path
    names: tuple[str, ...]
    labels: NDArray[np.uint8]
    classes: tuple[str, ...]

    def pictures(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Every picture `(3, size, size)` in [0, 1], read one by one.

        Raises:
            InputError: a picture that cannot be read.
        """
        for name in self.names:
            try:
                yield load_image(self.root / name, size)
            except DataError as error:
                raise InputError(str(error)) from None


def read_labelled(images: Path) -> Files:
    """A folder with a folder per class, or a CSV of lines `file,label1;label2` with files relative to it.

    Raises:
        InputError: no such place, an unreadable CSV, a file that is missing or lies elsewhere, fewer than 2 classes, or
            fewer than 4 pictures.
    """
    if images.is_dir():
        files = [p for p in pictures_below(images) if p.parent != images]
        given = [(p.relative_to(images).as_posix(), {p.relative_to(images).parts[0]}) for p in files]
        root = images
    elif images.is_file():
        given, root = _lines(images), images.parent
    else:
        raise InputError(f"{images}: no such file or folder; expected a folder of class folders or a CSV")
    classes = tuple(sorted({label for _, labels in given for label in labels}))
    if len(classes) < 2:
        found = f"the one class {classes[0]!r}" if classes else "none"
        raise InputError(f"{images}: expected pictures of at least 2 classes, found {found}")
    if len(given) < 4:
        raise InputError(f"{images}: {len(given)} pictures are too few; at least 4 are expected")
    column = {name: i for i, name in enumerate(classes)}
    table = np.zeros((len(given), len(classes)), dtype=np.uint8)
    for row, (_, labels) in enumerate(given):
        table[row, [column[label] for label in labels]] = 1
    return Files(root, tuple(name for name, _ in given), table, classes)


def read_pictures(place: Path) -> Files:
    """A picture, or all pictures below a folder.

    Raises:
        InputError: no such place, or no picture in the folder.
    """
    if place.is_file():
        return _unlabelled(place.parent, [place])
    if not place.is_dir():
        raise InputError(f"{place}: no such picture or folder")
    files = pictures_below(place)
    if not files:
        raise InputError(f"{place}: no pictures in this folder ({', '.join(IMAGE_SUFFIXES)})")
    return _unlabelled(place, files)


def pictures_below(root: Path) -> list[Path]:
    """Pictures at any depth, sorted; hidden ones are skipped.

    Raises:
        InputError: a link that leads out of the folder.
    """
    files = sorted(
        path for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )  # fmt: skip
    outside = next((path for path in files if not path.resolve().is_relative_to(root.resolve())), None)
    if outside is not None:
        raise InputError(f"{outside}: a link that leads out of {root}")
    return files


def _unlabelled(root: Path, files: list[Path]) -> Files:
    names = tuple(path.relative_to(root).as_posix() for path in files)
    return Files(root, names, np.zeros((len(names), 0), dtype=np.uint8), ())


def _lines(table: Path) -> list[tuple[str, set[str]]]:
    """File and labels of every line of a CSV; a first line such as `file,labels` is a header."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as handle:
            rows = [[cell.strip() for cell in row] for row in csv.reader(handle) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: unreadable CSV ({error})") from None
    if rows and rows[0][0].lower() in HEADERS:
        rows = rows[1:]
    found: dict[str, set[str]] = {}
    root = table.parent.resolve()
    for row in rows:
        labels = {label.strip() for label in row[1].split(";") if label.strip()} if len(row) == 2 else set()
        if not labels:
            raise InputError(f"{table}: expected lines file,label1;label2, got {','.join(row)!r}")
        path = (table.parent / row[0]).resolve()
        if Path(row[0]).is_absolute() or not path.is_relative_to(root):
            raise InputError(f"{table}: {row[0]!r} leads out of the folder of the CSV")
        if not path.is_file():
            raise InputError(f"{table.parent / row[0]}: named in {table.name}, but there is no such file")
        found.setdefault(row[0], set()).update(labels)
    return list(found.items())
