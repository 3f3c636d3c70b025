import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from assay.methods.generation import _scoped_kernels as kernels
from assay.methods.generation.scoped_attention import (
    KV,
    MultiConditionDiT,
    Pattern,
    ScopeTracker,
    SensitivitySampler,
    cache_conditions,
    dense_reference,
    draw,
    keyword_relevance,
    pair_count,
    pka_attention,
    reference_mask,
    scope,
    scope_from_mask,
    window_index,
)
from assay.nn.dit import DiT
from assay.nn.flow import time_steps


def problem(seed, grid=(3, 4), words=3, conditions=2, subjects=2, m=5, batch=2, bias=False, present=False, **options):
    """Random tensors for every argument of `pka_attention`; scopes random, the last one empty."""
    g = torch.Generator().manual_seed(seed)
    n, heads, size = grid[0] * grid[1], 2, 6

    def tensor(count, rows=batch):
        return torch.randn(rows, heads, count, size, generator=g).requires_grad_()

    def kv(count):
        here = torch.rand(batch, generator=g) < 0.5 if present else None
        return KV(tensor(count), tensor(count), here, torch.randn((), generator=g).requires_grad_() if bias else None)

    scopes = [torch.rand(batch, n, generator=g) < 0.4 for _ in range(subjects)]
    if scopes:
        scopes[-1][0] = False
    return {
        "q": tensor(words + n), "k": tensor(words + n), "v": tensor(words + n),
        "image_slice": slice(words, words + n), "text_slice": slice(0, words),
        "conditions": [kv(n) for _ in range(conditions)], "grid": grid,
        "subjects": [kv(m) for _ in range(subjects)], "scopes": scopes, **options,
    }  # fmt: skip


def leaves(given):
    kvs = [*given["conditions"], *given["subjects"]]
    found = [given[name] for name in "qkv"] + [x for kv in kvs for x in (kv.k, kv.v, kv.bias) if x is not None]
    return found


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize(("bias", "present"), [(False, False), (True, False), (True, True)])
def test_merged_attention_and_its_gradients_equal_one_masked_softmax(window, bias, present):
    for seed, (conditions, subjects) in enumerate([(2, 2), (0, 1), (1, 0), (3, 1)]):
        given = problem(seed, window=window, conditions=conditions, subjects=subjects, bias=bias, present=present)
        ours, theirs = pka_attention(**given), dense_reference(**given)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(99))
        grads = [torch.autograd.grad((out * cotangent).sum(), leaves(given)) for out in (ours, theirs)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_fused_path_without_gradients_agrees_with_the_differentiable_one():
    given = problem(5, window=3, bias=True)
    with torch.no_grad():
        fused = pka_attention(**given)
    torch.testing.assert_close(fused, pka_attention(**given), atol=1e-5, rtol=1e-5)


def test_it_serves_where_the_fused_operators_are_missing(monkeypatch):
    given = problem(6)
    expected = pka_attention(**given)
    monkeypatch.setattr(kernels, "_fused", lambda q, k, v: None)
    with torch.no_grad():
        torch.testing.assert_close(pka_attention(**given), expected, atol=1e-5, rtol=1e-5)


def test_without_conditions_it_is_plain_attention_bit_for_bit():
    given = problem(1, conditions=0, subjects=0)
    plain = F.scaled_dot_product_attention(given["q"], given["k"], given["v"])
    assert torch.equal(pka_attention(**given), plain)


def test_full_windows_and_scopes_are_concatenation_seen_from_the_image():
    given = problem(2, grid=(3, 3), window=5)
    given["scopes"] = [torch.ones(9, dtype=torch.bool)] * 2
    keys = torch.cat([given["k"], *(kv.k for kv in (*given["conditions"], *given["subjects"]))], dim=2)
    values = torch.cat([given["v"], *(kv.v for kv in (*given["conditions"], *given["subjects"]))], dim=2)
    image = F.scaled_dot_product_attention(given["q"][:, :, 3:], keys, values)
    text = F.scaled_dot_product_attention(given["q"][:, :, :3], given["k"], given["v"])
    torch.testing.assert_close(pka_attention(**given), torch.cat([text, image], dim=2), atol=1e-5, rtol=1e-5)


def test_conditions_that_are_absent_change_nothing():
    given = problem(3)
    none = torch.zeros(2, dtype=torch.bool)
    for name in ("conditions", "subjects"):
        given[name] = [KV(kv.k, kv.v, none) for kv in given[name]]
    plain = F.scaled_dot_product_attention(given["q"], given["k"], given["v"])
    torch.testing.assert_close(pka_attention(**given), plain, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 3])
def test_a_condition_token_reaches_only_the_image_tokens_whose_window_holds_it(window):
    grid, changed = (4, 5), 7
    given = problem(4, grid=grid, window=window, subjects=0, batch=1)
    before = pka_attention(**given)
    kv = given["conditions"][0]
    k, v = kv.k.detach().clone(), kv.v.detach().clone()
    k[:, :, changed], v[:, :, changed] = 3.0, -2.0
    given["conditions"][0] = KV(k, v)
    moved = (pka_attention(**given) - before).abs().amax(dim=(0, 1, 3)) > 1e-6
    index, inside = window_index(grid, window)
    expected = ((index == changed) & inside).any(dim=1)
    assert torch.equal(moved[3:], expected)
    assert not moved[:3].any()


def test_the_order_of_conditions_and_subjects_does_not_matter():
    given = problem(7)
    expected = pka_attention(**given)
    given["conditions"] = given["conditions"][::-1]
    given["subjects"], given["scopes"] = given["subjects"][::-1], given["scopes"][::-1]
    torch.testing.assert_close(pka_attention(**given), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [1, 3])
def test_pairs_are_the_true_entries_of_the_mask(window):
    given = problem(8, batch=1, window=window)
    mask = reference_mask(**{k: v for k, v in given.items() if k not in "kv"})
    counted = pair_count(12, 3, 2, window, 2, 5, grid=(3, 4), scoped=[int(s.sum()) for s in given["scopes"]])
    assert counted["pka"] == int(mask.sum())
    assert counted["dense"] == (3 + 12 + 2 * 12 + 2 * 5) ** 2
    full = problem(8, batch=1, window=7)
    full["scopes"] = [torch.ones(12, dtype=torch.bool)] * 2
    assert counted["cached"] == int(reference_mask(**{k: v for k, v in full.items() if k not in "kv"}).sum())


def test_pairs_grow_linearly_with_conditions_and_quadratically_when_dense():
    counts = [pair_count(1024, 512, k, 1, 1, 1024) for k in range(7)]
    second = {
        name: [a[name] - 2 * b[name] + c[name] for a, b, c in zip(counts, counts[1:], counts[2:], strict=False)]
        for name in counts[0]
    }
    assert set(second["pka"]) == {0.0}
    assert set(second["dense"]) == {2 * 1024.0**2}
    assert counts[2]["dense"] / counts[2]["pka"] == pytest.approx(7.9, abs=0.05)
    assert counts[4]["dense"] / counts[4]["pka"] == pytest.approx(16.5, abs=0.1)


def test_windows_are_the_cells_within_reach():
    index, inside = window_index((3, 4), 3)
    for cell, (row, column) in enumerate(itertools.product(range(3), range(4))):
        near = {r * 4 + c for r, c in itertools.product(range(3), range(4)) if max(abs(r - row), abs(c - column)) <= 1}
        assert set(index[cell][inside[cell]].tolist()) == near
        assert int(inside[cell].sum()) == len(near)


@pytest.mark.parametrize(("count", "grid"), [(12, (3, 4)), (90, (9, 10))])
def test_local_attention_is_windowed_whichever_way_it_is_computed(count, grid):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, count, 4, generator=g) for _ in range(3))
    index, inside = window_index(grid, 3)
    near = torch.zeros(count, count, dtype=torch.bool)
    for row, (cells, here) in enumerate(zip(index, inside, strict=True)):
        near[row, cells[here]] = True
    expected = (q @ k.transpose(-1, -2) / 2).masked_fill(~near, -math.inf).softmax(-1) @ v
    torch.testing.assert_close(kernels.local_attention(q, k, v, grid, 3), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 2}, "odd number"),
        ({"grid": (2, 4)}, "does not hold"),
        ({"grid": None}, "does not hold"),
        ({"scopes": []}, "0 scopes for 2 subjects"),
        ({"scopes": [torch.ones(5, dtype=torch.bool)] * 2}, "scope 0 has 5 entries"),
        ({"text_slice": slice(0, 2)}, "do not make up"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        pka_attention(**{**problem(0), **change})


def test_a_condition_on_another_grid_is_refused():
    given = problem(0)
    given["conditions"][1] = KV(torch.zeros(2, 2, 9, 6), torch.zeros(2, 2, 9, 6))
    with pytest.raises(ValueError, match="condition 1 has 9 tokens"):
        pka_attention(**given)


# Keywords and scopes


def test_relevance_is_the_share_of_text_attention_on_the_keyword():
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 3, 8, 4, generator=g), torch.randn(2, 3, 5, 4, generator=g)
    found = keyword_relevance(q, k, [(1, 3), (4, 5)])
    attention = (q @ k.transpose(-1, -2) / 2).softmax(-1).mean(1)
    torch.testing.assert_close(found[:, 0], attention[..., 1] + attention[..., 2])
    torch.testing.assert_close(found[:, 1], attention[..., 4])
    torch.testing.assert_close(keyword_relevance(q, k, [(0, 5)]), torch.ones(2, 1, 8))
    mask = torch.zeros(2, 1, 5, dtype=torch.bool)
    mask[0, 0, 0] = mask[1, 0, 2] = True
    torch.testing.assert_close(keyword_relevance(q, k, mask)[1, 0], attention[1, :, 2])


@pytest.mark.parametrize(
    ("span", "message"), [((2, 2), "empty keyword span"), ((3, 7), "outside the text"), ((-1, 2), "outside")]
)
def test_spans_that_do_not_fit_are_refused(span, message):
    with pytest.raises(ValueError, match=message):
        keyword_relevance(torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 5, 2), [span])


def test_scopes_have_their_size_are_nested_and_ignore_scale():
    relevance = torch.rand(2, 3, 20, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    last = torch.zeros(2, 3, 20, dtype=torch.bool)
    for rho in (0.0, 0.1, 0.33, 0.5, 1.0):
        seen = scope(relevance, (4, 5), rho, dilate=0)
        assert (seen.sum(-1) == math.ceil(rho * 20)).all()
        assert (seen | ~last).all()
        assert torch.equal(seen, scope(7 * relevance, (4, 5), rho, dilate=0))
        last = seen
    chosen = relevance[scope(relevance, (4, 5), 0.5, 0)].reshape(2, 3, 10)
    assert (chosen.min(-1).values >= relevance.median(-1).values).all()


def test_dilation_adds_the_neighbours_and_a_known_mask_gives_the_tokens_it_touches():
    relevance = torch.zeros(1, 1, 25)
    relevance[..., 12] = 1
    grown = scope(relevance, (5, 5), 0.04, 1).reshape(5, 5)
    assert grown[1:4, 1:4].all()
    assert grown.sum() == 9
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., 4, 5] = 1
    assert scope_from_mask(mask, (5, 5), 0).nonzero().tolist() == [[0, 0, 12]]
    with pytest.raises(ValueError, match="rho"):
        scope(relevance, (5, 5), 1.5)
    with pytest.raises(ValueError, match="does not hold"):
        scope(relevance, (4, 5))


def test_the_tracker_is_free_first_then_follows_the_averaged_maps():
    tracker = ScopeTracker((1, 4), rho=0.25, dilate=0, free_steps=2, ema=0.5)
    maps = [torch.tensor([[[1.0, 0, 0, 0]]]), torch.tensor([[[0, 0.8, 0, 0]]]), torch.tensor([[[0, 0.6, 0.5, 0]]])]
    for relevance in maps[:2]:
        assert tracker.current(1, 1).all()
        tracker.observe(relevance)
    assert tracker.current(1, 1).flatten().tolist() == [True, False, False, False]
    tracker.observe(maps[2])
    torch.testing.assert_close(tracker.relevance, 0.25 * maps[0] + 0.25 * maps[1] + 0.5 * maps[2])
    assert tracker.current(1, 1).flatten().tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match="free_steps 0"):
        ScopeTracker((1, 4), free_steps=0)


# Training times


def test_a_flat_sensitivity_and_no_mixing_are_uniform():
    assert torch.allclose(SensitivitySampler(bins=10).density(), torch.full((10,), 0.1))
    t, v = (torch.arange(40) + 0.5) / 40, torch.ones(40, 3)
    flat = SensitivitySampler(bins=10, mix=0.9)
    flat.update(t, v, 0.5 * v)
    torch.testing.assert_close(flat.density(), torch.full((10,), 0.1))
    unmixed = SensitivitySampler(bins=10, mix=0.0)
    unmixed.update(t, v, (1 - t[:, None]) * v)
    torch.testing.assert_close(unmixed.density(), torch.full((10,), 0.1))


def steep(**options):
    """Sensitivity t^2: the condition-free velocity is (1 - t) of the conditional one."""
    sampler = SensitivitySampler(bins=10, **options)
    t, v = (torch.arange(100) + 0.5) / 100, torch.ones(100, 2)
    sampler.update(t, v, (1 - t[:, None]) * v)
    return sampler


def test_density_follows_the_definition():
    sampler = steep(mix=0.8, power=0.5)
    t = (torch.arange(100) + 0.5) / 100
    expected_s = t.square().reshape(10, 10).mean(1)
    torch.testing.assert_close(sampler.sensitivity(), expected_s)
    root = expected_s.sqrt()
    torch.testing.assert_close(sampler.density(), 0.02 + 0.8 * root / root.sum())
    assert sampler.density().sum() == pytest.approx(1)


def test_draws_follow_the_density_and_are_uniform_inside_a_bin():
    sampler = steep()
    t = sampler.sample(20_000, torch.Generator().manual_seed(0))
    counts = torch.histc(t, 10, 0, 1)
    assert stats.chisquare(counts.numpy(), (20_000 * sampler.density()).double().numpy(), sum_check=False).pvalue > 1e-3
    inside = (t * 10) % 1
    assert stats.kstest(inside.numpy(), "uniform").pvalue > 1e-3


def test_correction_makes_the_weighted_mean_unbiased():
    sampler = steep(corrected=True)
    t = sampler.sample(50_000, torch.Generator().manual_seed(1))
    weight = sampler.weight(t)
    assert weight.mean() == pytest.approx(1, abs=0.02)
    assert (weight * t).mean() == pytest.approx(0.5, abs=0.01)
    assert t.mean() > 0.6
    assert (steep().weight(t) == 1).all()


def test_old_measurements_fade_and_unmeasured_bins_take_the_mean():
    sampler = SensitivitySampler(bins=2, decay=0.5)
    low, high = torch.tensor([0.2]), torch.tensor([0.7])
    one = torch.ones(1, 1)
    sampler.update(low, one, 0 * one)
    torch.testing.assert_close(sampler.sensitivity(), torch.tensor([1.0, 1.0]))
    for _ in range(30):
        sampler.update(low, one, 0.5 * one)
    sampler.update(high, one, one)
    torch.testing.assert_close(sampler.sensitivity(), torch.tensor([0.25, 0.0]), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="mix 1"):
        SensitivitySampler(mix=1.0)


# The model


@pytest.fixture
def base():
    torch.manual_seed(0)
    net = DiT(channels=3, patch=2, vocabulary=10, text_length=4, width=16, depth=3, heads=2, double=1)
    for parameter in net.parameters():
        if parameter.abs().sum() == 0:
            nn.init.normal_(parameter, std=0.2)
    return net


def inputs(batch=2):
    g = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(batch, 3, 8, 8, generator=g), "t": torch.rand(batch, generator=g),
        "text": torch.randint(10, (batch, 4), generator=g),
        "maps": [torch.randn(batch, 1, 8, 8, generator=g) for _ in range(2)],
        "thing": [torch.randn(batch, 3, 4, 4, generator=g)],
    }  # fmt: skip


PATTERNS = [
    Pattern(),
    Pattern(scoped=False),
    Pattern(aligned=False),
    Pattern(aligned=False, scoped=False),
    Pattern(window=3),
]


def trained(base, pattern):
    torch.manual_seed(3)
    model = MultiConditionDiT(base, (1, 1), 1, 4, pattern, (16, 16, 1))
    for parameter in model.trainable():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("pattern", PATTERNS)
def test_cached_and_uncached_runs_agree_at_every_time(base, pattern):
    given, model = inputs(), trained(base, pattern)
    contexts = model.contexts(given["maps"], given["thing"])
    cache = cache_conditions(model, contexts)
    scopes = torch.rand(2, 1, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    for t in (0.1, 0.9):
        time = torch.full((2,), t)
        ours = model(given["x"], time, given["text"], cache, scopes)[0]
        torch.testing.assert_close(ours, model(given["x"], time, given["text"], contexts, scopes)[0])


def test_keys_of_conditions_know_nothing_of_image_text_or_time(base):
    model = trained(base, Pattern())
    given = inputs()
    cache = cache_conditions(model, model.contexts(given["maps"], given["thing"]))
    alone = cache_conditions(model, model.contexts(given["maps"][:1]))
    for many, one in zip(cache.conditions, alone.conditions, strict=True):
        torch.testing.assert_close(many[0].k, one[0].k)
        torch.testing.assert_close(many[0].v, one[0].v)


def test_image_and_text_pass_the_base_weights_untouched(base):
    given = inputs()
    for pattern in (*PATTERNS, Pattern(False, False, False)):
        model = trained(base, pattern)
        absent = [torch.zeros(2, dtype=torch.bool)] * 3
        contexts = model.contexts(given["maps"], given["thing"], absent)
        scopes = torch.ones(2, 1, 16, dtype=torch.bool)
        got = model(given["x"], given["t"], given["text"], contexts, scopes)[0]
        torch.testing.assert_close(got, base(given["x"], given["t"], given["text"]), atol=1e-5, rtol=1e-4)


def test_a_fresh_lora_gives_the_keys_of_the_base_and_zero_values_leave_the_base_when_they_weigh_nothing(base):
    model = MultiConditionDiT(base, (1, 1), 1, 4)
    given = inputs()
    contexts = model.contexts(given["maps"], given["thing"])
    _q, k, v, modulation = model.blocks[0].project(contexts)
    stream = base.blocks[0].image
    torch.testing.assert_close(k, stream.project(contexts.tokens, modulation, contexts.rotary)[1])
    torch.testing.assert_close(v, stream.project(contexts.tokens, modulation, contexts.rotary)[2])
    for block in model.blocks:
        nn.init.constant_(block.bias, -60.0)
    scopes = torch.ones(2, 1, 16, dtype=torch.bool)
    got = model(given["x"], given["t"], given["text"], contexts, scopes)[0]
    torch.testing.assert_close(got, base(given["x"], given["t"], given["text"]), atol=1e-6, rtol=1e-5)


def test_only_lora_embedders_and_weights_train(base):
    model = trained(base, Pattern())
    given = inputs()
    contexts = model.contexts(given["maps"], given["thing"])
    scopes = torch.ones(2, 1, 16, dtype=torch.bool)
    model(given["x"], given["t"], given["text"], contexts, scopes)[0].square().sum().backward()
    assert all(p.grad is None for p in base.parameters())
    # The last block's condition tokens are not computed further, so its query and output changes stay out of it.
    idle = {f"blocks.2.change.{name}.{part}" for name in ("query", "out") for part in ("up", "down")}
    silent = {n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)}
    assert silent == idle


def test_concatenation_lets_conditions_see_the_image(base):
    model = trained(base, Pattern(False, False, False))
    given = inputs()
    contexts = model.contexts(given["maps"], given["thing"])
    state = base.begin(given["x"], given["t"], given["text"])
    moved = model.blocks[0].together(state, contexts)[1].tokens
    other = model.blocks[0].together(base.begin(given["x"] + 1, given["t"], given["text"]), contexts)[1].tokens
    assert not torch.allclose(moved, other)
    with pytest.raises(ValueError, match="look back"):
        model(given["x"], given["t"], given["text"], cache_conditions(trained(base, Pattern()), contexts))


def test_drawing_follows_its_scopes_and_repeats(base):
    model, given = trained(base, Pattern()), inputs()
    contexts = model.contexts(given["maps"], given["thing"])
    spans = [(1, 2)]

    def once(**options):
        tracker = ScopeTracker((4, 4), rho=0.25, dilate=0)
        return draw(model, given["x"], given["text"], contexts, time_steps(4), spans, tracker, **options)

    x, scopes = once()
    torch.testing.assert_close(x, once()[0], rtol=0, atol=0)
    assert scopes.shape == (2, 1, 16)
    assert (scopes.sum(-1) == 4).all()
    fixed = torch.zeros(2, 1, 16, dtype=torch.bool)
    assert not torch.allclose(x, draw(model, given["x"], given["text"], contexts, time_steps(4), scopes=fixed)[0])
    nothing = torch.zeros(2, 4, dtype=torch.long)
    assert not torch.allclose(x, once(guidance=3.0, null_text=nothing)[0])
    with pytest.raises(ValueError, match="null_text"):
        once(guidance=2.0)
    with pytest.raises(ValueError, match="ScopeTracker"):
        draw(model, given["x"], given["text"], contexts, time_steps(4))


def test_guidance_combines_the_two_velocities(base):
    model, given = trained(base, Pattern(scoped=False)), inputs()
    contexts, nothing = model.contexts(given["maps"]), torch.zeros(2, 4, dtype=torch.long)
    x, _ = draw(model, given["x"], given["text"], contexts, torch.tensor([1.0, 0.0]), guidance=2.0, null_text=nothing)
    one = torch.ones(2)
    with_text, free = (model(given["x"], one, words, contexts)[0] for words in (given["text"], nothing))
    torch.testing.assert_close(x, given["x"] - (2 * with_text - free))


def test_more_conditions_than_the_model_has_are_refused(base):
    model, given = trained(base, Pattern()), inputs()
    with pytest.raises(ValueError, match="3 conditions and 0 subjects"):
        model.contexts([*given["maps"], given["maps"][0]])
    with pytest.raises(ValueError, match="0 conditions and 2 subjects"):
        model.contexts([], given["thing"] * 2)
    with pytest.raises(ValueError, match="2 weights for 2 conditions and 1 subjects"):
        MultiConditionDiT(base, weights=(1, 1))
    with pytest.raises(ValueError, match="no condition"):
        model.contexts([])
