"""Training the arms of the study of 2602.06450: engines from one start, labelling loops from one reader."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from assay.methods.detection.union_st import (
    CtcRecogniser,
    EvolutionSettings,
    History,
    SelfEvolution,
    fit_reader,
    jitter,
    shake,
)
from assay.nn.ctc import unit
from assay.studies.detection._union_world import Size, Words, World

AUGMENT = {"jitter": jitter, "shake": shake}
ROUNDS = (0.95, 0.9, 0.85)
BUDGET = 0.09
ALIGNED = 0.7  # share of an engine's updates that learn from columns


def start(world: World, lr: float) -> CtcRecogniser:
    """A reader of plain words; every engine's training starts here."""
    torch.manual_seed(world.seed)
    net = CtcRecogniser(world.alphabet, world.size.channels, world.size.height)
    plain, _ = world.rendered("plain", world.size.base, salt=-1)
    return aligned_fit(net, plain, settings(world.size.base_steps, lr, "jitter"), seeded(world, 0))


def aligned_fit(net: CtcRecogniser, words: Words, how: EvolutionSettings, generator: torch.Generator) -> CtcRecogniser:
    """Train on an engine's pictures in place: first by their columns, since the engine knows them, then by texts.

    With texts alone, CTC gives blanks only for the first hundreds of updates.
    """
    if words.symbols is None:
        return fit_reader(net, [(words.images, words.texts, 1.0)], how, generator)
    optimiser = torch.optim.Adam(net.parameters(), how.lr)
    fall = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(2.5 * (1 - step / how.steps) + 0.02, 1.0))
    net.train()
    for step in range(how.steps):
        rows = torch.randint(len(words), (how.batch,), generator=generator)
        images = unit(words.images[rows])
        images = images if how.augment is None else how.augment(images, generator)
        if step < ALIGNED * how.steps:
            loss = net.aligned_loss(images, words.symbols[rows])
        else:
            loss = net.loss(images, [words.texts[i] for i in rows.tolist()])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), how.clip)
        optimiser.step()
        fall.step()
    return net.eval()


def settings(steps: int, lr: float, augment: str) -> EvolutionSettings:
    """Training of any arm."""
    return EvolutionSettings(steps=steps, lr=lr, augment=AUGMENT[augment])


def seeded(world: World, salt: int) -> torch.Generator:
    """The same batches' order and augmentation for every arm."""
    return torch.Generator().manual_seed(100 * world.seed + salt)


def trained(world: World, words: Words, base: CtcRecogniser, lr: float, augment: str) -> CtcRecogniser:
    """A reader trained on an engine's pictures."""
    return aligned_fit(copy.deepcopy(base), words, settings(world.size.steps, lr, augment), seeded(world, 1))


def evolved(arm: str, world: World, reader: CtcRecogniser, synthetic: Words, pool: Words, lr: float, augment: str) -> (
    tuple[CtcRecogniser, dict[str, Any]]
):  # fmt: skip
    """What a labelling arm makes of the reader, in equally many updates, and what it used."""
    net, size, generator = copy.deepcopy(reader), world.size, seeded(world, 2)
    if arm == "real_100":
        how = settings(len(ROUNDS) * size.round_steps, lr, augment)
        parts: list[tuple[Tensor, Sequence[str], float]] = [
            (synthetic.images, synthetic.texts, 1.0), (pool.images, pool.texts, 2.0),
        ]  # fmt: skip
        return fit_reader(net, parts, how, generator), {"labels": float(len(pool))}
    loop = SelfEvolution(
        lambda: net, BUDGET, ROUNDS, settings(size.round_steps, lr, augment),
        ask="random" if arm == "random_9" else "hard", accept=arm != "random_9", query=arm != "pseudo_only",
    )  # fmt: skip
    history = loop.run(
        (synthetic.images, synthetic.texts), pool.images, lambda rows: [pool.texts[i] for i in rows], generator, net
    )
    return history.recogniser, {"labels": float(history.asked)} | accepted(history, pool)


def accepted(history: History, pool: Words) -> dict[str, list[float]]:
    """Share of the pool that was accepted in each round, and that was accepted and read right; in percent."""
    coverage, correct = [], []
    for done in history.rounds:
        right = [pool.texts[i] == text for i, text in zip(done.accepted, done.read, strict=True)]
        coverage.append(100 * len(right) / len(pool))
        correct.append(100 * sum(right) / len(pool))
    return {"pseudo_accepted": coverage, "pseudo_right": correct}


def seconds_per_1000(world: World, arm: str, count: int = 40) -> float:
    """Processor seconds in which an engine draws a thousand pictures."""
    engine = world.engine(arm)
    for _ in engine.samples(5, 0):
        pass
    begin = time.process_time()
    for _ in engine.samples(count, 1):
        pass
    return (time.process_time() - begin) / count * 1000


def smoke(size: Size) -> Size:
    """Just enough to run."""
    return Size(
        height=size.height, width=size.width, channels=6, base=48, rendered=48, base_steps=3, steps=3, round_steps=1,
        test=14, clean=10, pool=24,
    )  # fmt: skip
