"""The cut of 1,024 tokens beside SciPy's solvers on the same matrix, on one core in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import eigsh

from assay.methods.segmentation.prior_aware_cut import PANC, PriorBank, add_anchors, affinity, fiedler
from benchmarks._measure import one_thread, ratio, row, side_by_side

GRID, SIZE, GROUPS, REPEATS = (32, 32), 64, 5, 9
LIMIT = 3.0


def rows() -> list[dict[str, Any]]:
    """Ratios of processor time, each pair measured by turns; and whether repeated runs give the same bytes."""
    with one_thread():
        return [one for kind in ("hard", "soft") for one in _rows(kind)]


def _rows(kind: Any) -> list[dict[str, Any]]:
    tokens, bank = _tokens()
    method = PANC(kind=kind)
    flat = tokens.flatten(0, 1)
    whole = add_anchors(affinity(flat, kind=kind), method.prior(tokens, bank).flatten(), method.kappa)
    root = whole.sum(dim=1).sqrt()
    matrix = (whole / root / root[:, None]).numpy()
    start = np.random.default_rng(0).standard_normal(len(matrix))

    def theirs() -> float:
        return float(eigsh(matrix, k=2, which="LA", v0=start)[0].min())

    def ours() -> float:
        return 1 - float(fiedler(whole).values[0])

    def cut_by_scipy() -> Any:
        graph = add_anchors(affinity(flat, kind=kind), method.prior(tokens, bank).flatten(), method.kappa)
        scale = graph.sum(dim=1).rsqrt()
        u = eigsh((graph * scale * scale[:, None]).numpy(), k=2, which="LA", v0=start)[1][:, 0]
        y = u * scale.numpy()
        y = y if y[-2] > y[-1] else -y
        return y[:-2] > (y[-2] + y[-1]) / 2

    assert abs(ours() - theirs()) < 1e-8, "both must find the same pair"
    first = method(tokens, bank)
    assert (cut_by_scipy() == first.mask.flatten().numpy()).all(), "both must find the same mask"
    solved = _times(ours, theirs)
    cut = _times(lambda: method(tokens, bank), cut_by_scipy)
    same = all(_bytes(method(tokens.clone(), bank)) == _bytes(first) for _ in range(5))
    what = f"{GRID[0] * GRID[1]} tokens, {kind} affinity"
    eigenvector = "eigenvector of the graph, time over SciPy's eigsh on the same matrix, normalised"
    return [
        row(f"{what}: {eigenvector}", solved, "times", at_most=LIMIT),
        row(f"{what}: from tokens to mask, time over the same steps with eigsh", cut, "times", at_most=LIMIT),
        row(f"{what}: six runs give the same bytes", float(same), "", at_least=1, at_most=1),
    ]


def _tokens() -> tuple[torch.Tensor, PriorBank]:
    """Noisy tokens of a few groups in blobs, and a bank for one group."""
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(GROUPS, SIZE, generator=g)
    smooth = torch.nn.functional.interpolate(torch.randn(1, GROUPS, 5, 5, generator=g), GRID, mode="bicubic")[0]
    kind = smooth.argmax(dim=0)
    tokens = centres[kind] + torch.randn(*GRID, SIZE, generator=g)
    flat, kinds = tokens.flatten(0, 1), kind.flatten()
    return tokens.double(), PriorBank(flat[kinds == 0][:5].double(), flat[kinds != 0][:10].double())


def _bytes(cut: Any) -> bytes:
    return cut.y.numpy().tobytes() + cut.mask.numpy().tobytes()


def _times(ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    return ratio(side_by_side(ours, theirs, REPEATS, warm=0, clock=time.thread_time))
