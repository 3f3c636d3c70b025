import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.metrics import hamming
from assay.metrics.hamming import (
    HammingIndex,
    hamming_distance,
    hamming_search,
    pack_codes,
    precision_within,
    unpack_codes,
)


def signs(rng: np.random.Generator, n: int, q: int) -> np.ndarray:
    return 2 * rng.integers(2, size=(n, q)) - 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_packing_is_exact_and_distance_is_half_of_q_less_the_product(seed: int, count: int, octets: int) -> None:
    rng = np.random.default_rng(seed)
    b, other = signs(rng, count, 8 * octets), signs(rng, 5, 8 * octets)
    codes = pack_codes(b)
    assert codes.shape == (count, octets)
    np.testing.assert_array_equal(unpack_codes(codes), b)
    np.testing.assert_array_equal(pack_codes(b > 0), codes)
    np.testing.assert_array_equal(hamming_distance(codes, pack_codes(other)), (8 * octets - b @ other.T) // 2)


@pytest.mark.parametrize("q", [8, 24, 64, 128])
@pytest.mark.parametrize("k", [1, 7, 300, 900])
def test_search_is_a_stable_sort_with_and_without_faiss(q: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(q + k)
    gallery = pack_codes(signs(rng, 300, q))
    gallery[100:200] = gallery[:100]  # many ties
    query = pack_codes(signs(rng, 11, q))
    query[:4] = gallery[:4]
    distance = hamming_distance(query, gallery)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    monkeypatch.setattr(hamming, "CHUNK", 1000)
    for faiss in (True, False):
        found, index = HammingIndex(gallery, faiss=faiss).search(query, k)
        np.testing.assert_array_equal(index, order)
        np.testing.assert_array_equal(found, np.take_along_axis(distance, order, 1))
    np.testing.assert_array_equal(hamming_search(query, gallery, k)[1], order)


def test_precision_within_a_radius() -> None:
    distance = np.array([[0, 2, 3], [3, 4, 5], [1, 1, 9]])
    relevant = np.array([[True, False, True], [True, True, True], [True, True, False]])
    assert precision_within(distance, relevant) == pytest.approx((0.5 + 0 + 1) / 3)
    assert precision_within(distance, relevant, radius=9) == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)


def test_bad_codes() -> None:
    good = pack_codes(np.ones((3, 16)))
    for call, words in (
        (lambda: pack_codes(np.ones((3, 12))), "multiple of 8"),
        (lambda: pack_codes(np.ones(8)), "multiple of 8"),
        (lambda: unpack_codes(np.ones((3, 2))), "bytes"),
        (lambda: hamming_distance(good, good[:, :1]), "16 bits"),
        (lambda: HammingIndex(good[:0]), "at least one"),
        (lambda: HammingIndex(good).search(good, 0), "at least 1"),
        (lambda: HammingIndex(good).search(good[:, :1], 1), "8 bits"),
        (lambda: precision_within(np.ones((2, 3)), np.ones((3, 2))), "does not fit"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
