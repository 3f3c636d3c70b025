import copy

import pytest
import torch
from torch import nn

from assay.nn.two_time import TwoTimeDiffusers, TwoTimeMLP, smooth_features


def tiny_unet(classes=None):
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, num_class_embeds=classes,
    ).eval()  # fmt: skip


def tiny_dit(out_channels=None):
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=out_channels, num_layers=2,
        sample_size=8, patch_size=2, num_embeds_ada_norm=3,
    ).eval()  # fmt: skip


def points(n=5):
    g = torch.Generator().manual_seed(1)
    x, t = torch.randn(n, 1, 8, 8, generator=g), torch.rand(n, generator=g)
    return x, t, t * torch.rand(n, generator=g)


def awake(net):
    """The net with an embedding of the interval that says something."""
    nn.init.normal_(net.interval[2].weight, generator=torch.Generator().manual_seed(2))
    return net


@pytest.mark.parametrize("make", [tiny_unet, lambda: tiny_dit(2)])
def test_a_wrapped_model_first_gives_what_it_gave(make):
    pytest.importorskip("diffusers")
    x, t, r = points()
    model = make()
    labels = None if hasattr(model, "time_embedding") else torch.tensor([0, 1, 2, 3, 3])
    before = model(x, t * 1000, class_labels=labels, return_dict=False)[0][:, :1]
    net = TwoTimeDiffusers(model)
    assert torch.equal(net(x, t, r, labels), before)
    assert torch.equal(net(x, t, t, labels), before)


@pytest.mark.parametrize("make", [tiny_unet, tiny_dit])
def test_the_second_time_has_a_say_and_gradients_and_copies_stand_alone(make):
    pytest.importorskip("diffusers")
    x, t, r = points()
    net = awake(TwoTimeDiffusers(make()))
    assert not torch.allclose(net(x, t, r), net(x, t, t))
    other = copy.deepcopy(net)
    out = net(x, t, r)
    with torch.no_grad():
        other.interval[2].weight.zero_()
    assert torch.equal(net(x, t, r), out)
    assert not torch.allclose(other(x, t, r), out)
    out.square().mean().backward()
    assert all(p.grad is not None for p in net.interval.parameters())
    again = awake(TwoTimeDiffusers(make()))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x, t, r), out)


def test_classes_and_none_are_told_apart():
    pytest.importorskip("diffusers")
    x, t, r = points()
    for net in (TwoTimeDiffusers(tiny_unet(4)), TwoTimeDiffusers(tiny_dit())):
        nn.init.normal_(
            next(p for n, p in net.named_parameters() if "proj_out_1.weight" in n or "class_embedding" in n)
        )
        if hasattr(net.model, "proj_out_2"):
            nn.init.normal_(net.model.proj_out_2.weight)
        assert net.classes == net.null == 3
        none = net(x, t, r)
        assert torch.equal(none, net(x, t, r, torch.full((5,), 3)))
        assert not torch.allclose(none, net(x, t, r, torch.zeros(5, dtype=torch.long)))
    with pytest.raises(ValueError, match="without classes"):
        TwoTimeDiffusers(tiny_unet())(x, t, r, torch.zeros(5, dtype=torch.long))


def test_another_model_is_refused():
    with pytest.raises(TypeError, match="UNet2DModel"):
        TwoTimeDiffusers(nn.Linear(2, 2))


def test_the_perceptron_starts_at_zero_tells_times_and_classes_apart_and_treats_rows_alone():
    torch.manual_seed(0)
    net = TwoTimeMLP(3, 16, 2, classes=2)
    x, t = torch.randn(6, 3), torch.rand(6)
    assert torch.equal(net(x, t, t), torch.zeros(6, 3))
    nn.init.normal_(net.leave.weight)
    base = net(x, t, t)
    assert not torch.allclose(base, net(x, t, t / 2))
    assert not torch.allclose(base, net(x, t / 2, t / 2))
    assert torch.equal(base, net(x, t, t, torch.full((6,), net.null)))
    assert not torch.allclose(base, net(x, t, t, torch.zeros(6, dtype=torch.long)))
    assert torch.allclose(net(x[2:4], t[2:4], t[2:4]), base[2:4], atol=1e-6)
    assert smooth_features(t, 3).shape == (6, 7)
