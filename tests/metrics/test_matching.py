import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from assay.metrics.matching import correlations, match, mean_correlation, mean_cosine


def test_a_dictionary_matches_itself_in_any_order_and_sign() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 20))
    order = rng.permutation(12)
    found = mean_cosine(rows, -3 * rows[order])
    assert found.score == pytest.approx(1)
    np.testing.assert_array_equal(order[found.found], np.arange(12))


def test_matching_is_scipys_and_at_least_the_greedy_one() -> None:
    rng = np.random.default_rng(1)
    table = rng.random((6, 9))
    rows, columns = linear_sum_assignment(-table)
    found = match(table)
    assert found.score == pytest.approx(table[rows, columns].mean())
    free, greedy = set(range(9)), 0.0
    for row in table:
        best = max(free, key=lambda j: row[j])
        free.remove(best)
        greedy += row[best] / 6
    assert found.score >= greedy


def test_correlations_are_pearsons() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(50, 3)), rng.normal(size=(50, 4))
    full = np.abs(np.corrcoef(a.T, b.T)[:3, 3:])
    np.testing.assert_allclose(correlations(a, b), full)
    b[:, 1] = 7.0
    assert (correlations(a, b)[:, 1] == 0).all()


def test_a_latent_split_in_two_agrees_less() -> None:
    rng = np.random.default_rng(3)
    latent = rng.gamma(4, 0.25, size=(400, 1))
    side = np.arange(400)[:, None] < 200
    halves = np.hstack([latent * side, latent * ~side])
    assert mean_correlation(latent, np.hstack([latent, latent])).score == pytest.approx(1)
    assert mean_correlation(latent, halves).score < 0.5


@pytest.mark.parametrize("table", [np.ones((3, 2)), np.ones(3), np.array([[np.nan, 1.0]])])
def test_bad_tables(table: np.ndarray) -> None:
    with pytest.raises(ValueError):
        match(table)
    with pytest.raises(ValueError):
        mean_correlation(np.ones((4, 2)), np.ones((5, 3)))
