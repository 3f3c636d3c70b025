"""Reading measures against definitions that are obviously right."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from assay.metrics.recognition import comparable, edit_distance, edit_similarity, word_accuracy, words_read


def slow(a: str, b: str) -> int:
    @cache
    def between(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return between(len(a), len(b))


def test_edit_distance_is_the_recursive_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = ("".join(rng.choice(list("abc"), rng.integers(0, 8))) for _ in range(2))
        assert edit_distance(a, b) == edit_distance(b, a) == slow(a, b)
    assert edit_distance("kitten", "sitting") == 3


def test_accuracy_and_similarity() -> None:
    assert word_accuracy(["ab", "c", ""], ["ab", "d", "x"]) == pytest.approx(1 / 3)
    assert words_read(["A"], ["a"]).tolist() == [False]
    assert edit_similarity(["abcd", "", "x"], ["abce", "", "yz"]) == pytest.approx((0.75 + 1 + 0) / 3)


def test_comparable_is_the_benchmarks_protocol() -> None:
    assert comparable("It's  O.K. 24!") == "itsok24"


def test_bad_input() -> None:
    for measure in (word_accuracy, edit_similarity):
        with pytest.raises(ValueError):
            measure([], [])
        with pytest.raises(ValueError):
            measure(["a"], ["a", "b"])
