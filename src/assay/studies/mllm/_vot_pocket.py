"""Worlds of the study of 2501.07542: lakes as codes, and models that think in words only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from assay.data.scenes.gridworld import ACTIONS, ANSWERS, Walk, cell_classes, draw_walk, frames, photograph
from assay.methods.mllm.visualization_of_thought import (
    PatchCodebook,
    TraceLM,
    Traces,
    TraceWords,
    codebook_distance,
    context_at,
)

STEPS, TRAINED = 8, 6  # longest walk, longest walk of training
GRIDS = (3, 4, 5)
CELL = 8  # pixels
SHOWN = 6  # what a cell may show at 8 pixels: ice, start, hole, gift, the elf, the elf in a hole
COUNT = "<count>"
TILE_WORDS = {"F": "ice", "S": "start", "H": "hole", "G": "gift"}
WORDS = [
    *ACTIONS, *ANSWERS, COUNT, *(f"holes{k}" for k in range(26)), *TILE_WORDS.values(),
    *(f"at{r}{c}" for r in range(GRIDS[-1]) for c in range(GRIDS[-1])),
]  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        train, test: traces. updates, direct, verbal: training steps of arms that draw, of `direct` and of `cot`.
        batch: traces a step (`direct` takes twice as many). width: of the model. codes: of the tokenizer.
    """

    train: int = 1500
    test: int = 300
    updates: int = 240
    direct: int = 220
    verbal: int = 600
    batch: int = 32
    width: int = 48
    codes: int = 96


@dataclass(frozen=True)
class Board:
    """Traces of one board size, what their frames truly show, and for tests the pictures."""

    traces: Traces
    walks: list[Walk]
    classes: NDArray[np.int64]  # (N, S + 1, n)
    pictures: Tensor | None = None  # (N, S + 1, H, W, 3)


@dataclass(frozen=True)
class World:
    """What all arms of a seed share."""

    words: TraceWords
    codebook: PatchCodebook
    distance: Tensor
    meaning: NDArray[np.int64]  # (K,) what a code shows
    train: list[Board]
    test: list[Board]


def build_world(seed: int, size: Size) -> World:
    """Lakes, their pictures, and a tokenizer fitted on the pictures of training."""
    rng = np.random.default_rng([2501_07542, seed])
    walks = {
        part: _walks(rng, n, longest)
        for part, n, longest in (("train", size.train, TRAINED), ("test", size.test, STEPS))
    }
    seen = {
        part: [[photograph(frames(w, CELL), rng) for w in group] for group in groups] for part, groups in walks.items()
    }
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    codebook = PatchCodebook(size.codes, CELL)
    codebook.fit(torch.cat([cells(p) for group in seen["train"] for p in group[:120]]), generator=generator)
    words = TraceWords(size.codes, WORDS)
    train = [
        _board(group, pictures, words, codebook, False)
        for group, pictures in zip(walks["train"], seen["train"], strict=True)
    ]
    test = [
        _board(group, pictures, words, codebook, True)
        for group, pictures in zip(walks["test"], seen["test"], strict=True)
    ]
    votes = np.zeros((size.codes, SHOWN))
    for board in train:
        there = np.arange(STEPS + 1) <= board.traces.lengths.numpy()[:, None]
        np.add.at(votes, (board.traces.frames.numpy()[there].ravel(), board.classes[there].ravel()), 1)
    assert codebook.centroids is not None
    return World(words, codebook, codebook_distance(codebook.centroids), votes.argmax(1), train, test)


def cells(pictures: NDArray[np.float32]) -> Tensor:
    """(N, CELL, CELL, 3): every cell of pictures (T, H, W, 3) as a picture of its own."""
    return torch.from_numpy(pictures).unflatten(2, (-1, CELL)).unflatten(1, (-1, CELL)).transpose(2, 3).flatten(0, 2)


def _walks(rng: np.random.Generator, count: int, longest: int) -> list[list[Walk]]:
    """As many walks of every length and answer, by board size."""
    groups = []
    for grid in GRIDS:
        each = count // len(GRIDS)
        kinds = [(2 + k % (longest - 1), ANSWERS[k // (longest - 1) % 3]) for k in range(each)]
        groups.append([draw_walk(rng, grid, length, answer) for length, answer in kinds])
    return groups


def _board(
    walks: list[Walk], seen: list[NDArray[np.float32]], words: TraceWords, codebook: PatchCodebook, keep: bool
) -> Board:
    grid = len(walks[0].layout)
    actions = torch.full((len(walks), STEPS), words.id("<pad>"))
    codes = torch.zeros(len(walks), STEPS + 1, grid * grid, dtype=torch.long)
    classes = np.zeros(codes.shape, dtype=np.int64)
    pictures = torch.zeros(len(walks), STEPS + 1, grid * CELL, grid * CELL, 3) if keep else None
    for k, (walk, picture) in enumerate(zip(walks, seen, strict=True)):
        made = len(walk.actions)
        actions[k, :made] = torch.tensor([words.id(ACTIONS[a]) for a in walk.actions])
        codes[k, : made + 1] = codebook.encode(torch.from_numpy(picture)).flatten(1)
        classes[k, : made + 1] = shown(cell_classes(walk)).reshape(made + 1, -1)
        if pictures is not None:
            pictures[k, : made + 1] = torch.from_numpy(picture)
    lengths = torch.tensor([len(w.actions) for w in walks])
    answers = torch.tensor([words.id(w.answer) for w in walks])
    holes = torch.tensor([words.id(f"holes{''.join(w.layout).count('H')}") for w in walks])
    return Board(Traces(actions, lengths, codes, answers, (grid, grid), holes), walks, classes, pictures)


def shown(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """What can be told of a cell at 8 pixels: its tile, the elf (on any tile, looking anywhere), the elf in a hole."""
    tile, elf = classes // 5, classes % 5 > 0
    return np.where(elf, np.where(tile == 2, 5, 4), tile)


def verbal_thoughts(board: Board, words: TraceWords, tiles: bool) -> Tensor:
    """What a chain of thought in words says, (N, M): the elf's row and column, and perhaps the tile there, before and
    after every action, then the answer."""
    rows = []
    for walk in board.walks:
        said = []
        for row, column in walk.positions:
            said += [f"at{row}{column}", *([TILE_WORDS[walk.layout[row][column]]] if tiles else [])]
        rows.append([words.id(word) for word in [*said, walk.answer]])
    longest = (STEPS + 1) * (2 if tiles else 1) + 1
    return torch.tensor([row + [words.id("<pad>")] * (longest - len(row)) for row in rows])


@torch.no_grad()
def start_places(model: TraceLM) -> None:
    """Let the words of coordinates start as what marks their cell in a picture."""
    for row in range(GRIDS[-1]):
        for column in range(GRIDS[-1]):
            mark = (model.row.weight[row] + model.column.weight[column]) / model.width**0.5
            model.lm.token.weight[model.words.id(f"at{row}{column}")] += mark


def verbal_loss(model: TraceLM, traces: Traces, direct: bool, asked: float, generator: torch.Generator) -> Tensor:
    """Cross-entropy of a batch for models that draw nothing: the answer at once, or after thoughts in words."""
    words, rows = model.words, len(traces.lengths)
    start = (torch.rand(rows, generator=generator) * (STEPS - traces.lengths + 1)).long()
    none = torch.zeros_like(start)
    context = context_at(traces, none, none, start, model.pad)
    if not direct:
        assert traces.said is not None
        logits = model.say_logits(context, traces.said[:, :-1], start)
        return F.cross_entropy(logits.flatten(0, 1), traces.said.flatten(), ignore_index=model.pad)
    assert traces.counts is not None
    counted = torch.rand(rows, generator=generator) < asked
    word = torch.where(counted, traces.counts, traces.answers)
    opening = torch.where(counted, words.id(COUNT), words.id("<say>"))
    logits = model.say_logits(context, word.new_zeros(rows, 0), none + STEPS + 1, opening)[:, 0]
    return F.cross_entropy(logits, word)


def speak(model: TraceLM, traces: Traces, direct: bool, *, opening: str = "<say>", temperature: float = 0.0,
          generator: torch.Generator | None = None) -> tuple[Tensor, float]:  # fmt: skip
    """Answers (N,) of a model that draws nothing, and the words it said for a trace, mean."""
    words, none = model.words, torch.zeros_like(traces.lengths)
    context = context_at(traces, none, none, none, model.pad)
    if direct:
        said = model.say(
            context, 1, none + STEPS + 1, opening=words.id(opening), temperature=temperature, generator=generator
        )
        return said[:, 0], 1.0
    stop = torch.tensor([words.id(answer) for answer in ANSWERS])
    said = model.say(
        context, model.per_step * (STEPS + 1) + 1, none, temperature=temperature, stop=stop, generator=generator
    )
    ended = torch.isin(said, stop)
    made = torch.where(ended.any(1), ended.int().argmax(1) + 1, said.shape[1])
    answers = torch.where(ended.any(1), said[:, -1], model.pad)
    return answers, float(made.float().mean())
