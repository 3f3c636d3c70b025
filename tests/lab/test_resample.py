"""Grouped resamples, and verdicts from them: the false-support rate on one fixed data set."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from assay.errors import UnknownName
from assay.lab import Better, Evidence, Study, resample_groups
from assay.lab.judge import judge
from assay.lab.statistics import t_interval, t_p


def test_seed_0_is_the_data_as_they_are():
    assert resample_groups(["b", "a", "b", "c"], 0).tolist() == [0, 1, 2, 3]


@given(some.lists(some.sampled_from("abcde"), min_size=1, max_size=30), some.integers(1, 10_000))
@settings(deadline=None)
def test_groups_are_drawn_whole_together_and_in_order(labels, seed):
    drawn = resample_groups(labels, seed)
    rows = {name: [i for i, label in enumerate(labels) if label == name] for name in labels}
    left, draws = drawn.tolist(), 0
    while left:
        group = rows[labels[left[0]]]
        assert left[: len(group)] == group
        left, draws = left[len(group) :], draws + 1
    assert draws == len(rows)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others():
    groups = np.repeat(np.arange(20), 3)
    assert (resample_groups(groups, 7) == resample_groups(groups, 7)).all()
    assert (resample_groups(groups, 7) != resample_groups(groups, 8)).any()
    assert all(resample_groups(groups, seed).size == 60 for seed in range(5)), "equal groups keep the number of rows"


def test_every_group_is_equally_likely():
    counts = Counter(i for seed in range(1, 3001) for i in resample_groups(list("aabcd"), seed).tolist())
    assert counts[0] == counts[1]
    assert [counts[i] / 3000 for i in range(1, 5)] == pytest.approx([1.0] * 4, abs=0.07)


def test_the_spread_of_resampled_means_is_the_standard_error_of_the_mean():
    x = np.random.default_rng(0).normal(size=60)
    means = [x[resample_groups(np.arange(60), seed)].mean() for seed in range(1, 2001)]
    assert np.std(means) == pytest.approx(x.std() / np.sqrt(60), rel=0.07)


@pytest.mark.parametrize("groups", [[], np.zeros((2, 2))])
def test_rows_without_a_group_are_refused(groups):
    with pytest.raises(ValueError, match="non-empty vector"):
        resample_groups(groups, 1)


SUBJECTS, ROWS = 40, 3
GROUPS = np.repeat(np.arange(SUBJECTS), ROWS)


def resampled_study(rng, n, effect=0.0, groups=GROUPS, plain=True):
    """One data set and `n` resamples of it, the first being the data as they are if `plain`.

    Rows of a subject share a difference between the arms; over all subjects of the world its mean is `effect`.
    """
    b = np.repeat(rng.normal(size=SUBJECTS), ROWS) + rng.normal(0, 0.3, GROUPS.size)
    a = b + effect + np.repeat(rng.normal(0, 1, SUBJECTS), ROWS) + rng.normal(0, 0.3, GROUPS.size)
    seeds = [int(seed) for seed in rng.choice(10**6, size=n, replace=False) + 1]
    if plain:
        seeds[0] = 0
    trials = {}
    for seed in seeds:
        rows = resample_groups(groups, seed)
        trials["a", "", seed], trials["b", "", seed] = {"m": a[rows].mean()}, {"m": b[rows].mean()}
    return Evidence("x", "pocket", seeds, ["a", "b"], [""], trials, resampled=True)


CLAIM = Better("m", method="a", baseline="b", name="C1")


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("n", [3, 5, 20])
def test_on_one_data_set_without_effect_the_error_rate_stays_nominal_and_the_naive_one_does_not(n, plain):
    rng = np.random.default_rng([n, plain])
    repeats = 800 if n < 20 else 300
    honest, naive = [], []
    for _ in range(repeats):
        evidence = resampled_study(rng, n, plain=plain)
        honest.append(judge([CLAIM], [], evidence)[0].outcome)
        naive.append(judge([CLAIM], [], evidence, resampled=False)[0].outcome)
    assert honest.count("supported") / repeats <= 0.05
    # 0.06 and not 0.05: forty subjects know their own spread only so well, whatever the number of resamples
    assert 1 - honest.count("inconclusive") / repeats <= 0.06 + 3 * np.sqrt(0.06 * 0.94 / repeats)
    assert 1 - naive.count("inconclusive") / repeats > {3: 0.1, 5: 0.25, 20: 0.5}[n]


def test_more_resamples_bring_no_power_beyond_that_of_the_data():
    rng = np.random.default_rng(4)

    def power(effect, n):
        outcomes = [judge([CLAIM], [], resampled_study(rng, n, effect))[0].outcome for _ in range(100)]
        return outcomes.count("supported") / 100

    assert power(0.3, 40) < 0.65, "a t test of forty subjects has power 0.45 at this effect"
    assert power(1.0, 10) > 0.95
    assert power(0.7, 3) < power(0.7, 10)


def test_rows_resampled_one_by_one_err_more_often():
    rng = np.random.default_rng(5)
    alone = np.arange(GROUPS.size)
    outcomes = [judge([CLAIM], [], resampled_study(rng, 10, groups=alone))[0].outcome for _ in range(300)]
    assert outcomes.count("inconclusive") < 0.85 * 300


def test_a_verdict_from_resamples_has_no_sign_flip_p_and_a_wider_interval():
    evidence = resampled_study(np.random.default_rng(6), 8, effect=0.8)
    wide, narrow = judge([CLAIM], [], evidence)[0], judge([CLAIM], [], evidence, resampled=False)[0]
    assert wide.p_sign_flip is None
    assert narrow.p_sign_flip is not None
    x = evidence.values("m", "a") - evidence.values("m", "b")
    error = x.std(ddof=1) * np.sqrt(9 / 7)
    assert (wide.estimate, wide.low, wide.high) == pytest.approx(t_interval(x, standard_error=error))
    assert wide.p == pytest.approx(t_p(x, standard_error=error))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(np.sqrt(8 * 9 / 7))


def test_figures_show_the_interval_that_is_judged():
    evidence = resampled_study(np.random.default_rng(7), 6)
    x = evidence.values("m", "a")
    error = x.std(ddof=1) * np.sqrt(7 / 5)
    assert evidence.mean_interval("m", "a") == pytest.approx(t_interval(x, standard_error=error))


def test_conditions_that_draw_new_data_are_judged_as_independent():
    once = resampled_study(np.random.default_rng(8), 6, effect=0.5)
    trials = {(arm, c, seed): metrics for (arm, _, seed), metrics in once.trials.items() for c in ("real", "drawn")}
    mixed = Evidence("x", "pocket", once.seeds, ["a", "b"], ["real", "drawn"], trials, resampled=["real"])
    claims = [
        Better("m", method="a", baseline="b", conditions=["real"], name="real"),
        Better("m", method="a", baseline="b", conditions=["drawn"], name="drawn"),
        Better("m", method="a", baseline="b", name="both"),
    ]
    found = {verdict.name: verdict for verdict in judge(claims, [], mixed)}
    plain = judge([CLAIM], [], once)[0]
    assert (found["real"].low, found["real"].high) == pytest.approx((plain.low, plain.high))
    assert (found["both"].low, found["both"].high) == pytest.approx((plain.low, plain.high))
    width = found["drawn"].high - found["drawn"].low
    assert (plain.high - plain.low) / width == pytest.approx(np.sqrt(6 * 7 / 5))
    assert [found[name].p_sign_flip is None for name in ("real", "drawn", "both")] == [True, False, True]
    wide, narrow = (mixed.mean_interval("m", "a", c) for c in ("real", "drawn"))
    assert wide[2] - wide[1] > narrow[2] - narrow[1]


def test_a_resampled_condition_must_exist():
    with pytest.raises(UnknownName, match="reel"):
        Study(paper="2603.00001", arms=["a"], claims=[], conditions=["real"], resampled=["reel"])
