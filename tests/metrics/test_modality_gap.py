import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from assay.metrics.modality_gap import mean_gap, sliced_wasserstein


def test_a_shift_is_the_gap() -> None:
    rows = np.random.default_rng(0).normal(size=(80, 5))
    shift = np.array([3.0, 0, 4.0, 0, 0])
    assert mean_gap(rows, rows + shift) == pytest.approx(5)
    # The mean square of a shift's projection on random directions is |shift|^2 / d.
    far = sliced_wasserstein(rows, rows + shift, np.random.default_rng(1), 4000)
    assert far == pytest.approx(5 / np.sqrt(5), rel=0.05)
    assert sliced_wasserstein(rows, rows[::-1], np.random.default_rng(1)) == 0


def test_shape_counts_where_means_agree() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = rng.normal(size=(500, 3)), 4 * rng.normal(size=(400, 3))
    narrow, wide = narrow - narrow.mean(0), wide - wide.mean(0)
    assert mean_gap(narrow, wide) < 1e-12
    assert sliced_wasserstein(narrow, wide, rng) == pytest.approx(3, rel=0.15)


def test_one_dimension_against_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 1)), rng.normal(size=(300, 1)) + 50
    far = sliced_wasserstein(a, b, rng)
    # Far from each other, the distances of order 1 and 2 agree.
    assert far == pytest.approx(wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-3)
    few = sliced_wasserstein(a[:150], b, rng)
    assert few == pytest.approx(wasserstein_distance(a[:150, 0], b[:, 0]), rel=1e-3)


@pytest.mark.parametrize("other", [np.ones((3, 4)), np.ones(5), np.full((3, 5), np.nan), np.ones((0, 5))])
def test_bad_clouds(other: np.ndarray) -> None:
    with pytest.raises(ValueError):
        mean_gap(np.ones((3, 5)), other)
