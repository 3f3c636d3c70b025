"""The splat renderers: tiles against the plain formula, gradients, colours, rigid motion, single Gaussians by hand."""

import math

import pytest
import torch

from assay.errors import MissingExtra
from assay.geometry import splat_render
from assay.geometry.cameras import Camera, intrinsics, look_at, sphere_of_views
from assay.geometry.splat_render import blocks, render
from assay.geometry.splats import SH_0, Splats, dense_weights, moved, project, render_dense, rotation_matrices, sh_basis

F64 = torch.float64


def scene(n=60, degree=0, seed=0, dtype=F64):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=F64).to(dtype)

    return Splats(
        means=0.6 * normal(n, 3),
        quats=normal(n, 4),
        log_scales=0.4 * normal(n, 3) - 2,
        opacity_logit=2 * normal(n),
        sh=0.5 * normal(n, (degree + 1) ** 2, 3),
    )


def views(count=3, width=45, height=37, dtype=F64):
    return sphere_of_views(
        count, radius=3.0, K=intrinsics(width, height, fov=50.0, dtype=dtype), width=width, height=height
    )


def facing(width=31, height=31):
    R, t = look_at(
        torch.tensor([0.0, 0, -4], dtype=F64), torch.zeros(3, dtype=F64), torch.tensor([0.0, -1, 0], dtype=F64)
    )
    return Camera(R, t, intrinsics(width, height, focal=40.0, dtype=F64), width, height)


def single(opacity=0.7, color=(0.2, 0.5, 0.9), scale=0.2, at=(0.0, 0, 0)):
    sh = ((torch.tensor(color, dtype=F64) - 0.5) / SH_0).reshape(1, 1, 3)
    return Splats(
        torch.tensor([at], dtype=F64),
        torch.tensor([[1.0, 0, 0, 0]], dtype=F64),
        torch.full((1, 3), math.log(scale), dtype=F64),
        torch.tensor([opacity], dtype=F64).logit(),
        sh,
    )


@pytest.mark.parametrize("tile", [5, 8, 16, 64])
@pytest.mark.parametrize("degree", [0, 3])
def test_tiles_equal_the_plain_formula_and_its_gradient(tile, degree):
    splats, background = scene(degree=degree), torch.tensor([0.2, 0.4, 0.7], dtype=F64, requires_grad=True)
    leaves = [x.requires_grad_() for x in splats.tensors().values()] + [background]
    camera = views()[1]
    plain, tiled = render_dense(splats, camera, background), render(splats, camera, background, tile=tile)
    torch.testing.assert_close(tiled, plain, rtol=1e-10, atol=1e-12)
    weight = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    for ours, theirs in zip(
        torch.autograd.grad((tiled * weight).sum(), leaves),
        torch.autograd.grad((plain * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_gradient_against_finite_differences():
    splats = scene(n=4, seed=3)
    camera = views(width=12, height=10)[0]
    # the seed is one in which no pixel crosses the cap or the 1/255 edge within the step
    names = list(splats.tensors())

    def image(*parameters):
        return render(Splats(**dict(zip(names, parameters, strict=True))), camera, tile=4)

    assert torch.autograd.gradcheck(
        image, [x.requires_grad_() for x in splats.tensors().values()], eps=1e-7, atol=1e-4, rtol=1e-3
    )


def test_one_gaussian_by_hand():
    camera, splats = facing(), single()
    image = render(splats, camera)
    variance = (0.2 * 40 / 4) ** 2 + 0.3
    centre = 0.7 * torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    torch.testing.assert_close(image[15, 15], centre)
    torch.testing.assert_close(image[15, 18], centre * math.exp(-0.5 * 9 / variance))
    assert image[0, 0].abs().max() == 0  # below 1/255


def test_nearer_hides_farther_and_background_fills_the_rest():
    near, far = single(0.6, (1, 0, 0), at=(0, 0, -1.0)), single(0.5, (0, 1, 0))
    both = Splats(*(torch.cat([far.tensors()[k], near.tensors()[k]]) for k in near.tensors()))
    background = torch.tensor([0.0, 0, 1], dtype=F64)
    torch.testing.assert_close(
        render(both, facing(), background)[15, 15], torch.tensor([0.6, 0.4 * 0.5, 0.4 * 0.5], dtype=F64)
    )


def test_opacity_is_capped_so_something_always_shines_through():
    splats = single(0.99999, (1, 1, 1))
    torch.testing.assert_close(render(splats, facing())[15, 15], torch.full((3,), 0.99, dtype=F64))


def test_what_is_behind_or_outside_or_transparent_is_not_drawn():
    for splats in (single(at=(0, 0, -6.0)), single(at=(30.0, 0, 0)), single(0.003)):
        assert len(project(splats, facing()).ids) == 0
        assert render(splats, facing(), torch.ones(3)).eq(1).all()
        assert not list(blocks(splats, facing()))


def test_blocks_hold_the_weights_of_the_plain_formula():
    splats, camera = scene(), views()[2]
    dense = torch.zeros(camera.height * camera.width, len(splats), dtype=F64)
    (plain,) = dense_weights(splats, camera)
    dense[:, plain.ids] = plain.weight
    found = torch.zeros_like(dense)
    for block in blocks(splats, camera, pairs=3000):
        for tile in range(len(block.ids)):
            inside, real = block.pixels[tile] >= 0, block.valid[tile]
            part = block.weight[tile][inside][:, real]
            found[block.pixels[tile][inside][:, None], block.ids[tile][real]] += part
            assert block.weight[tile][~inside].abs().sum() == 0
            assert block.weight[tile][:, ~real].abs().sum() == 0
    torch.testing.assert_close(found, dense, rtol=1e-10, atol=1e-13)


def test_memory_bound_does_not_change_the_image():
    splats, camera = scene(n=200), views()[0]
    parts = [
        torch.cat([b.weight.sum((1, 2)) for b in blocks(splats, camera, pairs=pairs)]).sum() for pairs in (400, 1 << 20)
    ]
    torch.testing.assert_close(parts[0], parts[1])


def test_rigid_motion_of_scene_and_cameras_leaves_the_image():
    splats, camera = scene(), views()[1]
    R = rotation_matrices(torch.tensor([[0.3, -0.5, 0.7, 0.2]], dtype=F64))[0]
    t = torch.tensor([1.0, -2, 0.5], dtype=F64)
    turned = Camera(camera.R @ R.T, camera.t - camera.R @ R.T @ t, camera.K, camera.width, camera.height)
    torch.testing.assert_close(render(moved(splats, R, t), turned), render(splats, camera), rtol=1e-8, atol=1e-10)


def test_spherical_harmonics_are_orthonormal():
    # Gauss-Legendre in the height and even angles integrate products up to degree 6 exactly
    import numpy as np

    height, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(8))
    angle = torch.arange(16, dtype=F64) * 2 * math.pi / 16
    ring = (1 - height**2).sqrt()
    directions = torch.stack(
        [ring[:, None] * angle.cos(), ring[:, None] * angle.sin(), height[:, None].expand(8, 16)], -1
    ).reshape(-1, 3)
    weights = (weight[:, None] * 2 * math.pi / 16).expand(8, 16).reshape(-1)
    Y = sh_basis(directions, 3)
    torch.testing.assert_close(Y.T @ (weights[:, None] * Y), torch.eye(16, dtype=F64), rtol=0, atol=1e-10)


def test_start_from_points_is_as_wide_as_the_neighbours_are_far():
    grid = torch.stack(torch.meshgrid(*[torch.arange(3.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    start = Splats.from_points(grid, torch.rand(27, 3, generator=torch.Generator().manual_seed(0)), degree=2)
    torch.testing.assert_close(start.log_scales, torch.zeros(27, 3))
    torch.testing.assert_close(start.opacity, torch.full((27,), 0.1))
    assert start.degree == 2
    with pytest.raises(ValueError, match="at least 4 points"):
        Splats.from_points(grid[:3], grid[:3])


def test_bad_scenes_are_refused():
    good = scene(5)
    with pytest.raises(ValueError, match="quats has shape"):
        Splats(good.means, good.quats[:4], good.log_scales, good.opacity_logit, good.sh)
    with pytest.raises(ValueError, match="sh has shape"):
        Splats(good.means, good.quats, good.log_scales, good.opacity_logit, good.sh.expand(5, 3, 3))
    good.log_scales[2, 1] = math.nan
    with pytest.raises(ValueError, match="1 of 5 Gaussians have a log_scales that is not finite"):
        good.check()
    with pytest.raises(ValueError, match="no Gaussians"):
        good.select(torch.zeros(5, dtype=torch.bool)).check()


def test_gsplat_backend_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gsplat", None)
    with pytest.raises(MissingExtra, match=r"assay\[splat\]"):
        render(scene(5), views()[0], backend="gsplat")


def test_gsplat_backend_gets_activated_parameters(monkeypatch):
    """The call as gsplat documents it; the kernels themselves need CUDA (see the test below)."""
    seen = {}

    class Stub:
        @staticmethod
        def rasterization(**given):
            seen.update(given)
            return torch.zeros(1, given["height"], given["width"], 3), None, {}

    monkeypatch.setattr(splat_render, "require", lambda module, extra: Stub)
    splats, camera = scene(5, degree=2), views()[0]
    assert render(splats, camera, backend="gsplat").shape == (camera.height, camera.width, 3)
    torch.testing.assert_close(seen["scales"], splats.log_scales.exp())
    torch.testing.assert_close(seen["opacities"], splats.opacity)
    torch.testing.assert_close(seen["viewmats"][0, :3, :3], camera.R)
    torch.testing.assert_close(seen["viewmats"][0, :3, 3], camera.t)
    assert seen["sh_degree"] == 2
    assert seen["Ks"].shape == (1, 3, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_gsplat_draws_what_the_torch_renderer_draws():
    pytest.importorskip("gsplat")
    splats = scene(200, degree=3, dtype=torch.float32).to(device="cuda")
    camera = views(dtype=torch.float32)[1]
    ours, theirs = (render(splats, camera, backend=b) for b in ("torch", "gsplat"))
    assert (ours - theirs).abs().mean() < 2e-3
