import copy

import pytest
import torch
from torch import nn

from assay.nn.lora import LoRA, LoRALinear, add_lora, lora_disabled, lora_parameters, merge_lora


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3, bias=False))


def disturbed(net):
    for parameter in lora_parameters(net):
        nn.init.normal_(parameter, std=0.3)
    return net


def test_a_fresh_lora_changes_nothing_and_only_its_up_matrix_gets_a_gradient(net):
    x, before = torch.randn(4, 6), copy.deepcopy(net)
    add_lora(net, lambda name: True, rank=2)
    torch.testing.assert_close(net(x), before(x), rtol=0, atol=0)
    net(x).sum().backward()
    assert net[2].change.up.grad.abs().sum() > 0
    assert net[2].change.down.grad.abs().sum() == 0
    assert net[2].base.weight.grad is None


@pytest.mark.parametrize("alpha", [None, 8.0])
def test_merging_and_the_change_matrix_agree_with_the_wrapped_net(net, alpha):
    x = torch.randn(4, 6)
    disturbed_net = add_lora(net, lambda name: True, rank=2, alpha=alpha) and disturbed(net)
    expected = disturbed_net(x)
    layer = disturbed_net[0]
    by_hand = x @ (layer.base.weight + layer.change.matrix()).T + layer.base.bias
    torch.testing.assert_close(layer(x), by_hand)
    merged = merge_lora(disturbed_net)
    assert not any(isinstance(part, LoRALinear) for part in merged.modules())
    torch.testing.assert_close(merged(x), expected)


def test_disabling_gives_the_base_back_and_ends_with_the_block(net):
    x, before = torch.randn(4, 6), copy.deepcopy(net)
    add_lora(net, lambda name: name == "2", rank=1)
    disturbed(net)
    with lora_disabled(net):
        torch.testing.assert_close(net(x), before(x))
    assert not torch.allclose(net(x), before(x))


def test_only_chosen_layers_are_wrapped_and_the_rest_is_frozen(net):
    assert add_lora(net, lambda name: name == "2", rank=1) == ["2"]
    trainable = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trainable == ["2.change.down", "2.change.up"]


def test_bad_input_is_refused(net):
    with pytest.raises(ValueError, match="choose from: 0, 2"):
        add_lora(net, lambda name: False, rank=1)
    with pytest.raises(ValueError, match="rank 0"):
        LoRA(3, 3, 0)
