"""Teaching the small models of the ViSIL study: a judge that captions, a reader that answers, an embedder.

All are `CausalLM`s from scratch on events drawn anew from a pool of clips, with evidence of every kind: whole videos,
some frames, texts (one word in thirty wrong, many told by synonyms, some padded), both, nothing. The judge goes on with
`<caption>` and the facts, or with a text of its own; the reader with pairs (which event, which attribute), each
answered at its second token, no answer being put in; the embedder draws a summary and its video together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from assay.data.video.fact_grammar import ATTRIBUTES, COUNTS, ORDINALS
from assay.data.video.fact_videos import STEPS
from assay.nn.causal_lm import CausalLM
from assay.studies.evaluation._vi_sil_sight import (
    ASK,
    CAPTION,
    CODES,
    DIGITS,
    EVENTS,
    FEATURES,
    ID,
    OTHER,
    PLAIN,
    TELL,
    VOCABULARY,
    Frame,
    Rows,
    caption_ids,
    collate,
    evidence_row,
    padded,
)

QUESTIONS = 16  # asked at a time; the last half about noise when judged
IGNORED = -100
ERROR = 1 / 30  # chance that a word of a text is wrong
MATRIX_RATE, RATE = 0.02, 4e-3
_FILLERS = [ID[word] for word in (*DIGITS, *CODES)]


@dataclass(frozen=True)
class Pool:
    """Clips to draw videos from: facts (N, 4) and the eye's features (N, STEPS, FEATURES)."""

    facts: NDArray[np.int64]
    table: Tensor


def train_judge(pool: Pool, steps: int, rng: np.random.Generator, frames: bool = True, batch: int = 24) -> CausalLM:
    """A captioner. Without `frames` it never sees one: the blind judge."""
    judge = CausalLM(
        vocabulary=len(VOCABULARY), width=64, depth=2, heads=4, hidden=128, feature_width=FEATURES, longest=160
    )

    def loss_of(events: int, share: float) -> Tensor:
        count = batch * EVENTS // events
        picks = rng.integers(0, len(pool.facts), (count, events))
        facts = pool.facts[picks]
        rows = [random_evidence(facts[n], picks[n], rng, frames) for n in range(count)]
        starts, captions = [CAPTION] * count, caption_ids(facts).tolist()
        for n in np.flatnonzero(rng.random(count) < 0.12):
            starts[n], captions[n] = TELL, random_words(facts[n], rng, 0.4)
        return _continued(judge, rows, starts, captions, pool.table)

    return _fit(judge, loss_of, steps)


def train_reader(pool: Pool, steps: int, rng: np.random.Generator, batch: int = 24) -> CausalLM:
    """Answers questions from evidence, of another width and another start than the judge.

    It captions first: questions in random order are hardly learnt from nothing, and soon once events are told apart.
    """
    reader = CausalLM(
        vocabulary=len(VOCABULARY), width=48, depth=2, heads=3, hidden=128, feature_width=FEATURES, longest=160
    )

    def loss_of(events: int, share: float) -> Tensor:
        count = batch * EVENTS // events
        picks = rng.integers(0, len(pool.facts), (count, events))
        facts = pool.facts[picks]
        rows = [random_evidence(facts[n], picks[n], rng, True) for n in range(count)]
        half = count if share < 0.5 else count // 3
        captions = caption_ids(facts[:half]).tolist()
        told = _continued(reader, rows[:half], [CAPTION] * half, captions, pool.table)
        if half == count:
            return told
        asked = [[draw_question(facts[n], rng) for _ in range(QUESTIONS)] for n in range(half, count)]
        tails, answers = question_tail(asked)
        hidden = reader.hidden(**collate(rows[half:], tails, pool.table))[:, -2 * QUESTIONS + 1 :: 2]
        return told + F.cross_entropy(reader.out(hidden).flatten(0, 1), answers.flatten())

    return _fit(reader, loss_of, steps, rounds=2)


def train_embedder(pool: Pool, steps: int, rng: np.random.Generator, batch: int = 32, heat: float = 0.2) -> CausalLM:
    """Contrastive embedder, as CLIP: the cosine of a summary and its video against those of other videos."""
    embedder = CausalLM(
        vocabulary=len(VOCABULARY), width=48, depth=2, heads=3, hidden=128, feature_width=FEATURES, longest=160
    )

    def loss_of(events: int, share: float) -> Tensor:
        picks = rng.integers(0, len(pool.facts), (batch, events))
        facts = pool.facts[picks]
        parts: list[Rows] = []
        for n in range(batch):
            row = random_evidence(facts[n], picks[n], rng, True)
            while not row.tokens:
                row = random_evidence(facts[n], picks[n], rng, True)
            parts.append(row)
        wholes = [whole_row(picks[n]) for n in range(batch)]
        cosine = embeddings(embedder, wholes, pool.table) @ embeddings(embedder, parts, pool.table).T / heat
        goal = torch.arange(batch)
        return F.cross_entropy(cosine, goal) + F.cross_entropy(cosine.T, goal)

    return _fit(embedder, loss_of, steps)


def _continued(model: CausalLM, rows: list[Rows], starts: list[int], texts: list[list[int]], table: Tensor) -> Tensor:
    """Cross-entropy of texts after evidence and a token that opens them."""
    target = padded(texts, IGNORED)
    tails = torch.cat([torch.tensor(starts)[:, None], target.clamp(min=0)], 1)
    hidden = model.hidden(**collate(rows, tails, table))[:, -target.shape[1] - 1 : -1]
    return F.cross_entropy(model.out(hidden).flatten(0, 1), target.flatten(), ignore_index=IGNORED)


def embeddings(embedder: CausalLM, rows: list[Rows], table: Tensor) -> Tensor:
    """Unit embeddings (B, D): the state at a last token that has seen the whole row."""
    tails = torch.full((len(rows), 1), CAPTION)
    return F.normalize(embedder.hidden(**collate(rows, tails, table))[:, -1], dim=1)


def whole_row(clips: NDArray[np.int64]) -> Rows:
    """A whole video as evidence."""
    return evidence_row([], [Frame(e, s, int(clip)) for e, clip in enumerate(clips) for s in range(STEPS)])


def random_evidence(facts: NDArray[np.int64], clips: NDArray[np.int64], rng: np.random.Generator, frames: bool) -> Rows:
    """Evidence of a random kind: the whole video, some frames, a text, both, nothing."""
    kind = rng.random() if frames else 0.65 + 0.35 * rng.random()
    events = len(facts)
    if kind < 0.2:
        return whole_row(clips)
    shown: list[Frame] = []
    if kind < 0.65:
        take = np.sort(rng.choice(events * STEPS, rng.integers(1, min(9, events * STEPS)), replace=False))
        shown = [Frame(int(n) // STEPS, int(n) % STEPS, int(clips[n // STEPS])) for n in take]
    words: list[int] = []
    if 0.4 <= kind < 0.95:
        words = random_words(facts, rng, 0.4)
        if rng.random() < 0.15:
            words += rng.choice(_FILLERS, rng.integers(1, 7)).tolist()
    return evidence_row(words, shown)


def random_words(facts: NDArray[np.int64], rng: np.random.Generator, synonyms: float) -> list[int]:
    """A text that states a random part of the facts, as tokens."""
    chosen = rng.random(facts.shape) < rng.choice([0.1, 0.3, 0.6, 0.95])
    if rng.random() < 0.3:
        chosen[rng.random(len(facts)) < 0.5] = False
    words: list[int] = []
    for event in np.flatnonzero(chosen.any(1)):
        words.append(ID[ORDINALS[event]])
        for a in np.flatnonzero(chosen[event]):
            value = facts[event, a]
            if rng.random() < ERROR:
                value = (value + rng.integers(1, COUNTS[a])) % COUNTS[a]
            words.append(int((OTHER if rng.random() < synonyms else PLAIN)[a][value]))
    return words


def draw_question(facts: NDArray[np.int64], rng: np.random.Generator, kind: str = "") -> tuple[int, int, int]:
    """A question of two tokens and its answer: a fact of an event (`fact`), how many of a colour (`count`), or a code
    that nothing tells (`code`); without `kind` any, mostly facts."""
    if not kind:
        luck = rng.random()
        kind = "fact" if luck < 0.8 else "count" if luck < 0.9 else "code"
    event = int(rng.integers(0, len(facts)))
    if kind == "fact":
        a = int(rng.integers(0, 4))
        return ID[ORDINALS[event]], ID[f"{ATTRIBUTES[a]}?"], int(PLAIN[a][facts[event, a]])
    if kind == "count":
        colour = int(facts[event, 0]) if rng.random() < 0.7 else int(rng.integers(0, COUNTS[0]))
        return int(PLAIN[0][colour]), ID["count?"], ID[DIGITS[int((facts[:, 0] == colour).sum())]]
    return ID[ORDINALS[event]], ID["code?"], ID[CODES[int(rng.integers(0, len(CODES)))]]


def question_tail(asked: list[list[tuple[int, int, int]]]) -> tuple[Tensor, Tensor]:
    """Questions after `<ask>`, (B, 1 + 2 Q), and their answers (B, Q)."""
    table = torch.tensor(asked)
    return torch.cat([torch.full((len(asked), 1), ASK), table[..., :2].flatten(1)], 1), table[..., 2]


def _fit(model: CausalLM, loss_of: Callable[[int, float], Tensor], steps: int, rounds: int = 1) -> CausalLM:
    """Muon for the matrices of the blocks, AdamW for the rest; videos of two events first, then four, then all.

    `loss_of` takes the events of a video and the share of the steps that are done; `rounds` is how often the videos
    start short.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    parts: list[Any] = [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=RATE, weight_decay=0.01),
    ]
    parts += [
        torch.optim.lr_scheduler.OneCycleLR(o, o.param_groups[0]["lr"], total_steps=max(steps, 2), pct_start=0.1)
        for o in list(parts)
    ]
    model.train()
    for step in range(steps):
        model.zero_grad()
        stage = step * rounds / steps % 1
        loss_of(2 if stage < 0.2 else 4 if stage < 0.4 else EVENTS, step / steps).backward()
        for part in parts:
            part.step()
    return model.eval()
