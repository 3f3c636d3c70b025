"""Emoji glyphs and their words as embeddings with a modality gap, and edits of glyphs by words.

Two small towers are trained on all concepts: both drawings of most, one drawing of the held-out ones. Judged are the
other drawings of these, which neither towers nor autoencoders have seen, with the words of their concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from platformdirs import user_cache_path
from torch import Tensor

from assay.data.image import emoji
from assay.nn.text import SentenceEncoder
from assay.nn.towers import MLPTower, TowerTraining, TwoTowers, train_towers

WIDTH = 64
TEMPERATURE, CONE = 0.01, 3.0  # CLIP ends at 1/100; at 0.07 towers as small as these have no gap
EDIT_WORDS = 4


@dataclass(frozen=True)
class Embedded:
    """Unit embeddings of pairs, in training and held out.

    Attributes:
        img, txt: `(n, d)` training pairs.
        test_img, test_txt: `(m, d)` held-out pairs.
        ref, words: `(q, d)` embeddings of the picture and of the words of each edit; None where there are no edits.
        gallery: `(g, d)` pictures among which the target of an edit is looked for.
        target: `(q,)` its row there.
        ref_row: `(q,)` row of the reference picture, which is left out.
    """

    img: Tensor
    txt: Tensor
    test_img: Tensor
    test_txt: Tensor
    ref: Tensor | None = None
    words: Tensor | None = None
    gallery: Tensor | None = None
    target: NDArray[np.int64] | None = None
    ref_row: NDArray[np.int64] | None = None


def embed_emoji(seed: int, scale: str) -> Embedded:
    """Train the towers of one seed and embed what a trial needs."""
    concepts, held_out, epochs = {"smoke": (240, 60, 6)}.get(scale, (len(emoji.load()), 256, 30))
    rng = np.random.default_rng([seed, 6218])
    chosen = np.sort(rng.permutation(len(emoji.load()))[:concepts])
    pictures = torch.from_numpy(emoji.all_features()[:, chosen].copy())
    said, edits = texts_of(scale)
    words, refs, changes = (x[chosen] for x in (said, edits.ref, edits.words))
    held = np.sort(rng.permutation(concepts)[:held_out])
    seen = np.setdiff1d(np.arange(concepts), held)

    which = torch.from_numpy(np.concatenate([np.arange(concepts), seen]))
    images = torch.cat([pictures[0], pictures[1, seen]])
    centre, spread = images.mean(0), images.std()
    texts = torch.from_numpy(words * words.shape[1] ** 0.5)
    torch.manual_seed(seed)
    towers = (MLPTower(side.shape[1], WIDTH, 256) for side in (images, texts))
    model = TwoTowers(*towers, TEMPERATURE, learn_temperature=False)
    model.separate(CONE, torch.Generator().manual_seed(seed))
    how = TowerTraining(epochs=epochs, batch=256, learning_rate=2e-3, noise=0.1)
    train_towers(model, (images - centre) / spread, texts[which], which, how, seed)

    with torch.no_grad():
        drawn = model.encode_image((pictures - centre).flatten(0, 1) / spread).unflatten(0, (2, concepts))
        spoken = model.encode_text(texts)
        change = model.encode_text(torch.from_numpy(changes * changes.shape[1] ** 0.5))
    rows = {int(concept): row for row, concept in enumerate(chosen)}
    target = np.array([row for row in held if int(refs[row]) in rows], dtype=np.int64)
    ref_row = np.array([rows[int(refs[row])] for row in target], dtype=np.int64)
    return Embedded(
        torch.cat([drawn[0], drawn[1, seen]]), spoken[which], drawn[1, held], spoken[held], drawn[1, ref_row],
        change[target], drawn[1], target, ref_row,
    )  # fmt: skip


@dataclass(frozen=True)
class Edits:
    """For every concept a neighbour that it can be made from, and the words that make the difference.

    Attributes:
        ref: `(1592,)` the neighbour; -1 where there is none.
        words: `(1592, 384)` sentence embeddings of the words that the concept has and the neighbour has not.
    """

    ref: NDArray[np.int64]
    words: NDArray[np.float32]


@lru_cache(maxsize=1)
def texts_of(scale: str) -> tuple[NDArray[np.float32], Edits]:
    """Sentence embeddings of all concepts, `(1592, 384)`, and the edits; kept on disk by the text's hash."""
    concepts = emoji.load().concepts
    refs, changes = find_edits(concepts)
    encoder = SentenceEncoder(cache=user_cache_path("assay", appauthor=False) / "sentences", longest=64)
    return encoder([concept.text for concept in concepts]), Edits(refs, encoder(changes))


def find_edits(concepts: tuple[emoji.Concept, ...]) -> tuple[NDArray[np.int64], list[str]]:
    """The neighbour of each concept and the words of the edit.

    The neighbour lies in the same subgroup and shares most words (of name and keywords); the edit names the words that
    only the concept has, its name's first. "grinning cat" is made from "cat face" by "grinning, mouth, open, smile".
    """
    words = [_words(concept) for concept in concepts]
    refs, changes = np.full(len(concepts), -1, dtype=np.int64), []
    for i, concept in enumerate(concepts):
        best = 0
        for j, other in enumerate(concepts):
            if j == i or other.subgroup != concept.subgroup or set(words[i]) <= set(words[j]):
                continue
            shared = len(set(words[i]) & set(words[j]))
            if shared > best:
                best, refs[i] = shared, j
        base = set(words[refs[i]]) if best else set()
        changes.append(", ".join([word for word in words[i] if word not in base][:EDIT_WORDS]))
    return refs, changes


def _words(concept: emoji.Concept) -> list[str]:
    """Single words of name and keywords in their order, each once."""
    every = " ".join([concept.name, *concept.keywords]).lower().replace("-", " ").replace(":", " ").replace(",", " ")
    return list(dict.fromkeys(every.split()))
