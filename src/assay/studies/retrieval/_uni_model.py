"""A trained hashing network in a folder: safetensors and config.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay import __version__
from assay.errors import InputError
from assay.methods.retrieval.uni_hash import UniHash
from assay.studies.retrieval._uni_arms import network, setting_of
from assay.studies.retrieval._uni_features import Extractor
from assay.studies.retrieval._uni_files import Files

PAPER = "2601.09828"
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Stored:
    """A network with what its input needs.

    Attributes:
        extractor: features of pictures.
        model: the network.
        mean, scale: `(D,)` of the features, taken off and divided by.
        code: which codes are searched: both, centre or pair.
        classes: names of the classes it was trained on.
        key: hash of weights and features: codes of models with different keys cannot be compared.
    """

    extractor: Extractor
    model: UniHash
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    code: str
    classes: tuple[str, ...]
    key: str = ""

    def rows(self, items: NDArray[np.float32]) -> Tensor:
        """Features as the network takes them."""
        return torch.from_numpy((items - self.mean) / self.scale)

    def codes(self, files: Files) -> NDArray[np.uint8]:
        """Packed codes of pictures, `(N, q/8)`."""
        return self.codes_of(self.extractor.stream(files.pictures, len(files.names)))

    def codes_of(self, items: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Packed codes of features `(N, D)`."""
        return self.model.codes(self.rows(items), self.code)


def save_model(folder: Path, stored: Stored) -> str:
    """Write the folder; returns the key of the model."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.contiguous() for name, value in stored.model.state_dict().items()}
    tensors |= {"mean": torch.from_numpy(stored.mean), "scale": torch.from_numpy(stored.scale)}
    save_file(tensors, folder / WEIGHTS)
    heads = stored.model.heads
    config = {
        "paper": PAPER, "version": __version__, "bits": stored.model.q, "features": stored.extractor.kind,
        "inputs": len(stored.mean), "code": stored.code, "classes": stored.classes,
        "experts": 0 if heads.pool is None else len(heads.pool.bias),
        "top": 0 if heads.gate_centre is None else heads.gate_centre.top,
    }  # fmt: skip
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return key_of(folder, stored.extractor, stored.code)


def load_model(folder: Path) -> Stored:
    """What `save_model` wrote.

    Raises:
        InputError: not such a folder, or features that cannot be had here.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("paper") != PAPER:
            raise InputError(f"{folder}: config.json is of paper {config.get('paper')}, expected {PAPER}")
        tensors = load_file(folder / WEIGHTS)
        classes = tuple(str(name) for name in config["classes"])
        how = replace(setting_of("unihash"), experts=int(config["experts"]), top=int(config["top"]))
        model = network(how, int(config["inputs"]), int(config["bits"]), len(classes)).eval()
        mean, scale = tensors.pop("mean").numpy(), tensors.pop("scale").numpy()
        model.load_state_dict(tensors)
        if len(mean) != config["inputs"] or len(scale) != len(mean) or config["code"] not in ("both", "centre", "pair"):
            raise InputError(f"{folder}: {CONFIG} and {WEIGHTS} do not belong together")
        kind, code = str(config["features"]), str(config["code"])
    except InputError:
        raise
    except Exception as error:  # json, safetensors and torch each raise their own for damaged files
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder}: expected a model folder written by train ({words})") from None
    extractor = Extractor(kind)
    return Stored(extractor, model, mean, scale, code, classes, key_of(folder, extractor, code))


def key_of(folder: Path, extractor: Extractor, code: str) -> str:
    """Hash of the weights, of the features and of the branch that is searched."""
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes())
    digest.update(f"\n{extractor.key()}\n{code}".encode())
    return digest.hexdigest()[:32]
