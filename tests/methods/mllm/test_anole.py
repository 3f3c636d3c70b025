"""Chameleon and Anole checkpoints: a tiny one, random, saved as the published ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay.methods.mllm._picture_decoder import PictureDecoder
from assay.methods.mllm.visualization_of_thought import AnoleThinker, InterleavedContext, think, trace_samples

pytest.importorskip("transformers")
CODES, FIRST = 8, 40


def save_tiny(folder: Path, decoder: bool = True, seed: int = 0) -> Path:
    """A Chameleon model of 4 codes a picture, its word tokenizer, and Anole's picture decoder among the weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import ChameleonConfig, ChameleonForConditionalGeneration, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    vq = {"embed_dim": 4, "num_embeddings": CODES, "latent_channels": 4, "resolution": 4, "base_channels": 32,
          "channel_multiplier": [1, 1], "num_res_blocks": 1}  # fmt: skip
    words = ["<s>", "<pad>", "</s>", "<unk>", "<image>", "<racm3:break>", "<eoss>", "<reserved08706>", "where", "to",
             "right", "down", "left", "up", "the", "The", "answer", "is", "A", "B", "C", "."]  # fmt: skip
    words += [f"w{k}" for k in range(FIRST - len(words))]
    names = [f"IMGIMG{chr(ord('A') + code)}Z" for code in range(CODES)]
    vocabulary = {word: number for number, word in enumerate([*words, *names])}
    config = ChameleonConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, vq_config=vq, vocabulary_map=vocabulary, pad_token_id=1,
        bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    ChameleonForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    if decoder:
        file = folder / "model.safetensors"
        picture = PictureDecoder(config.vq_config)
        weights = load_file(file) | {f"model.vqmodel.decoder.{k}": v for k, v in picture.state_dict().items()}
        save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("anole"))


@pytest.fixture
def thinker(folder: Path) -> AnoleThinker:
    return AnoleThinker(folder, longest=6)


def pictures(count: int) -> Tensor:
    return torch.rand(count, 4, 4, 3, generator=torch.Generator().manual_seed(1))


def test_codes_are_those_of_transformers_and_are_decoded(thinker: AnoleThinker) -> None:
    assert (thinker.image_length, thinker.side) == (4, 4)
    codes = thinker.encode(pictures(3))
    pixels = (pictures(3) * 255 * 0.0078 - 1).permute(0, 3, 1, 2)
    assert torch.equal(thinker.image_ids[codes], thinker.model.get_image_tokens(pixels))
    back = thinker.decode(codes)
    assert back.shape == (3, 4, 4, 3)
    assert 0 <= float(back.min()) <= float(back.max()) <= 1
    assert float((back[0] - thinker.decode(torch.tensor([[7, 7, 7, 7]]))[0]).abs().max()) > 0
    with pytest.raises(ValueError, match="3 codes, expected 4"):
        thinker.decode(codes[:, :3])
    with pytest.raises(ValueError, match="expected"):
        thinker.encode(torch.zeros(1, 8, 8, 3))


def test_the_loss_is_on_the_target_only(thinker: AnoleThinker) -> None:
    frames = list(thinker.encode(pictures(3)))
    samples = trace_samples(frames, ["right", "down"], "B", "where to")
    draw = next(s for s in samples if s.kind == "visualise")
    ids, labels = thinker.labelled(draw)
    assert labels[0][labels[0] >= 0].tolist() == [5, *(FIRST + frames[1]).tolist(), 6]
    assert ids[0, :4].tolist() == [0, 8, 9, 5]
    says = thinker.labelled(samples[-1])[1][0]
    assert says[says >= 0].tolist() == [15, 16, 17, 19, 21, 2]
    plain, both = thinker.loss(draw, 0.0), thinker.loss(draw, 1.0)
    logits = thinker.logits(ids)[0][0, :-1]
    places = torch.nonzero(labels[0, 1:] >= FIRST)[:, 0]
    chance = logits[places][:, FIRST:].softmax(-1)
    expected = (thinker.distance[frames[1]] * chance).sum(1).mean()
    torch.testing.assert_close(both - plain, expected)
    text = samples[-1]
    torch.testing.assert_close(thinker.loss(text, 1.0), thinker.loss(text, 0.0))


def test_cached_steps_give_the_logits_of_the_whole(thinker: AnoleThinker) -> None:
    from transformers import DynamicCache

    ids = torch.tensor([[0, 8, 9, 5, 41, 42, 43, 44, 6, 10]])
    whole = thinker.logits(ids)[0]
    past = DynamicCache(config=thinker.model.config)
    first, past = thinker.logits(ids[:, :6], past)
    rest = [thinker.logits(ids[:, k : k + 1], past)[0] for k in range(6, 10)]
    torch.testing.assert_close(torch.cat([first, *rest], 1), whole, rtol=1e-4, atol=1e-5)


def test_pictures_are_made_where_the_model_opens_one(thinker: AnoleThinker) -> None:
    first = thinker.encode(pictures(1))[0]
    context = InterleavedContext(first, None, ["where to"])
    with torch.no_grad():
        thinker.model.lm_head.weight[:] = 0
    thinker.temperature = 0
    thinker._draw = opening(thinker, [5, 41, 43, 40, 47])
    segment = thinker.next_segment(context)
    assert segment.tolist() == [1, 3, 0, 7]
    thinker._draw = opening(thinker, [10, 11, 5])
    assert thinker.next_segment(context) == "right down"


def opening(thinker: AnoleThinker, numbers: list[int]) -> object:
    """Draws that are given, checked against what may be drawn at all."""
    said = list(numbers)

    def draw(logits: Tensor, text: bool, generator: torch.Generator | None) -> int:
        number = said.pop(0)
        assert (number < FIRST) == text
        return number

    return draw


def test_words_and_codes_are_never_mixed(folder: Path) -> None:
    thinker = AnoleThinker(folder, longest=6)
    logits = torch.zeros(FIRST + CODES)
    g = torch.Generator().manual_seed(0)
    words = {thinker._draw(logits, True, g) for _ in range(400)}
    codes = {thinker._draw(logits, False, g) for _ in range(100)}
    assert words == set(range(FIRST)) - {6}
    assert codes == set(range(FIRST, FIRST + CODES))
    trace = think(thinker, "where to", thinker.encode(pictures(1))[0], max_rounds=6, generator=g)
    again = think(thinker, "where to", thinker.encode(pictures(1))[0], max_rounds=6,
                  generator=torch.Generator().manual_seed(1))  # fmt: skip
    assert trace.rounds <= 6
    assert all(image.shape == (4,) for image in trace.images + again.images)


def test_fine_tuning_learns_a_trace_and_the_head_moves(folder: Path) -> None:
    pytest.importorskip("peft")
    thinker = AnoleThinker(folder)
    frames = list(thinker.encode(pictures(2)))
    samples = trace_samples(frames, ["right"], "B", "where to")
    head, query = thinker.model.lm_head.weight.clone(), thinker.model.model.layers[0].self_attn.q_proj.weight.clone()
    codebook = thinker.model.model.vqmodel.quantize.embedding.weight.clone()
    history = thinker.fine_tune(samples, epochs=40, rate=1e-2, dropout=0.0, generator=torch.Generator().manual_seed(0))
    assert history[-1] < 0.6 * history[0]
    assert not torch.equal(thinker.model.lm_head.weight, head)
    assert not torch.equal(thinker.model.model.layers[0].self_attn.q_proj.weight, query)
    assert torch.equal(thinker.model.model.vqmodel.quantize.embedding.weight, codebook)
    assert type(thinker.model).__name__ == "ChameleonForConditionalGeneration"
    thinker.temperature = 0
    segment = thinker.next_segment(InterleavedContext(frames[0], None, ["where to"]))
    assert segment == "right"


def test_what_is_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Chameleon checkpoint"):
        AnoleThinker(tmp_path)
    plain = AnoleThinker(save_tiny(tmp_path / "plain", decoder=False))
    with pytest.raises(ValueError, match="no picture decoder"):
        plain.decode(torch.zeros(1, 4, dtype=torch.long))
    broken = save_tiny(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.vqmodel.decoder.conv_in.weight"] = torch.zeros(1, 1, 3, 3)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="does not fit"):
        AnoleThinker(broken)
