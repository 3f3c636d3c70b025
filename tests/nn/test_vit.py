"""ViT against Hugging Face's classes, its steps, cut heads, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from assay.nn.vit import ViT, load_vit
from assay.nn.vit_weights import from_hugging_face

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": (16, 8), "patch_size": 4}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 16, 8, generator=torch.Generator().manual_seed(0))


def tiny(**changes) -> ViT:
    torch.manual_seed(0)
    return ViT(
        **{"image_size": (16, 8), "patch": 4, "width": 16, "depth": 2, "heads": 4, "classes": 5} | changes
    ).eval()


def theirs(name: str, **more) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, name.split("For")[0].removesuffix("Model") + "Config")
    shape = {"intermediate_size": 32}
    if name.startswith("Dinov2"):  # its position table is a square in transformers
        shape = {"mlp_ratio": 2, "image_size": 16}
    torch.manual_seed(0)
    model = getattr(transformers, name)(config(**SMALL | shape, num_labels=5, **more))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ViTForImageClassification", {}),
        ("ViTForImageClassification", {"qkv_bias": False}),
        ("DeiTForImageClassification", {}),
        ("DeiTForImageClassificationWithTeacher", {}),
        ("Dinov2ForImageClassification", {"layerscale_value": 0.5}),
    ],
)
def test_gives_the_logits_of_the_model_it_was_read_from(name: str, more: dict, images: Tensor) -> None:
    model = theirs(name, **more)
    if name.startswith("Dinov2"):
        images = images.repeat(1, 1, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(from_hugging_face(model)(images), model(images).logits, rtol=1e-4, atol=1e-5)


def test_gives_the_tokens_of_a_model_without_head(images: Tensor) -> None:
    model = theirs("Dinov2Model")
    images = images.repeat(1, 1, 1, 2)
    with torch.no_grad():
        found = from_hugging_face(model)(images, return_tokens=True).tokens
        torch.testing.assert_close(found, model(images).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_reads_the_names_of_transformers_4(images: Tensor) -> None:
    model = theirs("ViTForImageClassification")
    old = {}
    for name, value in model.state_dict().items():
        name = name.replace("vit.layers", "vit.encoder.layer").replace("mlp.fc1", "intermediate.dense")
        name = name.replace("mlp.fc2", "output.dense").replace("attention.o_proj", "attention.output.dense")
        for short, long in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            name = name.replace(f"attention.{short}", f"attention.attention.{long}")
        old[name] = value
    expected = from_hugging_face(model)
    model.state_dict = lambda: old
    for one, two in zip(from_hugging_face(model).parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, two)


def test_refuses_models_it_cannot_hold() -> None:
    with pytest.raises(ValueError, match="GELU"):
        from_hugging_face(theirs("ViTForImageClassification", hidden_act="relu"))
    with pytest.raises(ValueError, match="Linear"):
        from_hugging_face(nn.Linear(2, 2))


def test_attention_asked_for_changes_nothing_and_sums_to_one(images: Tensor) -> None:
    model = tiny(distillation=True, layer_scale=0.1)
    found = model(images, return_attention=True)
    torch.testing.assert_close(found.logits, model(images))
    assert [tuple(w.shape) for w in found.attention] == [(2, 4, 10, 10)] * 2
    torch.testing.assert_close(found.attention[1].sum(-1), torch.ones(2, 4, 10))


def test_heads_that_are_kept_do_what_they_did(images: Tensor) -> None:
    model = tiny()
    attention = model.blocks[0].attention
    tokens = model.embed(images)
    with torch.no_grad():
        attention.out.weight[:, 4:8] = 0  # head 1 no longer reaches the output
        attention.out.weight[:, 12:] = 0
    expected = attention(tokens)
    attention.keep_heads([2, 0])
    torch.testing.assert_close(attention(tokens), expected)
    assert attention.query.weight.shape == (8, 16)
    assert model(images).shape == (2, 5)
    for wrong in ([], [0, 0], [2]):
        with pytest.raises(ValueError, match="distinct"):
            attention.keep_heads(wrong)
    with pytest.raises(ValueError, match="cut"):
        model.save(Path("nowhere"))


def test_a_hook_sees_and_replaces_tokens(images: Tensor) -> None:
    model, seen = tiny(readout="mean"), []
    model(images, on_block=lambda i, tokens: seen.append((i, tokens.shape[1])))
    assert seen == [(0, 9), (1, 9)]
    fewer = model(images, on_block=lambda i, tokens: tokens[:, :5] if i == 0 else None, return_attention=True)
    assert fewer.attention[1].shape[-1] == 5
    steps = model.logits(model.encode(model.embed(images)))
    torch.testing.assert_close(model(images), steps)


def test_other_sizes_get_resampled_positions(images: Tensor) -> None:
    model = tiny()
    with torch.no_grad():
        model.positions[:, 1:] = torch.arange(4.0).repeat_interleave(2).view(1, 8, 1)
    grown = model.positions_for((8, 2))[0, 1:, 0].view(8, 2)
    assert (grown.diff(dim=0) > 0).all()
    torch.testing.assert_close(grown[:, 0], grown[:, 1])
    assert model(torch.zeros(1, 3, 32, 8)).shape == (1, 5)
    with pytest.raises(ValueError, match="multiples of the patch"):
        model(torch.zeros(1, 3, 30, 8))
    with pytest.raises(ValueError, match="no multiple"):
        tiny(image_size=(15, 8))
    with pytest.raises(ValueError, match="divide"):
        tiny(heads=3)


def test_a_saved_model_comes_back(tmp_path: Path, images: Tensor) -> None:
    model = tiny(distillation=True, readout="class+mean", layer_scale=0.1)
    model.save(tmp_path / "model")
    assert torch.equal(load_vit(tmp_path / "model")(images), model(images))
    file = tmp_path / "model" / "config.json"
    file.write_text(file.read_text().replace('"width": 16', '"width": 32'))
    with pytest.raises(ValueError, match="do not fit"):
        load_vit(tmp_path / "model")
    file.write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="does not describe"):
        load_vit(tmp_path / "model")
