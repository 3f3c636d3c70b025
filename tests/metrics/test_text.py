"""ROUGE against Google's package and against a plain recursion."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.metrics.text import longest_common_subsequence, rouge_l, rouge_n

texts = st.lists(st.sampled_from(["a", "b", "dog", "Dog's", "3.5", "don't,", "X.", "é", "-"]), max_size=12).map(
    " ".join
)


@settings(max_examples=60, deadline=None)
@given(texts, texts)
def test_rouge_is_that_of_the_package(text, reference):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, text)
    for mine, peer in (
        (rouge_n(text, reference), theirs["rouge1"]),
        (rouge_n(text, reference, 2), theirs["rouge2"]),
        (rouge_l(text, reference), theirs["rougeL"]),
    ):
        assert (mine.precision, mine.recall, mine.f1) == pytest.approx(tuple(peer))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=9), st.lists(st.sampled_from("abcde"), max_size=9))
def test_subsequence_is_that_of_the_recursion(first, second):
    @functools.cache
    def plain(i, j):
        if i == 0 or j == 0:
            return 0
        if first[i - 1] == second[j - 1]:
            return plain(i - 1, j - 1) + 1
        return max(plain(i - 1, j), plain(i, j - 1))

    assert longest_common_subsequence(first, second) == plain(len(first), len(second))


def test_n_is_checked():
    with pytest.raises(ValueError, match="at least 1"):
        rouge_n("a", "a", 0)
