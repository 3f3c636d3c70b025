"""Localisation and faithfulness of maps against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.metrics.faithfulness import area_under, perturbation_curve
from assay.metrics.localisation import (
    area_share,
    energy_in_mask,
    grid_pointing_game,
    pixel_average_precision,
    pointing_game,
)

MAP = np.array([[[3.0, 1.0, 0.0, -4.0], [0.0, 0.0, 0.0, 0.0]]])
MASK = np.array([[[True, False, False, True], [False, False, False, False]]])


def test_energy_counts_the_positive_part_only() -> None:
    assert energy_in_mask(MAP, MASK)[0] == pytest.approx(0.75)
    assert area_share(MASK)[0] == pytest.approx(0.25)
    assert energy_in_mask(-np.ones((1, 2, 4)), MASK)[0] == pytest.approx(0.25)
    assert energy_in_mask(7 * MAP, MASK)[0] == pytest.approx(0.75)


def test_pointing_game_with_tolerance_and_ties() -> None:
    off = np.roll(MAP, 1, axis=2)
    assert pointing_game(MAP, MASK)[0] == 1
    assert pointing_game(off, MASK)[0] == 0
    assert pointing_game(off, MASK, tolerance=1)[0] == 1
    assert pointing_game(np.zeros((1, 2, 4)), MASK)[0] == pytest.approx(0.25)


def test_pixels_are_ranked_by_the_map() -> None:
    assert pixel_average_precision(MASK.astype(float), MASK)[0] == 1
    assert pixel_average_precision(MAP, MASK)[0] == pytest.approx((1 + 2 / 8) / 2)


def test_grid_game_reads_cells_row_by_row() -> None:
    maps = np.zeros((3, 4, 4))
    maps[0, 0, 3], maps[1, 3, 0], maps[2] = 1, 1, 1
    assert grid_pointing_game(maps, [1, 2, 3], 2).tolist() == [1, 1, 0.25]
    for cells, grid in (([0, 0, 4], 2), ([0], 2), ([0, 0, 0], 3)):
        with pytest.raises(ValueError):
            grid_pointing_game(maps, cells, grid)


def test_bad_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="N, H, W"):
        energy_in_mask(MAP[0], MASK[0])
    with pytest.raises(ValueError, match="finite"):
        energy_in_mask(MAP * np.nan, MASK)
    with pytest.raises(ValueError, match="tolerance"):
        pointing_game(MAP, MASK, -1)


def test_deletion_and_insertion_of_a_known_score() -> None:
    images = torch.zeros(2, 3, 4, 4)
    images[:, :, 0] = 1  # four pixels carry the score
    good, bad = images[:, 0], -images[:, 0]

    def score(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        assert len(rows) == len(x)
        return x[:, 0, 0].mean(dim=1) * (1 + rows)

    black = torch.zeros(1, 1, 1, 1)
    curve = perturbation_curve(score, images, good, fill=black, steps=4, batch=1)
    assert curve.tolist() == [[1, 0, 0, 0, 0], [2, 0, 0, 0, 0]]
    assert area_under(curve).tolist() == [0.125, 0.25]
    worst = perturbation_curve(score, images, bad, fill=black, steps=4)
    assert worst[0].tolist() == [1, 1, 1, 1, 0]
    inserted = perturbation_curve(score, images, good, mode="insertion", fill=black, steps=4)
    assert inserted[0].tolist() == [0, 1, 1, 1, 1]
    mean = perturbation_curve(score, images, good, steps=1)
    assert mean[0].tolist() == [1, 0.25]
    with pytest.raises(ValueError, match="maps must be"):
        perturbation_curve(score, images, good[:1])
