"""Vision transformers and pictures as users have them: Hugging Face ids and folders, this package's folders, files."""

from __future__ import annotations

import difflib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.errors import InputError, require
from assay.nn.vit import ViT, load_vit

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
KINDS = {"vit", "deit", "dinov2", "clip", "clip_vision_model"}


@dataclass(frozen=True)
class Classifier:
    """A model with what it needs to be fed and read.

    Attributes:
        model: in eval mode.
        size: height and width of its input in pixels.
        mean, std: (3,) of its input normalisation.
        names: class names by number.
    """

    model: nn.Module
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: dict[int, str]

    def prepare(self, picture: Tensor) -> Tensor:
        """A picture (3, H, W) in [0, 1] as a batch of one, resized as a whole."""
        x = nn.functional.interpolate(picture[None], self.size, mode="bilinear", align_corners=False, antialias=True)
        return (x - torch.tensor(self.mean).view(1, 3, 1, 1)) / torch.tensor(self.std).view(1, 3, 1, 1)

    def number(self, target: str) -> int:
        """Class number of a name (or one of its comma-separated synonyms) or a number.

        Raises:
            InputError: no such class; the closest names are given.
        """
        if target.isdecimal():
            if int(target) not in self.names:
                raise InputError(f"--target {target}: the model has the classes 0..{len(self.names) - 1}")
            return int(target)
        wanted = target.strip().lower()
        words = {word.strip().lower(): i for i, name in self.names.items() for word in (name, *name.split(","))}
        if wanted in words:
            return words[wanted]
        close = difflib.get_close_matches(wanted, words, n=3, cutoff=0.4) or list(words)[:3]
        raise InputError(f"--target {target!r}: the model has no such class; closest: {', '.join(close)}")


def load_classifier(name: str) -> Classifier:
    """A classifier by Hugging Face id or folder; or a folder that `ViT.save` wrote.

    Raises:
        InputError: nothing there, not a vision transformer, or one without classes.
    """
    folder = Path(name)
    if (folder / "config.json").is_file() and _json(folder / "config.json").get("model_type") == "assay-vit":
        return own_classifier(load_vit(folder))
    transformers = require("transformers", "explanation")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        if config.model_type not in KINDS:
            raise InputError(f"--model {name}: a {config.model_type} is no vision transformer; expected {_expected()}")
        model = transformers.AutoModelForImageClassification.from_pretrained(name, use_safetensors=True)
        about = _preprocessing(name, folder, transformers)
    except (OSError, ValueError) as error:
        raise InputError(f"--model {name}: cannot be loaded ({str(error).splitlines()[0]})") from error
    side = getattr(config, "vision_config", config).image_size
    if isinstance(about.get("crop_size"), dict) and "height" in about["crop_size"]:
        side = (about["crop_size"]["height"], about["crop_size"]["width"])
    size = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
    names = {int(i): str(label) for i, label in config.id2label.items()}
    mean, std = about.get("image_mean", [0.5] * 3), about.get("image_std", [0.5] * 3)
    return Classifier(model.eval(), size, tuple(mean), tuple(std), names)


def own_classifier(model: ViT) -> Classifier:
    """A classifier from this package's ViT, which takes pictures in [-1, 1]."""
    if not model.options.classes:
        raise InputError("the model has no classes to explain")
    names = {i: str(i) for i in range(model.options.classes)}
    return Classifier(model.eval(), model.options.image_size, (0.5,) * 3, (0.5,) * 3, names)


def read_picture(path: Path) -> tuple[Tensor, bool]:
    """A picture (3, H, W) in [0, 1], upright; and whether it had transparency, which is put on white.

    Raises:
        InputError: not a picture, or one too large to be taken from a stranger.
    """
    image_module = require("PIL.Image", "explanation")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            with image_module.open(path) as file:
                upright = require("PIL.ImageOps", "explanation").exif_transpose(file)
                seen = "A" in upright.getbands() or "transparency" in upright.info
                if seen:
                    rgba = upright.convert("RGBA")
                    upright = image_module.alpha_composite(image_module.new("RGBA", rgba.size, "white"), rgba)
                pixels = np.asarray(upright.convert("RGB"), dtype=np.float32) / 255
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(f"{path}: not a readable picture ({error})") from None
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), seen


def pictures_of(place: Path) -> list[Path]:
    """The picture itself, or the pictures of a folder, sorted.

    Raises:
        InputError: nothing there.
    """
    if place.is_dir():
        found = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        if not found:
            raise InputError(f"{place}: no pictures ({', '.join(SUFFIXES)})")
        return found
    if not place.is_file():
        raise InputError(f"{place}: no such file or folder")
    return [place]


def _expected() -> str:
    return "a ViT, DeiT, DINOv2 or CLIP image classifier"


def _preprocessing(name: str, folder: Path, transformers: Any) -> dict[str, Any]:
    """The model's `preprocessor_config.json`; empty where it has none."""
    if folder.is_dir():
        file = folder / "preprocessor_config.json"
        return _json(file) if file.is_file() else {}
    cached = transformers.utils.cached_file(
        name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
    )
    return _json(Path(cached)) if cached else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
    return found if isinstance(found, dict) else {}
