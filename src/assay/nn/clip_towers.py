"""Published two-tower models, CLIP and SigLIP, by Hugging Face id or from a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.errors import InputError, require

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("clip", "siglip", "siglip2", "chinese_clip", "metaclip_2", "vision-text-dual-encoder")


class ClipTowers:
    """A pretrained pair of towers with its tokenizer and its image processor.

    Weights are read as safetensors only. Needs `transformers` and Pillow.

    Args:
        name: Hugging Face id, such as `"openai/clip-vit-base-patch32"`, or a folder in that format.
        device: where to compute.
        extra: the extra of Assay that a missing library is asked from.

    Attributes:
        model: the network, in eval mode, for those who train it.

    Raises:
        InputError: nothing there, another kind of model, or files missing from it.
        MissingExtra: a library is not installed.
    """

    def __init__(self, name: str | Path, device: str = "cpu", extra: str = "vision_language") -> None:
        transformers = require("transformers", extra)
        require("PIL", extra)
        self.name, self.device = str(name), device
        progress = transformers.utils.logging
        shown, loud = progress.is_progress_bar_enabled(), progress.get_verbosity()
        progress.disable_progress_bar()
        progress.set_verbosity_error()
        try:
            config = transformers.AutoConfig.from_pretrained(self.name)
            if config.model_type not in KINDS:
                raise InputError(
                    f"model {name}: a {config.model_type} model has no two towers; expected {', '.join(KINDS[:3])}"
                )
            self.model: nn.Module = transformers.AutoModel.from_pretrained(self.name, use_safetensors=True)
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.name)
            self.processor: Any = transformers.AutoImageProcessor.from_pretrained(self.name)
        except InputError:
            raise
        except Exception as error:  # transformers raises many kinds for ids and folders that do not fit
            words = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"model {name}: cannot be loaded ({words})") from None
        finally:
            progress.set_verbosity(loud)
            if shown:
                progress.enable_progress_bar()
        self.model.to(device).eval()
        text = getattr(config, "text_config", config)
        # SigLIP was trained on texts padded to full length and reads the padding too; CLIP does not.
        self._padded = config.model_type.startswith("siglip")
        self._longest = int(getattr(text, "max_position_embeddings", 77))

    @property
    def scale(self) -> float:
        """exp(logit_scale) of the model, 1 where it has none."""
        found = getattr(self.model, "logit_scale", None)
        return 1.0 if found is None else float(found.detach().exp())

    def encode_image(self, images: Sequence[Image], batch: int = 32) -> Tensor:
        """Unit rows `(n, D)` of Pillow pictures of any mode, on the CPU; transparency is put on white."""
        return self._all([_opaque(image) for image in images], batch, self._image)

    def encode_text(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """Unit rows `(n, D)`, on the CPU; what is longer than the model reads is cut."""
        return self._all(list(texts), batch, self._text)

    @torch.inference_mode()
    def _all(self, items: list[Any], batch: int, encode: Any) -> Tensor:
        if not items:
            raise ValueError("nothing to encode")
        rows = [F.normalize(encode(items[i : i + batch]).float(), dim=1).cpu() for i in range(0, len(items), batch)]
        return torch.cat(rows).clone()

    def _image(self, part: list[Any]) -> Tensor:
        return _pooled(self.model.get_image_features(**self.processor(part, return_tensors="pt").to(self.device)))

    def _text(self, part: list[str]) -> Tensor:
        tokens = self.tokenizer(
            part, padding="max_length" if self._padded else True, truncation=True, max_length=self._longest,
            return_tensors="pt",
        ).to(self.device)  # fmt: skip
        mask = {} if self._padded else {"attention_mask": tokens["attention_mask"]}
        return _pooled(self.model.get_text_features(input_ids=tokens["input_ids"], **mask))


def _pooled(found: Any) -> Tensor:
    """Features of transformers 5 (an output with `pooler_output`) and of 4 (the tensor itself)."""
    return found if isinstance(found, Tensor) else found.pooler_output


def _opaque(image: Image) -> Image:
    from PIL import Image as Pillow

    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Pillow.alpha_composite(Pillow.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
