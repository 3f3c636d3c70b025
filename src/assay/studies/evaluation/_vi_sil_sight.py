"""How the small models of the ViSIL study see: an eye for frames, summaries as rows of tokens.

A summary is one row: the words of its text, then its frames, each shot opened by its ordinal (as vision-language models
get time stamps in words), each frame one vector of the eye.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from assay.data.video.fact_grammar import ATTRIBUTES, COUNTS, ORDINALS, SYNONYMS, UPPER_PLACES, WORDS
from assay.data.video.fact_videos import ACTS_FROM, STEPS, Clips

EVENTS = 6
CODES = ("alpha", "beta", "gamma", "delta")  # answers to questions about noise
DIGITS = tuple(str(n) for n in range(EVENTS + 1))
VOCABULARY = (
    "<pad>", "<frame>", "<caption>", "<tell>", "<ask>", *ORDINALS[:EVENTS],
    *(word for names in SYNONYMS for pair in names.items() for word in pair),
    *(f"{name}?" for name in ATTRIBUTES), "count?", "code?", *DIGITS, *CODES,
)  # fmt: skip
ID = {word: number for number, word in enumerate(VOCABULARY)}
PAD, FRAME, CAPTION, TELL, ASK = range(5)
FACT_IDS = [torch.tensor([ID[word] for word in names]) for names in WORDS]
PLAIN = [np.array([ID[word] for word in names]) for names in WORDS]
OTHER = [np.array([ID[word] for word in names.values()]) for names in SYNONYMS]
FEATURES = 64


@dataclass(frozen=True)
class Frame:
    """A frame of a summary: which event of its video, which step, and the clip that holds its picture."""

    event: int
    step: int
    clip: int


class Eye(nn.Module):
    """Frame encoder: a picture -> features, and from these what can be seen."""

    HEADS = (COUNTS[0] + 1, COUNTS[1] + 1, COUNTS[2] + 1, COUNTS[3] + 2)  # one more for "hidden", two halves for places

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2), nn.GELU(), nn.Conv2d(24, 48, 3, 2, 1), nn.GELU(), nn.Conv2d(48, 56, 1)
        )
        self.out = nn.Sequential(nn.Linear(48 + 8 * 64, FEATURES), nn.LayerNorm(FEATURES))
        self.heads = nn.Linear(FEATURES, sum(self.HEADS))

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, 32, 32) to (B, FEATURES): what is anywhere (a maximum over places), and a coarse map of where."""
        what, where = self.body(pictures).split([48, 8], 1)
        return self.out(torch.cat([what.amax((2, 3)), where.flatten(1)], 1))

    def loss(self, features: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of what is seen, summed over attributes; target (B, 4)."""
        return sum(
            (F.cross_entropy(part, target[:, a]) for a, part in enumerate(self.heads(features).split(self.HEADS, 1))),
            start=features.new_zeros(()),
        )


def pictures(clips: Clips, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> Tensor:
    """Input of the eye for frames of clips."""
    return torch.from_numpy(clips.frames[rows, steps]).permute(0, 3, 1, 2).float() / 128 - 0.6


def visible(clips: Clips, rows: NDArray[np.int64], steps: NDArray[np.int64]) -> Tensor:
    """Target of the eye."""
    facts, hidden = clips.facts[rows], clips.covered[rows, steps]
    target = np.where(hidden[:, None], np.array(COUNTS), facts)
    target[hidden, 3] += (facts[hidden, 3] >= UPPER_PLACES).astype(int)
    target[steps < ACTS_FROM, 2] = COUNTS[2]
    return torch.from_numpy(target)


def train_eye(clips: Clips, steps: int, rng: np.random.Generator, batch: int = 64) -> Eye:
    """Teach an eye to say what a frame shows."""
    eye = Eye()
    optimiser = torch.optim.AdamW(eye.parameters(), lr=6e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=max(steps, 2), pct_start=0.2)
    for _ in range(steps):
        rows, step = rng.integers(0, len(clips.facts), batch), rng.integers(0, STEPS, batch)
        optimiser.zero_grad()
        eye.loss(eye(pictures(clips, rows, step)), visible(clips, rows, step)).backward()
        optimiser.step()
        schedule.step()
    return eye.eval()


@torch.no_grad()
def features_of(eye: Eye, clips: Clips) -> Tensor:
    """Features of every frame, (clips, STEPS, FEATURES)."""
    found = []
    for part in np.array_split(np.arange(len(clips.facts)), max(1, len(clips.facts) // 64)):
        rows, step = np.repeat(part, STEPS), np.tile(np.arange(STEPS), len(part))
        found.append(eye(pictures(clips, rows, step)).view(len(part), STEPS, FEATURES))
    return torch.cat(found)


@dataclass
class Rows:
    """Token rows to be joined into a batch: numbers, and for frames the feature (clip, step)."""

    tokens: list[int]
    features: list[tuple[int, int, int]]  # place in `tokens`, clip, step


def evidence_row(words: Sequence[int], frames: Sequence[Frame]) -> Rows:
    """A summary as the models see it."""
    tokens, features, shot = list(words), [], -1
    for frame in frames:
        if frame.event != shot:
            tokens.append(ID[ORDINALS[frame.event]])
        features.append((len(tokens), frame.clip, frame.step))
        tokens.append(FRAME)
        shot = frame.event
    return Rows(tokens, features)


def collate(rows: Sequence[Rows], tails: Tensor, table: Tensor) -> dict[str, Tensor]:
    """Evidence padded on the left, then the tails (B, T'), as arguments of `CausalLM`."""
    longest = max((len(row.tokens) for row in rows), default=0)
    tokens = torch.full((len(rows), longest), PAD, dtype=torch.long)
    padding = torch.zeros(len(rows), longest + tails.shape[1], dtype=torch.bool)
    injected = torch.zeros(len(rows), longest + tails.shape[1], table.shape[-1])
    at = torch.zeros(injected.shape[:2], dtype=torch.bool)
    places: list[tuple[int, int, int, int]] = []
    for number, row in enumerate(rows):
        start = longest - len(row.tokens)
        padding[number, :start] = True
        if row.tokens:
            tokens[number, start:] = torch.tensor(row.tokens)
        places += [(number, start + place, clip, view) for place, clip, view in row.features]
    if places:
        who, where, clip, view = torch.tensor(places).T
        injected[who, where] = table[clip, view]
        at[who, where] = True
    return {"tokens": torch.cat([tokens, tails], 1), "injected": injected, "injected_at": at, "padding": padding}


def caption_ids(facts: NDArray[np.int64]) -> Tensor:
    """Captions of videos (B, events, 4) as tokens (B, 5 events), each event opened by its ordinal."""
    batch, events = facts.shape[:2]
    ordinals = torch.tensor([ID[ORDINALS[e]] for e in range(events)]).expand(batch, -1)
    words = [FACT_IDS[a][torch.from_numpy(facts[..., a])] for a in range(4)]
    return torch.stack([ordinals, *words], 2).flatten(1)


def padded(rows: Sequence[Sequence[int]], fill: int = PAD) -> Tensor:
    """Rows of numbers as one tensor, filled up on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)
