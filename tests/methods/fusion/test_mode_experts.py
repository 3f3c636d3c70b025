"""Mode experts against a slow writing-out of the formulas, their limits, and the faults of the public code."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from assay.methods.fusion._mode_fit import Fit, fit, outputs
from assay.methods.fusion.mode_experts import (
    MEOut,
    ModeExperts,
    cauchy_loss,
    freeze_experts,
    mode_loss,
    npair_loss,
    published_contrast,
)
from assay.nn.grouped import GroupedLayer, GroupedLinear, sinusoids

DIMS = {"drug": 5, "disease": 7, "criteria": 6}
PARTS = {"criteria": ("inclusion", "exclusion")}
LENGTHS = {"drug": (3, 5), "disease": (2, 7), "inclusion": (4, 6), "exclusion": (2, 6)}


def batch(rows: int = 6, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    tokens = {k: torch.randn(rows, length, width, generator=g) for k, (length, width) in LENGTHS.items()}
    pad = {k: torch.rand(rows, length, generator=g) < 0.4 for k, (length, _) in LENGTHS.items()}
    for mask in pad.values():
        mask[:, 0] = False
    return tokens, pad


def model(seed: int = 0, **more) -> ModeExperts:
    torch.manual_seed(seed)
    more = {"e": 8, "parts": PARTS, **more}
    return ModeExperts(DIMS, **more).eval()


def one(linear: GroupedLinear, g: int, x: Tensor) -> Tensor:
    return x @ linear.weight[g] + linear.bias[g, 0]


def one_layer(layer: GroupedLayer, g: int, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
    """A transformer layer of one row without padding: x (L, E) looks at the tokens of memory (S, E) that are seen."""
    mixed = torch.zeros_like(x)
    if seen.any():
        keys, values = one(layer.attention.key_value, g, memory[seen]).chunk(2, -1)
        heads = zip(
            *(t.chunk(layer.attention.heads, -1) for t in (one(layer.attention.query, g, x), keys, values)), strict=True
        )
        mixed = torch.cat([(q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v for q, k, v in heads], -1)
        mixed = one(layer.attention.out, g, mixed)
    y = F.layer_norm(x + mixed, x.shape[-1:])
    return F.layer_norm(y + one(layer.down, g, one(layer.up, g, y).relu()), x.shape[-1:])


def written_out(m: ModeExperts, tokens: dict[str, Tensor], pad: dict[str, Tensor], row: int) -> float:
    """The logit of one row, mode by mode and pair by pair."""
    part_state, state, seen = {}, {}, {}
    for g, mode in enumerate(m.modes):
        for part in m.parts[mode]:
            x = m.project[mode](tokens[part][row]) + sinusoids(tokens[part].shape[1], m.e)
            for layer in m.mode_layers:
                x = one_layer(layer, g, x, x, ~pad[part][row])
            part_state[part] = x
        state[mode] = torch.cat([part_state[p] for p in m.parts[mode]])
        seen[mode] = torch.cat([~pad[p][row] for p in m.parts[mode]])
    slots, kept = [], []
    for g, (a, b) in enumerate(m.pairs):
        p = torch.cat([
            torch.sigmoid(
                one(m.routers.down, r, one(m.routers.up, r, part_state[part]).relu())
                + one(m.routers.shortcut, r, part_state[part])
            )[:, 0]
            for r, (part, pair) in enumerate(m.routes) if pair == (a, b)
        ])  # fmt: skip
        q = p[:, None] * state[a]
        for layer in m.experts:
            q = one_layer(layer, g, q, state[b], seen[b])
        slots.append(q)
        kept.append(seen[a] & (p >= m.theta))
    x, kept = torch.cat(slots), torch.cat(kept)
    x = x + sinusoids(len(x), m.e)
    for layer in m.compensation:
        x = one_layer(layer, 0, x, x, kept)
    return m.head((x * kept[:, None]).sum(0) / max(int(kept.sum()), 1)).item()


def test_the_batched_model_is_the_written_out_one() -> None:
    m, (tokens, pad) = model(theta=0.5), batch()
    pad["drug"][2] = True  # a mode without tokens
    got = m(tokens, pad)
    assert_close(got.logit, torch.tensor([written_out(m, tokens, pad, i) for i in range(6)]), atol=1e-5, rtol=1e-4)
    assert 0 < sum(k.sum() for k in got.keep.values()) < sum(r.sum() * 2 for r in got.real.values())


def test_every_expert_router_and_layer_is_among_the_parameters() -> None:
    """The public code keeps them in dictionaries, so that they are never trained."""
    e, layers, modes = 8, 2, 3
    attention = 4 * e * e + 4 * e
    layer = attention + 4 * e + 2 * e * (e // 2) + e // 2 + e
    router = e * 4 + 4 + 4 + 1 + e + 1
    project = sum((d * h + h) + (h * e + e) + (d * e + e) for d in DIMS.values() for h in [(d + e) // 2])
    head = e * 4 + 4 + 4 + 1 + e + 1
    routers = modes * (modes - 1) + 2  # criteria come in two parts
    expected = project + layers * layer * (modes + modes * (modes - 1) + 1) + routers * router + head
    assert sum(p.numel() for p in model(e=e).parameters()) == expected


def test_the_loss_reaches_every_expert_router_and_mode() -> None:
    m, (tokens, pad) = model(theta=0.1), batch(16)
    mode_loss(m(tokens, pad), torch.arange(16) % 2).backward()
    for name, parameter in m.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        if name.startswith(("mode_layers", "routers", "experts")) and "key_value.bias" not in name:
            assert (gradient.flatten(1).abs().sum(1) > 0).all(), name  # group by group


def test_frozen_experts_stay_as_drawn_as_in_the_public_code() -> None:
    m, (tokens, pad) = freeze_experts(model()), batch(16)
    before = {k: v.clone() for k, v in m.state_dict().items()}
    fit(m, tokens, pad, (torch.arange(16) % 2).float(), Fit(epochs=2, batch=8), torch.Generator().manual_seed(0))
    for name, value in m.state_dict().items():
        frozen = name.startswith(("mode_layers", "routers", "experts"))
        assert torch.equal(value, before[name]) == frozen, name


def test_cauchy_loss() -> None:
    assert cauchy_loss(torch.zeros(3)) == 0
    p = torch.linspace(0, 1, 201, dtype=torch.float64, requires_grad=True)
    eps = 0.25
    value = torch.log1p((p / eps) ** 2)
    assert_close(cauchy_loss(p, eps), value.mean())
    (gradient,) = torch.autograd.grad(cauchy_loss(p, eps) * len(p), p)
    assert_close(gradient, (2 * p / (eps**2 + p**2)).detach())
    assert p[gradient.argmax()].item() == pytest.approx(eps)
    assert (value.diff() > 0).all()
    small = torch.tensor([1e-3], dtype=torch.float64)
    assert cauchy_loss(small, eps).item() == pytest.approx((1e-3 / eps) ** 2, rel=1e-4)
    counts = torch.tensor([True, False])
    assert cauchy_loss(torch.tensor([0.5, 0.9]), eps, counts) == cauchy_loss(torch.tensor([0.5]), eps)
    assert cauchy_loss(torch.tensor([0.5]), eps, torch.tensor([False])) == 0
    with pytest.raises(ValueError, match="eps"):
        cauchy_loss(p, 0.0)


def test_theta_zero_keeps_all_and_theta_near_one_drops_all() -> None:
    tokens, pad = batch()
    out = model(theta=0.0)(tokens, pad)
    assert all(torch.equal(kept, out.real[x]) for (x, _), kept in out.keep.items())
    none = model(theta=0.9999)
    out = none(tokens, pad)
    assert not any(kept.any() for kept in out.keep.values())
    assert_close(out.logit, none.head(torch.zeros(8)).expand(6))
    loss = mode_loss(out, torch.ones(6))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in none.parameters() if p.grad is not None)


def test_without_positions_the_order_of_tokens_has_no_effect() -> None:
    tokens, pad = batch()
    order = {k: torch.randperm(v.shape[1], generator=torch.Generator().manual_seed(1)) for k, v in tokens.items()}
    mixed = {k: v[:, order[k]] for k, v in tokens.items()}, {k: v[:, order[k]] for k, v in pad.items()}
    without, with_positions = model(positions=False), model()
    assert_close(without(tokens, pad).logit, without(*mixed).logit, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(with_positions(tokens, pad).logit, with_positions(*mixed).logit, atol=1e-5)


def test_padding_has_no_effect_whatever_stands_in_it() -> None:
    m, (tokens, pad) = model(positions=False), batch()
    want = m(tokens, pad)
    y = torch.arange(6) % 2
    more = dict(tokens), dict(pad)
    more[0]["drug"] = torch.cat([tokens["drug"], torch.full((6, 2, 5), torch.nan)], 1)
    more[1]["drug"] = torch.cat([pad["drug"], torch.ones(6, 2, dtype=torch.bool)], 1)
    got = m(*more)
    assert_close(got.logit, want.logit, atol=1e-5, rtol=1e-4)
    assert_close(mode_loss(got, y), mode_loss(want, y), atol=1e-5, rtol=1e-4)


def test_a_token_that_comes_again_changes_nothing_for_those_who_look_at_it() -> None:
    m, (tokens, pad) = model(theta=0.0, positions=False), batch()
    tokens["drug"], pad["drug"] = tokens["drug"][:, :1], pad["drug"][:, :1]
    again = {**tokens, "drug": tokens["drug"].repeat(1, 4, 1)}, {**pad, "drug": pad["drug"].repeat(1, 4)}
    a, b = m(tokens, pad), m(*again)
    for pair in [("disease", "drug"), ("criteria", "drug"), ("disease", "criteria")]:
        assert_close(a.experts[pair], b.experts[pair], atol=1e-5, rtol=1e-4)


def z_and_keep(seed: int = 0) -> tuple[dict, dict]:
    g = torch.Generator().manual_seed(seed)
    pairs = list(permutations("isc", 2))
    size = {"i": 3, "s": 4, "c": 5}
    return (
        {p: torch.randn(4, size[p[0]], 8, generator=g) for p in pairs},
        {p: torch.ones(4, size[p[0]], dtype=torch.bool) for p in pairs},
    )


def test_npair_loss_asks_directions_to_agree_and_pairs_to_differ() -> None:
    z, keep = z_and_keep()
    base = npair_loss(z, keep)
    shuffled = dict(sorted(z.items(), reverse=True))
    assert_close(npair_loss(shuffled, keep), base)
    same = dict(z)
    for a, b in [("i", "s"), ("i", "c"), ("s", "c")]:
        same[b, a] = z[a, b].mean(1, keepdim=True).expand_as(z[b, a])
    assert npair_loss(same, keep) < base
    alike = {p: torch.ones_like(x) for p, x in z.items()}
    assert npair_loss(alike, keep).item() == pytest.approx(
        float(torch.tensor(5.0).log())
    )  # one positive, four negatives
    two = {p: z[p] for p in [("i", "s"), ("s", "i")]}
    assert npair_loss(two, keep) == 0
    nothing = {p: torch.zeros_like(k) for p, k in keep.items()}
    assert npair_loss(z, nothing) == 0
    with pytest.raises(ValueError, match="tau"):
        npair_loss(z, keep, 0.0)


def test_the_published_contrast_does_not_contrast() -> None:
    """Positives and negatives enter alike: where they change places the value stays, while the real contrast moves."""
    z, keep = z_and_keep()
    ones = {p: torch.ones(4, 3, 8) for p in z}
    alike = {p: torch.ones(4, 3, dtype=torch.bool) for p in z}
    towards, away = dict(ones), dict(ones)
    away |= {p: -ones[p] for p in [("s", "i"), ("c", "i"), ("c", "s")]}  # each pair's directions are opposed
    gap = published_contrast(away, alike) - published_contrast(towards, alike)
    assert gap.abs() < 1e-5
    assert npair_loss(away, alike) > npair_loss(towards, alike) + 1
    g = torch.Generator().manual_seed(0)
    assert torch.isfinite(published_contrast(z, keep, generator=g))


def test_class_weight_rebalances_and_is_no_constant_factor() -> None:
    """The public code hands its class ratio to `weight`, which scales both classes alike."""
    logit = torch.tensor([0.3, -0.2, 0.9, 0.1], requires_grad=True)
    y = torch.tensor([1.0, 0.0, 0.0, 0.0])
    out = MEOut(logit, {}, {}, {}, {})
    (balanced,) = torch.autograd.grad(mode_loss(out, y, pos_weight=3.0), logit)
    (plain,) = torch.autograd.grad(mode_loss(out, y), logit)
    assert_close(balanced[0], 3 * plain[0])
    assert_close(balanced[1:], plain[1:])
    assert_close(
        mode_loss(out, y, pos_weight=3.0), F.binary_cross_entropy_with_logits(logit, y, pos_weight=torch.tensor(3.0))
    )


def test_no_pairs_is_self_attention_only_and_sum_differs_from_mean() -> None:
    tokens, pad = batch()
    alone = model(pairs=())
    out = alone(tokens, pad)
    assert out.probs == {}
    assert torch.isfinite(out.logit).all()
    assert not any(name.startswith(("routers", "experts")) for name, _ in alone.named_parameters())
    assert not torch.allclose(model(reduce="sum")(tokens, pad).logit, model(reduce="mean")(tokens, pad).logit)


def test_two_and_four_modes() -> None:
    torch.manual_seed(0)
    for count in (2, 4):
        names = [f"m{i}" for i in range(count)]
        m = ModeExperts(dict.fromkeys(names, 3), e=4, layers=1)
        out = m({n: torch.randn(2, 3, 3) for n in names}, {n: torch.zeros(2, 3, dtype=torch.bool) for n in names})
        assert len(out.probs) == count * (count - 1)


def test_training_finds_what_only_two_modes_together_tell() -> None:
    g = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (256, 2), generator=g) * 2.0 - 1
    tokens = {"a": signs[:, :1, None].repeat(1, 1, 3), "b": signs[:, 1:, None].repeat(1, 1, 3)}
    pad = {"a": torch.zeros(256, 1, dtype=torch.bool), "b": torch.zeros(256, 1, dtype=torch.bool)}
    y = (signs.prod(1) > 0).float()
    torch.manual_seed(0)
    m = ModeExperts({"a": 3, "b": 3}, e=8, layers=1, theta=0.0)
    epochs: list[int] = []
    fit(m, tokens, pad, y, Fit(epochs=25, lr=2e-2), g, lambda epoch, _: epochs.append(epoch))
    assert ((outputs(m, tokens, pad, batch=100).logit > 0) == (y > 0)).float().mean() > 0.95
    assert epochs == list(range(25))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"theta": 1.0}, "theta"),
        ({"theta": -0.1}, "theta"),
        ({"pairs": [("drug", "drug")]}, "pairs"),
        ({"pairs": [("drug", "gene")]}, "pairs"),
        ({"reduce": "max"}, "reduce"),
        ({"parts": {"gene": ("a",)}}, "parts"),
    ],
)
def test_bad_settings(more: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        model(**more)


def test_bad_batches() -> None:
    m, (tokens, pad) = model(), batch()
    with pytest.raises(ValueError, match="two modes"):
        ModeExperts({"a": 3})
    with pytest.raises(ValueError, match="no tokens"):
        m({k: v for k, v in tokens.items() if k != "drug"}, pad)
    with pytest.raises(ValueError, match="expected"):
        m(tokens, {**pad, "drug": pad["drug"][:, :1]})
    with pytest.raises(ValueError, match="1 rows have no token"):
        m(tokens, {k: v | (torch.arange(6) == 3)[:, None] for k, v in pad.items()})
    with pytest.raises(ValueError, match="both outcomes"):
        fit(m, tokens, pad, torch.ones(6), Fit(), torch.Generator())
