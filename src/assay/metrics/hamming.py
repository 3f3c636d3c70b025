"""Binary codes: packing, Hamming distance, exact search.

A code of q bits (q a multiple of 8) is q/8 bytes, first bit highest, as `numpy.packbits` writes it and faiss reads it.
Ties of distance are broken by the index in the gallery, lower first, by every function here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bytes = NDArray[np.uint8]
BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)  # bits set in a byte
CHUNK = 2**24  # distances held at a time


def pack_codes(values: ArrayLike) -> Bytes:
    """Codes `(N, q)` as bytes `(N, q/8)`: a bit is set where the value is above 0 (or True).

    Raises:
        ValueError: no table, or q no multiple of 8.
    """
    signs = np.asarray(values)
    if signs.ndim != 2 or signs.shape[1] % 8 or not signs.shape[1]:
        raise ValueError(f"codes (N, q) with q a multiple of 8 expected, got shape {signs.shape}")
    return np.packbits(signs > 0, axis=1)


def unpack_codes(codes: ArrayLike) -> NDArray[np.int8]:
    """Bytes `(N, q/8)` as -1 and +1 `(N, q)`."""
    return (np.unpackbits(_bytes(codes), axis=1).astype(np.int8) << 1) - 1


def hamming_distance(query: ArrayLike, gallery: ArrayLike) -> NDArray[np.uint16]:
    """Number of differing bits, `(Q, N)`, of packed codes `(Q, q/8)` and `(N, q/8)`.

    For codes b of -1 and +1 this is (q - b . b') / 2.

    Raises:
        ValueError: no byte tables, or codes of different length.
    """
    a, b = _pair(query, gallery)
    distance = np.zeros((len(a), len(b)), dtype=np.uint16)
    for column in range(a.shape[1]):
        distance += BITS[a[:, column, None] ^ b[None, :, column]]
    return distance


def precision_within(distance: ArrayLike, relevant: ArrayLike, radius: int = 2) -> float:
    """Mean share of items at most `radius` bits away that belong to the query; a query with none there counts as 0.

    Args:
        distance: `(Q, N)` Hamming distances.
        relevant: `(Q, N)` booleans.

    Raises:
        ValueError: shapes that do not fit, or no query.
    """
    near, belongs = np.asarray(distance) <= radius, np.asarray(relevant, dtype=bool)
    if near.ndim != 2 or near.shape != belongs.shape or not len(near):
        raise ValueError(f"relevance {belongs.shape} does not fit distances {near.shape}")
    return float(((near & belongs).sum(1) / np.maximum(near.sum(1), 1)).mean())


class HammingIndex:
    """A gallery of packed codes that is searched exactly.

    With faiss: its flat binary index, which reads 8 bytes at a time. Without: NumPy's table of bit counts, which
    gives the same answer and is slower.

    Args:
        codes: `(N, q/8)` bytes, q a multiple of 8.
        faiss: True and False choose; None: faiss where it is installed.

    Raises:
        ValueError: no byte table, or no code.
        ImportError: faiss is asked for and not installed.
    """

    def __init__(self, codes: ArrayLike, faiss: bool | None = None) -> None:
        gallery = np.ascontiguousarray(_bytes(codes))
        if not len(gallery):
            raise ValueError("an index needs at least one code")
        self.bits, self.size = 8 * gallery.shape[1], len(gallery)
        library = _faiss(faiss)
        self._codes, self._flat = gallery, None
        if library is not None:
            self._flat = library.IndexBinaryFlat(self.bits)
            self._flat.add(gallery)

    def search(self, query: ArrayLike, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Distances and indices of the `k` nearest codes (all when there are fewer), both `(Q, k)`, nearest first.

        Raises:
            ValueError: codes of another length, or k below 1.
        """
        asked, _ = _pair(query, self._codes)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        k = min(k, self.size)
        if self._flat is not None:
            distance, index = self._flat.search(np.ascontiguousarray(asked), k)
            order = np.argsort(distance.astype(np.int64) * self.size + index, axis=1)  # equal distances by index
            return np.take_along_axis(distance, order, 1), np.take_along_axis(index, order, 1)
        parts = [self._near(asked[rows], k) for rows in _chunks(len(asked), self.size)]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _near(self, asked: Bytes, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        # One number for distance and index: its k smallest are found without sorting the rest.
        key = hamming_distance(asked, self._codes).astype(np.int64) * self.size + np.arange(self.size)
        best = np.sort(np.partition(key, k - 1, axis=1)[:, :k], axis=1)
        return (best // self.size).astype(np.int32), best % self.size


def hamming_search(query: ArrayLike, gallery: ArrayLike, k: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distances and indices `(Q, k)` of the nearest packed codes; see `HammingIndex`, which searches repeatedly."""
    return HammingIndex(gallery).search(query, k)


def _faiss(wanted: bool | None) -> Any:
    if wanted is False:
        return None
    try:
        import faiss
    except ImportError:
        if wanted:
            raise
        return None
    return faiss


def _bytes(codes: ArrayLike) -> Bytes:
    table = np.asarray(codes)
    if table.ndim != 2 or table.dtype != np.uint8 or not table.shape[1]:
        raise ValueError(f"packed codes (N, q/8) of bytes expected, got {table.shape} of {table.dtype}")
    return table


def _pair(query: ArrayLike, gallery: ArrayLike) -> tuple[Bytes, Bytes]:
    a, b = _bytes(query), _bytes(gallery)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"codes of {8 * a.shape[1]} bits cannot be compared with codes of {8 * b.shape[1]}")
    return a, b


def _chunks(queries: int, size: int) -> list[slice]:
    step = max(1, CHUNK // size)
    return [slice(start, start + step) for start in range(0, max(queries, 1), step)]
