"""Injected label noise: exact counts, who may change into what, and where."""

from __future__ import annotations

import numpy as np
import pytest

from assay.data.label_noise import boundary_noise, pair_noise, symmetric_noise


def test_symmetric_noise_changes_exactly_the_share_and_reaches_every_other_class() -> None:
    labels = np.repeat(np.arange(5), 400)
    noisy = symmetric_noise(labels, 0.2, 5, np.random.default_rng(0))
    assert (noisy != labels).sum() == 400
    table = np.zeros((5, 5))
    np.add.at(table, (labels, noisy), 1)
    assert (table > 0).all()


def test_pair_noise_stays_in_the_pair() -> None:
    labels = np.repeat(np.arange(4), 100)
    noisy = pair_noise(labels, [(1, 3)], 0.3, np.random.default_rng(0))
    assert {(a, b) for a, b in zip(labels, noisy, strict=True) if a != b} == {(1, 3), (3, 1)}
    assert (noisy != labels).sum() == 60


def test_boundary_noise_touches_two_frames_on_either_side_of_a_border_only() -> None:
    labels = np.array([0, 0, 0, 0, 2, 2, 2, 2, 2, 0, 0, 0] + [0] * 6)
    video, frame = np.repeat([0, 1], [12, 6]), np.concatenate([np.arange(12), np.arange(6)])
    noisy = boundary_noise(labels, video, frame, 1.0, np.random.default_rng(0))
    assert np.nonzero(noisy != labels)[0].tolist() == [2, 3, 4, 5, 7, 8, 9, 10]
    np.testing.assert_array_equal(noisy[12:], labels[12:])
    order = np.random.default_rng(1).permutation(18)
    moved = boundary_noise(labels[order], video[order], frame[order], 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(moved, noisy[order])


def test_refusals() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="rate"):
        symmetric_noise(np.zeros(3, int), 1.5, 2, rng)
    with pytest.raises(ValueError, match="two classes"):
        symmetric_noise(np.zeros(3, int), 0.5, 1, rng)
    with pytest.raises(ValueError, match="one pair"):
        pair_noise(np.zeros(3, int), [(0, 1), (1, 2)], 0.5, rng)
    with pytest.raises(ValueError, match="reach"):
        boundary_noise(np.zeros(3, int), np.zeros(3), np.arange(3), 0.5, rng, reach=0)
