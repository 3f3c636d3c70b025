"""What `apply` of CytoCrowd reads, and the tables it writes beside the merged boxes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.data.tables import cytocrowd
from assay.data.tables.box_table import BoxTable, read_box_csv
from assay.data.tables.coco_json import read_coco
from assay.errors import InputError
from assay.methods.labels.cyto_crowd import Aggregate, Ints, Votes, annotator_reliability, pairwise_agreement
from assay.metrics.agreement import krippendorff_alpha


def as_votes(table: BoxTable) -> Votes:
    """A table of boxes as the method takes it."""
    return Votes(table.boxes, table.labels, table.annotators, table.images, len(table.categories))


def read_boxes(path: Path, *, annotator: bool) -> BoxTable:
    """Boxes of a COCO JSON, a CSV or the CytoCrowd folder, checked.

    Raises:
        InputError: another kind of file, or boxes that cannot be used.
    """
    if path.is_dir():
        if not cytocrowd.is_cytocrowd(path):
            raise InputError(
                f"{path}: expected the CytoCrowd folder with Datasets/WorkerData.csv, a .json or a .csv file"
            )
        table = cytocrowd.read_workers(path) if annotator else cytocrowd.read_gold(path)
    elif not path.is_file():
        raise InputError(f"no such file or folder: {path}")
    elif path.suffix.lower() == ".csv":
        table = read_box_csv(path, annotator=annotator)
    elif path.suffix.lower() == ".json":
        table = read_coco(path, annotator=annotator)
    else:
        raise InputError(f"{path}: expected a COCO .json, a .csv or the CytoCrowd folder")
    try:
        as_votes(table).validate()
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return table


def votes_by_group(table: BoxTable, groups: Ints) -> list[dict[str, str]]:
    """Annotator -> class, for each group."""
    said: list[dict[str, str]] = [{} for _ in range(int(groups.max()) + 1)]
    classes = table.classes
    for group, person, label in zip(groups, table.annotators, table.labels, strict=True):
        said[group][table.people[person]] = classes[label]
    return said


def class_agreement(votes: Votes, groups: Ints) -> float:
    """Krippendorff's alpha of the classes over groups, annotators who did not draw a group missing."""
    ratings = np.full((votes.n_annotators, int(groups.max()) + 1), np.nan)
    ratings[votes.annotators, groups] = votes.labels
    return krippendorff_alpha(ratings)


def annotator_rows(table: BoxTable, votes: Votes, groups: Ints) -> Iterable[dict[str, Any]]:
    """A line per annotator: boxes, how often confirmed, and agreement with each other one."""
    reliability = annotator_reliability(votes, groups)
    kappa, overlap, common = pairwise_agreement(votes, groups)
    for a, name in enumerate(table.people):
        row = {
            "annotator": name,
            "boxes": int((votes.annotators == a).sum()),
            "reliability": rounded(reliability[a]),
            "lone_share": rounded(1 - reliability[a]),
        }
        for b, other in enumerate(table.people):
            row |= {
                f"common_with_{other}": int(common[a, b]) if a != b else "",
                f"kappa_with_{other}": rounded(kappa[a, b]),
                f"iou_with_{other}": rounded(overlap[a, b]),
            }
        yield row


def disputed_rows(
    table: BoxTable, whole: Aggregate, kept: np.ndarray, said: Sequence[dict[str, str]]
) -> Iterable[dict[str, Any]]:
    """A line per group: most uncertain class first, then least sure to exist."""
    entropy, classes, names = whole.entropy(), table.classes, table.image_names
    for g in np.lexsort((whole.existence, -np.round(entropy, 9))):
        corners = dict(zip(("x0", "y0", "x1", "y1"), np.round(whole.boxes[g], 2).tolist(), strict=True))
        yield {
            "image": names[whole.images[g]],
            **corners,
            "label": classes[whole.labels[g]],
            "entropy": rounded(entropy[g]),
            "existence": rounded(whole.existence[g]),
            "kept": "yes" if kept[g] else "no",
            "votes": "; ".join(f"{person}: {name}" for person, name in said[g].items()),
        }


def write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows of one form with a header."""
    listed = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)


def rounded(value: float) -> float | None:
    """Four digits; None where there is no number."""
    return None if np.isnan(value) else round(float(value), 4)
