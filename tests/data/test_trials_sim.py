"""Simulated trials say what they claim: matches decide, neither side alone does, and most tokens are noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from assay.data.trials_sim import simulate_trials
from assay.metrics.classification import roc_auc


def test_a_seed_is_one_draw_of_the_same_world() -> None:
    a, b, c = (simulate_trials(50, seed) for seed in (1, 1, 2))
    assert_array_equal(a.tokens["drug"], b.tokens["drug"])
    assert not np.array_equal(a.label, c.label)


def test_outcomes_follow_the_log_odds_and_most_tokens_are_irrelevant() -> None:
    made = simulate_trials(4000, 0, match=6.0)
    chance = 1 / (1 + np.exp(-made.logit))
    assert abs(made.label.mean() - chance.mean()) < 0.03
    assert roc_auc(made.label, made.logit) > 0.8
    share = sum(r.sum() for r in made.relevant.values()) / sum((~p).sum() for p in made.pad.values())
    assert share == pytest.approx(0.4, abs=0.02)
    assert all((~p).any(axis=1).all() for p in made.pad.values())


def test_neither_drug_nor_disease_tells_anything_alone() -> None:
    made = simulate_trials(6000, 3, match=6.0, strictness=0.0, spread=0.0)
    rest = {}
    for part in ("drug", "disease"):
        real = ~made.pad[part]
        x = (made.tokens[part] * real[..., None]).sum(axis=1) / real.sum(axis=1)[:, None]
        half = len(x) // 2
        w = np.linalg.lstsq(x[:half], made.label[:half] - 0.5, rcond=None)[0]
        rest[part] = roc_auc(made.label[half:], x[half:] @ w)
    assert all(abs(v - 0.5) < 0.03 for v in rest.values())


def test_without_match_drug_and_disease_do_not_count() -> None:
    made = simulate_trials(300, 0, match=0.0, strictness=0.0)
    assert (made.logit == 0).all()


@pytest.mark.parametrize("bad", [{"n": 0}, {"width": 0}, {"lengths": (0, 1, 1, 1)}, {"spread": -1.0}])
def test_bad_arguments(bad: dict) -> None:
    with pytest.raises(ValueError, match="need trials"):
        simulate_trials(**{"n": 5, "seed": 0, **bad})
