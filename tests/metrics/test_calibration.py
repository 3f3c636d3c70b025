"""Calibration measures by hand, in the limit and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from assay.metrics.calibration import brier_score, expected_calibration_error, reliability


def test_by_hand() -> None:
    prob = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    labels = [0, 1, 1, 1]
    assert expected_calibration_error(prob, labels, bins=10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert brier_score(prob, labels) == pytest.approx((0.02 + 1.62 + 0.32 + 0.32) / 4)


def test_labels_drawn_from_the_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    prob = rng.dirichlet(np.ones(4), size=40_000)
    labels = np.array([rng.choice(4, p=row) for row in prob])
    assert expected_calibration_error(prob, labels) < 0.015


def test_overconfidence_is_its_distance_from_the_truth() -> None:
    prob = np.tile([1.0, 0.0], (100, 1))
    labels = np.repeat([0, 1], [70, 30])
    assert expected_calibration_error(prob, labels) == pytest.approx(0.3)


def test_bins_are_closed_on_the_right_and_hold_everybody() -> None:
    _, _, count = reliability([0.0, 0.1, 0.1 + 1e-9, 1.0], [0, 0, 1, 1], bins=10)
    assert count.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]


def test_event_brier_equals_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    p, y = rng.random(200), rng.integers(0, 2, 200)
    assert brier_score(p, y) == pytest.approx(metrics.brier_score_loss(y, p))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        reliability([1.2], [1])
    with pytest.raises(ValueError, match=r"0\.\.1"):
        expected_calibration_error(np.ones((1, 2)) / 2, [2])
    with pytest.raises(ValueError, match="at least one bin"):
        reliability([0.5], [1], bins=0)
