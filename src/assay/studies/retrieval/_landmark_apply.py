"""Landmark subspace clustering on a user's files: how they are clustered and what is written."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from assay.data.image.contact_sheet import Card, write_contact_sheet
from assay.errors import InputError
from assay.methods.retrieval.landmark_subspace import (
    Landmarks,
    SDSNet,
    Training,
    choose_landmarks,
    estimate_clusters,
    factor_spectral,
    landmark_codes,
    pretrain,
    select_codes,
    unexpressed,
)
from assay.studies.retrieval._landmark_files import Given, read_samples
from assay.studies.retrieval._landmark_model import PAPER, Extractor, Stored, load_model, save_model

RIDGES, KEPT = (0.1, 0.3, 1.0), (3, 5)
PRETRAIN_STEPS = 300  # 25 epochs over COIL-20; a small folder needs more epochs to make as many
SHOWN = 60


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
    batches = math.ceil(len(inputs) / Training.batch)
    first = max(Training.pretrain_epochs, math.ceil(PRETRAIN_STEPS / batches))
    pretrain(extractor.network, inputs, first, Training.batch, seed=seed)
    if not epochs:
        z = extractor(given)
        return z, choose_landmarks(z, m, seed=seed)
    net = SDSNet(extractor.network, k, m, Training(joint_epochs=epochs), seed).join(inputs)
    return net.latents(inputs), net.landmarks


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
