"""Figures of a binary classifier against scikit-learn, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from assay.metrics.classification import best_f1_threshold, bootstrap_interval, f1_score, roc_auc


@pytest.fixture(params=[0, 1, 2])
def rows(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(request.param)
    y = rng.random(80) < 0.4
    return y, np.round(rng.random(80) + 0.3 * y, 1)  # many ties


def test_as_scikit_learn(rows: tuple[np.ndarray, np.ndarray]) -> None:
    y, s = rows
    assert roc_auc(y, s) == pytest.approx(sk.roc_auc_score(y, s))
    for threshold in (0.0, 0.3, 0.5, 2.0):
        assert f1_score(y, s, threshold) == pytest.approx(sk.f1_score(y, s >= threshold, zero_division=0))


def test_no_threshold_gives_a_higher_f1(rows: tuple[np.ndarray, np.ndarray]) -> None:
    y, s = rows
    best = f1_score(y, s, best_f1_threshold(y, s))
    assert best == pytest.approx(max(f1_score(y, s, t) for t in np.unique(s)))


def test_interval_is_reproducible_covers_and_narrows_with_rows() -> None:
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.arange(n) < n // 2
        return y, rng.normal(size=n) + y  # AUC 0.760

    y, s = draw(100)
    assert bootstrap_interval(roc_auc, y, s, seed=1) == bootstrap_interval(roc_auc, y, s, seed=1)
    spans = [np.subtract(*bootstrap_interval(roc_auc, *draw(n), samples=100)[::-1]) for n in (50, 800)]
    assert spans[0] > 2.5 * spans[1]
    inside = [
        low <= 0.760 <= high for low, high in (bootstrap_interval(roc_auc, *draw(80), samples=80) for _ in range(60))
    ]
    assert np.mean(inside) > 0.85


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="one class"):
        roc_auc([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="NaN"):
        roc_auc([1, 0], [np.nan, 0.2])
    with pytest.raises(ValueError, match="one length"):
        f1_score([1, 0], [0.2])
    with pytest.raises(ValueError, match="no rows"):
        best_f1_threshold([], [])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(roc_auc, [1, 0], [0.1, 0.2], level=1.0)
    assert f1_score([0, 0], [0.1, 0.2]) == 0
