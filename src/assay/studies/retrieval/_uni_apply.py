"""`assay apply 2601.09828`: train on pictures, index a gallery, search it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.data.image.contact_sheet import Card, write_contact_sheet
from assay.data.image.folder import DataError, load_image
from assay.errors import InputError, require
from assay.methods.retrieval.uni_hash import HammingIndex, UniHash
from assay.studies.retrieval._uni_arms import measures, pca_itq, setting_of, train
from assay.studies.retrieval._uni_data import Pool, Task, make_task, spread_of
from assay.studies.retrieval._uni_features import Extractor
from assay.studies.retrieval._uni_files import read_labelled, read_pictures
from assay.studies.retrieval._uni_model import PAPER, Stored, load_model, save_model

UNSEEN = 0.2  # share of classes held out for the report
SHOWN_QUERIES, SHOWN_SIZE = 12, 96


def train_files(images: Path, out: Path, *, bits: int, features: str, epochs: int, code: str, seed: int) -> str:
    """Train on labelled pictures; write the model, their codes and a report.

    Raises:
        InputError: files or options that cannot be used.
    """
    if not 8 <= bits <= 1024 or bits % 8:
        raise InputError(f"--bits {bits}: expected a multiple of 8 from 8 to 1024")
    if epochs < 1:
        raise InputError(f"--epochs {epochs}: expected at least 1")
    files = read_labelled(images)
    extractor = Extractor(features)
    items = extractor.stream(files.pictures, len(files.names))
    report = held_out_report(Pool(items, files.labels, np.arange(len(items))), files.classes, bits, epochs, code, seed)
    mean, scale = spread_of(items)
    model = learn(torch.from_numpy((items - mean) / scale), files.labels, bits, epochs, seed)
    stored = Stored(extractor, model, mean, scale, code, files.classes)
    key = save_model(out, stored)
    codes = stored.codes_of(items)
    np.save(out / "codes.npy", codes)
    labels = ["; ".join(np.array(files.classes)[row.astype(bool)]) for row in files.labels]
    write_csv(out / "codes.csv", ("file", "labels"), zip(files.names, labels, strict=True))
    facts = {
        "paper": PAPER, "model": key, "pictures": len(items), "classes": len(files.classes), "bits": bits,
        "features": features, "epochs": epochs, "distinct_codes": len(np.unique(codes, axis=0)), **report,
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    words = ", ".join(f"{name} {report['mAP'][name]:.3f}" for name in ("seen", "unseen") if name in report["mAP"])
    quality = f"; held-out mAP: {words}" if words else "; too few pictures for a held-out report"
    return f"{len(items)} pictures of {len(files.classes)} classes, {bits} bits{quality}"


def learn(x: Tensor, labels: NDArray[np.uint8], bits: int, epochs: int, seed: int) -> UniHash:
    """The network of the study, trained on standardised rows.

    Raises:
        InputError: training went astray.
    """
    try:
        return train(setting_of("unihash"), x, torch.from_numpy(labels.astype(np.float32)), bits, seed, epochs)
    except FloatingPointError as error:
        raise InputError(f"training failed: {error}") from None


def held_out_report(pool: Pool, names: Sequence[str], bits: int, epochs: int, code: str, seed: int) -> dict[str, Any]:
    """mAP of a network trained without a fifth of the classes and a third of the other pictures.

    With fewer than three classes none can be held out. Codes without labels (PCA-ITQ) stand beside, where there are
    enough pictures for them.
    """
    task = make_task(pool, np.random.default_rng([seed, 2601]), unseen=UNSEEN if len(names) > 2 else 0.0)
    if "seen" not in task.searches or len(task.train) < 4:
        return {"held_out_classes": [], "mAP": {}}
    model = learn(task.items[task.train], task.labels[task.train][:, task.seen], bits, epochs, seed)
    found = {
        "held_out_classes": [name for i, name in enumerate(names) if i not in set(task.seen.tolist())],
        "held_out_pictures": int(sum(len(s.query) for s in task.searches["seen"])),
        "mAP": maps(model.codes(task.items, code), task),
    }
    if bits <= min(task.items.shape[1], len(task.train) - 1):
        found["mAP_without_labels"] = maps(pca_itq(task.items.numpy(), task.train, bits, seed), task)
    return found


def maps(codes: NDArray[np.uint8], task: Task) -> dict[str, float]:
    """mAP by search, rounded."""
    found = measures(codes, task)
    return {name.removeprefix("map_"): round(v, 4) for name, v in found.items() if name.startswith("map_")}


def index_files(model: Path, gallery: Path, out: Path) -> str:
    """Write a faiss index of a gallery's codes, the codes and the names.

    Raises:
        InputError: files that cannot be used.
    """
    faiss = require("faiss", "retrieval")
    stored, files = load_model(model), read_pictures(gallery)
    codes = stored.codes(files)
    target = out if out.suffix == ".faiss" else out / "codes.faiss"
    target.parent.mkdir(parents=True, exist_ok=True)
    flat = faiss.IndexBinaryFlat(stored.model.q)
    flat.add(codes)
    faiss.write_index_binary(flat, str(target))
    np.save(target.with_suffix(".npy"), codes)
    facts = {
        "paper": PAPER, "model": stored.key, "bits": stored.model.q, "root": str(files.root.resolve()),
        "files": files.names,
    }  # fmt: skip
    text = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    target.with_suffix(".json").write_text(text, encoding="utf-8")
    return f"{len(codes)} pictures indexed in {stored.model.q} bits, {len(np.unique(codes, axis=0))} distinct codes"


def search_files(model: Path, index: Path, query: Path, out: Path, k: int) -> str:
    """Write the nearest pictures of each query.

    Raises:
        InputError: files that cannot be used, or an index of another model.
    """
    if k < 1:
        raise InputError(f"--k {k}: expected at least 1")
    stored = load_model(model)
    codes, names, root = read_index(index, stored)
    asked = read_pictures(query)
    distance, found = HammingIndex(codes).search(stored.codes(asked), k)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(
        out / "results.csv", ("query", "rank", "file", "distance"),
        ((name, r + 1, names[i], int(d)) for name, ds, row in zip(asked.names, distance, found, strict=True)
         for r, (d, i) in enumerate(zip(ds, row, strict=True))),
    )  # fmt: skip
    cards: list[Card] = []
    for name, ds, row in list(zip(asked.names, distance, found, strict=True))[:SHOWN_QUERIES]:
        cards.append(Card(picture(asked.root / name), name, ("query",), 1.0))
        cards += [Card(picture(root / names[i]), names[i], (f"{d} bits away",)) for d, i in zip(ds, row, strict=True)]
    more = f"; the first {SHOWN_QUERIES} queries are shown" if len(asked.names) > SHOWN_QUERIES else ""
    text = f"{len(asked.names)} queries among {len(names)} pictures, nearest first{more}"
    write_contact_sheet(out / "results.html", "Pictures found", text, cards)
    nearest = ", ".join(f"{names[i]} ({d})" for d, i in zip(distance[0][:5], found[0][:5], strict=True))
    return f"{asked.names[0]}: {nearest}" + (f"; and {len(asked.names) - 1} more" if len(asked.names) > 1 else "")


def read_index(index: Path, stored: Stored) -> tuple[NDArray[np.uint8], Sequence[str], Path]:
    """Codes, names and folder of an index.

    Raises:
        InputError: no such index, damaged files, or another model's.
    """
    faiss = require("faiss", "retrieval")
    if index.is_dir():
        index = index / "codes.faiss"
    beside = index.with_suffix(".json")
    if not index.is_file() or not beside.is_file():
        raise InputError(f"{index}: expected an index written by index, with {beside.name} beside it")
    try:
        facts = json.loads(beside.read_text(encoding="utf-8"))
        names, root, key = [str(name) for name in facts["files"]], Path(str(facts["root"])), facts["model"]
        flat = faiss.read_index_binary(str(index))
        codes = faiss.vector_to_array(flat.xb).reshape(flat.ntotal, -1)
    except Exception as error:  # faiss raises RuntimeError or AttributeError, json and the table their own
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{index}: not an index written by index ({words})") from None
    if key != stored.key:
        raise InputError(
            f"{index}: built with another model ({key}, this one is {stored.key}); index the gallery again"
        )
    if codes.shape != (len(names), stored.model.q // 8):
        raise InputError(f"{index}: {codes.shape[0]} codes of {8 * codes.shape[1]} bits for {len(names)} names")
    return codes, names, root


def picture(file: Path) -> NDArray[np.float32] | None:
    """A small picture for a page; None where it is no longer there."""
    try:
        return load_image(file, SHOWN_SIZE)
    except DataError:
        return None


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table whose words a spreadsheet does not take for formulas."""
    with file.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(header)
        for row in rows:
            table.writerow([f"'{c}" if isinstance(c, str) and re.match(r"[=+@\-\t\r]", c) else c for c in row])
