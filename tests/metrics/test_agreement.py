"""Agreement against scikit-learn, statsmodels and Krippendorff's own worked example."""

from __future__ import annotations

import numpy as np
import pytest

from assay.metrics.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha

# The reliability data of K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section D.
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, np.nan, np.nan, np.nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, np.nan, 3],
        [np.nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, np.nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, np.nan],
    ]
)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_cohen_equals_scikit_learn(weights: str | None) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(10):
        a = rng.integers(0, 5, 60)
        b = np.where(rng.random(60) < 0.6, a, rng.integers(0, 5, 60))
        assert cohen_kappa(a, b, weights=weights) == pytest.approx(sklearn.cohen_kappa_score(a, b, weights=weights))


def test_fleiss_equals_statsmodels() -> None:
    rater = pytest.importorskip("statsmodels.stats.inter_rater")
    rng = np.random.default_rng(1)
    for _ in range(10):
        counts = rng.multinomial(5, rng.dirichlet(np.ones(4)), size=40)
        assert fleiss_kappa(counts) == pytest.approx(rater.fleiss_kappa(counts))


def test_alpha_equals_the_published_example() -> None:
    for level, published in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert krippendorff_alpha(EXAMPLE, level=level) == pytest.approx(published, abs=5e-4)


def test_limits() -> None:
    a = np.array([0, 1, 2, 1])
    assert cohen_kappa(a, a) == 1
    assert cohen_kappa(np.array(list("abca")), np.array(list("abca"))) == 1
    assert np.isnan(cohen_kappa([1, 1], [1, 1]))
    assert krippendorff_alpha(np.stack([a, a])) == 1
    assert np.isnan(krippendorff_alpha([[1.0, np.nan], [np.nan, 2.0]]))
    assert fleiss_kappa([[3, 0], [0, 3]]) == 1
    rng = np.random.default_rng(2)
    free = rng.integers(0, 3, (3, 20_000))
    assert krippendorff_alpha(free) == pytest.approx(0, abs=0.02)
    assert cohen_kappa(free[0], free[1]) == pytest.approx(0, abs=0.02)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="one length"):
        cohen_kappa([1, 2], [1])
    with pytest.raises(ValueError, match="weights"):
        cohen_kappa([1, 2], [1, 1], weights="cubic")
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([[2, 1], [1, 1]])
    with pytest.raises(ValueError, match="level"):
        krippendorff_alpha(EXAMPLE, level="ratio")
