"""A picture tokenizer made of k-means: one code for every square patch."""

from __future__ import annotations

import torch
from torch import Tensor


class PatchCodebook:
    """Codes of patches, such as the cells of a board.

    Rare patches would get too few codes from plain k-means, so it is fitted on patches drawn evenly from a few coarse
    clusters. A code is decoded as its centroid.

    Args:
        k: number of codes. patch: side of a patch in pixels. coarse: number of coarse clusters; 1 draws plainly.

    Attributes:
        centroids: (k, patch * patch * channels) after `fit`.

    Raises:
        ValueError: k, patch or coarse below 1.
    """

    def __init__(self, k: int = 96, patch: int = 8, coarse: int = 24) -> None:
        if min(k, patch, coarse) < 1:
            raise ValueError(f"k, patch and coarse must be at least 1, got {k}, {patch} and {coarse}")
        self.k, self.patch, self.coarse = k, patch, coarse
        self.centroids: Tensor | None = None

    def fit(
        self, images: Tensor, *, each: int = 100, rounds: int = 15, generator: torch.Generator | None = None
    ) -> PatchCodebook:
        """Fit to images (B, H, W, channels); `each` patches are drawn from every coarse cluster.

        Raises:
            ValueError: a side is no multiple of the patch, or there are fewer patches than codes.
        """
        patches = self._patches(images).flatten(0, 2)
        if len(patches) < self.k:
            raise ValueError(f"{len(patches)} patches are too few for {self.k} codes")
        if self.coarse > 1:
            some = patches[torch.randperm(len(patches), generator=generator)[:4000]]
            rough = _k_means(some, min(self.coarse, len(some)), rounds, generator)
            cluster = _nearest(patches, rough)
            drawn = []
            for c in range(len(rough)):
                own = torch.nonzero(cluster == c)[:, 0]
                drawn.append(own[torch.randperm(len(own), generator=generator)[:each]])
            chosen = torch.cat(drawn)
            patches = patches[chosen] if len(chosen) >= self.k else patches
        self.centroids = _k_means(patches, self.k, rounds, generator)
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, h, w) of images (B, H, W, channels).

        Raises:
            ValueError: not fitted, a side is no multiple of the patch, or the channels are others than those fitted.
        """
        patches = self._patches(images)
        centroids = self._fitted()
        if patches.shape[-1] != centroids.shape[1]:
            raise ValueError(f"patches of {patches.shape[-1]} values, the codebook has {centroids.shape[1]}")
        return _nearest(patches.flatten(0, 2), centroids).view(patches.shape[:3])

    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, H, W, channels) of codes (B, h, w)."""
        centroids, p = self._fitted(), self.patch
        batch, rows, columns = codes.shape
        patches = centroids[codes].view(batch, rows, columns, p, p, -1)
        return patches.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * p, columns * p, -1)

    def _fitted(self) -> Tensor:
        if self.centroids is None:
            raise ValueError("the codebook has not been fitted")
        return self.centroids

    def _patches(self, images: Tensor) -> Tensor:
        """(B, h, w, patch * patch * channels)"""
        if images.ndim != 4 or images.shape[1] % self.patch or images.shape[2] % self.patch:
            raise ValueError(f"images {tuple(images.shape)}: expected (B, H, W, channels) in patches of {self.patch}")
        p = self.patch
        cut = images.unflatten(2, (-1, p)).unflatten(1, (-1, p)).transpose(2, 3)
        return cut.flatten(3).float()


def _k_means(points: Tensor, k: int, rounds: int, generator: torch.Generator | None) -> Tensor:
    """Lloyd's rounds from centres drawn by k-means++; an empty centre stays where it was."""
    first = int(torch.randint(len(points), (1,), generator=generator))
    centres = [points[first]]
    gap = (points - centres[0]).square().sum(-1)
    for _ in range(k - 1):
        weights = gap if float(gap.sum()) > 0 else torch.ones_like(gap)
        centres.append(points[int(torch.multinomial(weights, 1, generator=generator))])
        gap = torch.minimum(gap, (points - centres[-1]).square().sum(-1))
    found = torch.stack(centres)
    for _ in range(rounds):
        near = _nearest(points, found)
        count = torch.bincount(near, minlength=k)
        total = torch.zeros_like(found).index_add_(0, near, points)
        found = torch.where(count[:, None] > 0, total / count.clamp(min=1)[:, None], found)
    return found


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Number of the nearest centre."""
    return ((centres * centres).sum(-1) - 2 * points @ centres.T).argmin(-1)
