"""Spectral clustering of a factor: the graph W = C-hat C-hat^T is never built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from assay.methods.retrieval._landmark_codes import Codes, Floats, Ints, Landmarks, landmark_codes

Blocks = Callable[[], Iterable[Codes]]


@dataclass(frozen=True)
class SpectralFactor:
    """Clusters of n samples, and what places new ones.

    Attributes:
        labels: `(n,)` cluster 0..k-1.
        embedding: `(n, k)` left singular vectors of the normalised factor, rows of unit length.
        singular_values: `(min(m, ...),)` falling, in [0, 1]; the first is 1. Their squares are eigenvalues of W.
        projection: `(m, k)`, from a row of codes to its embedding before scaling to unit length.
        centres: `(k, k)` k-means centres in the embedding.
    """

    labels: Ints
    embedding: Floats
    singular_values: Floats
    projection: Floats
    centres: Floats

    def assign(self, codes: Codes) -> tuple[Ints, Floats]:
        """Cluster of other samples by their codes `(N, m)`, and the distance to its centre in the embedding."""
        return nearest_centre(embed(codes, self.projection), self.centres)


def factor_spectral(codes: Codes, k: int, seed: int = 0, restarts: int = 20) -> SpectralFactor:
    """Normalised spectral clustering of the graph that codes make.

    With rows of C summing to 1 and C-hat = C diag(C^T 1)^{-1/2}, W = C-hat C-hat^T has degrees 1, and its leading
    eigenvectors are the left singular vectors of C-hat, had from the small C-hat^T C-hat = V S^2 V^T as
    F = C-hat V_k S_k^{-1}. Rows of F are scaled to unit length and clustered by k-means. O(n m^2), or O(n s^2 + m^3)
    for sparse codes with s entries a row.

    Args:
        codes: `(n, m)` dense or sparse. Amounts count, rows are scaled to sum 1.
        k: clusters.
        seed, restarts: of k-means.

    Raises:
        ValueError: a row without any coefficient, or k larger than the rank of the codes.
    """
    return stream_spectral(lambda: (codes,), k, seed, restarts)


def stream_spectral(blocks: Blocks, k: int, seed: int = 0, restarts: int = 20) -> SpectralFactor:
    """`factor_spectral` of codes that come in blocks of rows and are gone through twice: O(m^2 + n k) memory.

    Args:
        blocks: gives the blocks anew at each call.
    """
    degree: Floats | float = 0.0
    gram: Floats | float = 0.0
    for block in blocks():
        c = _stochastic(block)
        degree = degree + np.asarray(c.sum(axis=0), dtype=float).ravel()
        product = c.T @ c
        gram = gram + (product.toarray() if sparse.issparse(product) else product).astype(float)
    assert isinstance(degree, np.ndarray)
    scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0.0)
    power, vectors = np.linalg.eigh(scale[:, None] * gram * scale)
    power, vectors = np.clip(power[::-1], 0, 1), vectors[:, ::-1]
    rank = int((power > len(power) * np.finfo(float).eps * 10).sum())
    if not 1 <= k <= rank:
        raise ValueError(f"k must lie in 1..{rank}, the rank of the codes, got {k}")
    singular = np.sqrt(power)
    projection = scale[:, None] * vectors[:, :k] / singular[:k]
    # Signs of singular vectors are free; fix them so that a rerun gives the same bytes.
    projection *= np.where(projection[np.abs(projection).argmax(axis=0), np.arange(k)] < 0, -1, 1)
    embedding = np.concatenate([embed(block, projection) for block in blocks()])
    centres = kmeans_centres(embedding, k, seed, restarts)
    labels, _ = nearest_centre(embedding, centres)
    return SpectralFactor(labels, embedding, singular, projection, centres)


def embed(codes: Codes, projection: Floats) -> Floats:
    """Unit rows of the spectral embedding `(N, k)` of codes `(N, m)`."""
    f = np.asarray(_stochastic(codes) @ projection)
    return f / np.maximum(np.linalg.norm(f, axis=1, keepdims=True), 1e-300)


def nearest_centre(embedding: Floats, centres: Floats) -> tuple[Ints, Floats]:
    """Nearest of the centres for each row, and its distance."""
    squared = (embedding**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * embedding @ centres.T
    labels = squared.argmin(axis=1)
    return labels, np.sqrt(np.maximum(squared[np.arange(len(labels)), labels], 0))


def kmeans_centres(embedding: Floats, k: int, seed: int, restarts: int) -> Floats:
    """Centres of the best of several k-means runs; a cluster that came out empty keeps its last centre."""
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=restarts, random_state=seed).fit(embedding).cluster_centers_


def estimate_clusters(singular_values: Floats, largest: int) -> int:
    """Number of clusters at the widest gap of the squared singular values, in 2..largest."""
    power = np.asarray(singular_values[: largest + 1], dtype=float) ** 2
    if len(power) < 3:
        raise ValueError(f"at least three singular values expected, got {len(power)}")
    return int(np.argmax(power[1:-1] - power[2:])) + 2


def silhouette(embedding: Floats, labels: NDArray[np.integer], seed: int = 0, most: int = 1000) -> float:
    """Mean silhouette of a clustering in its embedding over at most `most` rows; -1 for a single cluster."""
    from sklearn.metrics import silhouette_score

    rows = np.arange(len(labels))
    if len(rows) > most:
        rows = np.random.default_rng(seed).choice(rows, most, replace=False)
    if not 2 <= len(np.unique(labels[rows])) < len(rows):
        return -1.0
    return float(silhouette_score(embedding[rows], labels[rows]))


def select_codes(
    z: Floats,
    landmarks: Landmarks,
    k: int,
    lams: Sequence[float],
    sparsities: Sequence[int | None],
    seed: int = 0,
    restarts: int = 5,
) -> tuple[float, int | None, list[tuple[float, SpectralFactor]]]:
    """Ridge weight and sparsity whose clusters have the best silhouette: no labels are used.

    Returns:
        The weight, the sparsity, and (silhouette, factor) of every pair, weights outermost. A pair whose codes have a
        rank below k is left out of the list.

    Raises:
        ValueError: no pair has codes of rank k.
    """
    own = landmarks.self_index(len(z))
    found, settings = [], []
    for lam in lams:
        for s in sparsities:
            try:
                factor = factor_spectral(landmark_codes(z, landmarks.points, lam, s, self_index=own), k, seed, restarts)
            except ValueError:
                continue
            found.append((silhouette(factor.embedding, factor.labels, seed), factor))
            settings.append((lam, s))
    if not found:
        raise ValueError(f"no ridge weight or sparsity gives codes of rank {k}")
    best = int(np.argmax([quality for quality, _ in found]))
    return (*settings[best], found)


def _stochastic(codes: Codes) -> Codes:
    """Amounts of the coefficients, rows scaled to sum 1."""
    amount = abs(codes)
    total = np.asarray(amount.sum(axis=1), dtype=float).ravel()
    if not (total > 0).all():
        row = int(np.argmin(total > 0))
        raise ValueError(f"{int((total <= 0).sum())} rows have no coefficient, the first is row {row}")
    if sparse.issparse(amount):
        return sparse.csr_array(sparse.diags_array(1 / total) @ amount)
    return amount / total[:, None]
