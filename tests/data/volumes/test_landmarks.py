"""Landmark files: both formats there and back, a RESECT-like tag file, and files that are neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay.data.volumes.landmarks import LandmarkPairs, read_landmarks, write_csv, write_tag
from assay.errors import InputError


def test_there_and_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = LandmarkPairs(rng.normal(0, 40, (5, 3)), rng.normal(0, 40, (5, 3)))
    for name, write in (("a.tag", write_tag), ("a.csv", write_csv)):
        write(tmp_path / name, pairs)
        back = read_landmarks(tmp_path / name)
        np.testing.assert_allclose(back.fixed, pairs.fixed, atol=1e-5)
        np.testing.assert_allclose(back.swapped().fixed, pairs.moving, atol=1e-5)
        assert len(back) == 5


def test_a_tag_file_as_published(tmp_path: Path) -> None:
    (tmp_path / "Case1.tag").write_text(
        'MNI Tag Point File\nVolumes = 2;\n%Mon Jan 1 volume 1: MRI\n\nPoints =\n -1.5 2 3.25 4 5 6 ""\n'
        ' 7 8 9 -10 11 12 1 1 1 "label";\n'
    )
    pairs = read_landmarks(tmp_path / "Case1.tag")
    np.testing.assert_array_equal(pairs.fixed, [[-1.5, 2, 3.25], [7, 8, 9]])
    np.testing.assert_array_equal(pairs.moving, [[4, 5, 6], [-10, 11, 12]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tag", "something else", "MNI Tag"),
        ("a.tag", "MNI Tag Point File\nVolumes = 1;\nPoints = 1 2 3;", "two volumes"),
        ("a.tag", "MNI Tag Point File\nVolumes = 2;\nPoints =\n 1 2 3;", "six"),
        ("a.tag", "MNI Tag Point File\nVolumes = 2;\nPoints =\n 1 2 3 a b c;", "not a number"),
        ("a.tag", "MNI Tag Point File\nVolumes = 2;\nPoints = ;", "at least one"),
        ("a.csv", "x,y,z\n1,2,3\n", "fixed_x"),
        ("a.csv", "", "fixed_x"),
        ("a.csv", "fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z\n1,2,3,4,5,inf\n", "finite"),
        ("a.csv", "fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z\n1,2,3,4,5\n", "not a number"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_landmarks(tmp_path / name)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="not a text"):
        read_landmarks(tmp_path / "a.csv")
    with pytest.raises(InputError, match="no such"):
        read_landmarks(tmp_path / "b.csv")
