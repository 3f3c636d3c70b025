"""Full scale of the study of 2501.07542: the public traces with Anole, low-rank training as in the public code.

The data folder holds tables of traces (mazes, FrozenLake) with their frames, and perhaps `model/`, a Chameleon
checkpoint (else Anole-7B is fetched by its id) and `fit.json` with other settings of training. Every fifth trace tests.
The paper's third task, MiniBehavior, is not in the public sample; traces of it can be given in FrozenLake's layout.
Frames are judged by look: a cell of a drawn frame shows whichever cell of the trace's true frames it is nearest to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.data.scenes.board_traces import BoardTrace, read_board, read_traces
from assay.errors import InputError
from assay.methods.mllm.visualization_of_thought import (
    AnoleThinker,
    InterleavedContext,
    Sample,
    Trace,
    answer_of,
    think,
    trace_samples,
)
from assay.metrics.sequence import check_frames, consecutive_ratio

MODEL = "leloy/Anole-7b-v0.1-hf"
SAME = 0.05  # root mean squared difference below which two cells look the same
WEIGHTS = {
    "mvot": 1.0, "mvot-ce": 0.0, "mvot-lambda5": 5.0, "mvot-permuted": 1.0, "mvot-all-frames": 1.0, "mvot-ld-only": 1.0,
    "mvot-text-only": 1.0,
}  # fmt: skip
KEYS = {"epochs", "rate", "rank", "alpha", "dropout", "accumulation"}


@dataclass(frozen=True)
class Real:
    """What the arms of a seed share; frames are (T + 1, side, side, 3) of 0 to 1."""

    model: str
    device: str
    seed: int
    fit: dict[str, Any]
    train: list[BoardTrace]
    test: list[BoardTrace]


def prepare(seed: int, data: Path | None, device: str) -> Real:
    """Traces of the folder, shuffled by the seed."""
    if data is None:
        raise InputError("the full scale needs --data FOLDER with traces in MVoT's layouts (and, if you like, model/)")
    traces = [trace for trace in read_traces(data) if trace.actions]
    if len(traces) < 5:
        raise InputError(f"{data}: {len(traces)} traces, at least 5 are needed")
    fit: dict[str, Any] = {}
    if (data / "fit.json").is_file():
        fit = json.loads((data / "fit.json").read_text(encoding="utf-8"))
        if not isinstance(fit, dict) or set(fit) - KEYS:
            raise InputError(f"{data / 'fit.json'}: expected settings among {', '.join(sorted(KEYS))}")
    order = np.random.default_rng([2501_07542, seed]).permutation(len(traces))
    test = [traces[k] for k in order[: max(len(order) // 5, 1)]]
    train = [traces[k] for k in order[len(test) :]]
    model = str(data / "model") if (data / "model").is_dir() else MODEL
    return Real(model, device, seed, fit, train, test)


def trial(arm: str, seed: int, real: Real) -> dict[str, Any]:
    """Train an arm and judge it; metrics are named as at pocket scale where they mean the same."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.bfloat16 if real.device.startswith("cuda") else torch.float32
    try:
        model = AnoleThinker(real.model, device=real.device, dtype=dtype)
    except ValueError as error:
        raise InputError(str(error)) from error
    if arm == "mvot-permuted":
        shuffled = torch.randperm(len(model.distance), generator=generator).to(model.distance.device)
        model.distance = model.distance[shuffled][:, shuffled]
    samples = [sample for trace in real.train for sample in samples_of(arm, trace, model)]
    model.fine_tune(
        samples, discrepancy=WEIGHTS.get(arm, 0.0), cross_entropy=0.0 if arm == "mvot-ld-only" else 1.0,
        generator=generator, **real.fit,
    )  # fmt: skip
    right, grids, lengths, tokens, checks = [], [], [], [], []
    for trace in real.test:
        frames = frames_of(trace, model)
        thought = thought_of(arm, trace, model, frames, generator)
        right.append(thought.answer == trace.answer)
        grids.append(trace.grid)
        lengths.append(len(trace.actions))
        words = len(model.tokens(thought.texts, first=False))
        tokens.append(words + len(thought.images) * model.image_length)
        if arm in WEIGHTS and arm != "mvot-text-only":
            checks.append(check(trace, model, thought, frames))
    hits, sides, steps = np.array(right), np.array(grids), np.array(lengths)
    metrics: dict[str, Any] = {
        "accuracy": float(hits.mean()), "tokens": float(np.mean(tokens)),
        "accuracy_largest": float(hits[sides == sides.max()].mean()),
        "accuracy_smallest": float(hits[sides == sides.min()].mean()),
    }  # fmt: skip
    if (steps >= 5).any():
        metrics["accuracy_long"] = float(hits[steps >= 5].mean())
    for task in sorted({trace.task for trace in real.test}):
        metrics[f"accuracy_{task}"] = float(
            np.mean([h for h, t in zip(right, real.test, strict=True) if t.task == task])
        )
    if checks:
        sampled = {key: float(np.mean([c[key] for c in checks])) for key in checks[0]}
        metrics |= sampled | {f"{key}_sampled": value for key, value in sampled.items()}  # everything is sampled here
    return metrics


def question_of(trace: BoardTrace) -> str:
    """x in words."""
    kinds = {"maze": "Which letter is reached?", "frozenlake": "A: the gift is reached, B: a hole, C: neither."}
    return f"Actions: {', '.join(trace.actions)}. {kinds[trace.task]}"


def frames_of(trace: BoardTrace, model: AnoleThinker) -> Tensor:
    """The trace's pictures at the model's size."""
    return torch.from_numpy(np.stack([read_board(file, 1, model.side) for file in trace.frames]))


def samples_of(arm: str, trace: BoardTrace, model: AnoleThinker) -> list[Sample]:
    """Training samples of a trace: those of the method, or one with the answer, alone or after words."""
    codes = list(model.encode(frames_of(trace, model)))
    question, end = question_of(trace), f"The answer is {trace.answer}."
    if arm == "direct":
        return [Sample("reason", (question, codes[0]), end)]
    if arm == "cot":
        words = "; ".join(f"{r} {c}" for r, c in trace.places)
        return [Sample("reason", (question, codes[0]), f"{words}. {end}")]
    samples = trace_samples(codes, trace.actions, trace.answer, question)
    if arm != "mvot-all-frames":
        return samples
    context = InterleavedContext(codes[0], None, [question], keep_all=True)
    whole: list[Sample] = []
    for action, frame in zip(trace.actions, codes[1:], strict=True):
        whole.append(Sample("reason", tuple(context.segments), action))
        context.push(text=action)
        whole.append(Sample("visualise", tuple(context.segments), frame))
        context.push(image=frame)
    return [*whole, Sample("reason", tuple(context.segments), end)]


def thought_of(arm: str, trace: BoardTrace, model: AnoleThinker, frames: Tensor, generator: torch.Generator) -> Trace:
    """What a trained model thinks."""
    first = model.encode(frames[:1])[0].cpu()
    if arm in ("direct", "cot"):
        text = model.next_segment(InterleavedContext(first, None, [question_of(trace)]), generator, pictures=False)
        assert isinstance(text, str)
        return Trace([text], [], answer_of(text), 1)
    if arm != "mvot-text-only":
        return think(model, question_of(trace), first, keep_all=arm == "mvot-all-frames", generator=generator)
    context, thought = InterleavedContext(first, None, [question_of(trace)]), Trace()
    while thought.answer is None and thought.rounds < 60:
        text = model.next_segment(context, generator, pictures=False)
        assert isinstance(text, str)
        context.push(text=text)
        thought.texts.append(text)
        thought.rounds += 1
        thought.answer = answer_of(text)
    return thought


def check(trace: BoardTrace, model: AnoleThinker, thought: Trace, frames: Tensor) -> dict[str, float]:
    """V-Acc, V-Red, V-Ratio and pixel error of one trace; frames that were never drawn are wrong."""
    count = len(trace.actions)
    drawn = torch.zeros(0, *frames.shape[1:])
    if thought.images:
        drawn = model.decode(torch.stack(thought.images[:count])).cpu()
    looks = cut(frames.numpy(), trace.grid)
    names = name_looks(looks.reshape(-1, looks.shape[-1])).reshape(looks.shape[:2])
    shown = np.full((count, looks.shape[1]), -1)
    made = cut(drawn.numpy(), trace.grid) if len(drawn) else looks[:0]
    every, labels = looks.reshape(-1, looks.shape[-1]), names.reshape(-1)
    for k, frame in enumerate(made):
        gaps = ((frame[:, None] - every[None]) ** 2).mean(-1)
        shown[k] = labels[gaps.argmin(1)]
    found = check_frames(names[:-1], names[1:], shown)
    error = ((drawn - frames[1 : len(drawn) + 1]) ** 2).mean() if len(drawn) else torch.tensor(1.0)
    return {
        "v_acc": float(found.right.mean()), "v_red": float(found.redundant.mean()),
        "v_ratio": float(consecutive_ratio(found.right[None])[0]), "pixel_mse": float(error),
    }  # fmt: skip


def cut(frames: NDArray[np.float32], grid: int) -> NDArray[np.float32]:
    """(T, grid * grid, values): the cells of frames, cut at the nearest pixels and brought to 8 x 8."""
    edges = np.linspace(0, frames.shape[1], grid + 1).round().astype(int)
    found = np.zeros((len(frames), grid * grid, 8 * 8 * 3), dtype=np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    for k in range(grid * grid):
        r, c = divmod(k, grid)
        cell = pixels[:, :, edges[r] : edges[r + 1], edges[c] : edges[c + 1]]
        found[:, k] = torch.nn.functional.adaptive_avg_pool2d(cell, 8).flatten(1).numpy()
    return found


def name_looks(cells: NDArray[np.float32]) -> NDArray[np.int64]:
    """(N,): a number for every look; a cell has the number of the first one it looks like."""
    kinds: list[NDArray[np.float32]] = []
    names = np.zeros(len(cells), dtype=np.int64)
    for k, cell in enumerate(cells):
        gaps = [float(np.sqrt(((cell - kind) ** 2).mean())) for kind in kinds]
        if gaps and min(gaps) < SAME:
            names[k] = int(np.argmin(gaps))
        else:
            names[k] = len(kinds)
            kinds.append(cell)
    return names
