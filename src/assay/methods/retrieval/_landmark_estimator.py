"""Landmark subspace clustering of plain vectors as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from assay.methods.retrieval._landmark_codes import Codes, choose_landmarks, code_blocks, unit_rows
from assay.methods.retrieval._landmark_spectral import SpectralFactor, stream_spectral


class SubspaceClustering(ClusterMixin, BaseEstimator):
    """Clusters that lie near low-dimensional subspaces, in time and memory linear in the number of samples.

    Samples are scaled to unit length, expressed by landmarks and clustered by the thin factor of the graph
    (`landmark_codes`, `factor_spectral`), which is streamed.

    Args:
        n_clusters: k.
        n_landmarks: m; None: 20 a cluster, at most half the samples.
        regularization: ridge weight on samples of unit length.
        n_nonzero: coefficients kept for each sample; None: all.
        landmarks: `"kmeans"`, `"random"`, `"points"` or `"leverage"`.
        normalize: scale samples to unit length.
        n_init: restarts of k-means.
        random_state: seed.

    Attributes:
        labels_: `(n,)` cluster of each training sample.
        landmarks_: `(m, p)`.
        factor_: the `SpectralFactor`.
        n_unexpressed_: training samples for which their nearest landmark stands alone.

    Raises:
        ValueError: not n_clusters < n_landmarks < n, or codes of a rank below n_clusters.

    Source: 2512.21434
    """

    factor_: SpectralFactor

    def __init__(
        self,
        n_clusters: int = 2,
        *,
        n_landmarks: int | None = None,
        regularization: float = 0.1,
        n_nonzero: int | None = 3,
        landmarks: str = "kmeans",
        normalize: bool = True,
        n_init: int = 20,
        random_state: Any = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.n_landmarks = n_landmarks
        self.regularization = regularization
        self.n_nonzero = n_nonzero
        self.landmarks = landmarks
        self.normalize = normalize
        self.n_init = n_init
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> SubspaceClustering:
        """Cluster the rows of X `(n, p)`; y is not used."""
        x = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=4)
        n, k = len(x), self.n_clusters
        m = min(20 * k, n // 2) if self.n_landmarks is None else self.n_landmarks
        if not k < m < n:
            raise ValueError(f"n_clusters < n_landmarks < n_samples expected, got {k}, {m} and n_samples = {n}")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        z = unit_rows(x) if self.normalize else x
        chosen = choose_landmarks(z, m, self.landmarks, seed)
        self.landmarks_ = chosen.points
        self.n_unexpressed_ = 0
        own = chosen.self_index(n)

        def blocks() -> Iterator[Codes]:
            self.n_unexpressed_ = 0
            for codes, count in code_blocks(z, self.landmarks_, self.regularization, self._kept(), True, own):
                self.n_unexpressed_ += count
                yield codes

        self.factor_ = stream_spectral(blocks, k, seed, self.n_init)
        self.labels_ = self.factor_.labels
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Cluster of each row of X; with centres as landmarks, training rows get their label again."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        z = unit_rows(x) if self.normalize else x
        codes = code_blocks(z, self.landmarks_, self.regularization, self._kept())
        return np.concatenate([self.factor_.assign(block)[0] for block, _ in codes])

    def _kept(self) -> int | None:
        return None if self.n_nonzero is None else min(self.n_nonzero, len(self.landmarks_))
