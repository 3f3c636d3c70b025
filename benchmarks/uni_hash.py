"""Search of packed codes beside faiss used directly, and of bits beside float features.

One million codes of 64 bits, 100 queries, the 20 nearest, one thread, both sides in turns of one process. Ours is
`HammingIndex`, which adds an order among equal distances and checks of its input.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from assay.metrics.hamming import HammingIndex
from benchmarks._measure import one_thread, row, side_by_side

CODES, BITS, QUERIES, K = 1_000_000, 64, 100, 20
WIDTH, FLOATS = 256, 100_000
REPEATS = 7


def rows() -> list[dict[str, Any]]:
    """Ratios of least times: search and building of the index against faiss; bits against floats."""
    rng = np.random.default_rng(0)
    gallery = rng.integers(0, 256, (CODES, BITS // 8), dtype=np.uint8)
    query = rng.integers(0, 256, (QUERIES, BITS // 8), dtype=np.uint8)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with one_thread():
            return measured(gallery, query, rng)
    finally:
        faiss.omp_set_num_threads(threads)


def measured(gallery: np.ndarray, query: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The rows, on one thread."""
    ours, theirs = HammingIndex(gallery, faiss=True), direct(gallery)
    same = np.array_equal(ours.search(query, K)[0], theirs.search(query, K)[0])
    searched = side_by_side(lambda: ours.search(query, K), lambda: theirs.search(query, K), REPEATS)
    built = side_by_side(lambda: HammingIndex(gallery, faiss=True), lambda: direct(gallery), REPEATS)
    features = rng.normal(size=(FLOATS, WIDTH)).astype(np.float32)
    floats = faiss.IndexFlatIP(WIDTH)
    floats.add(features)
    few = HammingIndex(gallery[:FLOATS], faiss=True)
    asked = features[:QUERIES]
    against = side_by_side(lambda: few.search(query, K), lambda: floats.search(asked, K), 3)
    plain = HammingIndex(gallery[:FLOATS], faiss=False)
    bare = side_by_side(lambda: plain.search(query[:5], K), lambda: few.search(query[:5], K), 3)
    name = f"{CODES:,} codes of {BITS} bits, {QUERIES} queries"
    return [
        row(f"{name}: search over faiss used directly", least(searched), "times", at_most=1.1),
        row(f"{name}: distances equal to faiss", float(same), "share", at_least=1),
        row(f"{name}: a query", 1000 * min(mine for mine, _ in searched) / QUERIES, "ms"),
        row("building the index over faiss used directly", least(built), "times"),
        row(f"{FLOATS:,} codes of {BITS} bits over {WIDTH} floats, exact search", least(against), "times", at_most=1),
        row(f"{FLOATS:,} codes without faiss over with it", least(bare), "times"),
    ]


def direct(gallery: np.ndarray) -> Any:
    """faiss's flat binary index."""
    index = faiss.IndexBinaryFlat(BITS)
    index.add(gallery)
    return index


def least(pairs: list[tuple[float, float]]) -> float:
    """Least time of the first over least time of the second."""
    return min(mine for mine, _ in pairs) / min(peer for _, peer in pairs)
