"""The labelling loop: budget, disjoint sets, limits of the threshold, sure and unsure readers, bad input."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from assay.methods.detection._union_evolution import jitter, k_centres
from assay.methods.detection.union_st import CtcRecogniser, EvolutionSettings, SelfEvolution, fit_reader, shake
from assay.nn.ctc import Reading

ONE = EvolutionSettings(steps=1, batch=4, lr=1e-4)


class Oracle(CtcRecogniser):
    """Reads an image's brightness code without a mistake, with a confidence that falls with the index."""

    def __init__(self, sure: bool = True) -> None:
        super().__init__("ab", width=4, height=8)
        self.sure = sure

    def decode(self, images: Tensor, batch: int = 256) -> list[Reading]:
        return [
            Reading("ab"[int(image[0, 0, 0] > 0.5)], 1.0 if self.sure else 0.99 - 0.9 * i / len(images))
            for i, image in enumerate(images)
        ]


def pool(count: int = 100) -> tuple[Tensor, list[str]]:
    images = torch.rand(count, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    code = torch.arange(count) % 2
    images[:, 0, 0, 0] = 0.1 + 0.8 * code
    return images, ["ab"[int(c)] for c in code]


def unchanged(images: Tensor, generator: torch.Generator) -> Tensor:
    return images


def evolve(start: CtcRecogniser, **options):
    images, texts = pool()
    loop = SelfEvolution(lambda: start, settings=ONE, **{"augment": unchanged, **options})
    asked: list[int] = []

    def human(indices: list[int]) -> list[str]:
        asked.extend(indices)
        return [texts[i] for i in indices]

    history = loop.run((images[:8], texts[:8]), images, human, torch.Generator().manual_seed(1), start)
    return history, asked, texts


def test_a_sure_reader_accepts_all_and_asks_the_budget_only() -> None:
    history, asked, texts = evolve(Oracle(), budget=0.09)
    assert len(asked) == len(set(asked)) == history.asked == 9
    assert [len(r.asked) for r in history.rounds] == [3, 3, 3]
    for number, round in enumerate(history.rounds, 1):
        assert len(round.accepted) == 100 - 3 * number
        assert [texts[i] for i in round.accepted] == list(round.read)
    assert all(history.labels[i] == texts[i] for i in asked)


def test_accepted_and_asked_are_disjoint_and_the_budget_holds() -> None:
    for budget in (0.02, 0.1, 0.35, 1.0):
        history, asked, _ = evolve(Oracle(sure=False), budget=budget)
        assert len(asked) <= budget * 100
        known: set[int] = set()
        for round in history.rounds:
            known |= set(round.asked)
            assert not known & set(round.accepted)


def test_a_threshold_above_one_accepts_none() -> None:
    history, _, _ = evolve(Oracle(), thresholds=(1.01, 1.01))
    assert [r.accepted for r in history.rounds] == [(), ()]


def test_unsure_images_are_asked_for_first() -> None:
    history, _, _ = evolve(Oracle(sure=False), budget=0.06, candidates=1)
    assert set(history.rounds[0].asked) == {98, 99}
    thresholds = (0.95, 0.9, 0.85)
    for round, tau in zip(history.rounds, thresholds, strict=True):
        assert all(round.confidence[i] >= tau for i in round.accepted)


def test_readings_that_differ_under_augmentation_are_not_accepted() -> None:
    def flips(images: Tensor, generator: torch.Generator) -> Tensor:
        changed = images.clone()
        changed[::2, 0, 0, 0] = 1 - changed[::2, 0, 0, 0]
        return changed

    history, _, _ = evolve(Oracle(), augment=flips, query=False)
    assert history.asked == 0
    assert all(set(r.accepted) == set(range(1, 100, 2)) for r in history.rounds)


def test_random_questions_and_unused_readings() -> None:
    history, asked, _ = evolve(Oracle(), ask="random", accept=False)
    assert len(asked) == 9
    assert not any(r.accepted for r in history.rounds)


def test_corpus_feedback_replaces_the_synthetic_images() -> None:
    images, texts = pool(20)
    seen: list[list[str]] = []

    def render(known: list[str]) -> tuple[Tensor, list[str]]:
        seen.append(known)
        return images[:4], texts[:4]

    SelfEvolution(Oracle, budget=0.2, settings=ONE, start=ONE).run(
        (images, texts), images, lambda rows: [texts[i] for i in rows], torch.Generator().manual_seed(0), render=render
    )
    assert len(seen) == 3
    assert len(seen[-1]) >= 4


def test_training_learns_two_letters() -> None:
    torch.manual_seed(0)
    images, texts = pool(64)
    images = torch.where(torch.tensor([t == "a" for t in texts])[:, None, None, None], images * 0.3, 1 - images * 0.3)
    net = CtcRecogniser("ab", width=4, height=8)
    fit_reader(
        net, [(images, texts, 1.0)], EvolutionSettings(steps=60, batch=16, lr=1e-2), torch.Generator().manual_seed(0)
    )
    assert sum(r.text == t for r, t in zip(net.decode(images), texts, strict=True)) > 60
    assert not net.training


def test_k_centres_take_the_far_ones() -> None:
    vectors = torch.tensor([[0.0], [0.1], [5.0], [10.0]])
    assert k_centres(vectors, 3) == [0, 3, 2]
    assert sorted(k_centres(vectors, 9)) == [0, 1, 2, 3]


def test_jitter_stays_in_range_and_follows_its_generator() -> None:
    images, _ = pool(5)
    one, two = (jitter(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1


def test_bad_input() -> None:
    for options, message in (
        ({"budget": 0.0}, "budget"),
        ({"budget": 1.2}, "budget"),
        ({"thresholds": ()}, "thresholds"),
        ({"ask": "all"}, "ask"),
    ):
        with pytest.raises(ValueError, match=message):
            SelfEvolution(Oracle, **options)
    images, texts = pool(10)
    loop = SelfEvolution(Oracle, budget=0.5, settings=ONE)
    with pytest.raises(ValueError, match="oracle gave 0"):
        loop.run((images, texts), images, lambda rows: [], torch.Generator(), Oracle())
    with pytest.raises(ValueError, match="at least one"):
        fit_reader(Oracle(), [], ONE, torch.Generator())
    with pytest.raises(ValueError, match="not in the alphabet"):
        fit_reader(Oracle(), [(images, ["z"] * 10, 1.0)], ONE, torch.Generator())


def test_shaking_moves_little_and_keeps_a_flat_picture_flat() -> None:
    flat = torch.full((6, 1, 16, 48), 0.5)
    assert float((shake(flat, torch.Generator().manual_seed(0)) - 0.5).abs().mean()) < 0.15
    edge = torch.zeros(40, 1, 16, 48)
    edge[..., 24:] = 1
    moved = shake(edge, torch.Generator().manual_seed(1))
    assert float(moved[..., :12].mean()) < 0.3
    assert float(moved[..., 36:].mean()) > 0.7
