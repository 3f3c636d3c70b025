"""Centre detectors: targets against a loop, a perfect map decodes to the truth, a small net learns one scene."""

import math

import pytest
import torch

from assay.nn.center_head import center_loss, center_targets, find_peaks
from assay.nn.detectors import ImageDetector, PillarDetector


def test_targets_equal_a_loop_over_cells():
    centres, sigma = torch.tensor([[3.4, 2.9], [4.2, 3.1], [99.0, 0.0]]), torch.tensor([1.0, 0.7, 1.0])
    targets = center_targets((2, 2, 6, 8), torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0]), centres, sigma,
                             torch.arange(6.0).view(3, 2))  # fmt: skip
    heat = torch.zeros(2, 2, 6, 8)
    for (x, y), s in zip([(3, 2), (4, 3)], [1.0, 0.7], strict=True):
        for r in range(6):
            for c in range(8):
                value = math.exp(-((r - y) ** 2 + (c - x) ** 2) / (2 * s * s))
                heat[0, 1, r, c] = max(float(heat[0, 1, r, c]), value)
    torch.testing.assert_close(targets.heat, heat)
    assert targets.cells.tolist() == [[0, 2, 3], [0, 3, 4]]
    assert targets.values.tolist() == [[0, 1], [2, 3]]


def test_loss_is_least_at_the_target_and_has_the_right_gradient():
    targets = center_targets((1, 1, 5, 5), torch.tensor([0]), torch.tensor([0]), torch.tensor([[2.5, 2.5]]),
                             torch.tensor([0.8]), torch.tensor([[0.3]]))  # fmt: skip
    values = torch.full((1, 1, 5, 5), 0.3)
    good = torch.where(targets.heat >= 1, 9.0, -9.0)
    assert float(center_loss(good, values, targets)) < 0.01
    assert float(center_loss(-good, values, targets)) > 5
    assert float(center_loss(good, values + 1, targets)) == pytest.approx(1.0, abs=0.02)
    double = targets._replace(heat=targets.heat.double(), values=targets.values.double())
    heat = torch.randn(1, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: center_loss(h, values.double(), double), (heat,))


def test_peaks_are_local_maxima_by_score():
    heat = torch.full((2, 6, 6), -9.0)
    heat[0, 1, 1], heat[0, 1, 2], heat[1, 4, 4] = 2.0, 1.0, 3.0
    peaks = find_peaks(heat, least=0.1)
    assert list(zip(peaks.labels.tolist(), peaks.rows.tolist(), peaks.columns.tolist(), strict=True)) == [
        (1, 4, 4),
        (0, 1, 1),
    ]
    assert len(find_peaks(heat, least=0.1, most=1).scores) == 1


def test_pillar_targets_decode_to_the_boxes():
    net = PillarDetector(2)
    boxes = torch.tensor([[10.3, -4.2, 0.8, 4.0, 1.7, 1.5, 2.5], [20.1, 3.3, 0.9, 0.6, 0.6, 1.8, -1.0]])
    labels = torch.tensor([1, 0])
    targets = net.targets([boxes], [labels])
    values = torch.zeros(1, 8, net.grid.rows, net.grid.columns)
    b, r, c = targets.cells.unbind(1)
    values[b, :, r, c] = targets.values
    net.forward = lambda scans: (torch.where(targets.heat >= 1, 5.0, -9.0), values)
    found, scores, kinds = net.detect(torch.zeros(1, 4), least=0.5)
    order = found[:, 0].argsort()
    torch.testing.assert_close(found[order], boxes, atol=1e-4, rtol=1e-4)
    assert kinds[order].tolist() == [1, 0]
    assert bool((scores > 0.9).all())


def test_pillars_do_not_depend_on_the_order_of_points_and_empty_columns_are_zero():
    net = PillarDetector(1).eval()
    points = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 3, 2, 1])
    points[:, 0] += 10
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = net.pillars([points])
        torch.testing.assert_close(net.pillars([points[order]]), maps)
    assert int((maps.abs().sum(1) > 0).sum()) <= 49
    assert float(maps[0, -1].exp().sub(1).sum()) == pytest.approx(200, rel=1e-4)


@pytest.mark.parametrize("kind", ["image", "lidar"])
def test_a_detector_learns_one_scene(kind):
    torch.manual_seed(0)
    if kind == "image":
        net = ImageDetector(1, width=8)
        image = torch.zeros(3, 32, 48)
        image[:, 8:20, 10:30] = 1.0
        wanted = torch.tensor([[10.0, 8.0, 30.0, 20.0]])
        step = lambda: net.loss(image[None], [wanted], [torch.tensor([0])])  # noqa: E731
        detect = lambda: net.detect(image)  # noqa: E731
    else:
        net = PillarDetector(1, features=8, width=8)
        g = torch.Generator().manual_seed(0)
        wanted = torch.tensor([[15.2, 2.1, 0.75, 3.0, 1.5, 1.5, 0.0]])
        cloud = (torch.rand(300, 4, generator=g) - 0.5) * torch.tensor([3.0, 1.5, 1.5, 1.0]) + torch.tensor(
            [15.2, 2.1, 0.75, 0.5]
        )
        step = lambda: net.loss([cloud], [wanted], [torch.tensor([0])])  # noqa: E731
        detect = lambda: net.detect(cloud)  # noqa: E731
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(500):
        loss = step()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.train()  # one scene: its own statistics
    boxes, scores, _ = detect()
    assert float(scores[0]) > 0.5
    assert float((boxes[0] - wanted[0]).abs().max()) < (4.0 if kind == "image" else 0.5)
