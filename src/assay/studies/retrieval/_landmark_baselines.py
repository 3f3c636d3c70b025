"""What landmark subspace clustering is compared with: graphs over all pairs of samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import eigsh
from sklearn.cluster import KMeans
from sklearn.neighbors import kneighbors_graph
from torch import nn
from torch.nn import functional as F

from assay.methods.retrieval.landmark_subspace import encode_all, silhouette

Floats = NDArray[np.floating]
Found = tuple[float, NDArray[np.integer]]  # silhouette and labels of one setting

RIDGES = (0.1, 0.3, 1.0)
NEIGHBOURS = (5, 7, 10, 15, 20, 30)


def spectral_of_graph(graph: sparse.csr_array, k: int, seed: int, restarts: int = 5) -> Found:
    """Normalised spectral clustering of a sparse graph, rows of the embedding scaled to unit length."""
    graph = (graph + graph.T) / 2
    degree = np.maximum(np.asarray(graph.sum(axis=1), dtype=float).ravel(), 1e-12)
    half = sparse.diags_array(1 / np.sqrt(degree))
    start = np.random.default_rng(seed).normal(size=len(degree))
    # A shift by the identity makes the wanted eigenvalues the largest by amount as well.
    _, vectors = eigsh((half @ graph @ half + sparse.eye_array(len(degree))).astype(float), k, which="LM", v0=start)
    embedding = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    labels = KMeans(k, n_init=restarts, random_state=seed).fit_predict(embedding)
    return silhouette(embedding, labels, seed), labels


def kmeans(rows: Floats, k: int, seed: int, restarts: int = 20) -> Found:
    """k-means; its silhouette is taken on the rows themselves."""
    labels = KMeans(k, n_init=restarts, random_state=seed).fit_predict(rows)
    return silhouette(rows, labels, seed), labels


def nearest_neighbours(rows: Floats, k: int, seed: int) -> Iterator[Found]:
    """Spectral clustering of the graph of nearest neighbours, for several numbers of them."""
    for neighbours in NEIGHBOURS:
        graph = kneighbors_graph(rows, min(neighbours, len(rows) - 1), mode="connectivity")
        yield spectral_of_graph(sparse.csr_array(graph), k, seed)


def self_expression(z: Floats, lam: float) -> Floats:
    """Closed form of all samples by all samples, C = Z Z^T (Z Z^T + lam I)^{-1}, diagonal cut, `(n, n)`.

    Solved in the smaller of the two dimensions, so that with few features it costs n^2 p and not n^3.
    """
    n, p = z.shape
    if p < n:
        c = z @ np.linalg.solve(z.T @ z + lam * np.eye(p, dtype=z.dtype), z.T)
    else:
        gram = z @ z.T
        c = np.linalg.solve(gram + lam * np.eye(n, dtype=z.dtype), gram).T
    np.fill_diagonal(c, 0)
    return c


def largest_per_row(c: Floats, kept: int, power: float = 1.0) -> sparse.csr_array:
    """Graph of the `kept` largest amounts in each row, divided by the row's largest and raised to a power."""
    amount = np.abs(c)
    kept = min(kept, amount.shape[1])
    place = np.argpartition(-amount, kept - 1, axis=1)[:, :kept]
    value = np.take_along_axis(amount, place, axis=1)
    value = (value / np.maximum(value.max(axis=1, keepdims=True), 1e-12)) ** power
    return sparse.csr_array((value.ravel(), place.ravel(), np.arange(0, value.size + 1, kept)), shape=amount.shape)


def least_squares(
    z: Floats, k: int, seed: int, settings: tuple[tuple[float, int], ...] | None = None
) -> Iterator[Found]:
    """Subspace clustering by the closed form, for several ridge weights and numbers of kept coefficients."""
    for lam, kept in settings or [(lam, kept) for lam in RIDGES for kept in (5, 8)]:
        yield spectral_of_graph(largest_per_row(self_expression(z, lam), kept), k, seed)


def deep_self_expression(
    autoencoder: nn.Module, inputs: torch.Tensor, steps: int, k: int, seed: int, learning_rate: float = 3e-4
) -> Iterator[Found]:
    """DSC-Net: an n x n layer between encoder and decoder, trained on all samples at once, then its graph.

        |X - D(C Z)|^2 + |X - D(Z)|^2 + |Z - C Z|^2 + 0.1 |C|^2,   diag(C) = 0, terms divided by their first values

    It gets the guards that the landmark network has (unit latents, plain reconstruction, scaled terms), and starts
    from the closed form: a better start than DSC-Net's own near zero.
    """
    z = encode_all(autoencoder, inputs)
    start = self_expression((z / z.norm(dim=1, keepdim=True).clamp(min=1e-8)).cpu().numpy(), 0.1)
    c = nn.Parameter(torch.from_numpy(start).to(inputs))
    off = 1 - torch.eye(len(inputs), device=inputs.device)
    optimizer = torch.optim.Adam([*autoencoder.parameters(), c], learning_rate)
    first = None
    for _ in range(steps):
        z = autoencoder.encode(inputs)
        length = z.norm(dim=1, keepdim=True).clamp(min=1e-8)
        unit, free = z / length, c * off
        expressed = free @ unit
        terms = torch.stack(
            [
                F.mse_loss(autoencoder.decode(expressed * length), inputs),
                F.mse_loss(autoencoder.decode(z), inputs),
                (unit - expressed).square().sum(dim=1).mean(),
                0.1 * free.square().sum(dim=1).mean(),
            ]
        )
        first = terms.detach().clamp(min=1e-12) * terms.new_tensor([1, 1, 1, 10]) if first is None else first
        optimizer.zero_grad()
        (terms / first).sum().backward()
        optimizer.step()
    final = (c * off).detach().cpu().numpy()
    for kept in (5, 8, 12):
        for power in (1.0, 2.0):
            yield spectral_of_graph(largest_per_row(final, kept, power), k, seed)
