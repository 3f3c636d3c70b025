"""Word lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay.data.text.corpus import frequent_words, read_words, split_words
from assay.errors import InputError


def test_frequent_words_fit_what_was_asked() -> None:
    pytest.importorskip("wordfreq")
    words = frequent_words(300, length=(3, 6))
    assert len(words) == len(set(words)) == 300
    assert all(3 <= len(word) <= 6 and word.isascii() and word.islower() and word.isalpha() for word in words)
    assert words.index("the") < words.index("people")
    with pytest.raises(ValueError, match="no en word"):
        frequent_words(5, alphabet="#")


def test_parts_are_disjoint_and_keep_their_order() -> None:
    words = [f"w{i:03}" for i in range(100)]
    a, b = split_words(words, [0.7, 0.2], np.random.default_rng(0))
    assert (len(a), len(b)) == (70, 20)
    assert not set(a) & set(b)
    assert a == sorted(a)
    for shares in ([0.7, 0.4], [0.5, 0.0], []):
        with pytest.raises(ValueError, match="shares"):
            split_words(words, shares, np.random.default_rng(0))


def test_a_users_words(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("﻿Straße\n\n  two   words \n東京\nStraße\n", encoding="utf-8")
    assert read_words(file) == ["Straße", "two words", "東京"]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_words(file)
    file.write_text("\n\n")
    with pytest.raises(InputError, match="no words"):
        read_words(file)
