"""COCO files: what is written is read back, by us and by pycocotools; broken ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from assay.data.tables.coco_json import read_coco, write_coco
from assay.errors import InputError


def content() -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 9}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "annotator": "ann"},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 5.5, 6], "annotator_id": 12},
            {"id": 3, "image_id": 7, "category_id": 3, "bbox": [0, 0, 5, 6], "attributes": {"annotator": "ann"}},
        ],
    }


def save(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_reading(tmp_path: Path) -> None:
    table = read_coco(save(tmp_path / "a.json", content()), annotator=True)
    assert_allclose(table.boxes, [[1, 2, 4, 6], [0, 0, 5.5, 6], [0, 0, 5, 6]])
    assert [table.classes[k] for k in table.labels] == ["dog", "cat", "cat"]
    assert [table.image_names[i] for i in table.images] == ["b.png", "a.png", "a.png"]
    assert [table.people[a] for a in table.annotators] == ["ann", "12", "ann"]
    assert table.image_records[0]["width"] == 10


def test_written_files_are_read_back_and_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    table = read_coco(save(tmp_path / "a.json", content()), annotator=True)
    more = [{"score": 0.5, "votes": {"ann": "dog"}}] * 3
    write_coco(
        tmp_path / "b.json",
        table.boxes,
        table.labels.tolist(),
        table.images.tolist(),
        categories=table.categories,
        image_records=table.image_records,
        more=more,
    )
    again = read_coco(tmp_path / "b.json")
    assert_allclose(again.boxes, table.boxes)
    assert_array_equal(again.labels, table.labels)
    assert again.categories == table.categories
    read = coco.COCO(str(tmp_path / "b.json"))
    assert read.loadAnns(read.getAnnIds(imgIds=[9]))[0]["bbox"] == [1, 2, 3, 4]
    assert read.loadCats([3])[0]["supercategory"] == "animal"


def change(part: str, value: Any, row: int | None = None, key: str = "") -> dict[str, Any]:
    data = content()
    if row is None:
        data[part] = value
    else:
        data[part][row][key] = value
    return data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "not a COCO file"),
        ({"images": []}, "no annotations, categories"),
        (change("annotations", []), "holds no boxes"),
        (change("annotations", [4]), "annotation 1: expected an object"),
        (change("annotations", [1, 2, 0, 4], 1, "bbox"), "annotation 2: bbox .* no area"),
        (change("annotations", [1, 2, float("nan"), 4], 1, "bbox"), "expected four numbers"),
        (change("annotations", [1, 2, 10**400, 4], 1, "bbox"), "expected four numbers"),
        (change("annotations", "1 2 3 4", 0, "bbox"), "expected four numbers"),
        (change("annotations", 5, 0, "image_id"), "image_id 5"),
        (change("annotations", [3], 0, "category_id"), "category_id"),
        (change("annotations", "", 0, "annotator"), "annotation 1: no field annotator or annotator_id"),
        (change("images", [{"file_name": "x"}]), "`images` must be a list"),
        (change("categories", [{"id": 1}, {"id": 1}]), "each once"),
    ],
)
def test_broken_files(tmp_path: Path, data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_coco(save(tmp_path / "a.json", data), annotator=True)


def test_not_json(tmp_path: Path) -> None:
    for text in (b"{", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "a.json").write_bytes(text)
        with pytest.raises(InputError, match="not JSON"):
            read_coco(tmp_path / "a.json")


def test_a_file_without_boxes_can_be_written(tmp_path: Path) -> None:
    write_coco(
        tmp_path / "none.json", np.zeros((0, 4)), [], [], categories=[], image_records=[], info={"description": "x"}
    )
    assert json.loads((tmp_path / "none.json").read_text())["annotations"] == []
