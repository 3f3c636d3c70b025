"""Late and cascade fusion: the properties that define it, and each step against a plain version."""

import itertools
import math

import pytest
import torch

from assay.geometry.boxes3d import rotate_z
from assay.geometry.lidar_camera import Calibration, project_boxes
from assay.methods.driving import late_cascade_fusion as lcf
from assay.methods.driving.late_cascade_fusion import Boxes2D, Boxes3D, FusionOptions, LateCascadeFusion
from assay.metrics.boxes import box_iou

AXES = torch.tensor([[0.0, -1, 0, 0.05], [0, 0, -1, 1.6], [1, 0, 0, -0.2], [0, 0, 0, 1]], dtype=torch.float64)
P = torch.tensor([[300.0, 0, 240, 4], [0, 300, 80, 0.1], [0, 0, 1, 0.001]], dtype=torch.float64)
CALIB = Calibration(P, AXES, (160, 480))
OPEN = FusionOptions(least3d=(0.0,) * 3, least2d=(0.0,) * 3)
NO_POINTS = torch.zeros(0, 4)


def scene(count=5, seed=0):
    """Boxes ahead that do not hide one another, and their labels."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.linspace(-0.5, 0.5, count)
    away = 12 + 10 * torch.rand(count, generator=g)
    size = torch.tensor([0.8, 0.6, 1.7]).expand(count, 3)
    yaw = 6 * torch.rand(count, 1, generator=g)
    boxes = torch.cat(
        [(away * angle.cos())[:, None], (away * angle.sin())[:, None], torch.full((count, 1), 0.85), size, yaw], 1
    )
    return boxes, torch.arange(count) % 3


def detections(boxes, labels, score=0.6):
    return Boxes3D(boxes, torch.full((len(boxes),), score), labels)


def seen(boxes, labels, score=1 / 3):
    return Boxes2D(project_boxes(boxes, CALIB)[0].float(), torch.full((len(boxes),), score), labels)


class AtMean(torch.nn.Module):
    """A stand-in localizer that puts an upright box of fixed size at the mean of the points."""

    num_classes, point_features = 3, 5

    def forward(self, points, onehot):
        return {"centre": points[..., :3].mean(1)}

    def decode(self, out):
        centre = out["centre"]
        rest = torch.tensor([0.8, 0.6, 1.7, 0.0]).expand(len(centre), 4)
        return torch.cat([centre[:, :2], torch.full_like(centre[:, :1], 0.85), rest], 1)


def cloud_of(boxes, count=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    local = (torch.rand(len(boxes), count, 3, generator=g) - 0.5) * boxes[:, None, 3:6]
    points = rotate_z(local, boxes[:, None, 6]) + boxes[:, None, :3]
    return torch.cat([points.reshape(-1, 3), torch.full((len(boxes) * count, 1), 0.5)], 1)


def test_perfect_agreement_changes_nothing():
    boxes, labels = scene()
    fused = LateCascadeFusion(None, OPEN)(NO_POINTS, detections(boxes, labels), seen(boxes, labels), CALIB)
    torch.testing.assert_close(fused.boxes, boxes)
    torch.testing.assert_close(fused.scores, torch.full((5,), 0.6))
    assert fused.labels.tolist() == labels.tolist()
    assert fused.source == ["matched"] * 5
    assert fused.partner.tolist() == [0, 1, 2, 3, 4]


def test_without_image_boxes_only_what_the_camera_cannot_see_stays():
    boxes, labels = scene()
    behind = boxes.clone()
    behind[:, 0] *= -1
    both = detections(torch.cat([boxes, behind]), torch.cat([labels, labels]))
    nothing = Boxes2D(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert len(LateCascadeFusion(None, OPEN)(NO_POINTS, both, nothing, CALIB)) == 0
    keeping = FusionOptions(least3d=(0.0,) * 3, least2d=(0.0,) * 3, out_of_view=0.1)
    fused = LateCascadeFusion(None, keeping)(NO_POINTS, both, nothing, CALIB)
    torch.testing.assert_close(fused.boxes, behind)
    assert set(fused.source) == {"out_of_view"}
    strict = FusionOptions(least3d=(0.0,) * 3, least2d=(0.0,) * 3, out_of_view=0.7)
    assert len(LateCascadeFusion(None, strict)(NO_POINTS, both, nothing, CALIB)) == 0


def test_without_lidar_boxes_everything_is_recovered_and_agrees_with_the_image():
    boxes, labels = scene()
    image = seen(boxes, labels, 0.8)
    nothing = Boxes3D(torch.zeros(0, 7), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    fused = LateCascadeFusion(AtMean(), OPEN)(cloud_of(boxes), nothing, image, CALIB)
    assert set(fused.source) == {"recovered"}
    assert len(fused) == 5
    assert fused.labels.tolist() == labels[fused.partner].tolist()
    assert float((fused.boxes[:, :2] - boxes[fused.partner, :2]).norm(dim=1).max()) < 0.3
    overlap = box_iou(project_boxes(fused.boxes, CALIB)[0].float(), image.boxes[fused.partner], paired=True)
    assert bool((overlap > 0.3).all())
    torch.testing.assert_close(fused.scores, 0.8 * overlap)


def test_a_recovered_box_that_does_not_fit_its_image_box_is_dropped():
    boxes, labels = scene()
    image = seen(boxes, labels, 0.8)
    tall = image.boxes.clone()
    tall[:, 1] -= 300  # the object cannot be that high
    wrong = Boxes2D(tall, image.scores, labels)
    nothing = Boxes3D(torch.zeros(0, 7), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert len(LateCascadeFusion(AtMean(), OPEN)(cloud_of(boxes), nothing, wrong, CALIB)) == 0


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 5), (5, 3), (6, 6), (0, 4), (4, 0)])
def test_match_equals_all_permutations(n, m):
    g = torch.Generator().manual_seed(n * 10 + m)

    def rects(count):
        corner = torch.rand(count, 2, generator=g, dtype=torch.float64)
        return torch.cat([corner, corner + 0.3 + torch.rand(count, 2, generator=g, dtype=torch.float64)], 1)

    a, b = rects(n), rects(m)
    iou = box_iou(a, b)
    best, pairs = -1.0, set()
    small, large = (range(n), range(m)) if n <= m else (range(m), range(n))
    for chosen in itertools.permutations(large, len(small)):
        candidate = list(zip(small, chosen, strict=True)) if n <= m else list(zip(chosen, small, strict=True))
        total = sum(float(iou[i, j]) for i, j in candidate)
        if total > best:
            best, pairs = total, {(i, j) for i, j in candidate if iou[i, j] > 0.3}
    assert {tuple(p) for p in lcf.match(a, b, 0.3).tolist()} == pairs
    order_a, order_b = torch.randperm(n, generator=g), torch.randperm(m, generator=g)
    again = lcf.match(a[order_a], b[order_b], 0.3).tolist()
    assert {(int(order_a[i]), int(order_b[j])) for i, j in again} == pairs


def test_scores_and_labels_of_pairs():
    s3, s2 = torch.tensor([0.6, 0.6]), torch.tensor([0.9, 0.9])
    scores, labels = lcf.fuse_labels(s3, torch.tensor([0, 1]), s2, torch.tensor([0, 2]), (0.5, 0.25, 0.25))
    assert scores.tolist() == pytest.approx([0.6 * 0.9 / 0.5, 0.9])
    assert labels.tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"0\.\.1"):
        lcf.fuse_labels(s3, torch.tensor([0, 2]), s2, torch.tensor([0, 2]), (0.5, 0.5))


def test_a_false_alarm_goes_or_is_kept_at_a_lower_score():
    boxes, labels = scene()
    image = seen(boxes[:3], labels[:3])
    fused = LateCascadeFusion(None, OPEN)(NO_POINTS, detections(boxes, labels), image, CALIB)
    torch.testing.assert_close(fused.boxes, boxes[:3])
    softer = FusionOptions(least3d=(0.0,) * 3, least2d=(0.0,) * 3, unmatched_factor=0.25)
    fused = LateCascadeFusion(None, softer)(NO_POINTS, detections(boxes, labels), image, CALIB)
    assert fused.source == ["matched"] * 3 + ["unmatched"] * 2
    torch.testing.assert_close(fused.scores[3:], torch.full((2,), 0.15))


def test_matching_within_a_class_only():
    boxes, labels = scene()
    image = seen(boxes, (labels + 1) % 3, 0.7)
    fused = LateCascadeFusion(None, OPEN)(NO_POINTS, detections(boxes, labels), image, CALIB)
    assert fused.labels.tolist() == image.labels.tolist()
    torch.testing.assert_close(fused.scores, torch.full((5,), 0.7))
    strict = FusionOptions(least3d=(0.0,) * 3, least2d=(0.0,) * 3, match_classes=True)
    assert len(LateCascadeFusion(None, strict)(NO_POINTS, detections(boxes, labels), image, CALIB)) == 0


def test_clusters_make_a_weaker_double_harmless():
    boxes, labels = scene()
    image = seen(boxes, labels)
    doubled = Boxes3D(
        torch.cat([boxes, boxes[:2] + 0.05]), torch.tensor([0.6] * 5 + [0.3] * 2), torch.cat([labels, labels[:2]])
    )
    for method in ("components", "cliques"):
        grouped = FusionOptions(least3d=(0.0,) * 3, least2d=(0.0,) * 3, cluster=method, cluster_iou=0.3)
        once = LateCascadeFusion(None, grouped)(NO_POINTS, detections(boxes, labels), image, CALIB)
        twice = LateCascadeFusion(None, grouped)(NO_POINTS, doubled, image, CALIB)
        assert {tuple(b) for b in twice.boxes.tolist()} == {tuple(b) for b in once.boxes.tolist()}
        torch.testing.assert_close(twice.scores.sort().values, once.scores.sort().values)
    plain = LateCascadeFusion(None, OPEN)(NO_POINTS, doubled, image, CALIB)
    assert sorted(plain.partner.tolist()) == [0, 1, 2, 3, 4]


def test_components_and_cliques_of_a_chain():
    chain = torch.tensor([[float(i), 0, 0, 3, 1, 1, 0] for i in range(3)])  # neighbours overlap 1/2, ends 1/5
    labels = torch.zeros(3, dtype=torch.long)
    assert lcf.cluster_boxes(chain, labels, 0.4, "components") == [[0, 1, 2]]
    assert lcf.cluster_boxes(chain, labels, 0.4, "cliques") == [[0, 1], [1, 2]]
    assert len(lcf.cluster_boxes(chain, torch.arange(3), 0.4)) == 3
    with pytest.raises(ValueError, match="method"):
        lcf.cluster_boxes(chain, labels, 0.4, "trees")


def test_two_cameras_see_a_box_once():
    turn = 0.6
    side = AXES.clone()
    side[:3, :3] = AXES[:3, :3] @ torch.tensor(
        [[math.cos(turn), math.sin(turn), 0], [-math.sin(turn), math.cos(turn), 0], [0, 0, 1]], dtype=torch.float64
    )
    other = Calibration(P, side, (160, 480))
    boxes, labels = scene()
    second = Boxes2D(project_boxes(boxes, other)[0].float(), torch.full((5,), 1 / 3), labels)
    both = [seen(boxes, labels), second]
    in_other = project_boxes(boxes, other)[1]
    assert 1 <= int(in_other.sum()) < 5
    fused = LateCascadeFusion(None, OPEN)(NO_POINTS, detections(boxes, labels), both, [CALIB, other])
    assert sorted(map(tuple, fused.boxes.tolist())) == sorted(map(tuple, boxes.tolist()))
    # A veto by one camera does not stand when another confirms.
    first_empty = [Boxes2D(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)), second]
    fused = LateCascadeFusion(None, OPEN)(NO_POINTS, detections(boxes, labels), first_empty, [CALIB, other])
    assert len(fused) == int(in_other.sum())
    with pytest.raises(ValueError, match="calibrations"):
        LateCascadeFusion(None, OPEN)(NO_POINTS, detections(boxes, labels), both, CALIB)


def test_likelihood_at_the_centre_and_at_the_sides():
    rect = torch.tensor([10.0, 20, 50, 40])
    pixels = torch.tensor([[30.0, 30], [10, 30], [50, 30], [30, 20]])
    expected = [1.0] + [math.exp(-1 / 8)] * 3
    assert lcf.point_likelihood(pixels, rect).tolist() == pytest.approx(expected)


def test_frustum_holds_the_points_of_a_plain_loop_and_looks_along_x():
    g = torch.Generator().manual_seed(0)
    points = (torch.rand(4000, 4, generator=g, dtype=torch.float64) - 0.5) * torch.tensor([60.0, 40, 4, 1])
    rects = torch.tensor([[100.0, 40, 220, 120], [300, 60, 330, 100], [0, 0, 2, 2]], dtype=torch.float64)
    found = lcf.frustums(points, rects, CALIB, enlarge=0.1, min_points=10)
    for rect, frustum in zip(rects, found, strict=True):
        centre, half = (rect[:2] + rect[2:]) / 2, (rect[2:] - rect[:2]) * 1.1 / 2
        rows = [
            i for i, p in enumerate(points)
            if p[0] > 0 and CALIB.project(p)[1] > 0 and bool(((CALIB.project(p)[0] - centre).abs() <= half).all())
        ]  # fmt: skip
        if len(rows) <= 10:
            assert frustum is None
            continue
        back = rotate_z(frustum.points, frustum.yaw)
        torch.testing.assert_close(back, points[rows], atol=1e-6, rtol=0)
        ray = rotate_z(CALIB.viewing_direction(centre[None]), -frustum.yaw)[0]
        assert float(torch.atan2(ray[1], ray[0])) == pytest.approx(0.0, abs=1e-9)
        torch.testing.assert_close(frustum.likelihood, lcf.point_likelihood(CALIB.project(points[rows])[0], rect))
    assert found[0] is not None
    assert found[2] is None


def test_scaling_lengths_changes_no_match():
    boxes, labels = scene()
    image = seen(boxes + torch.tensor([0, 0.1, 0.05, 0, 0, 0, 0]), labels)
    k = 2.5
    T, Q = AXES.clone(), P.clone()
    T[:3, 3] *= k
    Q[:, 3] *= k
    scaled = boxes * torch.tensor([k, k, k, k, k, k, 1])
    a = LateCascadeFusion(None, OPEN)(NO_POINTS, detections(boxes, labels), image, CALIB)
    b = LateCascadeFusion(None, OPEN)(NO_POINTS, detections(scaled, labels), image, Calibration(Q, T, (160, 480)))
    assert a.partner.tolist() == b.partner.tolist()
    assert len(a) == 5


def test_final_suppression_keeps_the_better_of_two():
    boxes, labels = scene(2)
    close = boxes.clone()
    close[:, 1] += 0.02
    doubled = Boxes3D(torch.cat([boxes, close]), torch.tensor([0.5, 0.9, 0.8, 0.4]), torch.cat([labels, labels]))
    options = FusionOptions(
        least3d=(0.0,) * 3, least2d=(0.0,) * 3, unmatched_factor=1.0, fuse_labels=False, nms_iou=0.3
    )
    fused = LateCascadeFusion(None, options)(NO_POINTS, doubled, seen(boxes, labels), CALIB)
    assert fused.scores.tolist() == pytest.approx([0.9, 0.8])


def test_training_crops_mark_the_points_of_the_object():
    boxes, labels = scene()
    rects = project_boxes(boxes, CALIB)[0]
    generator = torch.Generator().manual_seed(0)
    crops = lcf.training_crops(cloud_of(boxes), boxes, labels, rects, CALIB, copies=3, count=40, generator=generator)
    assert crops.points.shape == (15, 40, 5)
    assert bool(crops.inside.all())
    assert float(torch.atan2(crops.boxes[:, 1], crops.boxes[:, 0]).abs().max()) < 0.05
    joined = lcf.join_crops([None, crops, crops])
    assert len(joined.labels) == 30
    assert lcf.training_crops(NO_POINTS, boxes, labels, rects, CALIB, generator=generator) is None
    assert lcf.join_crops([None]) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: Boxes3D(torch.zeros(2, 6), torch.zeros(2), torch.zeros(2, dtype=torch.long)),
        lambda: Boxes3D(torch.full((1, 7), torch.nan), torch.zeros(1), torch.zeros(1, dtype=torch.long)),
        lambda: Boxes3D(torch.zeros(2, 7), torch.zeros(1), torch.zeros(2, dtype=torch.long)),
        lambda: Boxes3D(torch.zeros(1, 7), torch.zeros(1), torch.zeros(1)),
        lambda: Boxes2D(torch.tensor([[5.0, 5, 1, 1]]), torch.zeros(1), torch.zeros(1, dtype=torch.long)),
        lambda: Boxes2D(torch.zeros(1, 5), torch.zeros(1), torch.zeros(1, dtype=torch.long)),
        lambda: FusionOptions(least3d=(0.1, 0.1)),
        lambda: FusionOptions(prior=(0.5, 0.5, 0.0)),
        lambda: LateCascadeFusion(AtMean(), lcf.NUSCENES),
        lambda: LateCascadeFusion()(torch.zeros(3), detections(*scene()), seen(*scene()), CALIB),
        lambda: LateCascadeFusion()(NO_POINTS, detections(scene()[0], scene()[1] + 3), seen(*scene()), CALIB),
    ],
)
def test_bad_input(make):
    with pytest.raises(ValueError):
        make()
