import numpy as np
import pytest

from assay.metrics.masked import masked_similarity, region_descriptor


@pytest.fixture
def picture():
    return np.random.default_rng(0).random((20, 20, 3))


def square(top, left, side=8, size=20):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_region_is_like_itself_wherever_it_lies(picture):
    mask = square(2, 3)
    assert masked_similarity(picture, mask, picture, mask) == pytest.approx(1)
    moved = np.roll(picture, (7, 5), (0, 1))
    inner = square(4, 5, side=4)
    assert masked_similarity(picture, inner, moved, np.roll(inner, (7, 5), (0, 1))) == pytest.approx(1)
    turned = np.rot90(picture)
    assert masked_similarity(picture, inner, turned, np.rot90(inner)) == pytest.approx(1)


def test_what_lies_outside_the_mask_far_away_does_not_count(picture):
    mask = square(0, 0, side=5)
    other = picture.copy()
    other[12:] = 0
    assert masked_similarity(other, mask, picture, mask) == pytest.approx(1)


def test_another_colour_and_another_texture_lower_it():
    mask = square(4, 4, 12)
    red, blue = np.zeros((20, 20, 3)), np.zeros((20, 20, 3))
    red[..., 0], blue[..., 2] = 1, 1
    stripes = red.copy()
    stripes[:, np.arange(20) % 4 < 2] = 0
    assert masked_similarity(red, mask, blue, mask) == pytest.approx(0.5)  # contrast alone agrees
    assert masked_similarity(red, mask, stripes, mask) < 0.6
    assert masked_similarity(red, mask, red * 0.95, mask) > 0.8


def test_histograms_sum_to_one_and_empty_regions_score_zero(picture):
    assert region_descriptor(picture, square(1, 1)).sum() == pytest.approx(2)
    assert masked_similarity(picture, square(0, 0), picture, np.zeros((20, 20), dtype=bool)) == 0
    with pytest.raises(ValueError, match="does not fit"):
        masked_similarity(picture, np.ones((3, 3), dtype=bool), picture, square(0, 0))
