"""`assay apply 2501.07542`: imagine what actions do to a picture of a board, or learn a board's looks from traces."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay import __version__
from assay.data.scenes.board_traces import BoardTrace, read_board, read_traces
from assay.data.scenes.gridworld import ACTIONS
from assay.errors import InputError, require
from assay.methods.mllm.visualization_of_thought import (
    AnoleThinker,
    PatchCodebook,
    Trace,
    TraceFit,
    TraceLM,
    Traces,
    TraceThinker,
    TraceWords,
    codebook_distance,
    fit_traces,
    think,
)

PATCH = 8  # pixels
FINE = {"frozenlake": 1, "maze": 2}  # patches along a cell: mazes have walls and letters within one
LARGEST = 16  # patches along a board
CODES, SHOWN = 96, 64  # of the tokenizer; pixels of a cell in what is written


@dataclass(frozen=True)
class Tokenizer:
    """A codebook and how many patches lie along a cell."""

    codebook: PatchCodebook
    fine: int

    def read(self, file: Path, grid: int, exact: bool = False) -> Tensor:
        """(h, w) codes of a picture of a board."""
        pixels = read_board(file, grid, PATCH * self.fine, exact=exact)
        return self.codebook.encode(torch.from_numpy(pixels)[None])[0]


def follow(
    board: Path, out: Path, actions: str, grid: int, model: str | None, tokenizer: Path | None, temperature: float,
    question: str, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What the study's `apply` does without --train; arguments as there."""
    words = actions.lower().split()
    if not words:
        raise InputError(f'--actions is empty; expected words such as "right right down" ({", ".join(ACTIONS)})')
    if unknown := [word for word in words if word not in ACTIONS]:
        raise InputError(f"--actions {unknown[0]}: no such action; expected {', '.join(ACTIONS)}")
    if grid < 2 or temperature < 0:
        raise InputError(f"--grid must be at least 2 and --temperature not negative, got {grid} and {temperature}")
    if model is None:
        raise InputError(
            "no --model: train one with `assay apply 2501.07542 TRACES --train --out MINE` and pass --model MINE/model,"
            " or pass a Chameleon checkpoint such as leloy/Anole-7b-v0.1-hf"
        )
    if not board.is_file():
        raise InputError(f"{board}: expected a picture of a board")
    generator = torch.Generator().manual_seed(seed)
    if _is_ours(Path(model)):
        trace, pictures = _small(board, words, grid, Path(model), tokenizer, temperature, generator)
    else:
        trace, pictures = _large(board, words, grid, model, temperature, question, generator)
    image = require("PIL.Image", "mllm")
    (out / "frames").mkdir(parents=True)
    side = grid * SHOWN
    shown = [
        image.fromarray((p.clamp(0, 1) * 255).round().byte().numpy()).resize((side, side), image.Resampling.NEAREST)
        for p in pictures
    ]
    for number, picture in enumerate(shown):
        picture.save(out / "frames" / f"{number:02d}.png")
    strip = image.new("RGB", (len(shown) * (side + 8) - 8, side), "white")
    for number, picture in enumerate(shown):
        strip.paste(picture, (number * (side + 8), 0))
    strip.save(out / "strip.png")
    report = {
        "board": board.name, "grid": grid, "actions": words, "thoughts": trace.texts, "answer": trace.answer,
        "frames": [f"frames/{number:02d}.png" for number in range(len(shown))], "rounds": trace.rounds, "model": model,
    }  # fmt: skip
    (out / "trace.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return {"answer": trace.answer or "none was spoken", "thoughts": " ".join(trace.texts), "frames": len(shown)}


def learn(folder: Path, out: Path, updates: int, seed: int) -> dict[str, Any]:
    """What the study's `apply --train` does; arguments as there."""
    if updates < 1:
        raise InputError(f"--updates must be at least 1, got {updates}")
    traces = [trace for trace in read_traces(folder) if trace.actions]
    tasks = sorted({trace.task for trace in traces})
    if len(tasks) != 1:
        raise InputError(f"{folder}: traces of {' and '.join(tasks) or 'no'} tasks; give a folder with those of one")
    fine, largest = FINE[tasks[0]], max(trace.grid for trace in traces) * FINE[tasks[0]]
    if largest > LARGEST:
        raise InputError(f"{folder}: boards of {largest // fine} cells; at most {LARGEST // fine} are taken")
    generator = torch.Generator().manual_seed(seed)
    pixels = [
        torch.from_numpy(np.stack([read_board(f, t.grid, PATCH * fine) for f in t.frames])) for t in traces
    ]  # fmt: skip
    patches = torch.cat([_patches(p) for p in pixels])
    codebook = PatchCodebook(min(CODES, max(len(patches) // 4, 2)), PATCH).fit(patches, generator=generator)
    answers = sorted({trace.answer for trace in traces})
    words = TraceWords(codebook.k, [*ACTIONS, *answers])
    steps = max(len(trace.actions) for trace in traces)
    torch.manual_seed(seed)
    model = TraceLM(words, steps=steps, largest=largest)
    assert codebook.centroids is not None
    model.start_from(codebook.centroids)
    held = set(range(0, len(traces), 5)) if len(traces) >= 10 else set()
    used = [k for k in range(len(traces)) if k not in held]
    groups = [
        _group([traces[k] for k in used if traces[k].grid == grid], [pixels[k] for k in used if traces[k].grid == grid],
               words, codebook, steps, grid * fine)
        for grid in sorted({traces[k].grid for k in used})
    ]  # fmt: skip
    fit = TraceFit(updates=updates, batch=32, rate=8e-3, final=0.4)
    history = fit_traces(model, groups, fit, codebook_distance(codebook.centroids), generator)
    model.save(out / "model", paper="2501.07542", version=__version__)
    np.savez(out / "codebook.npz", centroids=codebook.centroids.numpy(), patch=PATCH, fine=fine)
    report: dict[str, Any] = {
        "task": tasks[0], "traces": len(traces), "codes": codebook.k, "longest": steps, "answers": answers,
        "loss": round(float(np.mean(history[-20:])), 4), "held out": len(held),
    }  # fmt: skip
    for name, rows in (("right on held-out traces", sorted(held)), ("right on training traces", used[:50])):
        right = [_right(model, traces[k], codebook.encode(pixels[k][:1])[0], answers) for k in rows]
        if right:
            report[name] = round(float(np.mean(right)), 3)
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _group(
    traces: list[BoardTrace], pixels: list[Tensor], words: TraceWords, codebook: PatchCodebook, steps: int, side: int
) -> Traces:
    actions = torch.full((len(traces), steps), words.id("<pad>"))
    frames = torch.zeros(len(traces), steps + 1, side * side, dtype=torch.long)
    for k, (trace, seen) in enumerate(zip(traces, pixels, strict=True)):
        actions[k, : len(trace.actions)] = torch.tensor([words.id(word) for word in trace.actions])
        frames[k, : len(seen)] = codebook.encode(seen).flatten(1)
    lengths = torch.tensor([len(trace.actions) for trace in traces])
    return Traces(actions, lengths, frames, torch.tensor([words.id(t.answer) for t in traces]), (side, side))


def _right(model: TraceLM, trace: BoardTrace, first: Tensor, answers: list[str]) -> bool:
    thinker = TraceThinker(model, (len(first), len(first)), answers, temperature=0.0)
    return think(thinker, " ".join(trace.actions), first.flatten()).answer == trace.answer


def _patches(pictures: Tensor) -> Tensor:
    """(N, PATCH, PATCH, 3) of pictures (T, H, W, 3)."""
    cut = pictures.unflatten(2, (-1, PATCH)).unflatten(1, (-1, PATCH)).transpose(2, 3)
    return cut.flatten(0, 2)


def _small(
    board: Path, words: list[str], grid: int, folder: Path, tokenizer: Path | None, temperature: float,
    generator: torch.Generator,
) -> tuple[Trace, list[Tensor]]:  # fmt: skip
    try:
        model = TraceLM.load(folder)
    except ValueError as error:
        raise InputError(str(error)) from error
    tokens = _read_tokenizer(tokenizer or folder.parent / "codebook.npz", model)
    if grid * tokens.fine > model.shape["largest"]:
        raise InputError(f"--grid {grid}: the model was trained on up to {model.shape['largest'] // tokens.fine} cells")
    if len(words) > model.steps:
        raise InputError(f"--actions: {len(words)} actions; the model was trained on up to {model.steps}")
    first = tokens.read(board, grid, exact=True)
    answers = [word for word in model.words.words if len(word) == 1 and word.isupper()]
    thinker = TraceThinker(model, (len(first), len(first)), answers, temperature)
    try:
        trace = think(thinker, " ".join(words), first.flatten(), generator=generator)
    except ValueError as error:
        raise InputError(f"the model could not go on: {error}") from error
    codes = torch.stack([first.flatten(), *trace.images]).unflatten(1, first.shape)
    return trace, list(tokens.codebook.decode(codes))


def _large(
    board: Path, words: list[str], grid: int, model: str, temperature: float, question: str, generator: torch.Generator
) -> tuple[Trace, list[Tensor]]:
    try:
        thinker = AnoleThinker(model, temperature=temperature)
        side = thinker.side
        pixels = torch.from_numpy(read_board(board, 1, side))
        asked = " ".join(words) if question == "actions" else (
            f"The board has {grid} x {grid} cells. Actions: {', '.join(words)}. Where do they lead?"
        )  # fmt: skip
        first = thinker.encode(pixels[None])[0]
        trace = think(thinker, asked, first, generator=generator)
        return trace, list(thinker.decode(torch.stack([first, *trace.images])))
    except ValueError as error:
        raise InputError(f"--model {model}: {error}") from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a model that `learn` wrote."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "codes" in config and "words" in config


def _read_tokenizer(file: Path, model: TraceLM) -> Tokenizer:
    try:
        with np.load(file, allow_pickle=False) as stored:
            centroids = torch.from_numpy(np.asarray(stored["centroids"], dtype=np.float32))
            patch, fine = int(stored["patch"]), int(stored["fine"])
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: no tokenizer of --train ({str(error).splitlines()[0]})") from error
    if centroids.ndim != 2 or patch != PATCH or centroids.shape != (model.words.codes, 3 * PATCH * PATCH) or fine < 1:
        raise InputError(f"{file}: {tuple(centroids.shape)} centroids do not fit a model of {model.words.codes} codes")
    codebook = PatchCodebook(len(centroids), PATCH)
    codebook.centroids = centroids
    return Tokenizer(codebook, fine)
