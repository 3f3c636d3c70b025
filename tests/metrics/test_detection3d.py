"""Average precision of 3-D boxes: worked examples, and KITTI's rules one by one."""

import numpy as np
import pytest

from assay.metrics.detection3d import (
    KittiFrame,
    distance_average_precision,
    distance_hits,
    interpolated_average_precision,
    kitti_average_precision,
    kitti_roles,
    nuscenes_average_precision,
    precision_recall,
)


def frame(overlap, scores, detections=None, labels=None, forgiven=None):
    overlap = np.atleast_2d(np.array(overlap, float))
    D, L = overlap.shape
    return KittiFrame(
        overlap,
        np.array(scores, float),
        np.array(detections if detections is not None else [0] * D),
        np.array(labels if labels is not None else [0] * L),
        np.array(forgiven if forgiven is not None else [False] * D),
    )


def test_the_better_scored_detection_takes_the_gold():
    hits = distance_hits([[0, 0], [0.2, 0], [9, 0]], [0.5, 0.9, 0.7], [1, 1, 1], [[0, 0], [8.7, 0]], [1, 1], 0.5)
    assert hits.tolist() == [False, True, True]
    assert not distance_hits([[0, 0]], [1.0], [2], [[0, 0]], [1], 0.5).any()  # another frame
    assert not distance_hits([[0.5, 0]], [1.0], [1], [[0, 0]], [1], 0.5).any()  # at the limit


def test_nuscenes_precision_of_perfect_half_and_no_detections():
    assert nuscenes_average_precision([True] * 4, [4, 3, 2, 1], 4) == pytest.approx(1.0)
    assert nuscenes_average_precision([], [], 4) == 0.0
    # Half found without error: precision 1 to recall 0.5, 0 beyond; recalls 0.11 .. 0.50 of 0.11 .. 1.00 count.
    assert nuscenes_average_precision([True, True], [2, 1], 4) == pytest.approx(40 / 90)
    # Precision 0.5 throughout: (0.5 - 0.1) / 0.9.
    hits, scores = [False, True] * 50, np.arange(100)[::-1]
    assert nuscenes_average_precision(hits, scores, 50) == pytest.approx(0.4 / 0.9, abs=0.02)


def test_precision_recall_and_forty_recalls():
    precision, recall, scores = precision_recall([True, False, True], [0.2, 0.9, 0.5], 4)
    assert scores.tolist() == [0.9, 0.5, 0.2]
    np.testing.assert_allclose(precision, [0, 0.5, 2 / 3])
    np.testing.assert_allclose(recall, [0, 0.25, 0.5])
    # Recalls 1/40 .. 20/40 see a best precision of 2/3, the others 0.
    assert interpolated_average_precision([True, False, True], [0.2, 0.9, 0.5], 4) == pytest.approx(1 / 3)


def test_mean_over_distances():
    given = ([[0.7, 0.0]], [0.5], [0], [[0, 0]], [0])
    assert distance_average_precision(*given, distances=(0.5, 1.0)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="distance"):
        distance_average_precision(*given, distances=())
    with pytest.raises(ValueError, match="gold"):
        distance_average_precision(*given[:3], np.zeros((0, 2)), [])


def test_kitti_perfect_and_empty():
    perfect = [frame(np.eye(3), [0.9, 0.8, 0.7]) for _ in range(20)]
    assert kitti_average_precision(perfect, 0.5) == pytest.approx(1.0)
    nothing = [frame(np.zeros((1, 1)), [0.9])]
    assert kitti_average_precision(nothing, 0.5) == 0.0
    with pytest.raises(ValueError, match="no label"):
        kitti_average_precision([frame(np.zeros((1, 1)), [0.9], labels=[1])], 0.5)


def test_kitti_false_alarms_lower_precision_unless_they_are_excused():
    def value(**roles):
        return kitti_average_precision([frame([[0.9], [0.0]], [0.8, 0.9], **roles) for _ in range(80)], 0.5)

    assert value() == pytest.approx(0.5)
    assert value(detections=[0, 1]) == pytest.approx(1.0)  # too low to count
    assert value(detections=[0, -1]) == pytest.approx(1.0)  # another class
    assert value(forgiven=[False, True]) == pytest.approx(1.0)  # in a DontCare region
    twice = [frame([[0.9, 0.0], [0.0, 0.9]], [0.8, 0.9], labels=[0, 1]) for _ in range(80)]
    assert kitti_average_precision(twice, 0.5) == pytest.approx(1.0)  # on a label that costs nothing


def test_kitti_agrees_with_interpolated_precision_when_nothing_is_ignored():
    rng = np.random.default_rng(0)
    frames, hits, scores, count = [], [], [], 0
    for _ in range(80):
        score = rng.random(3)
        right = rng.random(2) < 0.7
        overlap = np.zeros((3, 2))
        overlap[0, 0], overlap[1, 1] = right
        frames.append(frame(overlap, score))
        hits += [*right.tolist(), False]
        scores += score.tolist()
        count += 2
    plain = interpolated_average_precision(hits, scores, count)
    assert kitti_average_precision(frames, 0.5) == pytest.approx(plain, abs=0.02)


def test_kitti_roles():
    types = ["Car", "Van", "Pedestrian", "Car", "Car", "Car", "Car"]
    heights, occluded = [50, 50, 50, 30, 50, 50, 20], [0, 0, 0, 0, 1, 3, 0]
    truncated = [0, 0, 0, 0, 0.2, 0, 0]

    def roles(level):
        return kitti_roles(types, heights, "Car", level, occluded=occluded, truncated=truncated).tolist()

    assert roles("easy") == [0, 1, -1, 1, 1, 1, 1]
    assert roles("moderate") == [0, 1, -1, 0, 0, 1, 1]
    assert kitti_roles(types, heights, "Car", "easy").tolist() == [0, -1, -1, 1, 0, 0, 1]
    assert kitti_roles(["Person_sitting"], [99], "Pedestrian", "hard", occluded=[0], truncated=[0]).tolist() == [1]


def test_bad_input():
    with pytest.raises(ValueError, match="scores"):
        distance_hits([[0, 0]], [1, 2], [0], [[0, 0]], [0], 1.0)
    with pytest.raises(ValueError, match="NaN"):
        distance_hits([[0, 0]], [np.nan], [0], [[0, 0]], [0], 1.0)
    with pytest.raises(ValueError, match="no gold"):
        precision_recall([], [], 0)
