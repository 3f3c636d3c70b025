"""The CTC reader: loss against all paths, greedy decoding, bad input."""

from __future__ import annotations

import itertools
import math

import pytest

pytest.importorskip("torch")

import torch

from assay.nn.ctc import CtcRecogniser


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [s for i, s in enumerate(path) if s and (i == 0 or path[i - 1] != s)]


@pytest.mark.parametrize("text", ["a", "ab", "aa", "bab", ""])
def test_loss_is_the_sum_over_all_paths(text: str) -> None:
    torch.manual_seed(0)
    net = CtcRecogniser("ab", width=4, height=8).eval()
    images = torch.rand(1, 1, 8, 12)
    log_probs = net(images)[0].detach()
    assert log_probs.shape == (6, 3)
    want = net.encode(text)
    total = sum(
        math.exp(sum(float(log_probs[t, s]) for t, s in enumerate(path)))
        for path in itertools.product(range(3), repeat=6)
        if collapsed(path) == want
    )
    assert float(net.loss(images, [text]).detach()) == pytest.approx(-math.log(total) / max(len(text), 1), rel=1e-4)


def test_weights_and_impossible_texts() -> None:
    torch.manual_seed(0)
    net = CtcRecogniser("ab", width=4, height=8).eval()
    images = torch.rand(2, 1, 8, 12)
    one, two = (float(net.loss(images[i : i + 1], [text]).detach()) for i, text in enumerate(["a", "b"]))
    both = net.loss(images, ["a", "b"], torch.tensor([2.0, 1.0]))
    assert float(both.detach()) == pytest.approx((2 * one + two) / 2, rel=1e-5)
    assert float(net.loss(images[:1], ["a" * 10]).detach()) == 0


def test_known_columns_are_plain_cross_entropy() -> None:
    torch.manual_seed(0)
    net = CtcRecogniser("ab", width=4, height=8).eval()
    images, symbols = torch.rand(2, 1, 8, 12), torch.tensor([[0, 1, 1, 0, 2, 2], [2, 0, 0, 1, 0, 0]])
    log_probs = net(images).detach()
    wanted = -sum(float(log_probs[b, t, symbols[b, t]]) for b in range(2) for t in range(6)) / 12
    assert float(net.aligned_loss(images, symbols).detach()) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="expected symbols"):
        net.aligned_loss(images, symbols[:, :4])


def test_greedy_reading_of_sure_columns() -> None:
    net = CtcRecogniser("abc", width=4, height=8)
    path = [1, 1, 0, 1, 2, 3, 3, 0]
    logits = torch.full((1, len(path), 4), -50.0)
    logits[0, range(len(path)), path] = 0.0
    (reading,) = net.greedy(logits.log_softmax(2))
    assert reading.text == "aabc"
    assert reading.confidence == pytest.approx(1)


def test_confidence_is_the_mean_log_probability_of_characters() -> None:
    net = CtcRecogniser("ab", width=4, height=8)
    probs = torch.tensor([[[0.1, 0.6, 0.3], [0.1, 0.8, 0.1], [0.7, 0.2, 0.1], [0.2, 0.3, 0.5]]])
    (reading,) = net.greedy(probs.log())
    assert reading.text == "ab"
    assert reading.confidence == pytest.approx(math.sqrt(0.8 * 0.5), rel=1e-5)
    (empty,) = net.greedy(torch.tensor([[[0.9, 0.05, 0.05], [0.4, 0.3, 0.3]]]).log())
    assert empty.text == ""
    assert empty.confidence == pytest.approx(0.6, rel=1e-5)


def test_decode_leaves_the_mode_and_any_width_is_read() -> None:
    net = CtcRecogniser("ab", width=4, height=16).train()
    for wide in (5, 40):
        readings = net.decode(torch.rand(3, 1, 16, wide))
        assert len(readings) == 3
        assert all(0 < r.confidence <= 1 for r in readings)
    assert net.training


def test_bad_input() -> None:
    for alphabet, height in (("", 32), ("aa", 32), ("ab", 30)):
        with pytest.raises(ValueError):
            CtcRecogniser(alphabet, height=height)
    net = CtcRecogniser("ab", width=4, height=8)
    with pytest.raises(ValueError, match="not in the alphabet: 'xy'"):
        net.loss(torch.rand(1, 1, 8, 8), ["yax"])
    with pytest.raises(ValueError, match="images must be"):
        net(torch.rand(1, 1, 9, 8))
