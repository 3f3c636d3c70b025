"""Self-evolution: a reader labels real word images it is sure of, and asks a human for a few of the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from assay.nn.ctc import CtcRecogniser, unit

Batch = tuple[Tensor, Sequence[str]]  # images (N, 1, H, W), floats in [0, 1] or uint8, and their texts
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class EvolutionSettings:
    """How a reader is trained: Adam with a linear fall of the rate to a twentieth, and the images' augmentation."""

    steps: int = 300
    batch: int = 64
    lr: float = 3e-3
    augment: Augment | None = None
    clip: float = 5.0


@dataclass(frozen=True)
class Round:
    """What one round did; indices are into the pool.

    Attributes:
        accepted: (A,) images whose own reading was taken for a label, and `read`, those readings.
        asked: (B,) images that the human was asked for in this round.
        confidence: (U,) of every image's reading; 1 for images labelled by the human before.
    """

    accepted: tuple[int, ...]
    read: tuple[str, ...]
    asked: tuple[int, ...]
    confidence: tuple[float, ...]


@dataclass
class History:
    """What a run did, and the reader that came out.

    Attributes:
        recogniser: the last reader.
        rounds: one entry per round.
        labels: texts that the human gave, by pool index.
    """

    recogniser: CtcRecogniser
    rounds: list[Round] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """Labels used."""
        return len(self.labels)


def fit_reader(
    net: CtcRecogniser,
    parts: Sequence[tuple[Tensor, Sequence[str], float]],
    settings: EvolutionSettings,
    generator: torch.Generator,
) -> CtcRecogniser:
    """Train in place on images drawn with chances proportional to their part's weight; returns the net.

    Args:
        parts: (images (N, 1, H, W), N texts, weight of each image), empty parts allowed.

    Raises:
        ValueError: no image at all, texts and images not equally many, or a text outside the alphabet.
    """
    parts = [part for part in parts if len(part[1])]
    if not parts or any(len(images) != len(texts) for images, texts, _ in parts):
        raise ValueError("expected at least one image, and a text for each")
    images, texts = torch.cat([p[0] for p in parts]), [text for p in parts for text in p[1]]
    for text in set(texts):
        net.encode(text)
    chances = torch.cat([torch.full((len(p[1]),), float(p[2]), dtype=torch.float64) for p in parts])
    optimiser = torch.optim.Adam(net.parameters(), settings.lr)
    fall = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(1 - step / settings.steps, 0.05))
    net.train()
    for _ in range(settings.steps):
        rows = torch.multinomial(chances, settings.batch, replacement=True, generator=generator)
        picked = unit(images[rows])
        if settings.augment is not None:
            picked = settings.augment(picked, generator)
        loss = net.loss(picked, [texts[i] for i in rows.tolist()])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip)
        optimiser.step()
        fall.step()
    return net.eval()


class SelfEvolution:
    """Rounds of reading an unlabelled pool, accepting sure readings, asking for unsure ones, and training on.

    In round r a reading is accepted when its confidence `q = exp(mean log p)` is at least `tau_r` and two augmented
    copies of the image are read alike. A human is asked for `budget * U / rounds` images of lowest q, of which near
    repeats are left out by k-centres in the reader's feature space. Training goes on from the last reader, on
    synthetic images (weight 1), accepted ones (1) and the human's (`labelled_weight`). Acceptance and query rules are
    ours; the paper's are not public.

    Args:
        recogniser_factory: makes an untrained reader.
        budget: share of the pool that may be asked for, in (0, 1].
        thresholds: tau of each round; their number is that of rounds.
        settings: training in each round; `start` of the first reader, when none is given to `run`.
        ask: `hard` as above, or `random` images.
        accept: False leaves readings unused.
        query: False asks for nothing (the budget is then not spent).
        candidates: k-centres choose among this many times the images asked for.

    Raises:
        ValueError: budget outside of (0, 1], no thresholds or thresholds not positive, unknown `ask`.

    Source: 2602.06450
    """

    def __init__(
        self,
        recogniser_factory: Callable[[], CtcRecogniser],
        budget: float = 0.09,
        thresholds: Sequence[float] = (0.95, 0.9, 0.85),
        settings: EvolutionSettings | None = None,
        start: EvolutionSettings | None = None,
        ask: Literal["hard", "random"] = "hard",
        accept: bool = True,
        query: bool = True,
        labelled_weight: float = 2.0,
        augment: Augment | None = None,
        candidates: int = 3,
    ) -> None:
        if not 0 < budget <= 1:
            raise ValueError(f"budget must lie in (0, 1], got {budget}")
        if not thresholds or min(thresholds) <= 0:
            raise ValueError(f"thresholds must be positive, one for each round, got {list(thresholds)}")
        if ask not in ("hard", "random"):
            raise ValueError(f"ask must be hard or random, got {ask!r}")
        self.factory, self.budget, self.thresholds = recogniser_factory, budget, tuple(thresholds)
        self.settings = settings or EvolutionSettings()
        self.start = start or replace(self.settings, steps=3 * self.settings.steps)
        self.ask, self.accept, self.query = ask, accept, query
        self.labelled_weight, self.augment, self.candidates = labelled_weight, augment or jitter, candidates

    def run(
        self,
        synthetic: Batch,
        pool: Tensor,
        oracle: Callable[[list[int]], Sequence[str]],
        generator: torch.Generator,
        start: CtcRecogniser | None = None,
        render: Callable[[list[str]], Batch] | None = None,
    ) -> History:
        """Evolve a reader.

        Args:
            synthetic: rendered images and texts.
            pool: real images (U, 1, H, W) without labels.
            oracle: the human: texts of the pool's images with these indices.
            generator: of batches, augmentation and random queries.
            start: the reader of round 0; its weights are changed. Trained on `synthetic` when None.
            render: takes the texts accepted and given so far and gives the round's synthetic images (corpus feedback).

        Raises:
            ValueError: the oracle gave another number of texts than it was asked for.
        """
        reader = start or fit_reader(self.factory(), [(*synthetic, 1.0)], self.start, generator)
        history = History(reader)
        for number in range(len(self.thresholds)):
            found = self.judge(reader, pool, number, history.labels, generator)
            history.rounds.append(found)
            if found.asked:
                given = list(oracle(list(found.asked)))
                if len(given) != len(found.asked):
                    raise ValueError(f"the oracle gave {len(given)} texts for {len(found.asked)} images")
                history.labels |= dict(zip(found.asked, given, strict=True))
            if render is not None:
                synthetic = render([*history.labels.values(), *found.read])
            fit_reader(reader, self.training_parts(synthetic, pool, found, history.labels), self.settings, generator)
        return history

    def judge(
        self, reader: CtcRecogniser, pool: Tensor, number: int, labels: dict[int, str], generator: torch.Generator
    ) -> Round:
        """Read the pool in round `number` (from 0): what is accepted and what is asked."""
        readings = reader.decode(pool)
        first, second = (reader.decode(self.augment(unit(pool), generator)) for _ in range(2))
        q = [1.0 if i in labels else reading.confidence for i, reading in enumerate(readings)]
        asked = self._queries(reader, pool, q, number, labels, generator)
        apart = set(asked) | set(labels)
        accepted = [
            i
            for i, reading in enumerate(readings)
            if self.accept and i not in apart and reading.text and reading.confidence >= self.thresholds[number]
            and reading.text == first[i].text == second[i].text
        ]  # fmt: skip
        return Round(tuple(accepted), tuple(readings[i].text for i in accepted), tuple(asked), tuple(q))

    def training_parts(
        self, synthetic: Batch, pool: Tensor, found: Round, labels: dict[int, str]
    ) -> list[tuple[Tensor, Sequence[str], float]]:
        """What a round trains on, for `fit_reader`: rendered, accepted and labelled images with their weights."""
        return [
            (*synthetic, 1.0),
            (pool[list(found.accepted)], found.read, 1.0),
            (pool[list(labels)], list(labels.values()), self.labelled_weight),
        ]

    def _queries(
        self, reader: CtcRecogniser, pool: Tensor, q: list[float], number: int, labels: dict[int, str],
        generator: torch.Generator,
    ) -> list[int]:  # fmt: skip
        """Images to ask for in round `number`; over all rounds at most `budget` of the pool."""
        if not self.query:
            return []
        rounds, most = len(self.thresholds), math.floor(self.budget * len(pool) + 1e-9)
        count = most * (number + 1) // rounds - len(labels)
        free = [i for i in range(len(pool)) if i not in labels]
        count = min(count, len(free))
        if count <= 0:
            return []
        if self.ask == "random":
            order = torch.randperm(len(free), generator=generator)[:count]
            return sorted(free[i] for i in order.tolist())
        free = sorted(free, key=lambda i: q[i])[: self.candidates * count]
        with torch.no_grad():
            reader.eval()
            vectors = torch.cat([reader.features(part) for part in pool[free].split(256)])
        return sorted(free[i] for i in k_centres(vectors, count))


def k_centres(vectors: Tensor, count: int) -> list[int]:
    """Greedy k-centres: starting from the first vector, always the one farthest from those taken. (N, D) -> indices."""
    taken = [0]
    nearest = (vectors - vectors[0]).square().sum(1)
    while len(taken) < min(count, len(vectors)):
        nearest[taken] = -1.0
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (vectors - vectors[taken[-1]]).square().sum(1))
    return taken


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Photometric changes of grey images in [0, 1], each image its own: contrast, brightness, noise; never inversion.

    Geometry stays: a reading must not depend on light.
    """
    draw = torch.rand((3, len(images), 1, 1, 1), generator=generator)
    contrast, light = 0.7 + 0.6 * draw[0], 0.3 * (draw[1] - 0.5)
    noise = torch.randn(images.shape, generator=generator) * 0.06 * draw[2]
    return ((images - 0.5) * contrast + 0.5 + light + noise).clamp(0, 1)


def shake(images: Tensor, generator: torch.Generator) -> Tensor:
    """`jitter` and a small affine change, each image its own: 6 degrees, a tenth of size and place, some shear."""
    draw = torch.rand((5, len(images)), generator=generator) * 2 - 1
    turn, shear = 0.1 * draw[0], 0.15 * draw[1]
    ratio = images.shape[2] / images.shape[3]
    zoom = 1 + 0.1 * draw[2]
    rows = [
        torch.stack([zoom * turn.cos(), zoom * (shear - turn.sin()) * ratio, 0.05 * draw[3]], 1),
        torch.stack([zoom * turn.sin() / ratio, zoom * turn.cos(), 0.1 * draw[4]], 1),
    ]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return jitter(moved, generator)
