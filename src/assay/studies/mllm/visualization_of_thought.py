"""MVoT: does thinking in pictures keep track of a board, and does knowing look-alikes draw it better? (2501.07542)

Walks over frozen lakes (gymnasium's FrozenLake, its own sprites, lighting and noise of a camera added): where do these
actions lead - to the gift (A), into a hole (B), neither (C)? Training has walks of 2 to 6 actions, tests go to 8. A
k-means tokenizer of 96 codes turns every cell into one code; lighting and noise give each thing several codes that
look alike. All arms are the same small transformer, start from the same numbers and read the same pictures.

What is smaller than in the paper, and what was cut from a plan of 45-second trials:

- A frame's cells are drawn at once, by two 3x3 convolutions on the cells' hidden states, not code by code (the method
  has both), and all that the pictures in context show at one cell enters as one token. The newest thought is added to
  the cells, and words carry the action that they speak of; every arm has both.
- Three quarters of the variance of a code's embedding start as a projection of its centroid, in place of a pretrained
  model's embeddings. Without it no arm left the plateau of the start within budget. Codes that look alike thus start
  alike for cross-entropy too, which leaves less for the discrepancy to teach.
- 240 updates of 32 frames and 32 reasons, 300 test walks, four seeds; the plan had 600 updates, 400 walks, five seeds.
- Of the reasoning samples about 40 % are moved to the end of their walk, another 15 % ask for the number of holes.
- `cot` says one word for row and column and one for the tile there, before and after every action; its words for places
  start like the marks of the cells they name. It has 600 updates, in which it learns from about as many words as the
  drawing arms from codes, and more time than they take; `direct` has 220 of twice the batch, nearly their time.

Tuned on seeds 9001 and 9002, which are not judged, before any judged run: learning rates (`direct` 4e-3, 6e-3, 1e-2;
`cot` 4e-3, 6e-3, 1e-2, 1.6e-2; drawing 4e-3 to 1e-2), coordinates as one word or two, and the share and updates above,
so that cross-entropy alone is at neither floor nor ceiling. (The discrepancy had one run in all this, with 450 updates
and nine tenths, where both losses were near the ceiling.) Losses weigh as in the paper.

Accuracies and, unless a name says `_sampled`, pictures are the likeliest ones for every arm; the public code samples. A
cell counts as what its code mostly shows in training: tile, elf, or elf in a hole (8 pixels tell no more).

Controls: the same loss with distances permuted among codes; and counting holes, which no step changes, so that
pictures of the steps should not help over `direct`.

Full scale: `--data FOLDER` with the public traces (mazes, FrozenLake), Anole-7B or FOLDER/model, see `_vot_full`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from assay.errors import require
from assay.lab import Better, Evidence, Gate, NotWorse, Study
from assay.studies.mllm._vot_arms import judge_arm, strip, train_arm
from assay.studies.mllm._vot_pocket import GRIDS, STEPS, Size, World, build_world

SIZES = {
    "smoke": Size(train=45, test=45, updates=3, direct=3, verbal=3, batch=8, width=16, codes=24),
    "pocket": Size(),
}
ARMS = {
    "direct": "answers at once",
    "cot": "thinks in words: place and tile after every action",
    "mvot": "thinks in pictures, trained with cross-entropy + token discrepancy",
    "mvot-ce": "the same with cross-entropy alone",
    "mvot-ld-only": "ablation: token discrepancy alone",
    "mvot-lambda5": "ablation: token discrepancy weighs 5",
    "mvot-all-frames": "ablation: every picture stays in context",
    "mvot-text-only": "ablation: trained as mvot, draws nothing when asked",
    "mvot-permuted": "control: distances permuted among codes",
}
SHARED = ("mvot", "mvot-text-only")  # one model

study = Study(
    paper="2501.07542",
    arms=ARMS,
    claims=[
        Better("v_acc", name="C1", method="mvot", baseline="mvot-ce", paper="'significantly improves' (abstract)"),
        Better(
            "v_acc_sampled", name="C1b", method="mvot", baseline="mvot-ce",
            paper="the same with sampled pictures, as the public code draws them",
        ),
        Better(
            "v_red", name="C1c", method="mvot", baseline="mvot-ce", higher=False,
            paper="'visual coherence and fidelity' (abstract)",
        ),
        Better(
            "accuracy_long", name="C2", method="mvot", baseline="direct",
            paper="none: ours; walks of five actions and more",
        ),
        Better(
            "accuracy_largest", name="C3", method="mvot", baseline="cot",
            paper="improvements 'in the most challenging scenarios where CoT fails' (abstract)",
        ),
        NotWorse(
            "accuracy", name="C3b", method="mvot", baseline="cot", margin=0.05, paper="'competitive' (abstract)",
        ),
        Better(
            "accuracy_long", name="C4", method="mvot", baseline="mvot-text-only",
            paper="none: whether the pictures are used at all",
        ),
        NotWorse(
            "accuracy", name="C5", method="mvot", baseline="mvot-all-frames", margin=0.05,
            paper="none: the public code keeps the first and the newest picture only",
        ),
        Better(
            "v_acc", name="control: permuted", method="mvot-permuted", baseline="mvot-ce", expected="not supported",
            paper="none: distances that mean nothing must not help",
        ),
        Better(
            "count_accuracy", name="control: counting", method="mvot", baseline="direct", expected="not supported",
            paper="none: a question that no step changes",
        ),
    ],
    gates=[
        Gate(
            "v_acc", method="mvot-ce", at_least=0.3, claims=["C1", "C1b", "C1c"],
            why="cross-entropy alone has not learnt to draw, so that losses cannot be told apart",
        ),
    ],
    metrics={
        "accuracy": "right answers (share)",
        "accuracy_long": "right answers, walks of 5 to 8 actions (share)",
        "accuracy_unseen": "right answers, walks longer than any in training (share)",
        "accuracy_largest": "right answers on 5 x 5 lakes (share)",
        "accuracy_smallest": "right answers on 3 x 3 lakes (share)",
        "accuracy_by_length": "right answers (share)",
        "accuracy_by_grid": "right answers (share)",
        "accuracy_sampled": "right answers, everything sampled (share)",
        "count_accuracy": "right number of holes (share)",
        "tokens": "words and codes made for a walk",
        **{
            f"{name}{how}": f"{words}{', sampled' if how else ''}"
            for how in ("", "_sampled")
            for name, words in {
                "v_acc": "frames whose changing cells are right (V-Acc, share)",
                "v_red": "frames with another cell wrong (V-Red, share)",
                "v_ratio": "share of a walk before the first wrong frame (V-Ratio)",
                "pixel_mse": "squared error of pixels",
            }.items()
        },
    },
    seeds=4,
    data=lambda scale: "real" if scale == "full" else "simulated",
    tolerance=2e-2,
    tolerances={
        **dict.fromkeys(["strip_true", "strip_imagined", "accuracy_by_length", "accuracy_by_grid"], None),
    },
    time_limit={"full": 14 * 86_400},
)  # fmt: skip


@study.prepare
def prepare(seed: int, scale: str, data: Path | None, device: str) -> dict[str, Any]:
    if scale == "full":
        # Loaded by name: recorded evidence does not rest on it and does not go stale with it.
        return {"full": require("assay.studies.mllm._vot_full", "mllm").prepare(seed, data, device)}
    world = build_world(seed, SIZES[scale])
    return {"world": world, "mvot": train_arm("mvot", world, seed, SIZES[scale])}


@study.trial
def trial(arm: str, seed: int, scale: str, shared: dict[str, Any]) -> dict[str, Any]:
    if scale == "full":
        return require("assay.studies.mllm._vot_full", "mllm").trial(arm, seed, shared["full"])
    world: World = shared["world"]
    model = shared["mvot"] if arm in SHARED else train_arm(arm, world, seed, SIZES[scale])
    metrics = judge_arm(arm, model, world, seed)
    return metrics | (strip(model, world) if arm == "mvot" and seed == 0 else {})


@study.figure
def figure(evidence: Evidence) -> Any:
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(12, 7), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2])
    left, right = top.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    lengths = np.arange(2, STEPS + 1)
    lines = {"mvot": "C3", "mvot-ce": "C1", "mvot-text-only": "C4", "cot": "C0", "direct": "0.5"}
    for arm, colour in lines.items():
        curves = evidence.series("accuracy_by_length", arm)
        if curves.size:
            left.plot(lengths, curves.mean(axis=0), "o-", color=colour, label=arm)
            left.plot(lengths, curves.T, color=colour, alpha=0.2, lw=0.8)
    left.axhline(1 / 3, color="0.7", lw=0.8, ls=":")
    left.axvspan(6.5, STEPS + 0.3, color="0.93", zorder=0)
    left.text(6.6, 0.02, "longer than in training", fontsize=8, transform=left.get_xaxis_transform())
    left.set(xlabel="actions", ylabel=evidence.label("accuracy_by_length"), ylim=(0.15, 1.02),
             title="Where do these actions lead? (thin: seeds)")  # fmt: skip
    left.legend(fontsize=8)
    drawing = [arm for arm in evidence.arms if np.isfinite(evidence.values("v_acc", arm)).any()]
    for row, arm in enumerate(reversed(drawing)):
        for shift, metric, colour in ((0.15, "v_acc", "C2"), (-0.15, "v_acc_sampled", "C5")):
            mean, low, high = evidence.mean_interval(metric, arm)
            label = "sampled" if metric.endswith("sampled") else "likeliest"
            right.barh(row + shift, mean, height=0.3, color=colour, alpha=0.7, label=None if row else label)
            right.plot([low, high], [row + shift] * 2, color="0.2", lw=1.5)
    right.set_yticks(range(len(drawing)), list(reversed(drawing)))
    right.set(xlabel="frames whose changing cells are right", xlim=(0, 1), title="Imagined frames (95 % intervals)")
    right.legend(fontsize=8, loc="lower right")
    _draw_strip(bottom, evidence)
    return figure


def _draw_strip(panel: Any, evidence: Evidence) -> None:
    """The true frames of one walk over those that mvot imagined."""
    true, made = (evidence.series(name, "mvot") for name in ("strip_true", "strip_imagined"))
    if not true.size:
        return
    ways = ("left", "down", "right", "up")
    actions = evidence.series("strip_actions", "mvot")[0].astype(int)
    axes = panel.subplots(2, true.shape[1])
    for row, (name, frames) in enumerate((("true", true[0]), ("imagined", made[0]))):
        for k, frame in enumerate(frames):
            axes[row, k].imshow(frame.astype(np.uint8))
            axes[row, k].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(name)
    for k, title in enumerate(["start", *(ways[a] for a in actions)]):
        axes[0, k].set_title(title, fontsize=9)
    panel.suptitle("One test walk through the tokenizer, and as mvot imagined it", fontsize=10)


@study.apply
def apply(
    board: Path,
    out: Path = Path("thought"),
    actions: str = "",
    grid: int = 4,
    model: str | None = None,
    tokenizer: Path | None = None,
    train: bool = False,
    temperature: float = 0.0,
    updates: int = 600,
    question: Literal["actions", "text"] = "actions",
    seed: int = 0,
) -> dict[str, Any]:
    """Follow actions on a picture of a board by imagining it after every step, or learn a board's looks from traces.

    Writes OUT/trace.json (thoughts and answer), OUT/frames/ and OUT/strip.png. With --train, BOARD is a folder of
    traces and OUT/model and OUT/codebook.npz are written instead, for --model and --tokenizer.

    Args:
        board: picture of a board; or, with --train, a folder of traces in MVoT's layouts: maze tables with action_list,
            path_locs and file_prefix, or FrozenLake's data.json with actions, states and env_desc, frames beside them.
        out: folder to write.
        actions: what to do, such as "right right down"; left, down, right, up.
        grid: cells along a side of the board; with --train it is read from the traces.
        model: OUT/model of a training, or a Chameleon or Anole checkpoint (folder or Hugging Face id).
        tokenizer: OUT/codebook.npz of a training; beside the model when not given.
        train: learn from traces.
        temperature: of the draws; 0 takes the likeliest.
        updates: training steps.
        question: how a Chameleon checkpoint is asked: by the actions alone, or in a sentence.
        seed: of training and draws.
    """
    using = require("assay.studies.mllm._vot_apply", "mllm")
    if train:
        return using.learn(board, out, updates, seed)
    return using.follow(board, out, actions, grid, model, tokenizer, temperature, question, seed)


__all__ = ["GRIDS", "apply", "figure", "prepare", "study", "trial"]
