"""Simulated photographs of words: the camera's geometry, determinism, every group."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("PIL")

from assay.data.text import fonts
from assay.data.text.wild_words import GROUPS, Pose, WildWords, rotation
from assay.data.text.word_images import reader_input, used_width

FONTS = {"cmr10": fonts.bundled()["cmr10"].read_bytes()}
PHOTO = np.random.default_rng(0).integers(0, 255, (90, 200, 3), dtype=np.uint8)


@pytest.mark.parametrize("radius", [float("inf"), 60.0])
def test_rays_come_back_to_where_they_were_projected(radius: float) -> None:
    pose = Pose(rotation(0.3, -0.4, 1.1), 400.0, radius)
    x, y = np.meshgrid(np.linspace(-50, 50, 7), np.linspace(-15, 15, 5))
    back = pose.surface(*pose.project(x, y))
    assert np.allclose(back[0], x, atol=1e-6)
    assert np.allclose(back[1], y, atol=1e-6)


def test_rays_that_miss_the_cylinder_say_so_and_rotations_are_rotations() -> None:
    pose = Pose(np.eye(3), 200.0, 50.0)
    assert np.isnan(pose.surface(np.array([5.0]), np.array([0.0]))[0]).all()
    turn = rotation(0.2, 0.5, -2.0)
    assert np.allclose(turn @ turn.T, np.eye(3))
    u, v = Pose(rotation(0, 0, np.pi / 2), 100.0).project(np.array([10.0]), np.array([0.0]))
    assert (u[0], v[0]) == pytest.approx((0, 0.1), abs=1e-9)


def test_every_group_is_drawn_and_a_seed_gives_the_same() -> None:
    words = WildWords(["alpha", "to", "beta", "gamma"], FONTS, [PHOTO])
    first, again = words.samples(14, 3), words.samples(14, 3)
    assert [s.group for s in first] == list(GROUPS) * 2
    for one, two in zip(first, again, strict=True):
        assert one.text == two.text
        assert one.image.tobytes() == two.image.tobytes()
        assert one.image.std() > 5
        assert 500 < one.image.shape[0] * one.image.shape[1] < 8000
        assert (" " in one.text) == (one.group == "multi_word")
        assert len(one.text.replace(" ", "")) <= 7


def test_reader_input_turns_tall_pictures_and_keeps_the_ratio() -> None:
    tall = np.zeros((40, 10, 3), dtype=np.uint8)
    tall[:20] = 255
    turned = reader_input(tall, 8, 40)
    assert turned.shape == (8, 40)
    assert turned[:, :14].min() == 255
    assert turned[:, 18:32].max() == 0
    assert set(turned[:, 32:].ravel().tolist()) <= {127, 128}
    assert used_width(10, 40, 8, 40) == 32
    assert used_width(10, 400, 8, 40) == 40


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="empty"):
        WildWords([], FONTS, [PHOTO])
    with pytest.raises(ValueError, match="no group"):
        WildWords(["a"], FONTS, [PHOTO]).sample("tiny", np.random.default_rng(0))
