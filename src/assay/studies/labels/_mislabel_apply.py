"""Mislabel detection on a user's files: what is read, and what is written."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay.data.image.contact_sheet import Card, write_contact_sheet
from assay.data.image.folder import (
    DataError,
    ImageRows,
    LabelTable,
    near_duplicate_images,
    read_array,
    read_class_folders,
    read_label_table,
    read_labels,
)
from assay.errors import InputError
from assay.methods.labels.mislabel import Decision, Scores, clean, fit_one, predict
from assay.studies.labels._mislabel_data import Logits, NormalisedRows, normalise, pretrained, small_net

PAPER = "2602.06938"


@dataclass
class Samples:
    """A user's samples: what they are, and what a network is fed."""

    table: LabelTable
    inputs: Any
    images: ImageRows | None
    make_model: Any
    learning_rate: float = 3e-3
    augment: Any = None
    backbone: str = ""
    warnings: tuple[str, ...] = ()


@contextmanager
def threads_for(model: str) -> Iterator[None]:
    """One thread for small networks, whose layers run slower on many; all of them for a pretrained one."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if model else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read_stored(labels: Path, probabilities: Path) -> tuple[LabelTable, Scores]:
    """Labels and scores of a user's own model."""
    prob = read_array(probabilities, "classes")
    table = read_labels(labels, len(prob))
    if prob.shape[1] != len(table.classes):
        raise DataError(
            f"{probabilities}: {prob.shape[1]} columns, but {labels.name} names {len(table.classes)} classes "
            f"({', '.join(table.classes[:8])}{', ...' if len(table.classes) > 8 else ''}); "
            "expected one column per class, sorted by name"
        )
    try:
        return table, Scores.from_probabilities(prob, table.labels)
    except ValueError as error:
        raise DataError(f"{probabilities}: {error}") from None


def read_samples(dataset: Path, features: Path | None, model: str, size: int) -> Samples:
    """Images of a folder or CSV, or rows of features."""
    if features is not None:
        if model:
            raise InputError("--model is for images; features get a linear classifier")
        matrix = read_array(features)
        table = read_labels(dataset, len(matrix))
        centred = (matrix - matrix.mean(axis=0)) / np.maximum(matrix.std(axis=0), 1e-6)
        classes, width = len(table.classes), matrix.shape[1]
        return Samples(table, torch.from_numpy(centred), None, lambda: nn.Linear(width, classes), learning_rate=1e-2)
    if not dataset.exists():
        raise InputError(f"{dataset}: no such file or folder; expected class folders or a CSV with path,label")
    table = read_class_folders(dataset) if dataset.is_dir() else read_label_table(dataset)
    make, rate = _model(model, len(table.classes))
    images = ImageRows(table, size)
    small = len(table) * size**2 <= 50_000_000
    inputs = normalise(images.stacked()) if small else NormalisedRows(images)
    return Samples(table, inputs, images, make, rate, _mirror, model)


def _mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images mirrored, moved by up to two pixels."""
    mirrored = torch.where(
        (torch.rand(len(images), generator=generator) < 0.5)[:, None, None, None], images.flip(3), images
    )
    dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return torch.roll(mirrored, (dy, dx), dims=(2, 3))


def groups_of(samples: Samples, group_by: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Group of each sample, and what the user should know about it."""
    table, warnings = samples.table, list(samples.warnings)
    chosen = {"group": table.group, "video": table.video}
    if group_by in chosen:
        if chosen[group_by] is None:
            raise InputError(f"--group-by {group_by}: the CSV has no column {group_by!r}")
        return chosen[group_by], tuple(warnings)
    if group_by == "auto" and table.group is not None:
        return table.group, tuple(warnings)
    alone = np.arange(len(table))
    if samples.images is None:
        return alone, tuple(warnings)
    alike = near_duplicate_images(samples.images[i].numpy() for i in range(len(table)))
    copies = sum(len(rows) for rows in alike)
    if copies:
        warnings.append(
            f"{copies} images are nearly equal to another and no groups are given; if they are frames of videos, add a "
            "column video to a CSV and use --group-by video, or wrong labels will hide behind their neighbours"
        )
    if group_by == "auto":
        for rows in alike:
            alone[rows] = rows[0]
    return alone, tuple(warnings)


def retraining_report(
    samples: Samples, scores: Scores, proposed: Decision, fold: np.ndarray, how: dict[str, Any]
) -> dict[str, Any]:
    """Cross-validated accuracy on undoubted labels, of networks trained on the labels before and after cleaning."""
    y, judged = samples.table.labels, ~proposed.suspect
    after = np.empty((len(y), scores.prob.shape[2]))
    for f in np.unique(fold):
        weight = proposed.weight * (fold != f)
        network, _ = fit_one(
            inputs=samples.inputs, labels=proposed.new_label, weight=weight, **{**how, "seed": how["seed"] + 1 + int(f)}
        )
        rows = np.nonzero(fold == f)[0]
        held = (
            samples.inputs[torch.as_tensor(rows)]
            if isinstance(samples.inputs, Tensor)
            else torch.utils.data.Subset(samples.inputs, rows.tolist())
        )
        after[rows] = predict(network, held, device=how["device"])
    return {
        "judged_on": int(judged.sum()),
        "note": "accuracy on samples whose label is not suspect, by networks that did not train on them",
        "accuracy_before": float((scores.held_out.argmax(axis=1) == y)[judged].mean()),
        "accuracy_after": float((after.argmax(axis=1) == y)[judged].mean()),
    }


def _model(name: str, classes: int) -> tuple[Any, float]:
    """How to build the classifier, and its learning rate."""
    if not name:
        return (lambda: small_net(3, classes)), 3e-3
    config = Path(name) / "config.json"
    try:
        own = config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("paper") == PAPER
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{config}: not a model configuration ({error})") from None
    if not own:
        return (lambda: pretrained(name, classes)), 1e-4
    from safetensors.torch import load_file

    try:
        weights = load_file(Path(name) / "model.safetensors")
    except Exception as error:  # the library raises its own kind, and OSError
        raise InputError(f"{name}: no usable model.safetensors ({error})") from None

    def make() -> nn.Module:
        network = small_net(3, classes)
        fitting = {
            k: v for k, v in weights.items() if k in network.state_dict() and v.shape == network.state_dict()[k].shape
        }
        network.load_state_dict({**network.state_dict(), **fitting})
        return network

    return make, 1e-3


def save_model(folder: Path, network: nn.Module, samples: Samples, size: int) -> None:
    """Weights as safetensors with a config.json, or a Hugging Face folder."""
    from assay import __version__

    folder.mkdir()
    if isinstance(network, Logits):
        network.network.config.id2label = dict(enumerate(samples.table.classes))
        network.network.config.label2id = {name: i for i, name in enumerate(samples.table.classes)}
        network.network.save_pretrained(folder)
        return
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    config = {
        "paper": PAPER,
        "version": __version__,
        "architecture": "linear" if isinstance(network, nn.Linear) else "ConvNet",
        "classes": list(samples.table.classes),
        "size": size,
        "input": "each image to mean 0 a channel and standard deviation 1"
        if samples.images
        else "standardised features",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def write_csv(file: Path, header: list[str], rows: Any) -> None:
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)


def write_cleaned(file: Path, table: LabelTable, decision: Decision) -> None:
    """Rows that stay, with the columns they came with; readable by `apply` again when they were images."""
    keep, labels, weight = clean(table.labels, decision)
    extra = {name: column for name in ("group", "video", "frame") if (column := getattr(table, name)) is not None}
    header = ["path", "label", *extra, "given", "suspect", "p", "weight"]
    rows = (
        [
            table.names[i],
            table.classes[c],
            *(column[i] for column in extra.values()),
            table.classes[table.labels[i]],
            int(decision.suspect[i]),
            float(decision.p[i]),
            float(w),
        ]
        for i, c, w in zip(keep, labels, weight, strict=True)
    )
    write_csv(file, header, rows)


def write_sheet(file: Path, table: LabelTable, listed: Any, images: ImageRows | None, decision: Decision) -> None:
    cards = (
        Card(
            image=None if images is None else images[row.row].numpy(),
            title=f"{row.given} → {row.suggestion}" if row.suggestion != row.given else row.given,
            lines=(row.name, f"p(wrong) = {row.p:.2f}, {row.networks} networks doubt it"),
            bar=row.p,
        )
        for row in listed.itertuples(index=False)
    )
    text = (
        f"{int(decision.suspect.sum())} of {len(table)} labels are suspect. "
        f"Shown are the {len(listed)} most suspect, given → suggested."
    )
    write_contact_sheet(file, "Labels to look at", text, cards)
