"""Tokens without a network: Gabor energies, mean and spread of the cells of a grid.

Needs no weights; weaker than a pretrained transformer, and blind to anything but texture and brightness.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

FREQUENCIES = (0.25, 0.125, 0.0625)  # cycles per pixel
ORIENTATIONS = 4
FLOOR = 1e-5


def gabor_energies(image: Tensor, cell: int = 8, pool: float = 1.0) -> Tensor:
    """Features of every cell of a grid.

    Even and odd part of each of 12 Gabor filters (3 frequencies, 4 orientations, one octave wide) give 24 energies,
    averaged over the cell and, with a Gaussian, over its neighbours; their logarithms are followed by the logarithm
    of the standard deviation and the mean, and for colour by two opponent colours.

    Args:
        image: `(H, W)`, `(1, H, W)` or `(3, H, W)`, values in [0, 1].
        cell: side of a cell in pixels.
        pool: width of the Gaussian over cells; 0 for none.

    Returns:
        `(H // cell, W // cell, 26)`, 28 for colour.

    Raises:
        ValueError: another shape, or an image smaller than two cells.
    """
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or len(image) not in (1, 3):
        raise ValueError(f"image must be (H, W), (1, H, W) or (3, H, W), got {tuple(image.shape)}")
    height, width = image.shape[-2:]
    grid = (height // cell, width // cell)
    if min(grid) < 2:
        raise ValueError(f"an image of {height}x{width} pixels has fewer than two cells of {cell} pixels a side")
    image = image.double()
    grey = image.mean(dim=0)
    margin = min(16, height - 1, width - 1)
    padded = F.pad(grey[None, None], (margin,) * 4, mode="reflect")[0, 0]
    answers = torch.fft.ifft2(torch.fft.fft2(padded) * _transfer(padded.shape[0], padded.shape[1]))
    answers = answers[:, margin : margin + height, margin : margin + width]
    maps = torch.cat([answers.real.square(), answers.imag.square(), grey[None].square(), image], dim=0)
    cells = F.adaptive_avg_pool2d(maps[None], grid)
    cells = _blurred(cells, pool)[0]
    energies, square, colours = cells[:24], cells[24], cells[25:]
    mean = colours.mean(dim=0)
    spread = (square - mean**2).clamp_min(0)
    found = [(energies + FLOOR).log(), 0.5 * (spread + FLOOR).log()[None], mean[None]]
    if len(image) == 3:
        red, green, blue = colours
        found.append(torch.stack([red - green, (red + green) / 2 - blue]))
    return torch.cat(found).permute(1, 2, 0)


class GaborTokens:
    """Tokens of a data set: Gabor energies, standardised and projected by the statistics of the whole set.

        x = P (e - m) / s,  then scaled to length 1

    Statistics of single images would take away what images have in common, and with it every prior across images.

    Args:
        cell: side of a cell in pixels.
        components: principal components kept.
        pool: see `gabor_energies`.
    """

    def __init__(self, cell: int = 8, components: int = 8, pool: float = 1.0) -> None:
        self.cell, self.components, self.pool = cell, components, pool
        self.mean = self.spread = self.projection = torch.empty(0)

    def fit(self, images: Iterable[Tensor]) -> GaborTokens:
        """Take mean, standard deviation and components from images.

        Raises:
            ValueError: no images.
        """
        return self.fit_energies([gabor_energies(image, self.cell, self.pool) for image in images])

    def fit_energies(self, energies: list[Tensor]) -> GaborTokens:
        """The same from `gabor_energies` of images."""
        if not energies:
            raise ValueError("no images to take statistics from")
        rows = torch.cat([e.flatten(0, 1) for e in energies])
        self.mean, self.spread = rows.mean(dim=0), rows.std(dim=0).clamp_min(1e-6)
        rows = (rows - self.mean) / self.spread
        _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        vectors = vectors.flip(1)[:, : self.components].T
        # The sign of a component is arbitrary; fix it so that every machine finds the same tokens.
        signs = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()
        self.projection = vectors * signs
        return self

    def project(self, energies: Tensor) -> Tensor:
        """Energies `(h, w, E)` -> components `(h, w, D)`, not scaled to length 1.

        Raises:
            ValueError: not fitted, or fitted on images with another number of channels.
        """
        if energies.shape[-1] != len(self.mean):
            raise ValueError(f"tokens with {energies.shape[-1]} features, but statistics of {len(self.mean)}")
        return ((energies - self.mean) / self.spread) @ self.projection.T

    def __call__(self, image: Tensor) -> Tensor:
        """Image -> tokens `(h, w, D)` of length 1."""
        return F.normalize(self.project(gabor_energies(image, self.cell, self.pool)), dim=-1)

    def state(self) -> dict[str, Tensor]:
        """What `from_state` needs."""
        options = torch.tensor([self.cell, self.components, self.pool], dtype=torch.float64)
        return {"options": options, "mean": self.mean, "spread": self.spread, "projection": self.projection}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> GaborTokens:
        """The tokens that `state` describes.

        Raises:
            ValueError: a part is missing or has another shape.
        """
        try:
            cell, components, pool = state["options"].tolist()
            made = cls(int(cell), int(components), pool)
            made.mean, made.spread, made.projection = (state[n].double() for n in ("mean", "spread", "projection"))
        except (KeyError, ValueError) as error:
            raise ValueError(f"not the statistics of Gabor tokens ({error})") from error
        if made.projection.ndim != 2 or made.mean.shape != made.spread.shape != made.projection.shape[1:]:
            raise ValueError("statistics of Gabor tokens that do not fit together")
        return made


def _transfer(height: int, width: int) -> Tensor:
    """Transfer functions `(12, height, width)` of analytic Gabor filters: Gaussians on one side of the spectrum."""
    v, u = torch.meshgrid(torch.fft.fftfreq(height), torch.fft.fftfreq(width), indexing="ij")
    u, v = u.double(), v.double()
    filters = []
    for frequency in FREQUENCIES:
        sigma = frequency / 3 / math.sqrt(2 * math.log(2)) * 1.0  # half height one octave apart
        for step in range(ORIENTATIONS):
            angle = math.pi * step / ORIENTATIONS
            du, dv = u - frequency * math.cos(angle), v - frequency * math.sin(angle)
            filters.append(torch.exp(-(du**2 + dv**2) / (2 * sigma**2)))
    return torch.stack(filters)


def _blurred(cells: Tensor, sigma: float) -> Tensor:
    """Gaussian over the last two axes of `(1, C, h, w)`, borders repeated."""
    if sigma <= 0:
        return cells
    radius = max(1, round(2 * sigma))
    place = torch.arange(-radius, radius + 1, dtype=cells.dtype)
    kernel = torch.exp(-(place**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(cells.shape[1], 1, 1, -1)
    wide = F.conv2d(F.pad(cells, (radius, radius, 0, 0), mode="replicate"), kernel, groups=cells.shape[1])
    tall = F.pad(wide, (0, 0, radius, radius), mode="replicate")
    return F.conv2d(tall, kernel.transpose(2, 3), groups=cells.shape[1])
