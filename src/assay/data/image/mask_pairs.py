"""Images with a mask each, in the layouts of the data sets for object segmentation.

| layout | images | masks |
|---|---|---|
| CrackForest | `image/*.jpg` | `groundTruth/*.mat`, struct with `Segmentation` (1 road, above 1 crack) |
| HAM10000 | `HAM10000_images*/*.jpg`, or `images/` | `HAM10000_segmentations*/ID_segmentation.png`, or `masks/` |
| CUB-200-2011 | `images/<class>/*.jpg` | `segmentations/<class>/*.png` |
| ECSSD | `images/*.jpg` | `ground_truth_mask/*.png` |
| DUTS-TE | `DUTS-TE-Image/*.jpg` | `DUTS-TE-Mask/*.png` |
| plain | `images/` (any depth) | `masks/`, same names |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.data.image.folder import IMAGE_SUFFIXES, DataError
from assay.errors import require

LAYOUTS: tuple[tuple[str, str, str], ...] = (
    ("crackforest", "image", "groundTruth"),
    ("duts", "DUTS-TE-Image", "DUTS-TE-Mask"),
    ("ham10000", "HAM10000_images*", "HAM10000_segmentations*"),
    ("cub", "images", "segmentations"),
    ("ecssd", "images", "ground_truth_mask"),
    ("plain", "images", "masks"),
)


@dataclass(frozen=True)
class MaskPair:
    """One image and the file of its mask."""

    name: str
    image: Path
    mask: Path

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Image `(3, H, W)` in [0, 1] and mask `(H, W)`.

        Raises:
            DataError: a file that cannot be read, or sizes that differ.
        """
        image, mask = read_rgb(self.image), read_mask(self.mask)
        if image.shape[1:] != mask.shape:
            raise DataError(f"{self.mask}: a mask of {mask.shape} pixels beside an image of {image.shape[1:]}")
        return image, mask


def find_pairs(root: Path) -> tuple[str, list[MaskPair]]:
    """Name of the layout, and its pairs sorted by name; images without a mask are left out.

    Raises:
        DataError: none of the known layouts, or no pair in it.
    """
    for layout, images, masks in LAYOUTS:
        pictures = [folder for folder in sorted(root.glob(images)) if folder.is_dir()]
        answers = [folder for folder in sorted(root.glob(masks)) if folder.is_dir()]
        if not pictures or not answers:
            continue
        by_name = {
            _key(file, folder): file
            for folder in answers
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in (*IMAGE_SUFFIXES, ".mat") and not file.name.startswith(".")
        }
        pairs = [
            MaskPair(_key(file, folder), file, by_name[_key(file, folder)])
            for folder in pictures
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES and _key(file, folder) in by_name
        ]
        if not pairs:
            raise DataError(f"{root}: no image of {images} has a mask in {masks}")
        return layout, sorted(pairs, key=lambda pair: pair.name)
    expected = "; ".join(f"{images}/ and {masks}/" for _, images, masks in LAYOUTS)
    raise DataError(f"{root}: no images with masks found; expected one of: {expected}")


def read_rgb(file: Path) -> NDArray[np.float32]:
    """A picture as `(3, H, W)` in [0, 1].

    Raises:
        DataError: not a readable picture.
    """
    image = require("PIL.Image", "segmentation")
    try:
        with image.open(file) as picture:
            array = np.asarray(require("PIL.ImageOps", "segmentation").exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable picture ({error})") from None
    return array.astype(np.float32).transpose(2, 0, 1) / 255


def read_mask(file: Path) -> NDArray[np.bool_]:
    """A mask `(H, W)`: above half of its largest value for pictures, above 1 for CrackForest's `.mat`.

    Raises:
        DataError: not a readable mask.
    """
    if file.suffix.lower() == ".mat":
        from scipy.io import loadmat

        try:
            found = loadmat(file)["groundTruth"][0, 0]["Segmentation"]
        except (KeyError, IndexError, ValueError, OSError, TypeError, NotImplementedError) as error:
            raise DataError(f"{file}: no groundTruth.Segmentation ({error})") from None
        return np.asarray(found) > 1
    grey = read_rgb(file).mean(axis=0)
    return grey > max(float(grey.max()) / 2, 1e-3)


def _key(file: Path, folder: Path) -> str:
    """Name that an image and its mask share."""
    return file.relative_to(folder).with_suffix("").as_posix().removesuffix("_segmentation")
