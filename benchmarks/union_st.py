"""UnionST's engine: word images a second at 32 x 128, and what the visibility check costs."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from assay.data.text import fonts
from assay.methods.detection.union_st import CLASSIC, UNION, Corpus, EngineConfig, TextEngine
from benchmarks._measure import one_thread, ratio, row, side_by_side

IMAGES, TURNS, CORES = 100, 3, 2
WORDS = (
    "harbour",
    "street",
    "open",
    "market",
    "bridge",
    "station",
    "tea",
    "garden",
    "exit",
    "library",
    "museum",
    "bank",
)


def rows() -> list[dict[str, Any]]:
    """Processor time, so that a busy machine does not count; a picture is drawn, brought to 32 x 128 and encoded."""
    with one_thread():
        union, classic = (_encoded(config) for config in (UNION, CLASSIC))
        unchecked = _encoded(replace(UNION, check=False))
        turns = side_by_side(union, classic, TURNS, clock=time.process_time)
        checked = side_by_side(union, unchecked, TURNS, clock=time.process_time)
    least = min(mine for mine, _ in turns)
    return [
        row(f"union, 32 x 128: images a second on {CORES} cores", CORES * IMAGES / least, "images/s", at_least=150),
        row("union: time over the classic engine's", ratio(turns), "times"),
        row("union: time over the same without the visibility check", ratio(checked), "times", at_most=2),
    ]


def _encoded(config: EngineConfig) -> Any:
    """Draws a hundred images with half-size lengths and encodes them as JPEG."""
    files = fonts.load(fonts.bundled())
    photo = np.random.default_rng(0).integers(0, 255, (200, 400, 3), dtype=np.uint8)
    engine = TextEngine(Corpus(WORDS), files, replace(config, scale=0.5), [photo])

    def work() -> None:
        for sample in engine.samples(IMAGES, 0):
            Image.fromarray(sample.image).resize((128, 32)).save(io.BytesIO(), "JPEG", quality=90)

    return work
