"""Patch tokens of frozen Hugging Face transformers: ViT, DINO, DINOv2, DINOv3.

Source: DINO (2104.14294), DINOv2 (2304.07193)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.errors import InputError, require

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which all of these models were trained with
_KEYS = (".key", ".k_proj")

Features = Literal["last", "keys"]


class TokenExtractor:
    """Image `(3, H, W)` or `(1, H, W)` in [0, 1] -> tokens `(h, w, D)`, without class and register tokens.

    The image is resized so that its longer side is `size` pixels and both sides are multiples of the patch.

    Args:
        model: folder or Hugging Face id, weights as safetensors; or a transformers model.
        size: longer side in pixels.
        features: the last hidden states, or the keys of the last attention layer, as TokenCut takes them.
        device: where to compute.

    Raises:
        MissingExtra: transformers is not installed.
        InputError: the model cannot be loaded, or has no patches.
    """

    def __init__(
        self, model: str | Path | nn.Module, size: int = 448, features: Features = "last", device: str = "cpu"
    ) -> None:
        if isinstance(model, nn.Module):
            loaded: Any = model
        else:
            transformers = require("transformers", "segmentation")
            try:
                loaded = transformers.AutoModel.from_pretrained(str(model), use_safetensors=True)
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InputError(f"cannot load the model {model}: {reason}") from error
        patch = getattr(loaded.config, "patch_size", None)
        if not isinstance(patch, int) or size < 4 * patch:
            raise InputError(f"{model}: expected a vision transformer and a size of at least 4 patches, got {size} px")
        self.model = loaded.to(device).eval().requires_grad_(False)
        self.patch, self.size, self.features, self.device = patch, size, features, device
        self.interpolate = getattr(loaded.config, "model_type", "") in ("vit", "deit")
        self._key_layer = None
        if features == "keys":
            layers = [layer for name, layer in loaded.named_modules() if name.endswith(_KEYS)]
            if not layers:
                raise InputError(f"{model}: no keys of an attention layer found; use the last hidden states")
            self._key_layer = layers[-1]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of an image."""
        scale = self.size / max(height, width) / self.patch
        return max(1, math.floor(height * scale + 1e-6)), max(1, math.floor(width * scale + 1e-6))

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Tokens `(h, w, D)`, float32 on the CPU, of length 1."""
        image = image.float().expand(3, -1, -1).to(self.device)
        rows, columns = self.grid(image.shape[1], image.shape[2])
        size = (rows * self.patch, columns * self.patch)
        image = F.interpolate(image[None], size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, std = (image.new_tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
        more = {"interpolate_pos_encoding": True} if self.interpolate else {}
        held: list[Tensor] = []
        hook = self._key_layer.register_forward_hook(lambda *given: held.append(given[2])) if self._key_layer else None
        try:
            hidden = self.model((image - mean) / std, **more).last_hidden_state
        finally:
            if hook:
                hook.remove()
        tokens = held[-1] if held else hidden
        return F.normalize(tokens[0, -rows * columns :].float().cpu(), dim=-1).unflatten(0, (rows, columns))
