"""Fitting splats: the loss falls, the same generator gives the same scene, pruned rows take their moments along."""

import math

import pytest
import torch

from assay.geometry.cameras import intrinsics, sphere_of_views
from assay.geometry.splat_render import render
from assay.geometry.splats import Splats
from assay.metrics.image import ssim
from assay.nn import splat_training
from assay.nn.splat_training import Rates, photometric_loss, scene_extent, train_splats

FAST = Rates(means=4e-3, quats=2e-2, log_scales=4e-2, opacity_logit=0.1, sh=2e-2)


def scene(n=30, degree=0, seed=0):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    return Splats(
        0.5 * normal(n, 3), normal(n, 4), 0.3 * normal(n, 3) - 1.8, 1 + normal(n), 0.5 * normal(n, (degree + 1) ** 2, 3)
    )


@pytest.fixture(scope="module")
def shots():
    cameras = sphere_of_views(4, radius=3.0, K=intrinsics(20, 16, fov=50.0), width=20, height=16)
    return cameras, [render(scene(), camera) for camera in cameras]


def loss(splats, shots):
    return sum(float(photometric_loss(render(splats, c), i)) for c, i in zip(*shots, strict=True))


def generator():
    return torch.Generator().manual_seed(1)


def noisy():
    start = scene()
    return Splats(**start.tensors() | {"sh": start.sh + 0.5, "means": start.means + 0.03})


def test_training_recovers_the_images_and_leaves_its_input(shots):
    start = noisy()
    before = start.means.clone()
    fitted = train_splats(start, *shots, 80, generator=generator(), rates=FAST)
    assert loss(fitted, shots) < 0.5 * loss(start, shots)
    assert torch.equal(start.means, before)
    assert not fitted.means.requires_grad


def test_same_generator_same_scene(shots):
    first, second = (train_splats(noisy(), *shots, 10, generator=generator()) for _ in range(2))
    assert torch.equal(first.sh, second.sh)


def test_loss_is_the_weighted_sum(shots):
    a, b = shots[1][0], shots[1][1]
    similarity = ssim(a.permute(2, 0, 1), b.permute(2, 0, 1))
    torch.testing.assert_close(photometric_loss(a, b), 0.8 * (a - b).abs().mean() + 0.2 * (1 - similarity))
    assert photometric_loss(a, a) == pytest.approx(0, abs=1e-6)
    assert math.isfinite(photometric_loss(a[:4, :5], b[:4, :5]))


def test_rates_follow_decay_pace_and_degree(shots):
    start = scene(degree=1)
    step = {}
    for name, options in {"plain": {}, "half": {"pace": lambda i: 0.5}}.items():
        step[name] = train_splats(start, *shots, 1, generator=generator(), rates=FAST, decay=False, **options)
    for key in ("sh", "opacity_logit", "means"):
        full, half = (step[k].tensors()[key] - start.tensors()[key] for k in ("plain", "half"))
        torch.testing.assert_close(half, full / 2, rtol=1e-2, atol=1e-5)
    # Adam's first step is as long as the rate wherever there is a gradient
    moved = (step["plain"].sh - start.sh).abs()
    assert moved[:, 0].max() == pytest.approx(FAST.sh, rel=1e-3)
    assert moved[:, 1:].max() == pytest.approx(FAST.sh / 20, rel=1e-2)
    assert (step["plain"].means - start.means).abs().max() == pytest.approx(
        FAST.means * scene_extent(shots[0]), rel=1e-3
    )


def test_pruning_hook_keeps_rows_with_their_moments(shots):
    seen = []

    def hook(i, total, splats):
        seen.append((i, total, len(splats)))
        return torch.arange(len(splats)) % 2 == 0 if i == 5 else None

    fitted = train_splats(scene(), *shots, 8, generator=generator(), on_step=hook)
    assert len(fitted) == 15
    assert seen == [(i, 8, 30 if i <= 5 else 15) for i in range(8)]

    leaves = splat_training._leaves(scene())
    optimizer = splat_training._adam(leaves, FAST, 1.0)
    render(splat_training._scene(leaves), shots[0][0]).square().sum().backward()
    optimizer.step()
    mask = torch.arange(30) < 10
    kept, fresh = splat_training._keep(leaves, optimizer, mask, FAST, 1.0)
    old, new = optimizer.state[leaves["means"]], fresh.state[kept["means"]]
    assert torch.equal(new["exp_avg"], old["exp_avg"][mask])
    assert new["step"] == 1
    assert [g["lr"] for g in fresh.param_groups]


def test_views_without_anything_in_them_are_passed_over(shots):
    away = scene()
    away = Splats(**away.tensors() | {"means": away.means + 100})
    fitted = train_splats(away, *shots, 3, generator=generator())
    assert torch.equal(fitted.means, away.means)


def test_views_that_do_not_fit_are_refused(shots):
    cameras, images = shots
    with pytest.raises(ValueError, match="4 cameras, 3 images"):
        train_splats(scene(), cameras, images[:3], 1, generator=generator())
    with pytest.raises(ValueError, match="an image has shape"):
        train_splats(scene(), cameras, [i[:-1] for i in images], 1, generator=generator())
    with pytest.raises(ValueError, match="0 cameras"):
        train_splats(scene(), [], [], 1, generator=generator())
