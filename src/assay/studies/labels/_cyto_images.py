"""What CytoCrowd's images add at full scale: a detector trained on merged boxes, a vision-language model on crops.

Neither takes part in the pocket evidence. The detector is DETR (ResNet-50, pretrained on COCO) of transformers with its
safetensors weights; its own small code prepares pictures, as the library's wants torchvision. The vision-language model
is the one the environment names (`assay.llm.from_env`); without one there is no such figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from assay import llm
from assay.data.tables.box_table import BoxTable
from assay.errors import AssayError, InputError, require
from assay.llm.messages import user
from assay.llm.model import Model
from assay.methods.labels.cyto_crowd import Aggregate, Votes
from assay.metrics.boxes import mean_average_precision

DETECTOR_ARMS = ("majority", "majority+existence", "union")
TRAINED_SHARE = 0.8
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CROPS = 500
CROP_MARGIN = 0.2


@dataclass(frozen=True)
class Training:
    """How the detector is fine-tuned; `size` is the width and height pictures are brought to."""

    model: str = "facebook/detr-resnet-50"
    revision: str = "no_timm"
    epochs: int = 30
    batch: int = 4
    learning_rate: float = 5e-5
    size: tuple[int, int] = (1333, 750)


def full_scale(
    arm: str, merged: Aggregate | Votes, gold: BoxTable, folder: Path, device: str, training: Training | None = None
) -> dict[str, float]:
    """Figures of an arm that need the images: AP50 on gold of the held-out fifth, and once the model on crops.

    Args:
        arm: detectors are trained for `DETECTOR_ARMS`, on gold and with crops for `majority`.
        merged: boxes to train on.
        gold: boxes to score on.
        folder: holds the images.
        device: of the training.
        training: its settings.

    Raises:
        InputError: an image is missing.
        MissingExtra: transformers is not installed.
    """
    if arm not in DETECTOR_ARMS:
        return {}
    training = training or Training()
    paths = [image_path(folder, name) for name in gold.image_names]
    order = np.random.default_rng(0).permutation(len(paths))
    train, test = np.split(order, [round(TRAINED_SHARE * len(order))])
    sources = {"detector_ap50": (merged.boxes, merged.labels, merged.images)}
    if arm == "majority":
        sources["detector_ap50_gold"] = (gold.boxes, gold.labels, gold.images)
    found = {}
    for name, (boxes, labels, images) in sources.items():
        model = pretrained(training, len(gold.categories))
        fine_tune(model, paths, train, boxes, labels, images, training, device)
        detected = detect(model, paths, test, training, device)
        held = np.isin(gold.images, test)
        found[name] = mean_average_precision(
            *detected[:3],
            gold.boxes[held],
            gold.labels[held],
            images=detected[3],
            gold_images=gold.images[held],
        )
    if arm == "majority" and (model := llm.from_env()) is not None:
        found["vlm_accuracy"] = crop_accuracy(model, paths, gold)
    return found


def image_path(folder: Path, name: str) -> Path:
    """The file of an image; the released files have percent signs in their names.

    Raises:
        InputError: no such file in the folder.
    """
    for candidate in (name, quote(name, safe=".")):
        path = folder / candidate
        if path.parent.resolve() == folder.resolve() and path.is_file():
            return path
    raise InputError(f"{folder}: no image {name!r}")


def pretrained(training: Training, n_classes: int) -> Any:
    """DETR with a new head for `n_classes`."""
    transformers = require("transformers", "labels")
    return transformers.DetrForObjectDetection.from_pretrained(
        training.model,
        revision=training.revision,
        num_labels=n_classes,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
    )


def fine_tune(
    model: Any,
    paths: Sequence[Path],
    train: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    images: np.ndarray,
    training: Training,
    device: str,
) -> list[float]:
    """Train a DETR on the boxes of the `train` images; returns the loss of each step."""
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=1e-4)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(training.epochs):
        for batch in np.array_split(rng.permutation(train), max(1, round(len(train) / training.batch))):
            pictures, targets = [], []
            for i in batch:
                picture, (width, height) = load(paths[i], training.size)
                rows = images == i
                middle = (boxes[rows, :2] + boxes[rows, 2:]) / 2
                shape = np.concatenate([middle, boxes[rows, 2:] - boxes[rows, :2]], axis=1)
                targets.append(
                    {
                        "class_labels": torch.tensor(labels[rows], dtype=torch.long, device=device),
                        "boxes": torch.tensor(
                            shape / (width, height, width, height), dtype=torch.float32, device=device
                        ).clamp(0, 1),
                    }
                )
                pictures.append(picture)
            loss = model(pixel_values=torch.stack(pictures).to(device), labels=targets).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimiser.step()
            losses.append(loss.item())
    return losses


@torch.no_grad()
def detect(
    model: Any, paths: Sequence[Path], test: np.ndarray, training: Training, device: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in pixels of the original images, scores, classes and images of every query on the `test` images."""
    model.to(device).eval()
    parts = []
    for i in test:
        picture, (width, height) = load(paths[i], training.size)
        out = model(pixel_values=picture[None].to(device))
        score, label = out.logits[0].softmax(-1)[:, :-1].max(-1)  # the last class is "no object"
        middle, half = out.pred_boxes[0, :, :2], out.pred_boxes[0, :, 2:] / 2
        corners = torch.cat([middle - half, middle + half], dim=1).cpu().numpy() * (width, height, width, height)
        parts.append((corners, score.cpu().numpy(), label.cpu().numpy(), np.full(len(corners), i)))
    boxes, scores, labels, images = (np.concatenate(part) for part in zip(*parts, strict=True))
    return boxes, scores, labels, images


def load(path: Path, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """A normalised picture `(3, H, W)` of the given width and height, and the original width and height."""
    with Image.open(path) as image:
        original = image.size
        small = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
    return torch.from_numpy(((small - MEAN) / DEVIATION).astype(np.float32)).permute(2, 0, 1), original


def crop_accuracy(model: Model, paths: Sequence[Path], gold: BoxTable, crops: int = CROPS) -> float:
    """Share of gold crops that a vision-language model names rightly; no usable answer is a wrong one.

    Raises:
        AssayError: not one crop was answered.
    """
    from pydantic import create_model

    classes = gold.classes
    schema = create_model("Cell", name=(Literal[tuple(classes)], ...))  # type: ignore[valid-type]
    question = "A crop of a cervical cytology slide. Which class is the cell or group in its middle? Choose one of: "
    chosen = np.random.default_rng(0).permutation(len(gold.labels))[:crops]
    asked = [[user(question + "; ".join(classes), crop(paths[gold.images[i]], gold.boxes[i]))] for i in chosen]
    answers = model.chat_many(asked, schema=schema)
    failures = [answer for answer in answers if isinstance(answer, AssayError)]
    if len(failures) == len(answers):
        raise failures[0]
    right = [
        not isinstance(answer, AssayError) and answer.parsed.name == classes[gold.labels[i]]
        for i, answer in zip(chosen, answers, strict=True)
    ]
    return float(np.mean(right))


def crop(path: Path, box: np.ndarray) -> np.ndarray:
    """The picture around a box with a margin of a fifth of its sides."""
    margin = CROP_MARGIN * np.tile(box[2:] - box[:2], 2) * (-1, -1, 1, 1)
    with Image.open(path) as image:
        limit = np.tile(image.size, 2)
        x0, y0, x1, y1 = np.clip(np.round(box + margin), 0, limit).astype(int).tolist()
        return np.asarray(image.convert("RGB").crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))))
