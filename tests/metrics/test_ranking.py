"""Ranking measures against scikit-learn and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.metrics.ranking import average_precision, precision_at_k, precision_curve

sklearn_metrics = pytest.importorskip("sklearn.metrics")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40))
def test_equals_scikit_learn_with_ties(rows: list[tuple[bool, int]]) -> None:
    hits, score = np.array([r[0] for r in rows]), np.array([r[1] for r in rows], float)
    if not hits.any():
        with pytest.raises(ValueError, match="undefined"):
            average_precision(hits, score)
        return
    expected = sklearn_metrics.average_precision_score(hits, score)
    assert average_precision(hits, score) == pytest.approx(expected)


def test_limits() -> None:
    hits = np.array([1, 1, 0, 0, 0])
    assert average_precision(hits, [5, 4, 3, 2, 1]) == 1
    assert average_precision(hits, np.zeros(5)) == pytest.approx(0.4)  # a constant score finds at the base rate
    rng = np.random.default_rng(0)
    many = rng.random(20_000) < 0.2
    assert average_precision(many, rng.random(20_000)) == pytest.approx(0.2, abs=0.01)


def test_any_increasing_transform_of_the_score_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    hits, score = rng.random(50) < 0.3, rng.normal(size=50)
    assert average_precision(hits, np.exp(3 * score)) == pytest.approx(average_precision(hits, score))


def test_precision_at_k_by_hand() -> None:
    hits, score = [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]
    np.testing.assert_allclose(precision_curve(hits, score, [1, 2, 3, 4, 99]), [1, 1 / 2, 2 / 3, 1 / 2, 1 / 2])


def test_a_tie_across_the_border_is_the_mean_over_random_orders() -> None:
    hits, score = np.array([1, 1, 0, 0, 0]), np.array([2.0, 1, 1, 1, 0])
    rng = np.random.default_rng(2)
    drawn = [precision_at_k(hits, score + 1e-6 * rng.random(5), 2) for _ in range(4000)]
    assert precision_at_k(hits, score, 2) == pytest.approx(np.mean(drawn), abs=0.02)


@pytest.mark.parametrize(("hits", "score", "k"), [([1], [np.nan], 1), ([1, 0], [1.0], 1), ([1], [1.0], 0), ([], [], 1)])
def test_refusals(hits: list[int], score: list[float], k: int) -> None:
    with pytest.raises(ValueError):
        precision_at_k(hits, score, k)
