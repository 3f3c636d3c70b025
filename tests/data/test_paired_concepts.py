import numpy as np
import pytest

from assay.data.paired_concepts import draw_pairs, make_world


def test_what_is_drawn_is_what_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    world = make_world(rng, angle=0.5)
    pairs = draw_pairs(world, 4000, rng)
    np.testing.assert_allclose(np.linalg.norm(pairs.img, axis=1), 1)
    np.testing.assert_allclose((world.img * world.txt).sum(1), np.cos(0.5))
    np.testing.assert_array_equal(pairs.amp_img > 0, pairs.amp_txt > 0)
    assert ((pairs.amp_img > 0).sum(1) == 5).all()
    counts = (pairs.amp_img > 0).sum(0)
    assert counts[:5].min() > counts[-20:].max()
    on = pairs.amp_img > 0
    assert pairs.amp_img[on].mean() == pytest.approx(1, rel=0.02)
    # agreement 0.7 of independent parts of equal variance
    assert np.corrcoef(pairs.amp_img[on], pairs.amp_txt[on])[0, 1] == pytest.approx(0.49 / 0.58, abs=0.02)


def test_energies_are_equal_unless_asked_otherwise() -> None:
    for unequal, low, high in ((0.0, 0.0, 0.15), (1.5, 0.8, 3.0)):
        rng = np.random.default_rng(1)
        world = make_world(rng, unequal=unequal)
        pairs = draw_pairs(world, 4000, rng)
        ratio = np.log((pairs.amp_txt**2).mean(0) / (pairs.amp_img**2).mean(0)) / 2
        assert low <= np.abs(ratio).mean() <= high


def test_directions_that_are_always_on_make_the_gap() -> None:
    gaps = []
    for always in (0, 2):
        rng = np.random.default_rng(2)
        pairs = draw_pairs(make_world(rng, angle=0.0, one_sided=always, always=always), 4000, rng)
        gaps.append(np.linalg.norm(pairs.img.mean(0) - pairs.txt.mean(0)))
    assert gaps[0] < 0.1 < 0.6 < gaps[1]


@pytest.mark.parametrize("wrong", [{"angle": 2.0}, {"always": 9}, {"concepts": 0}, {"unequal": -1.0}])
def test_impossible_worlds(wrong: dict) -> None:
    with pytest.raises(ValueError):
        make_world(np.random.default_rng(0), **wrong)


@pytest.mark.parametrize("wrong", [{"active": 0}, {"active": 97}, {"agreement": 1.5}])
def test_impossible_pairs(wrong: dict) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError):
        draw_pairs(make_world(rng), 10, rng, **wrong)
