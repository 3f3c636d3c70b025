"""Point networks: order does not matter, sampling and balls against brute force, folding against plain evaluation."""

import pytest
import torch

from assay.nn.pointnet import (
    FeaturePropagation,
    GlobalAbstraction,
    PointNet,
    SetAbstraction,
    SharedMLP,
    ball_query,
    farthest_points,
    gather_rows,
)

G = torch.Generator().manual_seed(0)
XYZ = torch.rand(2, 50, 3, generator=G)
FEATURES = torch.rand(2, 50, 4, generator=G)


def test_evaluation_equals_linear_norm_relu():
    mlp = SharedMLP(4, (8, 6))
    for _ in range(20):
        mlp(FEATURES)
    mlp.eval()
    x = FEATURES.reshape(-1, 4)
    for layer, norm in zip(mlp.layers, mlp.norms, strict=True):
        x = norm(layer(x)).relu()
    torch.testing.assert_close(mlp(FEATURES).reshape(-1, 6), x)


def test_set_features_do_not_depend_on_order():
    net = PointNet(4, (8, 16)).eval()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    each, whole = net(FEATURES)
    each_shuffled, whole_shuffled = net(FEATURES[:, order])
    torch.testing.assert_close(whole_shuffled, whole)
    torch.testing.assert_close(each_shuffled, each[:, order])


def test_farthest_points_equal_a_plain_loop():
    rows = farthest_points(XYZ, 12)
    for b in range(2):
        chosen = [0]
        while len(chosen) < 12:
            distance = [min(float((p - XYZ[b, c]).norm()) for c in chosen) for p in XYZ[b]]
            chosen.append(max(range(50), key=distance.__getitem__))
        assert rows[b].tolist() == chosen
    with pytest.raises(ValueError, match="51 of 50"):
        farthest_points(XYZ, 51)


@pytest.mark.parametrize("count", [4, 60])
def test_ball_query_equals_a_plain_loop(count):
    centres = XYZ[:, :5] + torch.tensor([0.0, 0.0, 0.05])
    centres[:, 4] += 10  # nothing near it
    rows = ball_query(centres, XYZ, 0.3, count)
    assert rows.shape == (2, 5, count)
    for b in range(2):
        for m in range(5):
            distance = (XYZ[b] - centres[b, m]).norm(dim=-1)
            inside = (distance <= 0.3).nonzero()[:, 0].tolist() or [int(distance.argmin())]
            assert rows[b, m].tolist() == (inside[:count] + [inside[0]] * count)[:count]


def test_gather_rows_by_index():
    rows = torch.tensor([[[0, 3], [1, 1]], [[5, 5], [2, 9]]])
    expected = torch.stack([torch.stack([FEATURES[b][rows[b, m]] for m in range(2)]) for b in range(2)])
    torch.testing.assert_close(gather_rows(FEATURES, rows), expected)


def test_abstraction_moves_with_the_points_and_propagates_back():
    net = SetAbstraction(4, 10, (0.2, 0.5), (8, 16), ((8, 8), (8, 12))).eval()
    centres, features = net(XYZ, FEATURES)
    moved, same = net(XYZ + 5.0, FEATURES)
    torch.testing.assert_close(moved, centres + 5.0)
    torch.testing.assert_close(same, features, atol=1e-4, rtol=1e-4)
    assert features.shape == (2, 10, net.width == 20 and 20)
    _, whole = GlobalAbstraction(20, (16,)).eval()(centres, features)
    assert whole.shape == (2, 1, 16)
    back = FeaturePropagation(20 + 4, (8,)).eval()(XYZ, centres, FEATURES, features)
    assert back.shape == (2, 50, 8)


def test_propagation_copies_features_where_points_coincide():
    net = FeaturePropagation(4, (4,)).eval()
    with torch.no_grad():
        net.mlp.layers[0].weight.copy_(torch.eye(4))
    nothing = torch.zeros(2, 50, 0)
    torch.testing.assert_close(net(XYZ, XYZ, nothing, FEATURES), FEATURES, atol=1e-3, rtol=1e-3)


def test_settings_must_fit_together():
    with pytest.raises(ValueError, match="one radius"):
        SetAbstraction(0, 4, (0.2,), (8, 8), ((8,),))
