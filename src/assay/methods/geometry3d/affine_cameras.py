"""The 2x2 affine map between the images of a small surface patch in two calibrated cameras, and its inverse problem.

Camera 1 sees a point p1 of a surface whose tangent plane is `nᵀX = d` in the axes of camera 1 (x right, y down,
z forward); camera 2 sees it at p2, with `X2 = R X1 + t`. In normalised coordinates (z = 1), with the last row r3 of R:

    w = nᵀp1 / d = 1 / Z1,    s = r3ᵀp1 + t_z w = Z2 / Z1,    p2 = (R p1 + t w)₁₂ / s
    A = (1/s) [ R₁₂,₁₂ - p2 (r3)₁₂ᵀ + (t₁₂ - t_z p2) (n₁₂/d)ᵀ ]

The three terms are the rotation, its perspective correction, and parallax times the tilt of the surface. A is the exact
derivative of p1 -> p2 on the plane; on a curved surface it is the derivative at the point. In pixels,
`A_pix = K2₁₂,₁₂ A (K1₁₂,₁₂)⁻¹`.

Every function takes batches: leading axes broadcast. Image points are in pixels of Assay's convention (first pixel's
centre at 0.5, 0.5) where K1 and K2 are given, else normalised. t, d and depth share one unit of length.

Source: 2602.06805 (the map, s and its three parts); the inverse problem is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from assay.geometry.cameras import check_rotation, homogeneous


class AffineMap(NamedTuple):
    """The affine map at a point.

    Attributes:
        A: derivative of the position in image 2 by that in image 1, `(..., 2, 2)`.
        p2: the point in image 2, `(..., 2)`.
        s: ratio of depths Z2 / Z1, `(...)`.
    """

    A: Tensor
    p2: Tensor
    s: Tensor


class TangentPlane(NamedTuple):
    """A plane through a surface point, in the axes of camera 1.

    Attributes:
        n: unit normal with `nᵀp1 > 0`, that is, pointing away from camera 1, `(..., 3)`.
        d: distance of the plane from camera 1, positive, in the unit of t, `(...)`.
        residual: root mean square of the (weighted) equations, `(...)`.
    """

    n: Tensor
    d: Tensor
    residual: Tensor

    def depth(self, p1: Tensor) -> Tensor:
        """z of the plane at normalised points p1 `(..., 2)`, `(...)`."""
        return self.d / (self.n * homogeneous(p1)).sum(-1)


def affine_between(
    R: Tensor,
    t: Tensor,
    p1: Tensor,
    n: Tensor,
    d: Tensor | None = None,
    *,
    depth: Tensor | None = None,
    K1: Tensor | None = None,
    K2: Tensor | None = None,
    normalize: bool = False,
    strict: bool = True,
) -> AffineMap:
    """Affine map of the patch around p1 from image 1 to image 2.

    Args:
        R, t: pose of camera 2 seen from camera 1, `(..., 3, 3)` and `(..., 3)`.
        p1: points in image 1, `(..., 2)`.
        n: unit normals of the surface in the axes of camera 1, `(..., 3)`; the sign is free if `depth` is given.
        d: `nᵀX` of the tangent plane, `(...)`; or
        depth: z of the points in camera 1, `(...)`.
        K1, K2: intrinsics `(..., 3, 3)`, both or neither; then points and A are in pixels.
        normalize: scale n (and d with it) to length 1 instead of refusing other lengths.
        strict: check values. Without, points that cannot be seen give values without meaning (s <= 0, NaN) and
            nothing is read back from the device.

    Raises:
        ValueError: not exactly one of d and depth, one K without the other; and if strict: R not a rotation, n not of
            length 1 within 1e-3, a plane through camera 1, a depth that is not positive, or points behind camera 2.
    """
    p1, n, d, s, p2 = _transfer(R, t, p1, n, d, depth, K1, K2, normalize, strict)
    A = _three_parts(R, t, p2, n, d, s).sum(-3)
    return AffineMap(_affine_to_pixels(A, K1, K2), _to_pixels(p2, K2), s)


def affine_parts(
    R: Tensor,
    t: Tensor,
    p1: Tensor,
    n: Tensor,
    d: Tensor | None = None,
    *,
    depth: Tensor | None = None,
    K1: Tensor | None = None,
    K2: Tensor | None = None,
    normalize: bool = False,
    strict: bool = True,
) -> Tensor:
    """The three terms whose sum is A, `(..., 3, 2, 2)`: rotation, its perspective correction, parallax and tilt.

    Arguments and errors as for `affine_between`.
    """
    p1, n, d, s, p2 = _transfer(R, t, p1, n, d, depth, K1, K2, normalize, strict)
    parts = _three_parts(R, t, p2, n, d, s)
    if K1 is None or K2 is None:
        return parts
    return _affine_to_pixels(parts, K1[..., None, :, :], K2[..., None, :, :])


def affine_rectified(tx: Tensor, n: Tensor, d: Tensor) -> Tensor:
    """A of a rectified pair, R = I and t = (t_x, 0, 0): `[[1 + t_x n_x/d, t_x n_y/d], [0, 1]]`, `(..., 2, 2)`.

    Args:
        tx: x of the translation (minus the baseline for a left and a right camera), `(...)`.
        n, d: plane `nᵀX = d` in the left camera, `(..., 3)` and `(...)`.
    """
    shear = tx[..., None] * n[..., :2] / d[..., None]
    first = shear + shear.new_tensor([1.0, 0.0])
    return torch.stack([first, torch.zeros_like(first) + first.new_tensor([0.0, 1.0])], -2)


def homography_from_plane(R: Tensor, t: Tensor, n: Tensor, d: Tensor) -> Tensor:
    """Homography of the plane nᵀX = d on normalised points, `H = R + t nᵀ / d`, `(..., 3, 3)`."""
    return R + t[..., :, None] * (n / d[..., None])[..., None, :]


def affine_from_homography(H: Tensor, p1: Tensor) -> AffineMap:
    """Derivative of `p -> (H p)₁₂ / (H p)₃` at p1; `s` is the third coordinate of `H p1`, so H's scale matters to it.

    Args:
        H: `(..., 3, 3)`, in the same coordinates as p1.
        p1: `(..., 2)`.
    """
    image = (H @ homogeneous(p1)[..., None])[..., 0]
    s = image[..., 2]
    p2 = image[..., :2] / s[..., None]
    A = (H[..., :2, :2] - p2[..., :, None] * H[..., 2:, :2]) / s[..., None, None]
    return AffineMap(A, p2, s)


def essential_matrix(R: Tensor, t: Tensor) -> Tensor:
    """`E = [t]× R`, `(..., 3, 3)`, with `p2ᵀ E p1 = 0` for normalised points."""
    return torch.linalg.cross(t[..., :, None].expand_as(R), R, dim=-2)


def epipolar_residual(A: Tensor, E: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
    """`(Eᵀp2)₁₂ + Aᵀ(E p1)₁₂`, `(..., 2)`: zero for every affine map that obeys the epipolar geometry.

    Args:
        A: `(..., 2, 2)`; E: essential matrix, or in pixels the fundamental one, `(..., 3, 3)`.
        p1, p2: `(..., 2)`.
    """
    line1 = (E.transpose(-1, -2) @ homogeneous(p2)[..., None])[..., :2, 0]
    line2 = (E @ homogeneous(p1)[..., None])[..., :2, :]
    return line1 + (A.transpose(-1, -2) @ line2)[..., 0]


def normal_from_affine(
    A: Tensor,
    R: Tensor,
    t: Tensor,
    p1: Tensor,
    p2: Tensor,
    *,
    covariance: Tensor | None = None,
    K1: Tensor | None = None,
    K2: Tensor | None = None,
    affine_only: bool = False,
    strict: bool = True,
) -> TangentPlane:
    """Tangent plane from an affine match with known pose, by linear least squares in m = n/d.

    Because s is linear in m, four equations `s A - (t₁₂ - t_z p2) m₁₂ᵀ = R₁₂,₁₂ - p2 (r3)₁₂ᵀ` and two
    `(t₁₂ - t_z p2)(mᵀp1) = (r3ᵀp1) p2 - (R p1)₁₂` are linear in m. Together they have rank 3; without the last two
    the rank is 2 when t_z = 0.

    Args:
        A, p1, p2: the match, `(..., 2, 2)`, `(..., 2)`, `(..., 2)`.
        R, t: pose of camera 2 seen from camera 1.
        covariance: of the six measured numbers (a11, a12, a21, a22, x2, y2), `(..., 6, 6)`, in the units of the match.
            The equations are then weighted with the inverse of their first-order covariance, which depends on m and is
            evaluated at the unweighted solution.
        K1, K2: intrinsics, both or neither; then the match is in pixels.
        affine_only: leave the two point equations out.
        strict: check that the equations determine the plane.

    Raises:
        ValueError: if strict: no baseline, a point at the epipole, equations of rank below 3, or R not a rotation.
    """
    A, p1, p2, covariance = _normalised_match(A, p1, p2, covariance, K1, K2)
    if strict:
        check_rotation(R)
        _check_observable(t, p2)
    M, b = _plane_equations(A, R, t, p1, p2)
    if affine_only:
        M, b = M[..., :4, :], b[..., :4]
    if strict:
        size = t.norm(dim=-1).clamp(min=1e-300)
        values = torch.linalg.svdvals(M.detach()) / size[..., None]
        if bool((values[..., -1] < 1e-9).any()):
            why = "the affine equations alone have rank 2 when t_z = 0" if affine_only else "degenerate geometry"
            raise ValueError(f"the normal is not determined: {why}")
    m = _least_squares(M, b)
    if covariance is not None:
        C = _equation_covariance(A, R, t, p1, p2, m.detach(), covariance)
        rows = M.shape[-2]
        C = C[..., :rows, :rows]
        C = C + 1e-12 * C.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * torch.eye(rows).to(C)
        L = torch.linalg.cholesky(C)
        M, b = _whiten(L, M), _whiten(L, b[..., None])[..., 0]
        m = _least_squares(M, b)
    residual = ((M @ m[..., None])[..., 0] - b).square().mean(-1).sqrt()
    m = torch.where((m * homogeneous(p1)).sum(-1, keepdim=True) < 0, -m, m)
    size = m.norm(dim=-1)
    return TangentPlane(m / size[..., None], 1 / size, residual)


def normal_covariance(
    A: Tensor,
    R: Tensor,
    t: Tensor,
    p1: Tensor,
    p2: Tensor,
    covariance: Tensor,
    *,
    weighted: bool = True,
    K1: Tensor | None = None,
    K2: Tensor | None = None,
) -> Tensor:
    """First-order covariance of the unit normal that `normal_from_affine` finds, `(..., 3, 3)`, radians squared.

    Args:
        A, R, t, p1, p2, K1, K2: as for `normal_from_affine`.
        covariance: of (a11, a12, a21, a22, x2, y2), `(..., 6, 6)`.
        weighted: whether the equations were weighted with it.
    """
    A, p1, p2, covariance = _normalised_match(A, p1, p2, covariance, K1, K2)
    M, b = _plane_equations(A, R, t, p1, p2)
    m = _least_squares(M, b)
    C = _equation_covariance(A, R, t, p1, p2, m, covariance)
    if weighted:
        C = C + 1e-12 * C.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * torch.eye(6).to(C)
        W = torch.linalg.inv(C)
        gain = torch.linalg.solve(M.mT @ W @ M, M.mT @ W)
    else:
        gain = torch.linalg.pinv(M)
    size = m.norm(dim=-1)[..., None]
    n = m / size
    turn = (torch.eye(3).to(n) - n[..., :, None] * n[..., None, :]) / size[..., None]
    gain = turn @ gain
    return gain @ C @ gain.mT


def _transfer(R, t, p1, n, d, depth, K1, K2, normalize, strict):
    """Checked arguments in normalised coordinates: p1, n, d, s, p2."""
    if (d is None) == (depth is None):
        raise ValueError("give exactly one of d and depth")
    if (K1 is None) != (K2 is None):
        raise ValueError("give both of K1 and K2, or neither")
    p1 = _from_pixels(p1, K1)
    ray = homogeneous(p1)
    length = n.norm(dim=-1)
    if normalize:
        n = n / length[..., None]
        d = None if d is None else d / length
    elif strict and bool(((length - 1).abs() > 1e-3).any()):
        raise ValueError("normals must have length 1 within 1e-3; pass normalize=True to scale them")
    facing = (n * ray).sum(-1)
    if d is None:
        if strict and not bool((depth > 0).all()):
            raise ValueError("depths must be positive")
        d = depth * facing
    if strict:
        check_rotation(R)
        if bool((d.abs() <= 1e-12 * (1 + d.abs().amax())).any()):
            raise ValueError("d = 0: the plane passes through camera 1 and is seen edge-on")
    w = facing / d
    moved = (R @ ray[..., None])[..., 0] + t * w[..., None]
    s = moved[..., 2]
    if strict and not bool((w > 0).all()):
        raise ValueError("the plane lies behind camera 1 at some point: nᵀp1 and d must have one sign")
    if strict and not bool((s > 0).all()):
        behind = int((~(s > 0)).sum())
        raise ValueError(f"{behind} of {s.numel()} points lie behind camera 2 (s <= 0)")
    return p1, n, d, s, moved[..., :2] / s[..., None]


def _three_parts(R, t, p2, n, d, s):
    parallax = t[..., :2] - t[..., 2:] * p2
    rotation = R[..., :2, :2]
    perspective = -p2[..., :, None] * R[..., 2:, :2]
    tilt = parallax[..., :, None] * (n[..., :2] / d[..., None])[..., None, :]
    return torch.stack(torch.broadcast_tensors(rotation, perspective, tilt), -3) / s[..., None, None, None]


def _plane_equations(A, R, t, p1, p2):
    """M `(..., 6, 3)` and b `(..., 6)` of `M m = b`: four affine equations (row by row of A), then two of the point."""
    ray = homogeneous(p1)
    turned = (R @ ray[..., None])[..., 0]
    parallax = t[..., :2] - t[..., 2:] * p2
    affine = (t[..., 2:, None] * A)[..., None] * ray[..., None, None, :]  # (..., 2, 2, 3)
    pick = torch.eye(3).to(A)[:2]  # column j of A meets m_j
    affine = affine - parallax[..., :, None, None] * pick
    wanted = R[..., :2, :2] - p2[..., :, None] * R[..., 2:, :2] - turned[..., 2, None, None] * A
    point = parallax[..., :, None] * ray[..., None, :]
    M = torch.cat([affine.flatten(-3, -2), point.expand(*affine.shape[:-3], 2, 3)], -2)
    right = turned[..., 2:] * p2 - turned[..., :2]
    return M, torch.cat([wanted.flatten(-2), right.expand(*wanted.shape[:-2], 2)], -1)


def _equation_covariance(A, R, t, p1, p2, m, covariance):
    """Covariance of the residuals M m - b for noise in (A, p2), `(..., 6, 6)`.

    `d(M m - b) = s dA + dp2 (t_z m₁₂ + (r3)₁₂)ᵀ` for the affine rows and `-s dp2` for the point rows.
    """
    ray = homogeneous(p1)
    s = (R[..., 2, :] * ray).sum(-1) + t[..., 2] * (m * ray).sum(-1)
    tilt = t[..., 2:] * m[..., :2] + R[..., 2, :2]
    J = torch.zeros(*s.shape, 6, 6).to(A)
    J = J + s[..., None, None] * torch.diag(torch.tensor([1.0, 1, 1, 1, -1, -1]).to(A))
    for row in range(4):
        J[..., row, 4 + row // 2] = tilt[..., row % 2]
    return J @ covariance @ J.mT


def _least_squares(M, b):
    Q, upper = torch.linalg.qr(M)
    return torch.linalg.solve_triangular(upper, Q.mT @ b[..., None], upper=True)[..., 0]


def _whiten(L, x):
    return torch.linalg.solve_triangular(L, x, upper=False)


def _check_observable(t, p2):
    length = t.norm(dim=-1)
    if bool((length == 0).any()):
        raise ValueError("no baseline: with t = 0 the affine map does not depend on the normal")
    ray = homogeneous(p2)
    sine = torch.linalg.cross(t.expand_as(ray), ray).norm(dim=-1) / (length * ray.norm(dim=-1))
    if bool((sine < 1e-6).any()):
        raise ValueError("a point lies at the epipole (t parallel to p2): its normal is not determined")


def _normalised_match(A, p1, p2, covariance, K1, K2):
    if (K1 is None) != (K2 is None):
        raise ValueError("give both of K1 and K2, or neither")
    if K1 is not None:
        inverse2 = torch.linalg.inv(K2[..., :2, :2])
        if covariance is not None:
            # row-major vec(K2⁻¹ A K1) = (K2⁻¹ ⊗ K1ᵀ) vec A
            J = torch.zeros(*torch.broadcast_shapes(K1.shape[:-2], K2.shape[:-2]), 6, 6).to(A)
            J[..., :4, :4] = torch.einsum("...ij,...lk->...ikjl", inverse2, K1[..., :2, :2]).flatten(-4, -3).flatten(-2)
            J[..., 4:, 4:] = inverse2
            covariance = J @ covariance @ J.mT
        A = inverse2 @ A @ K1[..., :2, :2]
        p1, p2 = _from_pixels(p1, K1), _from_pixels(p2, K2)
    return A, p1, p2, covariance


def _affine_to_pixels(A, K1, K2):
    return A if K1 is None else K2[..., :2, :2] @ A @ torch.linalg.inv(K1[..., :2, :2])


def _from_pixels(p, K):
    return p if K is None else torch.linalg.solve(K[..., :2, :2], (p - K[..., :2, 2])[..., None])[..., 0]


def _to_pixels(p, K):
    return p if K is None else (K[..., :2, :2] @ p[..., None])[..., 0] + K[..., :2, 2]
