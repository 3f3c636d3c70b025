"""Gabor distance and edge preservation: zero for equal pictures, order of known degradations, bad input."""

import numpy as np
import pytest
import torch

from assay.data.focus_stack import blurred
from assay.data.photos import crop
from assay.metrics.fusion_quality import edge_preservation
from assay.metrics.gabor_distance import gabor_distance


@pytest.fixture(scope="module")
def picture():
    return torch.from_numpy(crop("astronaut", (64, 64), np.random.default_rng(0), tries=3)).permute(2, 0, 1)[None]


def test_more_blur_is_farther(picture):
    assert gabor_distance(picture, picture).item() == pytest.approx(0, abs=1e-6)
    far = [gabor_distance(blurred(picture[0], d)[None], picture).item() for d in (2.0, 3.0, 5.0)]
    assert 0 < far[0] < far[1] < far[2] < 1
    assert gabor_distance(picture, torch.full_like(picture, 0.5)).item() > 0.5
    a, b = gabor_distance(picture, blurred(picture[0], 3)[None]), gabor_distance(blurred(picture[0], 3)[None], picture)
    assert torch.allclose(a, b)


def test_structure_counts_more_than_its_place():
    """Fine noise of the right strength is nearer to other such noise than a flat picture; pixels say otherwise."""
    g = torch.Generator().manual_seed(0)
    one, two = (0.5 + 0.1 * torch.randn(1, 3, 48, 48, generator=g) for _ in range(2))
    flat = torch.full_like(one, 0.5)
    for pool in (1, 7):
        assert gabor_distance(one, two, pool=pool) < gabor_distance(flat, two, pool=pool)
    assert gabor_distance(one, two) < 0.3 * gabor_distance(one, two, pool=1)
    assert (one - two).square().mean() > (flat - two).square().mean()


def test_the_map_shows_where(picture):
    half = picture.clone()
    half[..., 32:] = blurred(picture[0], 5)[None][..., 32:]
    shown = gabor_distance(half, picture, full=True)
    assert shown.shape == (1, 64, 64)
    assert shown[..., 44:].mean() > 5 * shown[..., :20].mean()
    assert torch.equal(gabor_distance(half, picture), gabor_distance(half, picture))
    with pytest.raises(ValueError, match="odd"):
        gabor_distance(picture, picture, pool=4)
    with pytest.raises(ValueError, match="too few"):
        gabor_distance(picture[..., :20], picture[..., :20])
    with pytest.raises(ValueError, match="alike"):
        gabor_distance(picture, picture[0])


def test_edges_kept(picture):
    grey = picture[0].mean(0)
    soft = blurred(grey[None], 5)[0]
    left, right = grey.clone(), grey.clone()
    left[:, 32:], right[:, :32] = soft[:, 32:], soft[:, :32]
    sources = torch.stack([left, right])
    best, mean = edge_preservation(sources, grey), edge_preservation(sources, sources.mean(0))
    assert edge_preservation(grey[None], grey) == pytest.approx(
        0.9994 / (1 + np.exp(-7.5)) * 0.9879 / (1 + np.exp(-4.4))
    )
    assert best > mean > edge_preservation(sources, soft)
    with pytest.raises(ValueError, match="sources"):
        edge_preservation(sources, grey[:5])
    with pytest.raises(ValueError, match="no edges"):
        edge_preservation(torch.ones(2, 9, 9), torch.ones(9, 9))
