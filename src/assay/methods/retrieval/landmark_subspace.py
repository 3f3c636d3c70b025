"""Subspace clustering by landmarks, learnt with an autoencoder, in time linear in the number of samples.

Every sample is expressed by a few landmarks instead of by all other samples (`landmark_codes`); autoencoder and
landmarks are trained so that the expressed latents still decode to the pictures (`SDSNet`); clusters are read off a
thin factor of the graph (`factor_spectral`). `SubspaceClustering` does it for plain vectors, without a network.

Source: 2512.21434
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from assay.methods.retrieval._landmark_codes import (
    Choice,
    Codes,
    Floats,
    Ints,
    Landmarks,
    choose_landmarks,
    gaussian_codes,
    landmark_codes,
    ridge_codes,
    unexpressed,
    unit_rows,
)
from assay.methods.retrieval._landmark_estimator import SubspaceClustering
from assay.methods.retrieval._landmark_spectral import (
    SpectralFactor,
    embed,
    estimate_clusters,
    factor_spectral,
    nearest_centre,
    select_codes,
    silhouette,
    stream_spectral,
)
from assay.nn.conv_autoencoder import PRESETS, ConvAutoencoder, DenseAutoencoder, encode_all

ConvAE = ConvAutoencoder

__all__ = [
    "PRESETS",
    "Choice",
    "Codes",
    "ConvAE",
    "DenseAutoencoder",
    "Landmarks",
    "SDSNet",
    "SpectralFactor",
    "SubspaceClustering",
    "Training",
    "choose_landmarks",
    "embed",
    "encode_all",
    "estimate_clusters",
    "factor_spectral",
    "gaussian_codes",
    "landmark_codes",
    "latents_of",
    "nearest_centre",
    "pretrain",
    "ridge_codes",
    "select_codes",
    "silhouette",
    "stream_spectral",
    "unexpressed",
    "unit_rows",
]


@dataclass(frozen=True)
class Training:
    """How an `SDSNet` is trained.

    Attributes:
        pretrain_epochs: epochs on reconstruction alone; 0: the autoencoder comes trained.
        joint_epochs: epochs on the joint loss.
        batch: samples in a mini-batch.
        learning_rate: of Adam in pretraining.
        joint_learning_rate: of Adam in joint training; smaller, as latents are to be bent, not learnt anew.
        reconstruction: a1, weight of |X - D(Z)|^2 beside |X - D(C U)|^2.
        expression: a2, weight of |Z - C U|^2.
        coefficients: a3, weight of |C|^2.
        lam: ridge weight of the codes.
        kept: coefficients kept in a row, s; None: all.
        nonneg: cut negative coefficients and scale rows to sum 1.
        normalize: codes and landmarks live on latents of unit length. Keep it: it is what stops the second term from
            being won by shrinking the latents.
        landmarks: how landmarks are chosen.
        refresh: landmarks are estimated anew every so many epochs; between, they follow the gradient.
        fixed_codes: codes are taken as constants, without gradient through the solve.
        restarts: of k-means.
    """

    pretrain_epochs: int = 25
    joint_epochs: int = 8
    batch: int = 120
    learning_rate: float = 1e-3
    joint_learning_rate: float = 3e-4
    reconstruction: float = 1.0
    expression: float = 1.0
    coefficients: float = 0.1
    lam: float = 0.1
    kept: int | None = 3
    nonneg: bool = True
    normalize: bool = True
    landmarks: Choice = "kmeans"
    refresh: int = 5
    fixed_codes: bool = False
    restarts: int = 20


class SDSNet:
    """Deep subspace clustering by landmarks.

    Terms of the joint loss, each divided by its value in the first mini-batch:

        |X - D(C U)|^2 + a1 |X - D(Z)|^2 + a2 |Z - C U|^2 + a3 |C|^2,   C = ridge codes of Z by U

    Args:
        autoencoder: module with `encode` (B, ...) -> (B, p) and `decode`; trained in place.
        k: clusters.
        m: landmarks, k < m < n.
        training: settings.
        seed: of batches, landmarks and k-means.

    Attributes:
        landmarks: `Landmarks` after `fit`.
        factor: `SpectralFactor` after `fit`.
        losses: joint loss by epoch.
        labels: `(n,)` clusters of the training samples.

    Raises:
        ValueError: k is not below m.

    Source: 2512.21434
    """

    landmarks: Landmarks
    factor: SpectralFactor

    def __init__(self, autoencoder: nn.Module, k: int, m: int, training: Training | None = None, seed: int = 0) -> None:
        if not 1 <= k < m:
            raise ValueError(f"1 <= k < m expected, got k = {k} and m = {m}")
        self.autoencoder, self.k, self.m, self.seed = autoencoder, k, m, seed
        self.training = training or Training()
        self.losses: list[float] = []

    @property
    def labels(self) -> Ints:
        """Clusters of the training samples, `(n,)`."""
        return self.factor.labels

    def fit(self, inputs: Tensor) -> SDSNet:
        """Pretrain, train jointly and cluster inputs `(n, ...)`.

        Raises:
            ValueError: not k < m < n, values that are not finite, or codes of a rank below k.
        """
        if not torch.isfinite(inputs).all():
            raise ValueError("inputs hold values that are not finite")
        if self.m >= len(inputs):
            raise ValueError(f"m must be below the {len(inputs)} samples, got {self.m}")
        how = self.training
        pretrain(self.autoencoder, inputs, how.pretrain_epochs, how.batch, how.learning_rate, self.seed)
        self.join(inputs)
        return self.cluster(inputs)

    def join(self, inputs: Tensor) -> SDSNet:
        """The epochs of joint training."""
        how = self.training
        self.landmarks = self._choose(inputs, 0)
        u = nn.Parameter(torch.from_numpy(self.landmarks.points.copy()).to(inputs))
        optimizer = torch.optim.Adam([*self.autoencoder.parameters(), u], how.joint_learning_rate)
        generator = torch.Generator().manual_seed(self.seed)
        first: Tensor | None = None
        for epoch in range(how.joint_epochs):
            if epoch and epoch % how.refresh == 0:
                self.landmarks = self._choose(inputs, epoch)
                u.data.copy_(torch.from_numpy(self.landmarks.points))
                optimizer.state.pop(u, None)
            own = self.landmarks.self_index(len(inputs))
            total = 0.0
            for rows in torch.randperm(len(inputs), generator=generator).split(how.batch):
                index = None if own is None else torch.from_numpy(own)[rows].to(inputs.device)
                terms = self._terms(inputs[rows], u, index)
                first = terms.detach().clamp(min=1e-12) if first is None else first
                weights = terms.new_tensor([1.0, how.reconstruction, how.expression, how.coefficients])
                loss = (weights * terms / first).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            self.losses.append(total / len(inputs))
        self.landmarks = Landmarks(u.detach().cpu().numpy(), self.landmarks.source)
        return self

    def cluster(self, inputs: Tensor) -> SDSNet:
        """Codes and clusters with the networks and landmarks as they are; chooses landmarks where there are none."""
        how = self.training
        z = self.latents(inputs)
        if not hasattr(self, "landmarks"):
            self.landmarks = choose_landmarks(z, self.m, how.landmarks, self.seed)
        codes = landmark_codes(
            z, self.landmarks.points, how.lam, how.kept, how.nonneg, self.landmarks.self_index(len(z))
        )
        self.factor = factor_spectral(codes, self.k, self.seed, how.restarts)
        return self

    def latents(self, inputs: Tensor) -> Floats:
        """Latents `(N, p)` on which codes are computed."""
        return latents_of(self.autoencoder, inputs, self.training.normalize)

    def predict(self, inputs: Tensor) -> Ints:
        """Clusters of other inputs `(N, ...)`, by their codes against the stored landmarks."""
        return self.assign(inputs)[0]

    def assign(self, inputs: Tensor) -> tuple[Ints, Floats]:
        """Clusters of other inputs, and distances to the cluster's centre in the spectral embedding."""
        how = self.training
        codes = landmark_codes(self.latents(inputs), self.landmarks.points, how.lam, how.kept, how.nonneg)
        return self.factor.assign(codes)

    def _choose(self, inputs: Tensor, epoch: int) -> Landmarks:
        return choose_landmarks(self.latents(inputs), self.m, self.training.landmarks, self.seed + epoch)

    def _terms(self, x: Tensor, u: Tensor, own: Tensor | None) -> Tensor:
        """The four terms of the loss, `(4,)`."""
        how = self.training
        z = self.autoencoder.encode(x)
        length = z.norm(dim=1, keepdim=True).clamp(min=1e-8) if how.normalize else z.new_ones(len(z), 1)
        unit = z / length
        with torch.set_grad_enabled(not how.fixed_codes):
            c = ridge_codes(unit, u, how.lam, how.kept, how.nonneg, own)
        expressed = c @ u
        return torch.stack(
            [
                F.mse_loss(self.autoencoder.decode(expressed * length), x),
                F.mse_loss(self.autoencoder.decode(z), x),
                (unit - expressed).square().sum(dim=1).mean(),
                c.square().sum(dim=1).mean(),
            ]
        )


def pretrain(
    autoencoder: nn.Module,
    inputs: Tensor,
    epochs: int,
    batch: int = 120,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[Any], None] | None = None,
) -> nn.Module:
    """Train an autoencoder in place on the mean squared error of its reconstructions, by Adam.

    Args:
        inputs: `(n, ...)`.
        report: called with the mean loss of each epoch.
    """
    optimizer = torch.optim.Adam(autoencoder.parameters(), learning_rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(inputs), generator=generator).split(batch):
            loss = F.mse_loss(autoencoder(inputs[rows]), inputs[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        if report:
            report(total / len(inputs))
    return autoencoder


def latents_of(autoencoder: nn.Module, inputs: Tensor, normalize: bool = True) -> Floats:
    """Flat latents `(N, p)` of an autoencoder as an array, scaled to unit length when `normalize`."""
    z = np.asarray(encode_all(autoencoder, inputs).cpu().numpy())
    return unit_rows(z) if normalize else z
