"""The statistics against SciPy and statsmodels, and what they say of degenerate input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.testing import assert_allclose
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from assay.lab import statistics as st

numbers = some.lists(some.floats(-100, 100).map(lambda v: round(v, 3)), min_size=2, max_size=12)


@pytest.fixture(params=[2, 3, 5, 12, 40])
def pair(request):
    rng = np.random.default_rng(request.param)
    a = rng.normal(1.0, 1.0, request.param)
    return a, 0.5 * a + rng.normal(0.2, 1.0, request.param)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_interval_is_scipys(pair, level):
    a, b = pair
    theirs = stats.ttest_rel(a, b).confidence_interval(level)
    assert_allclose(st.t_interval(a - b, level), [np.mean(a - b), theirs.low, theirs.high], rtol=1e-9)


@pytest.mark.parametrize("side", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("boundary", [0.0, -0.3, 2.0])
def test_t_p_is_scipys(pair, side, boundary):
    a, b = pair
    assert_allclose(
        st.t_p(a - b, boundary, side), stats.ttest_1samp(a - b, boundary, alternative=side).pvalue, rtol=1e-9
    )
    if boundary == 0:
        assert_allclose(st.t_p(a - b, side=side), stats.ttest_rel(a, b, alternative=side).pvalue, rtol=1e-9)


def test_t_p_keeps_its_digits_far_out():
    x = np.array([1.0, 1.001, 0.999, 1.0005, 0.9995, 1.0002, 0.9998, 1.0001])
    assert 0 < st.t_p(x) < 1e-20
    assert_allclose(st.t_p(x), stats.ttest_1samp(x, 0).pvalue, rtol=1e-6)


@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0])
def test_equivalence_is_statsmodels(pair, margin):
    a, b = pair
    assert_allclose(st.tost_p(a - b, margin), ttost_paired(a, b, -margin, margin)[0], rtol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 6, 9])
def test_exact_sign_flips_are_scipys(n):
    x = np.random.default_rng(n).normal(0.5, 1.0, n)
    theirs = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert_allclose(st.sign_flip_p(x), theirs.pvalue, rtol=1e-12)


def test_sign_flips_of_many_seeds_are_sampled():
    rng = np.random.default_rng(3)
    x = rng.normal(0.0, 1.0, 16) + 0.6
    patterns = 1 - 2 * ((np.arange(2**16)[:, None] >> np.arange(16)) & 1)
    exact = np.mean(np.abs(patterns @ x) >= abs(x.sum()) - 1e-9)
    sampled = st.sign_flip_p(x)
    assert 0.02 < exact < 0.5
    assert abs(sampled - exact) < 4 * np.sqrt(exact * (1 - exact) / 20_000)
    assert sampled == st.sign_flip_p(x)
    assert st.sign_flip_p(np.ones(200)) == pytest.approx(1 / 20_001)


@given(numbers)
@settings(deadline=None)
def test_sign_flips_know_no_order_sign_or_unit(x):
    p = st.sign_flip_p(x)
    assert 0 < p <= 1
    assert p >= 2.0 ** (1 - len(x)) - 1e-15
    assert p == st.sign_flip_p(-np.asarray(x))
    assert p == pytest.approx(st.sign_flip_p(np.asarray(x[::-1]) * 8))


@given(some.lists(some.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_holm_is_statsmodels(p):
    assert_allclose(st.holm(p), multipletests(p, method="holm")[1], rtol=1e-12, atol=1e-300)


@given(numbers, some.floats(-50, 50), some.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=200, deadline=None)
def test_p_is_small_exactly_when_the_interval_excludes_the_boundary(x, boundary, level):
    mean, low, high = st.t_interval(x, level)
    p = st.t_p(x, boundary)
    if abs(p - (1 - level)) > 1e-6:
        near = 1e-9 * (1 + abs(mean))
        assert (p <= 1 - level) == (boundary < low - near or boundary > high + near) or abs(mean - boundary) <= near


@given(numbers, some.floats(0.1, 80))
@settings(max_examples=200, deadline=None)
def test_twice_the_equivalence_p_agrees_with_the_interval_inside_the_margin(x, margin):
    _, low, high = st.t_interval(x)
    p = 2 * st.tost_p(x, margin)
    if abs(p - 0.05) > 1e-6 and min(abs(low + margin), abs(high - margin)) > 1e-6:
        assert (p <= 0.05) == (-margin < low and high < margin)


def test_slope_is_least_squares_in_logs():
    rng = np.random.default_rng(0)
    sizes = np.array([8, 16, 64, 100])
    values = 3 * sizes**1.7 * np.exp(rng.normal(0, 0.1, 4))
    assert_allclose(st.slope(sizes, values), stats.linregress(np.log(sizes), np.log(values)).slope, rtol=1e-10)
    assert_allclose(st.slope(sizes, 5e-3 * sizes**2.0), 2.0, rtol=1e-12)


@pytest.mark.parametrize("values", [[1, 0, 2], [1, -1, 2], [1, np.nan, 2], [1, np.inf, 2]])
def test_slope_of_what_has_no_logarithm_is_nan(values):
    assert np.isnan(st.slope([1, 2, 3], values))
    assert np.isnan(st.slope([2, 2, 2], [1, 2, 3]))
    assert np.isnan(st.slope([], []))


@pytest.mark.parametrize("value", [0.3, -2.0, 1e-9])
def test_a_constant_away_from_the_boundary_leaves_no_doubt(value):
    x = np.full(5, value)
    assert st.t_p(x) == 0
    assert st.t_p(x, side="greater") == (0 if value > 0 else 1)
    assert st.t_p(x, side="less") == (1 if value > 0 else 0)
    assert st.t_interval(x) == pytest.approx((value, value, value))
    assert st.tost_p(x, 2 * abs(value)) == 0
    assert st.tost_p(x, 0.5 * abs(value)) == 1


def test_a_constant_on_the_boundary_says_nothing():
    assert st.t_p(np.full(4, 0.7), 0.7) == 1
    assert st.t_p(np.full(4, 0.7), 0.7, "greater") == 1
    assert st.t_p(np.array([0.4 - 0.3] * 5), 0.1) == 1, "0.4 - 0.3 is 0.1 but for rounding"
    assert st.tost_p(np.full(4, -0.2), 0.2) == 1
    assert st.sign_flip_p(np.zeros(6)) == 1
    assert st.sign_flip_p(np.array([0.4 - 0.3] * 5), 0.1) == 1
    assert st.constant_at(np.full(3, 2.0), 2.0)
    assert not st.constant_at([2.0], 2.0)
    assert not st.constant_at([2.0, 2.1], 2.05)


def test_rounding_is_no_spread():
    x = 0.3 + 1e-16 * np.arange(5)
    assert st.t_p(x, 0.3) == 1
    assert st.t_p(x) == 0


@pytest.mark.parametrize("x", [[], [1.5], [np.nan, 1.5, np.inf]])
def test_fewer_than_two_numbers_decide_nothing(x):
    mean, low, high = st.t_interval(x)
    assert np.isnan(mean) if len(x) == 0 else mean == 1.5
    assert np.isnan(low)
    assert np.isnan(high)
    assert st.t_p(x) == st.tost_p(x, 9.0) == st.sign_flip_p(x) == 1
    assert np.isnan(st.resampled_error(x))
    assert np.isnan(st.standard_error(x))


def test_numbers_that_are_not_finite_are_left_out():
    clean, dirty = [1.0, 2.0, 4.0], [1.0, np.nan, 2.0, np.inf, 4.0, -np.inf]
    assert st.t_interval(clean) == st.t_interval(dirty)
    assert st.t_p(clean) == st.t_p(dirty)
    assert st.sign_flip_p(clean) == st.sign_flip_p(dirty)
    assert st.resampled_error(clean) == st.resampled_error(dirty)


def test_no_p_values_need_no_correction():
    assert st.holm([]) == []


def test_a_given_standard_error_is_used():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert_allclose(st.t_p(x, 0, standard_error=st.standard_error(x)), st.t_p(x, 0))
    mean, low, high = st.t_interval(x, 0.95, 2.0)
    assert_allclose([mean, high - mean, mean - low], [2.5, 2 * stats.t.ppf(0.975, 3), 2 * stats.t.ppf(0.975, 3)])


@pytest.mark.parametrize("n", [3, 5, 10])
def test_t_and_sign_flips_keep_their_level(n):
    x = np.random.default_rng(n).normal(size=(2000, n))
    t = np.mean([st.t_p(row) <= 0.05 for row in x])
    flips = np.mean([st.sign_flip_p(row) <= 0.05 for row in x])
    assert t == pytest.approx(0.05, abs=0.015)
    assert flips <= 0.065
    assert n > 5 or flips == 0, "five seeds have 16 pairs of patterns: their smallest p is 1/16"
