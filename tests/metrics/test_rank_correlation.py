"""Rank measures against SciPy's, and their limit cases."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from assay.metrics.rank_correlation import kendall, rank_error, ranks, spearman

pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=15)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_correlations_are_scipys(values):
    a, b = np.array(values, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert spearman(a, b) == kendall(a, b) == 0
        return
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert kendall(a, b) == pytest.approx(kendalltau(a, b).statistic)


def test_rank_error_sees_groups_that_are_shifted_against_each_other():
    truth = np.arange(8.0)
    group = np.array([0, 1] * 4)
    assert rank_error(3 * truth + 1, truth, group) == 0
    shifted = truth + 100 * group  # right within a group, wrong across
    assert rank_error(shifted, truth, group) > rank_error(shifted, truth)
    assert rank_error(-truth, truth) > 0.5
    assert ranks([3, 1, 3]).tolist() == [2.5, 1, 2.5]


def test_bad_input():
    with pytest.raises(ValueError, match="NaN"):
        spearman([1, np.nan], [1, 2])
    with pytest.raises(ValueError, match="one length"):
        kendall([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="different groups"):
        rank_error([1, 2], [2, 1], [0, 0])
