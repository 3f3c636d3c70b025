"""Gabor energies answer to their own gratings; tokens keep the statistics of the set."""

import math

import pytest
import torch

from assay.nn.gabor_tokens import FREQUENCIES, ORIENTATIONS, GaborTokens, gabor_energies


def grating(frequency, angle, phase=0.3, size=(96, 80)):
    y, x = torch.meshgrid(torch.arange(size[0]).double(), torch.arange(size[1]).double(), indexing="ij")
    return 0.5 + 0.3 * torch.cos(2 * math.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)) + phase)


@pytest.mark.parametrize("number", range(len(FREQUENCIES) * ORIENTATIONS))
def test_each_filter_answers_most_to_its_own_grating(number):
    frequency, step = FREQUENCIES[number // ORIENTATIONS], number % ORIENTATIONS
    found = gabor_energies(grating(frequency, math.pi * step / ORIENTATIONS))
    energies = found[3:-3, 3:-3, :24].exp()
    pairs = energies[..., :12] + energies[..., 12:]
    assert bool((pairs.argmax(dim=-1) == number).all())


def test_mean_and_spread_of_a_cell():
    image = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gabor_energies(image, 8, pool=0)
    assert found.shape == (8, 6, 28)
    grey = image.mean(dim=0)[8:16, 16:24]
    assert float(found[1, 2, 25]) == pytest.approx(float(grey.mean()))
    assert float(found[1, 2, 24]) == pytest.approx(0.5 * math.log(float(grey.var(unbiased=False)) + 1e-5))
    cell = image[:, 8:16, 16:24].mean(dim=(1, 2))
    assert float(found[1, 2, 26]) == pytest.approx(float(cell[0] - cell[1]))
    assert gabor_energies(torch.full((40, 50), 0.4)).isfinite().all()


def test_tokens_use_the_statistics_of_the_whole_set():
    g = torch.Generator().manual_seed(1)
    images = [torch.rand(64, 64, generator=g) * contrast for contrast in (0.2, 1.0)]
    tokens = GaborTokens(8, 6).fit(images)
    x = [tokens(image) for image in images]
    assert x[0].shape == (8, 8, 6)
    torch.testing.assert_close(x[0].norm(dim=-1), torch.ones(8, 8, dtype=torch.float64))
    # contrast, which images differ in, survives: the two sets of tokens point apart
    assert float(x[0].mean(dim=(0, 1)) @ x[1].mean(dim=(0, 1))) < 0
    again = GaborTokens.from_state(tokens.state())
    assert torch.equal(again(images[0]), x[0])


def test_bad_input():
    with pytest.raises(ValueError, match="fewer than two cells"):
        gabor_energies(torch.rand(15, 40))
    with pytest.raises(ValueError, match="image must be"):
        gabor_energies(torch.rand(2, 40, 40))
    with pytest.raises(ValueError, match="no images"):
        GaborTokens().fit([])
    fitted = GaborTokens().fit([torch.rand(40, 40, generator=torch.Generator().manual_seed(2))])
    with pytest.raises(ValueError, match="28 features"):
        fitted(torch.rand(3, 40, 40))
    with pytest.raises(ValueError, match="not the statistics"):
        GaborTokens.from_state({"mean": torch.zeros(3)})
