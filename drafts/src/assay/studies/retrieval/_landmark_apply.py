"""Landmark subspace clustering on a user's files: what is read, what is written, and the stored model."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from assay import __version__
from assay.data.image.coil import mat_variables, numeric_matrix, read_mat
from assay.data.image.contact_sheet import Card, write_contact_sheet
from assay.data.image.folder import IMAGE_SUFFIXES, DataError, load_image, read_array
from assay.errors import InputError, require
from assay.methods.retrieval.landmark_subspace import (
    ConvAE,
    Landmarks,
    SDSNet,
    SpectralFactor,
    Training,
    choose_landmarks,
    estimate_clusters,
    factor_spectral,
    landmark_codes,
    latents_of,
    pretrain,
    select_codes,
    unexpressed,
    unit_rows,
)

PAPER = "2512.21434"
RIDGES, KEPT = (0.1, 0.3, 1.0), (3, 5)
SHOWN = 60
MODEL_TENSORS = ("landmarks", "projection", "centres", "singular_values")


@dataclass(frozen=True)
class Given:
    """A user's samples.

    Attributes:
        names: file or row of each sample.
        inputs: pictures `(n, C, H, W)` in [0, 1] or rows `(n, D)`.
        paths: files of the pictures; None for a matrix.
        constant: names of pictures of a single colour, left out.
    """

    names: list[str]
    inputs: NDArray[np.float32]
    paths: list[Path] | None
    constant: list[str]


def cluster_files(
    samples: Path, out: Path, *, k: int | None, m: int | None, auto_k: bool, largest_k: int, features: str | None,
    size: int, colour: bool, epochs: int, model: Path | None, seed: int,
) -> str:  # fmt: skip
    """What `assay apply 2512.21434` does; arguments as there.

    Raises:
        InputError: files or options that cannot be used.
    """
    if model is not None:
        stored = load_model(model)
        given = read_samples(samples, stored.size, stored.colour)
        codes = stored.codes(stored.features_of(given))
        labels, distances = stored.factor.assign(codes)
        write_results(out, given, labels, distances, {"model": str(model.name), "k": stored.k})
        return f"{len(labels)} samples placed in {stored.k} clusters{_left_out(given)}"
    _check_options(k, auto_k, largest_k, size, epochs)
    given = read_samples(samples, size, colour)
    n = len(given.names)
    most = largest_k if auto_k else int(k or 0)
    m = min(20 * most, n // 2) if m is None else m
    if not m < n:
        raise InputError(f"--m {m}: expected fewer landmarks than the {n} samples")
    if not most < m:
        what = "--largest-k" if auto_k else "--k"
        raise InputError(f"{what} {most}: expected fewer clusters than the {m} landmarks of {n} samples")
    kind = features or ("ae" if given.inputs.ndim == 4 else "raw")
    extractor = Extractor(kind, given.inputs.shape[1:])
    if kind == "ae":
        z, landmarks = learn(extractor, given, most, m, epochs, seed)
    else:
        z = extractor(given)
        landmarks = choose_landmarks(z, m, seed=seed)
    try:
        if auto_k:
            first = factor_spectral(landmark_codes(z, landmarks.points, RIDGES[1], KEPT[0]), 2, seed, 1)
            k = estimate_clusters(first.singular_values, largest_k)
        assert k is not None
        lam, kept, _ = select_codes(z, landmarks, k, RIDGES, KEPT, seed)
        factor = factor_spectral(landmark_codes(z, landmarks.points, lam, kept), k, seed)
    except ValueError as error:
        raise InputError(f"{samples}: these samples cannot be clustered so: {error}") from None
    alone = unexpressed(z, landmarks.points, lam)
    found = Stored(extractor, landmarks, factor, lam, kept, size, colour)
    distances = factor.assign(landmark_codes(z, landmarks.points, lam, kept))[1]
    facts = {"k": k, "m": m, "features": kind, "ridge": lam, "kept": kept, "nearest_landmark_only": alone}
    write_results(out, given, factor.labels, distances, facts)
    save_model(out / "model", found)
    sizes = np.bincount(factor.labels, minlength=k)
    return f"{n} samples, {k} clusters of {sizes.min()} to {sizes.max()}, {m} landmarks{_left_out(given)}"


def learn(
    extractor: Extractor, given: Given, k: int, m: int, epochs: int, seed: int
) -> tuple[NDArray[np.float32], Landmarks]:
    """Train the autoencoder, jointly where `epochs` is not 0; latents and landmarks."""
    torch.manual_seed(seed)
    extractor.build()
    inputs = torch.from_numpy(given.inputs)
    pretrain(extractor.network, inputs, Training.pretrain_epochs, seed=seed)
    if not epochs:
        z = extractor(given)
        return z, choose_landmarks(z, m, seed=seed)
    net = SDSNet(extractor.network, k, m, Training(joint_epochs=epochs), seed).join(inputs)
    return net.latents(inputs), net.landmarks


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


def read_samples(samples: Path, size: int, colour: bool) -> Given:
    """A folder of pictures or a matrix.

    Raises:
        InputError: nothing there, unreadable files, or values that are not finite.
    """
    if samples.is_dir():
        return _read_pictures(samples, size, colour)
    if not samples.is_file():
        raise InputError(f"{samples}: no such file or folder; expected a folder of pictures, .npy, .csv or .mat")
    suffix = samples.suffix.lower()
    if suffix == ".mat":
        variables = mat_variables(samples)
        if "fea" in variables or "Y" in variables:
            images = read_mat(samples).images
            return _without_constant([f"picture {i}" for i in range(len(images))], images[:, None], None)
        matrices = {name: a for name, a in variables.items() if a.ndim == 2 and min(a.shape) > 1}
        if len(matrices) != 1:
            names = ", ".join(sorted(matrices)) or "none"
            raise InputError(f"{samples}: expected the variable fea or one matrix, found {names}")
        name, found = next(iter(matrices.items()))
        rows = numeric_matrix(found, samples, name).astype(np.float32)
    elif suffix == ".npy":
        try:
            rows = read_array(samples)
        except DataError as error:
            raise InputError(str(error)) from None
    elif suffix == ".csv":
        rows = _read_csv(samples)
    else:
        raise InputError(f"{samples}: expected a folder of pictures, .npy, .csv or .mat")
    if len(rows) < 4:
        raise InputError(f"{samples}: {len(rows)} rows are too few to cluster")
    return Given([f"row {i}" for i in range(len(rows))], rows, None, [])


def write_results(
    out: Path, given: Given, labels: NDArray[np.integer], distances: NDArray[np.floating], facts: dict[str, Any]
) -> None:
    """labels.csv, report.json and a contact sheet per cluster of pictures."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "cluster", "distance"])
        for name, label, distance in zip(given.names, labels, distances, strict=True):
            table.writerow([_plain_cell(name), int(label), f"{distance:.5f}"])
    sizes = np.bincount(labels, minlength=int(facts["k"])).tolist()
    report = {**facts, "paper": PAPER, "samples": len(labels), "cluster_sizes": sizes, "constant": given.constant}
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if given.inputs.ndim != 4:
        return
    for cluster in np.unique(labels):
        members = np.flatnonzero(labels == cluster)
        order = members[np.argsort(distances[members], kind="stable")]
        cards = [
            Card(_three(given.inputs[i]), given.names[i], (f"distance {distances[i]:.3f}",)) for i in order[:SHOWN]
        ]
        text = f"{len(members)} pictures, the nearest to the centre first" + (
            f"; the first {SHOWN} are shown" if len(members) > SHOWN else ""
        )
        write_contact_sheet(out / f"cluster_{cluster:03d}.html", f"Cluster {cluster}", text, cards)


def _read_pictures(root: Path, size: int, colour: bool) -> Given:
    files = sorted(
        path for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )  # fmt: skip
    outside = next((path for path in files if not path.resolve().is_relative_to(root.resolve())), None)
    if outside is not None:
        raise InputError(f"{outside}: a link that leads out of {root}")
    if len(files) < 4:
        raise InputError(f"{root}: found {len(files)} pictures ({', '.join(IMAGE_SUFFIXES)}); at least 4 are expected")
    images = []
    for file in files:
        try:
            image = load_image(file, size)
        except DataError as error:
            raise InputError(str(error)) from None
        images.append(image if colour else image.mean(axis=0, keepdims=True))
    names = [path.relative_to(root).as_posix() for path in files]
    return _without_constant(names, np.stack(images), files)


def _without_constant(names: list[str], images: NDArray[np.float32], paths: list[Path] | None) -> Given:
    """Pictures of one colour say nothing of a subspace: they are listed and left out."""
    flat = images.reshape(len(images), -1)
    kept = np.flatnonzero(np.ptp(flat, axis=1) > 1e-4)
    constant = [name for i, name in enumerate(names) if i not in set(kept.tolist())]
    if len(kept) < 4:
        listed = ", ".join(constant[:5])
        raise InputError(f"{len(constant)} of {len(names)} pictures have a single colour ({listed}); 4 others expected")
    return Given([names[i] for i in kept], images[kept], paths and [paths[i] for i in kept], constant)


def _read_csv(file: Path) -> NDArray[np.float32]:
    """A numeric matrix; a first line that holds a name is taken as the header."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            lines = [row for row in csv.reader(handle) if row]
        header = bool(lines) and not all(_is_number(cell) for cell in lines[0])
        rows = np.array([[float(cell) for cell in row] for row in lines[header:]], dtype=np.float64)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise InputError(f"{file}: expected numbers, the same count in every row ({error})") from None
    return numeric_matrix(rows, file, "the table").astype(np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _plain_cell(text: str) -> str:
    """A file name that a spreadsheet does not take for a formula."""
    return f"'{text}" if re.match(r"[=+@\-\t\r]", text) else text


def _three(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.repeat(image, 3, axis=0) if image.shape[0] == 1 else image


def _left_out(given: Given) -> str:
    if not given.constant:
        return ""
    return f"; left out as of a single colour: {', '.join(given.constant[:5])}" + (
        f" and {len(given.constant) - 5} more" if len(given.constant) > 5 else ""
    )


def _check_options(k: int | None, auto_k: bool, largest_k: int, size: int, epochs: int) -> None:
    if auto_k == (k is not None):
        raise InputError("give exactly one of --k and --auto-k")
    if k is not None and k < 2:
        raise InputError(f"--k {k}: expected at least 2 clusters")
    if auto_k and largest_k < 3:
        raise InputError(f"--largest-k {largest_k}: expected at least 3")
    if not 8 <= size <= 512:
        raise InputError(f"--size {size}: expected 8 to 512 pixels")
    if epochs < 0:
        raise InputError(f"--epochs {epochs}: expected 0 or more")
