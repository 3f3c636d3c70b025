"""Capsule videos: the simulator's truth, and the official layouts of Kvasir-Capsule and Galar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay.data.image.endoscopy import CLASSES, read_galar, read_kvasir_capsule, simulate_videos
from assay.data.image.folder import DataError


def test_same_generator_same_videos_and_shares_as_asked() -> None:
    one, two = (simulate_videos(60, np.random.default_rng(0), size=16, abnormal=0.2) for _ in range(2))
    np.testing.assert_array_equal(one.images, two.images)
    assert one.images.shape == (1200, 3, 16, 16)
    assert one.images.min() >= 0
    assert one.images.max() <= 1
    assert (one.labels > 0).mean() == pytest.approx(0.2, abs=0.05)
    assert (np.bincount(one.labels, minlength=len(CLASSES)) > 0).all()


def test_findings_come_in_one_run_of_three_to_ten_frames_and_show() -> None:
    videos = simulate_videos(40, np.random.default_rng(1), size=16, abnormal=0.3)
    for v in range(40):
        rows = videos.video == v
        label, shown = videos.labels[rows], videos.visibility[rows]
        np.testing.assert_array_equal(label > 0, shown > 0)
        if label.any():
            at = np.nonzero(label)[0]
            assert 3 <= len(at) <= 10
            assert (np.diff(at) == 1).all()
            assert len(set(label[at])) == 1
    assert np.diff(videos.frame[:20]).tolist() == [1] * 19


def test_blood_is_darker_and_redder_than_the_mucosa_around_it() -> None:
    videos = simulate_videos(80, np.random.default_rng(2), size=24, abnormal=0.3)
    blood = (videos.labels == CLASSES.index("blood")) & (videos.visibility == 1)
    redness = videos.images[:, 0].mean((1, 2)) / videos.images[:, 1].mean((1, 2))
    beside = np.isin(videos.video, np.unique(videos.video[blood])) & (videos.labels == 0)
    assert redness[blood].mean() > redness[beside].mean() * 1.05


@pytest.mark.parametrize("change", [{"videos": 0}, {"frames": 5}, {"size": 8}, {"abnormal": 0.9}])
def test_simulator_refuses(change: dict) -> None:
    with pytest.raises(ValueError, match="need videos"):
        simulate_videos(**{"videos": 2, "rng": np.random.default_rng(0), **change})


def picture(file: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (90, 40, 10)).save(file)


def test_kvasir_capsule_layout_and_official_split(tmp_path: Path) -> None:
    for name in ("Erosion/ab12_20404.jpg", "Normal clean mucosa/ab12_7.jpg", "Blood - fresh/ff_3.jpg"):
        picture(tmp_path / "labelled_images" / name)
    table = read_kvasir_capsule(tmp_path)
    assert table.classes == ("Blood - fresh", "Erosion", "Normal clean mucosa")
    assert sorted(zip(table.video.tolist(), table.frame.tolist(), strict=True)) == [
        ("ab12", 7),
        ("ab12", 20404),
        ("ff", 3),
    ]
    split = tmp_path / "split_0.csv"
    split.write_text("filename,label\nff_3.jpg,Blood\nab12_7.jpg,Normal\n")
    part = read_kvasir_capsule(tmp_path, split)
    assert part.given == ["Blood - fresh", "Normal clean mucosa"]
    assert part.path(0).is_file()
    split.write_text("filename,label\ngone_1.jpg,Blood\n")
    with pytest.raises(DataError, match="gone_1"):
        read_kvasir_capsule(tmp_path, split)
    picture(tmp_path / "labelled_images" / "Erosion" / "nonumber.jpg")
    with pytest.raises(DataError, match="nonumber"):
        read_kvasir_capsule(tmp_path)


def test_galar_layout(tmp_path: Path) -> None:
    for video, frames in (("001", (5, 10, 15)), ("2", (1,))):
        for frame in frames:
            picture(tmp_path / "Frames" / video / f"frame_{frame:06d}.PNG")
    (tmp_path / "Labels").mkdir()
    (tmp_path / "Labels" / "1.csv").write_text("polyp,blood,colon,frame\n0,0,1,5\n1,0,1,10\n1,1,1,15\n0,1,1,20\n")
    (tmp_path / "Labels" / "2.csv").write_text("polyp,blood,colon,frame\n0,1.0,0,1\n")
    table = read_galar(tmp_path)
    assert table.given == ["normal", "anomaly", "anomaly", "anomaly"]  # frame 20 has no image
    assert table.video.tolist() == ["1", "1", "1", "2"]
    assert table.frame.tolist() == [5, 10, 15, 1]
    assert read_galar(tmp_path, task="finding").given == ["normal", "polyp", "blood"]
    assert len(read_galar(tmp_path, every=2)) == 3
    (tmp_path / "Labels" / "2.csv").write_text("polyp,frame\nyes,1\n")
    with pytest.raises(DataError, match="yes"):
        read_galar(tmp_path)
    with pytest.raises(DataError, match="Frames"):
        read_galar(tmp_path / "Frames")
