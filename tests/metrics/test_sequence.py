"""Checks of imagined frames against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from assay.metrics.sequence import check_frames, consecutive_ratio


def test_checks_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    before, after, drawn = rng.integers(0, 2, (3, 200, 4))
    found = check_frames(before, after, drawn)
    for b, a, d, right, redundant in zip(before, after, drawn, found.right, found.redundant, strict=True):
        changing = [k for k in range(4) if b[k] != a[k]]
        assert right == all(d[k] == a[k] for k in (changing or range(4)))
        assert redundant == any(d[k] != a[k] for k in range(4) if k not in changing)
    with pytest.raises(ValueError, match="shapes"):
        check_frames(before, after, drawn[:, :3])


def test_frames_before_the_first_wrong_one_count() -> None:
    right = np.array([[True, True, False, True], [False, True, True, True], [True, True, True, True]])
    np.testing.assert_allclose(consecutive_ratio(right), [0.5, 0, 1])
    np.testing.assert_allclose(consecutive_ratio(right, np.array([2, 4, 3])), [1, 0, 1])
    with pytest.raises(ValueError, match="lengths"):
        consecutive_ratio(right, np.array([0, 1, 5]))
