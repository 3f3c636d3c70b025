"""Focus stacks of scenes made of layers, rendered with a thin lens; the truth comes with them.

    c(z) = A f |z - z_f| / (z (z_f - f))        diameter of the circle of confusion on the sensor

Layers are composed from back to front, each blurred together with its transparency, so that a blurred foreground
spreads over what lies behind it. Light adds up linearly: pictures are taken to the power `gamma` before blurring and
back afterwards. Lengths in millimetres, blur in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Take = Callable[[np.random.Generator, int], NDArray[np.float32]]

STEP = 1.0  # blur diameters come in steps of this many pixels where depth varies over a layer


@dataclass(frozen=True)
class Lens:
    """A thin lens and its sensor.

    Attributes:
        focal: focal length f (mm).
        aperture: diameter A (mm).
        pixel: pitch of the sensor (mm).

    Raises:
        ValueError: a length that is not positive.
    """

    focal: float = 35.0
    aperture: float = 4.4
    pixel: float = 0.018

    def __post_init__(self) -> None:
        if min(self.focal, self.aperture, self.pixel) <= 0:
            raise ValueError(f"lengths of a lens must be positive, got {self}")

    def blur(self, z: Tensor, focus: float) -> Tensor:
        """Diameter of the circle of confusion in pixels, for depths z and focus distance (mm).

        Raises:
            ValueError: a focus or depth that is not beyond the focal length.
        """
        if not focus > self.focal or not (z > self.focal).all():
            raise ValueError(f"depths and focus must be beyond the focal length of {self.focal:g} mm")
        return self.aperture * self.focal * (z - focus).abs() / (z * (focus - self.focal)) / self.pixel


@dataclass(frozen=True)
class Layer:
    """One sheet of a scene.

    Attributes:
        image: `(3, H, W)` in [0, 1].
        alpha: `(H, W)`, 1 where the sheet is solid.
        depth: `(H, W)` in mm.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor


@dataclass(frozen=True)
class FocusStack:
    """Frames and what is true of them.

    Attributes:
        frames: `(N, 3, H, W)` in [0, 1].
        truth: everything in focus, `(3, H, W)`.
        depth: of the nearest solid layer, mm, `(H, W)`.
        blur: diameter of the circle of confusion of each frame, pixels, `(N, H, W)`.
        edge: within 3 pixels of a jump in depth (a 6-pixel band), bool `(H, W)`.
    """

    frames: Tensor
    truth: Tensor
    depth: Tensor
    blur: Tensor
    edge: Tensor

    def missing(self, diameter: float = 2.5) -> Tensor:
        """Where no frame is in focus: the least blur reaches `diameter` pixels, `(H, W)`."""
        return self.blur.amin(0) >= diameter


@lru_cache(maxsize=256)
def disc(diameter: float) -> Tensor:
    """A disc of that diameter in pixels, with soft rim, sum 1, `(K, K)`; at most one pixel wide it is a point."""
    if diameter <= 1:
        return torch.ones(1, 1)
    half = int(np.ceil(diameter / 2))
    fine = (torch.arange((2 * half + 1) * 8) + 0.5) / 8 - half - 0.5
    inside = (fine[:, None] ** 2 + fine[None] ** 2 <= (diameter / 2) ** 2).float()
    kernel = F.avg_pool2d(inside[None, None], 8)[0, 0]
    return kernel / kernel.sum()


def blurred(x: Tensor, diameter: float) -> Tensor:
    """`(C, H, W)` convolved with a disc; beyond the border the last pixel goes on."""
    kernel = disc(diameter).to(x)
    half = kernel.shape[0] // 2
    if not half:
        return x
    padded = F.pad(x[None], (half,) * 4, mode="replicate")
    return F.conv2d(padded.transpose(0, 1), kernel[None, None]).transpose(0, 1)[0]


def render(layers: Sequence[Layer], lens: Lens, focus: float, gamma: float = 2.2) -> Tensor:
    """A photograph of the layers (first is farthest), focused at `focus` mm: `(3, H, W)`.

    Where depth varies over a layer, it is blurred at several diameters and each pixel takes its own between the two
    nearest of them.

    Raises:
        ValueError: no layers, or a farthest one with holes.
    """
    if not layers or not (layers[0].alpha >= 1).all():
        raise ValueError("a scene needs layers, and the farthest one must be solid")
    made = torch.zeros_like(layers[0].image)
    for layer in layers:
        sheet = torch.cat([layer.image.clamp(0, 1) ** gamma * layer.alpha, layer.alpha[None]])
        sheet = _blurred_by(sheet, lens.blur(layer.depth, focus))
        made = sheet[:3] + (1 - sheet[3]) * made
    return made.clamp(0, 1) ** (1 / gamma)


def sharp(layers: Sequence[Layer], gamma: float = 2.2) -> tuple[Tensor, Tensor]:
    """Everything in focus `(3, H, W)`, and the depth of the nearest layer that is at least half solid `(H, W)`."""
    made, depth = torch.zeros_like(layers[0].image), layers[0].depth.clone()
    for layer in layers:
        made = layer.image.clamp(0, 1) ** gamma * layer.alpha + (1 - layer.alpha) * made
        depth = torch.where(layer.alpha >= 0.5, layer.depth, depth)
    return made.clamp(0, 1) ** (1 / gamma), depth


def photograph(
    layers: Sequence[Layer],
    planes: Sequence[float],
    lens: Lens,
    rng: np.random.Generator,
    *,
    noise: float = 0.01,
    breathing: float = 0.0,
    margin: int = 0,
    gamma: float = 2.2,
) -> FocusStack:
    """A frame for each focus distance, with noise, and its truth.

    Args:
        planes: focus distances in mm.
        noise: standard deviation of the sensor's noise.
        breathing: pixels by which the picture's corner moves from one frame to the next.
        margin: pixels cut off on every side, so that blur from beyond the border is right.
    """
    truth, depth = sharp(layers, gamma)
    frames = []
    for index, focus in enumerate(planes):
        frame = render(layers, lens, focus, gamma)
        if breathing:
            frame = _scaled(frame, 1 + breathing * (index - (len(planes) - 1) / 2) / (frame.shape[-1] / 2))
        frames.append(frame + noise * torch.from_numpy(rng.standard_normal(frame.shape, dtype=np.float32)))
    blur = torch.stack([lens.blur(depth, focus) for focus in planes])
    keep = (..., slice(margin, depth.shape[0] - margin), slice(margin, depth.shape[1] - margin))
    apart = 1 / _least(depth) + 1 / _least(-depth)  # of neighbours, in dioptres: what blur is made of
    jump = apart * lens.aperture * lens.focal / lens.pixel > 1
    edge = F.max_pool2d(jump[None, None].float(), 5, 1, 2)[0, 0] > 0
    return FocusStack(torch.stack(frames).clamp(0, 1)[keep], truth[keep], depth[keep], blur[keep], edge[keep])


def focus_planes(count: int = 5, near: float = 500.0, far: float = 2000.0) -> list[float]:
    """Focus distances from far to near (mm), evenly spaced in dioptres, so that neighbours blur each other alike."""
    return (1 / np.linspace(1 / far, 1 / near, count)).tolist()


def layered_scene(
    take: Take, planes: Sequence[float], size: int, rng: np.random.Generator
) -> tuple[list[Layer], list[int]]:
    """Three to five layers cut from pictures, at the depths of `planes`; some are tilted.

    The farthest is a whole crop; the others are discs, boxes or blobs with soft rims. A tilted layer reaches half of
    the way to the neighbouring planes.

    Args:
        take: gives a crop `(size, size, 3)` in [0, 1], such as `assay.data.photos.cropper(names)`.
        planes: focus distances from far to near.
        size: side of the scene in pixels.

    Returns:
        layers, farthest first, and the index of each one's plane.
    """
    count = int(rng.integers(3, min(5, len(planes)) + 1))
    chosen = sorted(rng.choice(len(planes), count, replace=False).tolist())
    step = abs(1 / planes[1] - 1 / planes[0])
    layers = []
    for order, plane in enumerate(chosen):
        image = take(rng, size)
        alpha = torch.ones(size, size) if order == 0 else _cut_out(size, rng)
        tilt = 0.5 * step * float(rng.uniform(-1, 1)) if rng.random() < 0.3 else 0.0
        ramp = torch.linspace(-1, 1, size).expand(size, size)
        dioptres = 1 / planes[plane] + tilt * (ramp if rng.random() < 0.5 else ramp.T)
        layers.append(Layer(torch.from_numpy(image).permute(2, 0, 1).contiguous(), alpha, 1 / dioptres))
    return layers, chosen


def layers_of_depth(image: Tensor, disparity: Tensor, planes: Sequence[float], count: int = 4) -> list[Layer]:
    """Layers of a photograph whose disparity is known: each holds what is at least as near as its threshold.

    Disparities are stretched over the range of `planes`. What a layer shows behind nearer ones is unknown and taken
    from the nearest pixel of that layer.

    Args:
        image: `(3, H, W)`.
        disparity: `(H, W)`, NaN where unknown (taken from the nearest known pixel).
    """
    from scipy.ndimage import distance_transform_edt

    known = torch.isfinite(disparity).numpy()
    if not known.any():
        raise ValueError("no disparity is known")
    fill = distance_transform_edt(~known, return_distances=False, return_indices=True)
    value = disparity.numpy()[tuple(fill)]
    low, high = np.percentile(value, [2, 98])
    share = np.clip((value - low) / max(high - low, 1e-6), 0, 1)
    dioptres = 1 / planes[0] + share * (1 / planes[-1] - 1 / planes[0])
    edges = np.linspace(0, 1, count + 1)
    pixels = image.numpy()
    layers = []
    for k in range(count):
        solid = share >= edges[k]
        own = solid & (share <= edges[k + 1])
        if not own.any():
            continue
        where = distance_transform_edt(~own, return_distances=False, return_indices=True)
        sheet = torch.from_numpy(np.ascontiguousarray(pixels[:, where[0], where[1]]))
        depth = torch.from_numpy((1 / dioptres[where[0], where[1]]).astype(np.float32))
        alpha = torch.from_numpy((solid if layers else np.ones_like(solid)).astype(np.float32))
        layers.append(Layer(sheet, alpha, depth))
    return layers


def _blurred_by(sheet: Tensor, diameter: Tensor) -> Tensor:
    low, high = float(diameter.min()), float(diameter.max())
    if high - low < STEP / 2:
        return blurred(sheet, round((low + high) / 2 / 0.05) * 0.05)
    first, last = int(np.floor(low / STEP)), int(np.ceil(high / STEP))
    made = torch.zeros_like(sheet)
    for k in range(first, last + 1):
        share = (1 - (diameter / STEP - k).abs()).clamp(min=0)  # linear between neighbouring diameters
        if (share > 0).any():
            made = made + share * blurred(sheet, k * STEP)
    return made


def _scaled(frame: Tensor, factor: float) -> Tensor:
    theta = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], dtype=frame.dtype)
    grid = F.affine_grid(theta[None], [1, *frame.shape], align_corners=False)
    return F.grid_sample(frame[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]


def _least(depth: Tensor) -> Tensor:
    """Least value among the 3x3 neighbours."""
    return -F.max_pool2d(-depth[None, None], 3, 1, 1)[0, 0]


def _cut_out(size: int, rng: np.random.Generator) -> Tensor:
    """Soft mask of a disc, a box or a blob."""
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    cy, cx = rng.uniform(0.2, 0.8, 2)
    radius = rng.uniform(0.15, 0.32)
    kind = int(rng.integers(3))
    turn = rng.uniform(0, np.pi)
    u, v = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn), (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
    if kind == 0:
        inside = radius - np.hypot(u, v * rng.uniform(0.7, 1.4))
    elif kind == 1:
        inside = np.minimum(radius - np.abs(u), radius * rng.uniform(0.5, 1.2) - np.abs(v))
    else:
        angle = np.arctan2(v, u)
        wave = sum(rng.uniform(-0.2, 0.2) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
        inside = radius * (1 + wave) - np.hypot(u, v)
    return torch.from_numpy(np.clip(inside * size + 0.5, 0, 1).astype(np.float32))
