"""Registration measures on hand-made cases."""

from __future__ import annotations

import numpy as np
import pytest

from assay.metrics.registration import dice, folding_share, target_registration_error


def test_error_is_in_millimetres_along_each_axis() -> None:
    found = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    truth = np.array([[0.0, 2.0, 3.0], [0.0, 3.0, 4.0]])
    np.testing.assert_allclose(target_registration_error(found, truth), [1, 5])
    np.testing.assert_allclose(target_registration_error(found, truth, (0.5, 1.0, 2.0)), [0.5, np.hypot(3, 8)])


def test_overlap_and_folding() -> None:
    a, b = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    a[:2], b[1:3] = 1, 1
    assert dice(a, b) == 0.5
    assert dice(np.zeros(3), np.zeros(3)) == 1.0
    assert folding_share(np.array([1.0, 0.0, -1.0, 2.0])) == 0.5
    assert folding_share(np.array([1.0, 0.0, -1.0, 2.0]), np.array([1, 1, 0, 0])) == 0.5


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="landmarks"):
        target_registration_error(np.zeros((2, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="landmarks"):
        target_registration_error(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="one shape"):
        dice(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="empty"):
        folding_share(np.ones(3), np.zeros(3))
