"""`assay apply 2602.06450 --sel` and `--read`: a reader evolved on a user's word crops by rounds, and readings."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay import __version__
from assay.data.text.word_images import list_pictures, read_picture, reader_input
from assay.errors import InputError
from assay.methods.detection.union_st import (
    CLASSIC,
    PLAIN,
    CtcRecogniser,
    EngineConfig,
    EvolutionSettings,
    Reading,
    SelfEvolution,
    fit_reader,
    jitter,
    reweighted,
)
from assay.metrics.recognition import comparable
from assay.studies.detection._union_apply import Source, engine_of, source
from assay.studies.detection._union_arms import ROUNDS, aligned_fit
from assay.studies.detection._union_world import TURNED, Words, columns, packed

HEIGHT, WIDTH, CHANNELS, SCALE = 32, 128, 24, 0.5
RATE = 4e-3
PAPER = "2602.06450"


def evolve(
    crops: Path, out: Path, *, budget: float, answers: Path | None, seed: int, updates: int, fonts: Path | None,
    words: Path | None, backgrounds: Path | None, classic: bool,
) -> dict[str, Any]:  # fmt: skip
    """One round: train, read all crops, accept the sure readings, ask for the others. The last round asks nothing."""
    if not 0 < budget <= 1 or updates < 1:
        raise InputError(f"--budget must lie in (0, 1] and --updates be at least 1, got {budget} and {updates}")
    names, pool = crops_of(crops)
    given, _ = source(fonts, words, backgrounds, classic)
    config = CLASSIC if classic else TURNED
    if answers is None:
        alphabet = "".join(sorted({c for word in given["words"] for c in comparable(word)}))
        if not alphabet:
            raise InputError(f"{words}: no letters or digits in the words; a reader reads nothing else")
        state = {"round": 0, "labels": {}, "asked": [], "accepted": {}, "files": names, "budget": budget, "seed": seed}
        torch.manual_seed(seed)
        reader = CtcRecogniser(alphabet, CHANNELS, HEIGHT)
        for how, steps in ((PLAIN, max(updates // 2, 1)), (config, updates)):
            taught = rendered(given, how, min(8 * steps, 3000), seed, reader)
            settings = EvolutionSettings(steps, lr=RATE, augment=jitter)
            aligned_fit(reader, taught, settings, torch.Generator().manual_seed(seed))
    else:
        reader, state = load(answers.parent / "model"), state_of(answers.parent)
        if state["files"] != names:
            raise InputError(f"{crops}: other pictures than the {len(state['files'])} of the run that asked {answers}")
        state["labels"] |= read_answers(answers, state["asked"], reader)
    loop = SelfEvolution(lambda: reader, state["budget"], ROUNDS)
    number, index = int(state["round"]), {name: i for i, name in enumerate(names)}
    labels = {index[name]: text for name, text in state["labels"].items()}
    generator = torch.Generator().manual_seed(1000 * state["seed"] + number)
    if number:
        known = [*state["labels"].values(), *state["accepted"].values()]
        weights = reweighted([comparable(word) or " " for word in given["words"]], known)
        given["pick"] = {"lexicon": weights, "running": weights}
        steps = max(updates // 4, 1)
        fresh = rendered(given, config, min(8 * steps, 3000), state["seed"] + number, reader)
        parts = [
            (fresh.images, fresh.texts, 1.0),
            (pool[[index[name] for name in state["accepted"]]], list(state["accepted"].values()), 1.0),
            (pool[list(labels)], list(labels.values()), loop.labelled_weight),
        ]
        fit_reader(reader, parts, EvolutionSettings(steps, lr=RATE / 2, augment=jitter), generator)
    out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"crops": len(names), "labels": len(labels)}
    readings = reader.decode(pool)
    state |= {"round": number + 1, "asked": [], "accepted": {}}
    if number < len(ROUNDS):
        found = loop.judge(reader, pool, number, labels, generator)
        state["asked"] = [names[i] for i in found.asked]
        state["accepted"] = {names[i]: text for i, text in zip(found.accepted, found.read, strict=True)}
        ask = f"ask_round{number + 1}.csv"
        rows = [(names[i], "", readings[i].text, round(readings[i].confidence, 4)) for i in found.asked]
        write_csv(out / ask, ("file", "text", "reading", "confidence"), rows)
        summary |= {"round": number + 1, "accepted": len(found.accepted), "asked": len(rows)}
        summary["next"] = f"fill in the column text of {ask} and run again with --answers {ask}"
    else:
        summary["next"] = "all rounds are done; read with --read MODEL"
    write_readings(out / "readings.csv", names, readings)
    save(reader, out / "model")
    (out / "state.json").write_text(json.dumps(state, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


def rendered(given: Source, config: EngineConfig, count: int, seed: int, reader: CtcRecogniser) -> Words:
    """Rendered words of the reader's characters, with their columns."""
    known = set(reader.alphabet)
    drawn = [
        sample
        for sample in engine_of(given, SCALE, config).samples(count, seed)
        if comparable(sample.text) and known.issuperset(comparable(sample.text))
    ]
    if not drawn:
        raise InputError("no rendered text has letters or digits; a reader reads nothing else")
    words = packed(((s.image, s.text) for s in drawn), HEIGHT, WIDTH)
    return replace(words, symbols=torch.stack([columns(s, reader.alphabet, HEIGHT, WIDTH) for s in drawn]))


def read(crops: Path, out: Path, model: Path | None) -> dict[str, Any]:
    """Texts of word crops, by a model of an earlier run."""
    assert model is not None
    reader = load(model)
    names, images = crops_of(crops)
    readings = reader.decode(images)
    out.mkdir(parents=True, exist_ok=True)
    write_readings(out / "readings.csv", names, readings)
    return {"crops": len(names), "mean_confidence": round(float(np.mean([r.confidence for r in readings])), 4)}


def crops_of(folder: Path) -> tuple[list[str], Tensor]:
    """Names and images of a folder of word crops.

    Raises:
        InputError: no pictures, one that cannot be read, or one of fewer than 8 pixels.
    """
    rows, paths = [], list_pictures(folder)
    for path in paths:
        image = read_picture(path)
        if min(image.shape[:2]) < 8:
            raise InputError(f"{path}: {image.shape[1]} x {image.shape[0]} pixels; text needs at least 8 of height")
        rows.append(reader_input(image, HEIGHT, WIDTH))
    return [path.relative_to(folder).as_posix() for path in paths], torch.from_numpy(np.stack(rows))[:, None]


def read_answers(path: Path, asked: Sequence[str], reader: CtcRecogniser) -> dict[str, str]:
    """Texts that a human gave for the pictures asked for, as the reader writes them; empty ones are left out.

    Raises:
        InputError: unreadable file, other pictures than were asked for, no text at all, or unknown characters.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV ({error})") from error
    if not rows or not {"file", "text"} <= set(rows[0]):
        raise InputError(f"{path}: expected columns file and text, and a row for each picture asked for")
    if unknown := sorted({row["file"] or "" for row in rows} - set(asked)):
        raise InputError(f"{path}: {unknown[0]!r} was not asked for in this round")
    found = {row["file"]: comparable(row["text"] or "") for row in rows if comparable(row["text"] or "")}
    if asked and not found:
        raise InputError(f"{path}: the column text is empty; fill in what the pictures say")
    if odd := sorted({c for text in found.values() for c in text} - set(reader.alphabet)):
        raise InputError(f"{path}: characters outside of the reader's alphabet: {''.join(odd)!r}")
    return found


def save(reader: CtcRecogniser, folder: Path) -> None:
    """Write model.safetensors and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in reader.state_dict().items()}, folder / "model.safetensors")
    config = {"paper": PAPER, "assay": __version__, "alphabet": reader.alphabet, "width": reader.width,
              "height": reader.height}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path) -> CtcRecogniser:
    """Read what `save` wrote.

    Raises:
        InputError: not such a folder.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("paper") != PAPER or config.get("height") != HEIGHT:
            raise InputError(f"{folder}: config.json is not of a reader of {PAPER} for {HEIGHT} pixels of height")
        reader = CtcRecogniser(str(config["alphabet"]), int(config["width"]), HEIGHT)
        reader.load_state_dict(load_file(folder / "model.safetensors"))
        return reader.eval()
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, RuntimeError,
            SafetensorError) as error:  # fmt: skip
        raise InputError(f"{folder}: no model folder of {PAPER} ({str(error).splitlines()[0]})") from error


def state_of(folder: Path) -> dict[str, Any]:
    """What a run left to go on from.

    Raises:
        InputError: no such file, or not of such a run.
    """
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        kinds = {"round": int, "labels": dict, "asked": list, "accepted": dict, "files": list, "seed": int}
        if not all(isinstance(state[name], kind) for name, kind in kinds.items()) or not 0 < state["budget"] <= 1:
            raise ValueError("entries of another kind")
        if not set(state["labels"]) | set(state["accepted"]) | set(state["asked"]) <= set(state["files"]):
            raise ValueError("pictures that are not among its files")
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the state of a --sel run ({error}); --answers must lie beside it") from error
    return state


def write_readings(path: Path, names: Sequence[str], readings: Sequence[Reading]) -> None:
    """A row for each crop."""
    rows = [(name, r.text, round(r.confidence, 4)) for name, r in zip(names, readings, strict=True)]
    write_csv(path, ("file", "text", "confidence"), rows)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """A CSV with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
