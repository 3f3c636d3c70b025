"""Small conv nets: steps of the forward pass, what the norms depend on, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.nn.convnet import Conv4, ConvNet, norm_layer


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(0))


def test_forward_is_head_of_mean_of_features(images: torch.Tensor) -> None:
    net = ConvNet(3, 5).eval()
    by_hand = net.features(images).flatten(2).mean(2) @ net.head.weight.T + net.head.bias
    torch.testing.assert_close(net(images), by_hand)


def test_first_stage_equals_plain_functional_convolution(images: torch.Tensor) -> None:
    net = ConvNet(3, 5, (8,), norm="none")
    conv = net.stages[0][0][0]
    expected = nn.functional.conv2d(images, conv.weight, conv.bias, padding=1).relu()
    torch.testing.assert_close(net.features(images), expected)


def test_max_pooling_takes_the_largest_response(images: torch.Tensor) -> None:
    net = ConvNet(3, 5, pool="max").eval()
    torch.testing.assert_close(net.embed(images), net.features(images).flatten(2).max(dim=2).values)


@pytest.mark.parametrize(("norm", "alone_is_same"), [("group", True), ("none", True), ("batch", False)])
def test_only_batch_norm_depends_on_the_other_images(images: torch.Tensor, norm: str, alone_is_same: bool) -> None:
    net = ConvNet(3, 5, norm=norm).train()
    same = torch.allclose(net(images)[:1], net(images[:1]), atol=1e-5)
    assert same is alone_is_same


def test_global_pooling_makes_the_net_indifferent_to_a_half_turn_of_symmetric_kernels(images: torch.Tensor) -> None:
    net = ConvNet(3, 5, (8, 8), norm="group").eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = (module.weight.data + module.weight.data.flip(-1)) / 2
    torch.testing.assert_close(net(images.flip(-1)), net(images), atol=1e-5, rtol=1e-4)


def test_tiny_images_survive_every_stage() -> None:
    assert ConvNet(1, 2, (4, 4, 4, 4))(torch.zeros(2, 1, 3, 5)).shape == (2, 2)
    assert Conv4(1, 8, 3)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_gradient_check_in_double_precision() -> None:
    net = ConvNet(1, 2, (3, 3), norm="group").double()
    x = torch.randn(2, 1, 5, 5, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(net, (x,), atol=1e-5)


def test_conv4_flattened_embedding_and_classifier(images: torch.Tensor) -> None:
    backbone = Conv4(3, 16, pool=False).eval()
    assert backbone(images).shape == (4, 16)  # 20 -> 10 -> 5 -> 2 -> 1
    torch.testing.assert_close(backbone(images), backbone.features(images).flatten(1))
    assert Conv4(3, 16, 7, pool=False, image_size=32)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_parameter_count_by_hand() -> None:
    net = ConvNet(1, 10, (16, 32, 64))
    convs = 9 * (1 * 16 + 16 * 32 + 32 * 64)
    norms = 2 * (16 + 32 + 64)
    assert sum(p.numel() for p in net.parameters()) == convs + norms + 64 * 10 + 10


def test_refusals() -> None:
    with pytest.raises(ValueError, match="norm is"):
        norm_layer("layer", 4)
    with pytest.raises(ValueError, match="positive"):
        ConvNet(1, 0)
    with pytest.raises(ValueError, match="image_size"):
        Conv4(1, 8, 3, pool=False)
