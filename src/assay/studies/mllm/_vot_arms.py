"""Arms of the study of 2501.07542: what each is trained on, what it thinks on test traces, how that is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay.data.scenes.gridworld import ACTIONS
from assay.methods.mllm.visualization_of_thought import Steps, TraceFit, TraceLM, Traces, fit_traces
from assay.metrics.sequence import check_frames, consecutive_ratio
from assay.studies.mllm._vot_pocket import (
    CELL,
    COUNT,
    GRIDS,
    STEPS,
    TRAINED,
    Board,
    Size,
    World,
    speak,
    start_places,
    verbal_loss,
    verbal_thoughts,
)

LONG = 5  # actions from which a walk is called long
FINAL, ASKED = 0.4, 0.15  # of the reasoning samples: at the end of a trace; asking for the holes instead
LOOKS = 0.75  # share of a code's embedding that starts from its looks
RATES = {"direct": 4e-3, "cot": 1e-2, "mvot": 8e-3}  # chosen on seeds that are not judged
DRAWING: dict[str, dict[str, Any]] = {
    "mvot": {},
    "mvot-ce": {"discrepancy": 0.0},
    "mvot-ld-only": {"cross_entropy": 0.0},
    "mvot-lambda5": {"discrepancy": 5.0},
    "mvot-all-frames": {"keep_all": True},
    "mvot-permuted": {},
    "mvot-text-only": {},
}


@dataclass(frozen=True)
class Imagined:
    """What a model thought on N traces.

    Attributes:
        answers: (N,) words, `<pad>` where none was spoken. counts: (N,) words, the answer to how many holes there are.
        frames: (N, S + 1, n) codes, -1 where none was drawn. tokens: made for a trace, mean.
    """

    answers: Tensor
    counts: Tensor
    frames: Tensor
    tokens: float


def train_arm(arm: str, world: World, seed: int, size: Size) -> TraceLM:
    """The model of an arm; every arm of a seed starts from the same numbers."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    groups = [board.traces for board in world.train]
    if arm in ("direct", "cot"):
        direct = arm == "direct"
        if not direct:
            groups = [replace(b.traces, said=verbal_thoughts(b, world.words, True)) for b in world.train]
        model = fresh(world, size, per_step=1 if direct else 2)
        fit = TraceFit(updates=size.direct if direct else size.verbal, batch=(2 if direct else 1) * size.batch,
                       rate=RATES[arm])  # fmt: skip
        fit_traces(model, groups, fit, world.distance, generator,
                   loss=lambda batch: verbal_loss(model, batch, direct, ASKED, generator))  # fmt: skip
        return model
    fit = TraceFit(updates=size.updates, batch=size.batch, rate=RATES["mvot"], final=FINAL, asked=ASKED, **DRAWING[arm])
    model = fresh(world, size, pictures=STEPS + 1 if fit.keep_all else 2)
    distance = world.distance
    if arm == "mvot-permuted":
        order = torch.randperm(len(distance), generator=torch.Generator().manual_seed(seed))
        distance = distance[order][:, order]
    fit_traces(model, groups, fit, distance, generator, count=world.words.id(COUNT))
    return model


def fresh(world: World, size: Size, **changes: Any) -> TraceLM:
    """A model before training: codes that look alike start alike, words of places like the cells they name."""
    model = TraceLM(
        world.words, width=size.width, hidden=2 * size.width, steps=STEPS, largest=GRIDS[-1],
        said=2 * (STEPS + 1) + 1, **changes,
    )  # fmt: skip
    assert world.codebook.centroids is not None
    model.start_from(world.codebook.centroids, LOOKS)
    start_places(model)
    return model


def judge_arm(arm: str, model: TraceLM, world: World, seed: int) -> dict[str, Any]:
    """Metrics of an arm on the test traces: of its likeliest words and pictures, and (`_sampled`) of sampled ones."""
    right, counted, length, grid, tokens = [], [], [], [], []
    sampled: list[Tensor] = []
    checks: dict[float, list[dict[str, Any]]] = {0.0: [], 1.0: []}
    for board in world.test:
        traces, generator = board.traces, torch.Generator().manual_seed(seed)
        if arm in ("direct", "cot"):
            answers, made = speak(model, traces, arm == "direct")
            drawn, _ = speak(model, traces, arm == "direct", temperature=1.0, generator=generator)
            if arm == "direct":
                counted.append(speak(model, traces, True, opening=COUNT)[0] == traces.counts)
        else:
            how = {"draws": arm != "mvot-text-only", "keep_all": arm == "mvot-all-frames"}
            found = imagine(model, traces, **how, temperature=0.0)
            answers, made = found.answers, found.tokens
            counted.append(found.counts == traces.counts)
            other = imagine(model, traces, **how, temperature=1.0, generator=generator)
            drawn = other.answers
            if how["draws"]:
                checks[0.0].append(check_drawn(found.frames, board, world))
                checks[1.0].append(check_drawn(other.frames, board, world))
        right.append(answers == traces.answers)
        sampled.append(drawn == traces.answers)
        length.append(traces.lengths)
        grid.append(torch.full_like(traces.lengths, traces.grid[0]))
        tokens.append(made)
    hits, steps, sides = (torch.cat(part).numpy() for part in (right, length, grid))
    metrics: dict[str, Any] = {
        "accuracy": float(hits.mean()),
        "accuracy_long": float(hits[steps >= LONG].mean()),
        "accuracy_unseen": float(hits[steps > TRAINED].mean()),
        "accuracy_largest": float(hits[sides == GRIDS[-1]].mean()),
        "accuracy_smallest": float(hits[sides == GRIDS[0]].mean()),
        "accuracy_by_length": [float(hits[steps == n].mean()) for n in range(2, STEPS + 1)],
        "accuracy_by_grid": [float(hits[sides == n].mean()) for n in GRIDS],
        "accuracy_sampled": float(torch.cat(sampled).float().mean()),
        "tokens": float(np.mean(tokens)),
    }
    if counted:
        metrics["count_accuracy"] = float(torch.cat(counted).float().mean())
    for temperature, name in ((0.0, ""), (1.0, "_sampled")):
        if checks[temperature]:
            metrics |= {f"{k}{name}": v for k, v in pooled(checks[temperature]).items()}
    return metrics


@torch.no_grad()
def imagine(
    model: TraceLM, traces: Traces, *, draws: bool = True, keep_all: bool = False, temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Imagined:  # fmt: skip
    """`think` on many traces at once; after its answer a model is asked for the holes, with the same context."""
    count, pad, words = len(traces.lengths), model.pad, model.words
    actions = torch.tensor([words.id(word) for word in ACTIONS])
    thoughts, answers = torch.full_like(traces.actions, pad), torch.full((count,), pad)
    made = torch.full_like(traces.frames, -1)
    made[:, 0] = traces.frames[:, 0]
    thinking, newest = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.long)
    tokens = 0
    for step in range(STEPS + 1):
        context = steps_of(traces, thoughts, made, newest, keep_all)
        place = torch.full((count,), step + 1)
        word = model.say(context, 1, place, temperature=temperature, generator=generator)[:, 0]
        tokens += int(thinking.sum())
        acts = torch.isin(word, actions)
        answers = torch.where(thinking & ~acts, word, answers)
        thinking = thinking & acts
        if step == STEPS or not thinking.any():
            break
        thoughts[:, step] = torch.where(thinking, word, pad)
        if draws:
            context = steps_of(traces, thoughts, made, newest, keep_all)
            drawn = model.draw(context, temperature=temperature, generator=generator)
            made[:, step + 1] = torch.where(thinking[:, None], drawn, -1)
            newest = torch.where(thinking, step + 1, newest)
            tokens += int(thinking.sum()) * made.shape[2]
    said = (thoughts != pad).sum(1)
    context = steps_of(traces, thoughts, made, newest, keep_all)
    counts = model.say(context, 1, said + 1, opening=words.id(COUNT), temperature=0.0)[:, 0]
    return Imagined(answers, counts, made, tokens / count)


def steps_of(traces: Traces, thoughts: Tensor, made: Tensor, newest: Tensor, keep_all: bool) -> Steps:
    """The context when `newest` (N,) is the last frame there is."""
    who = torch.arange(len(made))
    pictures = [made[:, 0], made[who, newest]]
    for age in range(1, STEPS if keep_all else 1):
        older = made[who, (newest - age).clamp(min=0)]
        pictures.append(torch.where((newest > age)[:, None], older, -1))
    return Steps(traces.actions, thoughts, torch.stack(pictures), traces.grid)


def check_drawn(frames: Tensor, board: Board, world: World) -> dict[str, Any]:
    """Checks of imagined frames 1 to T of every trace; one that was never drawn is wrong, and has no other faults."""
    lengths = board.traces.lengths.numpy()
    codes = frames.numpy()
    there = codes[:, 1:, 0] >= 0
    shows = np.where(codes >= 0, world.meaning[np.maximum(codes, 0)], -1)
    found = check_frames(board.classes[:, :-1], board.classes[:, 1:], shows[:, 1:])
    due = np.arange(STEPS) < lengths[:, None]
    error = np.zeros(due.shape)
    if board.pictures is not None:
        side = board.traces.grid[0] * CELL
        flat = frames.clamp(min=0).flatten(0, 1).unflatten(1, board.traces.grid)
        seen = world.codebook.decode(flat).view(*frames.shape[:2], side, side, 3)
        error = (seen - board.pictures).square().mean((2, 3, 4)).numpy()[:, 1:]
    return {
        "right": found.right[due], "redundant": found.redundant[due & there],
        "ratio": consecutive_ratio(found.right, lengths), "error": error[due & there],
    }  # fmt: skip


def pooled(checks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over all frames (V-Acc, V-Red, pixels) and all traces (V-Ratio) of all boards."""
    joined = {key: np.concatenate([check[key] for check in checks]) for key in checks[0]}
    names = {"right": "v_acc", "redundant": "v_red", "ratio": "v_ratio", "error": "pixel_mse"}
    return {name: float(joined[key].mean()) if joined[key].size else float("nan") for key, name in names.items()}


def strip(model: TraceLM, world: World) -> dict[str, Any]:
    """One test walk on the middle board, true and imagined, as pictures of 4 px a cell (0 to 255), for the figure."""
    board = world.test[1]
    row = int(torch.nonzero(board.traces.lengths == TRAINED)[0])
    one = board.traces.take(torch.tensor([row]))
    made = imagine(model, one, temperature=0.0).frames[0, : TRAINED + 1]
    true = one.frames[0, : TRAINED + 1]
    pictures = []
    for codes in (true, torch.where(made >= 0, made, made[:1])):
        seen = world.codebook.decode(codes.unflatten(1, one.grid))
        small = torch.nn.functional.avg_pool2d(seen.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        pictures.append((small.clamp(0, 1) * 255).round().int().tolist())
    actions = [float(ACTIONS.index(world.words.word(int(a)))) for a in one.actions[0, :TRAINED]]
    return {"strip_true": pictures[0], "strip_imagined": pictures[1], "strip_actions": actions}
