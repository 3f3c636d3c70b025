"""Digit scenes: masks and targets agree with the pictures, training and test do not share, conditions do as said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.data.image import digit_scenes as module
from assay.data.image.digit_scenes import digit_scenes, under_condition


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_masks_cells_and_targets_agree() -> None:
    scenes = digit_scenes(40, rng(), size=48, grid=3, digits=(2, 5))
    counts = scenes.labels.sum(dim=1)
    assert counts.min() >= 2
    assert counts.max() <= 5
    assert torch.equal(scenes.masks.any(dim=(2, 3)), scenes.labels.bool())
    assert scenes.masks.sum(dim=1).max() == 1  # digits do not overlap
    assert torch.equal(scenes.segmentation > 0, scenes.masks.any(dim=1))
    for n, k in torch.nonzero(scenes.labels).tolist():
        place = int(scenes.cells[n, k])
        cell = scenes.masks[n, k].view(3, 16, 3, 16).permute(0, 2, 1, 3).flatten(0, 1).any(dim=(1, 2))
        assert torch.nonzero(cell).flatten().tolist() == [place]
        assert int(scenes.segmentation[n][scenes.masks[n, k]].unique()) == k + 1


def test_digits_are_lighter_than_the_ground() -> None:
    scenes = digit_scenes(30, rng())
    assert scenes.images.min() >= 0
    assert scenes.images.max() <= 1
    grey, inside = scenes.images.mean(dim=1), scenes.masks.any(dim=1)
    assert grey[inside].mean() > grey[~inside].mean() + 0.2
    assert grey[~inside].std() > 0.05


def test_same_generator_same_scenes_and_parts_differ() -> None:
    one, two = digit_scenes(5, rng()), digit_scenes(5, rng())
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, digit_scenes(5, rng(1)).images)
    train, test = module._digits("train")[0], module._digits("test")[0]
    assert len(train) + len(test) == 1797
    photos = zip(module._photographs("train"), module._photographs("test"), strict=True)
    assert all(a.shape[2] > b.shape[2] >= 48 for a, b in photos)


def test_single_digits_are_a_classification_set() -> None:
    scenes = digit_scenes(200, rng(), size=16, grid=1, digits=(1, 1))
    assert set(scenes.classes.tolist()) == set(range(10))
    assert torch.equal(scenes[:3].classes, scenes.classes[:3])
    with pytest.raises(ValueError, match="one digit"):
        _ = digit_scenes(5, rng(), digits=(2, 2)).classes


def test_conditions() -> None:
    images = digit_scenes(6, rng()).images
    assert torch.equal(under_condition(images, "inverted", rng()), 1 - images)
    blurred = under_condition(images, "blur", rng())
    torch.testing.assert_close(blurred.mean(), images.mean(), rtol=0.02, atol=0)
    assert blurred.diff(dim=-1).abs().mean() < 0.7 * images.diff(dim=-1).abs().mean()
    assert (under_condition(torch.full((4, 3, 32, 32), 0.5), "noise", rng()).std() - 0.1).abs() < 0.01
    ramp = under_condition(torch.full((4, 3, 32, 32), 0.5), "gradient", rng())
    assert ramp.amax() / ramp.amin() > 1.5
    assert torch.equal(digit_scenes(6, rng(), condition="inverted").images, 1 - images)
    with pytest.raises(ValueError, match="unknown condition"):
        under_condition(images, "fog", rng())


def test_sizes_that_do_not_fit_are_refused() -> None:
    for options in ({"size": 33}, {"grid": 4}, {"digits": (0, 2)}, {"digits": (3, 2)}, {"digits": (1, 5)}):
        with pytest.raises(ValueError, match="must"):
            digit_scenes(1, rng(), **options)
