"""The causal language model against a plain reading of its formula, and what it must not see."""

import math

import pytest

torch = pytest.importorskip("torch")

from assay.nn.causal_lm import CausalLM, load_causal_lm  # noqa: E402
from assay.nn.rope import rotary_angles, rotate  # noqa: E402


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CausalLM(vocabulary=20, width=16, depth=2, heads=2, longest=32, feature_width=5).double().eval()


def by_hand(model, h):
    """The formula with loops over heads, one sequence (T, D)."""
    length, heads = len(h), model.options.heads
    size = h.shape[1] // heads
    rotary = rotary_angles(torch.arange(length)[:, None], size, model.options.rotary_base)
    for block in model.blocks:
        x = block.norm1(h)
        q, k, v = (x @ block.attention_in.weight.T + block.attention_in.bias).chunk(3, -1)
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            score = rotate(q[:, part], rotary) @ rotate(k[:, part], rotary).T / math.sqrt(size)
            score = score.masked_fill(torch.ones_like(score).triu(1).bool(), -math.inf)
            mixed.append(score.softmax(-1) @ v[:, part])
        h = h + block.attention_out(torch.cat(mixed, -1))
        h = h + block.mlp(block.norm2(h))
    return model.norm(h) @ model.token.weight.T + model.out.bias


def test_logits_are_those_of_the_formula(model):
    tokens = torch.randint(20, (2, 9))
    features, at = torch.randn(2, 9, 5, dtype=torch.double), torch.rand(2, 9) < 0.4
    found = model(tokens, features, at)
    for row in range(2):
        h = model.token(tokens[row]) * 4
        h = torch.where(at[row, :, None], model.project(features[row]), h)
        torch.testing.assert_close(found[row], by_hand(model, h))


def test_the_future_is_not_seen_and_gradients_reach_what_is_injected(model):
    tokens = torch.randint(20, (1, 8))
    vectors = torch.randn(1, 8, 16, dtype=torch.double, requires_grad=True)
    at = torch.tensor([[0, 0, 0, 1, 0, 1, 0, 0]]).bool()
    logits = model(tokens, vectors, at)
    (slope,) = torch.autograd.grad(logits[0, 4].sum(), vectors)
    assert slope[0, 3].abs().sum() > 0
    assert slope[0, 5].abs().sum() == 0
    changed = tokens.clone()
    changed[0, 3] = (tokens[0, 3] + 1) % 20
    torch.testing.assert_close(model(changed, vectors, at), logits)


@pytest.mark.parametrize("where", [0, 3, 9])
def test_padding_changes_nothing_wherever_it_lies(model, where):
    tokens = torch.randint(20, (1, 9))
    padded = torch.cat([tokens[:, :where], torch.zeros(1, 4, dtype=torch.long), tokens[:, where:]], 1)
    padding = torch.zeros(1, 13, dtype=torch.bool)
    padding[:, where : where + 4] = True
    torch.testing.assert_close(model(padded, padding=padding)[~padding], model(tokens)[0])


def test_generation_follows_the_model_and_its_generator(model):
    prompt = torch.randint(20, (3, 4))
    greedy = model.generate(prompt, 5, temperature=0)
    logits = model(torch.cat([prompt, greedy], 1))
    assert torch.equal(logits[:, 3:-1].argmax(-1), greedy)
    first = model.generate(prompt, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, model.generate(prompt, 5, generator=torch.Generator().manual_seed(1)))
    many = model.generate(prompt[:1].expand(4000, -1), 1, generator=torch.Generator().manual_seed(2))
    share = torch.bincount(many[:, 0], minlength=20) / 4000
    torch.testing.assert_close(share.double(), model(prompt[:1])[0, -1].softmax(-1), atol=0.03, rtol=0)


def test_generation_keeps_to_what_is_allowed_and_stops(model):
    prompt = torch.randint(20, (50, 4))
    codes = torch.arange(20) >= 15
    made = model.generate(prompt, 6, allowed=codes, generator=torch.Generator().manual_seed(0))
    assert (made >= 15).all()
    ended = model.generate(prompt, 12, stop=3, top_k=4, generator=torch.Generator().manual_seed(0))
    for row in ended.tolist():
        assert 3 not in row or set(row[row.index(3) :]) == {3}
    with pytest.raises(ValueError, match="allowed"):
        model.generate(prompt, 2, allowed=torch.zeros(20, dtype=torch.bool))


def test_saved_and_read_back(model, tmp_path):
    model.float().save(tmp_path / "lm")
    again = load_causal_lm(tmp_path / "lm")
    tokens = torch.randint(20, (1, 6))
    assert torch.equal(again(tokens), model(tokens))
    assert again.out.weight is again.token.weight
    (tmp_path / "lm" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="no causal language model"):
        load_causal_lm(tmp_path / "lm")


def test_bad_arguments_are_named(model):
    with pytest.raises(ValueError, match="multiple"):
        CausalLM(width=10, heads=4)
    with pytest.raises(ValueError, match="32"):
        model(torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(ValueError, match="together"):
        model(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, 16))
    with pytest.raises(ValueError, match="expected"):
        model(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, 7).double(), torch.ones(1, 3, dtype=torch.bool))
