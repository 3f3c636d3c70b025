"""Alignment of the frames of a focus stack: scale (focus breathing) and shift, by phase correlation.

Source: 2512.21495; Reddy and Chatterji 1996 for the log-polar spectrum
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import map_coordinates
from torch import Tensor

from assay.methods.imaging._focus_network import luma

MOST_SCALE = 0.1  # scales beyond 10 % are not looked for
CLEARLY = 1.15  # times by which a shift's peak must exceed that of no shift
SIDE = 512  # pixels of the longer side that alignment is estimated on


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Phase correlation of windowed pictures `(H, W)`, weighted towards coarse detail, which survives defocus."""
    height, width = first.shape
    window = torch.hann_window(height, False).to(first)[:, None] * torch.hann_window(width, False).to(first)
    a, b = (torch.fft.fft2((x - x.mean()) * window) for x in (first, second))
    cross = a * b.conj()
    fy, fx = torch.fft.fftfreq(height).to(first)[:, None], torch.fft.fftfreq(width).to(first)
    weight = torch.exp(-(fy**2 + fx**2) / (2 * 0.08**2))
    return torch.fft.ifft2(cross / cross.abs().clamp(min=1e-12) * weight).real / weight.mean()


def shift_between(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """By how many pixels (down, right) `second` must be moved to lie on `first`, and the height of the peak."""
    surface = correlation(first, second)
    height, width = surface.shape
    y, x = divmod(int(surface.argmax()), width)

    def finer(low: Tensor, mid: Tensor, high: Tensor) -> float:
        bend = float(low - 2 * mid + high)
        return 0.0 if bend >= 0 else 0.5 * float(low - high) / bend

    dy = y + finer(surface[y - 1, x], surface[y, x], surface[(y + 1) % height, x])
    dx = x + finer(surface[y, x - 1], surface[y, x], surface[y, (x + 1) % width])
    dy, dx = (dy - height if dy > height / 2 else dy), (dx - width if dx > width / 2 else dx)
    return dy, dx, float(surface[y, x])


def similarity_between(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """Scale about the middle, and shift (down, right) in pixels, that bring `second` onto `first`, both `(H, W)`.

    A first scale comes from the log-polar spectra; around it and around 1 the scale is then searched whose phase
    correlation peaks highest.
    """

    def peak(scale: float) -> float:
        return shift_between(first, _moved(second, scale, 0.0, 0.0))[2]

    found = max((1.0, _log_polar_scale(first, second)), key=peak)
    step = 0.008
    while step > 2e-4:
        found = max((found - step, found, found + step), key=peak)
        step /= 2
    dy, dx, _ = shift_between(first, _moved(second, found, 0.0, 0.0))
    return found, dy, dx


def misregistration(stack: Tensor) -> float:
    """Largest shift in pixels between neighbouring frames of `(N, 3, H, W)`.

    Defocus smears the peak of the correlation; a shift counts where its peak is clearly above what no shift reaches.
    """
    grey, factor = _reduced(luma(stack))
    largest = 0.0
    for a, b in pairwise(grey):
        dy, dx, peak = shift_between(a, b)
        still = float(correlation(a, b)[0, 0])
        if peak > CLEARLY * still:
            largest = max(largest, factor * math.hypot(dy, dx))
    return largest


def register(stack: Tensor) -> Tensor:
    """Frames `(N, 3, H, W)` scaled and shifted onto the middle one; borders repeat the last pixel."""
    found = transforms(luma(stack))
    return torch.stack([move(frame, *one) for frame, one in zip(stack, found, strict=True)])


def transforms(grey: Tensor) -> list[tuple[float, float, float]]:
    """Scale and shift of each frame `(N, H, W)` onto the middle one; estimated on a reduced copy of large frames."""
    small, factor = _reduced(grey)
    middle = small[len(small) // 2]
    found = [(1.0, 0.0, 0.0) if x is middle else similarity_between(middle, x) for x in small.unbind()]
    found[len(small) // 2] = (1.0, 0.0, 0.0)
    return [(scale, dy * factor, dx * factor) for scale, dy, dx in found]


def move(frame: Tensor, scale: float, dy: float, dx: float) -> Tensor:
    """A frame `(C, H, W)` scaled about its middle, then shifted; returned as it is where there is nothing to do."""
    return frame if (scale, dy, dx) == (1.0, 0.0, 0.0) else _moved(frame, scale, dy, dx)


def _moved(frame: Tensor, scale: float, dy: float, dx: float) -> Tensor:
    x = frame[None, None] if frame.ndim == 2 else frame[None]
    height, width = x.shape[-2:]
    theta = x.new_tensor([[1 / scale, 0, -2 * dx / width / scale], [0, 1 / scale, -2 * dy / height / scale]])
    grid = F.affine_grid(theta[None], list(x.shape), align_corners=False)
    made = F.grid_sample(x, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return (made[0, 0] if frame.ndim == 2 else made[0]).clamp(0, 1)


def _reduced(grey: Tensor) -> tuple[Tensor, int]:
    """Frames averaged over blocks so that the longer side is at most about `SIDE`, and the block's side."""
    factor = max(1, round(max(grey.shape[-2:]) / SIDE))
    return (F.avg_pool2d(grey, factor) if factor > 1 else grey), factor


def _log_polar_scale(first: Tensor, second: Tensor) -> float:
    side = min(first.shape)
    bins, angles, least = 256, 64, 4.0
    reach = math.log(side / 4 / least)
    radius = least * np.exp(reach * np.arange(bins) / bins)
    turn = np.pi * np.arange(angles) / angles
    where = np.stack([radius * np.sin(turn)[:, None], radius * np.cos(turn)[:, None]]) + side // 2
    profiles = []
    for picture in (first, second):
        top, left = ((length - side) // 2 for length in picture.shape)
        square = picture[top : top + side, left : left + side]
        window = torch.hann_window(side, False).to(square)
        spectrum = torch.fft.fftshift(torch.fft.fft2((square - square.mean()) * window * window[:, None]).abs().log1p())
        sampled = map_coordinates(spectrum.double().numpy(), where, order=1)
        profiles.append(torch.from_numpy(sampled - sampled.mean(1, keepdims=True)))
    _, moved, _ = shift_between(*profiles)
    scale = math.exp(-moved * reach / bins)
    return scale if abs(scale - 1) <= MOST_SCALE else 1.0
