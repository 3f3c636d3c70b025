"""Whether two regions look alike, wherever they lie and however they are turned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float64]


def region_descriptor(image: Array, mask: NDArray[np.bool_], bins: int = 4) -> Array:
    """Colours and local contrast of a region.

    A histogram over `bins`^3 colours, each pixel shared between the nearest bins (trilinear), and a histogram over
    `bins` strengths of local contrast (norm of the gradient, shared between two bins). Each sums to 1.

    Args:
        image: `(H, W, 3)` in [0, 1]. mask: bool `(H, W)`.

    Returns:
        `(bins^3 + bins,)`; zero for an empty mask.
    """
    image = np.clip(np.asarray(image, dtype=float), 0, 1)
    slopes = [ndimage.gaussian_gradient_magnitude(image[..., c], 0.7) for c in range(3)]
    contrast = np.clip(np.sqrt(np.square(slopes).sum(axis=0)) / 0.6, 0, 1)
    colours = _soft_histogram(image[mask], bins)
    return np.concatenate([colours, _soft_histogram(contrast[mask][:, None], bins)])


def masked_similarity(
    image: Array, mask: NDArray[np.bool_], reference: Array, reference_mask: NDArray[np.bool_], bins: int = 4
) -> float:
    """Overlap, 0 to 1, of the descriptors of two regions: the mean of colour and contrast histogram intersection.

    Invariant to where the regions lie; nearly so to turning. 0 when one of the regions is empty.

    Raises:
        ValueError: a mask of another size than its image.
    """
    for picture, region in ((image, mask), (reference, reference_mask)):
        if np.shape(picture)[:2] != np.shape(region):
            raise ValueError(f"mask {np.shape(region)} does not fit the image {np.shape(picture)}")
    a, b = region_descriptor(image, mask, bins), region_descriptor(reference, reference_mask, bins)
    return float(np.minimum(a, b).sum() / 2)


def _soft_histogram(values: Array, bins: int) -> Array:
    """Histogram of `(P, d)` in [0, 1] over `bins`^d cells; every value is shared linearly between neighbours."""
    points, axes = values.shape
    if not points:
        return np.zeros(bins**axes)
    place = values * (bins - 1)
    low = np.minimum(place.astype(int), bins - 2)
    high_share = place - low
    counts = np.zeros(bins**axes)
    for corner in np.ndindex(*[2] * axes):
        share = np.prod(np.where(corner, high_share, 1 - high_share), axis=1)
        cell = np.ravel_multi_index(tuple((low + corner).T), [bins] * axes)
        np.add.at(counts, cell, share)
    return counts / points
