from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from assay.metrics.clustering import (
    adjusted_rand_index,
    clustering_accuracy,
    contingency,
    normalized_mutual_information,
)

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


@given(PAIRS)
def test_agrees_with_sklearn_and_with_every_renaming(pairs):
    truth, found = np.array(pairs).T
    assert adjusted_rand_index(truth, found) == pytest.approx(adjusted_rand_score(truth, found), abs=1e-12)
    ours = normalized_mutual_information(truth, found)
    assert ours == pytest.approx(normalized_mutual_info_score(truth, found), abs=1e-9)
    best = max(float(np.mean(np.array(names)[found] == truth)) for names in permutations(range(5)))
    assert clustering_accuracy(truth, found) == pytest.approx(best)


def test_numbering_and_type_of_labels_play_no_part():
    truth = np.array(["cup", "car", "cup", "duck", "duck"])
    found = np.array([7, 3, 7, 0, 0])
    for measure in (clustering_accuracy, normalized_mutual_information, adjusted_rand_index):
        assert measure(truth, found) == pytest.approx(1)
    np.testing.assert_array_equal(contingency(truth, found), [[0, 1, 0], [0, 0, 2], [2, 0, 0]])


def test_more_clusters_than_classes_cost_accuracy():
    assert clustering_accuracy([0, 0, 0, 0], [0, 1, 2, 2]) == 0.5


@pytest.mark.parametrize(("truth", "found"), [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_bad_input_is_refused(truth, found):
    with pytest.raises(ValueError, match="one length"):
        clustering_accuracy(truth, found)
