"""Confident learning against cleanlab (where installed), against the definition, and on bad input."""

from __future__ import annotations

import numpy as np
import pytest

from assay.methods.labels import confident_learning as cl


def noisy_probabilities(seed: int, samples: int = 400, classes: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = np.concatenate([np.arange(classes), rng.integers(0, classes, samples - classes)])
    logits = rng.normal(size=(samples, classes)) + 2.5 * np.eye(classes)[true]
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = np.where(rng.random(samples) < 0.2, rng.integers(0, classes, samples), true)
    return prob, given, true


@pytest.mark.parametrize("seed", range(5))
def test_equals_cleanlab(seed: int) -> None:
    count = pytest.importorskip("cleanlab.count")
    filters, rank = pytest.importorskip("cleanlab.filter"), pytest.importorskip("cleanlab.rank")
    prob, given, _ = noisy_probabilities(seed)
    issues = filters.find_label_issues(given, prob, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(cl.find_label_issues(prob, given), issues)
    raw = count.compute_confident_joint(given, prob, calibrate=False)
    joint = raw / raw.sum(axis=1, keepdims=True) * np.bincount(given)[:, None]
    np.testing.assert_allclose(cl.confident_joint(prob, given), joint)
    for kind, ours in (("self_confidence", cl.self_confidence), ("normalized_margin", cl.normalized_margin)):
        scores = rank.get_label_quality_scores(given, prob, method=kind)
        np.testing.assert_allclose(ours(prob, given), scores)


def test_equals_the_definition_written_as_loops() -> None:
    prob, given, _ = noisy_probabilities(9, samples=60)
    thresholds = [prob[given == j, j].mean() for j in range(4)]
    for i, label in enumerate(given):
        passing = [j for j in range(4) if prob[i, j] >= thresholds[j] - 1e-6]
        expected = max(passing, key=lambda j: prob[i, j]) if passing else -1
        assert cl.confident_class(prob, given)[i] == expected
        suspect = expected not in (-1, label) and prob[i].argmax() != label
        assert cl.find_label_issues(prob, given)[i] == suspect


def test_a_perfect_classifier_recovers_the_noise_matrix() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 5000)
    given = np.where((true == 0) & (rng.random(5000) < 0.3), 1, true)
    rates = cl.noise_rates(np.eye(3)[true], given)
    assert rates[1, 0] == pytest.approx((true[given == 1] == 0).mean())
    np.testing.assert_allclose(rates.sum(axis=1), 1)
    np.testing.assert_array_equal(cl.find_label_issues(np.eye(3)[true], given), given != true)


def test_joint_keeps_label_counts_and_permutation_permutes() -> None:
    prob, given, _ = noisy_probabilities(3)
    np.testing.assert_allclose(cl.confident_joint(prob, given).sum(axis=1), np.bincount(given))
    order = np.random.default_rng(1).permutation(len(given))
    np.testing.assert_array_equal(
        cl.find_label_issues(prob[order], given[order]), cl.find_label_issues(prob, given)[order]
    )


def test_a_class_without_samples_takes_part_in_nothing() -> None:
    prob = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    assert cl.class_thresholds(prob, [0, 1])[2] == np.inf
    assert cl.confident_joint(prob, [0, 1])[2].sum() == 0


@pytest.mark.parametrize(
    ("prob", "labels"),
    [
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.5]], [-1]),
        ([[np.nan, 1]], [0]),
        ([[1.0]], [0]),
        ([[2, -1]], [0]),
        ([[0.5, 0.5]], [0.0]),
    ],
)
def test_refusals(prob: list, labels: list) -> None:
    with pytest.raises(ValueError):
        cl.find_label_issues(prob, labels)
