"""The full scale: COCO's captions of 2017 and Fashion-IQ's edits through published two-tower models.

The folder given as --data:

    annotations/captions_train2017.json, captions_val2017.json    COCO, official
    train2017/, val2017/                                          its pictures
    fashion-iq/captions/cap.<kind>.val.json                       optional, for edits: dress, shirt, toptee
    fashion-iq/image_splits/split.<kind>.val.json
    fashion-iq/images/<id>.jpg (or .png)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.errors import InputError
from assay.nn.clip_towers import ClipTowers
from assay.studies.vision_language._iso_emoji import Embedded
from assay.studies.vision_language._iso_files import open_picture, read_captions

GARMENTS = ("dress", "shirt", "toptee")
CHUNK = 256


@dataclass(frozen=True)
class Published:
    """A model and the weight of the penalty that the paper's code has for it."""

    name: str
    beta: float


MODELS = (
    Published("openai/clip-vit-base-patch32", 4e-4),
    Published("openai/clip-vit-large-patch14", 1e-4),
    Published("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 4e-4),
    Published("google/siglip-base-patch16-224", 1e-4),
    Published("google/siglip2-base-patch16-224", 7e-5),
)


def embed_coco(data: Path, seed: int, device: str = "cpu", model: str | None = None) -> Embedded:
    """Embeddings of COCO's pairs (validation: one caption a picture) and, where they are there, Fashion-IQ's edits.

    Args:
        seed: chooses the model, in turn.
        model: another one, by id or folder.

    Raises:
        InputError: files missing, or a model that cannot be loaded.
    """
    towers = ClipTowers(model or MODELS[seed % len(MODELS)].name, device)
    sides = []
    for part in ("train2017", "val2017"):
        pairs = read_captions(data / "annotations" / f"captions_{part}.json")
        if part == "val2017":
            pairs = list({name: (name, text) for name, text in reversed(pairs)}.values())[::-1]
        names = list(dict.fromkeys(name for name, _ in pairs))
        row = {name: i for i, name in enumerate(names)}
        img = _pictures(towers, [data / part / name for name in names])
        sides += [img[[row[name] for name, _ in pairs]], towers.encode_text([text for _, text in pairs])]
    if not (data / "fashion-iq").is_dir():
        return Embedded(*sides)
    return Embedded(*sides, *_edits(towers, data / "fashion-iq"))


def _edits(towers: ClipTowers, folder: Path) -> tuple[Tensor, Tensor, Tensor, Any, Any]:
    """Reference pictures, words, gallery, target and reference rows of Fashion-IQ's validation queries.

    The galleries of the three kinds of garment are joined, which is harder than the official three of their own.
    """
    names: list[str] = []
    queries: list[tuple[str, str, str]] = []
    for kind in GARMENTS:
        captions = folder / "captions" / f"cap.{kind}.val.json"
        if not captions.is_file():
            continue
        names += _json(folder / "image_splits" / f"split.{kind}.val.json")
        queries += [(q["candidate"], " and ".join(q["captions"]), q["target"]) for q in _json(captions)]
    names = list(dict.fromkeys(name for name in names if _picture(folder, name)))
    row = {name: i for i, name in enumerate(names)}
    queries = [query for query in queries if query[0] in row and query[2] in row]
    if not queries:
        raise InputError(f"{folder}: no query whose pictures are there; expected captions/, image_splits/ and images/")
    gallery = _pictures(towers, [_picture(folder, name) or folder for name in names])
    ref = np.array([row[q[0]] for q in queries])
    words = towers.encode_text([q[1] for q in queries])
    return gallery[ref], words, gallery, np.array([row[q[2]] for q in queries]), ref


def _picture(folder: Path, name: str) -> Path | None:
    return next((p for s in (".jpg", ".png") if (p := folder / "images" / f"{name}{s}").is_file()), None)


def _pictures(towers: ClipTowers, files: Sequence[Path]) -> Tensor:
    parts = [files[i : i + CHUNK] for i in range(0, len(files), CHUNK)]
    return torch.cat([towers.encode_image([open_picture(file) for file in part]) for part in parts])


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not readable as JSON ({error})") from None
