"""COCO detection files: boxes with classes, and who drew them where the file says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from assay.data.tables.box_table import BoxTable
from assay.errors import InputError

ANNOTATOR_FIELDS = ("annotator", "annotator_id")


def read_coco(path: Path, *, annotator: bool = False) -> BoxTable:
    """Read a COCO detection file.

    Args:
        path: JSON with `images`, `annotations` and `categories`; boxes are `[x, y, width, height]` in pixels.
        annotator: whether each annotation must name who drew it, in a field `annotator` or `annotator_id` of its
            own or of its `attributes` (as CVAT exports it).

    Returns:
        The boxes in the order of the file, with corners x0, y0, x1, y1; image and category records as they were.

    Raises:
        InputError: not such a file; the message names the first annotation that cannot be used.
    """
    content = _load(path)
    images, categories = (_records(path, content, part, key) for part, key in _NAMES)
    annotations = content["annotations"]
    if not isinstance(annotations, list) or not annotations:
        raise InputError(f"{path}: `annotations` holds no boxes")
    image_row = {record["id"]: row for row, record in enumerate(images)}
    class_row = {record["id"]: row for row, record in enumerate(categories)}
    boxes, labels, where, who = [], [], [], []
    for number, entry in enumerate(annotations, 1):
        place = f"{path}, annotation {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{place}: expected an object")
        boxes.append(_corners(place, entry.get("bbox")))
        labels.append(_row(place, "category_id", entry, class_row))
        where.append(_row(place, "image_id", entry, image_row))
        who.append(_annotator(place, entry) if annotator else "")
    people, index = np.unique(np.asarray(who, dtype=object).astype(str), return_inverse=True)
    return BoxTable(
        boxes=np.array(boxes, dtype=float),
        labels=np.array(labels, dtype=np.int64),
        annotators=index.astype(np.int64),
        images=np.array(where, dtype=np.int64),
        categories=tuple(categories),
        people=tuple(people.tolist()) if annotator else (),
        image_records=tuple(images),
    )


def write_coco(
    path: Path,
    boxes: ArrayLike,
    labels: Sequence[int],
    images: Sequence[int],
    *,
    categories: Sequence[Mapping[str, Any]],
    image_records: Sequence[Mapping[str, Any]],
    more: Sequence[Mapping[str, Any]] | None = None,
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a COCO detection file.

    Args:
        path: where to.
        boxes: `(N, 4)` corners x0, y0, x1, y1 in pixels.
        labels, images: `(N,)` rows of `categories` and of `image_records`.
        categories, image_records: COCO records with at least `id`.
        more: `(N,)` further fields of each annotation, such as `score`.
        info: the file's `info`.
    """
    entries = []
    corners = np.asarray(boxes, dtype=float).reshape(-1, 4).tolist()
    for row, (x0, y0, x1, y1) in enumerate(corners):
        entries.append(
            {
                "id": row + 1,
                "image_id": image_records[images[row]]["id"],
                "category_id": categories[labels[row]]["id"],
                "bbox": [round(value, 3) for value in (x0, y0, x1 - x0, y1 - y0)],
                "area": round((x1 - x0) * (y1 - y0), 3),
                "iscrowd": 0,
                **(more[row] if more else {}),
            }
        )
    content = {
        "info": dict(info or {}),
        "images": [dict(record) for record in image_records],
        "annotations": entries,
        "categories": [dict(record) for record in categories],
    }
    path.write_text(json.dumps(content, ensure_ascii=False, allow_nan=False), encoding="utf-8")


_NAMES = (("images", "file_name"), ("categories", "name"))


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a COCO file, expected an object with images, annotations and categories")
    missing = [part for part in ("images", "annotations", "categories") if part not in content]
    if missing:
        raise InputError(f"{path}: not a COCO file, it has no {', '.join(missing)}")
    return content


def _records(path: Path, content: Mapping[str, Any], part: str, key: str) -> list[dict[str, Any]]:
    records = content[part]
    if not isinstance(records, list) or not all(isinstance(r, dict) and "id" in r for r in records):
        raise InputError(f"{path}: `{part}` must be a list of objects with an `id`")
    ids = [r["id"] for r in records]
    if not all(isinstance(i, (int, str)) for i in ids) or len(set(ids)) < len(ids):
        raise InputError(f"{path}: `{part}` must have ids that are numbers or texts, each once")
    return [{**record, key: str(record.get(key, record["id"]))} for record in records]


def _corners(place: str, box: Any) -> list[float]:
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise InputError(f"{place}: bbox is {str(box)[:60]}, expected four numbers [x, y, width, height]")
    x, y, width, height = box
    if width <= 0 or height <= 0:
        raise InputError(f"{place}: bbox {box} has no area, expected a positive width and height")
    return [x, y, x + width, y + height]


def _row(place: str, key: str, entry: Mapping[str, Any], rows: Mapping[Any, int]) -> int:
    value = entry.get(key)
    if not isinstance(value, (int, str)) or value not in rows:
        raise InputError(f"{place}: {key} {str(value)[:60]} is not among the file's records")
    return rows[value]


def _annotator(place: str, entry: Mapping[str, Any]) -> str:
    attributes = entry.get("attributes")
    for source in (entry, attributes if isinstance(attributes, dict) else {}):
        for name in ANNOTATOR_FIELDS:
            if isinstance(source.get(name), (int, str)) and str(source[name]).strip():
                return str(source[name]).strip()
    raise InputError(f"{place}: no field {' or '.join(ANNOTATOR_FIELDS)} says who drew the box")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12  # not NaN either
