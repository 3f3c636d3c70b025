"""Grouped layers against the same layers one by one, with torch's own attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from assay.nn.grouped import GroupedAttention, GroupedLayer, GroupedLinear, sinusoids


def plain_attention(grouped: GroupedAttention, g: int) -> nn.MultiheadAttention:
    """torch's attention with the weights of one group."""
    width = grouped.query.weight.shape[1]
    plain = nn.MultiheadAttention(width, grouped.heads, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(torch.cat([grouped.query.weight[g].T, grouped.key_value.weight[g].T]))
        plain.in_proj_bias.copy_(torch.cat([grouped.query.bias[g, 0], grouped.key_value.bias[g, 0]]))
        plain.out_proj.weight.copy_(grouped.out.weight[g].T)
        plain.out_proj.bias.copy_(grouped.out.bias[g, 0])
    return plain


def test_a_layer_is_what_torch_computes_group_by_group() -> None:
    torch.manual_seed(0)
    layer = GroupedLayer(3, 8, 2, 5)
    x, memory = torch.randn(3, 4, 6, 8), torch.randn(3, 4, 7, 8)
    hidden = torch.rand(3, 4, 7) < 0.5
    hidden[..., 0] = False
    got = layer(x, memory, hidden)
    for g in range(3):
        mixed = plain_attention(layer.attention, g)(x[g], memory[g], memory[g], key_padding_mask=hidden[g])[0]
        y = nn.functional.layer_norm(x[g] + mixed, (8,))
        z = (y @ layer.up.weight[g] + layer.up.bias[g]).relu() @ layer.down.weight[g] + layer.down.bias[g]
        assert_close(got[g], nn.functional.layer_norm(y + z, (8,)), atol=1e-5, rtol=1e-4)


def test_a_query_that_sees_nothing_gets_zero_and_no_nan() -> None:
    attention = GroupedAttention(1, 4, 1)
    x = torch.randn(1, 2, 3, 4, requires_grad=True)
    hidden = torch.tensor([[[True, True, True], [False, True, True]]])
    out = attention(x, x, hidden)
    assert (out[0, 0] == 0).all()
    assert (out[0, 1] != 0).any()
    out.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_groups_do_not_touch_each_other() -> None:
    linear = GroupedLinear(2, 3, 2)
    x = torch.randn(2, 5, 4, 3)
    assert_close(linear(x)[1], x[1] @ linear.weight[1] + linear.bias[1])
    linear(x)[0].sum().backward()
    assert linear.weight.grad is not None
    assert (linear.weight.grad[1] == 0).all()


def test_sinusoids() -> None:
    table = sinusoids(5, 3)
    t = torch.arange(5.0)
    assert_close(table[:, 0], t.sin())
    assert_close(table[:, 1], t.cos())
    assert table.shape == (5, 3)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple"):
        GroupedAttention(1, 6, 4)
