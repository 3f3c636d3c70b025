"""Photographs of the wheels, and the thin-lens simulator: its equation, its limits, an independent convolution."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve

from assay.data import photos
from assay.data.focus_stack import (
    Layer,
    Lens,
    blurred,
    disc,
    focus_planes,
    layered_scene,
    layers_of_depth,
    photograph,
    render,
    sharp,
)


def a_layer(depth=1000.0, size=40, alpha=None, name="coffee"):
    image = torch.from_numpy(photos.crop(name, (size, size), np.random.default_rng(0))).permute(2, 0, 1)
    return Layer(image, torch.ones(size, size) if alpha is None else alpha, torch.full((size, size), float(depth)))


def test_every_photograph_is_there():
    for name in (*photos.COLOUR, *photos.GREY):
        found = photos.photo(name)
        assert (found.ndim, found.shape[2], found.dtype) == (3, 3, np.uint8)
        assert found.std() > 5
    with pytest.raises(ValueError):
        photos.photo("coffee")[0] = 0
    with pytest.raises(KeyError, match="china"):
        photos.photo("nobody")


def test_crops_are_seeded_in_range_and_prefer_structure():
    rng = np.random.default_rng
    one, same = (photos.crop("rocket", (50, 60), rng(1), scale=0.5) for _ in range(2))
    assert one.shape == (50, 60, 3)
    assert np.array_equal(one, same)
    assert one.min() >= 0
    assert one.max() <= 1
    lone, best = (
        np.mean([np.abs(np.diff(photos.crop("rocket", (50, 50), rng(s), tries=t), axis=0)).mean() for s in range(12)])
        for t in (1, 6)
    )
    assert best > 1.3 * lone
    with pytest.raises(ValueError, match="smaller than the crop"):
        photos.crop("chelsea", (400, 100), rng(0))
    with pytest.raises(ValueError, match="scale"):
        photos.crop("chelsea", (10, 10), rng(0), scale=2)


def test_thin_lens():
    lens = Lens(focal=50, aperture=25, pixel=0.01)
    z = torch.tensor([1000.0, 2000.0, 500.0])
    assert lens.blur(z, 1000.0)[0] == 0
    expected = 25 * 50 * 1000 / (2000 * 950) / 0.01
    assert lens.blur(z, 1000.0)[1] == pytest.approx(expected, rel=1e-5)
    steps = [Lens().blur(torch.tensor([z]), p).item() for z, p in zip(focus_planes()[1:], focus_planes(), strict=False)]
    assert max(steps) / min(steps) < 1.1  # evenly spaced in dioptres
    with pytest.raises(ValueError, match="beyond"):
        lens.blur(z, 40.0)
    with pytest.raises(ValueError, match="positive"):
        Lens(focal=-1)


@pytest.mark.parametrize("diameter", [0.5, 1.7, 4.0, 9.3])
def test_a_disc_keeps_energy_and_its_width(diameter):
    kernel = disc(diameter)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert torch.allclose(kernel, kernel.flip(0))
    assert torch.allclose(kernel, kernel.T)
    if diameter > 3:
        assert kernel.max() == pytest.approx(4 / (np.pi * diameter**2), rel=0.05)
    point = torch.zeros(3, 31, 31)
    point[:, 15, 15] = 1
    assert torch.allclose(blurred(point, diameter).sum((1, 2)), torch.ones(3), atol=1e-5)


def test_one_flat_layer_is_a_plain_convolution():
    layer, lens = a_layer(depth=1000), Lens()
    focus = 700.0
    made = render([layer], lens, focus, gamma=1)
    diameter = round(float(lens.blur(torch.tensor(1000.0), focus)) / 0.05) * 0.05
    assert diameter > 2
    for channel in range(3):
        expected = convolve(layer.image[channel].numpy(), disc(diameter).numpy(), mode="nearest")
        assert np.abs(made[channel].numpy() - expected).max() < 1e-4
    assert torch.allclose(render([layer], lens, 1000.0), layer.image, atol=1e-5)


def test_a_blurred_foreground_spreads_over_a_sharp_background():
    alpha = torch.zeros(40, 40)
    alpha[:, 20:] = 1
    back = Layer(torch.zeros(3, 40, 40), torch.ones(40, 40), torch.full((40, 40), 2000.0))
    front = Layer(torch.ones(3, 40, 40), alpha, torch.full((40, 40), 500.0))
    lens = Lens()
    made = render([back, front], lens, 2000.0, gamma=1)[0]
    half = float(lens.blur(torch.tensor(500.0), 2000.0)) / 2
    reach = int(half) - 1
    assert (made[:, 20 - reach : 20] > 0).all()
    assert made[20, 19] + made[20, 20] == pytest.approx(1, abs=1e-4)  # symmetric about the edge
    assert made[20, 20 - int(half) - 3] == 0
    with pytest.raises(ValueError, match="solid"):
        render([front], lens, 500.0)


def test_a_tilted_layer_is_sharp_where_it_crosses_the_plane():
    layer = a_layer(size=64)
    depth = 1 / torch.linspace(1 / 1500, 1 / 600, 64).expand(64, 64)
    tilted = Layer(layer.image, layer.alpha, depth)
    error = (render([tilted], Lens(), 1 / (0.5 * (1 / 1500 + 1 / 600)), gamma=1) - layer.image).abs().mean((0, 1))
    assert error[28:36].mean() < 0.3 * min(error[:8].mean(), error[-8:].mean())


def test_missing_planes_are_known():
    rng = np.random.default_rng(3)
    planes = focus_planes()
    layers, chosen = layered_scene(photos.cropper(["coffee", "astronaut"]), planes, 96, rng)
    assert 3 <= len(layers) <= 5
    assert chosen == sorted(chosen)
    whole = photograph(layers, planes, Lens(), rng, margin=16)
    assert whole.frames.shape == (5, 3, 64, 64)
    assert whole.missing().sum() == 0
    part = photograph(layers, [p for i, p in enumerate(planes) if i != chosen[0]], Lens(), rng, margin=16)
    assert part.missing().float().mean() > 0.05
    assert 0 < whole.edge.float().mean() < 1
    noise = whole.frames - torch.stack([render(layers, Lens(), p) for p in planes])[..., 16:80, 16:80]
    assert noise.std() == pytest.approx(0.01, rel=0.15)
    best = whole.blur.argmin(0)
    nearest = whole.frames.gather(0, best[None, None].expand(1, 3, 64, 64))[0]
    away = ~whole.edge & (whole.blur.amin(0) < 0.2)
    assert (nearest - whole.truth).abs()[:, away].mean() < 0.02


def test_breathing_moves_corners_not_the_middle():
    rng = np.random.default_rng(0)
    texture = blurred(torch.from_numpy(rng.random((3, 64, 64), dtype=np.float32)), 2)
    layer = Layer(texture, torch.ones(64, 64), torch.full((64, 64), 1000.0))
    still, moved = (photograph([layer], [1000.0, 1000.0], Lens(), rng, noise=0, breathing=b) for b in (0.0, 1.0))
    assert torch.allclose(still.frames[0], still.frames[1])
    apart = (moved.frames[0] - moved.frames[1]).abs().mean(0)
    assert apart[28:36, 28:36].mean() < apart[:12, :12].mean()


def test_layers_of_a_photograph_with_disparity():
    image = torch.from_numpy(photos.crop("coffee", (48, 48), np.random.default_rng(0))).permute(2, 0, 1)
    disparity = torch.full((48, 48), 10.0)
    disparity[12:36, 12:36] = 30
    disparity[0, 0] = torch.nan
    planes = focus_planes()
    layers = layers_of_depth(image, disparity, planes, count=4)
    truth, depth = sharp(layers)
    assert torch.allclose(truth, image, atol=1e-4)
    assert depth[24, 24] == pytest.approx(planes[-1], rel=1e-3)
    assert depth[2, 2] == pytest.approx(planes[0], rel=1e-3)
    with pytest.raises(ValueError, match="disparity"):
        layers_of_depth(image, torch.full((48, 48), torch.nan), planes)
