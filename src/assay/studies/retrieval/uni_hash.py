"""UniHash: does one code trained by centres and pairs together serve known and new classes better? (2601.09828)

Main set: emoji of 41 subgroups with at least 14 concepts, drawn by two artists; 704 numbers for shape and colour of a
glyph, drawings and not photographs. Each seed draws 12 classes that training never sees and, in every class, 30 % of
the concepts as queries. A query of one artist is asked of the other artist's glyphs of the remaining concepts, both
ways round; a cook is one concept whoever cooks, so that no near-duplicate gives an answer away. The unseen classes are
searched in a gallery of their own (the paper's protocol, as a public summary has it) and in that of all classes. As
checks: COIL-20 (14 objects seen, 6 not, every view its own concept; turntable pictures where the file is not at hand)
and scikit-learn's digits (7 and 3). All seeds draw from the same sets: intervals speak of these, not of other pictures.

Arms have the same network (one hidden layer of 256), batches and 25 epochs. The code of UniHash is the sign of both
branches' sum; `unihash-centre` and `unihash-pair` search the same network by one branch. `two-codes` is the strongest
simple combination: half of the bits from a centre network, half from a pair network, trained apart (twice the work).
`pca-itq` sees no label and says what the raw features hold: above it on new classes, training has taught something that
carries over.

Tuning: 16 settings an arm on the splits of seeds 100 and 101 of the main set in 32 bits, taken by the harmonic mean;
the study does not use these seeds, though their classes come from the same 41. First 8: rate (0.001, 0.003), dropout
(0.2, 0.5), weight decay (0, 0.1) at the default weights of the losses. Then 8 single changes of the best: for single
branches quantisation (0, 0.5), rate (0.0005, 0.006), dropout (0, 0.7), weight decay (0.5, 2); for two branches the
weights of centre and pair loss (4), of agreement (0.1, 2), its direction, dropout of the pool or no quantisation, and
dropout 0.7; for `no-align` quantisation, weight decay and two dropouts of the pool in place of the agreement's. The
best settings of all arms but `no-align` (0.319) lay between 0.330 and 0.340, so a rank among them was not to be
expected from two splits, and the judged seeds may well leave it open. Ablations keep the setting of the whole,
`two-codes` those of its halves, the checks and other lengths those of the main set in 32 bits.

Controls: with the labels of training permuted, no arm may beat `pca-itq` on new classes; with no class held back,
there is nothing for pairs to add, and UniHash must not beat centres alone on known ones (C5 asks whether it keeps up).

The form of the pair loss, the wiring of the experts and the code that is searched are ours (see the method); where the
whole does not win, the paper's own wiring might. The paper trains its backbone; here features are fixed, at full scale
too (`--data FOLDER`: CIFAR-10, MSCOCO or class folders, through a pretrained network).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from assay.errors import InputError
from assay.lab import Better, Evidence, Gate, NotWorse, Study
from assay.studies.retrieval._uni_apply import index_files, search_files, train_files
from assay.studies.retrieval._uni_arms import ABLATIONS, codes_of, entropy_of_gates, measures, shuffled
from assay.studies.retrieval._uni_data import Task, has_coil, make_task, pool_of
from assay.studies.retrieval._uni_figure import draw_figure

BITS = {"bits-16": 16, "bits-64": 64}
CHECKS = ("coil-20", "digits")
EPOCHS = {"smoke": 2, "pocket": 25, "full": 60}
QUERIES = {"smoke": 2, "pocket": None, "full": 100}  # largest number of queries a class
CLASSES = {"smoke": 12, "pocket": None, "full": None}  # classes drawn from the main set

SINGLES = ("centre-only", "pair-only")
EVERYWHERE = ["main", *BITS, *CHECKS]

study = Study(
    paper="2601.09828",
    arms={
        "pca-itq": "no labels: principal components, rotated (ITQ)",
        "centre-only": "class centres alone (as CSQ)",
        "pair-only": "pairs alone (as HashNet)",
        "two-codes": "half of the bits from each of the two above, trained apart",
        "no-align": "ablation: UniHash without the agreement loss",
        "no-moh": "ablation: UniHash without shared experts",
        "unihash": "both branches, agreement loss, shared experts; code of the sum",
        "unihash-centre": "the same network, code of the centre branch",
        "unihash-pair": "the same network, code of the pair branch",
        "tied-gates": "ablation: one router for both branches",
        "no-private": "ablation: experts only, no private heads",
        "dense-gates": "ablation: every item goes to all experts",
        "real-valued": "bound: cosine of UniHash's 256 features, no code",
    },
    conditions={
        "main": "real: emoji subgroups, one artist asks the other (at full scale the set in --data); 32 bits",
        "bits-16": "the same in 16 bits",
        "bits-64": "the same in 64 bits",
        "coil-20": "real: turning objects" if has_coil() else "simulated: turning objects",
        "digits": "real: handwritten digits",
        "all-seen": "control: the main set, no class is held back",
        "shuffled": "control: the main set, labels of training permuted",
    },
    arm_conditions={
        "pca-itq": [*EVERYWHERE, "all-seen", "shuffled"],
        "centre-only": [*EVERYWHERE, "all-seen", "shuffled"],
        "pair-only": [*EVERYWHERE, "all-seen", "shuffled"],
        "two-codes": ["main", "bits-64"],
        "no-align": ["main"],
        "no-moh": ["main", *CHECKS],
        "unihash": [*EVERYWHERE, "all-seen", "shuffled"],
        "unihash-centre": EVERYWHERE,
        "unihash-pair": EVERYWHERE,
        "real-valued": EVERYWHERE,
        **{arm: ["main"] for arm in ABLATIONS},
    },
    gates=[
        Gate(
            "map_seen", method="centre-only", condition="main", at_least=0.3,
            why="seen classes must have been learnt before codes can be compared",
        ),
    ],
    claims=[
        Better(
            "hmean_map", name="C1", method="unihash", baseline=SINGLES, conditions=["main"],
            paper="state of the art on both (abstract); 84.7 against 82.0 on unseen classes (public summary)",
        ),
        Better(
            "hmean_map", name="C1-checks", method="unihash", baseline=SINGLES, conditions=CHECKS,
            paper="as C1",
        ),
        Better(
            "hmean_map", name="C1-two", method="unihash", baseline="two-codes", conditions=["main"],
            paper="none: ours",
        ),
        Better(
            "map_seen", name="C2", method="centre-only", baseline="pair-only", conditions=["main"],
            paper="pointwise training excels on seen classes (abstract)",
        ),
        Better(
            "map_unseen", name="C3", method="pair-only", baseline="centre-only", conditions=["main"],
            paper="pairwise training generalises better to unseen classes (abstract)",
        ),
        Better(
            "map_unseen", name="C3-labels", method="unihash", baseline="pca-itq", conditions=["main"],
            text="on classes it never saw, UniHash beats codes that are learnt without any label",
            paper="none: ours",
        ),
        Better(
            "hmean_map", name="C4", method="unihash", baseline="no-moh", conditions=["main"],
            paper="SM-MoH enhances the exchange (abstract)",
        ),
        Better(
            "hmean_map", name="C4-align", method="unihash", baseline="no-align", conditions=["main"],
            paper="mutual learning improves discriminability and generalisation (abstract)",
        ),
        Better(
            "hmean_map", name="C4-order", method="no-moh", baseline="no-align", conditions=["main"],
            paper="none: ours",
        ),
        *(
            Better(
                "map_unseen", name=f"control: shuffled, {arm}", method=arm, baseline="pca-itq",
                conditions=["shuffled"], expected="not supported",
            )
            for arm in (*SINGLES, "unihash")
        ),
        NotWorse(
            "map_seen", name="C5", method="unihash", baseline="centre-only", margin=0.03, conditions=["all-seen"],
            text="where every class is known, UniHash loses nothing to centres alone (0.03)", paper="none: ours",
        ),
        Better(
            "map_seen", name="control: all seen", method="unihash", baseline="centre-only", conditions=["all-seen"],
            expected="not supported",
        ),
    ],
    metrics={
        "map_seen": "mAP, seen classes",
        "map_unseen": "mAP, unseen classes in a gallery of their own",
        "hmean_map": "harmonic mean of seen and unseen mAP",
        "map_seen_open": "mAP, seen classes in the gallery of all",
        "map_unseen_open": "mAP, unseen classes in the gallery of all",
        "hmean_open": "harmonic mean in the gallery of all",
        "precision_r2_seen": "precision within 2 bits, seen",
        "precision_r2_unseen": "precision within 2 bits, unseen",
        "gate_entropy": "evenness of the experts' use (1: even)",
    },
    seeds={"pocket": 8, "full": 3},
    data=lambda scale: "real" if has_coil() else "real and simulated",
    tolerance=0.02,
)  # fmt: skip


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> dict[str, Any]:
    """Tasks by condition, and the networks that arms of a seed share, filled by the first that needs one."""
    tasks = {}
    for condition in ("main", *CHECKS, "all-seen"):
        rng = np.random.default_rng([seed, 2601])
        pool = pool_of(condition, scale, data, device)
        share = {"unseen": 0.0} if condition == "all-seen" else {}
        classes = CLASSES[scale] if condition in ("main", "all-seen") else None
        tasks[condition] = make_task(pool, rng, most=QUERIES[scale], classes=classes, **share)
    return {"tasks": tasks, "trained": {}}


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: dict[str, Any]) -> dict[str, float]:
    """mAP of one arm's codes in one condition."""
    task: Task = shared["tasks"].get(condition, shared["tasks"]["main"])
    learnt = shuffled(task, np.random.default_rng([seed, 7])) if condition == "shuffled" else task
    same = "main" if condition in BITS else condition  # two-codes joins networks of fewer bits
    trained = shared["trained"].setdefault(same, {})
    codes = codes_of(arm, learnt, BITS.get(condition, 32), seed, EPOCHS[scale], trained)
    found = measures(codes, task)
    model = trained.get((arm, BITS.get(condition, 32)))
    if model is not None and model.heads.pool is not None:
        found["gate_entropy"] = entropy_of_gates(model, task.items)
    return found


@study.figure
def figure(evidence: Evidence) -> Any:
    return draw_figure(evidence)


@study.apply
def apply(
    task: Literal["train", "index", "search"],
    inputs: list[Path],
    out: Path = Path("assay-out/2601.09828"),
    bits: int = 64,
    features: str = "hog",
    epochs: int = 60,
    code: Literal["both", "centre", "pair"] = "both",
    k: int = 20,
    seed: int = 0,
) -> str:
    """Search your pictures by short binary codes: train IMAGES, index MODEL GALLERY, search MODEL INDEX QUERY.

    train: IMAGES is a folder with a folder per class, or a CSV of lines `file,label1;label2`. Writes a model folder
    (model.safetensors, config.json), the packed codes of the pictures (codes.npy, codes.csv) and report.json with the
    mAP of pictures held out of known classes and of a fifth of the classes held out altogether.

    index: MODEL is such a folder, GALLERY a folder of pictures. Writes a faiss binary index to OUT (a name that ends
    in .faiss), and beside it its packed codes (.npy) and file names (.json).

    search: QUERY is a picture or a folder of pictures. Writes results.csv and a page with the pictures found.

    Args:
        task: train, index or search.
        inputs: what the task takes, in this order.
        out: folder or, for index, file to write.
        bits: length of a code, a multiple of 8 (train).
        features: what a picture is turned into: hog (gradients and colours, needs no download) or hf:NAME, a frozen
            vision model by its id or folder (train).
        epochs: passes over the pictures (train).
        code: search with the codes of both branches or of one (train).
        k: pictures to find for a query (search).
        seed: of training and of what is held out (train).
    """
    wanted = {"train": 1, "index": 2, "search": 3}[task]
    if len(inputs) != wanted:
        names = {"train": "IMAGES", "index": "MODEL GALLERY", "search": "MODEL INDEX QUERY"}[task]
        raise InputError(f"{task} takes {names}, got {len(inputs)} paths")
    if task == "train":
        return train_files(inputs[0], out, bits=bits, features=features, epochs=epochs, code=code, seed=seed)
    if task == "index":
        return index_files(inputs[0], inputs[1], out)
    return search_files(inputs[0], inputs[1], inputs[2], out, k)
