import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.nn.dit import DiT, DiTBlock, State, Stream, patchify, unpatchify


def small(**options):
    torch.manual_seed(0)
    net = DiT(channels=3, patch=2, vocabulary=10, text_length=4, width=16, depth=3, heads=2, **options)
    return net


def awake(net):
    """Zero-initialised layers drawn at random, so that every path carries signal."""
    for parameter in net.parameters():
        if parameter.abs().sum() == 0:
            nn.init.normal_(parameter, std=0.2)
    return net


def test_patches_are_cut_row_by_row_and_put_back():
    image = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    rows = patchify(image, 2)
    torch.testing.assert_close(rows[0, 1], image[0, :, 0:2, 2:4].flatten())
    torch.testing.assert_close(unpatchify(rows, 2, (2, 3)), image)
    with pytest.raises(ValueError, match="not a multiple"):
        patchify(image, 4)


@pytest.mark.parametrize("double", [0, 1, None])
def test_a_fresh_net_gives_zero_and_its_blocks_are_the_identity(double):
    net = small(double=double)
    x, t, words = torch.randn(2, 3, 6, 4), torch.rand(2), torch.randint(10, (2, 4))
    assert net(x, t, words).abs().max() == 0
    state = net.begin(x, t, words)
    for block in net.blocks:
        after = block(state)
        torch.testing.assert_close(after.image, state.image)
        torch.testing.assert_close(after.text, state.text)


def test_a_block_is_joint_attention_computed_by_hand():
    net = awake(small(double=1))
    x, t, words = torch.randn(1, 3, 4, 4), torch.rand(1), torch.randint(10, (1, 3))
    state = net.begin(x, t, words)
    for block in (net.blocks[0], net.blocks[1]):
        streams = [(block.text, state.text, None), (block.image, state.image, state.rotary)]
        q, k, v = [], [], []
        for stream, tokens, rotary in streams:
            m = stream.modulate(state.vector)
            parts = stream.project(tokens, m, rotary)
            for store, part in zip((q, k, v), parts, strict=True):
                store.append(part)
        scores = torch.cat(q, 2) @ torch.cat(k, 2).transpose(-1, -2) / 8**0.5
        out = scores.softmax(-1) @ torch.cat(v, 2)
        after = block(state)
        expected = block.image.finish(state.image, out[:, :, 3:], block.image.modulate(state.vector))
        torch.testing.assert_close(after.image, expected)


@pytest.mark.parametrize("double", [0, None])
def test_text_time_and_place_all_reach_the_output(double):
    net = awake(small(double=double))
    x, t, words = torch.randn(1, 3, 4, 4), torch.tensor([0.3]), torch.tensor([[1, 2, 3, 4]])
    base = net(x, t, words)
    assert not torch.allclose(base, net(x, torch.tensor([0.6]), words), atol=1e-4)
    assert not torch.allclose(base, net(x, t, torch.tensor([[1, 2, 3, 5]])), atol=1e-4)
    flipped = net(x.flip(-1), t, words).flip(-1)
    assert not torch.allclose(base, flipped, atol=1e-4)


def test_ready_text_tokens_serve_in_place_of_words():
    net = awake(small())
    x, t, words = torch.randn(2, 3, 4, 4), torch.rand(2), torch.randint(10, (2, 4))
    torch.testing.assert_close(net(x, t, net.read(words)), net(x, t, words))
    longer = torch.cat([net.read(words), torch.randn(2, 5, 16)], dim=1)
    assert net(x, t, longer).shape == x.shape
    assert torch.isfinite(net(x, t, torch.zeros(2, 0, 16))).all()


def test_every_parameter_gets_a_gradient():
    net = awake(small(double=2))
    net(torch.randn(2, 3, 4, 4), torch.rand(2), torch.randint(10, (2, 4))).square().sum().backward()
    last = {"blocks.2.image"}
    silent = [n for n, p in net.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not silent, (silent, last)


def test_another_attention_can_be_put_in():
    net = awake(small())
    state = net.begin(torch.randn(1, 3, 4, 4), torch.rand(1), torch.randint(10, (1, 4)))
    seen = []

    def attend(q, k, v):
        seen.append(q.shape)
        return F.scaled_dot_product_attention(q, k, v)

    torch.testing.assert_close(net.blocks[0](state, attend).image, net.blocks[0](state).image)
    assert seen == [(1, 2, 8, 8)]


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 3 heads"):
        Stream(16, 3)
    with pytest.raises(ValueError, match="caption of 5 words"):
        small()(torch.zeros(1, 3, 4, 4), torch.zeros(1), torch.zeros(1, 5, dtype=torch.long))
    assert isinstance(small().begin(torch.zeros(1, 3, 4, 4), torch.zeros(1), torch.zeros(1, 4).long()), State)
    assert isinstance(small().blocks[0], DiTBlock)
