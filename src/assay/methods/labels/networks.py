"""Training of the networks that judge labels: cross-fitted over groups, each sample's loss kept by epoch.

Used by `mislabel`; split off because training is one idea and judging another.

Source: arXiv 2602.06938 (three networks estimate each sample's noise); folds, schedule and signals are ours.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from assay.methods.labels.confident_learning import check_probabilities

Augment = Callable[[Tensor, torch.Generator], Tensor]


class Rows(Protocol):
    """Inputs of the samples: a tensor (N, ...), or anything with a length whose items are tensors of one shape."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Tensor: ...


@dataclass(frozen=True)
class Scores:
    """What J networks say about N labelled samples.

    Attributes:
        loss: (J, N, W) cross-entropy on the given label in the last W epochs: of the held-out sample, or of the
            training pass (with its augmentation) when the network trains on the sample.
        prob: (J, N, K) softmax after training, without augmentation.
        out_of_fold: (J, N) whether the network did not train on the sample.
        margin: (J, N) logit of the given label minus the largest other one, mean over all epochs seen.
    """

    loss: NDArray[np.float64]
    prob: NDArray[np.float64]
    out_of_fold: NDArray[np.bool_]
    margin: NDArray[np.float64]

    def __post_init__(self) -> None:
        nets, samples = self.out_of_fold.shape
        if self.loss.shape[:2] != (nets, samples) or self.prob.shape[:2] != (nets, samples):
            raise ValueError(
                f"loss {self.loss.shape} and prob {self.prob.shape} do not fit {nets} networks, {samples} samples"
            )
        if not np.isfinite(self.loss).all():
            bad = int((~np.isfinite(self.loss)).sum())
            raise ValueError(f"{bad} losses are not finite; training diverged or inputs hold NaN")

    @classmethod
    def from_probabilities(cls, prob: ArrayLike, labels: ArrayLike) -> Scores:
        """Scores from stored out-of-sample probabilities, no training.

        Args:
            prob: (N, K), or (J, N, K) from J models.
            labels: (N,) given class indices.

        Raises:
            ValueError: shapes differ, entries outside [0, 1], rows that do not sum to 1, or labels out of range.
        """
        p = np.asarray(prob, dtype=float)
        p = p[None] if p.ndim == 2 else p
        if p.ndim != 3:
            raise ValueError(f"expected probabilities (N, K) or (J, N, K), got {p.shape}")
        for one in p:
            check_probabilities(one, labels)
        if not np.allclose(p.sum(axis=2), 1, atol=1e-2):
            raise ValueError("each row of probabilities must sum to 1")
        rows, y = np.arange(p.shape[1]), np.asarray(labels)
        log = np.log(np.maximum(p, 1e-12))
        others = log.copy()
        others[:, rows, y] = -np.inf
        own = log[:, rows, y]
        return cls(-own[..., None], p, np.ones(p.shape[:2], bool), own - others.max(axis=2))

    @property
    def held_out(self) -> NDArray[np.float64]:
        """Out-of-fold probabilities, (N, K): mean over the networks that did not see the sample (all, if all did)."""
        unseen = self.out_of_fold | ~self.out_of_fold.any(axis=0)
        weight = unseen[..., None].astype(float)
        return (self.prob * weight).sum(axis=0) / weight.sum(axis=0)


def group_folds(groups: ArrayLike, folds: int, seed: int, labels: ArrayLike | None = None) -> NDArray[np.int64]:
    """Fold of each sample, (N,): whole groups, folds alike in size and, when labels are given, in classes.

    Groups are dealt out from the largest, ties at random, each to the fold whose class counts it leaves most even.
    The result depends on group names and labels only, not on the order of samples.

    Raises:
        ValueError: fewer groups than folds, or fewer than two folds.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if folds < 2 or len(names) < folds:
        raise ValueError(f"{len(names)} groups cannot fill {folds} folds (at least two folds, a group each)")
    _, y = np.unique(np.zeros(len(member)) if labels is None else np.asarray(labels), return_inverse=True)
    counts = np.zeros((len(names), y.max() + 1))
    np.add.at(counts, (member, y), 1)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(names))
    if len(names) == len(member):  # singletons: deal each class round
        fold_of = np.empty(len(names), dtype=np.int64)
        order = shuffled[np.argsort(counts.argmax(axis=1)[shuffled], kind="stable")]
        fold_of[order] = np.arange(len(names)) % folds
        return fold_of[member]
    share = 1 / np.maximum(counts.sum(axis=0), 1)  # a rare class weighs as much as a common one
    weight = counts * share
    filled = np.zeros((folds, counts.shape[1]))
    fold_of = np.zeros(len(names), dtype=np.int64)
    for g in shuffled[np.argsort(-weight[shuffled].sum(axis=1), kind="stable")]:
        uneven = [((filled + np.eye(folds)[f][:, None] * weight[g]) ** 2).sum() for f in range(folds)]
        fold_of[g] = int(np.argmin(uneven))
        filled[fold_of[g]] += weight[g]
    return fold_of[member]


def fit_networks(
    make_model: Callable[[], nn.Module],
    inputs: Tensor | Rows,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    folds: int = 3,
    fold: ArrayLike | None = None,
    epochs: int = 12,
    window: int = 3,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    augment: Augment | None = None,
    device: str = "cpu",
) -> Scores:
    """Cross-fitted networks: network j trains on all folds but j, from its own start, and is asked about everything.

    Args:
        make_model: builds an untrained classifier, inputs (B, ...) -> logits (B, K); called once per fold.
        inputs: (N, ...) tensor or rows, see `Rows`.
        labels: (N,) given class indices.
        groups: (N,) patient or video of each sample; never on both sides of a fold.
        fold: (N,) fold of each sample, if the caller wants his own; must keep groups whole.
        epochs: passes over the training folds; few, so that wrong labels are not memorised.
        window: W, how many last epochs the loss is kept of.
        augment: changes a training batch, with a generator to draw from.

    Raises:
        ValueError: lengths differ, labels out of range, a group on both sides of a fold, too few groups or epochs,
            or a loss that is not finite.
    """
    y = _labels(labels)
    names = np.asarray(groups)
    if not len(inputs) == len(y) == len(names):
        raise ValueError(f"{len(inputs)} inputs, {len(y)} labels and {len(names)} groups; expected as many of each")
    if not 1 <= window <= epochs:
        raise ValueError(f"window must lie in 1..epochs, got {window} of {epochs}")
    member = group_folds(names, folds, seed, y) if fold is None else np.asarray(fold)
    _check_groups_whole(names, member)
    how = (batch_size, learning_rate, augment, device)
    kept = [_fit_fold(make_model, inputs, y, member == f, f, epochs, window, seed, *how) for f in np.unique(member)]
    loss, prob, out, margin = (np.stack(part) for part in zip(*kept, strict=True))
    return Scores(loss, prob, out, margin)


def fit_one(
    make_model: Callable[[], nn.Module],
    inputs: Tensor | Rows,
    labels: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    epochs: int = 12,
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    augment: Augment | None = None,
    device: str = "cpu",
) -> tuple[nn.Module, NDArray[np.float64]]:
    """Train one classifier; the model and the training losses, (epochs, N).

    AdamW with weight decay 1e-3; the rate rises over the first fifth and falls to zero along a cosine. Cross-entropy is
    balanced by class half way: the weight of a sample is sqrt(N / (K_present n_c)) times its own. Full balance makes a
    network cry out a rare class so often that right labels of the common one look wrong.

    Args:
        weight: (N,) weight of each sample, 0 leaves it out; None: all 1.

    Raises:
        ValueError: lengths differ, labels out of range, or no sample with weight.
    """
    model = _start(make_model, seed, device)
    y = _labels(labels)
    own = np.ones(len(y)) if weight is None else np.asarray(weight, dtype=float)
    if not len(inputs) == len(y) == len(own) or not (own > 0).any():
        raise ValueError(
            f"{len(inputs)} inputs, {len(y)} labels, {int((own > 0).sum())} of {len(own)} samples with weight"
        )
    track = _Track(len(y), epochs)
    _train(model, inputs, y, own, track, seed, batch_size, learning_rate, augment, device, lambda epoch: None)
    return model, track.loss


@torch.no_grad()
def predict(
    model: nn.Module, inputs: Tensor | Rows, *, batch_size: int = 256, device: str = "cpu"
) -> NDArray[np.float64]:
    """Softmax probabilities of a trained classifier, (N, K), in evaluation mode."""
    return F.softmax(_logits(model, inputs, np.arange(len(inputs)), batch_size, device), dim=1).double().cpu().numpy()


class _Track:
    """Losses and margins of the training passes, by epoch."""

    def __init__(self, samples: int, epochs: int) -> None:
        self.loss = np.full((epochs, samples), np.nan)
        self.margin = np.full((epochs, samples), np.nan)

    def note(self, epoch: int, rows: NDArray, logits: Tensor, target: Tensor) -> None:
        self.loss[epoch, rows] = F.cross_entropy(logits, target, reduction="none").double().cpu().numpy()
        own = logits.gather(1, target[:, None])
        others = logits.scatter(1, target[:, None], -math.inf).amax(dim=1)
        self.margin[epoch, rows] = (own[:, 0] - others).double().cpu().numpy()


def _fit_fold(make_model, inputs, y, held, number, epochs, window, seed, batch_size, learning_rate, augment, device):
    model = _start(make_model, seed + 1 + int(number), device)
    track = _Track(len(y), epochs)
    rows = np.nonzero(held)[0]

    def ask(epoch: int) -> None:
        if epoch >= epochs - window:
            track.note(epoch, rows, _logits(model, inputs, rows, 256, device), torch.as_tensor(y[rows], device=device))

    train_seed = seed + 1 + int(number)
    _train(model, inputs, y, (~held).astype(float), track, train_seed, batch_size, learning_rate, augment, device, ask)
    prob = predict(model, inputs, device=device)
    if prob.shape[1] <= y.max():
        raise ValueError(f"labels reach {y.max()}, but the model has {prob.shape[1]} classes")
    return track.loss[-window:].T, prob, held, np.nanmean(track.margin, axis=0)


def _train(model, inputs, y, weight, track, seed, batch_size, learning_rate, augment, device, after_epoch):
    generator = torch.Generator().manual_seed(seed)
    rows = np.nonzero(weight > 0)[0]
    size = np.bincount(y[rows])
    balance = np.sqrt(len(rows) / (np.count_nonzero(size) * np.maximum(size, 1)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-3, fused=True)
    epochs = len(track.loss)
    batches = math.ceil(len(rows) / min(batch_size, max(16, len(rows) // 8)))  # small sets: eight steps an epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / (epochs * batches)))
    for epoch in range(epochs):
        model.train()
        shuffled = rows[torch.randperm(len(rows), generator=generator).numpy()]
        for batch in np.array_split(shuffled, batches):
            x = _take(inputs, batch)
            x = augment(x, generator) if augment else x
            logits = model(x.to(device))
            target = torch.as_tensor(y[batch], device=device)
            if int(target.max()) >= logits.shape[1]:
                raise ValueError(f"labels reach {int(target.max())}, but the model has {logits.shape[1]} classes")
            share = torch.as_tensor(weight[batch] * balance[y[batch]], dtype=logits.dtype, device=device)
            loss = (F.cross_entropy(logits, target, reduction="none") * share).mean()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss is not finite in epoch {epoch + 1}; inputs hold NaN or training diverged")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            track.note(epoch, batch, logits.detach(), target)
        after_epoch(epoch)


def _rate(progress: float) -> float:
    warm = 0.2
    return (
        (progress + 0.01) / (warm + 0.01)
        if progress < warm
        else 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))
    )


def _start(make_model: Callable[[], nn.Module], seed: int, device: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return copy.deepcopy(make_model()).to(device)


@torch.no_grad()
def _logits(model: nn.Module, inputs: Tensor | Rows, rows: NDArray, batch_size: int, device: str) -> Tensor:
    model.eval()
    parts = [model(_take(inputs, rows[at : at + batch_size]).to(device)) for at in range(0, len(rows), batch_size)]
    return torch.cat(parts)


def _take(inputs: Tensor | Rows, rows: NDArray) -> Tensor:
    if isinstance(inputs, Tensor):
        return inputs[torch.as_tensor(rows)]
    return torch.stack([inputs[int(row)] for row in rows])


def _labels(labels: ArrayLike) -> NDArray[np.int64]:
    y = np.asarray(labels)
    if y.ndim != 1 or len(y) == 0 or y.dtype.kind not in "iu" or y.min() < 0:
        raise ValueError("labels must be a non-empty vector of class indices from 0 on")
    return y.astype(np.int64)


def _check_groups_whole(groups: NDArray, fold: NDArray) -> None:
    if fold.shape != groups.shape:
        raise ValueError(f"fold has shape {fold.shape}, groups {groups.shape}")
    pairs = np.unique(np.stack([np.unique(groups, return_inverse=True)[1], fold]), axis=1)
    twice = np.nonzero(np.bincount(pairs[0]) > 1)[0]
    if len(twice):
        raise ValueError(
            f"group {np.unique(groups)[twice[0]]!r} lies on both sides of a fold; keep its samples together"
        )
    if len(np.unique(fold)) < 2:
        raise ValueError("all samples lie in one fold; expected at least two")
