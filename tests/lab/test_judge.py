"""Verdicts: each kind of claim, corrections, gates, controls, gaps in the evidence, and error rates by simulation."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats

from assay.lab import Better, Bound, Evidence, Gate, NotWorse, Ratio, Same, Slope
from assay.lab.judge import Verdict, judge
from assay.lab.statistics import tost_p
from assay.lab.summaries import count_words, main_verdict


def evidence(metric="m", scale="pocket", **arms):
    """Evidence from arm=[one number per seed] or arm={condition: [one number per seed]}."""
    tables = {arm: given if isinstance(given, dict) else {"": given} for arm, given in arms.items()}
    conditions = list(dict.fromkeys(c for table in tables.values() for c in table))
    n = len(next(iter(next(iter(tables.values())).values())))
    trials = {
        (arm, c, seed): {metric: value}
        for arm, table in tables.items()
        for c, column in table.items()
        for seed, value in enumerate(column)
    }
    return Evidence("x", scale, range(n), list(arms), conditions, trials)


def one(claim, found, gates=(), **options):
    return judge([replace(claim, name="C1")], gates, found, **options)[0]


RNG = np.random.default_rng(11)
BASE = RNG.normal(10, 3, 8)
NOISE = RNG.normal(0, 0.1, 8)


# each kind of claim


def test_better_is_the_paired_t_test():
    a, b = BASE + 0.4 + NOISE, BASE
    verdict = one(Better("m", method="a", baseline="b", paper="+0.5 (table 2)"), evidence(a=a, b=b))
    theirs = stats.ttest_rel(a, b)
    assert verdict.outcome == "supported"
    assert (verdict.low, verdict.high) == pytest.approx(tuple(theirs.confidence_interval()))
    assert verdict.p == verdict.p_holm == pytest.approx(theirs.pvalue)
    assert verdict.p_sign_flip == 2 / 2**8
    assert (verdict.n, verdict.n_planned, verdict.region, verdict.paper) == (8, 8, "> 0", "+0.5 (table 2)")
    assert verdict.method_mean == pytest.approx(a.mean())
    assert verdict.baseline_means == {"b": pytest.approx(b.mean())}
    assert verdict.estimate == pytest.approx(verdict.method_mean - verdict.baseline_means["b"])
    assert verdict.reason == ""


def test_better_the_other_way_round_is_contradicted():
    verdict = one(Better("m", method="b", baseline="a"), evidence(a=BASE + 0.4 + NOISE, b=BASE))
    assert verdict.outcome == "contradicted"
    assert verdict.high < 0


def test_less_can_be_better_and_positive_is_still_good():
    verdict = one(Better("m", method="a", baseline="b", higher=False), evidence(a=BASE - 0.4 + NOISE, b=BASE))
    assert verdict.outcome == "supported"
    assert verdict.low > 0


@pytest.mark.parametrize(("by", "outcome"), [(0.1, "supported"), (0.4, "inconclusive"), (0.7, "contradicted")])
def test_better_by_moves_the_boundary(by, outcome):
    verdict = one(Better("m", method="a", baseline="b", by=by), evidence(a=BASE + 0.4 + NOISE, b=BASE))
    assert verdict.outcome == outcome
    assert verdict.region == f"> {by:g}"
    assert verdict.p == pytest.approx(stats.ttest_1samp(0.4 + NOISE, by).pvalue)


@pytest.mark.parametrize(("margin", "outcome"), [(0.4, "supported"), (0.1, "contradicted"), (0.22, "inconclusive")])
@pytest.mark.parametrize("higher", [True, False])
def test_not_worse_allows_for_its_margin(margin, outcome, higher):
    method = BASE + (-0.2 if higher else 0.2) + NOISE - NOISE.mean()
    verdict = one(NotWorse("m", method="a", baseline="b", margin=margin, higher=higher), evidence(a=method, b=BASE))
    assert verdict.outcome == outcome
    assert verdict.estimate == pytest.approx(-0.2)
    assert verdict.region == f"> -{margin:g}"


@pytest.mark.parametrize("order", [("full", "none"), ("none", "full")])
@pytest.mark.parametrize(("loss", "outcome"), [(0.2, "supported"), (0.8, "contradicted")])
def test_not_worse_by_a_share_of_a_gap(order, loss, outcome):
    rng = np.random.default_rng(0)
    gap = 5 + rng.normal(0, 0.5, 8)
    error = {"full": BASE, "none": BASE + gap, "cheap": BASE + loss + rng.normal(0, 0.05, 8)}
    claim = NotWorse("m", method="cheap", baseline="full", margin=0.1, margin_of=order, higher=False)
    verdict = one(claim, evidence(**error))
    assert verdict.outcome == outcome
    assert verdict.estimate == pytest.approx(np.mean(BASE - error["cheap"] + 0.1 * gap))
    assert verdict.region == "> 0"


@pytest.mark.parametrize("gap", [0.0, -5.0])
def test_a_share_of_no_gap_is_no_margin(gap):
    rng = np.random.default_rng(1)
    arms = {"full": BASE, "none": BASE - gap + rng.normal(0, 1, 8) * (gap == 0), "cheap": BASE + 0.3 + NOISE}
    verdict = one(
        NotWorse("m", method="cheap", baseline="full", margin=0.1, margin_of=("full", "none")), evidence(**arms)
    )
    assert verdict.outcome == "inconclusive"
    assert "share of the gap by which full beats none" in verdict.reason


@pytest.mark.parametrize(("margin", "outcome"), [(0.6, "supported"), (0.2, "contradicted"), (0.42, "inconclusive")])
@pytest.mark.parametrize("side", [1, -1])
def test_same_is_two_one_sided_tests(margin, outcome, side):
    d = side * (0.4 + NOISE - NOISE.mean())
    verdict = one(Same("m", method="a", baseline="b", margin=margin), evidence(a=BASE + d, b=BASE))
    assert verdict.outcome == outcome
    assert verdict.estimate == pytest.approx(side * 0.4)
    if outcome == "contradicted":
        assert verdict.p == pytest.approx(stats.ttest_1samp(d, side * margin).pvalue)
    else:
        assert verdict.p == pytest.approx(2 * tost_p(d, margin))


@pytest.mark.parametrize(("at_least", "outcome"), [(2.0, "supported"), (3.5, "contradicted"), (3.0, "inconclusive")])
@pytest.mark.parametrize("higher", [True, False])
def test_ratio_is_judged_on_logarithms(at_least, outcome, higher):
    few, many = np.exp(BASE / 10), 3 * np.exp(BASE / 10 + NOISE - NOISE.mean())
    arms = {"a": many, "b": few} if higher else {"a": few, "b": many}
    verdict = one(Ratio("m", method="a", baseline="b", at_least=at_least, higher=higher), evidence(**arms))
    assert verdict.outcome == outcome
    assert verdict.estimate == pytest.approx(stats.gmean(many / few)) == pytest.approx(3.0)
    assert np.log(verdict.high) - np.log(3) == pytest.approx(np.log(3) - np.log(verdict.low))


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        ({"at_most": 0.5}, "supported"),
        ({"at_most": 0.3}, "contradicted"),
        ({"at_least": 0.3}, "supported"),
        ({"at_least": 0.5}, "contradicted"),
        ({"at_least": 0.4}, "inconclusive"),
    ],
)
def test_bound_is_one_sample(limit, outcome):
    verdict = one(Bound("m", method="a", **limit), evidence(a=0.4 + NOISE))
    assert verdict.outcome == outcome
    assert verdict.p == pytest.approx(stats.ttest_1samp(0.4 + NOISE, next(iter(limit.values()))).pvalue)
    assert verdict.baseline_means == {}
    assert verdict.region == ("<= " if "at_most" in limit else ">= ") + f"{next(iter(limit.values())):g}"


def test_a_negative_limit_or_zero_is_a_limit():
    assert one(Bound("m", method="a", at_most=0.0), evidence(a=-0.4 + NOISE)).outcome == "supported"
    assert one(Bound("m", method="a", at_least=0.0), evidence(a=-0.4 + NOISE)).outcome == "contradicted"
    assert one(Bound("m", method="a", at_most=-1.0), evidence(a=-0.4 + NOISE)).outcome == "contradicted"


@pytest.mark.parametrize(("order", "outcome"), [(1.0, "supported"), (2.0, "contradicted"), (1.5, "inconclusive")])
def test_slope_is_a_growth_order(order, outcome):
    rng = np.random.default_rng(2)
    sizes = {"small": 10, "middle": 100, "large": 1000}
    table = {name: 0.01 * n**order * np.exp(rng.normal(0, 0.2, 6)) for name, n in sizes.items()}
    verdict = one(Slope("m", method="a", sizes=sizes, at_most=1.5), evidence(a=table))
    assert verdict.outcome == outcome
    per_seed = [np.polyfit(np.log([10, 100, 1000]), np.log([table[c][s] for c in sizes]), 1)[0] for s in range(6)]
    assert verdict.estimate == pytest.approx(np.mean(per_seed))


# which numbers are compared


def test_a_seed_is_its_mean_over_the_conditions_of_the_claim():
    found = evidence(a={"x": BASE + 1 + NOISE, "y": BASE - 5}, b={"x": BASE, "y": BASE})
    assert one(Better("m", method="a", baseline="b", conditions=["x"]), found).outcome == "supported"
    both = one(Better("m", method="a", baseline="b"), found)
    assert both.outcome == "contradicted"
    assert both.estimate == pytest.approx(np.mean([1 + NOISE.mean(), -5]))


def test_without_conditions_only_those_of_both_arms_are_compared():
    found = evidence(a={"x": BASE + 1 + NOISE, "y": BASE - 50}, b={"x": BASE})
    verdict = one(Better("m", method="a", baseline="b"), found)
    assert verdict.estimate == pytest.approx(1 + NOISE.mean())
    apart = one(Better("m", method="a", baseline="b"), evidence(a={"x": BASE}, b={"y": BASE}))
    assert apart.outcome == "inconclusive"
    assert "share no condition" in apart.reason


def test_a_condition_in_which_an_arm_always_fails_is_not_forgotten():
    found = evidence(a={"easy": BASE + 1 + NOISE}, b={"easy": BASE, "hard": BASE})
    found = replace(found, arm_conditions={})
    verdict = one(Better("m", method="a", baseline="b"), found)
    assert (verdict.outcome, verdict.n) == ("inconclusive", 0)
    fewer = replace(found, arm_conditions={"a": ["easy"]})
    assert one(Better("m", method="a", baseline="b"), fewer).outcome == "supported"


def test_one_arm_against_itself_elsewhere_or_by_another_metric():
    found = evidence(a={"near": BASE + 1 + NOISE, "far": BASE})
    verdict = one(Better("m", method="a", conditions=["near"], baseline_conditions=["far"]), found)
    assert verdict.outcome == "supported"
    assert verdict.baseline_means == {"a": pytest.approx(BASE.mean())}
    trials = {("a", "", s): {"new": BASE[s] + 1 + NOISE[s], "old": BASE[s]} for s in range(8)}
    found = Evidence("x", "pocket", range(8), ["a"], [""], trials)
    assert one(Better("new", method="a", baseline_metric="old"), found).outcome == "supported"


def test_all_baselines_must_be_beaten_and_the_hardest_is_shown():
    found = evidence(a=BASE + 1 + NOISE, weak=BASE - 3, close=BASE + 0.5, equal=BASE + 1)
    claim = Better("m", method="a", baseline=["weak", "close"])
    verdict = one(claim, found)
    assert verdict.outcome == "supported"
    assert verdict.baseline == "close"
    assert verdict.p == pytest.approx(stats.ttest_rel(BASE + 1 + NOISE, BASE + 0.5).pvalue)
    assert verdict.baseline_means == {"weak": pytest.approx(BASE.mean() - 3), "close": pytest.approx(BASE.mean() + 0.5)}
    assert "hardest baseline was close" in verdict.reason
    assert one(replace(claim, baseline=["weak", "equal", "close"]), found).outcome == "inconclusive"


def test_one_baseline_that_contradicts_is_enough_but_is_corrected_for_their_number():
    found = evidence(a=BASE + NOISE, weak=BASE - 3, strong=BASE + 0.3, gone=np.full(8, np.nan))
    verdict = one(Better("m", method="a", baseline=["weak", "strong"]), found)
    assert (verdict.outcome, verdict.baseline) == ("contradicted", "strong")
    assert verdict.p == pytest.approx(2 * stats.ttest_rel(BASE + NOISE, BASE + 0.3).pvalue)
    many = [f"s{i}" for i in range(40)]
    barely = evidence(a=BASE - 0.12 + NOISE - NOISE.mean(), **dict.fromkeys(many, BASE))
    assert one(Better("m", method="a", baseline="s0"), barely).outcome == "contradicted"
    verdict = one(Better("m", method="a", baseline=many), barely)
    assert (verdict.outcome, "correction" in verdict.reason) == ("inconclusive", True)
    missing = one(Better("m", method="a", baseline=["weak", "gone"]), found)
    assert missing.outcome == "inconclusive"
    assert "nothing was measured" in missing.reason
    both = one(Better("m", method="a", baseline=["gone", "strong"]), found)
    assert both.outcome == "contradicted"
    assert "against gone: nothing was measured" in both.reason


# corrections, gates, scales, controls


def test_holm_spans_all_claims_judged_at_the_scale():
    found = evidence(a=BASE + 0.09 + NOISE - NOISE.mean(), b=BASE)
    claim = Better("m", method="a", baseline="b", name="C1")
    alone = judge([claim], [], found)[0]
    assert 0.025 < alone.p < 0.05
    assert alone.outcome == "supported"
    pair = judge([claim, Same("m", method="a", baseline="b", margin=0.1, name="C2", expected="supported")], [], found)
    assert pair[0].p_holm == pytest.approx(2 * alone.p)
    assert pair[0].outcome == "inconclusive"
    assert "does not survive" in pair[0].reason
    later = judge([claim, Bound("m", method="a", at_most=0, name="C2", scales=["full"])], [], found)
    assert later[0].p_holm == pytest.approx(alone.p)
    assert later[1].p_holm is None


def test_another_scale_gives_numbers_but_no_verdict():
    found = evidence(scale="smoke", a=BASE + 1 + NOISE, b=BASE)
    verdict = one(Better("m", method="a", baseline="b", expected="not supported"), found)
    assert verdict.outcome == "inconclusive"
    assert verdict.reason == "not judged at smoke scale"
    assert verdict.estimate == pytest.approx(1 + NOISE.mean())
    assert verdict.control == "undecided"


def test_a_shut_gate_makes_the_claims_it_guards_inconclusive():
    found = evidence(a=BASE + 1 + NOISE, b=BASE)
    claims = [Better("m", method="a", baseline="b", name=name) for name in ("C1", "C2")]
    gate = Gate("m", method="b", at_least=50, why="the detector is not good when clean", claims=["C1"])
    shut, open_ = judge(claims, [gate], found)
    assert (shut.outcome, open_.outcome) == ("inconclusive", "supported")
    assert shut.reason == f"m of b is {BASE.mean():.4g} and must be at least 50: the detector is not good when clean"
    assert shut.estimate == open_.estimate
    assert judge(claims, [replace(gate, claims=())], found)[1].outcome == "inconclusive"
    assert judge(claims, [replace(gate, at_least=BASE.mean())], found)[0].outcome == "supported"


def test_a_gate_that_was_not_measured_or_diverged_is_shut():
    found = evidence(a=BASE + 1 + NOISE, b=BASE, clean={"": BASE * np.nan}, wild=[np.inf, *BASE[1:]])
    claim = Better("m", method="a", baseline="b")
    unmeasured = one(claim, found, [Gate("m", method="clean", at_most=1e9)])
    assert (unmeasured.outcome, "could not be measured" in unmeasured.reason) == ("inconclusive", True)
    diverged = one(claim, found, [Gate("m", method="wild", at_most=1e9)])
    assert (diverged.outcome, "is inf" in diverged.reason) == ("inconclusive", True)
    nowhere = one(claim, found, [Gate("m", method="a", condition="fog", at_most=1e9)])
    assert (nowhere.outcome, "m of a in fog could not" in nowhere.reason) == ("inconclusive", True)


@pytest.mark.parametrize(
    ("expected", "shift", "control"),
    [
        ("supported", 1, "held"),
        ("supported", 0, "undecided"),
        ("supported", -1, "failed"),
        ("not supported", 1, "failed"),
        ("not supported", 0, "held"),
        ("not supported", -1, "held"),
        ("contradicted", 1, "failed"),
        ("contradicted", 0, "undecided"),
        ("contradicted", -1, "held"),
        (None, 1, None),
    ],
)
def test_controls(expected, shift, control):
    found = evidence(a=BASE + shift + NOISE - NOISE.mean(), b=BASE)
    assert one(Better("m", method="a", baseline="b", expected=expected), found).control == control


def test_a_control_behind_a_shut_gate_has_not_held():
    gate = Gate("m", method="a", at_least=1e9)
    found = evidence(a=BASE, b=BASE + 1 + NOISE)
    assert one(Better("m", method="a", baseline="b", expected="not supported"), found, [gate]).control == "undecided"


def test_the_word_of_a_study_is_that_of_its_first_claim_that_is_no_control():
    found = evidence(a=BASE + 1 + NOISE, b=BASE)
    claims = [
        Better("m", method="a", baseline="b", name="N", expected="not supported"),
        Better("m", method="b", baseline="a", name="C1"),
        Better("m", method="a", baseline="b", name="C2"),
    ]
    verdicts = judge(claims, [], found)
    rows = [verdict.as_dict() for verdict in verdicts]
    assert main_verdict(rows) == "contradicted"
    assert count_words(rows) == "1 supported, 1 contradicted, 1 control failed"
    assert main_verdict([]) == main_verdict(rows[:1]) == ""
    assert judge([], [], found) == []


# gaps and degenerate evidence


def test_pairs_with_a_missing_side_are_left_out_and_counted():
    a, b = BASE + 1 + NOISE, BASE.copy()
    a[1], b[2] = np.nan, np.inf
    verdict = one(Better("m", method="a", baseline="b"), evidence(a=a, b=b))
    keep = [0, *range(3, 8)]
    assert (verdict.n, verdict.n_planned, verdict.outcome) == (6, 8, "supported")
    assert verdict.estimate == pytest.approx(np.mean(a[keep] - b[keep]))
    assert verdict.baseline_means["b"] == pytest.approx(b[keep].mean())
    assert verdict.reason == "2 of 8 seeds were left out (m is missing or not finite)"


def test_a_ratio_leaves_out_what_has_no_logarithm():
    few, many = np.exp(NOISE), 3 * np.exp(NOISE[::-1])
    few[0], many[1] = 0, -1
    verdict = one(Ratio("m", method="a", baseline="b", at_least=2), evidence(a=few, b=many))
    assert (verdict.n, verdict.outcome) == (6, "supported")
    assert "or not positive" in verdict.reason


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_pairs_give_no_verdict(n):
    a = np.where(np.arange(8) < n, BASE + 1, np.nan)
    verdict = one(Better("m", method="a", baseline="b"), evidence(a=a, b=BASE))
    assert (verdict.outcome, verdict.n, verdict.low, verdict.p) == ("inconclusive", n, None, 1)
    assert verdict.estimate == (pytest.approx(1.0) if n else None)
    assert verdict.reason.startswith("one seed has no interval" if n else "nothing was measured")


@pytest.mark.parametrize("value", [None, "text", [1.0, 2.0]])
def test_what_is_no_number_was_not_measured(value):
    found = evidence(a=BASE + 1 + NOISE, b=[value] * 8)
    assert one(Better("m", method="a", baseline="b"), found).n == 0


def test_identical_arms_are_inconclusive_and_a_constant_difference_is_certain():
    found = evidence(a=BASE, b=BASE, c=np.full(8, 0.4), d=np.full(8, 0.3))
    same = one(Better("m", method="a", baseline="b"), found)
    assert (same.outcome, same.p, same.estimate) == ("inconclusive", 1, 0)
    certain = one(Better("m", method="c", baseline="d"), found)
    assert (certain.outcome, certain.p) == ("supported", 0)
    assert one(Better("m", method="c", baseline="d", by=0.1), found).outcome == "inconclusive"
    assert one(Same("m", method="a", baseline="b", margin=0.01), found).outcome == "supported"


def test_rounding_alone_never_beats_a_baseline():
    b = np.array([0.1 + 0.2] * 5)
    assert one(Better("m", method="a", baseline="b"), evidence(a=b, b=np.full(5, 0.3))).outcome == "inconclusive"


def test_a_figure_that_always_equals_its_limit_keeps_it():
    sizes = {"x": 3, "y": 50, "z": 700}
    found = evidence(a=np.zeros(5), b=np.full(5, 4.0), c=np.ones(5))
    assert one(Bound("m", method="a", at_most=0), found).outcome == "supported"
    assert one(Ratio("m", method="c", baseline="b", at_least=4), found).outcome == "supported"
    found = evidence(a={name: np.full(5, 0.1 * n) for name, n in sizes.items()})
    assert one(Slope("m", method="a", sizes=sizes, at_most=1.0), found).outcome == "supported"


def test_claims_that_cannot_be_judged_are_refused():
    with pytest.raises(ValueError, match="positive"):
        Ratio("m", method="a", baseline="b", at_least=0)
    with pytest.raises(ValueError, match="exactly one"):
        Bound("m", method="a", at_least=0, at_most=1)
    with pytest.raises(ValueError, match="three sizes"):
        Slope("m", method="a", sizes={"x": 1, "y": 2}, at_most=1)


values = some.lists(some.none() | some.floats(allow_nan=True, width=32), min_size=3, max_size=6)


@given(values, values, some.booleans())
@settings(max_examples=150, deadline=None)
def test_any_evidence_gives_plain_verdicts_that_agree_with_their_interval(a, b, resampled):
    n = min(len(a), len(b))
    found = evidence(a={"x": a[:n], "y": b[:n], "z": a[:n]}, b={"x": b[:n], "y": b[:n], "z": a[:n]})
    claims = [
        Better("m", method="a", baseline="b", name="C1"),
        NotWorse("m", method="a", baseline=["b", "a"], margin=0.1, name="C2"),
        NotWorse("m", method="a", baseline="b", margin=0.1, margin_of=("a", "b"), name="C3"),
        Same("m", method="a", baseline="b", margin=1.0, name="C4"),
        Ratio("m", method="a", baseline="b", at_least=2, name="C5"),
        Bound("m", method="a", at_least=1, name="C6"),
        Slope("m", method="a", sizes={"x": 1, "y": 2, "z": 3}, at_most=1, name="C7"),
    ]
    with np.errstate(all="ignore"):
        verdicts = judge(claims, [], found, resampled=resampled)
    for verdict in verdicts:
        again = Verdict.from_dict(json.loads(json.dumps(verdict.as_dict(), allow_nan=False)))
        assert again == verdict
        if verdict.outcome == "inconclusive":
            assert verdict.reason
        elif verdict.kind == "better":
            assert (verdict.low > 0) if verdict.outcome == "supported" else (verdict.high < 0)


# error rates


REPEATS = 500


def rates(claims, simulate, n, seed):
    """Share of repeats with any claim supported, and with any claim decided."""
    rng = np.random.default_rng([seed, n])
    claims = [replace(claim, name=f"C{i}") for i, claim in enumerate(claims)]
    outcomes = [{v.outcome for v in judge(claims, [], simulate(rng, n))} for _ in range(REPEATS)]
    supported = sum("supported" in found for found in outcomes)
    decided = sum(found != {"inconclusive"} for found in outcomes)
    return supported / REPEATS, decided / REPEATS


def arms(difference=0.0, gap=20.0, grow=1.0):
    """A world: arms a and b share the seed's luck; their difference, the floor's distance and the cost are given."""

    def simulate(rng, n):
        luck = rng.normal(0, 3, n)
        table = {
            "a": luck + difference + rng.normal(0, 1, n),
            "b": luck + rng.normal(0, 1, n),
            "floor": luck - gap + rng.normal(0, 1, n),
        }
        trials = {(arm, "", s): {"m": x[s], "cost": np.exp(x[s])} for arm, x in table.items() for s in range(n)}
        for name, size in SIZES.items():
            noise = np.exp(rng.normal(0, 0.3, n))
            trials |= {("a", name, s): {"work": size**grow * noise[s]} for s in range(n)}
        return Evidence("x", "pocket", range(n), list(table), ["", *SIZES], trials)

    return simulate


SIZES = {"s": 8.0, "m": 64.0, "l": 512.0}
NULLS = {
    "better": (Better("m", method="a", baseline="b", conditions=[""]), arms()),
    "better by": (Better("m", method="a", baseline="b", conditions=[""], by=0.5, higher=False), arms(-0.5)),
    "not worse": (NotWorse("m", method="a", baseline="b", conditions=[""], margin=1.0), arms(-1.0)),
    "share of a gap": (
        NotWorse("m", method="a", baseline="b", conditions=[""], margin=0.1, margin_of=("b", "floor")),
        arms(-2.0),
    ),
    "share of no gap": (
        NotWorse("m", method="a", baseline="b", conditions=[""], margin=0.5, margin_of=("b", "floor")),
        arms(0.0, gap=0.0),
    ),
    "same": (Same("m", method="a", baseline="b", conditions=[""], margin=4.0), arms(4.0)),
    "ratio": (Ratio("cost", method="a", baseline="b", conditions=[""], at_least=2.0), arms(-np.log(2))),
    "bound": (Bound("m", method="a", conditions=[""], at_least=7.0), arms(7.0)),
    "slope": (Slope("work", method="a", sizes=SIZES, at_most=1.2), arms(grow=1.2)),
    "two baselines": (Better("m", method="a", baseline=["b", "floor"], conditions=[""]), arms()),
    "two equal baselines": (Better("m", method="a", baseline=["b", "floor"], conditions=[""]), arms(gap=0.0)),
}


@pytest.mark.parametrize("n", [3, 5, 12])
@pytest.mark.parametrize("kind", NULLS)
def test_under_the_null_errors_stay_at_or_below_the_nominal_rate(kind, n):
    claim, simulate = NULLS[kind]
    supported, decided = rates([claim], simulate, n, seed=1)
    noise = 3 * np.sqrt(0.05 * 0.95 / REPEATS)
    assert supported <= 0.05, "support is one direction of a two-sided 5% test: 2.5% or less is expected"
    assert decided <= 0.05 + noise


@pytest.mark.parametrize("n", [3, 8])
def test_the_family_of_a_studys_claims_keeps_the_nominal_rate(n):
    def simulate(rng, n):
        names = [f"{side}{i}" for i in range(8) for side in "ab"]
        return evidence(**{name: rng.normal(size=n) for name in names})

    claims = [Better("m", method=f"a{i}", baseline=f"b{i}") for i in range(8)]
    supported, decided = rates(claims, simulate, n, seed=2)
    assert supported <= 0.05
    assert decided <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / REPEATS)
    one_by_one = [stats.ttest_1samp(x, 0, axis=1).pvalue for x in np.random.default_rng(n).normal(size=(200, 8, n))]
    assert np.mean([(p <= 0.05).any() for p in one_by_one]) > 0.2, "without correction one in three studies errs"


PLANTED = {
    "better": arms(1.5),
    "better by": arms(-2.0),
    "not worse": arms(0.5),
    "share of a gap": arms(-0.5),
    "same": arms(2.5),
    "ratio": arms(-np.log(2) - 1.5),
    "bound": arms(10.0),
    "slope": arms(grow=1.1),
    "two baselines": arms(1.5),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_power_rises_with_seeds(kind):
    rng = np.random.default_rng(3)
    power = []
    for n in (3, 8, 20):
        found = [judge([replace(NULLS[kind][0], name="C")], [], PLANTED[kind](rng, n))[0].outcome for _ in range(120)]
        assert found.count("contradicted") <= 2
        power.append(found.count("supported") / 120)
    assert power[0] < power[1] < power[2]
    assert power[2] > 0.85
