"""Frustum Localizer: targets and decoding are inverse, losses have the right minima, training finds boxes."""

import math

import pytest
import torch

from assay.methods.driving import frustum_localizer as fl
from assay.methods.driving.frustum_localizer import Crops, FrustumLocalizer


def perfect_heads(net, boxes, labels):
    bins, turn = net.heading_target(boxes[:, 6])
    B, C, H = len(boxes), net.num_classes, net.heading_bins
    residual = torch.zeros(B, C, 3).index_put((torch.arange(B), labels), boxes[:, 3:6] / net.sizes[labels] - 1)
    return {
        "mask": torch.zeros(B, 4, 2),
        "stage": boxes[:, :3],
        "centre": boxes[:, :3],
        "size": 20.0 * torch.nn.functional.one_hot(labels, C),
        "size_residual": residual,
        "heading": 20.0 * torch.nn.functional.one_hot(bins, H),
        "heading_residual": torch.zeros(B, H).index_put((torch.arange(B), bins), turn),
    }


def some_boxes(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 3, generator=g) * torch.tensor([20.0, 2, 1]) + torch.tensor([8.0, -1, 0])
    size = 0.5 + torch.rand(count, 3, generator=g)
    return torch.cat([centre, size, (torch.rand(count, 1, generator=g) - 0.5) * 2 * math.pi], 1)


def synthetic_crops(count, points=64, seed=0):
    """Boxes full of points among points of a wall behind them."""
    g = torch.Generator().manual_seed(seed)
    boxes, labels = some_boxes(count, seed), torch.randint(0, 3, (count,), generator=g)
    boxes[:, 3:6] = torch.tensor(fl.KITTI_SIZES)[labels]
    half = points // 2
    inside = torch.rand(count, half, 3, generator=g) - 0.5
    inside = fl.rotate_z(inside * boxes[:, None, 3:6], boxes[:, None, 6]) + boxes[:, None, :3]
    wall = torch.rand(count, points - half, 3, generator=g) * torch.tensor([1.0, 4, 3]) + torch.tensor([5.0, -2, -1])
    xyz = torch.cat([inside, wall + boxes[:, None, :3]], 1)
    mask = torch.arange(points).expand(count, -1) < half
    extra = torch.cat([torch.full((count, points, 1), 0.3), mask[..., None] * 0.5 + 0.5], -1)
    return Crops(torch.cat([xyz, extra], -1), labels, boxes, mask)


def test_decoding_inverts_the_targets():
    net = FrustumLocalizer(3, backbone="pointnet")
    boxes, labels = some_boxes(40), torch.arange(40) % 3
    torch.testing.assert_close(net.decode(perfect_heads(net, boxes, labels)), boxes, atol=1e-5, rtol=1e-5)
    bins, turn = net.heading_target(torch.tensor([0.0, 2 * math.pi / 12, -0.1, math.pi]))
    assert bins.tolist() == [0, 1, 0, 6]
    assert bool((turn.abs() <= 1).all())


def test_loss_vanishes_at_the_truth_but_for_the_mask():
    net = FrustumLocalizer(3, backbone="pointnet")
    boxes, labels = some_boxes(8), torch.arange(8) % 3
    heads = perfect_heads(net, boxes, labels)
    crops = Crops(torch.zeros(8, 4, 5), labels, boxes, torch.zeros(8, 4, dtype=torch.bool))
    heads["mask"] = torch.tensor([20.0, 0.0]).expand(8, 4, 2)
    assert float(net.loss(heads, crops)) < 1e-5
    for name, weight in (("centre", 1.0), ("stage", 5.0)):
        moved = {**heads, name: heads[name] + torch.tensor([1.0, 0, 0])}
        extra = 0.1 if name == "centre" else 0.0  # the corners move along
        assert float(net.loss(moved, crops)) == pytest.approx(weight * (1 - 1 / 18) + extra, abs=1e-3)


def test_corner_loss_forgives_half_a_turn_only():
    boxes = some_boxes(6)
    turned = torch.cat([boxes[:, :6], boxes[:, 6:] + math.pi], 1)
    assert float(fl.corner_loss(boxes, boxes)) == pytest.approx(0, abs=1e-5)
    assert float(fl.corner_loss(turned, boxes)) == pytest.approx(0, abs=1e-5)
    quarter = torch.cat([boxes[:, :6], boxes[:, 6:] + math.pi / 2], 1)
    assert float(fl.corner_loss(quarter, boxes)) > 0.1
    assert float(fl.corner_loss(boxes + torch.tensor([0, 3.0, 4, 0, 0, 0, 0]), boxes)) == pytest.approx(5, abs=1e-4)
    exact = boxes[:2].double().requires_grad_()
    near = boxes[:2].double() + torch.tensor([0.3, 0.2, -0.1, 0.1, 0.2, 0.1, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda b: fl.corner_loss(b, near), (exact,))


@pytest.mark.parametrize("backbone", ["pointnet", "pointnet2"])
def test_every_head_gets_a_gradient(backbone):
    torch.manual_seed(0)
    net = FrustumLocalizer(3, backbone=backbone)
    crops = synthetic_crops(4)
    onehot = torch.nn.functional.one_hot(crops.labels, 3).float()
    out = net(crops.points, onehot, torch.Generator().manual_seed(0))
    assert out["mask"].shape == (4, 64, 2)
    net.loss(out, crops).backward()
    lacking = [name for name, p in net.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert lacking == []
    still = [name for name, p in net.named_parameters() if float(p.grad.abs().max()) == 0]
    assert not [name for name in still if name.startswith(("tnet_head.1", "box_head.1", "segment.head"))]


def test_object_points_come_from_the_mask():
    xyz = torch.arange(60.0).view(1, 20, 3)
    mask = torch.zeros(1, 20, dtype=torch.bool)
    mask[0, [3, 7]] = True
    for generator in (None, torch.Generator().manual_seed(0)):
        chosen = fl._object_points(xyz, mask, generator)
        assert chosen.shape == (1, 64, 3)
        assert {tuple(p) for p in chosen[0].tolist()} == {tuple(xyz[0, 3].tolist()), tuple(xyz[0, 7].tolist())}
    nothing = fl._object_points(xyz, torch.zeros_like(mask), None)
    assert len({tuple(p) for p in nothing[0].tolist()}) == 20


def test_training_finds_boxes_and_repeats_itself():
    crops, fresh = synthetic_crops(96), synthetic_crops(32, seed=1)

    def trained():
        torch.manual_seed(0)
        net = FrustumLocalizer(3, backbone="pointnet")
        rounds = fl.fit_localizer(net, crops, steps=60, batch=16, lr=2e-3, generator=torch.Generator().manual_seed(0))
        return net, rounds

    net, rounds = trained()
    assert rounds[-1] < 0.5 * rounds[0]
    with torch.no_grad():
        boxes = net.decode(net(fresh.points, torch.nn.functional.one_hot(fresh.labels, 3).float()))
    assert float((boxes[:, :3] - fresh.boxes[:, :3]).norm(dim=1).median()) < 0.5
    other, again = trained()
    assert again == rounds
    torch.testing.assert_close(other.state_dict(), net.state_dict())


def test_held_out_frustums_choose_the_weights():
    torch.manual_seed(0)
    net = FrustumLocalizer(3, backbone="pointnet")
    crops, held = synthetic_crops(24), synthetic_crops(8, seed=1)
    rounds = fl.fit_localizer(
        net, crops, steps=12, batch=8, lr=1e-3, generator=torch.Generator().manual_seed(0), held_out=held
    )
    assert fl._evaluate(net, held) == pytest.approx(min(rounds), rel=1e-4)


def test_jitter_stays_within_bounds_and_mirrors_are_mirrors():
    rects = torch.tensor([[10.0, 20, 50, 100]] * 200, dtype=torch.float64)
    shaken = fl.jitter_rects(rects, 0.05, torch.Generator().manual_seed(0))
    size = rects[:, 2:] - rects[:, :2]
    shift = ((shaken[:, :2] + shaken[:, 2:]) - (rects[:, :2] + rects[:, 2:])) / 2 / size
    scale = (shaken[:, 2:] - shaken[:, :2]) / size
    assert float(shift.abs().max()) <= 0.05
    assert 0.95 <= float(scale.min()) < float(scale.max()) <= 1.05
    crops = synthetic_crops(3)
    torch.testing.assert_close(fl.mirrored(fl.mirrored(crops)).boxes, crops.boxes)
    assert bool((fl.mirrored(crops).points[..., 1] == -crops.points[..., 1]).all())


def test_turned_back_undoes_the_frustums_turn():
    boxes, angle = some_boxes(5), torch.linspace(-2, 2, 5)
    there = fl.turned_back(boxes, -angle)
    torch.testing.assert_close(fl.turned_back(there, angle), boxes, atol=1e-5, rtol=1e-5)


def test_bad_input():
    for wrong in ({"sizes": ((1, 1, 1),)}, {"point_features": 2}, {"backbone": "vit"}, {"sizes": ((0, 1, 1),) * 3}):
        with pytest.raises(ValueError):
            FrustumLocalizer(3, **wrong)
    net = FrustumLocalizer(3, backbone="pointnet")
    with pytest.raises(ValueError, match="points"):
        net(torch.zeros(2, 8, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="at least two"):
        fl.fit_localizer(net, synthetic_crops(1), steps=1, generator=torch.Generator())
