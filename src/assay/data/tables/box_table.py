"""Boxes that people drew, as arrays with their names; the common form of the readers, and a simulator of a crowd."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class BoxTable:
    """N boxes in I images, drawn by A people, with K classes.

    Attributes:
        boxes: `(N, 4)`, x0, y0, x1, y1 in pixels.
        labels: `(N,)` rows of `categories`.
        annotators: `(N,)` rows of `people`; all 0 where nobody is named.
        images: `(N,)` rows of `image_records`.
        categories: COCO records with at least `id` and `name`.
        people: what the file calls the annotators; empty for gold boxes.
        image_records: COCO records with at least `id` and `file_name`.
    """

    boxes: Floats
    labels: Ints
    annotators: Ints
    images: Ints
    categories: tuple[Mapping[str, Any], ...]
    people: tuple[str, ...]
    image_records: tuple[Mapping[str, Any], ...]

    @property
    def classes(self) -> list[str]:
        """Class names in the order of `labels`."""
        return [str(record["name"]) for record in self.categories]

    @property
    def image_names(self) -> list[str]:
        """File names in the order of `images`."""
        return [str(record["file_name"]) for record in self.image_records]

    def take_images(self, drawn: Ints) -> BoxTable:
        """The boxes of the drawn images `(D,)`; an image drawn twice becomes two images."""
        order = np.argsort(self.images, kind="stable")
        count = np.bincount(self.images, minlength=len(self.image_records))
        start = np.cumsum(count) - count
        rows = [order[start[i] : start[i] + count[i]] for i in drawn]
        taken = np.concatenate([np.zeros(0, np.int64), *rows])
        return replace(
            self,
            boxes=self.boxes[taken],
            labels=self.labels[taken],
            annotators=self.annotators[taken],
            images=np.repeat(np.arange(len(drawn)), count[drawn]),
            image_records=tuple(self.image_records[i] for i in drawn),
        )


def from_rows(
    boxes: Floats,
    labels: Sequence[str],
    images: Sequence[str],
    people: Sequence[str] | None = None,
) -> BoxTable:
    """A table from names; images, people and classes are numbered in sorted order.

    Raises:
        ValueError: lengths differ.
    """
    classes, label = _numbered(labels)
    names, image = _numbered(images)
    who, annotator = _numbered(people) if people is not None else ([], np.zeros(len(labels), np.int64))
    if not len(boxes) == len(label) == len(image) == len(annotator):
        raise ValueError("boxes, labels, images and people must be equally many")
    return BoxTable(
        boxes=np.asarray(boxes, dtype=float).reshape(-1, 4),
        labels=label,
        annotators=annotator,
        images=image,
        categories=tuple({"id": k + 1, "name": name} for k, name in enumerate(classes)),
        people=tuple(who),
        image_records=tuple({"id": i + 1, "file_name": name} for i, name in enumerate(names)),
    )


def share_names(votes: BoxTable, gold: BoxTable) -> tuple[BoxTable, BoxTable]:
    """Both tables numbered alike: classes are matched by name and images by file name; gold's new ones come last."""
    categories = _union(votes.categories, gold.categories, "name")
    records = _union(votes.image_records, gold.image_records, "file_name")
    label = _places(gold.categories, categories, "name")
    image = _places(gold.image_records, records, "file_name")
    return (
        replace(votes, categories=categories, image_records=records),
        replace(
            gold, labels=label[gold.labels], images=image[gold.images], categories=categories, image_records=records
        ),
    )


def read_box_csv(path: Path, *, annotator: bool = True) -> BoxTable:
    """Read `image,annotator,x0,y0,x1,y1,label` (any order, more columns are ignored).

    Args:
        path: CSV file with a header, UTF-8.
        annotator: whether the annotator column must be there; gold boxes have none.

    Raises:
        InputError: a missing column, a number that cannot be read, an empty name, or no rows.
    """
    wanted = ["image", *(["annotator"] if annotator else []), *CORNERS, "label"]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [name for name in wanted if name not in (rows.fieldnames or [])]
            if missing:
                raise InputError(
                    f"{path}: no column {', '.join(missing)}; expected the columns {','.join(wanted)},"
                    f" got {','.join(rows.fieldnames or [])[:200]}"
                )
            kept = [_csv_row(path, rows.line_num, row, wanted) for row in rows]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text; expected a CSV file") from error
    except csv.Error as error:
        raise InputError(f"{path}: not a CSV file ({error})") from error
    if not kept:
        raise InputError(f"{path}: no rows after the header")
    return from_rows(
        np.array([[float(row[c]) for c in CORNERS] for row in kept]),
        [row["label"] for row in kept],
        [row["image"] for row in kept],
        [row["annotator"] for row in kept] if annotator else None,
    )


def simulate_crowd(
    scenes: int,
    rng: np.random.Generator,
    *,
    accuracy: Sequence[float],
    detection: Sequence[float],
    false_boxes: Sequence[float],
    class_shares: Sequence[float],
    wrong: Literal["uniform", "shared"] = "uniform",
    objects: float = 12.0,
    jitter: float = 0.06,
    canvas: tuple[int, int] = (3840, 2160),
) -> tuple[BoxTable, BoxTable]:
    """Votes of a crowd on scenes with known objects, and the objects.

    A scene holds Poisson(`objects`) boxes with sides exp(N(log 250, 0.4)) placed uniformly, of class k with
    probability `class_shares[k]`. Annotator a, independently of the others,

        sees each object with probability detection[a] and moves each edge by N(0, (jitter * side)**2),
        names its class with probability accuracy[a], else a wrong one: any other alike (`uniform`), or
        the class k + 1 mod K, the same for every annotator (`shared`),
        draws Poisson(false_boxes[a]) boxes where nothing is, with classes from `class_shares`.

    Args:
        scenes: number of scenes.
        rng: source of chance.
        accuracy, detection, false_boxes: one number per annotator.
        class_shares: one number per class, normalised here.
        wrong: how errors fall.
        objects: mean number per scene.
        jitter: relative to the side.
        canvas: width and height.

    Returns:
        (votes, gold) with common names.

    Raises:
        ValueError: lengths differ, a probability outside [0, 1], fewer than two classes, or fewer than one scene.
    """
    people = len(accuracy)
    if not people == len(detection) == len(false_boxes):
        raise ValueError("accuracy, detection and false_boxes must be equally long")
    if not all(0 <= p <= 1 for p in (*accuracy, *detection)):
        raise ValueError("accuracy and detection must lie in [0, 1]")
    if len(class_shares) < 2 or scenes < 1 or jitter < 0:
        raise ValueError("at least two classes, one scene and a jitter of at least 0 are needed")
    shares = np.asarray(class_shares, dtype=float) / sum(class_shares)
    k = len(shares)

    def draw(mean: float) -> tuple[Floats, Ints, Ints]:
        image = np.repeat(np.arange(scenes), rng.poisson(mean, scenes))
        side = np.exp(rng.normal(np.log(250), 0.4, (len(image), 2)))
        corner = rng.uniform(0, 1, (len(image), 2)) * np.maximum(np.asarray(canvas) - side, 1)
        return np.concatenate([corner, corner + side], axis=1), rng.choice(k, len(image), p=shares), image

    gold, truth, where = draw(objects)
    side = np.tile(gold[:, 2:] - gold[:, :2], 2)
    parts = []
    for a in range(people):
        seen = rng.random(len(gold)) < detection[a]
        moved = gold + rng.normal(0, 1, gold.shape) * jitter * side
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        step = rng.integers(1, k, len(gold)) if wrong == "uniform" else np.ones(len(gold), np.int64)
        said = np.where(rng.random(len(gold)) < accuracy[a], truth, (truth + step) % k)
        boxes, labels, images = draw(false_boxes[a])
        parts.append(
            (
                np.concatenate([moved[seen], boxes]),
                np.concatenate([said[seen], labels]),
                np.concatenate([where[seen], images]),
                np.full(int(seen.sum()) + len(boxes), a),
            )
        )
    boxes, labels, images, who = (np.concatenate(part) for part in zip(*parts, strict=True))
    categories = tuple({"id": c + 1, "name": f"class {c + 1}"} for c in range(k))
    records = tuple({"id": i + 1, "file_name": f"scene {i + 1}"} for i in range(scenes))
    names = tuple(f"annotator {a + 1}" for a in range(people))
    return (
        BoxTable(boxes, labels, who, images, categories, names, records),
        BoxTable(gold, truth, np.zeros(len(gold), np.int64), where, categories, (), records),
    )


def _csv_row(path: Path, line: int, row: Mapping[str, str | None], wanted: Sequence[str]) -> Mapping[str, str]:
    for name in wanted:
        value = row[name]
        if value is None or not value.strip():
            raise InputError(f"{path}, line {line}: column {name} is empty")
        if name in CORNERS and not _is_number(value):
            raise InputError(f"{path}, line {line}: {name} is {value!r}, expected a number")
    return {name: (row[name] or "").strip() for name in wanted}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _numbered(names: Sequence[str]) -> tuple[list[str], Ints]:
    found, index = np.unique(np.asarray(names, dtype=object).astype(str), return_inverse=True)
    return found.tolist(), index.astype(np.int64)


def _union(
    mine: tuple[Mapping[str, Any], ...], theirs: tuple[Mapping[str, Any], ...], key: str
) -> tuple[Mapping[str, Any], ...]:
    known = {str(record[key]) for record in mine}
    new = [record for record in theirs if str(record[key]) not in known]
    highest = max((record["id"] for record in mine if isinstance(record["id"], int)), default=0)
    return (*mine, *({**record, "id": highest + n} for n, record in enumerate(new, 1)))


def _places(old: tuple[Mapping[str, Any], ...], new: tuple[Mapping[str, Any], ...], key: str) -> Ints:
    place = {str(record[key]): i for i, record in enumerate(new)}
    return np.array([place[str(record[key])] for record in old], dtype=np.int64)
