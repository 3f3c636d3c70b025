"""Mislabel detection: mixtures against scikit-learn, posteriors, folds, decisions, time, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from assay.methods.labels.mislabel import (
    Scores,
    clean,
    combine,
    decide,
    fit_networks,
    fit_one,
    group_folds,
    noise_posterior,
    predict,
    review_table,
    suspicion,
    temporal_prior,
)
from assay.methods.labels.mixture import fit_mixture
from assay.metrics.ranking import average_precision


def stored_scores(seed: int, rate: float, *, samples: int = 600, classes: int = 4, networks: int = 3, gap: float = 4.0):
    """Scores of good networks on labels of which a share is wrong, and those labels with the truth."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, samples)
    logits = rng.normal(size=(networks, samples, classes)) + gap * np.eye(classes)[true]
    prob = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    wrong = rng.random(samples) < rate
    given = np.where(wrong, (true + rng.integers(1, classes, samples)) % classes, true)
    return Scores.from_probabilities(prob, given), given, true


# mixture


def test_mixture_equals_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.mixture")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, 300), rng.normal(4, 1.5, 100)])
    ours = fit_mixture(x)
    theirs = sklearn.GaussianMixture(2, means_init=[[0], [4]], tol=1e-10, max_iter=5000, reg_covar=1e-9).fit(x[:, None])
    upper = int(np.argmax(theirs.means_))
    np.testing.assert_allclose(ours.mean, np.sort(theirs.means_.ravel()), atol=1e-3)
    expected = theirs.predict_proba(x[:, None])[:, upper]
    rising = x > ours.mean[0]  # below, the plain posterior may turn round
    np.testing.assert_allclose(ours.posterior(x)[rising], expected[rising], atol=1e-3)
    assert ours.two


@pytest.mark.parametrize(("low_sd", "high_sd"), [(0.2, 1.0), (1.0, 0.2), (0.5, 0.5)])
def test_posterior_never_falls_whatever_the_spreads(low_sd: float, high_sd: float) -> None:
    rng = np.random.default_rng(1)
    mixture = fit_mixture(np.concatenate([rng.normal(-1, low_sd, 200), rng.normal(1, high_sd, 80)]))
    p = mixture.posterior(np.linspace(-20, 20, 500))
    assert (np.diff(p) >= 0).all()
    assert p.min() >= 0
    assert p.max() <= 1


def test_one_gaussian_is_one_population() -> None:
    assert not fit_mixture(np.random.default_rng(2).normal(size=400)).two
    assert not fit_mixture(np.ones(10)).two


@pytest.mark.parametrize("values", [[1.0], [], [1.0, np.nan], [[1.0, 2.0]]])
def test_mixture_refuses(values: list) -> None:
    with pytest.raises(ValueError, match="finite"):
        fit_mixture(values)


# posterior and combination


def test_wrong_labels_are_found_and_right_ones_left() -> None:
    scores, given, true = stored_scores(0, 0.2, gap=6.0)
    decision = decide(noise_posterior(scores, given), scores, given)
    wrong = given != true
    assert decision.suspect[wrong].mean() > 0.95
    assert decision.suspect[~wrong].mean() < 0.02
    relabelled = decision.action == "relabel"
    assert (decision.new_label[relabelled] == true[relabelled]).mean() > 0.95


@pytest.mark.parametrize("signal", ["margin", "loss"])
def test_clean_separable_labels_have_no_suspects(signal: str) -> None:
    scores, given, _ = stored_scores(1, 0.0, gap=12.0)
    each = noise_posterior(scores, given, signal=signal)
    assert (each <= 0.5).all()
    assert not decide(each, scores, given).suspect.any()


def test_no_network_doubts_when_one_gaussian_does() -> None:
    rng = np.random.default_rng(0)
    loss = rng.normal(5, 1, (1, 300, 1))
    prob = np.tile([0.4, 0.6], (1, 300, 1))
    scores = Scores(loss, prob, np.ones((1, 300), bool), -np.ones((1, 300)))
    assert (noise_posterior(scores, np.zeros(300, int), signal="loss") == 0).all()


def test_a_class_that_is_wrong_as_a_whole_is_reported_and_not_relabelled() -> None:
    scores, _, true = stored_scores(2, 0.0, gap=8.0)
    given = np.where(true == 3, 2, np.where(true == 2, 3, true))  # two folders exchanged
    swapped = Scores.from_probabilities(scores.prob, given)
    decision = decide(noise_posterior(swapped, given), swapped, given)
    assert {(s.given, s.looks_like) for s in decision.swaps} == {(2, 3), (3, 2)}
    assert (decision.action == "keep").all()
    np.testing.assert_array_equal(decision.new_label, given)
    assert not decide(np.zeros((3, 600)), scores, true).swaps


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("signal", ["margin", "loss", "rank"])
def test_posteriors_are_probabilities_and_permute_with_the_samples(signal: str, per_class: bool) -> None:
    scores, given, _ = stored_scores(3, 0.25, samples=900)
    p = noise_posterior(scores, given, signal=signal, per_class=per_class)
    assert p.min() >= 0
    assert p.max() <= 1
    order = np.random.default_rng(0).permutation(len(given))
    moved = Scores(scores.loss[:, order], scores.prob[:, order], scores.out_of_fold[:, order], scores.margin[:, order])
    again = noise_posterior(moved, given[order], signal=signal, per_class=per_class)
    np.testing.assert_allclose(again, p[:, order], atol=1e-6)


def test_ranks_do_not_feel_the_temperature_of_a_network() -> None:
    scores, given, _ = stored_scores(4, 0.2)
    hot = Scores(np.exp(3 * np.log(scores.loss + 1e-9)), scores.prob, scores.out_of_fold, scores.margin)
    np.testing.assert_array_equal(
        noise_posterior(hot, given, signal="rank"), noise_posterior(scores, given, signal="rank")
    )


def test_posterior_rises_with_the_margin() -> None:
    scores, given, _ = stored_scores(5, 0.2, networks=1)
    p = noise_posterior(scores, given)[0]
    own = scores.prob[0, np.arange(len(given)), given]
    others = np.where(np.eye(4)[given] == 1, -1, scores.prob[0]).max(axis=1)
    assert (np.diff(p[np.argsort(others - own)]) >= -1e-12).all()


def test_a_class_of_five_is_kept() -> None:
    scores, given, _ = stored_scores(6, 0.3, classes=3)
    given = np.where(given == 2, 0, given)
    given[:5] = 2
    scores = Scores.from_probabilities(scores.prob, given)
    assert (noise_posterior(scores, given)[:, :5] == 0).all()


def test_combination_weighs_the_unseen_network_double() -> None:
    held = np.array([[True, False], [False, True], [False, False]])
    p = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(combine(p, held), [0.5, 0.75])
    np.testing.assert_allclose(combine(p[:1], np.ones((1, 2), bool)), p[0])


def test_suspicion_keeps_the_order_of_p_and_breaks_ties_by_margin() -> None:
    scores, given, _ = stored_scores(7, 0.2, samples=50)
    p = np.round(combine(noise_posterior(scores, given), scores.out_of_fold), 1)
    own = scores.prob[:, np.arange(50), given]
    margin = (np.where(np.eye(4)[given] == 1, -1, scores.prob).max(axis=2) - own).mean(axis=0)
    s = suspicion(p, scores, given)
    for i in range(50):
        for j in range(50):
            if (p[i], margin[i]) < (p[j], margin[j] - 1e-9):
                assert s[i] < s[j]


# time


def test_constant_label_is_the_plain_five_frame_mean() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(30)
    smooth = temporal_prior(p, np.zeros(30, int), np.zeros(30), np.arange(30))
    for i in range(30):
        assert smooth[i] == pytest.approx(p[max(0, i - 2) : i + 3].mean())


def test_islands_are_raised_and_videos_kept_apart() -> None:
    labels = np.array([0, 0, 1, 0, 0, 1, 1, 1])
    video = np.array(["a"] * 5 + ["b"] * 3)
    frame = np.array([0, 1, 2, 3, 4, 0, 1, 2])
    smooth = temporal_prior(np.full(8, 0.3), labels, video, frame)
    np.testing.assert_allclose(smooth, [0.3, 0.3, 0.5, 0.3, 0.3, 0.3, 0.3, 0.3])
    order = np.array([7, 2, 0, 5, 4, 1, 6, 3])
    np.testing.assert_allclose(
        temporal_prior(np.full(8, 0.3), labels[order], video[order], frame[order]), smooth[order]
    )


# decision


@pytest.mark.parametrize("policy", ["correct+filter", "filter", "weight", "review"])
def test_every_sample_gets_one_action_and_never_its_own_label_anew(policy: str) -> None:
    scores, given, _ = stored_scores(8, 0.3)
    decision = decide(noise_posterior(scores, given), scores, given, policy=policy)
    counts = {name: int((decision.action == name).sum()) for name in ("keep", "relabel", "drop", "weight")}
    assert sum(counts.values()) == len(given)
    assert (decision.new_label[decision.action == "relabel"] != given[decision.action == "relabel"]).all()
    assert (decision.suggestion[decision.suspect] != given[decision.suspect]).all()
    assert ((decision.weight == 0) == (decision.action == "drop")).all() or policy == "weight"
    rows, labels, weight = clean(given, decision)
    assert len(rows) == len(labels) == len(weight) == len(given) - counts["drop"]
    if policy == "review":
        assert counts["keep"] == len(given)


def test_tau_of_one_keeps_everything() -> None:
    scores, given, _ = stored_scores(9, 0.3)
    decision = decide(noise_posterior(scores, given), scores, given, tau=1.0)
    assert (decision.action == "keep").all()


def test_one_doubting_network_of_three_is_not_enough() -> None:
    scores, given, _ = stored_scores(10, 0.3)
    each = np.zeros((3, len(given)))
    each[0] = 1
    assert not decide(each, scores, given, p=np.ones(len(given))).suspect.any()


def test_review_table_starts_with_the_most_suspect() -> None:
    pytest.importorskip("pandas")
    scores, given, true = stored_scores(11, 0.2, gap=6.0)
    each = noise_posterior(scores, given)
    table = review_table(scores, given, each, decide(each, scores, given), classes=["a", "b", "c", "d"])
    assert table["p"].round(6).is_monotonic_decreasing
    first = table.head(50)
    assert (given[first["row"]] != true[first["row"]]).mean() > 0.9
    assert (first["given"] != first["suggestion"]).all()


# networks


def blobs(seed: int, samples: int = 240, rate: float = 0.15):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, samples)
    x = torch.tensor(rng.normal(size=(samples, 2)) * 0.5 + 3 * np.eye(3)[true][:, :2], dtype=torch.float32)
    given = np.where(rng.random(samples) < rate, (true + 1) % 3, true)
    return x, given, true


def test_networks_find_flipped_labels_and_each_sample_is_unseen_by_exactly_one() -> None:
    x, given, true = blobs(0)
    groups = np.arange(240) // 4
    scores = fit_networks(lambda: nn.Linear(2, 3), x, given, groups, epochs=12, learning_rate=0.05)
    assert (scores.out_of_fold.sum(axis=0) == 1).all()
    assert scores.loss.shape == (3, 240, 3)
    p = combine(noise_posterior(scores, given), scores.out_of_fold)
    wrong = given != true
    assert average_precision(wrong, p) > 0.9
    assert p[~wrong].mean() < 0.1


def test_the_same_seed_gives_the_same_scores_and_leaves_the_global_generator_alone() -> None:
    x, given, _ = blobs(1)
    state = torch.random.get_rng_state()
    runs = [fit_networks(lambda: nn.Linear(2, 3), x, given, np.arange(240), epochs=3, seed=5) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(runs[0].prob, runs[1].prob)
    other = fit_networks(lambda: nn.Linear(2, 3), x, given, np.arange(240), epochs=3, seed=6)
    assert np.abs(other.prob - runs[0].prob).max() > 1e-4


def test_rows_read_one_by_one_train_the_same_network_as_a_tensor() -> None:
    x, given, _ = blobs(2, samples=60)
    rows = [x[i] for i in range(60)]
    a, _ = fit_one(lambda: nn.Linear(2, 3), x, given, epochs=2)
    b, _ = fit_one(lambda: nn.Linear(2, 3), rows, given, epochs=2)
    np.testing.assert_array_equal(predict(a, x), predict(b, rows))


def test_a_sample_without_weight_leaves_no_trace() -> None:
    x, given, _ = blobs(3, samples=60)
    weight = np.ones(60)
    weight[:10] = 0
    spoiled = x.clone()
    spoiled[:10] = 1e6
    a, losses = fit_one(lambda: nn.Linear(2, 3), x, given, weight=weight, epochs=2)
    b, _ = fit_one(lambda: nn.Linear(2, 3), spoiled, given, weight=weight, epochs=2)
    assert torch.equal(a.weight, b.weight)
    assert np.isnan(losses[:, :10]).all()
    assert np.isfinite(losses[:, 10:]).all()


def test_folds_keep_groups_whole_and_balance_classes() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    labels = np.repeat((rng.random(60) < 0.2).astype(int), 5)
    fold = group_folds(groups, 3, 0, labels)
    assert all(len(set(fold[groups == g])) == 1 for g in range(60))
    rare = np.bincount(fold[labels == 1], minlength=3)
    assert rare.max() - rare.min() <= 5
    order = rng.permutation(300)
    np.testing.assert_array_equal(group_folds(groups[order], 3, 0, labels[order]), fold[order])
    alone = group_folds(np.arange(90), 3, 0, np.repeat([0, 1, 2], 30))
    assert (np.bincount(alone * 3 + np.repeat([0, 1, 2], 30)) == 10).all()


def test_refusals() -> None:
    x, given, _ = blobs(4, samples=30)
    make = lambda: nn.Linear(2, 3)  # noqa: E731
    with pytest.raises(ValueError, match="both sides"):
        fit_networks(make, x, given, np.zeros(30), fold=np.arange(30) % 3)
    with pytest.raises(ValueError, match="cannot fill"):
        fit_networks(make, x, given, np.zeros(30))
    with pytest.raises(ValueError, match="window"):
        fit_networks(make, x, given, np.arange(30), epochs=2, window=3)
    with pytest.raises(ValueError, match="2 classes"):
        fit_networks(lambda: nn.Linear(2, 2), x, given, np.arange(30), epochs=3)
    with pytest.raises(ValueError, match="not finite"):
        fit_networks(make, torch.full_like(x, torch.nan), given, np.arange(30), epochs=3)
    with pytest.raises(ValueError, match="class indices"):
        fit_one(make, x, given - 1)
    scores, labels, _ = stored_scores(0, 0.1)
    with pytest.raises(ValueError, match=r"0\.\.3"):
        noise_posterior(scores, labels + 4)
    with pytest.raises(ValueError, match="signal"):
        noise_posterior(scores, labels, signal="noise")
    with pytest.raises(ValueError, match="policy"):
        decide(noise_posterior(scores, labels), scores, labels, policy="delete")
    with pytest.raises(ValueError, match="sum to 1"):
        Scores.from_probabilities(scores.prob * 0.5, labels)
