"""What the study of aligned autoencoders measures on held-out pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from assay.methods.vision_language.iso_energy_sae import (
    Scores,
    SparseAutoencoder,
    bridge,
    close_gap,
    edit,
    explained,
    intervene,
    ood_distance,
    probe_accuracy,
    rho,
    score_rows,
    shift_means,
)
from assay.metrics.matching import correlations, match
from assay.metrics.modality_gap import mean_gap, sliced_wasserstein
from assay.metrics.retrieval import recall_at_k
from assay.studies.vision_language._iso_emoji import Embedded

PLACES = 10
RETRIEVED = 512  # pairs among which a match is looked for, where there are more
SCALES = (0.25, 0.5, 1.0, 2.0)  # of the words in an edit
BINS = 20
SHOWN = 150  # points of each side in the figure


@dataclass(frozen=True)
class Case:
    """What the arms of one seed share in one condition.

    Attributes:
        rows: embeddings.
        amp_img, amp_txt: `(m, C)` true amplitudes of the held-out pairs; None for real ones.
    """

    rows: Embedded
    amp_img: NDArray[np.float64] | None = None
    amp_txt: NDArray[np.float64] | None = None


def recall(img: Tensor, txt: Tensor) -> float:
    """Recall at 10 of the matching text and of the matching picture, mean of both ways."""
    a, b = img[:RETRIEVED], txt[:RETRIEVED]
    similarity, own = (a @ b.T).numpy(), np.arange(len(a))
    return (recall_at_k(similarity, own, PLACES) + recall_at_k(similarity.T, own, PLACES)) / 2


def measure_pair(img: Tensor, txt: Tensor, raw_gap: float, rng: np.random.Generator) -> dict[str, Any]:
    """Recall and gap of a pair of unit matrices."""
    gap = mean_gap(img, txt)
    return {
        "recall": recall(img, txt),
        "gap": gap,
        "gap_left": gap / raw_gap,
        "wasserstein": sliced_wasserstein(img, txt, rng),
    }


def measure_autoencoder(sae: SparseAutoencoder, case: Case, rng: np.random.Generator) -> dict[str, Any]:
    """Everything about an autoencoder; atoms are sorted on training rows and judged on held-out ones."""
    rows = case.rows
    img, txt = rows.test_img, rows.test_txt
    scores = score_rows(sae, rows.img, rows.txt)
    rebuilt = intervene(sae, img), intervene(sae, txt)
    closed = close_gap(img, txt, sae, scores)
    alone = [F.normalize(intervene(sae, x, scores.unimodal), dim=1) for x in (img, txt)]
    found = measure_pair(*closed, mean_gap(img, txt), rng)
    found |= {
        "recall_rec": recall(*(F.normalize(x, dim=1) for x in rebuilt)),
        "recall_bi": found["recall"],
        "recall_uni": recall(*alone),
        "recall_random": recall_random(sae, scores, img, txt, rng),
        "r2": explained(torch.cat([img, txt]), torch.cat(rebuilt)),
        "bimodal_share": scores.bimodal_share,
        "dead": float(scores.dead.mean()),
        "mu_energy": histogram(scores),
    }
    accuracy = probe_accuracy(img, txt, sae.dictionary.detach())
    for name, mask in (("probe_bi", scores.bimodal), ("probe_uni", scores.unimodal)):
        if mask.any():
            found[name] = float(np.average(accuracy[mask], weights=scores.energy[mask]))
    with torch.no_grad():
        z_img, z_txt = (sae.encode(x)[1].numpy() for x in (img, txt))
    joined = bridge(z_img, z_txt, sae.dictionary.detach())
    if joined.sum() > 0:
        found["bridge_share"] = float(1 - joined[np.ix_(~scores.bimodal, ~scores.bimodal)].sum() / joined.sum())
    ratio = rho(joined, scores.energy, scores.bimodal)
    if np.isfinite(ratio):  # infinite where the whole bridge rests on bimodal atoms
        found["rho"] = ratio
    if case.amp_img is not None and case.amp_txt is not None:
        found |= against_truth(case.amp_img, case.amp_txt, z_img, z_txt)
    return found


def against_truth(
    amp_img: NDArray[np.float64], amp_txt: NDArray[np.float64], z_img: NDArray[np.floating], z_txt: NDArray[np.floating]
) -> dict[str, float]:
    """How well codes are the true concepts: MCC over both sides, and the share of concepts split in two atoms.

    A concept is split when the atom that follows it best in pictures is another than the one in texts.
    """
    both = correlations(np.concatenate([amp_img, amp_txt]), np.concatenate([z_img, z_txt]))
    best = [correlations(amp, z).argmax(axis=1) for amp, z in ((amp_img, z_img), (amp_txt, z_txt))]
    return {"mcc": match(both).score, "split_rate": float((best[0] != best[1]).mean())}


def recall_random(
    sae: SparseAutoencoder, scores: Scores, img: Tensor, txt: Tensor, rng: np.random.Generator, draws: int = 3
) -> float:
    """Recall when random atoms are taken out that hold as much energy as the one-sided ones."""
    removed, alive, values = scores.energy[scores.unimodal].sum(), np.flatnonzero(~scores.dead), []
    for _ in range(draws):
        order = rng.permutation(alive)
        gone = order[: np.searchsorted(np.cumsum(scores.energy[order]), removed)]
        keep = np.ones(len(scores.mu), dtype=bool)
        keep[gone] = False
        values.append(recall(*(F.normalize(intervene(sae, x, keep), dim=1) for x in (img, txt))))
    return float(np.mean(values))


def histogram(scores: Scores) -> list[float]:
    """Share of the energy by modality score, in equal bins from 0 (texts only) to 1 (pictures only)."""
    alive = ~scores.dead
    counts = np.histogram(scores.mu[alive], bins=BINS, range=(0, 1), weights=scores.energy[alive])[0]
    return (counts / counts.sum()).tolist()


def measure_edits(queries: dict[float, Tensor], rows: Embedded, scale: float) -> dict[str, Any]:
    """Recall of the target glyph, and how foreign the query is among pictures; at every scale and at the arm's own.

    Both scales of the arm's own choice and 1 are told apart: `edit_recall` is at `scale`, `edit_ood` at 1 for all arms.
    """
    assert rows.gallery is not None
    assert rows.target is not None
    assert rows.ref_row is not None
    recalls, foreign = {}, {}
    for weight, query in queries.items():
        similarity = (query @ rows.gallery.T).numpy()
        similarity[np.arange(len(query)), rows.ref_row] = -2.0  # the picture that was edited is no answer
        recalls[weight] = recall_at_k(similarity, rows.target, PLACES)
        foreign[weight] = float(ood_distance(query, rows.img).mean())
    return {
        "edit_recall": recalls[scale],
        "edit_ood": foreign[1.0],
        "edit_recalls": list(recalls.values()),
        "edit_oods": list(foreign.values()),
    }


def plain_queries(rows: Embedded, centred: bool) -> dict[float, Tensor]:
    """unit(picture + scale * words), the words less the mean text where `centred`."""
    assert rows.ref is not None
    assert rows.words is not None
    words = F.normalize(rows.words - rows.txt.mean(0), dim=1) if centred else rows.words
    return {scale: F.normalize(rows.ref + scale * words, dim=1) for scale in SCALES}


def shared_queries(rows: Embedded, sae: SparseAutoencoder) -> dict[float, Tensor]:
    """The same with what bimodal atoms hold of the words."""
    assert rows.ref is not None
    assert rows.words is not None
    scores = score_rows(sae, rows.img, rows.txt)
    return {scale: edit(sae, scores, rows.ref, rows.words, scale) for scale in SCALES}


def plane(rows: Embedded, sae: SparseAutoencoder) -> list[float]:
    """Pictures and texts before and after closing the gap, each on their own first two principal axes, flattened."""
    closed = close_gap(rows.test_img, rows.test_txt, sae, score_rows(sae, rows.img, rows.txt))
    points = []
    for img, txt in ((rows.test_img, rows.test_txt), closed):
        both = torch.cat([img[:SHOWN], txt[:SHOWN]]).double().numpy()
        both -= both.mean(axis=0)
        left, size, axes = np.linalg.svd(both, full_matrices=False)
        sign = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
        points.append(left[:, :2] * size[:2] * sign)
    return np.concatenate(points).ravel().tolist()


def shifted(rows: Embedded) -> tuple[Tensor, Tensor]:
    """Held-out rows less the means of the training rows."""
    return shift_means(rows.test_img, rows.test_txt, (rows.img.mean(0), rows.txt.mean(0)))
