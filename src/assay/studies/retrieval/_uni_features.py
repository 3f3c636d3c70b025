"""Features of pictures for hashing: gradients and colours, or a frozen pretrained network."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.data.image import emoji
from assay.errors import InputError, require

Pictures = Callable[[int], Iterable[NDArray[np.float32]]]
BATCH = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Extractor:
    """Turns pictures into rows: `hog` (704 numbers of 32x32 pixels) or `hf:NAME` (a frozen vision model).

    `hf:NAME` takes a model id or a folder with safetensors: ViT, DeiT, DINOv2, Swin, ResNet, ConvNeXt, CLIP. A row is
    the class token of a transformer's last layer, the mean of a convolutional map, or CLIP's picture embedding.

    Attributes:
        kind: as given.
        size: pixels a side of the pictures it takes.

    Raises:
        InputError: another kind, or a model that cannot be loaded.
    """

    def __init__(self, kind: str, device: str = "cpu") -> None:
        if kind != "hog" and not (kind.startswith("hf:") and len(kind) > 3):
            raise InputError(f"--features {kind}: expected hog or hf:NAME (a model id or a folder)")
        self.kind, self.size, self.device = kind, emoji.SIDE, device
        self.network: Any = None
        if kind == "hog":
            require("skimage", "retrieval")
            return
        transformers = require("transformers", "retrieval")
        name = kind[3:]
        try:
            self.network = transformers.AutoModel.from_pretrained(name, use_safetensors=True).eval().to(device)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"--features {kind}: {(str(error).splitlines() or ['cannot be loaded'])[0]}") from None
        config = getattr(self.network.config, "vision_config", self.network.config)
        side = getattr(config, "image_size", None) or 224
        self.size = int(side if isinstance(side, int) else side[0])
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in normalisation(name))

    def key(self) -> str:
        """What tells this extractor from others: its kind and, of a network, a hash of its weights."""
        digest = hashlib.sha256(self.kind.encode())
        if self.network is not None:
            for name, value in sorted(self.network.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()

    def stream(self, pictures: Pictures, count: int) -> NDArray[np.float32]:
        """Rows `(count, D)` of pictures `(3, size, size)` in [0, 1], read batch by batch."""
        rows, given = [], iter(pictures(self.size))
        while len(part := list(islice(given, BATCH))):
            rows.append(self(np.stack(part)))
        found = np.concatenate(rows)
        if len(found) != count:
            raise ValueError(f"{count} pictures expected, got {len(found)}")
        return found

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows `(N, D)` of pictures `(N, 3, size, size)` in [0, 1]."""
        if self.network is None:
            pixels = np.rint(images.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
            return emoji.features(pixels)
        with torch.no_grad():
            pixels = (torch.from_numpy(np.ascontiguousarray(images)) - self.mean) / self.std
            found = self._pooled(pixels.to(self.device)).float().cpu().numpy()
        if not np.isfinite(found).all():
            raise InputError(f"--features {self.kind}: the network's features are not finite")
        return found

    def _pooled(self, pixels: Tensor) -> Tensor:
        if hasattr(self.network, "get_image_features"):
            found = self.network.get_image_features(pixel_values=pixels)
            return found if isinstance(found, Tensor) else found.pooler_output
        last = self.network(pixel_values=pixels).last_hidden_state
        if last.ndim == 4:
            return last.mean((2, 3))
        # A classifier's checkpoint holds no pooler: the class token is what it was trained on.
        has_token = any("cls_token" in name for name, _ in self.network.named_parameters())
        return last[:, 0] if has_token else last.mean(1)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of the colours a model was trained with, from its preprocessor file; ImageNet's without one."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except (OSError, ValueError):
        return IMAGENET_MEAN, IMAGENET_STD
    mean, std = found.get("image_mean", IMAGENET_MEAN), found.get("image_std", IMAGENET_STD)
    return tuple(float(v) for v in mean), tuple(float(v) for v in std)
