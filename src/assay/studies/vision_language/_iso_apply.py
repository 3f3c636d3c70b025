"""Aligned autoencoders on a user's embeddings: how they are analysed and what is written."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from assay.errors import InputError
from assay.methods.vision_language.iso_energy_sae import (
    FitOptions,
    Scores,
    SparseAutoencoder,
    close_gap,
    explained,
    fit,
    intervene,
    modality_scores,
    score_rows,
    shift_means,
)
from assay.metrics.modality_gap import mean_gap
from assay.metrics.retrieval import recall_at_k
from assay.studies.vision_language._iso_files import (
    PAPER,
    Rows,
    embed_pairs,
    load_autoencoder,
    open_picture,
    read_captions,
    read_matrix,
    save_autoencoder,
)

FEW = 1000
LEAST = 40
STEPS = 500  # at least, so that small sets train long enough
JUDGED = 2000  # most rows that recall is measured on
TOP = 5
CHUNK = 2048
# Weights scale with the mean squared error, which is averaged over d: the paper's 4e-4 belongs to d = 512.
BETA = {"cosine": 4e-4 * 512, "energy": 3e-4 * 64}
RATE = 5e-3  # of the short runs here; the paper's 5e-4 belongs to 10,000 steps

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:3px 12px 3px 0;text-align:left;vertical-align:top;
border-bottom:1px solid #ddd}img{height:56px;margin-right:3px;border-radius:3px}small{color:#666}
.bar{display:inline-block;height:.7em;background:#37a}p.warn{background:#fff3cd;padding:.5em}"""


@dataclass(frozen=True)
class Use:
    """Options of `apply`, as there."""

    kind: Literal["mp", "topk"]
    align: Literal["auto", "cosine", "energy", "none"]
    beta: float | None
    atoms: int | None
    k: int
    epochs: int | None
    unpaired: bool
    seed: int


def analyse_files(
    out: Path, embeddings: tuple[Path, Path] | None, images: Path | None, texts: Path | None, model: str | None,
    sae: Path | None, use: Use,
) -> str:  # fmt: skip
    """What `assay apply 2602.06218` does; arguments as there.

    Raises:
        InputError: files or options that cannot be used.
    """
    rows = _read(embeddings, images, texts, model)
    paired = not use.unpaired
    if rows.img.shape[1] != rows.txt.shape[1]:
        raise InputError(f"the embeddings have {rows.img.shape[1]} and {rows.txt.shape[1]} columns; expected the same")
    if paired and len(rows.img) != len(rows.txt):
        raise InputError(
            f"{len(rows.img)} picture rows and {len(rows.txt)} text rows are no pairs; if they need none, --unpaired"
        )
    few = min(len(rows.img), len(rows.txt))
    if few < LEAST:
        raise InputError(f"{few} rows: expected at least {LEAST} on each side")
    train, held = _split(rows, paired, use.seed)
    warning = ""
    if few < FEW:
        warning = f"only {few} rows on a side: fewer than {FEW} make atoms unsteady"
        warning += "; --align energy, which needs no pairs, can take more unpaired rows" if paired else ""
    if sae is None:
        how = _options(use, rows.img.shape[1], max(len(train[0]), len(train[1])), paired)
        found, log = fit(rows.img[train[0]], rows.txt[train[1]], how, use.seed)
        scores = score_rows(found, rows.img[train[0]], rows.txt[train[1]])
        facts = {"align": how.align, "beta": how.beta, "epochs": how.epochs, "training_r2": log["r2"][-1]}
    else:
        found, energies = load_autoencoder(sae)
        if found.d != rows.img.shape[1]:
            raise InputError(f"{sae}: made for {found.d} columns, the embeddings have {rows.img.shape[1]}")
        scores, facts = modality_scores(*(e.sqrt()[None] for e in energies)), {"sae": sae.name}
    report = {"paper": PAPER, "rows": [len(rows.img), len(rows.txt)], "held_out": len(held[0]), "paired": paired}
    report |= {**facts, **measure(found, scores, rows, train, held, paired), "warning": warning}
    img, txt = close_gap(rows.img, rows.txt, found, scores)
    report["empty_rows"] = [int((side.norm(dim=1) == 0).sum()) for side in (img, txt)]
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "img_shared.npy", img.numpy())
    np.save(out / "txt_shared.npy", txt.numpy())
    tops = [strongest(found, side) for side in (rows.img, rows.txt)]
    write_atoms(out / "atoms.csv", scores, rows, tops)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    write_page(out / "report.html", report, scores, rows, tops)
    if sae is None:
        save_autoencoder(out / "model", found, scores, facts)
    return _summary(report)


def _read(embeddings: tuple[Path, Path] | None, images: Path | None, texts: Path | None, model: str | None) -> Rows:
    if (embeddings is None) == (images is None):
        raise InputError("give either --embeddings IMG TXT or --images FOLDER with --texts and --model")
    if images is not None:
        if texts is None or model is None:
            raise InputError("--images needs --texts (a CSV image,caption) and --model (a CLIP or SigLIP id or folder)")
        return embed_pairs(images, texts, model)
    assert embeddings is not None
    if model is not None:
        raise InputError("--model embeds pictures and texts; with --embeddings it has nothing to do")
    img, txt = (read_matrix(file, side) for file, side in zip(embeddings, ("img", "txt"), strict=True))
    img_names, txt_names = ([f"row {i}" for i in range(len(side))] for side in (img, txt))
    if texts is not None:
        pairs = read_captions(texts)
        if len(pairs) != len(txt):
            raise InputError(f"{texts}: {len(pairs)} captions for {len(txt)} text rows")
        txt_names = [text for _, text in pairs]
        if all(name for name, _ in pairs) and len(img) == len(txt):
            img_names = [name for name, _ in pairs]
    return Rows(img, txt, img_names, txt_names)


def _split(rows: Rows, paired: bool, seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows for training and for judging; rows of one picture stay together."""
    generator = np.random.default_rng(seed)
    sides = []
    for side in (rows.img,) if paired else (rows.img, rows.txt):
        group = _groups(side)
        order = generator.permutation(group.max() + 1)
        most = min(JUDGED, len(side) // 5)
        taken = np.cumsum(np.bincount(group)[order])
        held = np.isin(group, order[: max(1, int(np.searchsorted(taken, most, side="right")))])
        if held.all():
            raise InputError("all picture rows are the same: nothing is left to judge on")
        sides.append((torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))))
    both = sides * 2 if paired else sides
    return (both[0][0], both[1][0]), (both[0][1], both[1][1])


def _groups(side: Tensor) -> NDArray[np.int64]:
    """Equal rows have equal numbers."""
    return np.unique(side.numpy(), axis=0, return_inverse=True)[1].reshape(-1)


def _options(use: Use, d: int, n: int, paired: bool) -> FitOptions:
    align = use.align if use.align != "auto" else ("cosine" if paired else "energy")
    if align == "cosine" and not paired:
        raise InputError("--align cosine compares pairs; with --unpaired use --align energy")
    atoms = use.atoms or 8 * d
    if not 1 <= use.k <= atoms or atoms > 1_000_000:
        raise InputError(f"--k {use.k} and --atoms {atoms}: expected 1 <= k <= atoms <= 1000000")
    if use.epochs is not None and use.epochs < 1:
        raise InputError(f"--epochs {use.epochs}: expected 1 or more")
    beta = use.beta if use.beta is not None else BETA.get(align, 0.0) / d
    if not (beta >= 0 and math.isfinite(beta)):
        raise InputError(f"--beta {use.beta}: expected 0 or more")
    batch = min(512, max(32, n // 4))
    epochs = use.epochs or max(5, math.ceil(STEPS / math.ceil(n / batch)))
    return FitOptions(atoms, use.k, use.kind, align, beta, epochs, batch, RATE)


def measure(
    sae: SparseAutoencoder,
    scores: Scores,
    rows: Rows,
    train: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    paired: bool,
) -> dict[str, Any]:
    """Figures on held-out rows: gap, reconstruction and, for pairs, recall at 1 and 10."""
    img, txt = rows.img[held[0]], rows.txt[held[1]]
    rebuilt = intervene(sae, img), intervene(sae, txt)
    means = rows.img[train[0]].mean(0), rows.txt[train[1]].mean(0)
    pairs = {
        "before": (img, txt),
        "mean_shift": shift_means(img, txt, means),
        "rebuilt": tuple(F.normalize(x, dim=1) for x in rebuilt),
        "bimodal": close_gap(img, txt, sae, scores),
        "one_sided": tuple(F.normalize(intervene(sae, x, scores.unimodal), dim=1) for x in (img, txt)),
    }
    found: dict[str, Any] = {
        "r2": explained(torch.cat([img, txt]), torch.cat(rebuilt)),
        "atoms": {
            "bimodal": int(scores.bimodal.sum()),
            "one_sided": int(scores.unimodal.sum()),
            "dead": int(scores.dead.sum()),
        },
        "bimodal_energy": scores.bimodal_share,
        "gap": {name: mean_gap(*pair) for name, pair in pairs.items()},
    }
    if paired:
        group = _groups(img)
        same = group[:, None] == group[None, :]
        for k in (1, 10):
            found[f"recall_{k}"] = {
                name: (recall_at_k((a @ b.T).numpy(), same, k) + recall_at_k((b @ a.T).numpy(), same, k)) / 2
                for name, (a, b) in pairs.items()
            }
    return found


@torch.no_grad()
def strongest(sae: SparseAutoencoder, side: Tensor) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The largest codes of each atom and the rows they belong to, `(K, 5)`; equal rows count once."""
    distinct = np.sort(np.unique(side.numpy(), axis=0, return_index=True)[1])
    values = torch.zeros(sae.k_atoms, 0)
    where = torch.zeros(sae.k_atoms, 0, dtype=torch.int64)
    for part in torch.from_numpy(distinct).split(CHUNK):
        z = sae.encode(side[part])[1].T
        values, where = torch.cat([values, z], 1), torch.cat([where, part.expand(len(z), -1)], 1)
        values, order = values.topk(min(TOP, values.shape[1]), dim=1)
        where = where.gather(1, order)
    return values.numpy(), where.numpy()


Tops = list[tuple[NDArray[np.float32], NDArray[np.int64]]]


def classes(scores: Scores) -> list[str]:
    """What each atom is: shared, picture, text or dead."""
    words = np.where(
        scores.dead, "dead", np.where(scores.bimodal, "shared", np.where(scores.mu > 0.5, "picture", "text"))
    )
    return words.tolist()


def write_atoms(file: Path, scores: Scores, rows: Rows, tops: Tops) -> None:
    """A line for each atom, the strongest first."""
    with file.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        head = [f"{side}_{i}" for side in ("image", "text") for i in range(1, TOP + 1)]
        table.writerow(["atom", "energy", "mu", "class", *head])
        kinds = classes(scores)
        for j in np.argsort(-scores.energy, kind="stable"):
            shown = [name for side in _named(j, rows, tops) for name in side + [""] * (TOP - len(side))]
            mu = "" if scores.dead[j] else f"{scores.mu[j]:.4f}"
            table.writerow([int(j), f"{scores.energy[j]:.6g}", mu, kinds[j], *(_plain_cell(name) for name in shown)])


def _named(j: int, rows: Rows, tops: Tops) -> list[list[str]]:
    """Names of the rows in which an atom is strongest, for pictures and texts."""
    found = []
    for (values, where), names in zip(tops, (rows.img_names, rows.txt_names), strict=True):
        found.append([names[i] for value, i in zip(values[j], where[j], strict=True) if value > 0])
    return found


def write_page(file: Path, report: dict[str, Any], scores: Scores, rows: Rows, tops: Tops) -> None:
    """The page for readers; every text is escaped, pictures are embedded."""
    words = {
        "before": "as given", "mean_shift": "means removed", "rebuilt": "rebuilt from all atoms",
        "bimodal": "rebuilt from shared atoms (img_shared, txt_shared)", "one_sided": "one-sided atoms only",
    }  # fmt: skip
    columns = [("distance of the means", report["gap"])]
    columns += [(f"recall@{k}", report[f"recall_{k}"]) for k in (1, 10) if f"recall_{k}" in report]
    lines = "".join(
        f"<tr><td>{words[name]}</td>" + "".join(f"<td>{values[name]:.3f}</td>" for _, values in columns) + "</tr>"
        for name in words
    )
    head = "".join(f"<th>{name}</th>" for name, _ in columns)
    counts, kinds = report["atoms"], classes(scores)
    share = np.histogram(scores.mu[~scores.dead], 10, (0, 1), weights=scores.energy[~scores.dead])[0]
    share = share / max(share.sum(), 1e-30)
    bars = "".join(
        f'<tr><td>{i / 10:.1f} to {(i + 1) / 10:.1f}</td><td><span class="bar" style="width:{300 * s:.0f}px"></span>'
        f" {s:.0%}</td></tr>" for i, s in enumerate(share)
    )  # fmt: skip
    strong = [j for j in np.argsort(-scores.energy, kind="stable") if kinds[j] != "dead"]
    chosen = [j for j in strong if kinds[j] == "shared"][:20] + [j for j in strong if kinds[j] != "shared"][:8]
    atoms = "".join(_atom_row(j, scores, kinds[j], rows, tops) for j in chosen)
    warning = f'<p class="warn">{html.escape(report["warning"])}</p>' if report["warning"] else ""
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Shared and one-sided atoms</title>'
        f"<style>{STYLE}</style><h1>Shared and one-sided atoms</h1>{warning}"
        f"<p>{report['rows'][0]} picture rows, {report['rows'][1]} text rows; figures are of {report['held_out']} rows"
        f" kept out of training. {counts['bimodal']} shared atoms hold {report['bimodal_energy']:.0%} of the energy;"
        f" {counts['one_sided']} belong to one side, {counts['dead']} are dead. The atoms rebuild {report['r2']:.0%} of"
        f" the variance: what they lose is lost in the rebuilt vectors too.</p>"
        f"<table><tr><th>vectors</th>{head}</tr>{lines}</table>"
        f"<h2>Energy by modality</h2><p>0: texts only, 1: pictures only</p><table>{bars}</table>"
        f"<h2>Strongest atoms</h2><table><tr><th>atom</th><th>class</th><th>mu</th><th>pictures</th><th>texts</th></tr>"
        f"{atoms}</table><p><small>Method: arXiv {PAPER}</small></p></html>\n"
    )
    file.write_text(page, encoding="utf-8")


def _atom_row(j: int, scores: Scores, kind: str, rows: Rows, tops: Tops) -> str:
    names, texts = _named(j, rows, tops)
    shown = "<br>".join(html.escape(name) for name in names)
    if rows.pictures is not None:
        values, where = tops[0]
        files = [rows.pictures[i] for value, i in zip(values[j], where[j], strict=True) if value > 0]
        shown = "".join(f'<img alt="{html.escape(f.name)}" src="{_thumbnail(f)}">' for f in files)
    said = "<br>".join(html.escape(text) for text in texts)
    return f"<tr><td>{j}</td><td>{kind}</td><td>{scores.mu[j]:.2f}</td><td>{shown}</td><td>{said}</td></tr>"


def _thumbnail(file: Path) -> str:
    image = open_picture(file).convert("RGB")
    image.thumbnail((96, 96))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


def _plain_cell(text: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{text}" if re.match(r"[=+@\-\t\r]", text) else text


def _summary(report: dict[str, Any]) -> str:
    counts = report["atoms"]
    words = (
        f"{counts['bimodal']} shared, {counts['one_sided']} one-sided, {counts['dead']} dead atoms; "
        f"R2 {report['r2']:.2f}; gap {report['gap']['before']:.3f} -> {report['gap']['bimodal']:.3f}"
    )
    if "recall_10" in report:
        recall = report["recall_10"]
        words += (
            f"; recall@10 {recall['before']:.3f} -> {recall['bimodal']:.3f} (means removed: {recall['mean_shift']:.3f})"
        )
    return words + (f"\nwarning: {report['warning']}" if report["warning"] else "")
