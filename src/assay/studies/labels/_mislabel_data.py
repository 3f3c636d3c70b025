"""What the study of mislabel detection trains on, and how: samples, noise, networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from assay.data.image.endoscopy import CLASSES, read_galar, read_kvasir_capsule, simulate_videos
from assay.data.image.folder import DataError, ImageRows
from assay.data.label_noise import boundary_noise, pair_noise, symmetric_noise
from assay.errors import InputError, require
from assay.methods.labels.mislabel import Scores, group_folds
from assay.nn.convnet import ConvNet

BACKBONE = "facebook/convnextv2-nano-22k-224"  # full scale, unless the data folder holds one as backbone/
CONFUSED_DIGITS = ((1, 7), (3, 8), (4, 9))
CONFUSED_FINDINGS = ("angiectasia", "erosion")


@dataclass(frozen=True)
class Size:
    """How much of everything a scale uses."""

    digits: int
    videos: int
    frames: int
    pixels: int
    epochs: int


SIZES = {
    "smoke": Size(digits=300, videos=24, frames=12, pixels=24, epochs=3),
    "pocket": Size(digits=1200, videos=90, frames=14, pixels=40, epochs=12),
    "full": Size(digits=1200, videos=0, frames=0, pixels=224, epochs=12),
}


@dataclass
class Case:
    """One condition of one seed: samples with given and true labels, and what the networks say of them.

    Attributes:
        inputs, test_inputs: tensors, or rows read from files.
        given, true: (N,) labels; test: (M,) true labels of the test samples.
        groups: (N,); video, frame: (N,) or None for still images.
        normal: class that is no finding, or None.
    """

    kind: str
    inputs: Any
    test_inputs: Any
    given: np.ndarray
    true: np.ndarray
    test: np.ndarray
    groups: np.ndarray
    classes: tuple[str, ...]
    video: np.ndarray | None = None
    frame: np.ndarray | None = None
    normal: int | None = None
    scores: Scores | None = None
    plain: np.ndarray | None = None  # test probabilities of the network trained on the given labels
    plain_loss: np.ndarray | None = None  # its training losses, (epochs, N)

    @property
    def wrong(self) -> np.ndarray:
        return self.given != self.true


def load(kind: str, seed: int, scale: str, data: Path | None = None) -> Case:
    """Samples with true labels: `"digits"` or `"capsule"` (from files at full scale)."""
    size = SIZES[scale]
    rng = np.random.default_rng([seed, 1])
    if kind == "digits":
        digits = load_digits()
        order = rng.permutation(len(digits.target))
        images = torch.tensor(digits.images[order, None] / 16, dtype=torch.float32)
        labels = digits.target[order].astype(np.int64)
        n = size.digits
        names = tuple(str(c) for c in range(10))
        return Case(kind, images[:n], images[n:], labels[:n], labels[:n], labels[n:], np.arange(n), names)
    if scale == "full":
        return _load_release(seed, size, data)
    train, test = (
        simulate_videos(size.videos, rng, frames=size.frames, size=size.pixels, abnormal=0.3) for _ in range(2)
    )
    inputs, held = normalise(torch.from_numpy(train.images)), normalise(torch.from_numpy(test.images))
    y = train.labels
    return Case(kind, inputs, held, y, y, test.labels, train.video, CLASSES, train.video, train.frame, normal=0)


def _load_release(seed: int, size: Size, data: Path | None) -> Case:
    """Kvasir-Capsule or Galar in its official layout, a third of the videos held out."""
    if data is None:
        raise InputError(
            "full scale needs --data FOLDER with Kvasir-Capsule (labelled_images/) or Galar (Frames/, Labels/)"
        )
    try:
        table = read_galar(data, every=10) if (data / "Labels").is_dir() else read_kvasir_capsule(data)
    except DataError as error:
        raise InputError(str(error)) from None
    fold = group_folds(table.group, 3, seed, table.labels)
    train, test = np.nonzero(fold != 0)[0], np.nonzero(fold == 0)[0]
    images = NormalisedRows(ImageRows(table, size.pixels))
    y = table.labels
    return Case(
        "release",
        torch.utils.data.Subset(images, train.tolist()),
        torch.utils.data.Subset(images, test.tolist()),
        y[train],
        y[train],
        y[test],
        table.group[train],
        table.classes,
        table.video[train],
        table.frame[train],
        normal=next((i for i, name in enumerate(table.classes) if name.lower().startswith("normal")), None),
    )


def add_noise(case: Case, noise: str, seed: int) -> Case:
    """The same samples with some labels wrong."""
    rng = np.random.default_rng([seed, 2])
    y = case.true
    if noise.startswith("sym"):
        given = symmetric_noise(y, int(noise[3:]) / 100, len(case.classes), rng)
    elif noise == "pair":
        given = pair_noise(y, _pairs(case), 0.3, rng)
    elif noise == "boundary":
        given = boundary_noise(y, case.video, case.frame, 0.5, rng)
    else:
        given = y.copy()
    return replace(case, given=given)


def _pairs(case: Case) -> list[tuple[int, int]]:
    if case.kind == "digits":
        return list(CONFUSED_DIGITS)
    lower = [name.lower() for name in case.classes]
    wanted = CONFUSED_FINDINGS if all(name in lower for name in CONFUSED_FINDINGS) else lower[:2]
    return [(lower.index(wanted[0]), lower.index(wanted[1]))]


def normalise(images: Tensor) -> Tensor:
    """Each image to mean 0 in every channel and standard deviation 1: (B, C, H, W) or (C, H, W).

    Mucosa differs more between patients than findings differ from mucosa.
    """
    centred = images - images.mean(dim=(-2, -1), keepdim=True)
    normal = centred / centred.std(dim=(-3, -2, -1), keepdim=True).clamp_min(1e-4)
    return normal.contiguous(memory_format=torch.channels_last) if normal.ndim == 4 else normal


class NormalisedRows(torch.utils.data.Dataset):
    """Rows of images, each normalised as it is read."""

    def __init__(self, images: ImageRows) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        return normalise(self.images[row])


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to one pixel either way."""
    side = images.shape[-1]
    windows = nn.functional.pad(images, (1, 1, 1, 1)).unfold(2, side, 1).unfold(3, side, 1)  # (B, C, 3, 3, side, side)
    dy, dx = torch.randint(0, 3, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, dy, dx]


def turn(images: Tensor, generator: torch.Generator) -> Tensor:
    """A quarter turn of the whole batch, a mirror image of half of it, contrast within 10 %."""
    quarter = int(torch.randint(0, 4, (1,), generator=generator))
    turned = torch.rot90(images, quarter, (2, 3)).contiguous(memory_format=torch.channels_last)
    mirror = torch.rand(len(images), generator=generator) < 0.5
    contrast = 0.9 + 0.2 * torch.rand(len(images), 1, 1, 1, generator=generator)
    turned[mirror] = turned[mirror].flip(3)
    return turned * contrast


def recipe(case: Case, scale: str, device: str, data: Path | None = None) -> dict[str, Any]:
    """How a network is built and trained for a case; the same for every arm."""
    classes, epochs = len(case.classes), SIZES[scale].epochs
    if case.kind == "release":
        local = data / "backbone" if data is not None and (data / "backbone").is_dir() else BACKBONE
        make = lambda: pretrained(str(local), classes)  # noqa: E731
        return {
            "make_model": make,
            "epochs": 4,
            "learning_rate": 1e-4,
            "batch_size": 32,
            "augment": turn,
            "device": device,
        }
    if case.kind == "digits":
        return {"make_model": lambda: ConvNet(1, classes), "epochs": epochs, "augment": shift, "device": device}
    return {"make_model": lambda: small_net(3, classes), "epochs": epochs, "augment": turn, "device": device}


def small_net(channels: int, classes: int) -> nn.Module:
    """The classifier of small frames: a finding is small, so the maps are pooled by maximum."""
    net = ConvNet(channels, classes, stem_stride=2, pool="max")
    return net.to(memory_format=torch.channels_last)


class Logits(nn.Module):
    """A transformers classifier as a module that returns logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(pixel_values=images).logits


def pretrained(name: str, classes: int) -> nn.Module:
    """A Hugging Face image classifier by id or local folder, with a new head; weights from safetensors only.

    Raises:
        InputError: no such model, or one without safetensors weights.
    """
    transformers = require("transformers", "labels")
    try:
        network = transformers.AutoModelForImageClassification.from_pretrained(
            name, num_labels=classes, ignore_mismatched_sizes=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise InputError(f"{name}: not an image classifier of Hugging Face with safetensors weights ({line})") from None
    return Logits(network)
