"""Tables of numbers and oriented point clouds: what is written, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.points.columns import read_columns, write_columns
from assay.data.points.ply import write_oriented_points
from assay.errors import InputError


def test_columns_round_trip(tmp_path):
    table = torch.tensor([[1.5, -2e-7], [3.0, torch.nan]], dtype=torch.float64)
    write_columns(tmp_path / "t.csv", ("a", "b"), table)
    assert (tmp_path / "t.csv").read_text().splitlines()[2] == "3,"
    write_columns(tmp_path / "u.csv", ("b", "a"), table[:1].flip(-1))
    assert torch.allclose(read_columns(tmp_path / "u.csv", ("a", "b")), table[:1])
    with pytest.raises(ValueError, match="3 names"):
        write_columns(tmp_path / "t.csv", ("a", "b", "c"), table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n", "lacks the columns x1; its first line has: x, y"),
        ("", "has: nothing"),
        ("x1\n", "no rows"),
        ("x1,y\n1,2\nabc,3\n", "line 3"),
        ("x1\ninf\n", "line 2: x1 must be finite"),
        ("y,x1\n1\n", "line 2"),
    ],
)
def test_bad_tables_are_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_columns(tmp_path / "t.csv", ("x1",))


def test_files_of_spreadsheets_are_read(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfx1, y1\r\n1, 2\r\n")
    assert read_columns(tmp_path / "t.csv", ("x1", "y1")).tolist() == [[1, 2]]
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_columns(tmp_path / "t.csv", ("x1",))


def test_ply_holds_points_normals_and_colours(tmp_path):
    points, normals = np.arange(6.0).reshape(2, 3), np.eye(3)[:2]
    colours = np.array([[1, 2, 3], [255, 0, 9]], np.uint8)
    write_oriented_points(tmp_path / "p.ply", points, normals, colours)
    head, body = (tmp_path / "p.ply").read_bytes().split(b"end_header\n")
    assert b"element vertex 2" in head
    assert head.count(b"property float") == 6
    rows = np.frombuffer(body, np.dtype([("xyz", "<f4", 3), ("n", "<f4", 3), ("rgb", "u1", 3)]))
    assert np.array_equal(rows["xyz"], points)
    assert np.array_equal(rows["n"], normals)
    assert np.array_equal(rows["rgb"], colours)
    write_oriented_points(tmp_path / "q.ply", points, normals)
    assert len((tmp_path / "q.ply").read_bytes().split(b"end_header\n")[1]) == 48
    with pytest.raises(ValueError, match="differ"):
        write_oriented_points(tmp_path / "q.ply", points, normals[:1])
