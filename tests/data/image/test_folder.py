"""Readers of users' labelled images: what they take, what they refuse, duplicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.image.contact_sheet import Card, write_contact_sheet
from assay.data.image.folder import (
    DataError,
    ImageRows,
    image_hash,
    load_image,
    near_duplicate_images,
    near_duplicates,
    read_array,
    read_class_folders,
    read_label_table,
    read_labels,
)

Image = pytest.importorskip("PIL.Image")


def picture(file: Path, value: int = 100, size: tuple[int, int] = (12, 10)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 0)).save(file)
    return file


def test_class_folders(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/deep/2.JPG", "a/1.png", "a/notes.txt", "a/.hidden.png"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("no image")
        else:
            picture(tmp_path / name)
    table = read_class_folders(tmp_path)
    assert table.names == ("a/1.png", "a/deep/2.JPG", "b/1.png")
    assert table.given == ["a", "a", "b"]
    assert ImageRows(table, 8).stacked().shape == (3, 3, 8, 8)


def test_table_with_groups_and_frames(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"f{i}.png")
    file = tmp_path / "labels.csv"
    file.write_text("\ufeffpath, label ,video,frame,remark\nf0.png,x,v1,7,hi\nf1.png,y,v1,8,\nf2.png,x,v2,1,\n")
    table = read_label_table(file)
    assert table.classes == ("x", "y")
    assert table.labels.tolist() == [0, 1, 0]
    assert table.group.tolist() == table.video.tolist() == ["v1", "v1", "v2"]
    assert table.frame.tolist() == [7, 8, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,label\n../out.png,x\nin.png,y\n", "leads out"),
        ("path,label\n/etc/passwd,x\nin.png,y\n", "leads out"),
        ("path,label\nlink.png,x\nin.png,y\n", "leads out"),
        ("path,label\nmissing.png,x\nin.png,y\n", "no such file"),
        ("file,label\nin.png,x\n", "no column 'path'"),
        ("path,label\nin.png,\n", "line 2: no label"),
        ("path,label\nin.png,x\nin.png,x\n", "one class"),
        ("path,label\n", "no labelled rows"),
        ("path,label,frame\nin.png,x,one\nin.png,y,2\n", "whole numbers"),
        ("", "header is empty"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, says: str) -> None:
    picture(tmp_path / "out.png")
    inside = tmp_path / "set"
    picture(inside / "in.png")
    (inside / "link.png").symlink_to(tmp_path / "out.png")
    file = inside / "labels.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=says) as caught:
        read_label_table(file)
    assert "\n" not in str(caught.value)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_class_folders(tmp_path / "none")
    picture(tmp_path / "a/1.png")
    with pytest.raises(DataError, match="one class"):
        read_class_folders(tmp_path)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.png", size=(40, 40))
    for name, content in (("text.png", b"hello"), ("empty.png", b""), ("cut.png", whole.read_bytes()[:70])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load_image(tmp_path / name, 8)


def test_the_centre_square_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    np.testing.assert_allclose(load_image(tmp_path / "wide.png", 10), 1)


def test_arrays_and_their_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6).reshape(3, 2))
    (tmp_path / "y.csv").write_text("label,name\na,first\nb,second\na,third\n")
    assert read_array(tmp_path / "x.npy").dtype == np.float32
    table = read_labels(tmp_path / "y.csv", 3)
    assert table.names == ("first", "second", "third")
    with pytest.raises(DataError, match="3 rows, but the array has 4"):
        read_labels(tmp_path / "y.csv", 4)


@pytest.mark.parametrize("array", [np.array([object()]), np.zeros(3), np.array([[np.inf, 0]]), np.array([["a"]])])
def test_arrays_that_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy"):
        read_array(tmp_path / "x.npy")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=25), st.integers(0, 5), st.randoms())
def test_near_duplicates_equal_all_pairs(hashes: list[int], distance: int, random) -> None:
    hashes += [h ^ (1 << random.randrange(64)) ^ (1 << random.randrange(64)) for h in hashes[:10]] + hashes[:3]
    linked = {i: {i} for i in range(len(hashes))}
    for i, a in enumerate(hashes):
        for j, b in enumerate(hashes):
            if (a ^ b).bit_count() <= distance and linked[i] is not linked[j]:
                merged = linked[i] | linked[j]
                for k in merged:
                    linked[k] = merged
    expected = {frozenset(s) for s in linked.values() if len(s) > 1}
    assert {frozenset(rows) for rows in near_duplicates(hashes, distance)} == expected


def test_hash_survives_brightness_and_noise_but_not_another_image() -> None:
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.random((3, 6, 6)), np.ones((8, 8))).astype(np.float32)
    other = np.kron(rng.random((3, 6, 6)), np.ones((8, 8))).astype(np.float32)
    bright = 0.5 * smooth + 0.2
    assert image_hash(bright) == image_hash(smooth)
    assert (image_hash(other) ^ image_hash(smooth)).bit_count() > 10


def test_flat_images_that_share_a_hash_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    base = np.kron(rng.random((3, 6, 6)), np.ones((8, 8))).astype(np.float32)
    black, grey = np.zeros((3, 48, 48), np.float32), np.full((3, 48, 48), 0.5, np.float32)
    noisy = np.clip(base + rng.normal(scale=0.01, size=base.shape), 0, 1).astype(np.float32)
    assert image_hash(black) == image_hash(grey)
    assert near_duplicate_images([black, base, grey, noisy, grey + 0.01]) in ([[2, 4], [1, 3]], [[1, 3], [2, 4]])


def test_contact_sheet_escapes_what_it_is_given(tmp_path: Path) -> None:
    card = Card(np.zeros((3, 4, 4), np.float32), "<script>alert(1)</script>", ('"onload=x',), 0.5)
    write_contact_sheet(tmp_path / "sheet.html", "a & b", "<i>text</i>", [card, Card(None, "no picture")])
    page = (tmp_path / "sheet.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert page.count("data:image/jpeg") == 1
