"""CytoCrowd: is majority vote the best way to merge what four pathologists saw? (2602.06674)

Four pathologists box and classify cells; a senior expert's gold boxes tell which merging rule comes closest. The paper
ranks majority vote first. The condition `cytocrowd` is its own tables (a simulated crowd of the same make-up where they
are not at hand, and then the evidence says so); two simulated crowds show that the study can find either answer.

Every seed but the first is a bootstrap resample of images or scenes; grouping is done once and shared by all arms.

What the real tables say, and why:

- No rule is clearly ahead of another; the paper's order cannot be told from chance with a few hundred images, and
  where a difference shows, ZenCrowd is above majority vote (contradicted on all 446 images, inconclusive on 335).
- The paper does not say how a tied vote is decided. With few voters that is the question: about one matched group in
  seventeen is tied, nearly always between "other normal" and a specific class that is right. Deciding ties for the
  class with more votes overall (`majority`) is then systematically wrong, a coin (`majority-random-ties`) is half
  right, and that moves majority vote by about as much as all the paper's rules down to ZenCrowd differ: with the coin
  it comes out first, as in the paper, with the other rule near the end. C5 and C6 were added after this was seen, on
  the same data; C1 to C4 were fixed before.
- CATD gives nearly all weight to one annotator: who is once right on every group is never caught again, since that
  annotator's vote then decides.
- The existence filter works as a step: of the lone boxes, only those of the annotator whom peers confirm least fall
  below its threshold of 0.7. At 0.8 it would drop every lone box, as `majority+two-voters` does, and lose. The
  threshold was first tried with gold in view; take it as a setting that can help, not as one that carries over.

Full scale adds, where the images lie beside the tables, a DETR fine-tuned on merged boxes and scored on gold, and a
vision-language model asked for the class of gold crops (see `_cyto_images`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from assay.data import samples
from assay.data.tables import cytocrowd
from assay.data.tables.box_table import BoxTable, share_names, simulate_crowd
from assay.data.tables.coco_json import write_coco
from assay.errors import InputError, require
from assay.lab import Better, Evidence, Same, Study, resample_groups
from assay.methods.labels.cyto_crowd import (
    Aggregate,
    Fusion,
    Ints,
    Rule,
    Votes,
    aggregate,
    annotator_reliability,
    group_boxes,
    repeated_boxes,
    score,
)
from assay.metrics.boxes import match_boxes
from assay.studies.labels._cyto_report import (
    annotator_rows,
    as_votes,
    class_agreement,
    disputed_rows,
    read_boxes,
    rounded,
    votes_by_group,
    write_csv,
)

IOU = 0.5
MIN_EXISTENCE = 0.7
SCENES = 300
SMOKE_IMAGES = 60

PAPER_ACCURACY = {
    "majority": 0.903,
    "lfc": 0.896,
    "dawid-skene": 0.893,
    "zencrowd": 0.883,
    "catd": 0.857,
    "pm": 0.855,
}
PAPER_GAP = 0.010  # majority vote over Dawid-Skene

ARMS: dict[str, str] = {
    "majority": "majority vote, ties to the class with more votes overall",
    "majority-random-ties": "majority vote, ties by coin",
    "dawid-skene": "EM over a confusion matrix per annotator",
    "lfc": "the same with a prior that annotators are right",
    "zencrowd": "EM over one reliability per annotator",
    "catd": "voting weighted by a confidence bound on each annotator's errors",
    "pm": "voting weighted by each annotator's share of the errors",
    "best-single-annotator": "boxes of the annotator whom peers confirm most",
    "majority+existence": f"majority vote, groups with existence score below {MIN_EXISTENCE} dropped",
    "majority+two-voters": "ablation: majority vote, groups of one voter dropped",
    "union": "floor: every box as it was drawn",
}


def claim(name: str, baseline: str | Sequence[str], method: str = "majority", **more: Any) -> Better:
    """A claim that `method` is right about the class more often than `baseline` on the real tables."""
    return Better("tp_accuracy", name=name, method=method, baseline=baseline, conditions=["cytocrowd"], **more)


study = Study(
    paper="2602.06674",
    arms=ARMS,
    conditions={
        "cytocrowd": "the paper's tables (or a simulated crowd of the same make-up)",
        "sim-unequal": "simulated: one strong annotator, three weak ones who make the same mistakes",
        "sim-equal": "simulated control: four equal annotators with independent mistakes",
    },
    claims=[
        claim("C1", "dawid-skene", paper="0.903 against 0.893"),
        claim("C2", "catd", paper="0.903 against 0.857"),
        claim("C2b", "zencrowd", paper="0.903 against 0.883"),
        claim("C2c", "lfc", paper="0.903 against 0.896"),
        claim("C2d", "pm", paper="0.903 against 0.855"),
        Better(
            "box_f1", name="C3", method="majority+existence", baseline="majority", conditions=["cytocrowd"],
            paper="none: ours",
        ),
        Better(
            "box_f1", name="C3b", method="majority+existence", baseline="majority+two-voters",
            conditions=["cytocrowd"], paper="none: ours",
        ),
        claim("C4", "best-single-annotator", paper="none: what the benchmark is for"),
        claim(
            "C5", ["dawid-skene", "lfc", "zencrowd", "catd", "pm"], "majority-random-ties",
            paper="majority vote first of six",
        ),
        claim(
            "C6", "majority", "majority-random-ties", by=PAPER_GAP,
            text="the rule for ties alone moves majority vote by more than the paper's distance to Dawid-Skene, 0.010",
            paper="no rule for ties is given",
        ),
        Better(
            "tp_accuracy", name="control: unequal", method="dawid-skene", baseline="majority",
            conditions=["sim-unequal"], expected="supported",
        ),
        Same(
            "tp_accuracy", name="control: equal, Dawid-Skene", method="dawid-skene", baseline="majority",
            margin=PAPER_GAP, conditions=["sim-equal"], expected="supported",
        ),
        Better(
            "tp_accuracy", name="control: equal, ZenCrowd", method="zencrowd", baseline="majority",
            conditions=["sim-equal"], expected="not supported",
        ),
    ],
    metrics={
        "tp_accuracy": "right class among matched boxes",
        "rare_accuracy": "the same, classes below 1 % of gold",
        "precision": "precision of boxes (IoU > 0.5)",
        "recall": "recall of boxes (IoU > 0.5)",
        "box_f1": "F1 of boxes (IoU > 0.5)",
        "joint_f1": "F1 of boxes with the right class",
        "images": "images",
        "pattern_precision": "share of groups that match a gold box, by who drew them",
        "pattern_share": "share of groups, by who drew them",
        "detector_ap50": "AP50 of a detector trained on the merged boxes",
        "detector_ap50_gold": "AP50 of a detector trained on gold",
        "vlm_accuracy": "right class, vision-language model on gold crops",
    },
    seeds={"pocket": 20, "full": 200},
    data=lambda scale: "real and simulated" if samples.locate("cytocrowd") or scale == "full" else "simulated",
    resampled=True,
    time_limit={"full": 86_400},
)  # fmt: skip


@dataclass(frozen=True)
class Crowd:
    """Votes, gold and the groups that all arms share."""

    votes: Votes
    gold: BoxTable
    groups: Ints


@study.prepare
def prepare(seed: int, scale: str, data: Path | None) -> dict[str, Crowd]:
    folder = data or samples.locate("cytocrowd")
    if scale == "full" and folder is None:
        raise InputError(
            "the full scale needs the CytoCrowd tables: fetch them with"
            " `python -m assay.data.tables.cytocrowd FOLDER` and pass --data FOLDER"
        )
    tables = {
        "cytocrowd": real_tables(folder) if folder else simulated("like-cytocrowd"),
        "sim-unequal": simulated("sim-unequal"),
        "sim-equal": simulated("sim-equal"),
    }
    crowds = {}
    for name, (votes, gold) in tables.items():
        images = np.arange(len(votes.image_records))
        images = images[:SMOKE_IMAGES] if scale == "smoke" else images
        drawn = images[resample_groups(images, seed)]
        votes, gold = votes.take_images(drawn), gold.take_images(drawn)
        boxes = as_votes(votes)
        crowds[name] = Crowd(boxes, gold, group_boxes(boxes, IOU))
    return crowds


@lru_cache(maxsize=2)
def real_tables(folder: Path) -> tuple[BoxTable, BoxTable]:
    """Votes and gold of the real tables; read once in a process."""
    return cytocrowd.read(folder)


@lru_cache(maxsize=4)
def simulated(name: str) -> tuple[BoxTable, BoxTable]:
    """One fixed simulated crowd; seeds resample its scenes, as they resample the real images."""
    skewed = [0.45, 0.2, 0.1, 0.08, 0.07, 0.05, 0.035, 0.015]
    rng = np.random.default_rng(2602_06674)
    if name == "sim-unequal":
        return simulate_crowd(
            SCENES, rng, accuracy=(0.95, 0.6, 0.6, 0.6), detection=(0.9,) * 4, false_boxes=(0.5,) * 4,
            class_shares=skewed, wrong="shared",
        )  # fmt: skip
    if name == "sim-equal":
        return simulate_crowd(
            SCENES, rng, accuracy=(0.9,) * 4, detection=(0.9,) * 4, false_boxes=(0.5,) * 4, class_shares=skewed
        )
    long_tail = [0.65, 0.21, 0.04, 0.03, 0.02, 0.018, 0.012, 0.01, *[0.001] * 8]
    return simulate_crowd(
        SCENES, rng, accuracy=(0.91, 0.78, 0.92, 0.9), detection=(0.55, 0.19, 0.6, 0.49),
        false_boxes=(1.7, 0.8, 2.0, 1.7), class_shares=long_tail, objects=14.0,
    )  # fmt: skip


@study.trial
def trial(
    arm: str, condition: str, seed: int, scale: str, shared: dict[str, Crowd], device: str, data: Path | None
) -> dict[str, Any]:
    crowd = shared[condition]
    gold = crowd.gold
    merged = merge(arm, crowd, seed)
    found: dict[str, Any] = score(merged, gold.boxes, gold.labels, gold.images, IOU)
    found["images"] = float(len(gold.image_records))
    if condition == "cytocrowd" and arm == "majority":
        found |= by_voters(merge(arm, crowd, seed), gold)
    if scale == "full" and seed == 0 and condition == "cytocrowd" and data and (data / "imgs").is_dir():
        # Loaded by name: recorded evidence does not rest on it and does not go stale with it.
        pictures = require("assay.studies.labels._cyto_images", "labels")
        found |= pictures.full_scale(arm, merged, gold, data / "imgs", device)
    return {name: value for name, value in found.items() if not (name == "rare_accuracy" and np.isnan(value))}


def merge(arm: str, crowd: Crowd, seed: int = 0) -> Aggregate | Votes:
    """What an arm makes of a crowd's boxes."""
    votes, groups = crowd.votes, crowd.groups
    if arm == "union":
        return votes
    if arm == "best-single-annotator":
        mine = votes.annotators == annotator_reliability(votes, groups).argmax()
        return Votes(votes.boxes[mine], votes.labels[mine], votes.annotators[mine], votes.images[mine], votes.n_classes)
    if arm == "majority-random-ties":
        return aggregate(votes, "majority", groups=groups, ties="random", seed=seed)
    if arm == "majority+existence":
        return aggregate(votes, "majority", MIN_EXISTENCE, groups=groups)
    if arm == "majority+two-voters":
        merged = aggregate(votes, "majority", groups=groups)
        return merged.keep(merged.voters.sum(axis=1) >= 2)
    return aggregate(votes, arm, groups=groups)  # the arm is named like its rule


def by_voters(merged: Aggregate | Votes, gold: BoxTable) -> dict[str, list[float]]:
    """Precision and share of groups by the set of their voters; sets are coded in binary, from 1 to 2**A - 1."""
    assert isinstance(merged, Aggregate)
    code = merged.voters @ (1 << np.arange(merged.voters.shape[1]))
    size = 1 << merged.voters.shape[1]
    hit = match_boxes(merged.boxes, gold.boxes, first_images=merged.images, second_images=gold.images, threshold=IOU)
    count = np.bincount(code, minlength=size)[1:]
    hits = np.bincount(code[hit.first], minlength=size)[1:]
    return {
        "pattern_precision": np.where(count > 0, hits / np.maximum(count, 1), np.nan).tolist(),
        "pattern_share": (count / count.sum()).tolist(),
    }


@study.figure
def figure(evidence: Evidence) -> Any:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
    arms = sorted(
        (a for a in evidence.arms if not a.startswith("majority+")),
        key=lambda arm: evidence.mean_interval("tp_accuracy", arm, "cytocrowd")[0],
    )
    for row, arm in enumerate(arms):
        mean, low, high = evidence.mean_interval("tp_accuracy", arm, "cytocrowd")
        colour = "C3" if arm.startswith("majority") else "C0"
        left.plot([low, high], [row, row], color=colour, lw=2)
        left.plot(mean, row, "o", color=colour, label="here, 95 % interval" if row == 0 else None)
        if arm in PAPER_ACCURACY:
            left.plot(PAPER_ACCURACY[arm], row, "D", mfc="none", mec="0.3")
    left.plot([], [], "D", mfc="none", mec="0.3", label="paper")
    left.set_yticks(range(len(arms)), arms)
    left.set_xlabel(evidence.label("tp_accuracy"))
    left.set_title("Merging rules")
    left.grid(axis="x", alpha=0.3)
    left.legend(loc="upper left")

    precision = evidence.series("pattern_precision", "majority", "cytocrowd")
    share = evidence.series("pattern_share", "majority", "cytocrowd")
    if precision.size:
        people = (precision.shape[1] + 1).bit_length() - 1
        codes = sorted(range(1, precision.shape[1] + 1), key=lambda c: (c.bit_count(), c))
        names = ["".join("ABCDEFGH"[a] for a in range(people) if c >> a & 1) for c in codes]
        columns = np.array(codes) - 1
        mean = np.nanmean(precision, axis=0)[columns]
        low, high = np.nanpercentile(precision, [2.5, 97.5], axis=0)[:, columns]
        right.bar(range(len(codes)), mean, color=[f"C{c.bit_count() - 1}" for c in codes], alpha=0.8)
        right.errorbar(
            range(len(codes)), mean, yerr=[np.maximum(mean - low, 0), np.maximum(high - mean, 0)], fmt="none",
            ecolor="0.2",
        )  # fmt: skip
        for x, part in enumerate(share.mean(axis=0)[columns]):
            right.text(x, 0.02, f"{part:.0%}", ha="center", fontsize=8, color="white")
        right.set_xticks(range(len(codes)), names, rotation=60)
        right.set_ylim(0, 1.02)
        right.set_xlabel("annotators who drew the group (share of all groups in white)")
        right.set_ylabel("share of groups that match a gold box")
        right.set_title("What is there at all: who saw it")
    return figure


@study.apply
def apply(
    annotations: Path,
    out: Path = Path("merged.json"),
    label: Rule = "majority",
    min_existence: float = MIN_EXISTENCE,
    iou: float = IOU,
    box: Fusion = "median",
    gold: Path | None = None,
) -> dict[str, Any]:
    """Merge the boxes of several annotators into one set, and say what to review first.

    Writes OUT (COCO JSON, each box with `score`, `posterior` and `votes`) and beside it annotators.csv (how far each
    is confirmed by the others) and disputed.csv (every group, the most disputed first).

    Args:
        annotations: COCO JSON whose annotations have `annotator` or `annotator_id`; or a CSV with the columns
            image,annotator,x0,y0,x1,y1,label; or the CytoCrowd folder.
        out: COCO JSON to write.
        label: rule for the class of a group.
        min_existence: drop groups with a lower existence score; 0 keeps all.
        iou: overlap from which boxes of two annotators are one object.
        box: rule for the box of a group.
        gold: boxes to score against: COCO JSON, a CSV without annotator, or the CytoCrowd folder.
    """
    if not 0 < iou < 1 or not 0 <= min_existence <= 1:
        raise InputError(f"--iou must lie between 0 and 1 and --min-existence in 0..1, got {iou} and {min_existence}")
    if out.name in ("annotators.csv", "disputed.csv"):
        raise InputError(f"--out {out.name}: that name is taken by a table written beside it; expected a .json file")
    table = read_boxes(annotations, annotator=True)
    truth = read_boxes(gold, annotator=False) if gold else None
    if truth is not None:
        table, truth = share_names(table, truth)
    if len(table.people) < 2:
        raise InputError(f"{annotations}: {len(table.people)} annotator, expected at least two to merge")
    votes = as_votes(table)
    groups = group_boxes(votes, iou)
    whole = aggregate(votes, label, box=box, groups=groups)
    kept = whole.existence >= min_existence
    merged = whole.keep(kept)
    said = votes_by_group(table, groups)

    write_coco(
        out,
        merged.boxes,
        merged.labels.tolist(),
        merged.images.tolist(),
        categories=table.categories,
        image_records=table.image_records,
        more=[
            {"score": round(float(whole.existence[g]), 4), "posterior": round(float(whole.posterior[g].max()), 4),
             "votes": said[g]}
            for g in np.nonzero(kept)[0]
        ],
        info={"description": f"merged from {len(table.people)} annotators: {label}, {box} box, IoU {iou:g}"},
    )  # fmt: skip
    write_csv(out.parent / "annotators.csv", annotator_rows(table, votes, groups))
    write_csv(out.parent / "disputed.csv", disputed_rows(table, whole, kept, said))
    report: dict[str, Any] = {
        "boxes": len(votes.labels),
        "annotators": len(table.people),
        "groups": len(kept),
        "kept": int(kept.sum()),
        "same_annotator_overlaps": repeated_boxes(votes, iou),
        "krippendorff_alpha": rounded(class_agreement(votes, groups)),
    }
    if truth is not None:
        scores = score(merged, truth.boxes, truth.labels, truth.images)
        report |= {name: rounded(value) for name, value in scores.items()}
    return report
