"""Embeddings, captions and pictures as users have them, and stored autoencoders."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay import __version__
from assay.errors import InputError, require
from assay.methods.vision_language.iso_energy_sae import Scores, SparseAutoencoder, as_rows

PAPER = "2602.06218"
EXTRA = "vision_language"
SIDES = {
    "img": ("img", "image", "images", "image_embeds", "image_features", "vision"),
    "txt": ("txt", "text", "texts", "text_embeds", "text_features", "captions"),
}
IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "filepath", "path", "img")
TEXT_COLUMNS = ("caption", "text", "title", "texts", "captions")


@dataclass(frozen=True)
class Rows:
    """Two embedding matrices and what their rows are called.

    Attributes:
        img, txt: `(n, d)` and `(m, d)` unit rows.
        img_names, txt_names: of the rows.
        pictures: file of each row of `img`; None where embeddings were given.
    """

    img: Tensor
    txt: Tensor
    img_names: list[str]
    txt_names: list[str]
    pictures: list[Path] | None = None


def read_matrix(file: Path, side: str) -> Tensor:
    """Unit rows `(n, d)` of a .npy or .safetensors file; of several tensors the one named like the side.

    Args:
        side: `img` or `txt`.

    Raises:
        InputError: no such file, another format, no such tensor, or rows that cannot be used.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; expected embeddings as .npy or .safetensors")
    try:
        if file.suffix.lower() == ".npy":
            rows: Any = np.load(file, allow_pickle=False)
            if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
                raise InputError(f"{file}: expected an array of numbers (n, d), got {getattr(rows, 'dtype', 'other')}")
        elif file.suffix.lower() == ".safetensors":
            rows = _tensor_of(file, side)
        else:
            raise InputError(f"{file}: expected embeddings as .npy or .safetensors, got {file.suffix or 'no suffix'}")
        return as_rows(rows, str(file))
    except InputError:
        raise
    except Exception as error:  # NumPy and safetensors each raise their own for damaged files
        raise InputError(f"{file}: cannot be used ({_line(error)})") from None


def _tensor_of(file: Path, side: str) -> Tensor:
    from safetensors.torch import load_file

    tables = {name: value for name, value in load_file(file).items() if value.ndim == 2}
    if len(tables) == 1:
        return next(iter(tables.values()))
    for name in SIDES[side]:
        if name in tables:
            return tables[name]
    listed = ", ".join(sorted(tables)[:5]) or "none"
    raise InputError(f"{file}: expected one matrix, or one named {SIDES[side][0]!r}; matrices in it: {listed}")


def read_captions(file: Path) -> list[tuple[str, str]]:
    """Pairs of picture and caption of a CSV or TSV with such columns, or of COCO's captions JSON.

    The name of the picture is empty where a table has captions only.

    Raises:
        InputError: not such a file, or nothing in it.
    """
    try:
        if file.suffix.lower() == ".json":
            found = json.loads(file.read_text(encoding="utf-8"))
            names = {entry["id"]: str(entry["file_name"]) for entry in found["images"]}
            pairs = [(names[entry["image_id"]], str(entry["caption"]).strip()) for entry in found["annotations"]]
        else:
            with file.open(newline="", encoding="utf-8-sig") as handle:
                table = csv.DictReader(handle, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
                header = {(name or "").strip().lower(): name for name in table.fieldnames or ()}
                text = next((header[name] for name in TEXT_COLUMNS if name in header), None)
                image = next((header[name] for name in IMAGE_COLUMNS if name in header), None)
                if text is None:
                    raise InputError(
                        f"{file}: expected a column named caption or text, the header is {','.join(header) or 'empty'}"
                    )
                pairs = [((row[image] or "").strip() if image else "", (row[text] or "").strip()) for row in table]
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{file}: expected a CSV with the columns image,caption or COCO's captions JSON "
                         f"({_line(error)})") from None  # fmt: skip
    if not pairs:
        raise InputError(f"{file}: no captions in it")
    return pairs


def embed_pairs(folder: Path, captions: Path, model: str, device: str = "cpu") -> Rows:
    """Embed pictures and their captions with a published model; a picture with several captions is several rows.

    Raises:
        InputError: files or a model that cannot be used.
    """
    from assay.nn.clip_towers import ClipTowers

    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of pictures")
    pairs = read_captions(captions)
    empty = next((i for i, (name, text) in enumerate(pairs) if not name or not text), None)
    if empty is not None:
        raise InputError(f"{captions}: row {empty + 1} has no {'picture' if not pairs[empty][0] else 'caption'}")
    names = list(dict.fromkeys(name for name, _ in pairs))
    files = [_contained(folder, name, captions) for name in names]
    towers = ClipTowers(model, device, EXTRA)
    parts = [towers.encode_image([open_picture(f) for f in files[i : i + 64]]) for i in range(0, len(files), 64)]
    drawn = dict(zip(names, torch.cat(parts), strict=True))
    places = dict(zip(names, files, strict=True))
    img = torch.stack([drawn[name] for name, _ in pairs])
    txt = towers.encode_text([text for _, text in pairs])
    return Rows(img, txt, [name for name, _ in pairs], [text for _, text in pairs], [places[n] for n, _ in pairs])


def open_picture(file: Path) -> Any:
    """A Pillow picture, upright.

    Raises:
        InputError: not a picture, or one too large to be taken from a stranger.
    """
    pillow, operations = require("PIL.Image", EXTRA), require("PIL.ImageOps", EXTRA)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(file) as image:
                image.load()
                return operations.exif_transpose(image)
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise InputError(f"{file}: not a readable picture ({_line(error)})") from None


def _contained(folder: Path, name: str, where: Path) -> Path:
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise InputError(f"{where}: the picture {name!r} leads out of {folder}")
    if not target.is_file():
        raise InputError(f"{where}: no picture {name!r} in {folder}")
    return target


def save_autoencoder(folder: Path, sae: SparseAutoencoder, scores: Scores, facts: dict[str, Any]) -> None:
    """sae.safetensors with the weights and each atom's energies, and config.json."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {name: value.contiguous() for name, value in sae.state_dict().items()}
    tensors |= {"energy_img": torch.from_numpy(scores.energy_img), "energy_txt": torch.from_numpy(scores.energy_txt)}
    save_file(tensors, folder / "sae.safetensors")
    config = {
        "paper": PAPER, "version": __version__, "d": sae.d, "k_atoms": sae.k_atoms, "k": sae.k, "kind": sae.kind,
        **facts,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_autoencoder(folder: Path) -> tuple[SparseAutoencoder, tuple[Tensor, Tensor]]:
    """What `save_autoencoder` wrote: the autoencoder and the energies of its atoms on both sides.

    Raises:
        InputError: not such a folder.
    """
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("paper") != PAPER:
            raise InputError(f"{folder}: not a model of {PAPER}")
        tensors = load_file(folder / "sae.safetensors")
        energies = tensors.pop("energy_img"), tensors.pop("energy_txt")
        sae = SparseAutoencoder(int(config["d"]), int(config["k_atoms"]), int(config["k"]), config["kind"])
        sae.load_state_dict(tensors)
        if not all(torch.isfinite(value).all() for value in tensors.values()) or len(energies[0]) != sae.k_atoms:
            raise InputError(f"{folder}: the weights are damaged")
        return sae.eval(), energies
    except InputError:
        raise
    except Exception as error:  # json, safetensors and torch each raise their own for damaged files
        raise InputError(f"{folder}: expected a model/ folder of an earlier run ({_line(error)})") from None


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
