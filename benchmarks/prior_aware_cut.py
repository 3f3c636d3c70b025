"""The cut of 1,024 tokens beside SciPy's solvers on the same matrix, on one core in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import eigsh
from threadpoolctl import threadpool_limits

from assay.methods.segmentation.prior_aware_cut import PANC, PriorBank, add_anchors, affinity, fiedler

GRID, SIZE, GROUPS, REPEATS = (32, 32), 64, 5, 9
LIMIT = 3.0


def rows() -> list[dict[str, Any]]:
    """Ratios of processor time, each pair measured by turns; and whether repeated runs give the same bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            return [row for kind in ("hard", "soft") for row in _rows(kind)]
    finally:
        torch.set_num_threads(threads)


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
    solved = [(_seconds(ours), _seconds(theirs)) for _ in range(REPEATS)]
    cut = [(_seconds(lambda: method(tokens, bank)), _seconds(cut_by_scipy)) for _ in range(REPEATS)]
    same = all(_bytes(method(tokens.clone(), bank)) == _bytes(first) for _ in range(5))
    what = f"{GRID[0] * GRID[1]} tokens, {kind} affinity"
    return [
        _ratio(f"{what}: eigenvector of the graph, time over SciPy's eigsh on the same matrix, normalised", solved),
        _ratio(f"{what}: from tokens to mask, time over the same steps with eigsh", cut),
        {"what": f"{what}: six runs give the same bytes", "value": float(same), "unit": "", "limit": "1", "ok": same},
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


def _seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def _ratio(what: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    value = median(mine / peer for mine, peer in pairs)
    return {"what": what, "value": value, "unit": "times", "limit": f"at most {LIMIT:g}", "ok": value <= LIMIT}
