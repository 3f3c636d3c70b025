"""Sentence encoders for criteria that need a pretrained model, their vectors kept on disk by the sentence's hash."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from assay.nn.text import SentenceEncoder

FIRST_TOKEN = "first-token:"


def sentence_encoder(name: str, cache: Path | None = None) -> SentenceEncoder:
    """`minilm` for the weights that the extra `semantic` carries, `first-token:MODEL` for the state of a model's first
    token (as the paper takes BioBERT's), any other name for a model's mean token. A model is a folder or an id.
    """
    where = cache or cache_folder()
    if name.startswith(FIRST_TOKEN):
        return FirstToken(name.removeprefix(FIRST_TOKEN), cache=where)
    return SentenceEncoder(None if name == "minilm" else name, cache=where, longest=128)


def cache_folder() -> Path:
    """`sentences/` among the local results."""
    if os.environ.get("ASSAY_HOME"):
        return Path(os.environ["ASSAY_HOME"]).expanduser().resolve() / "sentences"
    from platformdirs import user_data_path

    return user_data_path("assay", appauthor=False) / "sentences"


class FirstToken(SentenceEncoder):
    """The last hidden state of a sentence's first token, (N, D)."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        import torch

        tokenizer, network = self._load()
        rows = []
        for start in range(0, len(texts), self.batch):
            batch = tokenizer(
                list(texts[start : start + self.batch]),
                padding=True, truncation=True, max_length=self.longest, return_tensors="pt",
            ).to(self.device)  # fmt: skip
            with torch.inference_mode():
                rows.append(network(**batch).last_hidden_state[:, 0].float().cpu().numpy())
        return np.concatenate(rows)

    def _key(self, text: str) -> str:
        return super()._key(f"{FIRST_TOKEN}{text}")
