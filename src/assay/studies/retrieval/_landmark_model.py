"""Features of a user's samples, and a stored clustering that places new ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from assay import __version__
from assay.errors import InputError, require
from assay.methods.retrieval.landmark_subspace import (
    ConvAE,
    Landmarks,
    SpectralFactor,
    landmark_codes,
    latents_of,
    unit_rows,
)
from assay.studies.retrieval._landmark_files import Given

PAPER = "2512.21434"
MODEL_TENSORS = ("landmarks", "projection", "centres", "singular_values")


class Extractor:
    """Unit feature rows of samples: raw, an autoencoder's latents, or a Hugging Face vision model's embeddings."""

    network: Any

    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        pictures = len(shape) == 3
        if kind not in ("raw", "ae") and not (kind.startswith("hf:") and len(kind) > 3):
            raise InputError(f"--features {kind}: expected raw, ae or hf:NAME")
        if kind != "raw" and not pictures:
            raise InputError(f"--features {kind} is for pictures; a matrix is clustered as it is (--features raw)")
        self.kind, self.shape = kind, tuple(int(side) for side in shape)
        if kind.startswith("hf:"):
            transformers = require("transformers", "retrieval")
            try:
                self.network = transformers.AutoModel.from_pretrained(kind[3:], use_safetensors=True).eval()
                self.processor = transformers.AutoImageProcessor.from_pretrained(kind[3:])
            except (OSError, ValueError) as error:
                raise InputError(f"--features {kind}: {str(error).splitlines()[0]}") from None

    def build(self) -> nn.Module:
        """A fresh autoencoder for the shape."""
        self.network = ConvAE(self.shape)
        return self.network

    def __call__(self, given: Given) -> NDArray[np.float32]:
        """Rows `(n, p)` of unit length."""
        if self.kind == "raw":
            return unit_rows(given.inputs.reshape(len(given.inputs), -1))
        if self.kind == "ae":
            return latents_of(self.network, torch.from_numpy(given.inputs))
        rows = []
        with torch.no_grad():
            for start in range(0, len(given.inputs), 32):
                part = given.inputs[start : start + 32]
                part = np.repeat(part, 3, axis=1) if part.shape[1] == 1 else part
                pixels = self.processor(list(part), return_tensors="pt", do_rescale=False)
                found = self.network(**pixels)
                pooled = getattr(found, "pooler_output", None)
                pooled = found.last_hidden_state[:, 0] if pooled is None else pooled
                rows.append(pooled.flatten(1).numpy())
        return unit_rows(np.concatenate(rows))


@dataclass(frozen=True)
class Stored:
    """A clustering that places new samples."""

    extractor: Extractor
    landmarks: Landmarks
    factor: SpectralFactor
    lam: float
    kept: int | None
    size: int
    colour: bool

    @property
    def k(self) -> int:
        return len(self.factor.centres)

    def features_of(self, given: Given) -> NDArray[np.float32]:
        """Rows as the model was fitted on.

        Raises:
            InputError: samples of another shape.
        """
        shape = given.inputs.shape[1:]
        if shape != self.extractor.shape:
            raise InputError(f"the model was fitted on samples of shape {self.extractor.shape}, these have {shape}")
        return self.extractor(given)

    def codes(self, z: NDArray[np.float32]) -> Any:
        return landmark_codes(z, self.landmarks.points, self.lam, self.kept)


def save_model(folder: Path, found: Stored) -> None:
    """model.safetensors with landmarks, factor and network, and config.json."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    tensors = {
        "landmarks": found.landmarks.points,
        "projection": found.factor.projection,
        "centres": found.factor.centres,
        "singular_values": found.factor.singular_values,
    }
    if found.extractor.kind == "ae":
        state = found.extractor.network.state_dict()
        tensors |= {f"network.{name}": value.cpu().numpy() for name, value in state.items()}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")
    config = {
        "paper": PAPER, "version": __version__, "features": found.extractor.kind, "shape": list(found.extractor.shape),
        "ridge": found.lam, "kept": found.kept, "size": found.size, "colour": found.colour,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_model(folder: Path) -> Stored:
    """What `save_model` wrote.

    Raises:
        InputError: not such a folder.
    """
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = load_file(folder / "model.safetensors")
        if config.get("paper") != PAPER or any(name not in tensors for name in MODEL_TENSORS):
            raise InputError(f"{folder}: not a model of {PAPER}")
        extractor = Extractor(str(config["features"]), tuple(config["shape"]))
        if extractor.kind == "ae":
            state = {n.removeprefix("network."): torch.from_numpy(v) for n, v in tensors.items() if "network." in n}
            extractor.build().load_state_dict(state)
        factor = SpectralFactor(
            labels=np.empty(0, np.int64), embedding=np.empty((0, 0)), singular_values=tensors["singular_values"],
            projection=tensors["projection"], centres=tensors["centres"],
        )  # fmt: skip
        kept = None if config["kept"] is None else int(config["kept"])
        return Stored(
            extractor, Landmarks(tensors["landmarks"]), factor, float(config["ridge"]), kept, int(config["size"]),
            bool(config["colour"]),
        )  # fmt: skip
    except InputError:
        raise
    except Exception as error:  # json, safetensors and torch each raise their own for damaged files
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder}: expected a model/ folder of an earlier run ({words})") from None
