"""Finding wrong labels with three networks and Gaussian mixtures, and cleaning them. (2602.06938)

Three classifiers are trained on overlapping parts of the data for a short time, before they learn wrong labels by
heart. For each network a mixture of two Gaussians is fitted to the samples' losses; the posterior of the component with
the higher mean is that network's opinion that the label is wrong. The opinions are combined, for video smoothed along
neighbouring frames, and each sample is kept, relabelled or dropped.

    scores = fit_networks(make_model, images, labels, patients)     # or Scores.from_probabilities(prob, labels)
    each = noise_posterior(scores, labels)                          # (J, N)
    p = combine(each, scores.out_of_fold)                           # (N,)
    decision = decide(each, scores, labels, p=p, policy="correct+filter")
    rows, new_labels, weight = clean(labels, decision)

Source: arXiv 2602.06938 (networks, mixtures, correction or filtering, retraining). Folds by patient, normalisation,
the rule for "no noise here", weights, thresholds and the check along time are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay.methods.labels.confident_learning import noise_rates, normalized_margin
from assay.methods.labels.mixture import fit_mixture
from assay.methods.labels.networks import Scores, fit_networks, fit_one, group_folds, predict

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Decision",
    "Scores",
    "Swap",
    "class_swaps",
    "clean",
    "combine",
    "decide",
    "fit_networks",
    "fit_one",
    "group_folds",
    "noise_posterior",
    "predict",
    "review_table",
    "suspicion",
    "temporal_prior",
]

Array = NDArray[np.float64]
Signal = Literal["margin", "loss", "rank"]
Policy = Literal["correct+filter", "filter", "weight", "review"]

SMALLEST_CLASS = 6  # with fewer samples a class has no typical loss; its labels are kept
OWN_MIXTURE = 200  # a class this large gets a mixture of its own
SWAPPED = 0.9  # share of a class counted as one other class from which on the class, not the samples, is questioned


@dataclass(frozen=True)
class Swap:
    """A class whose samples nearly all look like another class.

    Attributes:
        given, looks_like: class indices.
        share: estimated P(true = looks_like | given).
    """

    given: int
    looks_like: int
    share: float


@dataclass(frozen=True)
class Decision:
    """What becomes of each of N samples.

    Attributes:
        action: (N,) of `"keep"`, `"relabel"`, `"drop"` or `"weight"`.
        new_label: (N,) class index after cleaning; the given one unless relabelled.
        weight: (N,) weight in retraining: 1, 0 for dropped samples, 1 - p for weighted ones.
        suspect: (N,) whether the label is thought wrong, whatever the policy does about it.
        suggestion: (N,) class the networks would give.
        p: (N,) probability that the label is wrong.
        swaps: classes that look like another class as a whole; their samples are kept.
    """

    action: NDArray[np.str_]
    new_label: NDArray[np.int64]
    weight: Array
    suspect: NDArray[np.bool_]
    suggestion: NDArray[np.int64]
    p: Array
    swaps: tuple[Swap, ...]


def noise_posterior(scores: Scores, labels: ArrayLike, *, signal: Signal = "margin", per_class: bool = False) -> Array:
    """Each network's opinion that a label is wrong: posterior of the mixture component with the higher signal, (J, N).

    1. The signal x of a network, by `signal`: `"margin"` largest probability of another class minus that of the given
       one; `"loss"` mean cross-entropy over the last epochs; `"rank"` u = (rank - 1) / (n_c - 1) of the loss within the
       given class.
    2. One mixture of two Gaussians for each network. With `per_class`, classes of at least 200 samples get their own,
       and in the mixture of the others x is centred by the median of its class.
    3. p is the posterior of the higher component (see `Mixture.posterior`), or 0 for all where one Gaussian does. A
       network that itself gives the given label the highest probability cannot hold it wrong: there p is halved.

    In a class with much noise a calibrated network gives right and wrong labels alike a large loss; the margin still
    tells them apart, hence it is the default. Per class, a rare or hard class calls its own tail noise, hence that is
    off by default. Ranks are unmoved by any increasing transform of a network's loss, but flat by construction: they
    put samples in order and cannot tell whether there is noise.

    Raises:
        ValueError: labels do not fit the scores, or an unknown signal.
    """
    y = _check_labels(scores, labels)
    p = np.zeros(scores.out_of_fold.shape)
    sizes = np.bincount(y, minlength=scores.prob.shape[2])
    tried = sizes[y] >= SMALLEST_CLASS
    own = (sizes >= OWN_MIXTURE) & per_class
    parts = [y == c for c in np.nonzero(own)[0]] + [~own[y]]
    for j in range(len(p)):
        x = _signal(scores, y, j, signal)
        contradicts = scores.prob[j].argmax(axis=1) != y
        for part in parts:
            rows = np.nonzero(part & tried)[0]
            if len(rows) < SMALLEST_CLASS:
                continue
            values = _centre(x[rows], y[rows]) if per_class else x[rows]
            mixture = fit_mixture(values)
            if mixture.two:
                posterior = mixture.posterior(values)
                p[j, rows] = np.where(contradicts[rows], posterior, posterior / 2)
    return p


def combine(p: ArrayLike, out_of_fold: ArrayLike) -> Array:
    """Weighted mean over networks, (N,): 0.5 for the network that did not see the sample, 0.25 for each that did.

    Weights are scaled to sum to 1, so any number of networks will do.

    Args:
        p: (J, N).
        out_of_fold: (J, N).

    Raises:
        ValueError: shapes differ.
    """
    each, held = np.asarray(p, dtype=float), np.asarray(out_of_fold, dtype=bool)
    if each.ndim != 2 or each.shape != held.shape:
        raise ValueError(f"p and out_of_fold must both be (networks, samples), got {each.shape} and {held.shape}")
    weight = np.where(held, 0.5, 0.25)
    return (weight * each).sum(axis=0) / weight.sum(axis=0)


def temporal_prior(p: ArrayLike, labels: ArrayLike, video: ArrayLike, frame: ArrayLike) -> Array:
    """Opinions smoothed along each video, (N,).

    p becomes the mean over the frames at most two places away in the same video that carry the same label without a
    break; on a stretch of constant label that is the plain 5-frame mean. A label island, one or two frames between
    frames of one other label, gets 0.2 more. The result is clipped to [0, 1].

    Args:
        p: (N,); labels: (N,); video: (N,) names; frame: (N,) numbers, which order a video's frames.

    Raises:
        ValueError: lengths differ.
    """
    old, y, names, order = np.asarray(p, dtype=float), np.asarray(labels), np.asarray(video), np.asarray(frame)
    if not len(old) == len(y) == len(names) == len(order):
        raise ValueError(f"p, labels, video and frame have {len(old)}, {len(y)}, {len(names)}, {len(order)} entries")
    new = np.empty_like(old)
    rows = np.lexsort((order, names))
    borders = np.nonzero(names[rows][1:] != names[rows][:-1])[0] + 1
    for one in np.split(rows, borders):
        label = y[one]
        starts = np.concatenate([[0], np.nonzero(np.diff(label))[0] + 1, [len(one)]])
        for start, end in pairwise(starts):
            part = old[one[start:end]]
            reach = [part[max(0, i - 2) : i + 3].mean() for i in range(len(part))]
            inside = start > 0 and end < len(one)
            island = inside and end - start <= 2 and label[start - 1] == label[end]
            new[one[start:end]] = np.asarray(reach) + (0.2 if island else 0.0)
    return np.clip(new, 0, 1)


def suspicion(p: ArrayLike, scores: Scores, labels: ArrayLike) -> Array:
    """A score to rank by, (N,) in [0, 1]: the order of p to six digits; equal p in the order of the combined margin.

    Posteriors crowd at 0 and 1, where further digits say nothing of who is the more suspect; the probability margin
    does. Where no noise was found p is 0 for all, and the margin alone orders them.
    """
    y = _check_labels(scores, labels)
    margin = np.stack([_signal(scores, y, j, "margin") for j in range(len(scores.prob))])
    keys = (combine(margin, scores.out_of_fold), np.round(np.asarray(p, dtype=float), 6))
    rank = np.empty(len(y))
    rank[np.lexsort(keys)] = np.arange(len(rank))
    return rank / max(1, len(rank) - 1)


def decide(
    each: ArrayLike,
    scores: Scores,
    labels: ArrayLike,
    *,
    p: ArrayLike | None = None,
    tau: float = 0.5,
    relabel_at: float = 0.9,
    policy: Policy = "correct+filter",
) -> Decision:
    """Keep, relabel, drop or down-weight each sample.

    A sample is suspect when p > `tau` and at least two networks (or all, if there are fewer) hold p_j > 0.5. Under
    `"correct+filter"` a suspect is relabelled to c when all networks' highest probability is c, their mean gives c at
    least `relabel_at`, and c is not the given label; other suspects are dropped. `"filter"` drops all suspects,
    `"weight"` gives them the weight 1 - p, `"review"` leaves everything as it is for a person to decide.

    Classes that look like another class as a whole (`class_swaps`) are reported and left alone.

    Args:
        each: (J, N) from `noise_posterior`.
        p: (N,) combined opinion; None: `combine`.

    Raises:
        ValueError: shapes differ, thresholds outside [0, 1], or an unknown policy.
    """
    y = _check_labels(scores, labels)
    opinions = np.asarray(each, dtype=float)
    if opinions.shape != scores.out_of_fold.shape:
        raise ValueError(f"each has shape {opinions.shape}, the scores {scores.out_of_fold.shape}")
    together = combine(opinions, scores.out_of_fold) if p is None else np.asarray(p, dtype=float)
    if together.shape != y.shape or not (0 <= tau <= 1 and 0 <= relabel_at <= 1):
        raise ValueError(f"p has shape {together.shape} for {len(y)} samples; tau and relabel_at must lie in [0, 1]")
    swaps = class_swaps(scores, y)
    agreement = (opinions > 0.5).sum(axis=0) >= min(2, len(opinions))
    suspect = (together > tau) & agreement & ~np.isin(y, [swap.given for swap in swaps])
    mean = scores.prob.mean(axis=0)
    best = mean.argmax(axis=1)
    sure = (scores.prob.argmax(axis=2) == best).all(axis=0) & (mean.max(axis=1) >= relabel_at) & (best != y)
    action = np.full(len(y), "keep", dtype="<U7")
    weight = np.ones(len(y))
    if policy == "correct+filter":
        action[suspect] = np.where(sure[suspect], "relabel", "drop")
    elif policy == "filter":
        action[suspect] = "drop"
    elif policy == "weight":
        action[suspect] = "weight"
        weight[suspect] = 1 - together[suspect]
    elif policy != "review":
        raise ValueError(f"policy is 'correct+filter', 'filter', 'weight' or 'review', not {policy!r}")
    weight[action == "drop"] = 0
    new = np.where(action == "relabel", best, y)
    return Decision(action, new, weight, suspect, _suggestion(mean, y, suspect), together, swaps)


def class_swaps(scores: Scores, labels: ArrayLike) -> tuple[Swap, ...]:
    """Classes of which at least 90 % are counted as one other class by out-of-fold probabilities.

    A class that is wrong as a whole (folders exchanged, an index shifted) is a fault of the class, not of its samples,
    and is for a person to mend.
    """
    y = _check_labels(scores, labels)
    rates = noise_rates(scores.held_out, y)
    np.fill_diagonal(rates, 0)
    # the confident joint reads a class by its own mean, which vanishes for a swapped class; argmax does not
    votes = np.zeros_like(rates)
    np.add.at(votes, (y, scores.held_out.argmax(axis=1)), 1)
    size = votes.sum(axis=1)
    votes = votes / np.maximum(size, 1)[:, None]
    np.fill_diagonal(votes, 0)
    share = np.maximum(rates * (votes > 0.5), votes)
    return tuple(
        Swap(int(c), int(share[c].argmax()), float(share[c].max()))
        for c in range(len(share))
        if size[c] >= SMALLEST_CLASS and share[c].max() >= SWAPPED
    )


def clean(labels: ArrayLike, decision: Decision) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Rows to train on, their labels and their weights, each (M,) with M = N minus the dropped samples.

    Raises:
        ValueError: the decision is about another number of samples.
    """
    if len(np.asarray(labels)) != len(decision.action):
        raise ValueError(f"{len(np.asarray(labels))} labels, but the decision is about {len(decision.action)} samples")
    rows = np.nonzero(decision.action != "drop")[0]
    return rows, decision.new_label[rows], decision.weight[rows]


def review_table(
    scores: Scores,
    labels: ArrayLike,
    each: ArrayLike,
    decision: Decision,
    *,
    classes: list[str] | None = None,
    names: list[str] | None = None,
) -> pd.DataFrame:
    """All samples, the most suspect first, with what each network holds.

    Columns: `row`, `name`, `given`, `suggestion`, `p`, `suspect`, `action`, `networks` (how many hold p_j > 0.5),
    then per network j `p_j`, `loss_j` (mean over the last epochs) and `says_j` (its class).

    Args:
        classes: (K,) class names; None: their indices.
        names: (N,) sample names; None: their rows.
    """
    import pandas as pd

    y = _check_labels(scores, labels)
    opinions = np.asarray(each, dtype=float)
    word = np.asarray(classes if classes is not None else [str(c) for c in range(scores.prob.shape[2])])
    columns: dict[str, Any] = {
        "row": np.arange(len(y)),
        "name": names if names is not None else np.arange(len(y)).astype(str),
        "given": word[y],
        "suggestion": word[decision.suggestion],
        "p": decision.p,
        "suspect": decision.suspect,
        "action": decision.action,
        "networks": (opinions > 0.5).sum(axis=0),
    }
    says = scores.prob.argmax(axis=2)
    for j in range(len(opinions)):
        columns |= {
            f"p_{j + 1}": opinions[j],
            f"loss_{j + 1}": scores.loss[j].mean(axis=1),
            f"says_{j + 1}": word[says[j]],
        }
    order = np.argsort(-suspicion(decision.p, scores, y), kind="stable")
    return pd.DataFrame(columns).iloc[order].reset_index(drop=True)


def _suggestion(mean: Array, y: NDArray[np.int64], suspect: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The networks' class; for a suspect the best class other than the given one."""
    others = mean.copy()
    others[np.arange(len(y)), y] = -1
    return np.where(suspect, others.argmax(axis=1), mean.argmax(axis=1))


def _signal(scores: Scores, y: NDArray[np.int64], network: int, signal: Signal) -> Array:
    """(N,), higher is more suspect."""
    if signal == "margin":
        return 1 - 2 * normalized_margin(np.clip(scores.prob[network], 0, 1), y)
    loss = scores.loss[network].mean(axis=1)
    if signal == "loss":
        return loss
    if signal == "rank":
        u = np.zeros(len(y))
        for c in np.unique(y):
            rows = np.nonzero(y == c)[0]
            u[rows] = _mid_ranks(loss[rows]) / max(1, len(rows) - 1)
        return u
    raise ValueError(f"signal is 'margin', 'loss' or 'rank', not {signal!r}")


def _mid_ranks(values: Array) -> Array:
    """Ranks from 0; equal values share their mean rank."""
    from scipy.stats import rankdata

    return rankdata(values) - 1


def _centre(values: Array, y: NDArray[np.int64]) -> Array:
    """Values minus the median of their class."""
    centred = values.copy()
    for c in np.unique(y):
        centred[y == c] -= np.median(values[y == c])
    return centred


def _check_labels(scores: Scores, labels: ArrayLike) -> NDArray[np.int64]:
    y = np.asarray(labels)
    samples, classes = scores.prob.shape[1:]
    if y.shape != (samples,):
        raise ValueError(f"scores are about {samples} samples, labels have shape {y.shape}")
    if y.dtype.kind not in "iu" or (samples and (y.min() < 0 or y.max() >= classes)):
        raise ValueError(f"labels must be integers in 0..{classes - 1}")
    return y.astype(np.int64)
