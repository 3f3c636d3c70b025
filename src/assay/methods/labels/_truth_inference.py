"""Which label is true, when annotators disagree: voting, EM over confusions or reliabilities, weighted voting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import gammaincinv

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Rule = Literal["majority", "dawid-skene", "zencrowd", "catd", "pm", "lfc"]
Ties = Literal["frequent", "random"]
RULES: tuple[Rule, ...] = get_args(Rule)

CONVERGED = 1e-6
DIAGONAL_PRIOR = 2.0
WEIGHT_ROUNDS = 10
CATD_ALPHA = 0.05
FLOOR = 1e-6
START_RELIABILITY = 0.8


@dataclass(frozen=True)
class LabelResult:
    """What label inference found for G items, A annotators and K classes.

    Attributes:
        labels: `(G,)`, the class of highest posterior. Ties go to the class with more votes overall, then to the
            lower index; or to any of the best alike.
        posterior: `(G, K)`; weighted vote shares for `majority`, `catd` and `pm`.
        reliability: `(A,)`, expected share of an annotator's own votes that are right under the posterior; NaN for
            an annotator without votes. For `zencrowd` the reliability of the model.
        confusion: `(A, K, K)`, probability that annotator a says l (last axis) where k is true, of `dawid-skene`
            and `lfc`; else None.
        weights: `(A,)`, the votes' weights of `catd` and `pm`; else None.
        log_likelihood: log probability of all votes before each round's update, of the models fitted by EM.
    """

    labels: Ints
    posterior: Floats
    reliability: Floats
    confusion: Floats | None = None
    weights: Floats | None = None
    log_likelihood: list[float] = field(default_factory=list)


def infer_labels(
    items: Ints,
    annotators: Ints,
    labels: Ints,
    n_classes: int,
    how: Rule = "majority",
    *,
    rounds: int = 50,
    smoothing: float = 0.01,
    ties: Ties = "frequent",
    seed: int = 0,
) -> LabelResult:
    """Infer one label per item from votes (item, annotator, label), with T[g, k] the belief that item g is of class k.

    - `majority`: T is the share of votes.
    - `dawid-skene`: T[g, k] ~ pi[k] * prod over votes of C[a, k, l]; pi and C are the normalised expected counts plus
      `smoothing`. EM from the vote shares, `rounds` rounds or until no T moves by 1e-6.
    - `lfc` (learning from crowds): the same with 2 pseudo-counts on the diagonal of each C and 1 on each class of pi,
      the Dirichlet prior that an annotator is more often right than wrong.
    - `zencrowd`: one reliability r[a]; a wrong vote is uniform over the other K - 1 classes, the class prior is
      uniform. r is estimated on items with at least two votes. EM as above.
    - `pm`: w[a] = -log(err[a] / sum of err) with err the share of a's votes that differ from the current labels;
      10 rounds of weighted voting.
    - `catd`: w[a] = chi2.ppf(0.025, n[a]) / err[a] with err the number of differing votes among n[a]; 10 rounds.

    Args:
        items: `(N,)` item of each vote, 0..G-1; G is one more than the largest.
        annotators: `(N,)`, 0..A-1.
        labels: `(N,)`, 0..K-1.
        n_classes: K.
        how: the rule.
        rounds: most rounds of EM.
        smoothing: added to every expected count of `dawid-skene` and `lfc`.
        ties: of `majority`: `frequent` or `random`, see `LabelResult`. With few votes an item ties are many, and this
            choice can move the result more than the choice of rule does.
        seed: of random ties; a tie is then drawn by the item's number.

    Raises:
        ValueError: an unknown rule, no votes, an index out of range, an item without votes, or a bad option.

    Source: 2602.06674 names the rules; Dawid & Skene 1979, Raykar 2010, Demartini 2012, Li 2014 define them.
    """
    if how not in RULES:
        raise ValueError(f"unknown rule {how!r}; choose from: {', '.join(RULES)}")
    if ties not in get_args(Ties):
        raise ValueError(f"ties must be {' or '.join(get_args(Ties))}, got {ties!r}")
    if rounds < 1 or smoothing < 0:
        raise ValueError(f"rounds must be at least 1 and smoothing not negative, got {rounds} and {smoothing}")
    votes = _Votes.of(items, annotators, labels, n_classes)
    if how == "majority":
        found = votes.result(votes.shares(np.ones(votes.n_annotators)))
        return replace(found, labels=_any_best(found.posterior, seed)) if ties == "random" else found
    if how in ("pm", "catd"):
        return _weighted_voting(votes, _pm_weights if how == "pm" else _catd_weights)
    if how == "zencrowd":
        return _zencrowd(votes, rounds)
    return _dawid_skene(votes, rounds, smoothing, DIAGONAL_PRIOR if how == "lfc" else 0.0)


@dataclass(frozen=True)
class _Votes:
    """Votes as indices, and as a sparse incidence `(G, A*K)`: what item g got from annotator a with label l."""

    items: Ints
    annotators: Ints
    labels: Ints
    n_items: int
    n_annotators: int
    n_classes: int
    incidence: csr_array
    transposed: csr_array

    @classmethod
    def of(cls, items: Ints, annotators: Ints, labels: Ints, k: int) -> _Votes:
        items, annotators, labels = (np.asarray(x, dtype=np.int64) for x in (items, annotators, labels))
        if not (items.ndim == 1 and items.shape == annotators.shape == labels.shape) or not items.size:
            raise ValueError("items, annotators and labels must be non-empty vectors of one length")
        if min(items.min(), annotators.min(), labels.min()) < 0 or labels.max() >= k:
            raise ValueError(f"items and annotators must not be negative, labels must lie in 0..{k - 1}")
        g, a = int(items.max()) + 1, int(annotators.max()) + 1
        if np.bincount(items, minlength=g).min() == 0:
            raise ValueError(f"item {int(np.bincount(items, minlength=g).argmin())} has no votes")
        table = csr_array((np.ones(len(items)), (items, annotators * k + labels)), shape=(g, a * k))
        table.sum_duplicates()
        return cls(items, annotators, labels, g, a, k, table, table.T.tocsr())

    def shares(self, weights: Floats) -> Floats:
        """Weighted share of votes, `(G, K)`; unweighted where all of an item's annotators weigh nothing."""
        table = self.incidence @ np.kron(weights[:, None], np.eye(self.n_classes))
        total = table.sum(axis=1, keepdims=True)
        if (total == 0).any():
            plain = self.incidence @ np.kron(np.ones((self.n_annotators, 1)), np.eye(self.n_classes))
            table = np.where(total > 0, table, plain)
            total = table.sum(axis=1, keepdims=True)
        return table / total

    def choose(self, belief: Floats) -> Ints:
        """The best class of each row; ties by votes overall, then by index."""
        votes = np.bincount(self.labels, minlength=self.n_classes)
        rank = np.empty(self.n_classes, dtype=np.int64)
        rank[np.lexsort((np.arange(self.n_classes), -votes))] = np.arange(self.n_classes, 0, -1)
        return np.where(_best(belief), rank, 0).argmax(axis=1)

    def mean_by_annotator(self, values: Floats, chosen: NDArray[np.bool_] | None = None) -> Floats:
        """Mean of a number per vote over each annotator's (chosen) votes, `(A,)`; NaN without any."""
        who, what = (self.annotators, values) if chosen is None else (self.annotators[chosen], values[chosen])
        count = np.bincount(who, minlength=self.n_annotators)
        total = np.bincount(who, weights=what, minlength=self.n_annotators)
        return np.divide(total, count, out=np.full(self.n_annotators, np.nan), where=count > 0)

    def result(self, posterior: Floats, reliability: Floats | None = None, **more: object) -> LabelResult:
        if reliability is None:
            reliability = self.mean_by_annotator(posterior[self.items, self.labels])
        return LabelResult(self.choose(posterior), posterior, reliability, **more)  # type: ignore[arg-type]


def _best(belief: Floats) -> NDArray[np.bool_]:
    return belief >= belief.max(axis=1, keepdims=True) - 1e-9


def _any_best(belief: Floats, seed: int) -> Ints:
    return np.where(_best(belief), np.random.default_rng(seed).random(belief.shape), -1.0).argmax(axis=1)


def _dawid_skene(votes: _Votes, rounds: int, smoothing: float, diagonal: float) -> LabelResult:
    a, k = votes.n_annotators, votes.n_classes
    prior = smoothing + diagonal * np.eye(k)
    class_prior = smoothing + (1.0 if diagonal else 0.0)

    def estimate(belief: Floats) -> tuple[Floats, Floats]:
        counts = (votes.transposed @ belief).reshape(a, k, k) + prior  # annotator, said, true
        totals = counts.sum(axis=1, keepdims=True)
        said = np.divide(counts, totals, out=np.full_like(counts, 1 / k), where=totals > 0)
        share = belief.sum(axis=0) + class_prior
        return share / share.sum(), said

    belief = votes.shares(np.ones(a))
    history: list[float] = []
    with np.errstate(divide="ignore"):  # log 0 = -inf is meant: without smoothing a class may be ruled out
        for _ in range(rounds):
            share, said = estimate(belief)
            belief, moved, likelihood = _update(belief, _sum_logs(votes, np.log(said)) + np.log(share))
            history.append(likelihood)
            if moved < CONVERGED:
                break
    confusion = estimate(belief)[1].transpose(0, 2, 1)
    return votes.result(belief, confusion=confusion, log_likelihood=history)


def _zencrowd(votes: _Votes, rounds: int) -> LabelResult:
    k = votes.n_classes
    shared = np.bincount(votes.items)[votes.items] >= 2
    belief = votes.shares(np.ones(votes.n_annotators))
    reliability = np.full(votes.n_annotators, START_RELIABILITY)
    history: list[float] = []
    for _ in range(rounds):
        measured = votes.mean_by_annotator(belief[votes.items, votes.labels], shared)
        reliability = np.where(np.isfinite(measured), measured, reliability)
        r = np.clip(reliability, FLOOR, 1 - FLOOR)
        logs = np.where(np.eye(k, dtype=bool), np.log(r)[:, None, None], np.log((1 - r) / max(k - 1, 1))[:, None, None])
        belief, moved, likelihood = _update(belief, _sum_logs(votes, logs) - np.log(k))
        history.append(likelihood)
        if moved < CONVERGED:
            break
    return votes.result(belief, reliability, log_likelihood=history)


def _sum_logs(votes: _Votes, logs: Floats) -> Floats:
    """Sum over each item's votes of log p(said | true), `(G, K)`; `logs` is `(A, said, true)`."""
    table = logs.reshape(-1, votes.n_classes)
    return votes.incidence @ table


def _update(belief: Floats, joint: Floats) -> tuple[Floats, float, float]:
    """The posterior of log joint probabilities, how far it moved, and the log likelihood of all votes."""
    highest = joint.max(axis=1, keepdims=True)
    posterior = np.exp(joint - highest)
    total = posterior.sum(axis=1, keepdims=True)
    posterior /= total
    return posterior, float(np.abs(posterior - belief).max()), float((highest + np.log(total)).sum())


def _weighted_voting(votes: _Votes, weigh: Callable[[Floats, Floats], Floats]) -> LabelResult:
    counts = np.bincount(votes.annotators, minlength=votes.n_annotators).astype(float)
    weights = np.ones(votes.n_annotators)
    for _ in range(WEIGHT_ROUNDS):
        truth = votes.choose(votes.shares(weights))
        wrong = np.bincount(votes.annotators, weights=truth[votes.items] != votes.labels, minlength=votes.n_annotators)
        weights = weigh(wrong, counts)
    return votes.result(votes.shares(weights), weights=weights)


def _pm_weights(wrong: Floats, counts: Floats) -> Floats:
    rate = np.maximum(wrong, FLOOR) / np.maximum(counts, 1)
    if len(rate) == 1:
        return np.ones(1)
    return -np.log(rate / rate.sum())


def _catd_weights(wrong: Floats, counts: Floats) -> Floats:
    quantile = 2 * gammaincinv(np.maximum(counts, FLOOR) / 2, CATD_ALPHA / 2)  # chi2.ppf(alpha / 2, n)
    weights = quantile / np.maximum(wrong, 0.5)  # an annotator never caught wrong: half a mistake
    return weights / weights.max()
