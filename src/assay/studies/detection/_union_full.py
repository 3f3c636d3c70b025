"""Full scale of the study of 2602.06450: rendered sets, real pool and benchmarks as LMDBs in the user's folder.

    DATA/union/         UnionST-S                       DATA/pool/          Union14M-L, labels used only where asked for
    DATA/classic/       MJSynth, SynthText              DATA/test/<group>/  Union14M-Benchmark, the six common sets

Each may be an LMDB (data.mdb inside) or a folder of LMDBs. Ablations are not published as sets and are rendered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.data.text.word_images import read_lmdb
from assay.errors import InputError
from assay.metrics.recognition import comparable
from assay.studies.detection._union_world import Size, Words, packed

FULL = Size(
    height=32, width=128, channels=64, base=20_000, rendered=400_000, base_steps=2000, steps=60_000, round_steps=6000,
    test=0, clean=2000, pool=100_000, scale=0.5,
)  # fmt: skip
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
LONGEST = 25


def databases(folder: Path) -> list[Path]:
    """LMDB folders at or below a folder.

    Raises:
        InputError: none there.
    """
    found = sorted(file.parent for file in folder.rglob("data.mdb")) if folder.is_dir() else []
    if not found:
        raise InputError(f"{folder}: no LMDB there (data.mdb); full scale reads union, classic, pool and test/<group>")
    return found


def usable(folder: Path) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Samples whose text has 1 to 25 letters and digits of the alphabet, as benchmarks filter them."""
    known = set(ALPHABET)
    for database in databases(folder):
        for image, text in read_lmdb(database):
            if 1 <= len(comparable(text)) <= LONGEST and known.issuperset(comparable(text)):
                yield image, text


def read(folder: Path, most: int, size: Size = FULL) -> Words:
    """At most that many samples.

    Raises:
        InputError: no LMDB, or no usable sample in it.
    """
    found = list(islice(usable(folder), most or None))
    if not found:
        raise InputError(f"{folder}: no sample with a text of 1 to {LONGEST} letters and digits")
    return packed(found, size.height, size.width)


def benchmarks(folder: Path, size: Size = FULL) -> tuple[Words, list[str]]:
    """All test sets together, numbered by group, and the groups' names.

    Raises:
        InputError: no test sets.
    """
    names = sorted(path.name for path in (folder / "test").iterdir() if path.is_dir()) if folder.is_dir() else []
    if not names:
        raise InputError(f"{folder / 'test'}: no folders of test sets in it")
    import torch

    parts = [read(folder / "test" / name, 0, size) for name in names]
    whole = Words(torch.cat([p.images for p in parts]), [text for p in parts for text in p.texts])
    return replace(whole, groups=[g for g, part in enumerate(parts) for _ in part.texts]), names
