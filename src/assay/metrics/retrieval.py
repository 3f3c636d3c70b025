"""How well a ranking by similarity or distance finds what belongs to a query.

Ties are broken by the index in the gallery, lower first, so that the same numbers come out on every machine. Items that
belong to a query are given as booleans `(Q, N)`, or, for one match a query, as its index `(Q,)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHUNK = 256  # queries sorted at a time: keeps a million-item gallery within memory


def recall_at_k(similarity: ArrayLike, positives: ArrayLike, k: int) -> float:
    """Share of queries with something that belongs to them among their `k` most similar items.

    Args:
        similarity: `(Q, N)`, higher is nearer.
        positives: `(Q,)` index of the one match, or `(Q, N)` booleans; a query without a match counts as a miss.
        k: places looked at; all N when larger.

    Raises:
        ValueError: shapes that do not fit, a NaN, no query, an index outside the gallery, or k below 1.
    """
    score = _matrix(similarity)
    belongs = _relevant(positives, score.shape)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    found = [
        np.take_along_axis(belongs[rows], _order(-score[rows])[:, :k], axis=1).any(axis=1)
        for rows in _chunks(len(score))
    ]
    return float(np.concatenate(found).mean())


def first_ranks(similarity: ArrayLike, positives: ArrayLike) -> NDArray[np.int64]:
    """Place (1 = first) of the best-placed match of every query, `(Q,)`; N + 1 where a query has none.

    Raises:
        ValueError: as in `recall_at_k`.
    """
    score = _matrix(similarity)
    belongs = _relevant(positives, score.shape)
    ranks = []
    for rows in _chunks(len(score)):
        hits = np.take_along_axis(belongs[rows], _order(-score[rows]), axis=1)
        ranks.append(np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, score.shape[1] + 1))
    return np.concatenate(ranks).astype(np.int64)


def average_precisions(distance: ArrayLike, relevant: ArrayLike, top: int | None = None) -> NDArray[np.float64]:
    """Average precision of every query, `(Q,)`; NaN where nothing in the gallery belongs to it.

        AP = (1 / R) sum over places r of hit(r) * hits(1..r) / r,   R = matches among the places looked at

    Args:
        distance: `(Q, N)`, lower is nearer.
        relevant: `(Q, N)` booleans.
        top: look at the first `top` places only, as hashing papers do; R then counts matches among these, and a query
            that has matches but none among them gets 0.

    Raises:
        ValueError: shapes that do not fit, a NaN, no query, or `top` below 1.
    """
    away = _matrix(distance)
    belongs = np.asarray(relevant, dtype=bool)
    if belongs.shape != away.shape:
        raise ValueError(f"relevance {belongs.shape} does not fit distances {away.shape}")
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    found = []
    for rows in _chunks(len(away)):
        hits = np.take_along_axis(belongs[rows], _order(away[rows])[:, :top], axis=1)
        precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
        value = (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
        found.append(np.where(belongs[rows].any(axis=1), value, np.nan))
    return np.concatenate(found)


def mean_average_precision(distance: ArrayLike, relevant: ArrayLike, top: int | None = None) -> float:
    """Mean of `average_precisions` over the queries that have a match.

    Raises:
        ValueError: as there, or no query has a match.
    """
    values = average_precisions(distance, relevant, top)
    if np.isnan(values).all():
        raise ValueError("mean average precision is undefined: no query has a match in the gallery")
    return float(np.nanmean(values))


def same_label(query: ArrayLike, gallery: ArrayLike) -> NDArray[np.bool_]:
    """Which items share a label with a query, `(Q, N)`: classes `(Q,)`, `(N,)` or many-hot rows `(Q, C)`, `(N, C)`.

    Raises:
        ValueError: one of each kind, or rows of different length.
    """
    a, b = np.asarray(query), np.asarray(gallery)
    if a.ndim == b.ndim == 1:
        return a[:, None] == b[None, :]
    if a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1]:
        return (a.astype(float) @ b.astype(float).T) > 0
    raise ValueError(f"two vectors of classes or two many-hot tables expected, got {a.shape} and {b.shape}")


def _matrix(values: ArrayLike) -> NDArray[np.floating]:
    matrix = np.asarray(values)
    if matrix.ndim != 2 or 0 in matrix.shape or np.isnan(matrix).any():
        raise ValueError(f"a non-empty table of numbers (Q, N) without NaN expected, got {matrix.shape}")
    # Unsigned Hamming distances would wrap when negated.
    return matrix if np.issubdtype(matrix.dtype, np.floating) else matrix.astype(np.float64)


def _relevant(positives: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    given = np.asarray(positives)
    if given.ndim == 1 and len(given) == shape[0]:
        if given.min() < 0 or given.max() >= shape[1]:
            raise ValueError(f"indices of matches must lie in 0..{shape[1] - 1}")
        return given[:, None] == np.arange(shape[1])
    if given.shape != shape:
        raise ValueError(f"matches {given.shape} do not fit similarities {shape}")
    return given.astype(bool)


def _order(distance: NDArray[np.floating]) -> NDArray[np.intp]:
    return np.argsort(distance, axis=1, kind="stable")


def _chunks(count: int) -> list[slice]:
    return [slice(start, start + CHUNK) for start in range(0, count, CHUNK)]
