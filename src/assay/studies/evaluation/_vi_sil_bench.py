"""Videos, summaries, questions and truth of the ViSIL study, and every score of a summary that is compared."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.data.video import fact_grammar as grammar
from assay.data.video.fact_summaries import write_text
from assay.data.video.fact_videos import STEPS, Clips, draw_clips
from assay.methods.evaluation.vi_sil import (
    Query,
    Summary,
    cost,
    grounding,
    medoid_keyframes,
    uniform_keyframes,
    visil_many,
    words,
)
from assay.metrics.text import rouge_l
from assay.nn.causal_lm import CausalLM
from assay.studies.evaluation import _vi_sil_training as training
from assay.studies.evaluation._vi_sil_sight import (
    CAPTION,
    EVENTS,
    ID,
    PLAIN,
    TELL,
    VOCABULARY,
    Frame,
    Rows,
    collate,
    evidence_row,
    features_of,
    padded,
    train_eye,
)
from assay.studies.evaluation._vi_sil_training import ERROR, QUESTIONS, Pool

FRAME_TOKENS = 3
TEXTS = (3, 6, 12, 24)
WRITERS = ("salient", "random", "careless")
UNIFORM, MEDOID = (1, 2, 4, 8), (2, 4)
MIXES = ((1, 3), (1, 6), (2, 6), (2, 12), (4, 6), (4, 12))  # frames, words
BUDGETS = (6, 12, 24)
FIXED = {
    "text-only": [WRITERS.index("salient") + len(WRITERS) * TEXTS.index(b) for b in BUDGETS],
    "frames-only": [len(TEXTS) * len(WRITERS) + UNIFORM.index(b // FRAME_TOKENS) for b in BUDGETS],
    "length-heuristic": [18 + MIXES.index((b // 2 // FRAME_TOKENS, b // 2)) for b in BUDGETS],
}
CAPTIONS = 2
ASKED = QUESTIONS // 2  # questions about facts; as many about noise


@dataclass(frozen=True)
class Size:
    """How much a scale takes: pool of clips, updates of each network, test videos."""

    clips: int
    eye: int
    judge: int
    reader: int
    embedder: int
    blind: int
    videos: int


@dataclass
class Judge:
    """A captioner as ViSIL's evidence model. Frames of a summary are `Frame`s; `table` holds the eye's features.

    `start` opens the text: `CAPTION` one with all facts, `TELL` one with some.
    """

    model: CausalLM
    table: Tensor
    start: int = CAPTION
    batch: int = 256

    def logprobs(self, queries: Sequence[Query]) -> list[list[float]]:
        """log p(word | words before, evidence), the caption teacher-forced."""
        found: list[list[float]] = []
        for start in range(0, len(queries), self.batch):
            part = queries[start : start + self.batch]
            target = padded([[ID[word] for word in words(q.caption)] for q in part])
            tails = torch.cat([torch.full((len(part), 1), self.start), target], 1)
            with torch.no_grad():
                hidden = self.model.hidden(**collate([row_of(q.evidence) for q in part], tails, self.table))
                logits = self.model.out(hidden[:, -target.shape[1] - 1 : -1])
                logs = logits.log_softmax(-1).gather(2, target[..., None])[..., 0]
            found += [logs[n, list(q.positions)].double().tolist() for n, q in enumerate(part)]
        return found

    masked_logprobs = logprobs  # it fills in from the left: what stands before a word is all it uses

    def captions(self, videos: Sequence[Summary], count: int, seed: int) -> list[list[str]]:
        """`count` captions of each video, sampled at temperature 1 (words of captions only)."""
        rows = [row_of(video) for video in videos for _ in range(count)]
        prompt = collate(rows, torch.full((len(rows), 1), CAPTION), self.table)
        allowed = torch.zeros(len(VOCABULARY), dtype=torch.bool)
        allowed[[ID[word] for word in grammar.ORDINALS[:EVENTS]]] = True
        allowed[np.concatenate(PLAIN)] = True
        made = self.model.generate(
            **prompt, steps=5 * EVENTS, allowed=allowed, generator=torch.Generator().manual_seed(seed)
        )
        texts = [" ".join(VOCABULARY[number] for number in row) for row in made.tolist()]
        return [texts[n * count : (n + 1) * count] for n in range(len(videos))]


def row_of(summary: Summary | None) -> Rows:
    """A summary as the models see it."""
    summary = summary or Summary()
    return evidence_row([ID[word] for word in words(summary.text or "")], summary.frames or [])


@dataclass
class Video:
    """A test video with its candidates, what is asked of it, and what each candidate truly loses.

    Attributes:
        true_loss: (K,) surprise of the facts given the candidate less that given the video (nats).
        entropy_loss: (K,) the same with conditional entropies.
        correct, noise_correct: (K,) share of questions the reader answers rightly from the candidate.
        fixed: the candidate that a simple rule takes at each budget.
    """

    facts: NDArray[np.int64]
    caption: str
    whole: Summary
    candidates: list[Summary]
    captions: list[str] = field(default_factory=list)
    costs: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    true_loss: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    entropy_loss: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    correct: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    noise_correct: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    fixed: dict[str, list[int]] = field(default_factory=dict)

    @property
    def formats(self) -> NDArray[np.str_]:
        """`text`, `frames` or `mixed` of each candidate."""
        return np.array([("mixed" if c.text else "frames") if c.frames else "text" for c in self.candidates])


@dataclass
class Bench:
    """What all arms of a seed share; scores are computed once and kept."""

    judge: Judge
    blind: Judge
    embedder: CausalLM
    videos: dict[str, list[Video]]  # by condition
    seed: int
    read: float  # share of questions the reader answers rightly from whole videos
    budgets: tuple[float, ...] = BUDGETS
    kept: dict[tuple[str, str], list[NDArray[np.float64]]] = field(default_factory=dict)

    def scores(self, name: str, condition: str) -> list[NDArray[np.float64]]:
        """A score of every candidate of every video, higher is better; NaN for `nvisil` of a video not read."""
        if (name, condition) not in self.kept:
            self.kept[name, condition] = _scores(self, name, condition)
        return self.kept[name, condition]


def build(size: Size, seed: int, synonyms: dict[str, float]) -> Bench:
    """Train the models on a pool of clips and set up test videos, their summaries in every condition."""
    rng = np.random.default_rng((seed, 2601_09851))
    clips = draw_clips(size.clips, rng)
    eye = train_eye(clips, size.eye, rng)
    pool = Pool(clips.facts, features_of(eye, clips))
    judge = training.train_judge(pool, size.judge, rng)
    reader = training.train_reader(pool, size.reader, rng)
    embedder = training.train_embedder(pool, size.embedder, rng)
    blind = training.train_judge(pool, size.blind, rng, frames=False)
    test = draw_clips(size.videos * EVENTS, rng)
    table = features_of(eye, test)
    bench = Bench(Judge(judge, table), Judge(blind, table), embedder, {}, seed, math.nan)
    for condition, share in synonyms.items():
        again = np.random.default_rng((seed, 1))  # the same choices in every condition, told in other words
        bench.videos[condition] = [_video(test, n, table, share, again) for n in range(size.videos)]
    first = next(iter(bench.videos.values()))
    captions = bench.judge.captions([video.whole for video in first], CAPTIONS, seed)
    asking = np.random.default_rng((seed, 2))
    asked = [_questions(video.facts, asking) for video in first]
    bench.read = float(_answers(reader, table, [v.whole for v in first], asked)[:, :ASKED].mean())
    for videos in bench.videos.values():
        for video, texts, questions in zip(videos, captions, asked, strict=True):
            video.captions = texts
            right = _answers(reader, table, video.candidates, [questions] * len(video.candidates))
            video.correct, video.noise_correct = right[:, :ASKED].mean(1), right[:, ASKED:].mean(1)
    return bench


def _video(test: Clips, number: int, table: Tensor, synonyms: float, rng: np.random.Generator) -> Video:
    rows = np.arange(number * EVENTS, (number + 1) * EVENTS)
    clips = test[rows]
    frames = [Frame(n // STEPS, n % STEPS, int(rows[n // STEPS])) for n in range(EVENTS * STEPS)]
    seen = table[rows].flatten(0, 1).numpy()
    told = {}
    for length in TEXTS:
        for writer in WRITERS:
            choice, wording = (np.random.default_rng(int(rng.integers(2**32))) for _ in range(2))
            told[length, writer] = _reworded(write_text(clips.facts, length, choice, writer), synonyms, wording)
    candidates = [Summary(text) for text in told.values()]
    candidates += [Summary(None, [frames[n] for n in uniform_keyframes(len(frames), k)]) for k in UNIFORM]
    candidates += [Summary(None, [frames[n] for n in medoid_keyframes(seen, k)]) for k in MEDOID]
    candidates += [
        Summary(told[length, "salient"], [frames[n] for n in uniform_keyframes(len(frames), k)]) for k, length in MIXES
    ]
    whole = Summary(None, frames)
    least, entropy = _truth(whole, clips)
    truth = np.array([_truth(c, clips) for c in candidates]) - [least, entropy]
    return Video(
        clips.facts, clips.caption(), whole, candidates, costs=np.array([price(c) for c in candidates]),
        true_loss=truth[:, 0], entropy_loss=truth[:, 1], fixed=FIXED,
    )  # fmt: skip


def price(summary: Summary) -> float:
    """Tokens of a summary: a word is one, a frame is `FRAME_TOKENS` with its time stamp."""
    return cost(summary, FRAME_TOKENS, lambda text: len(words(text)))


def _reworded(text: str, share: float, rng: np.random.Generator) -> str:
    other = {word: synonym for names in grammar.SYNONYMS for word, synonym in names.items()}
    return " ".join(other.get(word, word) if rng.random() < share else word for word in text.split())


def _truth(summary: Summary, clips: Clips) -> tuple[float, float]:
    shown = [clips.seen(frame.event * STEPS + frame.step) for frame in summary.frames or []]
    chance = grammar.posterior(EVENTS, words(summary.text or ""), shown, ERROR)
    return grammar.surprisal(chance, clips.facts), grammar.entropy(chance)


def _questions(facts: NDArray[np.int64], rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Different questions about facts (one a count), then as many about noise."""
    found: list[tuple[int, int, int]] = [training.draw_question(facts, rng, "count")]
    while len(found) < ASKED:
        question = training.draw_question(facts, rng, "fact")
        if question not in found:
            found.append(question)
    return found + [training.draw_question(facts, rng, "code") for _ in range(ASKED)]


@torch.no_grad()
def _answers(reader: CausalLM, table: Tensor, shown: list[Summary], asked: list[list[tuple[int, int, int]]]) -> NDArray:
    """Whether each question is answered rightly, (B, Q) of 0 and 1."""
    tails, answers = training.question_tail(asked)
    hidden = reader.hidden(**collate([row_of(s) for s in shown], tails, table))[:, -2 * QUESTIONS + 1 :: 2]
    return (reader.out(hidden).argmax(-1) == answers).double().numpy()


def _scores(bench: Bench, name: str, condition: str) -> list[NDArray[np.float64]]:
    videos = bench.videos[condition]
    if name == "random":
        rng = np.random.default_rng((bench.seed, 3))
        return [rng.random(len(video.candidates)) for video in videos]
    if name == "coverage-oracle":
        return [-video.true_loss for video in videos]
    if name == "embed-sim":
        with torch.no_grad():
            return [_similarities(bench, video) for video in videos]
    if name == "rouge-l":
        return [np.array([rouge_l(c.text or "", v.caption).recall for c in v.candidates]) for v in videos]
    if name == "vibe-grounding":
        teller = replace(bench.judge, start=TELL)
        return [
            np.array([0.0 if c.frames else grounding(teller, v.whole, c.text or "", mode="forced")
                      for c in v.candidates])
            for v in videos
        ]  # fmt: skip
    return [np.array([-score for score in visil_scores(bench, name, video)]) for video in videos]


def visil_scores(bench: Bench, name: str, video: Video, summaries: Sequence[Summary] | None = None) -> list[float]:
    """ViSIL of summaries (by default the candidates): nats a content word, or normalised for `nvisil`."""
    judge = bench.blind if name == "visil-blind" else bench.judge
    captions = [video.caption] if name == "visil-true-caption" else video.captions
    floor = {"floor": -math.inf} if name == "visil-no-floor" else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*cannot read this video")  # the blind judge never can
        scores = visil_many(judge, video.whole, summaries or video.candidates, captions, **floor, resamples=0)
    return [score.normalised if name == "nvisil" else score.loss for score in scores]


def padding_gain(bench: Bench, videos: Sequence[Video], rng: np.random.Generator) -> float:
    """Mean fall of ViSIL (nats a word) when texts say all again or go on with words that tell nothing."""
    changes = []
    for video in videos:
        texts = video.candidates[:6]
        again = [replace(c, text=f"{c.text} {c.text}") for c in texts]
        empty = [replace(c, text=f"{c.text} {' '.join(rng.choice(['0', '1', 'alpha', 'beta'], 6))}") for c in texts]
        before, repeated, filled = np.split(np.array(visil_scores(bench, "visil", video, texts + again + empty)), 3)
        changes += [before - repeated, before - filled]
    return float(np.mean(changes))


def _similarities(bench: Bench, video: Video) -> NDArray[np.float64]:
    rows = [row_of(video.whole), *map(row_of, video.candidates)]
    found = training.embeddings(bench.embedder, rows, bench.judge.table).double()
    return (found[1:] @ found[0]).numpy()
