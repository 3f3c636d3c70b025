"""`assay apply 2602.06450 --make N`: word images from a user's fonts and words."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from assay.data.text import fonts as font_files
from assay.data.text.corpus import frequent_words, read_words
from assay.data.text.word_images import WordLmdb, list_pictures, read_picture, write_gt
from assay.errors import InputError, require
from assay.methods.detection.union_st import (
    CLASSIC,
    UNION,
    Corpus,
    EngineConfig,
    Face,
    Invisible,
    TextEngine,
    TextSample,
)
from assay.studies.detection._union_world import TEXTURES
from assay.studies.detection._union_world import photos as surfaces

BATCH = 500  # pictures a worker draws at a time
Source = dict[str, Any]  # fonts, words, textures, classic, length: what an engine is made of, light enough to send


def source(fonts: Path | None, words: Path | None, backgrounds: Path | None, classic: bool) -> tuple[Source, dict]:
    """What an engine is made of, and the fonts that were refused with the reason.

    Raises:
        InputError: no usable font, word or photo.
    """
    if fonts is None:
        found, refused = font_files.load({**font_files.bundled(), **font_files.installed()}), {}
    else:
        found, refused = font_files.read_folder(fonts)
    texts = frequent_words(20_000, length=(1, 25)) if words is None else read_words(words)
    long = [text for text in texts if len(text.replace(" ", "")) > 25]
    texts = [text for text in texts if len(text.replace(" ", "")) <= 25]
    if not texts:
        raise InputError(f"{words}: every word has more than 25 characters, such as {long[0][:40]!r}")
    faces = {name: Face(name, data) for name, data in found.items()}
    letters = sorted({c for text in texts for c in text if c != " "})
    drawn = {name: [c for c in letters if face.has(c)] for name, face in faces.items()}
    for name in [name for name, able in drawn.items() if not able]:
        refused[name] = "has none of the words' characters"
        del found[name], drawn[name]
    if not found:
        raise InputError(f"no font can render the words' characters, such as {''.join(letters[:20])!r}")
    able = set().union(*drawn.values())
    if lacking := [c for c in letters if c not in able]:
        raise InputError(f"no font has the characters {''.join(lacking[:40])!r}; give a folder of fonts with --fonts")
    photos = [] if backgrounds is None else [read_picture(path) for path in list_pictures(backgrounds)]
    if backgrounds is None:
        photos = surfaces(TEXTURES)
    whole = [text for text in texts if any(face.has(text) for name, face in faces.items() if name in found)]
    if not whole:
        raise InputError(f"no single font can render a whole word such as {texts[0]!r}; give fonts of its script")
    left_out = len(texts) + len(long) - len(whole)
    return {"fonts": found, "words": whole, "left_out": left_out, "textures": photos, "classic": classic}, refused


def engine_of(given: Source, scale: float, config: EngineConfig | None = None) -> TextEngine:
    """The engine; texts that no single font can render are drawn anew."""
    corpus = Corpus(given["words"], {"lexicon": 1.0} if given["classic"] else None, pick=given.get("pick"))
    config = config or (CLASSIC if given["classic"] else UNION)
    return TextEngine(corpus, given["fonts"], replace(config, scale=scale), given["textures"])


def drawn(given: Source, scale: float, seed: int, height: int, numbers: range) -> list[tuple[bytes, str, list, int]]:
    """Samples with these numbers: (PNG, text, boxes, plans drawn); a worker's share."""
    engine, found = engine_of(given, scale), []
    for number in numbers:
        before = engine.drawn
        try:
            sample = engine.numbered(number, seed)
        except (Invisible, ValueError) as error:
            raise InputError(f"sample {number}: {error}") from error
        image, boxes = resized(sample, height)
        held = io.BytesIO()
        Image.fromarray(image).save(held, "PNG", compress_level=1)
        found.append((held.getvalue(), sample.text, boxes, engine.drawn - before))
    return found


def resized(sample: TextSample, height: int) -> tuple[np.ndarray, list[list[float]]]:
    """Image and boxes at a height in pixels, the ratio kept; 0 leaves them."""
    if not height:
        return sample.image, sample.boxes.tolist()
    factor = height / sample.image.shape[0]
    width = max(round(sample.image.shape[1] * factor), 1)
    image = np.asarray(Image.fromarray(sample.image).resize((width, height), Image.Resampling.BILINEAR))
    return image, np.round(sample.boxes * factor, 2).tolist()


def make(
    out: Path, count: int, *, fonts: Path | None, words: Path | None, backgrounds: Path | None, classic: bool,
    seed: int, height: int, lmdb: bool, workers: int,
) -> dict[str, Any]:  # fmt: skip
    """Render word images with labels, glyph boxes and, when wanted, an LMDB."""
    if count < 1 or workers < 1:
        raise InputError(f"--make and --workers must be at least 1, got {count} and {workers}")
    if height and not 8 <= height <= 512:
        raise InputError(f"--height must be 0 or 8 to 512 pixels, got {height}")
    if lmdb:
        require("lmdb", "detection")
    given, refused = source(fonts, words, backgrounds, classic)
    scale = float(np.clip(height / 60, 0.3, 1.0)) if height else 1.0
    (out / "images").mkdir(parents=True)
    labels, plans = [], 0
    with ExitStack() as open_files:
        boxes_file = open_files.enter_context((out / "boxes.jsonl").open("w", encoding="utf-8"))
        base = open_files.enter_context(WordLmdb(out / "lmdb")) if lmdb else None
        for number, (png, text, boxes, tried) in enumerate(
            _shared(partial(drawn, given, scale, seed, height), count, workers), 1
        ):
            name = f"images/{number:09d}.png"
            (out / name).write_bytes(png)
            labels.append((name, text))
            boxes_file.write(json.dumps({"image": name, "text": text, "boxes": boxes}, ensure_ascii=False) + "\n")
            plans += tried
            if base is not None:
                base.add(png, text)
    write_gt(out / "gt.txt", labels)
    report = {
        "images": count, "fonts": len(given["fonts"]), "fonts_refused": refused, "words": len(given["words"]),
        "words_left_out": given["left_out"],
        "invisible_draws_percent": round(100 * (1 - count / plans), 2), "seed": seed,
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _shared(work: partial, count: int, workers: int) -> Iterator[tuple[bytes, str, list, int]]:
    parts = [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]
    if workers == 1 or len(parts) == 1:
        for part in parts:
            yield from work(part)
        return
    with ProcessPoolExecutor(workers) as pool:
        for found in pool.map(work, parts):
            yield from found
