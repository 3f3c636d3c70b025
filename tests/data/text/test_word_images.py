"""Folders with gt.txt, and LMDBs, of labelled words."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")

from PIL import Image

from assay.data import samples
from assay.data.text.word_images import WordLmdb, list_pictures, read_gt, read_lmdb, read_picture, write_gt
from assay.errors import InputError


def png(value: int, size: tuple[int, int] = (6, 4), mode: str = "L") -> bytes:
    held = io.BytesIO()
    Image.new(mode, size, value).save(held, "PNG")
    return held.getvalue()


def test_gt_of_the_real_crops() -> None:
    folder = samples.locate("scene-text")
    if folder is None:
        pytest.skip("the word crops are not here")
    rows = read_gt(folder / "gt.txt")
    assert {path.name: text for path, text in rows}["demo_1.png"] == "Available"
    assert all(read_picture(path).shape[2] == 3 for path, _ in rows)


def test_gt_round_trip_and_bad_lines(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(png(9))
    file = tmp_path / "gt.txt"
    write_gt(file, [("a b.png", "two words")])
    assert read_gt(file) == [(tmp_path / "a b.png", "two words")]
    for line, message in (
        ("a b.png two", "expected a path, a tab"),
        ("../x.png\tw", "outside"),
        ("none.png\tw", "no picture"),
        ("", "no lines"),
    ):
        file.write_text(line + "\n")
        with pytest.raises(InputError, match=message):
            read_gt(file)


def test_pictures_of_every_kind(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (10, 20, 30, 255))
    clear.save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png").tolist() == [[[255] * 3, [10, 20, 30]]]
    Image.fromarray(np.array([[0, 60_000]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 255]
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    assert [p.name for p in list_pictures(tmp_path)] == ["bad.jpg", "clear.png", "deep.png"]
    with pytest.raises(InputError, match=r"bad\.jpg"):
        read_picture(tmp_path / "bad.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        list_pictures(tmp_path / "empty")


def test_lmdb_has_the_keys_that_trainers_read(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with WordLmdb(tmp_path / "set", most_bytes=1 << 24) as written:
        written.add(png(7), "Straße 東京")
        written.add(png(8), "b")
    with lmdb.open(str(tmp_path / "set"), readonly=True, lock=False) as env, env.begin() as transaction:
        assert int(transaction.get(b"num-samples")) == 2
        assert transaction.get(b"label-000000001").decode() == "Straße 東京"
        assert transaction.get(b"image-000000002") == png(8)
    rows = list(read_lmdb(tmp_path / "set"))
    assert [text for _, text in rows] == ["Straße 東京", "b"]
    assert rows[0][0].shape == (4, 6, 3)
    assert int(rows[0][0].max()) == 7


def test_what_is_no_lmdb_is_refused(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with pytest.raises(InputError, match="no LMDB folder"):
        list(read_lmdb(tmp_path))
    with lmdb.open(str(tmp_path / "other"), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"2")
    with pytest.raises(InputError, match="sample 1 of 2 is missing"):
        list(read_lmdb(tmp_path / "other"))
