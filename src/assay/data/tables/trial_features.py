"""Numbers for what describes a clinical trial: molecules, diagnoses and sentences.

Nothing is downloaded: descriptors come from RDKit, diagnoses from the ICD-10 hierarchy that their codes spell out, and
sentences from a truncated SVD of weighted word counts that is fitted on the training trials.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.tables.top_trials import Trials
from assay.errors import require

Array = NDArray[np.float32]

DESCRIPTORS = (
    "MolWt", "MolLogP", "TPSA", "NumHDonors", "NumHAcceptors", "NumRotatableBonds", "RingCount", "NumAromaticRings",
    "NumAliphaticRings", "FractionCSP3", "HeavyAtomCount", "NumHeteroatoms", "qed", "BalabanJ", "BertzCT",
)  # fmt: skip
ICD_WIDTH = 64
BUCKETS = 4096
LONGEST_SMILES = 2000
MOST = {"drug": 5, "disease": 5, "inclusion": 5, "exclusion": 3}  # tokens read of each part


@lru_cache(maxsize=8192)
def drug_descriptors(smiles: str) -> tuple[float, ...] | None:
    """The 15 `DESCRIPTORS` of a molecule; None where the SMILES cannot be read. Counts and masses enter as log(1 + x).

    Raises:
        MissingExtra: RDKit is not installed.
    """
    if len(smiles) > LONGEST_SMILES:
        return None
    chem = require("rdkit.Chem", "fusion")
    lists = require("rdkit.Chem.Descriptors", "fusion")
    with require("rdkit.rdBase", "fusion").BlockLogs():
        molecule = chem.MolFromSmiles(smiles)
        if molecule is None or molecule.GetNumAtoms() == 0:
            return None
        values = [float(getattr(lists, name)(molecule)) for name in DESCRIPTORS]
    if not np.isfinite(values).all():
        return None
    shrunk = [v if name in ("MolLogP", "FractionCSP3", "qed") else float(np.log1p(max(v, 0.0)))
              for name, v in zip(DESCRIPTORS, values, strict=True)]  # fmt: skip
    return tuple(shrunk)


def icd_levels(code: str) -> list[str]:
    """Chapter letter, block of ten, category and full code of an ICD-10 code; only the chapter where it is none.

    `"E11.9"` gives `["E", "E1", "E11", "E11.9"]`.
    """
    text = code.strip().upper()
    if re.fullmatch(r"[A-Z]\d[0-9A-Z](?:\.?[0-9A-Z]{1,4})?", text):
        levels = [text[0], text[:2], text[:3]]
        return [*levels, text] if len(text) > 3 else levels
    return [text[:1]] if text[:1].isalpha() else []


def icd_vector(code: str, width: int = ICD_WIDTH) -> Array:
    """The code's levels as a sum of signed hashes of length 1 each, (width,)."""
    vector = np.zeros(width, np.float32)
    for level in icd_levels(code):
        _add_hash(vector, f"icd:{level}")
    return vector


def name_vector(name: str, width: int = ICD_WIDTH) -> Array:
    """Words of a disease without codes, hashed likewise and scaled to length 1, (width,)."""
    vector = np.zeros(width, np.float32)
    for word in re.findall(r"[a-z0-9]{3,}", name.lower()):
        _add_hash(vector, f"word:{word}")
    return vector / max(float(np.linalg.norm(vector)), 1.0)


def _add_hash(vector: Array, text: str) -> None:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    vector[number // 2 % len(vector)] += 1.0 if number % 2 else -1.0


class SentenceSVD:
    """Latent semantic analysis of sentences: hashed words and word pairs, weighted by rarity, then a truncated SVD.

        f(x) = V' (tf(x) * idf) / || tf(x) * idf ||,  idf = 1 + log((1 + n) / (1 + df))

    Args:
        idf: (BUCKETS,).
        components: (D, BUCKETS), rows of V'.
    """

    def __init__(self, idf: Array, components: Array) -> None:
        self.idf, self.components = idf, components

    @classmethod
    def fit(cls, sentences: Sequence[str], width: int = 32, seed: int = 0) -> SentenceSVD:
        """Learn weights and directions from sentences.

        Raises:
            ValueError: fewer than two different sentences.
            MissingExtra: scikit-learn is not installed.
        """
        texts = sorted(set(sentences))
        if len(texts) < 2:
            raise ValueError(f"sentence features need at least two different sentences, got {len(texts)}")
        counts = _counts(texts)
        seen = np.asarray((counts != 0).sum(axis=0)).ravel()
        idf = (1 + np.log((1 + len(texts)) / (1 + seen))).astype(np.float32)
        decomposition = require("sklearn.decomposition", "fusion")
        rank = min(width, len(texts) - 1)
        svd = decomposition.TruncatedSVD(rank, random_state=seed, algorithm="randomized", n_iter=5)
        svd.fit(_weighted(counts, idf))
        components = np.zeros((width, BUCKETS), np.float32)
        components[:rank] = svd.components_
        return cls(idf, components)

    def __call__(self, sentences: Sequence[str]) -> Array:
        """(N, D), scaled so that the mean square of an entry of fitted sentences is near one."""
        if not sentences:
            return np.zeros((0, len(self.components)), np.float32)
        projected = _weighted(_counts(sentences), self.idf) @ self.components.T
        return np.asarray(projected * np.sqrt(len(self.components)) * 2, np.float32)


def _counts(sentences: Sequence[str]) -> Any:
    text = require("sklearn.feature_extraction.text", "fusion")
    return text.HashingVectorizer(n_features=BUCKETS, ngram_range=(1, 2), norm=None).transform(sentences)


def _weighted(counts: Any, idf: Array) -> Any:
    weighted = counts.multiply(idf[None]).tocsr()
    length = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return weighted.multiply(1 / np.maximum(length, 1e-9)[:, None]).tocsr()


@dataclass
class TrialFeatures:
    """Trials as sets of tokens.

    Attributes:
        embed: sentences -> (N, D).
        mean, deviation: of the drug descriptors of the training trials, (15,).
        most: part -> number of tokens read.
    """

    embed: Callable[[Sequence[str]], Array]
    mean: Array
    deviation: Array
    most: Mapping[str, int] = field(default_factory=lambda: dict(MOST))

    @classmethod
    def fit(
        cls, trials: Trials, embed: Callable[[Sequence[str]], Array] | None = None, *, width: int = 32, **more: Any
    ) -> TrialFeatures:
        """Learn scales, and the sentence embedding where none is given, from training trials only."""
        known = [d for row in trials.smiles for s in row if (d := drug_descriptors(s)) is not None]
        table = np.array(known, np.float32).reshape(-1, len(DESCRIPTORS))
        mean = table.mean(axis=0) if len(table) else np.zeros(len(DESCRIPTORS), np.float32)
        deviation = np.maximum(table.std(axis=0), 1e-3) if len(table) else np.ones(len(DESCRIPTORS), np.float32)
        if embed is None:
            embed = SentenceSVD.fit(
                [s for part in (trials.inclusion, trials.exclusion) for row in part for s in row], width
            )
        return cls(embed, mean, deviation, **more)

    def tokens(self, trials: Trials) -> tuple[dict[str, Array], dict[str, NDArray[np.bool_]], list[str]]:
        """Tokens (N, L, D) and padding (N, L) of the parts drug, disease, inclusion and exclusion, and warnings."""
        warnings: list[str] = []
        drugs: list[list[Array]] = []
        for name, row in zip(trials.nctid, trials.smiles, strict=True):
            read = [drug_descriptors(s) for s in row]
            if any(d is None for d in read):
                warnings.append(f"{name}: {sum(d is None for d in read)} SMILES cannot be read and are left out")
            drugs.append([(np.array(d, np.float32) - self.mean) / self.deviation for d in read if d is not None])
        diseases = [
            [np.sum([icd_vector(code) for code in codes], axis=0) for codes in groups]
            or [name_vector(name) for name in names]
            for groups, names in zip(trials.icd, trials.diseases, strict=True)
        ]
        made = {
            "drug": self._pad(drugs, "drug", len(DESCRIPTORS)),
            "disease": self._pad(diseases, "disease", ICD_WIDTH),
        }
        for part in ("inclusion", "exclusion"):
            rows = [row[: self.most[part]] for row in getattr(trials, part)]
            flat = self.embed([s for row in rows for s in row])
            ends = np.cumsum([0, *map(len, rows)])
            sets = [list(flat[a:b]) for a, b in pairwise(ends)]
            made[part] = self._pad(sets, part, flat.shape[1] if flat.ndim == 2 else 0)
        return {k: t for k, (t, _) in made.items()}, {k: p for k, (_, p) in made.items()}, warnings

    def _pad(self, sets: Sequence[Sequence[Array]], part: str, width: int) -> tuple[Array, NDArray[np.bool_]]:
        length = self.most[part]
        out, pad = np.zeros((len(sets), length, width), np.float32), np.ones((len(sets), length), bool)
        for i, row in enumerate(sets):
            for j, token in enumerate(row[:length]):
                out[i, j], pad[i, j] = token, False
        return out, pad
