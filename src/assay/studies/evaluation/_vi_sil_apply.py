"""`assay apply 2601.09851`: what a user's summaries lose of a video, word by word, and which to take."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.data.video.frames import Frames, nearest_distance, pictures_in, read_frames, read_picture, thumb
from assay.errors import InputError, require
from assay.llm.messages import user
from assay.llm.model import Model
from assay.methods.evaluation.vi_sil import (
    FLOOR,
    Candidate,
    Summary,
    Visil,
    cost,
    pareto,
    select,
    shot_keyframes,
    uniform_keyframes,
    visil_many,
    words,
)
from assay.studies.evaluation._vi_sil_models import ModelEvidence, named_model

FAR = 0.12  # mean grey difference above which a picture is hardly a frame of the video
LENGTHS = (15, 40, 100)
MASKED = (
    "the server gives no log-probabilities of a given text: content words were masked and looked up among the 20"
    " likeliest instead, with the floor ln 0.005"
)
MADE_FRAMES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Given:
    """A summary of the user, or a made one, with its name."""

    name: str
    summary: Summary


def score_files(
    video: Path, out: Path, summaries: Sequence[Path], model: str | None, name: str | None, budget: float | None,
    make: bool, frames: int, captions: int, words_most: int, frame_tokens: int, mode: str, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """What the study's `apply` does; arguments as there.

    Raises:
        InputError: bad options, files or model; no summary; a budget below the cheapest.
    """
    if min(frames, captions, words_most, frame_tokens) < 1:
        raise InputError("--frames, --captions, --words and --frame-tokens must be at least 1")
    if not summaries and not make:
        raise InputError(
            "no summary is given: name some with --summaries (a .txt, a folder of frames, a .yaml) or --make"
        )
    if budget is not None and not budget > 0:
        raise InputError(f"--budget {budget:g}: expected a positive number of tokens")
    given = named_apart([read_summary(path) for path in summaries])
    shown = read_frames(video, frames)
    notes = strange_frames(given, shown)
    chat = named_model(model, name)
    judge = ModelEvidence(chat)
    if mode == "auto":
        mode = "forced" if judge.can_force() else "masked"
        if mode == "masked":
            notes.append(MASKED)
    whole = Summary(None, shown.images)
    texts = judge.captions(whole, captions, words_most)
    if make:
        given = named_apart(given + made(chat, shown))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = visil_many(judge, whole, [g.summary for g in given], texts, FLOOR, mode, seed=seed)  # type: ignore[arg-type]
    notes += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    costs = [cost(g.summary, frame_tokens) for g in given]
    front = pareto(list(zip(costs, (s.loss for s in scores), strict=True)))
    chosen = choice(given, costs, scores, budget)
    out.mkdir(parents=True)
    write_scores(out / "visil.csv", given, costs, scores, front)
    write_words(out / "words.csv", given, scores)
    (out / "captions.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    draw_front(out / "front.png", given, costs, scores, front, chosen)
    keep(out / "chosen", given[chosen])
    report = {
        "video": video.name, "frames": len(shown.images), "of": shown.total, "model": chat.name, "mode": mode,
        "chosen": given[chosen].name, "loss": _round(scores[chosen].loss), "cost": costs[chosen], "budget": budget,
        "l_video": _round(scores[0].l_video), "l_none": _round(scores[0].l_none),
        "front": [given[n].name for n in front], "notes": notes,
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def read_summary(path: Path) -> Given:
    """A text file, a folder of frames, a single picture, or a YAML file with `text` and `frames` (paths beside it).

    Raises:
        InputError: it is none of these, empty, or names files outside its folder.
    """
    if path.is_dir():
        return Given(path.name or "frames", Summary(None, [read_picture(p) for p in pictures_in(path)]))
    if not path.is_file():
        raise InputError(f"summary {path} does not exist")
    if path.suffix.lower() in (".yaml", ".yml"):
        return Given(path.stem, _from_yaml(path))
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        return Given(path.stem, Summary(None, [read_picture(path)]))
    if not text:
        raise InputError(f"summary {path} is empty")
    return Given(path.stem, Summary(text))


def _from_yaml(path: Path) -> Summary:
    yaml = require("yaml", "evaluation")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML: {' '.join(str(error).split())[:120]}") from error
    if not isinstance(found, dict) or not set(found) <= {"text", "frames"} or not any(found.values()):
        raise InputError(f"{path}: expected `text`, `frames` or both")
    names = found.get("frames") or []
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path}: `frames` must be a list of paths")
    root, pictures = path.parent.resolve(), []
    for name in names:
        place = (root / name).resolve()
        if not place.is_relative_to(root):
            raise InputError(f"{path}: frame {name} lies outside the folder of the file")
        pictures += [read_picture(p) for p in (pictures_in(place) if place.is_dir() else [place])]
    return Summary(str(found["text"]).strip() if found.get("text") else None, pictures or None)


def named_apart(given: list[Given]) -> list[Given]:
    """The same with different names."""
    seen: dict[str, int] = {}
    found = []
    for one in given:
        seen[one.name] = seen.get(one.name, 0) + 1
        found.append(one if seen[one.name] == 1 else Given(f"{one.name}-{seen[one.name]}", one.summary))
    return found


def strange_frames(given: Sequence[Given], shown: Frames) -> list[str]:
    """A note for every summary with pictures that are like no frame of the video."""
    notes = []
    for one in given:
        far = [nearest_distance(picture, shown.thumbs) for picture in one.summary.frames or ()]
        if far and max(far) > FAR:
            notes.append(
                f"{one.name}: {sum(d > FAR for d in far)} of {len(far)} pictures are like no frame of the video"
            )
    return notes


def made(model: Model, shown: Frames) -> list[Given]:
    """Candidates: even and shot keyframes, texts of several lengths by the model, and both together."""
    found, small = [], np.array([thumb(image).ravel() for image in shown.images])
    total = len(shown.images)
    rows = {}
    for k in [k for k in MADE_FRAMES if k <= total]:
        rows[k] = [shown.images[n] for n in uniform_keyframes(total, k)]
        found.append(Given(f"made-uniform-{k}", Summary(None, rows[k])))
        if k > 1:
            found.append(Given(f"made-shots-{k}", Summary(None, [shown.images[n] for n in shot_keyframes(small, k)])))
    for length in LENGTHS:
        ask = f"Summarise this video in at most {length} words."
        text = model.chat([user(ask, *shown.images)], max_tokens=2 * length).text.strip()
        if not words(text):
            continue
        found.append(Given(f"made-text-{length}", Summary(text)))
        if 2 in rows:
            found.append(Given(f"made-mixed-{length}", Summary(text, rows[2])))
    return found


def choice(given: Sequence[Given], costs: Sequence[float], scores: Sequence[Visil], budget: float | None) -> int:
    """Number of the summary of least loss within the budget."""
    offered = [Candidate(g.summary, c, s.loss) for g, c, s in zip(given, costs, scores, strict=True)]
    try:
        taken = select(offered, math.inf if budget is None else budget)
    except ValueError as error:
        raise InputError(f"--budget: {error}") from error
    return next(n for n, candidate in enumerate(offered) if candidate is taken)


def write_scores(
    path: Path, given: Sequence[Given], costs: Sequence[float], scores: Sequence[Visil], front: Sequence[int]
) -> None:
    """One row a summary."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["summary", "visil", "low", "high", "normalised", "cost", "frames", "words", "on_front"])
        for n, (one, price, score) in enumerate(zip(given, costs, scores, strict=True)):
            low, high = score.ci
            numbers = [_round(v) for v in (score.loss, low, high, score.normalised)]
            size = [len(one.summary.frames or ()), len(words(one.summary.text or ""))]
            writer.writerow([one.name, *numbers, price, *size, int(n in front)])


def write_words(path: Path, given: Sequence[Given], scores: Sequence[Visil]) -> None:
    """What each summary lost, the most lost words first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["summary", "word", "lost", "given_video", "given_summary", "given_nothing", "caption", "position"]
        )
        for one, score in zip(given, scores, strict=True):
            for w in sorted(score.per_word, key=lambda w: -w.lost):
                values = [_round(v) for v in (w.lost, w.video, w.summary, w.nothing)]
                writer.writerow([one.name, w.word, *values, w.caption, w.position])


def draw_front(
    path: Path, given: Sequence[Given], costs: Sequence[float], scores: Sequence[Visil], front: Sequence[int],
    chosen: int,
) -> None:  # fmt: skip
    """Loss against cost with the front."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    for n, (one, price, score) in enumerate(zip(given, costs, scores, strict=True)):
        kind = (bool(one.summary.frames), bool(one.summary.text))
        colour = {(False, True): "C0", (True, False): "C1"}.get(kind, "C2")
        low, high = score.ci
        axes.plot([price, price], [low, high], color=colour, lw=1, alpha=0.6)
        axes.plot(price, score.loss, "*" if n == chosen else "o", color=colour, ms=13 if n == chosen else 6)
        if n in front or n == chosen or not one.name.startswith("made-"):
            label = one.name.replace("$", r"\$")
            axes.annotate(label, (price, score.loss), xytext=(5, 4), textcoords="offset points", size=8)
    axes.margins(x=0.15)
    axes.step([costs[n] for n in front], [scores[n].loss for n in front], where="post", color="0.4", lw=1)
    if max(costs) > 50 * max(min(costs), 1):
        axes.set_xscale("log")
    axes.set_xlabel("cost (tokens)")
    axes.set_ylabel("ViSIL (nats a content word), 95 % interval")
    axes.set_title("Blue: text, orange: frames, green: both; star: chosen", fontsize=9)
    figure.savefig(path, dpi=140)


def keep(folder: Path, one: Given) -> None:
    """The chosen summary as files."""
    from PIL import Image

    folder.mkdir()
    if one.summary.text:
        (folder / "summary.txt").write_text(one.summary.text + "\n", encoding="utf-8")
    for n, frame in enumerate(one.summary.frames or ()):
        Image.fromarray(frame).save(folder / f"frame_{n + 1:03d}.png")


def _round(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
