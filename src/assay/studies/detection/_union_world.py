"""What the study of 2602.06450 trains and tests on: engines, simulated photographs, and pictures as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.data import samples
from assay.data.text import fonts
from assay.data.text.corpus import frequent_words, split_words
from assay.data.text.wild_words import GROUPS, WildWords
from assay.data.text.word_images import read_gt, read_picture, reader_input, used_width
from assay.errors import MissingExtra
from assay.methods.detection.union_st import (
    CLASSIC,
    PLAIN,
    UNION,
    Corpus,
    CtcRecogniser,
    EngineConfig,
    TextEngine,
    TextSample,
    grey_clusters,
)
from assay.metrics.recognition import comparable, edit_similarity, words_read

TRAIN_PACKAGES = ("font-roboto", "font-fredoka-one")  # beside matplotlib's faces
HELD_PACKAGES = ("font-source-serif-pro", "font-amatic-sc", "font-caladea")  # only the simulated photographs have them
CLASSIC_FONTS = ("DejaVuSans", "STIXGeneral", "cmr10")
TEXTURES = ("grass", "coins", "immunohistochemistry", "hubble_deep_field")  # of the engines
PHOTOS = ("coffee", "rocket", "chelsea", "brick", "gravel")  # behind the simulated photographs
CASES = (1.0, 0.0, 0.0)
FEW = "adehilnorstu"  # the twelve most frequent letters
STRAIN = 0.5  # of the simulated photographs
LONGEST = 5
CROPPED = 200  # pieces of the engines' photos that grey levels are taken from


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        height, width: of the reader's input in pixels. channels: of its first block.
        base, rendered: pictures to start from, and of each engine. base_steps, steps, round_steps: of training.
        test, clean, pool: pictures to test on, clean ones, and real ones to label.
        scale: of the engines' lengths.
    """

    height: int = 24
    width: int = 72
    channels: int = 12
    base: int = 600
    rendered: int = 1200
    base_steps: int = 180
    steps: int = 600
    round_steps: int = 40
    test: int = 560
    clean: int = 280
    pool: int = 560
    scale: float = 0.4


@dataclass(frozen=True)
class Words:
    """Labelled pictures.

    Attributes:
        images: (N, 1, height, width) uint8.
        texts: of the reader's letters.
        groups: number of each picture's group, or none.
        symbols: (N, T) symbol of each of the reader's columns where the engine knows them, see `columns`.
    """

    images: Tensor
    texts: list[str]
    groups: list[int] = field(default_factory=list)
    symbols: Tensor | None = None

    def __len__(self) -> int:
        return len(self.texts)


def packed(pictures: Iterable[tuple[NDArray[np.uint8], str]], height: int, width: int) -> Words:
    """Pictures and texts as a reader takes them; texts without spaces and marks, in small letters."""
    rows = [(reader_input(image, height, width), comparable(text)) for image, text in pictures]
    return Words(torch.from_numpy(np.stack([image for image, _ in rows]))[:, None], [text for _, text in rows])


def columns(sample: TextSample, alphabet: str, height: int, width: int) -> Tensor:
    """Symbol of each of the reader's columns (T,): the glyph over the middle half of which it lies, or blank (0).

    Columns count along the height of pictures that the reader gets turned.
    """
    high, wide = sample.image.shape[:2]
    turned = high > 1.5 * wide
    along, across, ends = (high, wide, [1, 3]) if turned else (wide, high, [0, 2])
    scale = used_width(across, along, height, width) / along / 2
    symbols = torch.zeros((width + 1) // 2, dtype=torch.long)
    for glyph, (low, top) in zip(sample.text.replace(" ", ""), (sample.boxes[:, ends] * scale).tolist(), strict=True):
        if len(letter := comparable(glyph)) != 1:
            continue  # a mark, which is not read
        middle, half = (low + top) / 2, (top - low) / 4
        first = max(min(round(middle - half), int(middle)), 0)
        symbols[first : max(round(middle + half), first + 1)] = alphabet.index(letter) + 1
    return symbols


@lru_cache(maxsize=2)
def photos(names: tuple[str, ...]) -> list[NDArray[np.uint8]]:
    """Photographs of scikit-image as (H, W, 3)."""
    from skimage import data

    found = [np.asarray(getattr(data, name)()) for name in names]
    return [np.ascontiguousarray(p[..., :3]) if p.ndim == 3 else np.stack([p] * 3, -1) for p in found]


@lru_cache(maxsize=1)
def train_fonts() -> dict[str, bytes]:
    """Faces of the engines: matplotlib's, Roboto, Fredoka."""
    return fonts.load({**fonts.bundled(), **_installed(TRAIN_PACKAGES)})


def held_fonts() -> dict[str, bytes]:
    """Faces that no engine has: Source Serif, Amatic, Caladea."""
    return fonts.load(_installed(HELD_PACKAGES))


def _installed(packages: Sequence[str]) -> dict:
    found = {}
    for package in packages:
        if not (files := fonts.installed([package])):
            raise MissingExtra(f"{package} is not installed; install it with: pip install 'assay[detection]'")
        found |= files
    return found


@lru_cache(maxsize=2)
def vocabulary(alphabet: str, longest: int) -> list[str]:
    """The 4000 most frequent English words of the alphabet, of two letters to one fewer than the longest text."""
    return frequent_words(4000, alphabet=alphabet, length=(2, longest - 1))


class World:
    """Everything that a seed's arms draw from.

    Training words, test words and words of the unlabelled pictures are disjoint.
    """

    def __init__(
        self, seed: int, size: Size, alphabet: str = FEW, longest: int = LONGEST, upright: bool = True
    ) -> None:
        self.upright = upright
        self.seed, self.size, self.alphabet, self.longest = seed, size, alphabet, longest
        rng = np.random.default_rng([2602_06450, seed])
        self.train_words, self.test_words, self.pool_words = split_words(
            vocabulary(alphabet, longest), (0.6, 0.2, 0.2), rng
        )
        pieces = []
        for photo in photos(TEXTURES):
            for _ in range(CROPPED // len(TEXTURES)):
                y, x = (int(rng.integers(room - 40)) for room in photo.shape[:2])
                pieces.append(photo[y : y + 24, x : x + 40])
        self.greys = grey_clusters(pieces, 3)
        # A photo's neighbouring greys are close; half of the levels come from two pieces far apart in the list.
        order = rng.permutation(len(self.greys))
        self.greys = np.concatenate([self.greys, np.sort((self.greys + self.greys[order][:, ::-1]) / 2, 1)])

    def corpus(self, diverse: bool) -> Corpus:
        """Texts of the engines: UnionST's mix, or dictionary words alone."""
        weights = None if diverse else {"lexicon": 1.0}
        return Corpus(self.train_words, weights, alphabet=self.alphabet, length=(1, self.longest), cases=CASES)

    def engine(self, arm: str, scale: float | None = None) -> TextEngine:
        """The engine of an arm.

        Raises:
            KeyError: an arm without an engine.
        """
        config, diverse, faces = ENGINES[arm]
        if self.upright and "rotation_180" in config.geometry:
            config = replace(config, rotation=TURNED.rotation, geometry=TURNED.geometry)
        files = train_fonts()
        chosen = files if faces is None else {name: files[name] for name in faces}
        config = replace(config, scale=self.size.scale if scale is None else scale)
        return TextEngine(self.corpus(diverse), chosen, config, photos(TEXTURES), self.greys)

    def rendered(self, arm: str, count: int, salt: int = 0) -> tuple[Words, TextEngine]:
        """Pictures of an arm's engine, and the engine, which has counted what was invisible."""
        engine, size = self.engine(arm), self.size
        drawn = list(engine.samples(count, 10 * self.seed + salt + 1))
        words = packed(((s.image, s.text) for s in drawn), size.height, size.width)
        return replace(
            words, symbols=torch.stack([columns(s, self.alphabet, size.height, size.width) for s in drawn])
        ), engine

    def clean(self, count: int) -> Words:
        """Upright dictionary words that no engine trained on, in the classic engine's faces, on one colour."""
        corpus = Corpus(self.test_words, {"lexicon": 1.0}, cases=CASES)
        faces = {name: train_fonts()[name] for name in CLASSIC_FONTS}
        engine = TextEngine(corpus, faces, replace(PLAIN, scale=self.size.scale, padding=(2, 8)))
        drawn = engine.samples(count, 10 * self.seed + 9)
        return packed(((s.image, s.text) for s in drawn), self.size.height, self.size.width)

    def wild(self, count: int, pool: bool) -> Words:
        """Simulated photographs: to test on, or to label."""
        words = self.pool_words if pool else self.test_words
        maker = WildWords(words, held_fonts(), photos(PHOTOS), self.alphabet, CASES, self.longest, STRAIN)
        drawn = maker.samples(count, 2 * self.seed + pool)
        found = packed(((s.image, s.text) for s in drawn), self.size.height, self.size.width)
        return replace(found, groups=[GROUPS.index(s.group) for s in drawn])


# A reader of columns from left to right cannot read upside down: below full scale, text turns by at most 60 degrees.
TURNED = replace(
    UNION, rotation=(0, 60), geometry={name: w for name, w in UNION.geometry.items() if name != "rotation_180"}
)
STRAIGHT = replace(
    UNION, vertical=0, script=0, layouts={"flow": 1}, far=(0.8, 1), skew_x=(0, 10),
    geometry={"none": 2, "perspective_x": 1, "perspective_y": 1, "skew_x": 1},
)  # fmt: skip
ENGINES: dict[str, tuple[EngineConfig, bool, tuple[str, ...] | None]] = {  # configuration, diverse texts?, faces
    "plain": (replace(PLAIN, padding=(0, 8)), False, CLASSIC_FONTS),
    "classic": (CLASSIC, False, CLASSIC_FONTS),
    "union": (UNION, True, None),
    "no_corpus": (UNION, False, None),
    "no_font": (UNION, True, CLASSIC_FONTS),
    "no_layout": (STRAIGHT, True, None),
}


def real_crops(size: Size) -> Words | None:
    """The real word crops, where they are."""
    folder = samples.locate("scene-text")
    if folder is None:
        return None
    return packed(
        ((read_picture(path), text) for path, text in read_gt(folder / "gt.txt")), size.height, size.width
    )  # fmt: skip


def scores(net: CtcRecogniser, words: Words, name: str) -> dict[str, float]:
    """Word accuracy and mean edit similarity, both in percent."""
    said = [reading.text for reading in net.decode(words.images)]
    right = words_read(said, words.texts)
    found: dict = {f"word_acc_{name}": 100 * float(right.mean())}
    found[f"similarity_{name}"] = 100 * edit_similarity(said, words.texts)
    if words.groups:
        groups = np.array(words.groups)
        found[f"groups_{name}"] = [100 * float(right[groups == g].mean()) for g in sorted(set(words.groups))]
    return found
