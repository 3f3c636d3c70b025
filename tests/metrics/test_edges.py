import numpy as np
import pytest

from assay.metrics.edges import edge_f1


def line(column, size=9):
    edges = np.zeros((size, size), dtype=bool)
    edges[:, column] = True
    return edges


def test_the_same_map_scores_one_and_a_far_one_zero():
    assert edge_f1(line(3), line(3), 0) == 1
    assert edge_f1(line(1), line(6), 2) == 0


def test_the_tolerance_is_a_chessboard_distance():
    assert edge_f1(line(3), line(5), 1) == 0
    assert edge_f1(line(3), line(5), 2) == 1


def test_f1_is_symmetric_and_equals_the_count_by_hand():
    a, b = line(2), line(2) | line(7)
    assert edge_f1(a, b, 0) == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert edge_f1(a, b, 0) == edge_f1(b, a, 0)


def test_without_tolerance_it_is_the_f1_of_scikit_learn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    a, b = rng.random((12, 12)) < 0.3, rng.random((12, 12)) < 0.4
    assert edge_f1(a, b, 0) == pytest.approx(f1_score(b.ravel(), a.ravel()))


def test_empty_maps():
    empty = np.zeros((4, 4), dtype=bool)
    assert edge_f1(empty, empty) == 1
    assert edge_f1(empty, line(1, 4)) == 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        edge_f1(line(1), line(1, 4))
    with pytest.raises(ValueError, match="negative"):
        edge_f1(line(1), line(1), -1)
