"""ViSIL: does a vision-language model's surprise at the facts say what a summary of a video lost? (2601.09851)

A world that is solved exactly: videos of six events with four facts each, from a grammar whose posterior given any
words and frames is a sum over 900 cells, so what a summary truly loses is known in nats. A judge of 76,000 weights
learns from scratch to caption from any evidence (its frames come through an eye taught beforehand); a reader of other
width and start answers questions from the summary alone. ViSIL uses captions that the judge itself samples from the
whole video, never the true ones. Twenty-four summaries a video: texts of 3 to 24 words by salient, random and careless
writers (one word in ten wrong), rows of 1 to 8 frames, mixtures; a word costs one token, a frame three.

In `paraphrased` half the facts of a text are told by synonyms; in `same-words` none is, which is the home ground of
ROUGE. `embed-sim` is trained for the task as CLIP is, on the same kinds of evidence. Selection is compared at equal
budgets with rules a practitioner would use: the longest salient text (`text-only`), the most even frames, half of each.

Set on seed 1000, which is never judged: how long each network learns, the price of a frame (at three tokens neither
texts nor frames win at every budget), recall for ROUGE-L (of recall and F1), the embedder's temperature (of 0.05,
0.1, 0.2 and 0.4) and updates (of 200 and 400). ViSIL has nothing that was tuned: floor, content words and two captions
were fixed before.

A frame shows colour, shape and place, the action only in the second half of its event, and of a covered sprite only the
half of the picture. Questions ask for facts of any event and attribute alike, and one for a count. ROUGE counts facts
as questions do, ViSIL weighs them by surprise: where texts are all there is, it need not win. The judge is a small
imperfect model; `visil-true-caption` and `coverage-oracle` say what its captions and its errors cost.

Full scale: multiple-choice questions on real videos with a judge and a reader of other families (see `_vi_sil_full`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from assay.errors import require
from assay.lab import Better, Bound, Evidence, Gate, Same, Study
from assay.methods.evaluation.vi_sil import Candidate, content_positions, select
from assay.metrics.rank_correlation import kendall, rank_error, spearman
from assay.studies.evaluation import _vi_sil_bench as world
from assay.studies.evaluation._vi_sil_bench import BUDGETS, Bench, Size, Video
from assay.studies.evaluation._vi_sil_report import draw

SIZES = {
    "smoke": Size(clips=60, eye=8, judge=6, reader=6, embedder=4, blind=4, videos=3),
    "pocket": Size(clips=3000, eye=350, judge=550, reader=680, embedder=450, blind=150, videos=40),
}
SYNONYMS = {"paraphrased": 0.5, "same-words": 0.0}
SCORES = {
    "visil": "ViSIL: judge's own captions, floor 0.5 %",
    "nvisil": "the same over what nothing loses",
    "visil-true-caption": "ablation: the true caption in place of the judge's",
    "visil-no-floor": "ablation: no floor",
    "visil-blind": "control: judge that never saw a frame",
    "vibe-grounding": "VIBE: information of the text given the video (texts only)",
    "rouge-l": "ROUGE-L recall against the true caption (texts only)",
    "embed-sim": "cosine with the video, contrastive embedder",
    "coverage-oracle": "ceiling: the true loss",
    "random": "floor: a random score",
}
CHOICES = {
    "visil-select": "least ViSIL within the budget, any format",
    "text-visil": "ablation: least ViSIL among texts",
    "text-only": "the longest salient text",
    "frames-only": "the most evenly spread frames",
    "length-heuristic": "the whole budget, half frames and half text",
    "embed-select": "highest cosine within the budget",
    "random-select": "floor: any summary within the budget",
    "oracle-select": "ceiling: least true loss within the budget",
}
RULES = {"visil-select": "visil", "text-visil": "visil", "embed-select": "embed-sim", "random-select": "random",
         "oracle-select": "coverage-oracle"}  # fmt: skip
TEXT_SCORES = ("vibe-grounding", "rouge-l")
MAIN = ["paraphrased"]

study = Study(
    paper="2601.09851",
    arms=SCORES | CHOICES,
    conditions={
        "paraphrased": "half the facts of a text are told by synonyms",
        "same-words": "texts use the words of the caption",
    },
    arm_conditions=dict.fromkeys(
        ("visil-true-caption", "visil-no-floor", "visil-blind", "frames-only", "random", "random-select"), MAIN
    ),
    gates=[
        Gate("judge_reads", method="visil", condition="paraphrased", at_least=0.8,
             why="the judge must explain the captions by the video, or its surprise at a summary says nothing"),
        Gate("reader_reads", method="visil", condition="paraphrased", at_least=0.7,
             why="the reader must answer most questions from whole videos, or its answers from a summary say nothing"),
    ],
    claims=[
        Bound("spearman_qa", name="C0", method="visil", at_least=0.0, conditions=MAIN,
              text="ViSIL correlates with answers to questions: its rank correlation is above zero",
              paper="'statistically significant correlation' with VQA (abstract)"),
        Better("spearman_qa_text", name="C1", method="visil", baseline="rouge-l", conditions=MAIN,
               paper="none: ours"),
        Better("spearman_qa", name="C1b", method="visil", baseline="embed-sim", conditions=MAIN, paper="none: ours"),
        Better("spearman_qa_text", name="C1c", method="visil", baseline="vibe-grounding", conditions=MAIN,
               paper="none: ours"),
        Better("qa_accuracy", name="C2", method="visil-select", baseline="text-only", conditions=MAIN,
               paper="7 % higher VQA accuracy than text summaries at no more load (abstract)"),
        Better("qa_accuracy", name="C2b", method="visil-select", baseline="text-visil", conditions=MAIN,
               paper="none: ours"),
        Better("qa_accuracy", name="C3", method="visil-select", baseline="length-heuristic", conditions=MAIN,
               paper="none: ours"),
        Better("qa_accuracy", name="C3b", method="visil-select", baseline="embed-select", conditions=MAIN,
               paper="none: ours"),
        Better("qa_accuracy", name="C3c", method="visil-select", baseline="frames-only", conditions=MAIN,
               paper="none: ours"),
        Better("cross_format_error", name="C4", method="visil", baseline="embed-sim", higher=False, conditions=MAIN,
               paper="one score for all formats"),
        Better("spearman_qa_text", name="C5", method="visil", baseline="rouge-l", conditions=["same-words"],
               paper="none: ours, on ROUGE's home ground"),
        Same("spearman_noise", name="control: noise", method="visil", baseline="random", margin=0.1, conditions=MAIN,
             expected="supported",
             text="ViSIL orders answers to questions about noise no better than a random score (within 0.1)"),
        Bound("padding_gain", name="control: padding", method="visil", at_most=0.02, conditions=MAIN,
              expected="supported", text="padding a text lowers its ViSIL by at most 0.02 nats a word"),
        Bound("frames_gain", name="control: blind", method="visil-blind", at_most=0.05, conditions=MAIN,
              expected="supported",
              text="a judge that never saw a frame finds frames useless (gain over nothing at most 0.05 nats a word)"),
    ],
    metrics={
        "spearman_qa": "rank correlation with answers, within a video",
        "spearman_qa_text": "the same among texts",
        "kendall_qa": "Kendall's tau with answers",
        "pooled_spearman_qa": "rank correlation with answers, all videos together",
        "spearman_true": "rank correlation with the true loss",
        "spearman_entropy": "rank correlation with the conditional entropy",
        "cross_format_error": "rank error against the true loss between formats (share of candidates)",
        "slope": "ViSIL over true nats, slope",
        "spearman_noise": "rank correlation with answers about noise",
        "padding_gain": "fall of ViSIL by padding (nats a word)",
        "frames_gain": "what frames alone explain (nats a word)",
        "judge_reads": "share of prior surprise that the video takes away",
        "reader_reads": "answers from whole videos",
        "qa_accuracy": "right answers, mean over budgets",
        "accuracy_by_budget": "right answers by budget",
        "true_loss": "true loss of the chosen summary (nats)",
        "tau": "tokens of the chosen summary",
        "front_gap": "true loss above the true front (nats)",
        "measured": "share of videos that could be scored",
    },
    seeds={"pocket": 4, "full": 3},
    tolerance=5e-3,
    tolerances={"padding_gain": 0.1, "frames_gain": 0.05, "spearman_noise": 0.2},
)  # fmt: skip


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> Any:
    if scale == "full":
        return require("assay.studies.evaluation._vi_sil_full", "evaluation").prepare(seed, device, data)
    return world.build(SIZES[scale], seed, SYNONYMS)


@study.trial
def trial(arm: str, condition: str, scale: str, shared: Any) -> dict[str, Any]:
    videos = shared.videos[condition]
    if arm in CHOICES and (scale != "full" or RULES.get(arm) != "coverage-oracle"):
        return chosen(videos, choices(arm, condition, shared), shared.budgets)
    if scale == "full" and (arm in CHOICES or arm not in shared.measured):
        return {"measured": 0.0}  # the truth of a real video and a judge that never saw a frame are not to be had
    found = agreement(videos, shared.scores(arm, condition), only_text=arm in TEXT_SCORES)
    if scale == "full":
        return found
    if arm.startswith("visil"):
        found |= calibration(shared, arm, condition)
    if arm == "random":
        found["spearman_noise"] = noise(videos, shared.scores(arm, condition))
    if arm == "visil":
        found |= {
            "spearman_noise": noise(videos, shared.scores(arm, condition)),
            "padding_gain": world.padding_gain(shared, videos[:20], np.random.default_rng(0)),
            "judge_reads": judge_reads(shared, videos),
            "reader_reads": shared.read,
            "mean_loss": mean_of([-s for s in shared.scores(arm, condition)]).tolist(),
            "mean_true": mean_of([v.true_loss for v in videos]).tolist(),
            "mean_correct": mean_of([v.correct for v in videos]).tolist(),
            "kinds": [float(("text", "frames", "mixed").index(name)) for name in videos[0].formats],
            "mean_cost": mean_of([v.costs for v in videos]).tolist(),
        }
    return found


def agreement(videos: list[Video], scores: list[np.ndarray], only_text: bool) -> dict[str, float]:
    """How far a score orders summaries as answers and the true loss do; only what it is defined on."""
    found: dict[str, list[float]] = {}
    defined = [n for n, score in enumerate(scores) if not np.isnan(score).any()]
    for video, score in ((videos[n], scores[n]) for n in defined):
        text, truth = video.formats == "text", len(video.true_loss) > 0
        row = {"spearman_qa_text": spearman(score[text], video.correct[text])}
        if truth:
            row["spearman_true_text"] = spearman(score[text], -video.true_loss[text])
        if not only_text:
            row |= {"spearman_qa": spearman(score, video.correct), "kendall_qa": kendall(score, video.correct)}
        if truth and not only_text:
            row["spearman_true"] = spearman(score, -video.true_loss)
            row["spearman_entropy"] = spearman(score, -video.entropy_loss)
            row["cross_format_error"] = rank_error(score, -video.true_loss, video.formats)
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    if defined and not only_text:
        means["pooled_spearman_qa"] = spearman(
            np.concatenate([scores[n] for n in defined]), np.concatenate([videos[n].correct for n in defined])
        )
    return means | {"measured": len(defined) / len(scores)}


def calibration(bench: Bench, arm: str, condition: str) -> dict[str, float]:
    """Slope of ViSIL in nats a video on the true loss, and what frames alone explain."""
    videos = bench.videos[condition]
    size = len(content_positions(videos[0].caption))
    lost = -np.concatenate(bench.scores(arm, condition)) * size
    true = np.concatenate([video.true_loss for video in videos])
    frames = videos[0].formats == "frames"
    nothing = [world.visil_scores(bench, arm, video, [world.Summary()])[0] for video in videos]
    gain = [n + s[frames].mean() for n, s in zip(nothing, bench.scores(arm, condition), strict=True)]
    return {"slope": float(np.polyfit(true, lost, 1)[0]), "frames_gain": float(np.mean(gain))}


def judge_reads(bench: Bench, videos: list[Video]) -> float:
    """Share of the surprise at the true captions, seen nothing, that the whole video takes away."""
    shares = []
    for video in videos:
        nothing = world.visil_scores(bench, "visil-true-caption", video, [world.Summary()])[0]
        prior = -world.grammar.word_logprobs(world.grammar.posterior(len(video.facts)), video.facts).sum()
        shares.append(nothing * len(content_positions(video.caption)) / prior)
    return float(np.mean(shares))


def noise(videos: list[Video], scores: list[np.ndarray]) -> float:
    """Rank correlation of a score with answers that nothing in a summary can tell, within a video."""
    return float(np.mean([spearman(s, v.noise_correct) for v, s in zip(videos, scores, strict=True)]))


def choices(arm: str, condition: str, bench: Bench) -> np.ndarray:
    """Which candidate an arm takes for each video and budget, (videos, budgets)."""
    videos = bench.videos[condition]
    if arm not in RULES:
        return np.array([video.fixed[arm] for video in videos])
    rows = []
    for video, scores in zip(videos, bench.scores(RULES[arm], condition), strict=True):
        open_to = [n for n, name in enumerate(video.formats) if name == "text" or arm != "text-visil"]
        offered = {n: Candidate(video.candidates[n], video.costs[n], -scores[n]) for n in open_to}
        taken = [select(list(offered.values()), budget) for budget in bench.budgets]
        rows.append([next(n for n, c in offered.items() if c is choice) for choice in taken])
    return np.array(rows)


def chosen(videos: list[Video], picks: np.ndarray, budgets: Sequence[float]) -> dict[str, Any]:
    """What the chosen summaries are worth, by budget and on average."""
    correct = np.array([video.correct[row] for video, row in zip(videos, picks, strict=True)])
    tau = np.array([video.costs[row] for video, row in zip(videos, picks, strict=True)])
    found = {
        "qa_accuracy": float(correct.mean()),
        "accuracy_by_budget": correct.mean(0).tolist(),
        "tau": float(tau.mean()),
        "tau_by_budget": tau.mean(0).tolist(),
    }
    if len(videos[0].true_loss):
        loss = np.array([video.true_loss[row] for video, row in zip(videos, picks, strict=True)])
        best = np.array([[v.true_loss[v.costs <= budget].min() for budget in budgets] for v in videos])
        found |= {
            "true_loss": float(loss.mean()),
            "loss_by_budget": loss.mean(0).tolist(),
            "front_gap": float((loss - best).mean()),
        }
    return found


def mean_of(rows: list[np.ndarray]) -> np.ndarray:
    """Mean over videos, (24,)."""
    return np.mean(rows, axis=0)


@study.figure
def figure(evidence: Evidence) -> Any:
    return draw(evidence, tuple(SCORES), tuple(CHOICES), MAIN[0], BUDGETS)


@study.apply
def apply(
    video: Path,
    out: Path = Path("visil"),
    summaries: list[Path] = [],  # noqa: B006 - read as the default of a command-line option, never changed
    model: str | None = None,
    name: str | None = None,
    budget: float | None = None,
    make: bool = False,
    frames: int = 16,
    captions: int = 1,
    words: int = 120,
    frame_tokens: int = 256,
    mode: Literal["auto", "forced", "masked"] = "auto",
    seed: int = 0,
) -> dict[str, Any]:
    """What summaries of your video lose of it (nats a content word), and which to take within a budget of tokens.

    Args:
        video: video file, or a folder of its frames.
        out: folder for visil.csv, words.csv, front.png, captions.txt, report.json and the chosen summary.
        summaries: a .txt, a folder of frames, a picture, or a .yaml with `text` and `frames`; name the option again
            for more.
        model: vision-language model: http://SERVER/v1, a folder, or local:HUGGING_FACE_ID; without, ASSAY_LLM_URL and
            ASSAY_LLM_MODEL of the environment.
        name: the model's name on the server.
        budget: most tokens of the chosen summary; a frame counts as `frame-tokens`.
        make: make candidates too: keyframes, texts of several lengths by the model, mixtures.
        frames: frames that the model is shown of the whole video.
        captions: descriptions of the video to average over.
        words: about how long a description is at most.
        frame_tokens: tokens a frame costs.
        mode: forced (log-probabilities of the description), masked (words filled in), or what the server can.
        seed: of the bootstrap.
    """
    helper = require("assay.studies.evaluation._vi_sil_apply", "evaluation")
    return helper.score_files(
        video, out, summaries, model, name, budget, make, frames, captions, words, frame_tokens, mode, seed
    )
