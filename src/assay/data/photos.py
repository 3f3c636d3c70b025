"""Real photographs that come inside scikit-image and scikit-learn: no download.

Licences: scikit-image's are in the public domain or CC0, but for the motorcycle (Middlebury stereo 2014, Scharstein et
al., for research); scikit-learn's are CC BY (china: Yann Forget 2012; flower: Hervé Piot 2008), to be credited where
they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

COLOUR = ("astronaut", "coffee", "chelsea", "rocket", "ihc", "retina", "motorcycle_left", "motorcycle_right",
          "china", "flower")  # fmt: skip
GREY = ("camera", "coins", "moon", "brick", "grass", "gravel", "page")
SCENES = {"motorcycle_left": "motorcycle", "motorcycle_right": "motorcycle"}  # two views of one scene


@lru_cache(maxsize=32)
def photo(name: str) -> NDArray[np.uint8]:
    """A photograph `(H, W, 3)`; grey ones three times over. Read only.

    Raises:
        KeyError: not one of `COLOUR` or `GREY`.
    """
    if name not in (*COLOUR, *GREY):
        raise KeyError(f"no photograph {name!r}; choose from {', '.join((*COLOUR, *GREY))}")
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        found = load_sample_image(f"{name}.jpg")
    elif name in SCENES:
        from skimage import data

        found = data.stereo_motorcycle()[name == "motorcycle_right"]
    else:
        from skimage import data

        found = getattr(data, "immunohistochemistry" if name == "ihc" else name)()
    found = np.asarray(found)
    found = np.repeat(found[..., None], 3, axis=2) if found.ndim == 2 else found[..., :3]
    found = np.ascontiguousarray(found, dtype=np.uint8)
    found.flags.writeable = False
    return found


def crop(
    name: str, size: tuple[int, int], rng: np.random.Generator, *, scale: float = 1.0, tries: int = 1
) -> NDArray[np.float32]:
    """A crop at a random place, mirrored at random, `(H, W, 3)` in [0, 1].

    Args:
        name: of the photograph.
        size: height and width of the crop.
        scale: at most 1; the photograph is first made smaller by it with antialiasing.
        tries: places that are drawn; the one with the most gradient energy is taken, so that empty sky is rare.

    Raises:
        ValueError: a scale outside (0, 1], or a crop that is larger than the photograph after scaling.
    """
    if not 0 < scale <= 1 or tries < 1:
        raise ValueError(f"expected a scale in (0, 1] and at least one try, got {scale} and {tries}")
    whole = photo(name)
    height, width = (max(1, round(side * scale)) for side in whole.shape[:2])
    if size[0] > height or size[1] > width:
        raise ValueError(f"{name} at scale {scale:g} is {height}x{width}, smaller than the crop {size[0]}x{size[1]}")
    found, best = None, -1.0
    for _ in range(tries):
        top, left = int(rng.integers(0, height - size[0] + 1)), int(rng.integers(0, width - size[1] + 1))
        part = _resampled(whole, top / scale, left / scale, size, scale)
        energy = float((np.diff(part, axis=0) ** 2).mean() + (np.diff(part, axis=1) ** 2).mean())
        if energy > best:
            found, best = part, energy
    assert found is not None
    return np.ascontiguousarray(found[:, ::-1] if rng.random() < 0.5 else found)


def cropper(
    names: Sequence[str], *, tries: int = 4, least_scale: float = 0.5
) -> Callable[[np.random.Generator, int], NDArray[np.float32]]:
    """A function of a generator and a side that gives a square crop `(side, side, 3)` of one of the photographs.

    The scale is drawn between `least_scale` and 1, or what the crop needs.
    """

    def take(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
        name = names[int(rng.integers(len(names)))]
        least = max(least_scale, side / min(photo(name).shape[:2]))
        return crop(name, (side, side), rng, scale=min(float(rng.uniform(least, 1.0)), 1.0), tries=tries)

    return take


def _resampled(whole: NDArray[np.uint8], top: float, left: float, size: tuple[int, int], scale: float) -> NDArray:
    """Window of a photograph, resampled with antialiasing."""
    if scale == 1:
        y, x = int(top), int(left)
        return whole[y : y + size[0], x : x + size[1]].astype(np.float32) / 255
    from PIL import Image

    height, width = whole.shape[:2]
    box = (left, top, min(left + size[1] / scale, width), min(top + size[0] / scale, height))
    small = Image.fromarray(whole).resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small, dtype=np.float32) / 255
