"""Textured scenes: masks, equal brightness, halves that do not mix, and bad names."""

import numpy as np
import pytest

from assay.data.scenes import textured as module
from assay.data.scenes.textured import MEAN, PAIRS, SHAPES, textured_scene


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("pair", PAIRS)
def test_target_and_ground_do_not_differ_in_mean_and_contrast(pair):
    inside, outside = [], []
    for seed in range(8):
        scene = textured_scene(rng(seed), *pair, shape="blob")
        ground = ~scene.target & ~scene.distractor
        inside.append(scene.image[scene.target])
        outside.append(scene.image[ground])
        assert scene.image[scene.distractor].std() < 0.05
        assert abs(scene.image[scene.distractor].mean() - MEAN) > 0.3
    inside, outside = np.concatenate(inside), np.concatenate(outside)
    assert abs(inside.mean() - outside.mean()) < 0.04
    assert abs(inside.std() - outside.std()) < 0.03


@pytest.mark.parametrize("shape", [*SHAPES, "crack"])
def test_masks(shape):
    for seed in range(4):
        scene = textured_scene(rng(seed), shape=shape)
        assert scene.image.shape == scene.target.shape == (192, 192)
        assert scene.image.dtype == np.float32
        assert 0 <= scene.image.min() <= scene.image.max() <= 1
        assert not (scene.target & scene.distractor).any()
        assert scene.distractor.sum() > 500
        share = scene.target.mean()
        assert 0.005 < share < 0.05 if shape == "crack" else 0.03 < share < 0.35
    crack = textured_scene(rng(), shape="crack", distractor=False)
    assert not crack.distractor.any()
    assert crack.image[crack.target].mean() < crack.image[~crack.target].mean() - 0.15
    widths = {int(crack.target.sum(axis=axis).max()) for axis in (0, 1)}
    assert min(widths) <= 6


def test_plain_ground_and_same_seed():
    plain = textured_scene(rng(3), plain=True, distractor=False)
    assert plain.image[~plain.target].std() < 0.06 < plain.image[plain.target].std()
    again = textured_scene(rng(3), plain=True, distractor=False)
    assert np.array_equal(plain.image, again.image)


def test_parts_come_from_different_halves():
    halves = module._halves("gravel")
    a, b = halves["bank"][:256, :128], halves["test"][:256, :128]
    assert not np.allclose(a, b)
    assert min(half.shape[0] for half in halves.values()) >= 240


def test_bad_names():
    with pytest.raises(ValueError, match="unknown texture"):
        textured_scene(rng(), "marble")
    with pytest.raises(ValueError, match="petals are too small"):
        textured_scene(rng(), "brick", "petals")
    with pytest.raises(ValueError, match="160 to 240"):
        textured_scene(rng(), size=100)
    with pytest.raises(ValueError, match="unknown shape"):
        textured_scene(rng(), shape="star")
