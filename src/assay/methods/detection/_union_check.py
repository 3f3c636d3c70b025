"""Whether text can be told from what is around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

CORE, FRINGE = 176, 32  # alpha from which a pixel is text for sure, and up to which it is not text at all
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True)
class Outline:
    """What the check needs of a mask (H, W) of alpha.

    Attributes:
        core: pixels that are text for sure, from which the fill starts.
        border: pixels next to the glyphs, beyond their soft edges.
        seed: (H * W,) number of the core pixel nearest to each pixel, in row order.
    """

    core: NDArray[np.bool_]
    border: NDArray[np.bool_]
    seed: NDArray[np.int64]


def outline(mask: NDArray[np.uint8]) -> Outline:
    """Core, border and nearest core pixels of a text's alpha."""
    text = mask > FRINGE
    around = text.copy()
    around[1:] |= text[:-1]
    around[:-1] |= text[1:]
    around[:, 1:] |= text[:, :-1]
    around[:, :-1] |= text[:, 1:]
    core = mask >= min(CORE, max(int(mask.max(initial=0)), 1))
    rows, columns = distance_transform_edt(~core, return_distances=False, return_indices=True)
    return Outline(core, around & ~text, (rows.astype(np.int64) * mask.shape[1] + columns).ravel())


def leak(image: NDArray, mask: NDArray[np.uint8] | Outline, tolerance: float = 16) -> float:
    """Share of the glyphs' border that a flood fill from text pixels reaches, in [0, 1].

    The fill spreads over the four neighbours to pixels whose grey level differs by at most `tolerance` from that of
    the text pixel it came from (the nearest one). It starts at pixels of alpha 176 or more; the border is the ring of
    pixels next to alpha above 32, so it lies beyond soft edges.

    Args:
        image: (H, W) grey or (H, W, 3), 0..255.
        mask: (H, W) alpha of the text, 0..255, or its `outline`.

    Raises:
        ValueError: shapes differ.
    """
    form = mask if isinstance(mask, Outline) else outline(mask)
    if image.shape[:2] != form.core.shape:
        raise ValueError(f"image {image.shape[:2]} and mask {form.core.shape} must have one shape")
    if not form.border.any() or not form.core.any():
        return 0.0
    values = image.astype(np.float32)
    grey = (values @ LUMA if values.ndim == 3 else values).ravel()
    near = (np.abs(grey - grey[form.seed]) <= tolerance).reshape(form.core.shape)
    if float(near[form.border].mean()) == 0:
        return 0.0
    parts, count = label(near)
    reached = np.zeros(count + 1, dtype=bool)
    reached[parts[form.core]] = True
    reached[0] = False
    return float(reached[parts[form.border]].mean())


def visible(image: NDArray, mask: NDArray[np.uint8] | Outline, tolerance: float = 16, border: float = 0.1) -> bool:
    """Whether the fill from the text reaches at most the share `border` of the glyphs' border (see `leak`)."""
    return leak(image, mask, tolerance) <= border
