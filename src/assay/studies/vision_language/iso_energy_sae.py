"""Iso-Energy: atoms that are as strong in pictures as in texts do the matching, the others make the gap. (2602.06218)

A sparse autoencoder is trained on both sides of a two-tower model, with or without a penalty that pulls a concept's
strength in pictures and texts together. Then atoms are sorted by side, and vectors rebuilt from one sort alone.

Data. Simulated pairs of which the concepts are known: each concept has a direction of its own on each side, 0.9 radians
apart (0.5 in the conditions `near`). In `equal` a concept is as strong in texts as in pictures; in `unequal`, the
control, texts have it stronger or weaker by a log-normal factor of spread 1.5, so that the assumption is false. `real`
are 1,592 emoji (drawings, not photographs) and their human keywords, seen through two small towers trained to a
temperature of 0.01 as CLIP is; judged are 256 drawings that neither towers nor autoencoders have seen.

Arms. `cosine` and `energy` are the two penalties on a TopK encoder, `mp-...` the paper's matching pursuit. All
autoencoders of a kind have the same start, batches and steps. Learning rate, sizes and steps were set for the plain
autoencoders; the weight of a penalty is the largest of (1e-3, 3e-3) for `cosine`, (2e-4, 3e-4, 6e-4, 1e-3) for `energy`
that costs less than 0.02 of R2. Also `drop-k` among 1, 4 and 8 coordinates and the weight of the words in an edit, for
each arm among 0.25 to 2. All this on seed 100, which the study does not use. The paper's weight, 4e-4 at 512
dimensions for an error averaged over dimensions, is 3.2e-3 at our 64.

Edits ask for a glyph by another one of its subgroup and the words that only the target has. The words' vector has unit
length in every arm, so that an arm does not stay near pictures merely by adding less.

What to know when reading the verdicts, seen on seeds 0 and 100, without a change to the design:

- The penalty on pairs compares patterns within a pair, not energies. Factors that are the same for all texts bend a
  pattern only partly, so some of its effect on split concepts can outlive the violation, while MCC stays as it is.
- The penalty on populations sees 512 pairs at a time, in which rare concepts have unequal energies by chance; it
  lets such atoms die.
- At 0.9 radians many concepts keep an atom on each side whatever the penalty. One-sided atoms then still match.
- Taking means away costs no reconstruction. An autoencoder loses what it does not rebuild, so its shared part is to be
  compared with its own reconstruction (`recall_rec`) as well as with `mean-shift`.

At full scale `real` is COCO's captions of 2017 with Fashion-IQ's edits through published models, one model a seed
(`_iso_full`), with the paper's sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from assay.data.paired_concepts import draw_pairs, make_world
from assay.errors import InputError, require
from assay.lab import Better, Bound, Evidence, NotWorse, Same, Study
from assay.methods.vision_language.iso_energy_sae import FitOptions, drop_coordinates, fit
from assay.metrics.modality_gap import mean_gap
from assay.studies.vision_language._iso_apply import Use, analyse_files
from assay.studies.vision_language._iso_emoji import Embedded, embed_emoji
from assay.studies.vision_language._iso_figure import draw_figure
from assay.studies.vision_language._iso_measures import (
    Case,
    measure_autoencoder,
    measure_edits,
    measure_pair,
    plain_queries,
    plane,
    shared_queries,
    shifted,
)

PAPER = "2602.06218"
DROPPED = 4
ANGLES = {"equal": 0.9, "unequal": 0.9, "near": 0.5, "near-unequal": 0.5}
UNEQUAL = 1.5
COSINE, ENERGY, MP_COSINE = 1e-3, 3e-4, 3e-3
EDIT_SCALE = {"raw": 1.0, "mean-shift": 1.0}  # 0.5 for all autoencoders
EVERYWHERE = (*ANGLES, "real")
MAIN = ("equal", "unequal", "real")

study = Study(
    paper=PAPER,
    arms={
        "raw": "embeddings as they are",
        "mean-shift": "each side minus its mean: the usual fix",
        "drop-k": f"the {DROPPED} coordinates in which the means differ most set to 0",
        "sae": "TopK autoencoder without penalty",
        "cosine": "TopK autoencoder, penalty on pairs",
        "energy": "TopK autoencoder, penalty on populations",
        "mp-sae": "matching pursuit autoencoder without penalty",
        "mp-cosine": "matching pursuit autoencoder, penalty on pairs (the paper's)",
    },
    conditions={
        "equal": "simulated: concepts equally strong on both sides",
        "unequal": "control, simulated: equal energy violated",
        "near": "simulated: the same with nearer directions",
        "near-unequal": "control, simulated: nearer directions, equal energy violated",
        "real": "real: emoji drawings and their words",
    },
    arm_conditions={
        "mean-shift": MAIN, "drop-k": MAIN, "sae": EVERYWHERE, "cosine": EVERYWHERE, "energy": MAIN, "mp-sae": MAIN,
        "mp-cosine": MAIN,
    },
    claims=[
        Better("mcc", name="C1", method="cosine", baseline="sae", conditions=["equal"],
               paper="'alignment improves when Iso-Energy holds' (abstract)"),
        Better("split_rate", name="C1-split", method="cosine", baseline="sae", higher=False, conditions=["equal"],
               paper="none: ours"),
        Better("mcc", name="C1-energy", method="energy", baseline="sae", conditions=["equal"],
               paper="'alignment improves when Iso-Energy holds' (abstract)"),
        Better("mcc", name="C1-mp", method="mp-cosine", baseline="mp-sae", conditions=["equal"],
               paper="'alignment improves when Iso-Energy holds' (abstract)"),
        Same("mcc", name="C1-neutral", method="cosine", baseline="sae", margin=0.03, conditions=["unequal"],
             paper="'remains neutral' where the assumption fails (abstract)"),
        Better("recall_bi", name="C2", method="cosine", baseline="sae", conditions=["real"],
               paper="bimodal atoms carry 'the entire cross-modal alignment signal' (abstract)"),
        Better("recall_bi", name="C2-mp", method="mp-cosine", baseline="mp-sae", conditions=["real"],
               paper="bimodal atoms carry 'the entire cross-modal alignment signal' (abstract)"),
        NotWorse("recall_bi", name="C2-sufficient", method="cosine", baseline_metric="recall_rec", margin=0.01,
                 conditions=["equal", "real"], paper="'the entire cross-modal alignment signal' (abstract)"),
        Better("recall_bi", name="C2-random", method="cosine", baseline_metric="recall_random", conditions=["real"],
               paper="none: ours"),
        Bound("recall_uni", name="C3", method="cosine", at_most=0.1, conditions=["real"],
              paper="one-sided atoms are 'modality-specific biases' (abstract)"),
        Bound("recall_uni", name="C3-simulated", method="cosine", at_most=0.1, conditions=["equal"],
              paper="one-sided atoms are 'modality-specific biases' (abstract)"),
        Bound("gap_left", name="C4", method="cosine", at_most=0.25, conditions=["real"],
              paper="'collapses the gap' (abstract)"),
        NotWorse("recall", name="C4-shift", method="cosine", baseline="mean-shift", margin=0.02, conditions=["real"],
                 paper="'without harming performance' (abstract)"),
        NotWorse("r2", name="C5", method="cosine", baseline="sae", margin=0.02, conditions=["equal", "real"],
                 paper="'without harming reconstruction' (abstract)"),
        Better("edit_recall", name="C6", method="cosine", baseline=["raw", "mean-shift"], conditions=["real"],
               paper="'improved retrieval' (abstract)"),
        Better("edit_ood", name="C6-ood", method="cosine", baseline=["raw", "mean-shift"], higher=False,
               conditions=["real"], paper="'in-distribution edits' (abstract)"),
        Better("mcc", name="control: MCC", method="cosine", baseline="sae", conditions=["unequal"],
               expected="not supported"),
        Better("split_rate", name="control: splits", method="cosine", baseline="sae", higher=False,
               conditions=["unequal"], expected="not supported"),
        Better("recall_bi", name="control: near", method="cosine", baseline="sae", conditions=["near-unequal"],
               expected="not supported"),
    ],
    metrics={
        "mcc": "mean correlation with the true concepts",
        "split_rate": "share of concepts split in two atoms",
        "recall": "recall@10 across sides, after",
        "recall_rec": "recall@10 of reconstructions",
        "recall_bi": "recall@10, bimodal atoms only",
        "recall_uni": "recall@10, one-sided atoms only",
        "recall_random": "recall@10, as much energy taken out at random",
        "gap": "distance of the means, after",
        "gap_left": "share of the gap that is left",
        "wasserstein": "sliced Wasserstein distance, after",
        "r2": "share of the variance rebuilt (R2)",
        "bimodal_share": "share of the energy in bimodal atoms",
        "dead": "share of dead atoms",
        "probe_bi": "how well bimodal atoms tell the sides apart",
        "probe_uni": "how well one-sided atoms tell the sides apart",
        "bridge_share": "share of the bridge that touches bimodal atoms",
        "rho": "bridge on bimodal atoms over bridge on others",
        "mu_energy": "energy by modality of the atoms",
        "edit_recall": "recall@10 of edits",
        "edit_ood": "distance of edits to pictures",
        "edit_recalls": "recall@10 of edits by weight of the words",
        "edit_oods": "distance of edits to pictures by weight of the words",
        "plane": "points of the figure",
    },
    seeds={"pocket": 5, "full": 5},
    data="real and simulated",
    tolerance=1e-2,
    tolerances={"plane": None},
)  # fmt: skip


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> dict[str, Case]:
    if scale == "full" and data is None:
        raise InputError("the full scale needs COCO's captions and pictures: pass --data FOLDER (see _iso_full)")
    cases = {name: simulate(name, seed, scale) for name in ANGLES}
    if scale != "full":
        return {**cases, "real": Case(embed_emoji(seed, scale))}
    # Loaded by name: recorded evidence does not rest on it and does not go stale with it.
    published = require("assay.studies.vision_language._iso_full", "vision_language")
    return {**cases, "real": Case(published.embed_coco(data, seed, device))}


def simulate(condition: str, seed: int, scale: str) -> Case:
    """Pairs of one condition; `unequal` differs from `equal` in the factors alone: same directions, same draws."""
    train, test = {"smoke": (512, 256), "pocket": (8192, 2048), "full": (100_000, 10_000)}[scale]
    angle = ANGLES[condition]
    rng = np.random.default_rng([seed, int(10 * angle), 6218])
    world = make_world(rng, angle=angle, unequal=UNEQUAL * condition.endswith("unequal"))
    pairs, held = draw_pairs(world, train, rng), draw_pairs(world, test, rng)
    rows = (torch.from_numpy(x).float() for x in (pairs.img, pairs.txt, held.img, held.txt))
    return Case(Embedded(*rows), held.amp_img, held.amp_txt)


def options(arm: str, condition: str, scale: str, seed: int) -> FitOptions:
    """How the autoencoder of an arm is trained."""
    kind = "mp" if arm.startswith("mp") else "topk"
    align = {"sae": "none", "mp-sae": "none", "energy": "energy"}.get(arm, "cosine")
    if scale == "full" and condition == "real":
        published = require("assay.studies.vision_language._iso_full", "vision_language")
        return FitOptions(kind=kind, align=align, beta=published.MODELS[seed % len(published.MODELS)].beta)
    beta = {"energy": ENERGY, "cosine": COSINE, "mp-cosine": MP_COSINE}.get(arm, 0.0)
    k_atoms, k, batch = (256, 12, 366) if condition == "real" else (192, 8, 512)
    epochs = 48 if condition == "real" else 24
    if kind == "mp":  # needs more steps, and each of them costs more
        batch, epochs = (244, 30) if condition == "real" else (256, 14)
    if scale == "smoke":
        batch, epochs = 128, 3
    return FitOptions(k_atoms, k, kind, align, beta, epochs, batch, 6e-3)


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: dict[str, Case]) -> dict[str, Any]:
    case = shared[condition]
    rows, rng = case.rows, np.random.default_rng([seed, 10])
    edits = rows.words is not None
    if arm in ("raw", "mean-shift", "drop-k"):
        img, txt = rows.test_img, rows.test_txt
        if arm == "mean-shift":
            img, txt = shifted(rows)
        if arm == "drop-k":
            img, txt = drop_coordinates(img, txt, DROPPED, (rows.img.mean(0), rows.txt.mean(0)))
        found = measure_pair(img, txt, mean_gap(rows.test_img, rows.test_txt), rng)
        if edits and arm != "drop-k":
            found |= measure_edits(plain_queries(rows, arm == "mean-shift"), rows, EDIT_SCALE[arm])
        return found
    sae, _ = fit(rows.img, rows.txt, options(arm, condition, scale, seed), seed)
    found = measure_autoencoder(sae, case, rng)
    if edits:
        found |= measure_edits(shared_queries(rows, sae), rows, 0.5)
    if condition == "real" and arm == "cosine" and seed == 0:
        found["plane"] = plane(rows, sae)
    return found


@study.figure
def figure(evidence: Evidence) -> Any:
    return draw_figure(evidence)


@study.apply
def apply(
    out: Path = Path("analysis"),
    embeddings: tuple[Path, Path] | None = None,
    images: Path | None = None,
    texts: Path | None = None,
    model: str | None = None,
    sae: Path | None = None,
    kind: Literal["mp", "topk"] = "mp",
    align: Literal["auto", "cosine", "energy", "none"] = "auto",
    beta: float | None = None,
    atoms: int | None = None,
    k: int = 20,
    epochs: int | None = None,
    unpaired: bool = False,
    seed: int = 0,
) -> str:
    """Sort the directions of picture and text embeddings into shared and one-sided ones, and close the gap.

    Give two matrices (--embeddings img.npy txt.npy, or .safetensors) or pictures and captions with a model. Writes into
    OUT: report.html and report.json (gap and recall before and after, on rows kept out of training), atoms.csv (energy,
    modality, strongest pictures and texts of each atom), img_shared.npy and txt_shared.npy (unit vectors from shared
    atoms alone) and model/ (the autoencoder, to be given again with --sae).

    Args:
        out: folder to write.
        embeddings: picture rows and text rows, .npy or .safetensors; row i of one is the pair of row i of the other.
        images: folder of pictures, in place of --embeddings.
        texts: CSV with the columns image,caption or COCO's captions JSON; beside --embeddings it names the rows.
        model: CLIP or SigLIP by Hugging Face id or folder, for --images.
        sae: model/ folder of an earlier run; nothing is trained.
        kind: encoder, matching pursuit or TopK.
        align: penalty on pairs (cosine), on populations (energy), or none; auto takes cosine for pairs.
        beta: weight of the penalty; by default the paper's 4e-4 at 512 columns, in proportion.
        atoms: number of atoms; by default 8 times the columns.
        k: atoms that describe one vector.
        epochs: by default 5, and more for small sets.
        unpaired: rows are no pairs; their numbers may differ.
        seed: of the split, the start and the batches.
    """
    return analyse_files(
        out, embeddings, images, texts, model, sae, Use(kind, align, beta, atoms, k, epochs, unpaired, seed)
    )
