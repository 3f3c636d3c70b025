"""The ray caster against closed forms, implicit equations and its own projections."""

from __future__ import annotations

import math

import pytest
import torch

from assay.data.scenes.ray_cast import (
    Box,
    Cylinder,
    Ellipsoid,
    Rectangle,
    Scene,
    Texture,
    photo,
    room,
    room_cameras,
    turn_about_z,
)
from assay.geometry.cameras import Camera, intrinsics, look_at


def camera_at(eye, target, width=48, height=36, fov=50.0) -> Camera:
    R, t = look_at(torch.tensor(eye, dtype=torch.float64), torch.tensor(target, dtype=torch.float64))
    return Camera(R, t, intrinsics(width, height, fov=fov, dtype=torch.float64), width, height)


def tilted(generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]


def test_sphere_depth_is_the_closed_form():
    scene = Scene([Ellipsoid(torch.zeros(3), torch.full((3,), 0.5))])
    hits = scene.cast(torch.tensor([0.0, -3, 0]), torch.tensor([[0.0, 1, 0], [0.1, 1, 0], [1.0, 1, 0]]))
    off = torch.tensor([0.1, 1, 0], dtype=torch.float64)
    a, b, c = off @ off, off[1] * -3, 9 - 0.25
    assert hits.distance[0] == pytest.approx(2.5)
    assert hits.distance[1] == pytest.approx(float((-b - (b * b - a * c).sqrt()) / a))
    assert hits.distance[2] == math.inf
    assert hits.solid.tolist() == [0, 0, -1]
    assert hits.colour[2].tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", range(3))
def test_hits_lie_on_the_implicit_surface_and_normals_are_its_gradient(seed):
    g = torch.Generator().manual_seed(seed)
    R, centre = tilted(g), torch.randn(3, generator=g, dtype=torch.float64)
    size = torch.tensor([0.5, 0.8, 0.3], dtype=torch.float64)
    implicit = {
        Ellipsoid: lambda u: u.norm(dim=-1),
        Box: lambda u: u.abs().amax(-1),
        Cylinder: lambda u: torch.maximum(u[..., :2].norm(dim=-1), u[..., 2].abs()),
    }
    for kind, level in implicit.items():
        solid = kind(centre, size, R)
        eye = centre + 4 * torch.nn.functional.normalize(torch.randn(3, generator=g, dtype=torch.float64), dim=0)
        directions = centre - eye + 0.4 * torch.randn(500, 3, generator=g, dtype=torch.float64)
        hits = Scene([solid]).cast(eye, directions)
        met = hits.distance.isfinite()
        assert 50 < int(met.sum()) < 500
        points = (eye + hits.distance[met, None] * directions[met]).requires_grad_()
        value = level(solid.to_unit(points))
        assert torch.allclose(value, torch.ones_like(value), atol=1e-9)
        gradient = torch.nn.functional.normalize(torch.autograd.grad(value.sum(), points)[0], dim=-1)
        assert torch.allclose(hits.normal[met], gradient, atol=1e-6)
        # Nothing lies before the first hit, and rays that miss stay outside.
        steps = torch.linspace(0.0, 0.999, 200, dtype=torch.float64)
        before = eye + steps[:, None, None] * (points.detach() - eye)
        assert bool((level(solid.to_unit(before.reshape(-1, 3))) > 1 - 1e-9).all())
        passed = eye + torch.linspace(0, 2, 400, dtype=torch.float64)[:, None, None] * directions[~met]
        assert bool((level(solid.to_unit(passed.reshape(-1, 3))) > 1 - 1e-3).all())


def test_a_box_seen_from_within_is_a_room():
    hits = Scene([Box(torch.zeros(3), torch.tensor([1.0, 2, 3]))]).cast(torch.zeros(3), torch.eye(3))
    assert hits.distance.tolist() == [1, 2, 3]
    assert torch.equal(hits.normal, -torch.eye(3, dtype=torch.float64))


def test_depth_normal_and_visibility_agree_with_projection():
    g = torch.Generator().manual_seed(1)
    scene = room(g)
    first, second = room_cameras(2, g, width=60, height=45)
    first = first.to(dtype=torch.float64)
    view = scene.render(first, 1)
    seen = view.depth.isfinite()
    points = first.unproject(first.pixel_centres()[seen], view.depth[seen])
    assert bool(scene.visible(first, points).all())
    hidden = ~scene.visible(second, points)
    assert 0 < int(hidden.sum()) < len(points)
    behind = points + 0.3 * (points - first.centre)
    assert not bool(scene.visible(first, behind).any())
    ray = points - first.centre
    assert bool(((view.normal[seen] * ray).sum(-1) < 0).all())
    assert torch.allclose(view.normal[seen].norm(dim=-1), torch.ones(int(seen.sum()), dtype=torch.float64))


def test_nearest_solid_wins_whatever_the_order():
    near, far = Ellipsoid(torch.tensor([0.0, -1, 0]), torch.full((3,), 0.3)), Rectangle(torch.zeros(3), torch.ones(3))
    view = camera_at([0, -4, 0.5], [0, 0, 0])
    assert torch.equal(Scene([near, far]).render(view).image, Scene([far, near]).render(view).image)


def test_texture_interpolates_and_mirrors():
    image = torch.arange(12, dtype=torch.float64).reshape(1, 4, 3).expand(3, 4, 3)
    texture = Texture(image, extent=4.0)
    there = torch.tensor([[0.0, 0], [1.5, 0], [3.0, 0.5], [4.5, 1.0], [-1.5, 0]], dtype=torch.float64)
    assert torch.allclose(texture(there)[:, 0], torch.tensor([0.0, 4.5, 9.0, 4.5, 4.5], dtype=torch.float64))


def test_texture_is_fixed_to_the_surface():
    scene = Scene([Ellipsoid(torch.zeros(3), torch.full((3,), 1.0), paint=Texture(photo("coffee", 64), 1.0))])
    g = torch.Generator().manual_seed(0)
    point = torch.nn.functional.normalize(torch.tensor([[0.3, -1.0, 0.2]], dtype=torch.float64))
    colours = []
    for _ in range(3):
        eye = 3 * point[0] + 0.5 * torch.randn(3, generator=g, dtype=torch.float64)
        colours.append(scene.cast(eye, point - eye).colour)
    assert torch.allclose(colours[0], colours[1])
    assert torch.allclose(colours[0], colours[2])


def test_light_darkens_what_faces_away():
    ball = Ellipsoid(torch.zeros(3), torch.ones(3), paint=(1.0, 1.0, 1.0))
    scene = Scene([ball], light=(0.0, 0.0, 1.0), ambient=0.2)
    hits = scene.cast(torch.tensor([[0.0, 0, 3], [0, 0, -3]]), torch.tensor([[0.0, 0, -1], [0, 0, 1]]))
    assert hits.colour[:, 0].tolist() == pytest.approx([1.0, 0.2])


def test_more_samples_approach_the_mean_over_a_pixel():
    scene = Scene([Rectangle(torch.zeros(3), torch.ones(3), turn_about_z(0.3), Texture(photo("brick", 256), 1.0))])
    view = camera_at([0, -0.5, 2.5], [0, 0, 0], 24, 18)
    fine = scene.render(view, 12).image
    errors = [float((scene.render(view, n).image - fine).abs().mean()) for n in (1, 3, 6)]
    assert errors[0] > errors[1] > errors[2]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="positive"):
        Ellipsoid(torch.zeros(3), torch.tensor([1.0, 0, 1]))
    with pytest.raises(ValueError, match=r"centre .* \(3,\)"):
        Box(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="astronaut"):
        photo("lena")
