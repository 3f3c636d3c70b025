"""Tokens of small transformers made on the spot, for every kind of model that is read."""

import pytest
import torch
import torch.nn.functional as F

from assay.errors import InputError
from assay.nn.token_extractor import MEAN, STD, TokenExtractor

transformers = pytest.importorskip("transformers")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def dinov2():
    config = transformers.Dinov2Config(**SMALL, image_size=28, patch_size=7)
    return transformers.Dinov2Model(config).eval()


def models():
    yield dinov2()
    yield transformers.ViTModel(transformers.ViTConfig(**SMALL, image_size=28, patch_size=7))
    if hasattr(transformers, "Dinov2WithRegistersModel"):
        config = transformers.Dinov2WithRegistersConfig(**SMALL, image_size=28, patch_size=7, num_register_tokens=3)
        yield transformers.Dinov2WithRegistersModel(config)
    if hasattr(transformers, "DINOv3ViTModel"):
        config = transformers.DINOv3ViTConfig(**SMALL, image_size=28, patch_size=7, num_register_tokens=2)
        yield transformers.DINOv3ViTModel(config)


def test_tokens_are_those_of_the_patches():
    model = dinov2()
    image = torch.rand(3, 28, 28)
    found = TokenExtractor(model, size=28)(image)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        hidden = model((image[None] - mean) / std).last_hidden_state
    torch.testing.assert_close(found.flatten(0, 1), F.normalize(hidden[0, 1:], dim=-1), atol=1e-5, rtol=1e-4)


def test_every_kind_of_model_and_both_features():
    image = torch.rand(3, 60, 90)
    for model in models():
        for features in ("last", "keys"):
            tokens = TokenExtractor(model, size=42, features=features)(image)
            assert tokens.shape == (4, 6, 16), type(model).__name__
            torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(4, 6))
    keys = TokenExtractor(dinov2(), size=42, features="keys")
    assert not keys._key_layer._forward_hooks
    assert keys(image[:1]).shape == (4, 6, 16)  # grey


def test_a_patch_moves_with_the_picture():
    model = dinov2()
    model.embeddings.position_embeddings.data.zero_()
    extractor = TokenExtractor(model, size=56)
    image = torch.rand(3, 56, 56)
    rolled = torch.roll(image, (14, 7), (1, 2))
    a, b = extractor(image), extractor(rolled)
    torch.testing.assert_close(torch.roll(a, (2, 1), (0, 1)), b, atol=1e-4, rtol=1e-3)


def test_folders_and_refusals(tmp_path):
    dinov2().save_pretrained(tmp_path / "model")
    assert TokenExtractor(tmp_path / "model", size=28)(torch.rand(3, 28, 28)).shape == (4, 4, 16)
    with pytest.raises(InputError, match="cannot load the model"):
        TokenExtractor(tmp_path / "nothing")
    with pytest.raises(InputError, match="4 patches"):
        TokenExtractor(tmp_path / "model", size=20)
    bert = transformers.BertModel(transformers.BertConfig(**SMALL, vocab_size=10))
    with pytest.raises(InputError, match="vision transformer"):
        TokenExtractor(bert)
