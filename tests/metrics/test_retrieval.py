import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from assay.metrics.retrieval import (
    CHUNK,
    average_precisions,
    first_ranks,
    mean_average_precision,
    recall_at_k,
    same_label,
)


def brute_average_precision(distance, relevant, top=None):
    order = sorted(range(len(distance)), key=lambda i: (distance[i], i))[:top]
    hits, total = 0, 0.0
    for place, item in enumerate(order, start=1):
        if relevant[item]:
            hits += 1
            total += hits / place
    return total / hits if hits else 0.0


@given(st.integers(0, 10_000), st.sampled_from([None, 1, 3, 50]))
def test_average_precision_equals_a_loop_with_ties(seed, top):
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 4, (5, 12))
    relevant = rng.random((5, 12)) < 0.4
    relevant[:, 0] = True
    expected = [brute_average_precision(d, r, top) for d, r in zip(distance, relevant, strict=True)]
    np.testing.assert_allclose(average_precisions(distance, relevant, top), expected, atol=1e-12)


def test_average_precision_equals_scikit_learn_without_ties():
    rng = np.random.default_rng(0)
    distance, relevant = rng.random((CHUNK + 7, 40)), rng.random((CHUNK + 7, 40)) < 0.2
    relevant[:, 3] = True
    expected = [average_precision_score(r, -d) for d, r in zip(distance, relevant, strict=True)]
    np.testing.assert_allclose(average_precisions(distance, relevant), expected, atol=1e-12)
    assert mean_average_precision(distance, relevant) == pytest.approx(np.mean(expected))


def test_queries_without_a_match_are_left_out_of_the_mean():
    distance = np.array([[0.0, 1.0], [0.0, 1.0]])
    relevant = np.array([[False, True], [False, False]])
    assert np.isnan(average_precisions(distance, relevant)[1])
    assert mean_average_precision(distance, relevant) == 0.5
    with pytest.raises(ValueError, match="no query has a match"):
        mean_average_precision(distance, np.zeros((2, 2), bool))


def test_recall_and_ranks_by_hand():
    similarity = np.array([[0.9, 0.5, 0.1], [0.2, 0.2, 0.2], [0.1, 0.2, 0.9]])
    matches = np.array([1, 2, 2])
    assert first_ranks(similarity, matches).tolist() == [2, 3, 1]  # the tie goes to the lower index
    assert [recall_at_k(similarity, matches, k) for k in (1, 2, 3, 99)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    several = np.array([[False, True, True], [True, False, False], [False, False, False]])
    assert first_ranks(similarity, several).tolist() == [2, 1, 4]
    assert recall_at_k(similarity, several, 1) == pytest.approx(1 / 3)


def test_unsigned_distances_do_not_wrap():
    assert recall_at_k(np.array([[0, 3]], dtype=np.uint8), [1], 1) == 1.0
    assert average_precisions(np.array([[0, 3]], dtype=np.uint8), [[True, False]])[0] == 1.0


def test_chance_level():
    rng = np.random.default_rng(1)
    similarity = rng.random((2000, 50))
    assert recall_at_k(similarity, rng.integers(0, 50, 2000), 10) == pytest.approx(0.2, abs=0.03)


def test_labels_shared():
    assert same_label([0, 1], [1, 0, 1]).tolist() == [[False, True, False], [True, False, True]]
    many = same_label(np.array([[1, 1, 0]]), np.array([[0, 1, 0], [0, 0, 1]]))
    assert many.tolist() == [[True, False]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: recall_at_k(np.zeros((0, 3)), [], 1),
        lambda: recall_at_k([[np.nan, 1.0]], [0], 1),
        lambda: recall_at_k([[0.0, 1.0]], [2], 1),
        lambda: recall_at_k([[0.0, 1.0]], [0], 0),
        lambda: first_ranks([[0.0, 1.0]], [[True]]),
        lambda: average_precisions([[0.0, 1.0]], [[True]]),
        lambda: average_precisions([[0.0, 1.0]], [[True, False]], top=0),
        lambda: same_label([0, 1], np.zeros((2, 3))),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError):
        call()
