"""The affine map between calibrated cameras against the homography it is the derivative of, and its inverse problem."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from assay.geometry.cameras import homogeneous
from assay.methods.geometry3d.affine_cameras import (
    affine_between,
    affine_from_homography,
    affine_parts,
    affine_rectified,
    epipolar_residual,
    essential_matrix,
    homography_from_plane,
    normal_covariance,
    normal_from_affine,
)

DOUBLE = torch.float64


def rotation(generator: torch.Generator, count: int, degrees: float = 40.0) -> Tensor:
    axis = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=DOUBLE), dim=-1)
    angle = math.radians(degrees) * torch.rand(count, 1, 1, generator=generator, dtype=DOUBLE)
    cross = torch.linalg.cross(axis[:, None].expand(-1, 3, 3), torch.eye(3, dtype=DOUBLE).expand(count, 3, 3)).mT
    return torch.linalg.matrix_exp(angle * cross)


def geometry(seed: int = 0, count: int = 200, degrees: float = 40.0):
    """Poses, points and planes seen from the front by both cameras."""
    g = torch.Generator().manual_seed(seed)
    R = rotation(g, count, degrees)
    t = 0.4 * torch.randn(count, 3, generator=g, dtype=DOUBLE)
    p1 = 0.4 * torch.randn(count, 2, generator=g, dtype=DOUBLE)
    n = torch.randn(count, 3, generator=g, dtype=DOUBLE)
    n = torch.nn.functional.normalize(n, dim=-1)
    facing = (n * homogeneous(p1)).sum(-1, keepdim=True)
    n = torch.where(facing < 0, -n, n)
    depth = 1 + torch.rand(count, generator=g, dtype=DOUBLE)
    X2 = (R @ (homogeneous(p1) * depth[:, None])[..., None])[..., 0] + t
    ok = (facing[:, 0].abs() > 0.15) & (X2[:, 2] > 0.2)
    return R[ok], t[ok], p1[ok], n[ok], (depth * facing[:, 0].abs())[ok]


def transfer(H: Tensor, p: Tensor) -> Tensor:
    q = (H @ homogeneous(p)[..., None])[..., 0]
    return q[..., :2] / q[..., 2:]


def test_the_map_is_the_derivative_of_the_plane_homography():
    R, t, p1, n, d = geometry()
    A, p2, s = affine_between(R, t, p1, n, d)
    H = homography_from_plane(R, t, n, d)
    assert torch.allclose(p2, transfer(H, p1), atol=1e-13)
    assert torch.allclose((H @ homogeneous(p1)[..., None])[..., 0], s[:, None] * homogeneous(p2), atol=1e-13)
    jacobian = torch.autograd.functional.jacobian(lambda p: transfer(H, p).sum(0), p1).permute(1, 0, 2)
    assert torch.allclose(A, jacobian, rtol=1e-12, atol=1e-12)
    h = 1e-5
    columns = [(transfer(H, p1 + h * e) - transfer(H, p1 - h * e)) / (2 * h) for e in torch.eye(2, dtype=DOUBLE)]
    assert torch.allclose(A, torch.stack(columns, -1), rtol=1e-8, atol=1e-8)
    again = affine_from_homography(H, p1)
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(again, (A, p2, s), strict=True))


def test_it_is_exact_to_first_order_on_a_curved_surface():
    """A sphere, intersected exactly: its map has the derivative of that of the tangent plane."""
    R, t, *_ = geometry(3, 20)
    R, t = R[0], 0.3 * t[0]
    centre, radius = torch.tensor([0.1, -0.2, 4.0], dtype=DOUBLE), 1.0
    p1 = torch.tensor([0.08, 0.05], dtype=DOUBLE)

    def onto_sphere(p: Tensor) -> Tensor:
        ray = homogeneous(p)
        a, b, c = (ray * ray).sum(), (ray * centre).sum(), (centre * centre).sum() - radius**2
        return ray * (b - (b * b - a * c).sqrt()) / a

    def through(p: Tensor) -> Tensor:
        X = R @ onto_sphere(p) + t
        return X[:2] / X[2]

    X = onto_sphere(p1)
    n = (X - centre) / radius
    A, p2, _ = affine_between(R, t, p1, n, (n * X).sum())
    assert torch.allclose(p2, through(p1))
    assert torch.allclose(A, torch.autograd.functional.jacobian(through, p1), atol=1e-12)


def test_s_and_determinants():
    R, t, p1, n, d = geometry()
    A, _, s = affine_between(R, t, p1, n, d)
    Z1 = d / (n * homogeneous(p1)).sum(-1)
    X2 = (R @ (homogeneous(p1) * Z1[:, None])[..., None])[..., 0] + t
    assert torch.allclose(s, X2[:, 2] / Z1)
    det_H = torch.linalg.det(homography_from_plane(R, t, n, d))
    assert torch.allclose(det_H, 1 + (n * (R.mT @ t[..., None])[..., 0]).sum(-1) / d)
    assert torch.allclose(torch.linalg.det(A), det_H / s**3)


def test_depth_and_d_are_the_same_plane():
    R, t, p1, n, d = geometry()
    depth = d / (n * homogeneous(p1)).sum(-1)
    for x, y in zip(affine_between(R, t, p1, n, d), affine_between(R, t, p1, -n, depth=depth), strict=True):
        assert torch.allclose(x, y)


def test_special_cases():
    _, _, p1, n, d = geometry(1)
    eye, zero = torch.eye(3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)
    tx = torch.linspace(-0.3, 0.3, len(d), dtype=DOUBLE)
    t = torch.stack([tx, 0 * tx, 0 * tx], -1)
    assert torch.allclose(affine_between(eye, t, p1, n, d).A, affine_rectified(tx, n, d), atol=1e-14)
    # Pure rotation, or a plane at infinity: the normal is of no account.
    R = rotation(torch.Generator().manual_seed(2), 1)[0]
    spun = affine_between(R, zero, p1, n, d).A
    assert torch.equal(spun, affine_between(R, zero, p1, n.roll(1, 0), d.abs(), strict=False).A)
    far = affine_between(R, torch.tensor([0.1, 0.2, 0.1], dtype=DOUBLE), p1, n, d * 1e12).A
    assert torch.allclose(far, spun, atol=1e-11)
    # Straight towards a wall across the optical axis.
    forward = torch.tensor([0, 0, -0.5], dtype=DOUBLE)
    zoom = affine_between(eye, forward, torch.zeros(2, dtype=DOUBLE), eye[2], torch.tensor(2.0, dtype=DOUBLE))
    assert torch.allclose(zoom.A, torch.eye(2, dtype=DOUBLE) / 0.75)
    assert float(zoom.s) == 0.75


def test_parts_add_up():
    R, t, p1, n, d = geometry()
    parts = affine_parts(R, t, p1, n, d)
    A, p2, s = affine_between(R, t, p1, n, d)
    assert torch.allclose(parts.sum(-3), A, atol=1e-14)
    assert torch.allclose(parts[:, 0], R[:, :2, :2] / s[:, None, None])
    assert torch.allclose(parts[:, 1], -p2[:, :, None] * R[:, 2:, :2] / s[:, None, None])
    K1 = torch.tensor([[800, 2, 320], [0, 780, 240], [0, 0, 1.0]], dtype=DOUBLE)
    K2 = torch.tensor([[500, 0, 300], [0, 510, 200], [0, 0, 1.0]], dtype=DOUBLE)
    pixels = p1 @ K1[:2, :2].T + K1[:2, 2]
    whole = affine_between(R, t, pixels, n, d, K1=K1, K2=K2)
    assert torch.allclose(affine_parts(R, t, pixels, n, d, K1=K1, K2=K2).sum(-3), whole.A, atol=1e-12)
    assert torch.allclose(whole.A, K2[:2, :2] @ A @ torch.linalg.inv(K1[:2, :2]), atol=1e-11)
    assert torch.allclose(whole.p2, p2 @ K2[:2, :2].T + K2[:2, 2], atol=1e-9)
    assert torch.allclose(whole.s, s)


def test_epipolar_constraint():
    R, t, p1, n, d = geometry()
    A, p2, _ = affine_between(R, t, p1, n, d)
    E = essential_matrix(R, t)
    assert torch.allclose(
        (homogeneous(p2) * (E @ homogeneous(p1)[..., None])[..., 0]).sum(-1), torch.zeros_like(d), atol=1e-12
    )
    assert float(epipolar_residual(A, E, p1, p2).abs().max()) < 1e-12
    assert float(epipolar_residual(A + 0.01, E, p1, p2).abs().amax(-1).median()) > 1e-4


def test_inverse_and_chain():
    R, t, p1, n, d = geometry()
    A, p2, _ = affine_between(R, t, p1, n, d)
    n2 = (R @ n[..., None])[..., 0]
    d2 = d + (n2 * t).sum(-1)
    back = affine_between(R.mT, -(R.mT @ t[..., None])[..., 0], p2, n2, d2, strict=False)
    assert torch.allclose(back.A @ A, torch.eye(2, dtype=DOUBLE).expand_as(A), atol=1e-10)
    assert torch.allclose(back.p2, p1, atol=1e-10)
    g = torch.Generator().manual_seed(5)
    R3, t3 = rotation(g, len(d), 20), 0.1 * torch.randn(len(d), 3, generator=g, dtype=DOUBLE)
    third = affine_between(R3, t3, p2, n2, d2, strict=False)
    direct = affine_between(R3 @ R, (R3 @ t[..., None])[..., 0] + t3, p1, n, d, strict=False)
    ok = (direct.s > 0.1) & (third.s > 0.1)
    assert int(ok.sum()) > 50
    assert torch.allclose((third.A @ A)[ok], direct.A[ok], atol=1e-9)


def test_scale_and_sign_of_the_plane_do_not_matter():
    R, t, p1, n, d = geometry()
    A = affine_between(R, t, p1, n, d).A
    assert torch.allclose(affine_between(R, 7.5 * t, p1, n, 7.5 * d).A, A, atol=1e-13)
    assert torch.equal(affine_between(R, t, p1, -n, -d).A, A)


def test_truncation_error_is_quadratic():
    R, t, p1, n, d = geometry()
    A, p2, _ = affine_between(R, t, p1, n, d)
    H = homography_from_plane(R, t, n, d)
    offset = torch.tensor([0.6, -0.8], dtype=DOUBLE)
    error = [(transfer(H, p1 + r * offset) - p2 - r * A @ offset).norm(dim=-1) for r in (4e-3, 2e-3, 1e-3)]
    curved = error[0] > 1e-7
    assert int(curved.sum()) > 100
    for coarse, fine in pairwise(error):
        assert torch.allclose(coarse[curved] / fine[curved], torch.tensor(4.0, dtype=DOUBLE), rtol=0.1)


def test_gradients():
    R, t, p1, n, d = (x[:3].clone().requires_grad_() for x in geometry())
    assert torch.autograd.gradcheck(lambda *a: affine_between(*a, strict=False), (R, t, p1, n, d))
    A, p2, _ = (x.detach().requires_grad_() for x in affine_between(R, t, p1, n, d))
    assert torch.autograd.gradcheck(lambda *a: normal_from_affine(*a, strict=False)[:2], (A, R, t, p1, p2))


def test_broadcasting_equals_single_points():
    R, t, p1, n, d = geometry(0, 400, 10)
    R, t, p1, n, d = R[0], 0.1 * t[0], p1[:12].reshape(3, 4, 2), n[:12].reshape(3, 4, 3), d[:12].reshape(3, 4)
    together = affine_between(R, t, p1, n, d)
    single = affine_between(R, t, p1[1, 2], n[1, 2], d[1, 2])
    assert together.A.shape == (3, 4, 2, 2)
    assert all(torch.allclose(x[1, 2], y) for x, y in zip(together, single, strict=True))
    planes = normal_from_affine(together.A, R, t, p1, together.p2)
    assert torch.allclose(planes.n, n, atol=1e-8)


def test_the_normal_comes_back():
    R, t, p1, n, d = geometry()
    A, p2, _ = affine_between(R, t, p1, n, d)
    plane = normal_from_affine(A, R, t, p1, p2)
    assert torch.allclose(plane.n, n, atol=1e-9)
    assert torch.allclose(plane.d, d, atol=1e-8)
    assert torch.allclose(plane.depth(p1), d / (n * homogeneous(p1)).sum(-1), atol=1e-8)
    assert float(plane.residual.max()) < 1e-12
    assert torch.allclose(normal_from_affine(A, R, t, p1, p2, affine_only=True).n, n, atol=1e-6)


def test_the_normal_comes_back_from_pixels_and_with_weights():
    R, t, p1, n, d = geometry()
    K1 = torch.tensor([[800, 2, 320], [0, 780, 240], [0, 0, 1.0]], dtype=DOUBLE)
    K2 = torch.tensor([[500, 1, 300], [0, 510, 200], [0, 0, 1.0]], dtype=DOUBLE)
    pixels = p1 @ K1[:2, :2].T + K1[:2, 2]
    A, p2, _ = affine_between(R, t, pixels, n, d, K1=K1, K2=K2)
    noise = torch.diag(torch.tensor([0.02] * 4 + [0.5] * 2, dtype=DOUBLE) ** 2)
    plane = normal_from_affine(A, R, t, pixels, p2, covariance=noise, K1=K1, K2=K2)
    assert torch.allclose(plane.n, n, atol=1e-8)


def test_ranks_and_what_is_refused():
    R, t, p1, n, d = (x[:5] for x in geometry())
    A, p2, _ = affine_between(R, t, p1, n, d)
    eye, zero = torch.eye(3, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)
    with pytest.raises(ValueError, match="no baseline"):
        normal_from_affine(A, R, zero, p1, p2)
    with pytest.raises(ValueError, match="epipole"):
        normal_from_affine(A, R, 0.3 * homogeneous(p2), p1, p2)
    sideways = torch.tensor([0.2, 0.05, 0], dtype=DOUBLE)
    A, p2, _ = affine_between(eye, sideways, p1, n, d)
    assert torch.allclose(normal_from_affine(A, eye, sideways, p1, p2).n, n, atol=1e-9)
    with pytest.raises(ValueError, match="rank 2 when t_z = 0"):
        normal_from_affine(A, eye, sideways, p1, p2, affine_only=True)


def test_covariance_predicts_the_scatter():
    """Monte Carlo: the spread of the estimated normal over noisy matches is the one that is predicted."""
    g = torch.Generator().manual_seed(0)
    R, t, p1, n, d = (x[7] for x in geometry())
    A, p2, _ = affine_between(R, t, p1, n, d)
    sd = torch.tensor([0.002, 0.002, 0.004, 0.004, 0.001, 0.0005], dtype=DOUBLE)
    noise = sd * torch.randn(4000, 6, generator=g, dtype=DOUBLE)
    noisy = (A + noise[:, :4].reshape(-1, 2, 2), p2 + noise[:, 4:])
    spread = []
    for weighted in (False, True):
        covariance = torch.diag(sd**2) if weighted else None
        found = normal_from_affine(noisy[0], R, t, p1, noisy[1], covariance=covariance).n
        scatter = torch.cov(found.T)
        predicted = normal_covariance(A, R, t, p1, p2, torch.diag(sd**2), weighted=weighted)
        assert torch.allclose(scatter, predicted, rtol=0.1, atol=0.05 * float(predicted.diagonal().max()))
        spread.append(float(scatter.trace()))
    assert spread[1] <= spread[0]  # the weights are worth having


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d": None}, "exactly one of d and depth"),
        ({"depth": torch.tensor(2.0)}, "exactly one of d and depth"),
        ({"n": torch.tensor([0, 0, 1.1])}, "length 1"),
        ({"d": torch.tensor(0.0)}, "through camera 1"),
        ({"d": None, "depth": torch.tensor(-1.0)}, "depths must be positive"),
        ({"d": torch.tensor(-1.0)}, "behind camera 1"),
        ({"t": torch.tensor([0.0, 0, -5])}, "1 of 1 points lie behind camera 2"),
        ({"R": 1.1 * torch.eye(3)}, "not a rotation"),
        ({"K1": torch.eye(3)}, "both of K1 and K2"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {
        "R": torch.eye(3),
        "t": torch.tensor([0.1, 0, 0]),
        "p1": torch.zeros(2),
        "n": torch.tensor([0.0, 0, 1]),
        "d": torch.tensor(2.0),
    }
    affine_between(**good)
    with pytest.raises(ValueError, match=message):
        affine_between(**(good | change))


def test_normals_are_scaled_on_request():
    R, t, p1, n, d = geometry()
    assert torch.allclose(affine_between(R, t, p1, 3 * n, 3 * d, normalize=True).A, affine_between(R, t, p1, n, d).A)
