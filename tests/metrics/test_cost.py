import time

import pytest
import torch
from torch import nn

from assay.metrics.cost import median_seconds, parameter_bytes, parameter_count, peak_memory


def test_the_median_ignores_a_slow_call():
    pauses = iter([0.0, 0.005, 0.2, 0.005])
    seconds = median_seconds(lambda: time.sleep(next(pauses)), repeats=3)
    assert 0.005 <= seconds < 0.1
    assert median_seconds(lambda: time.sleep(0.02), repeats=3, clock=time.process_time) < 0.01
    with pytest.raises(ValueError, match="repeats 0"):
        median_seconds(lambda: None, repeats=0)


def test_peak_memory_counts_what_is_held_at_one_time():
    mega = 250_000  # float32 numbers in a million bytes

    def one_after_another():
        for _ in range(4):
            torch.zeros(mega).sum()

    def together():
        held = [torch.zeros(mega) for _ in range(4)]
        return sum(part.sum() for part in held)

    assert peak_memory(one_after_another) == pytest.approx(1e6, rel=0.05)
    assert peak_memory(together) == pytest.approx(4e6, rel=0.05)


def test_parameters_are_counted_once():
    layer = nn.Linear(3, 5)
    shared = nn.ModuleList([layer, layer, nn.Linear(5, 1).requires_grad_(False)])
    assert parameter_count(shared) == 20 + 6
    assert parameter_count(shared, trainable=True) == 20
    assert parameter_bytes(shared) == 26 * 4
