"""Tables of boxes: CSV in, common names, drawn images, and what the simulator promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from assay.data.tables.box_table import from_rows, read_box_csv, share_names, simulate_crowd
from assay.errors import InputError

CSV = """label,image,annotator,x0,y0,x1,y1,note
b,two.png,ann,1,2,3.5,4,x
a,one.png,bob,0,0,1,1,
b,two.png,bob,1,2,3,4,
"""


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(CSV)
    table = read_box_csv(path)
    assert_allclose(table.boxes[0], [1, 2, 3.5, 4])
    assert [table.classes[k] for k in table.labels] == ["b", "a", "b"]
    assert [table.people[a] for a in table.annotators] == ["ann", "bob", "bob"]
    assert [table.image_names[i] for i in table.images] == ["two.png", "one.png", "two.png"]
    assert read_box_csv(path, annotator=False).people == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,x0,y0,x1,y1,label\n", "no column annotator; expected the columns image,annotator"),
        ("image,annotator,x0,y0,x1,y1,label\n", "no rows"),
        ("image,annotator,x0,y0,x1,y1,label\na,b,0,0,nan,1,c\n", "line 2: x1 is 'nan'"),
        ("image,annotator,x0,y0,x1,y1,label\na,b,0,0,1\n", "line 2: column y1 is empty"),
        ("image,annotator,x0,y0,x1,y1,label\na, ,0,0,1,1,c\n", "annotator is empty"),
        ("", "no column image"),
    ],
)
def test_broken_csv(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_box_csv(path)


def test_not_text(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_bytes(b"\xff\xfe\x00\x01" * 50)
    with pytest.raises(InputError, match="UTF-8"):
        read_box_csv(path)


def test_common_names() -> None:
    boxes = np.array([[0, 0, 1, 1.0], [0, 0, 2, 2]])
    votes = from_rows(boxes, ["cat", "dog"], ["1.png", "2.png"], ["x", "y"])
    gold = from_rows(boxes, ["bird", "dog"], ["2.png", "3.png"])
    a, b = share_names(votes, gold)
    assert a.categories == b.categories
    assert a.classes == ["cat", "dog", "bird"]
    assert [b.classes[k] for k in b.labels] == ["bird", "dog"]
    assert [b.image_names[i] for i in b.images] == ["2.png", "3.png"]
    assert [record["id"] for record in b.image_records] == [1, 2, 3]
    assert_array_equal(a.labels, votes.labels)


def test_an_image_drawn_twice_is_two_images() -> None:
    boxes = np.arange(12.0).reshape(3, 4)
    table = from_rows(boxes, ["a", "a", "b"], ["1", "2", "2"], ["x", "x", "y"])
    drawn = table.take_images(np.array([1, 0, 1]))
    assert_allclose(drawn.boxes, boxes[[1, 2, 0, 1, 2]])
    assert drawn.images.tolist() == [0, 0, 1, 2, 2]
    assert drawn.image_names == ["2", "1", "2"]


def test_simulated_crowd_keeps_its_rates() -> None:
    def crowd(seed: int):
        return simulate_crowd(
            400, np.random.default_rng(seed), accuracy=(0.9, 0.5), detection=(1.0, 0.5), false_boxes=(0.0, 3.0),
            class_shares=(3, 1, 1), wrong="shared", objects=10, jitter=0.05,
        )  # fmt: skip

    votes, gold = crowd(0)
    assert len(gold.labels) == pytest.approx(4000, rel=0.05)
    assert np.bincount(gold.labels)[0] / len(gold.labels) == pytest.approx(0.6, abs=0.03)
    first = votes.annotators == 0
    assert first.sum() == len(gold.labels)  # sees all, adds none, in the order of gold
    assert_array_equal(votes.images[first], gold.images)
    right = votes.labels[first] == gold.labels
    assert right.mean() == pytest.approx(0.9, abs=0.02)
    assert_array_equal(votes.labels[first][~right], (gold.labels[~right] + 1) % 3)
    moved = (votes.boxes[first] - gold.boxes)[:, 0] / (gold.boxes[:, 2] - gold.boxes[:, 0])
    assert moved.std() == pytest.approx(0.05, rel=0.1)
    assert (~first).sum() == pytest.approx(400 * (5 + 3), rel=0.05)
    again, _ = crowd(0)
    assert_array_equal(votes.boxes, again.boxes)
    assert len(crowd(1)[0].labels) != len(votes.labels)
    with pytest.raises(ValueError, match="equally long"):
        simulate_crowd(
            1, np.random.default_rng(0), accuracy=(1,), detection=(1, 1), false_boxes=(0,), class_shares=(1, 1)
        )
