"""Real sets for the hashing study, split into what is trained on, what is asked, and what is searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor

from assay.data import samples
from assay.data.image import coil, emoji
from assay.data.image.hashing_sets import read_hashing_set
from assay.data.subspaces import turntable
from assay.errors import InputError
from assay.studies.retrieval._uni_features import Extractor

Ints = NDArray[np.int64]
BACKBONE = "google/vit-base-patch16-224"  # full scale, unless the data folder holds one as backbone/
UNSEEN = 0.3  # share of classes that training never sees
QUERIES = 0.3  # share of a class's concepts that are asked for
SMALLEST = 14  # concepts an emoji class needs
PERSONS = {"1F468", "1F469", "1F9D1", "200D", "2640", "2642", "FE0F"}  # code points that only change who is drawn


@dataclass(frozen=True)
class Pool:
    """A labelled set.

    Attributes:
        items: `(N, D)` float32.
        labels: `(N, C)` many-hot.
        concept: `(N,)`: items of one concept stand on the same side of every split.
        domain: `(N,)` artist of an item; None where there is one domain.
    """

    items: NDArray[np.float32]
    labels: NDArray[np.uint8]
    concept: Ints
    domain: Ints | None = None


@dataclass(frozen=True)
class Search:
    """Rows asked and rows searched, and the classes that make two of them belong together."""

    query: Ints
    gallery: Ints
    classes: Ints


@dataclass(frozen=True)
class Task:
    """One draw of classes and queries.

    Attributes:
        items: `(N, D)`, standardised by the training rows.
        labels: `(N, C)` many-hot.
        train: rows of training; they carry labels of seen classes only.
        seen: columns of the seen classes.
        searches: by name: `seen` and `unseen` in galleries of their own, `seen_open` and `unseen_open` in the gallery
            of both; one per ordered pair of domains. No `unseen` where all classes are seen.
    """

    items: Tensor
    labels: NDArray[np.uint8]
    train: Ints
    seen: Ints
    searches: dict[str, list[Search]]

    @property
    def targets(self) -> Tensor:
        """Labels of the training rows `(n, seen classes)`."""
        return torch.from_numpy(self.labels[self.train][:, self.seen].astype(np.float32))


def make_task(
    pool: Pool, rng: np.random.Generator, unseen: float = UNSEEN, most: int | None = None, classes: int | None = None
) -> Task:
    """Draw classes that stay unseen, and concepts to ask for.

    Args:
        pool: the set.
        rng: source of both draws.
        unseen: share of classes that stay unseen (at least one, where it is not 0).
        most: largest number of queries of a class.
        classes: draw so many of the classes first; None: all.

    An item with an unseen label counts as unseen, by its unseen labels; training and the seen searches use the others.
    """
    every = rng.permutation(pool.labels.shape[1])[:classes]
    held = max(1, round(unseen * len(every))) if unseen else 0
    away, seen = np.sort(every[:held]), np.sort(every[held:])
    of_unseen = pool.labels[:, away].any(1)
    of_seen = pool.labels[:, seen].any(1) & ~of_unseen
    asked = ask(pool, every, rng, most)
    base = ~asked
    searches: dict[str, list[Search]] = {}
    kinds = {"seen": (of_seen, of_seen, seen), "seen_open": (of_seen, of_seen | of_unseen, seen)}
    if held:
        kinds |= {"unseen": (of_unseen, of_unseen, away), "unseen_open": (of_unseen, of_seen | of_unseen, away)}
    for name, (query, gallery, columns) in kinds.items():
        for one, other in domain_pairs(pool.domain):
            rows = Search(np.flatnonzero(query & asked & one), np.flatnonzero(gallery & base & other), columns)
            if len(rows.query) and len(rows.gallery):
                searches.setdefault(name, []).append(rows)
    train = np.flatnonzero(of_seen & base)
    mean, scale = spread_of(pool.items[train])
    return Task(torch.from_numpy((pool.items - mean) / scale), pool.labels, train, seen, searches)


def ask(pool: Pool, classes: Sequence[int] | Ints, rng: np.random.Generator, most: int | None) -> NDArray[np.bool_]:
    """Rows of the concepts that are asked for: a share of every class, by its first label."""
    asked = np.zeros(len(pool.items), dtype=bool)
    first = pool.labels.argmax(1)
    for column in np.sort(classes):
        rows = (first == column) & pool.labels[:, column].astype(bool)
        concepts = rng.permutation(np.unique(pool.concept[rows]))
        count = min(max(1, round(QUERIES * len(concepts))), most or len(concepts)) if len(concepts) > 1 else 0
        asked |= rows & np.isin(pool.concept, concepts[:count])
    return asked


def domain_pairs(domain: Ints | None) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Rows of the asking and of the searched domain, for every ordered pair of different domains."""
    if domain is None:
        everything = np.array(True)
        return [(everything, everything)]
    found = np.unique(domain)
    return [(domain == a, domain == b) for a in found for b in found if a != b]


def spread_of(items: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale of the columns `(D,)`; columns that hardly vary have a scale that keeps them small."""
    deviation = items.std(0)
    return items.mean(0), np.maximum(deviation, 0.1 * deviation.max() + 1e-6).astype(np.float32)


def many_hot(labels: Ints) -> NDArray[np.uint8]:
    """Classes `(N,)` as rows `(N, C)`."""
    return np.eye(labels.max() + 1, dtype=np.uint8)[labels]


@cache
def emoji_pool() -> Pool:
    """Subgroups with enough concepts, as drawn by two artists; variants of a person are one concept."""
    corpus = emoji.load()
    index, _ = corpus.labels("subgroup")
    keys = np.array([concept_key(concept.code) for concept in corpus.concepts])
    big = [c for c in np.unique(index) if len(np.unique(keys[index == c])) >= SMALLEST]
    rows = np.flatnonzero(np.isin(index, big))
    glyphs = corpus.images[:, rows]
    items = emoji.features(glyphs.reshape(-1, *glyphs.shape[2:]))
    labels = many_hot(np.unique(index[rows], return_inverse=True)[1])
    concept = np.unique(keys[rows], return_inverse=True)[1]
    artists = len(corpus.artists)
    return Pool(
        items, np.tile(labels, (artists, 1)), np.tile(concept, artists), np.repeat(np.arange(artists), len(rows))
    )


def concept_key(code: str) -> str:
    """Code points without those that only change the person: a cook is one concept, whoever cooks."""
    return "-".join(point for point in code.split("-") if point not in PERSONS) or code


@cache
def coil_pool() -> Pool:
    """COIL-20, or turntable pictures where its file is not at hand."""
    folder = samples.locate("coil-20")
    file = coil.find(folder, "coil-20") if folder else None
    if file is None:
        images, labels = turntable(20, 72, np.random.default_rng(0))
    else:
        found = coil.read_mat(file)
        if found.labels is None:
            raise InputError(f"{file}: holds no classes to compare with; expected the variable gnd")
        images, labels = found.images, found.labels
    return Pool(images.reshape(len(images), -1), many_hot(labels), np.arange(len(images)))


@cache
def digits_pool() -> Pool:
    """scikit-learn's digits, 8x8 pixels."""
    found = load_digits()
    return Pool(
        (found.data / 16).astype(np.float32), many_hot(found.target.astype(np.int64)), np.arange(len(found.data))
    )


def has_coil() -> bool:
    """Whether COIL-20 lies among the samples."""
    folder = samples.locate("coil-20")
    return folder is not None and coil.find(folder, "coil-20") is not None


@cache
def official_pool(folder: Path | None, device: str) -> Pool:
    """CIFAR-10, MSCOCO or class folders of `--data`, as frozen features of a pretrained network.

    Raises:
        InputError: no folder, or none of the layouts.
    """
    if folder is None:
        raise InputError(
            "the full scale needs --data FOLDER with cifar-10-batches-bin/, annotations/instances_*.json and pictures,"
            " or train/ and val/ with class folders; backbone/ in it is used when present"
        )
    found = read_hashing_set(folder)
    local = folder / "backbone"
    extractor = Extractor(f"hf:{local if local.is_dir() else BACKBONE}", device)
    return Pool(extractor.stream(found.pictures, len(found)), found.labels, np.arange(len(found)))


def pool_of(condition: str, scale: str, data: Path | None, device: str) -> Pool:
    """The set of a condition; those that vary bits or labels use the main set."""
    if condition == "coil-20":
        return coil_pool()
    if condition == "digits":
        return digits_pool()
    return official_pool(data, device) if scale == "full" else emoji_pool()
