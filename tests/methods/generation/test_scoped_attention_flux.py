import pytest
import torch
from torch import nn

from assay.methods.generation._scoped_flux import FluxCondition, appended, flux_attentions, pka_processors
from assay.methods.generation.scoped_attention import (
    FluxConditionLoRA,
    FluxConditions,
    PkaFluxAttnProcessor,
    ScopeTracker,
    cache_flux_conditions,
)

diffusers = pytest.importorskip("diffusers")

GRID, TEXT = (3, 4), 5


def positions(grid, aside=0):
    ids = torch.zeros(grid[0] * grid[1], 3)
    ids[:, 1] = torch.arange(grid[0]).repeat_interleave(grid[1])
    ids[:, 2] = torch.arange(grid[1]).repeat(grid[0]) + aside
    return ids


@pytest.fixture(params=[False, True], ids=["plain", "guided"])
def transformer(request):
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=12, pooled_projection_dim=6, axes_dims_rope=(4, 4, 8), guidance_embeds=request.param,
    ).requires_grad_(False).eval()  # fmt: skip


def inputs(transformer, t=0.4):
    g = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 12, 8, generator=g), "timestep": torch.tensor([t]),
        "guidance": torch.ones(1) if transformer.config.guidance_embeds else None,
        "pooled_projections": torch.randn(1, 6, generator=g),
        "encoder_hidden_states": torch.randn(1, TEXT, 12, generator=g),
        "txt_ids": torch.zeros(TEXT, 3), "img_ids": positions(GRID), "return_dict": False,
    }  # fmt: skip


def conditions():
    g = torch.Generator().manual_seed(2)
    return [
        FluxCondition("edges", torch.randn(1, 12, 8, generator=g), positions(GRID), GRID),
        FluxCondition("subject", torch.randn(1, 4, 8, generator=g), positions((2, 2), 4), (2, 2), False),
    ]


def trained(transformer, std=0.3):
    torch.manual_seed(3)
    lora = FluxConditionLoRA(transformer, ("edges", "subject"), rank=2)
    for parameter in lora.parameters():
        nn.init.normal_(parameter, std=std)
    return lora


def ready(transformer, lora, **options):
    near, scoped = cache_flux_conditions(transformer, lora, conditions())
    return FluxConditions(TEXT, GRID, near, scoped, **options)


def test_without_conditions_it_is_the_processor_of_diffusers(transformer):
    expected = transformer(**inputs(transformer))[0]
    before = [attn.processor for attn in flux_attentions(transformer)]
    with pka_processors(transformer, FluxConditions(TEXT, GRID)):
        got = transformer(**inputs(transformer))[0]
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert [attn.processor for attn in flux_attentions(transformer)] == before


def test_it_is_taken_by_set_attn_processor(transformer):
    names = list(transformer.attn_processors)
    shared = FluxConditions(TEXT, GRID)
    transformer.set_attn_processor({name: PkaFluxAttnProcessor(i, len(names), shared) for i, name in enumerate(names)})
    assert transformer(**inputs(transformer))[0].shape == (1, 12, 8)


def test_conditions_change_the_output_and_weigh_nothing_when_told_so(transformer):
    plain, lora = transformer(**inputs(transformer))[0], trained(transformer)
    with pka_processors(transformer, ready(transformer, lora)):
        assert not torch.allclose(transformer(**inputs(transformer))[0], plain, atol=1e-3)
    nn.init.constant_(lora.bias, -80.0)
    with pka_processors(transformer, ready(transformer, lora)):
        torch.testing.assert_close(transformer(**inputs(transformer))[0], plain, atol=1e-5, rtol=1e-4)


def test_keys_of_conditions_hold_for_every_time_and_do_not_see_one_another(transformer):
    lora = trained(transformer)
    near, scoped = cache_flux_conditions(transformer, lora, conditions())
    alone, _ = cache_flux_conditions(transformer, lora, conditions()[:1])
    assert len(near) == len(scoped) == 4
    for many, one in zip(near, alone, strict=True):
        torch.testing.assert_close(many[0].k, one[0].k)


def test_the_cached_pass_of_a_condition_is_the_transformers_own_pass_at_time_zero(transformer):
    """With a fresh LoRA, keys equal those of an image seen by the transformer alone: no text, t = 0, full attention."""
    lora, condition, seen = FluxConditionLoRA(transformer, ("edges",), 2), conditions()[0], []

    class Spy(PkaFluxAttnProcessor):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, *rest, **more):
            out = super().__call__(attn, hidden_states, encoder_hidden_states, *rest, **more)
            seen.append(attn.norm_k(attn.to_k(hidden_states).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)))
            return out

    shared = FluxConditions(0, GRID)
    for layer, attn in enumerate(flux_attentions(transformer)):
        attn.set_processor(Spy(layer, 4, shared))
    none = {**inputs(transformer, 0.0), "hidden_states": condition.latents, "pooled_projections": torch.zeros(1, 6)}
    none |= {"encoder_hidden_states": torch.zeros(1, 0, 12), "txt_ids": torch.zeros(0, 3)}
    if none["guidance"] is not None:
        none["guidance"] = torch.zeros(1)
    transformer(**none)
    from assay.nn.rope import rotate

    near, _ = cache_flux_conditions(transformer, lora, [condition], window=None)
    rotary = transformer.pos_embed(condition.ids)
    for layer in range(4):
        torch.testing.assert_close(near[layer][0].k, rotate(seen[layer], rotary), atol=1e-5, rtol=1e-4)


def test_windows_limit_what_an_image_token_sees(transformer):
    """One layer: after the first block only the token at the changed place differs."""
    lora, changed = trained(transformer), 7
    block = transformer.transformer_blocks[0]
    outputs = []
    for delta in (0.0, 5.0):
        shared = ready(transformer, lora, scopes=torch.zeros(1, 1, 12, dtype=torch.bool))
        shared.near[0][0].v[:, :, changed] += delta
        with pka_processors(transformer, shared):
            x = transformer.x_embedder(inputs(transformer)["hidden_states"])
            text = transformer.context_embedder(inputs(transformer)["encoder_hidden_states"])
            given = inputs(transformer)
            extra = () if given["guidance"] is None else (given["guidance"],)
            vector = transformer.time_text_embed(given["timestep"], *extra, given["pooled_projections"])
            rotary = transformer.pos_embed(torch.cat([given["txt_ids"], given["img_ids"]]))
            outputs.append(block(x, text, vector, rotary))
    moved = (outputs[1][1] - outputs[0][1]).abs().amax(-1)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [changed]
    torch.testing.assert_close(outputs[0][0], outputs[1][0])


def test_the_tracker_is_fed_once_a_step_and_its_scopes_are_used(transformer):
    lora, tracker = trained(transformer), ScopeTracker(GRID, rho=0.25, dilate=0, free_steps=1)
    shared = ready(transformer, lora, spans=[(1, 3)], tracker=tracker)
    with pka_processors(transformer, shared):
        first = transformer(**inputs(transformer))[0]
        assert shared.scopes.all()
        second = transformer(**inputs(transformer))[0]
    assert tracker.step == 2
    assert shared.scopes.sum() == 3
    assert not torch.allclose(first, second)
    fixed = ready(transformer, lora, scopes=shared.scopes)
    with pka_processors(transformer, fixed):
        torch.testing.assert_close(transformer(**inputs(transformer))[0], second)


def test_gradients_reach_every_part_of_the_lora(transformer):
    lora = trained(transformer)
    with pka_processors(transformer, ready(transformer, lora)):
        transformer(**inputs(transformer))[0].square().sum().backward()
    idle = {f"layers.3.{name}.{part}" for name in ("query", "out") for part in ("up", "down")}
    silent = {n for n, p in lora.named_parameters() if p.grad is None or p.grad.abs().sum() == 0}
    assert silent == idle


def test_appended_conditions_pass_with_the_lora_on_their_rows_only(transformer):
    given, condition = inputs(transformer), conditions()[0]
    longer = {
        **given, "hidden_states": torch.cat([given["hidden_states"], condition.latents], 1),
        "img_ids": torch.cat([given["img_ids"], condition.ids]),
    }  # fmt: skip
    plain = transformer(**longer)[0]
    for lora, same in ((FluxConditionLoRA(transformer, ("edges",), 2), True), (trained(transformer), False)):
        shared = FluxConditions(TEXT, GRID, extra=12, lora=lora)
        with pka_processors(transformer, shared), appended(transformer, lora, [condition]):
            got = transformer(**longer)[0]
        assert torch.allclose(got, plain, atol=1e-5) == same


def test_bad_input_is_refused(transformer):
    with pytest.raises(ValueError, match="no kinds"):
        FluxConditionLoRA(transformer, ())
    lora = FluxConditionLoRA(transformer, ("depth",))
    with pytest.raises(ValueError, match="trained for depth"):
        cache_flux_conditions(transformer, lora, conditions())
    with pka_processors(transformer, FluxConditions(TEXT, GRID)):
        attn = transformer.single_transformer_blocks[0].attn
        with pytest.raises(ValueError, match="no mask"):
            attn(torch.zeros(1, 4, 32), attention_mask=torch.ones(1, 4))
