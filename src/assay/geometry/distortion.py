"""Lens distortion by the names of camera models, on normalised image coordinates (z = 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COLMAP_PARAMETERS = {
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fx fy cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fx fy cx cy k1 k2 p1 p2",
    "OPENCV_FISHEYE": "fx fy cx cy k1 k2 k3 k4",
    "FULL_OPENCV": "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6",
    "FOV": "fx fy cx cy omega",
    "SIMPLE_RADIAL_FISHEYE": "f cx cy k1",
    "RADIAL_FISHEYE": "f cx cy k1 k2",
    "THIN_PRISM_FISHEYE": "fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1",
}
"""Parameters of COLMAP's camera models, in the order of their numbers (0, 1, ...) in binary files."""

_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


@dataclass(frozen=True)
class Lens:
    """A camera model taken apart.

    Attributes:
        K: intrinsics, `(3, 3)`, float64.
        kind: `"pinhole"` (no distortion), `"radtan"` (polynomial or rational radial, tangential), `"equidistant"`
            (polynomial in the angle of incidence), or the name of a model that is read but not computed with.
        coefficients: by name, such as `{"k1": -0.1}`; those that are zero too.
    """

    K: Tensor
    kind: str
    coefficients: dict[str, float]


def split_parameters(model: str, values: Sequence[float]) -> Lens:
    """Intrinsics and distortion of a COLMAP camera model.

    Raises:
        ValueError: a model that is not known, or not as many values as it has parameters.
    """
    if model not in COLMAP_PARAMETERS:
        raise ValueError(f"unknown camera model {model!r}; known: {', '.join(COLMAP_PARAMETERS)}")
    names = COLMAP_PARAMETERS[model].split()
    if len(values) != len(names):
        raise ValueError(f"{model} has {len(names)} parameters ({', '.join(names)}); got {len(values)}")
    given = dict(zip(names, map(float, values), strict=True))
    fx, fy = (given.pop("f"),) * 2 if "f" in given else (given.pop("fx"), given.pop("fy"))
    K = torch.tensor([[fx, 0, given.pop("cx")], [0, fy, given.pop("cy")], [0, 0, 1]], dtype=torch.float64)
    if not any(given.values()):
        kind = "equidistant" if model in _FISHEYE else ("pinhole" if not model.endswith("FISHEYE") else model)
    elif model in _FISHEYE:
        kind = "equidistant"
    else:
        kind = model if model in ("FOV", "THIN_PRISM_FISHEYE") else "radtan"
    return Lens(K, kind, given)


def distort(points: Tensor, kind: str, coefficients: dict[str, float]) -> Tensor:
    """Where the lens images normalised points `(..., 2)`; `(..., 2)`, differentiable.

    radtan, with r² = x² + y²:
        `x' = x (1 + k1 r² + k2 r⁴ + k3 r⁶) / (1 + k4 r² + k5 r⁴ + k6 r⁶) + 2 p1 x y + p2 (r² + 2 x²)`, y' alike.
    equidistant, with θ = atan r:
        `x' = x θ (1 + k1 θ² + k2 θ⁴ + k3 θ⁶ + k4 θ⁸) / r`.

    Raises:
        ValueError: a kind that cannot be computed.
    """
    c = {name: coefficients.get(name, 0.0) for name in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")}
    if kind == "pinhole":
        return points
    x, y = points.unbind(-1)
    r2 = x * x + y * y
    if kind == "radtan":
        radial = (1 + r2 * (c["k1"] + r2 * (c["k2"] + r2 * c["k3"]))) / (
            1 + r2 * (c["k4"] + r2 * (c["k5"] + r2 * c["k6"]))
        )
        return torch.stack(
            [
                x * radial + 2 * c["p1"] * x * y + c["p2"] * (r2 + 2 * x * x),
                y * radial + c["p1"] * (r2 + 2 * y * y) + 2 * c["p2"] * x * y,
            ],
            -1,
        )
    if kind == "equidistant":
        r = r2.clamp(min=1e-24).sqrt()
        angle = torch.atan(r)
        a2 = angle * angle
        return points * (angle * (1 + a2 * (c["k1"] + a2 * (c["k2"] + a2 * (c["k3"] + a2 * c["k4"])))) / r)[..., None]
    raise ValueError(f"distortion {kind!r} cannot be computed; undistort the images first")


def undistort(points: Tensor, kind: str, coefficients: dict[str, float], iterations: int = 20) -> Tensor:
    """Inverse of `distort` by Newton's method: normalised points `(..., 2)` of an ideal pinhole camera.

    Far outside the field of view a polynomial has no inverse; such points come back as NaN.
    """
    if kind == "pinhole":
        return points
    guess = points.detach().clone()
    if kind == "equidistant":  # the angle itself is the better start: tan of the distorted radius
        r = guess.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        guess = guess * torch.tan(r.clamp(max=1.5)) / r
    step = 1e-6
    for _ in range(iterations):
        here = distort(guess, kind, coefficients)
        columns = [
            (
                distort(guess + step * guess.new_tensor(axis), kind, coefficients)
                - distort(guess - step * guess.new_tensor(axis), kind, coefficients)
            )
            / (2 * step)
            for axis in ([1.0, 0.0], [0.0, 1.0])
        ]
        J = torch.stack(columns, -1)
        guess = guess - (torch.linalg.pinv(J) @ (here - points)[..., None])[..., 0]
    off = (distort(guess, kind, coefficients) - points).norm(dim=-1, keepdim=True)
    return torch.where(off < 1e-6, guess, torch.nan)
