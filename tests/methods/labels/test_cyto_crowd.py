"""Merging of annotators' boxes: limit cases, invariances, peers and the scores' own limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from assay.methods.labels.cyto_crowd import (
    RULES,
    Votes,
    aggregate,
    annotator_reliability,
    existence,
    fuse_boxes,
    group_boxes,
    infer_labels,
    pairwise_agreement,
    score,
    vote_labels,
)
from assay.metrics.boxes import box_iou


def crowd(seed: int = 0, images: int = 12, objects: int = 8, people: int = 4, classes: int = 5) -> Votes:
    """Overlapping objects, seen by people who miss some, move them, mislabel them and add others."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        corner = rng.uniform(0, 60, (objects, 2))
        gold = np.concatenate([corner, corner + rng.uniform(10, 25, (objects, 2))], axis=1)
        truth = rng.integers(0, classes, objects)
        for person in range(people):
            for box, label in zip(gold, truth, strict=True):
                if rng.random() < 0.8:
                    said = label if rng.random() < 0.75 else rng.integers(classes)
                    rows.append((*(box + rng.normal(0, 1, 4)), said, person, image))
    table = np.array(rows)[rng.permutation(len(rows))]
    return Votes(table[:, :4], *table[:, 4:].astype(int).T, classes)


def answers(n: int, seed: int, votes_each: int = 5, people: int = 20, classes: int = 4) -> tuple[np.ndarray, ...]:
    """Classification votes (item, annotator, label) of a crowd of mixed skill, and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    skill = rng.uniform(0.5, 0.95, people)
    item = np.repeat(np.arange(n), votes_each)
    who = np.concatenate([rng.choice(people, votes_each, replace=False) for _ in range(n)])
    right = rng.random(len(item)) < skill[who]
    said = np.where(right, truth[item], (truth[item] + rng.integers(1, classes, len(item))) % classes)
    return item, who, said, truth


def test_groups_hold_one_box_an_annotator_and_overlap_enough() -> None:
    for seed, iou in ((0, 0.5), (1, 0.3), (2, 0.7)):
        votes = crowd(seed)
        groups = group_boxes(votes, iou)
        assert sorted(set(groups)) == list(range(groups.max() + 1))
        assert (np.bincount(groups) > 1).any()
        for g in range(groups.max() + 1):
            rows = np.nonzero(groups == g)[0]
            assert len(set(votes.annotators[rows])) == len(rows)
            assert len(set(votes.images[rows])) == 1
            if len(rows) > 1:
                overlap = box_iou(votes.boxes[rows], votes.boxes[rows])[np.triu_indices(len(rows), 1)]
                assert overlap.mean() >= iou - 1e-12


def test_grouping_equals_a_slow_reading_of_the_rule() -> None:
    votes = crowd(3, images=3)
    overlap = box_iou(votes.boxes, votes.boxes)
    different = votes.annotators[:, None] != votes.annotators
    pairs = np.argwhere(np.triu((overlap > 0.5) & different & (votes.images[:, None] == votes.images)))
    sets = [{i} for i in range(len(votes.labels))]
    for i, j in sorted(pairs.tolist(), key=lambda pair: -overlap[tuple(pair)]):
        a, b = (next(s for s in sets if row in s) for row in (i, j))
        shared = set(votes.annotators[list(a)]) & set(votes.annotators[list(b)])
        if a is not b and not shared and overlap[np.ix_(list(a), list(b))].mean() >= 0.5:
            sets.remove(b)
            a |= b
    groups = group_boxes(votes)
    assert {frozenset(np.nonzero(groups == g)[0]) for g in range(groups.max() + 1)} == {frozenset(s) for s in sets}


def test_no_overlap_asked_too_high() -> None:
    votes = crowd()
    assert group_boxes(votes, 1.0).max() + 1 == len(votes.labels)


def test_order_of_rows_and_names_of_annotators_play_no_part() -> None:
    votes = crowd(4)
    rng = np.random.default_rng(0)
    order, names = rng.permutation(len(votes.labels)), rng.permutation(4)
    other = Votes(
        votes.boxes[order], votes.labels[order], names[votes.annotators[order]], votes.images[order], votes.n_classes
    )
    for how in RULES:
        a, b = aggregate(votes, how), aggregate(other, how)
        place = np.empty(len(a.labels), int)
        place[a.groups[order]] = b.groups  # group of a -> group of b
        assert_array_equal(a.groups[order], np.argsort(place)[b.groups])
        assert_allclose(a.boxes, b.boxes[place])
        assert_array_equal(a.labels, b.labels[place])
        assert_allclose(a.posterior, b.posterior[place], atol=1e-9)
        assert_allclose(a.existence, b.existence[place])
        assert_allclose(a.reliability, b.reliability[names])
        assert_array_equal(a.voters, b.voters[place][:, names])


@pytest.mark.parametrize("how", RULES)
def test_one_annotator_is_returned_as_he_is(how: str) -> None:
    votes = crowd(5, people=1)
    merged = aggregate(votes, how)
    assert_allclose(merged.boxes, votes.boxes)
    assert_array_equal(merged.labels, votes.labels)
    assert_array_equal(merged.images, votes.images)


@pytest.mark.parametrize("how", RULES)
def test_annotators_who_agree_are_believed(how: str) -> None:
    one = crowd(6, people=1)
    n = len(one.labels)
    votes = Votes(
        np.tile(one.boxes, (4, 1)), np.tile(one.labels, 4), np.repeat(np.arange(4), n), np.tile(one.images, 4), 5
    )
    groups = group_boxes(votes)
    found = vote_labels(votes, groups, how)
    assert_array_equal(found.labels[groups], votes.labels)
    assert found.posterior.max(axis=1).min() >= 0.99
    assert_allclose(found.reliability, 1, atol=0.01)
    assert_allclose(annotator_reliability(votes, groups), 1)
    assert_allclose(existence(votes, groups, np.ones(4)), 1)


def test_majority_is_the_mode_off_ties_and_ties_follow_their_rule() -> None:
    item, who, said, _ = answers(400, 0)
    votes = said.reshape(400, 5)
    found = infer_labels(item, who, said, 4)
    counts = np.stack([(votes == k).sum(axis=1) for k in range(4)], axis=1)
    clear = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) == 1
    assert clear.sum() > 200
    assert_array_equal(found.labels[clear], stats.mode(votes, axis=1).mode[clear])
    overall = np.bincount(said, minlength=4)
    for row in np.nonzero(~clear)[0]:
        best = np.nonzero(counts[row] == counts[row].max())[0]
        assert overall[found.labels[row]] == overall[best].max()
    anyone = [infer_labels(item, who, said, 4, ties="random", seed=s).labels for s in (1, 2)]
    assert_array_equal(anyone[0][clear], found.labels[clear])
    assert (anyone[0] != anyone[1]).any()
    assert (np.take_along_axis(counts, anyone[0][:, None], 1)[:, 0] == counts.max(axis=1)).all()
    # equal counts everywhere: the lower index
    assert infer_labels(np.zeros(2, int), np.arange(2), np.array([2, 1]), 4).labels[0] == 1


def test_dawid_skene_likelihood_never_falls_and_confusions_are_found() -> None:
    item, who, said, truth = answers(3000, 1, people=8)
    found = infer_labels(item, who, said, 4, "dawid-skene", smoothing=0.0, rounds=80)
    steps = np.diff(found.log_likelihood)
    assert (steps >= -1e-9 * abs(found.log_likelihood[0])).all()
    assert found.confusion is not None
    assert_allclose(found.confusion.sum(axis=2), 1)
    for a in range(8):
        rows = who == a
        for k in range(4):
            mine = said[rows & (truth[item] == k)]
            assert_allclose(found.confusion[a, k], np.bincount(mine, minlength=4) / len(mine), atol=0.06)
    by_majority = infer_labels(item, who, said, 4)
    assert (found.labels == truth).mean() > (by_majority.labels == truth).mean()


def test_dawid_skene_round_equals_plain_loops() -> None:
    item, who, said, _ = answers(60, 2, people=5, classes=3)
    found = infer_labels(item, who, said, 3, "dawid-skene", rounds=1, smoothing=0.01)
    share = np.zeros((60, 3))
    for i, l in zip(item, said, strict=True):
        share[i, l] += 1 / 5
    confusion = np.full((5, 3, 3), 0.01)
    for i, a, l in zip(item, who, said, strict=True):
        confusion[a, :, l] += share[i]
    confusion /= confusion.sum(axis=2, keepdims=True)
    prior = (share.sum(axis=0) + 0.01) / (share.sum() + 0.03)
    belief = np.tile(prior, (60, 1))
    for i, a, l in zip(item, who, said, strict=True):
        belief[i] *= confusion[a, :, l]
    assert_allclose(found.log_likelihood[0], np.log(belief.sum(axis=1)).sum())
    assert_allclose(found.posterior, belief / belief.sum(axis=1, keepdims=True))


def test_zencrowd_likelihood_and_reliability() -> None:
    item, who, said, truth = answers(3000, 3, people=6)
    found = infer_labels(item, who, said, 4, "zencrowd")
    assert (np.diff(found.log_likelihood) >= -1e-9 * abs(found.log_likelihood[0])).all()
    right = [(said[who == a] == truth[item][who == a]).mean() for a in range(6)]
    assert_allclose(found.reliability, right, atol=0.03)


def test_items_of_one_vote_teach_zencrowd_nothing() -> None:
    item, who, said, _ = answers(200, 4, people=6)
    alone = np.arange(200, 300)
    more = (np.append(item, alone), np.append(who, np.zeros(100, int)), np.append(said, np.ones(100, int)))
    a, b = infer_labels(item, who, said, 4, "zencrowd"), infer_labels(*more, 4, "zencrowd")
    assert_allclose(a.reliability, b.reliability, atol=1e-9)
    assert (b.labels[200:] == 1).all()


def test_one_good_annotator_against_three_who_err_alike() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 4, 2000)
    wrong = (truth + 1) % 4
    said = np.stack([np.where(rng.random(2000) < p, truth, wrong) for p in (0.95, 0.6, 0.6, 0.6)], axis=1)
    item, who = np.repeat(np.arange(2000), 4), np.tile(np.arange(4), 2000)
    share = {how: (infer_labels(item, who, said.ravel(), 4, how).labels == truth).mean() for how in RULES}
    assert share["dawid-skene"] > share["majority"] + 0.02
    assert share["lfc"] > share["majority"] + 0.02


def test_weights_of_pm_and_catd_by_hand() -> None:
    item = np.repeat(np.arange(10), 3)
    who = np.tile(np.arange(3), 10)
    said = np.zeros((10, 3), int)
    said[:, 1][:2] = 1  # two mistakes of ten
    said[:, 2][2:7] = 1  # five
    pm = infer_labels(item, who, said.ravel(), 2, "pm")
    assert (pm.labels == 0).all()
    assert pm.weights is not None
    assert_allclose(pm.weights[1:], -np.log(np.array([0.2, 0.5]) / (0.7 + 1e-7)), rtol=1e-6)
    catd = infer_labels(item, who, said.ravel(), 2, "catd")
    assert catd.weights is not None
    expected = stats.chi2.ppf(0.025, 10) / np.array([0.5, 2, 5])
    assert_allclose(catd.weights, expected / expected.max())


def test_labels_equal_those_of_crowd_kit() -> None:
    aggregation = pytest.importorskip("crowdkit.aggregation")
    pandas = pytest.importorskip("pandas")
    item, who, said, _ = answers(1000, 6)
    table = pandas.DataFrame({"task": item, "worker": who, "label": said})
    theirs = aggregation.DawidSkene(n_iter=50, tol=0).fit_predict(table).sort_index().to_numpy()
    ours = infer_labels(item, who, said, 4, "dawid-skene", smoothing=0.0).labels
    assert (ours == theirs).mean() >= 0.999
    by_vote = aggregation.MajorityVote().fit(table)
    shares = by_vote.probas_.sort_index()[[0, 1, 2, 3]].to_numpy()
    clear = (shares == shares.max(axis=1, keepdims=True)).sum(axis=1) == 1
    found = infer_labels(item, who, said, 4)
    assert_allclose(found.posterior, shares)
    assert_array_equal(found.labels[clear], by_vote.labels_.sort_index().to_numpy()[clear])


def test_fused_boxes() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1, 2, 11, 12], [2, 4, 30, 14], [5, 5, 6, 6]])
    votes = Votes(boxes, np.zeros(4, int), np.array([0, 1, 2, 0]), np.array([0, 0, 0, 1]), 1)
    groups = np.array([0, 0, 0, 1])
    assert_allclose(fuse_boxes(votes, groups), [np.median(boxes[:3], axis=0), boxes[3]])
    assert_allclose(fuse_boxes(votes, groups, "mean"), [boxes[:3].mean(axis=0), boxes[3]])
    assert_allclose(fuse_boxes(votes, groups, "weighted", np.array([1.0, 0, 3]))[0], (boxes[0] + 3 * boxes[2]) / 4)
    assert_allclose(fuse_boxes(votes, groups, "weighted", np.zeros(3))[0], boxes[:3].mean(axis=0))
    two = np.array([0, 0, 1, 1])
    assert_allclose(fuse_boxes(votes, two)[0], boxes[:2].mean(axis=0))


def test_existence_grows_with_every_voter() -> None:
    votes = crowd(7)
    groups = group_boxes(votes)
    reliability = annotator_reliability(votes, groups)
    s = existence(votes, groups, reliability)
    assert ((s >= 0) & (s <= 1)).all()
    sizes = np.bincount(groups)
    row = int(np.nonzero(sizes[groups] == 3)[0][0])
    without = np.arange(len(groups)) != row
    fewer = replace(votes, **{f: getattr(votes, f)[without] for f in ("boxes", "labels", "annotators", "images")})
    assert existence(fewer, groups[without], reliability)[groups[row]] < s[groups[row]]
    assert_allclose(s[groups[row]], 1 - np.prod(1 - reliability[votes.annotators[groups == groups[row]]]))


def test_dropped_groups_are_marked() -> None:
    votes = crowd(8)
    whole, part = aggregate(votes), aggregate(votes, min_existence=0.99)
    kept = whole.existence >= 0.99
    assert 0 < kept.sum() < len(kept)
    assert_allclose(part.boxes, whole.boxes[kept])
    assert_array_equal(part.groups >= 0, kept[whole.groups])
    assert_allclose(part.boxes[part.groups[part.groups >= 0]], whole.boxes[whole.groups[part.groups >= 0]])
    again = part.keep(np.zeros(len(part.labels), bool))
    assert (again.groups == -1).all()


def test_gold_against_itself_and_against_nothing() -> None:
    votes = crowd(9, people=1)
    perfect = score(votes, votes.boxes, votes.labels, votes.images, rare=0.5)
    assert all(value == 1 for value in perfect.values())
    far = score(votes, votes.boxes + 1000, votes.labels, votes.images)
    assert far["recall"] == far["precision"] == far["box_f1"] == far["joint_f1"] == 0
    assert np.isnan(far["tp_accuracy"])
    wrong = score(replace(votes, labels=(votes.labels + 1) % 5), votes.boxes, votes.labels, votes.images)
    assert wrong["tp_accuracy"] == wrong["joint_f1"] == 0
    assert wrong["box_f1"] == 1


def test_agreement_of_two_annotators() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    votes = crowd(10, people=2)
    groups = group_boxes(votes)
    kappa, overlap, common = pairwise_agreement(votes, groups)
    both = [np.nonzero(groups == g)[0] for g in range(groups.max() + 1) if (groups == g).sum() == 2]
    rows = np.array([pair[np.argsort(votes.annotators[pair])] for pair in both])
    expected = sklearn.cohen_kappa_score(votes.labels[rows[:, 0]], votes.labels[rows[:, 1]])
    assert kappa[0, 1] == pytest.approx(expected)
    assert overlap[0, 1] == pytest.approx(np.diag(box_iou(votes.boxes[rows[:, 0]], votes.boxes[rows[:, 1]])).mean())
    assert common[0, 1] == len(both)
    assert np.isnan(kappa[0, 0])


def test_bad_input() -> None:
    good = crowd(11)
    flat = good.boxes.copy()
    flat[3, 2] = flat[3, 0]
    nan = good.boxes.copy()
    nan[0, 0] = np.nan
    for bad, words in (
        (replace(good, boxes=flat), "no area"),
        (replace(good, boxes=nan), "NaN"),
        (replace(good, labels=good.labels + 1), "labels must lie"),
        (replace(good, annotators=good.annotators - 1), "negative"),
        (replace(good, images=good.images[1:]), "boxes must be"),
    ):
        with pytest.raises(ValueError, match=words):
            bad.validate()
    with pytest.raises(ValueError, match="unknown rule"):
        aggregate(good, "coin")
    with pytest.raises(ValueError, match="iou must"):
        group_boxes(good, 1.5)
    with pytest.raises(ValueError, match="needs weights"):
        fuse_boxes(good, group_boxes(good), "weighted")
    with pytest.raises(ValueError, match="unknown fusion"):
        fuse_boxes(good, group_boxes(good), "mode")
    with pytest.raises(ValueError, match="no votes"):
        infer_labels(np.array([0, 2]), np.array([0, 0]), np.array([0, 0]), 2)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        infer_labels(np.array([0]), np.array([0]), np.array([2]), 2)
    with pytest.raises(ValueError, match="no boxes"):
        aggregate(replace(good, **{f: getattr(good, f)[:0] for f in ("boxes", "labels", "annotators", "images")}))
