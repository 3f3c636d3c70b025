"""Boxes against pycocotools, counts by hand, brute force and their invariances."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from assay.metrics.boxes import (
    box_area,
    box_average_precision,
    box_giou,
    box_iou,
    greedy_matches,
    match_boxes,
    mean_average_precision,
)


def random_boxes(n: int, seed: int, size: float = 100.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, size, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, size / 2, (n, 2))], axis=1)


def test_iou_equals_pycocotools() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    a, b = random_boxes(1000, 0), random_boxes(40, 1)

    def xywh(boxes: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1))

    assert_allclose(box_iou(a, b), mask.iou(xywh(a), xywh(b), [0] * len(b)), atol=1e-9)


def test_giou_by_hand_and_in_its_range() -> None:
    a = np.array([[0.0, 0, 2, 2]])
    b = np.array([[1.0, 1, 3, 3], [0, 0, 1, 1], [4, 0, 6, 2], [0, 0, 2, 2]])
    assert_allclose(box_giou(a, b), [[1 / 7 - 2 / 9, 1 / 4, -4 / 12, 1]])
    far = [float(box_giou(a, np.array([[x, 0.0, x + 2, 2]]))[0, 0]) for x in (3, 5, 9, 50)]
    assert all(np.diff(far) < 0)
    assert far[-1] > -1
    x, y = random_boxes(50, 2), random_boxes(50, 3)
    assert_allclose(box_giou(x, y), box_giou(y, x).T)
    assert_allclose(box_giou(7 * x, 7 * y), box_giou(x, y))
    assert (box_giou(x, y) <= box_iou(x, y) + 1e-12).all()


def test_tensors_give_the_same_numbers_and_gradients() -> None:
    a, b = random_boxes(6, 4), random_boxes(6, 5)
    ta, tb = torch.tensor(a, requires_grad=True), torch.tensor(b)
    for function in (box_iou, box_giou):
        assert_allclose(function(ta, tb).detach().numpy(), function(a, b))
        assert_allclose(function(ta, tb, paired=True).detach().numpy(), np.diag(function(a, b)))
        assert torch.autograd.gradcheck(lambda x, f=function: f(x, tb), (ta,))


def test_boxes_without_area() -> None:
    point = np.array([[1.0, 1, 1, 1]])
    assert box_iou(point, point)[0, 0] == 0
    assert box_area(np.array([[2.0, 0, 1, 1]]))[0] == 0
    assert np.isfinite(box_giou(point, point)).all()


def test_hungarian_matching_equals_brute_force() -> None:
    for seed in range(20):
        a, b = random_boxes(4, seed, 20), random_boxes(5, 100 + seed, 20)
        overlap = np.where(box_iou(a, b) > 0.2, box_iou(a, b), 0)
        best = max(sum(overlap[i, j] for i, j in enumerate(order)) for order in permutations(range(5), 4))
        found = match_boxes(a, b, threshold=0.2)
        assert found.overlap.sum() == pytest.approx(best)
        assert (found.overlap > 0.2).all()
        assert len(set(found.second)) == len(found.second)


def test_matching_stays_within_images() -> None:
    a = np.array([[0.0, 0, 1, 1], [0, 0, 1, 1]])
    found = match_boxes(a, a[:1], first_images=["x", "y"], second_images=["y"])
    assert found.first.tolist() == [1]
    assert not len(match_boxes(a, a, first_images=[0, 0], second_images=[1, 1]).first)
    assert not len(match_boxes(np.zeros((0, 4)), a).first)


def test_a_pair_at_the_threshold_is_no_match() -> None:
    a, b = np.array([[0.0, 0, 2, 1]]), np.array([[0.0, 0, 1, 1]])
    assert not len(match_boxes(a, b, threshold=0.5).first)
    assert len(match_boxes(a, b, threshold=0.49).first) == 1


def coco_ap(a, scores, a_images, a_labels, b, b_images, b_labels, thresholds) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def xywh(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    gold = COCO()
    gold.dataset = {
        "info": {},
        "images": [{"id": int(i)} for i in np.unique(np.concatenate([a_images, b_images]))],
        "categories": [{"id": int(c)} for c in np.unique(b_labels)],
        "annotations": [
            {"id": n + 1, "image_id": int(i), "category_id": int(c), "bbox": xywh(box), "area": 1.0, "iscrowd": 0}
            for n, (box, i, c) in enumerate(zip(b, b_images, b_labels, strict=True))
        ],
    }
    gold.createIndex()
    found = gold.loadRes(
        [
            {"image_id": int(i), "category_id": int(c), "bbox": xywh(box), "score": float(s)}
            for box, s, i, c in zip(a, scores, a_images, a_labels, strict=True)
        ]
    )
    evaluation = COCOeval(gold, found, "bbox")
    evaluation.params.iouThrs = np.asarray(thresholds)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [1, 10, 1000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def test_average_precision_equals_coco(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    rng = np.random.default_rng(0)
    for seed in range(5):
        gold = random_boxes(60, seed, 60)
        gold_images, gold_labels = rng.integers(0, 6, 60), rng.integers(1, 4, 60)
        moved = gold + rng.normal(0, 2, (60, 1)) * np.array([1, 1, 1, 0.5])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 0.5)
        boxes = np.concatenate([moved, random_boxes(30, 50 + seed, 60)])
        images = np.concatenate([gold_images, rng.integers(0, 6, 30)])
        labels = np.concatenate([np.where(rng.random(60) < 0.8, gold_labels, 1), rng.integers(1, 4, 30)])
        scores = rng.random(90)
        thresholds = [0.5, 0.75]
        ours = mean_average_precision(
            boxes, scores, labels, gold, gold_labels, images=images, gold_images=gold_images, thresholds=thresholds
        )
        theirs = coco_ap(boxes, scores, images, labels, gold, gold_images, gold_labels, thresholds)
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_average_precision_limits() -> None:
    gold = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    assert box_average_precision(gold, [0.9, 0.1], gold) == 1
    assert box_average_precision(gold + 100, [0.9, 0.1], gold) == 0
    assert box_average_precision(np.zeros((0, 4)), [], gold) == 0
    # hit, miss, hit: precisions 1, 1/2, 2/3 -> exact area 1/2 * 1 + 1/2 * 2/3
    boxes = np.array([gold[0], gold[0] + 50, gold[1]])
    assert box_average_precision(boxes, [3, 2, 1], gold, points=None) == pytest.approx(5 / 6)
    twice = np.array([gold[0], gold[0]])
    assert box_average_precision(twice, [2, 1], gold, points=None) == pytest.approx(0.5)
    assert greedy_matches(twice, [1, 2], gold).tolist() == [-1, 0]
    with pytest.raises(ValueError, match="undefined"):
        box_average_precision(gold, [1, 1], np.zeros((0, 4)))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="four coordinates"):
        box_iou(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        match_boxes(np.zeros((2, 5)), np.zeros((1, 4)))
    with pytest.raises(ValueError, match="one value per box"):
        match_boxes(np.zeros((2, 4)), np.zeros((1, 4)), first_images=[0])
    with pytest.raises(ValueError, match="NaN"):
        greedy_matches(np.ones((1, 4)), [np.nan], np.ones((1, 4)))
