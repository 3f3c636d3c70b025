"""MVoT's token discrepancy beside the plain way to compute it, and boards beside gymnasium's own renders.

The plain way turns true codes into one-hot rows and multiplies them with the distances (as a table of all codes by all
codes asks for at first sight); ours picks the rows. Boards are put together from cached cells; gymnasium draws its
window's surface anew for every frame.
"""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from assay.data.scenes.gridworld import frames, walk
from assay.methods.mllm.visualization_of_thought import codebook_distance, token_discrepancy
from benchmarks._measure import one_thread, row, side_by_side

CODES, TOKENS, REPEATS = 2048, 256, 7
LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")
ACTIONS = (2, 2, 1, 1, 0, 1, 2)


def rows() -> list[dict[str, Any]]:
    """Ratios of processor time, on one core."""
    with one_thread():
        return [_loss(), *_boards()]


def _loss() -> dict[str, Any]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(1, TOKENS, CODES + 64, generator=g)
    labels = torch.randint(CODES, (1, TOKENS), generator=g)
    distance, ids = codebook_distance(torch.randn(CODES, 32, generator=g)), torch.arange(CODES)

    def plain() -> torch.Tensor:
        true = torch.nn.functional.one_hot(labels[0], CODES).float()
        return (true @ distance * logits[0, :, :CODES].softmax(-1)).sum(-1).mean()

    def ours() -> torch.Tensor:
        return token_discrepancy(logits, labels, ids, distance, shift=False)

    torch.testing.assert_close(ours(), plain())
    return row(f"discrepancy of {TOKENS} tokens, {CODES} codes, against one-hot rows", _least(ours, plain),
               "of the time", at_most=0.5)  # fmt: skip


def _boards() -> list[dict[str, Any]]:
    try:
        import gymnasium
        import pygame  # noqa: F401
    except ImportError:
        return []
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    env = gymnasium.make("FrozenLake-v1", desc=list(LAKE), is_slippery=False, render_mode="rgb_array")

    def theirs() -> None:
        env.reset(seed=0)
        env.render()
        for action in ACTIONS:
            env.step(action)
            env.render()

    drawn = walk(LAKE, ACTIONS)
    found = row("eight boards of 4 x 4 cells at 64 px, against gymnasium's renders",
                _least(lambda: frames(drawn, 64), theirs), "of the time", at_most=1.0)  # fmt: skip
    env.close()
    return [found]


def _least(ours: Any, theirs: Any) -> float:
    """The least time of either over several turns."""
    pairs = side_by_side(ours, theirs, REPEATS, clock=time.process_time)
    return min(mine for mine, _ in pairs) / min(peer for _, peer in pairs)
