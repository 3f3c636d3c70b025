"""A real model: a tiny transformer saved by the test, run here and behind a server on loopback."""

from __future__ import annotations

import math
import string

import pytest
from pydantic import BaseModel

from assay.errors import InputError
from assay.llm.cache import Cache
from assay.llm.client import Client
from assay.llm.messages import user
from assay.llm.model import LLMError
from assay.llm.schema import AnswerError
from assay.llm.testing import answers_of, serve
from assay.net import Patience
from assay.papers.digests.entry import Entry
from assay.papers.summaries import summarise

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from assay.llm.local import Local  # noqa: E402


class Word(BaseModel):
    """A schema no untrained model fills."""

    word: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A one-layer Llama over characters with random weights, saved with its tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    characters = ["<pad>", "<eos>", "<unk>", *string.printable]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(characters), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    fast.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def local(folder):
    return Local(folder, device="cpu", max_new_tokens=8)


def test_greedy_answers_are_the_same_each_time(local):
    first = local.chat([user("hello")], max_tokens=6)
    assert first.text == local.chat([user("hello")], max_tokens=6).text
    assert first.reply.completion_tokens == 6
    assert first.reply.finish == "length"


def test_sampling_follows_seed_and_sample(local):
    texts = {s: local.chat([user("x")], temperature=2.0, sample=s).text for s in range(4)}
    assert len(set(texts.values())) > 1
    state = torch.random.get_rng_state()
    assert local.chat([user("x")], temperature=2.0, sample=2).text == texts[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_logprobs_are_those_of_the_network(local):
    text = "user: is it A or B?\nassistant:"
    ids = local.tokenizer(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        expected = local.network(ids).logits[0, -1].float().log_softmax(-1)
    (token,) = local.logprobs([user("is it A or B?")], top=200)
    assert token.logprob == pytest.approx(expected.max().item(), abs=1e-5)
    for letter in "AB":
        index = local.tokenizer.convert_tokens_to_ids(letter)
        assert token.top[letter] == pytest.approx(expected[index].item(), abs=1e-5)
    assert sum(map(math.exp, token.top.values())) == pytest.approx(1, abs=0.05)
    assert list(token.top.values()) == sorted(token.top.values(), reverse=True)


def test_stop_words_and_chat_template(local):
    whole = local.chat([user("q")], max_tokens=8).text
    cut = local.chat([user("q")], max_tokens=8, stop=[whole[2]]).text
    assert whole.startswith(cut)
    assert len(cut) <= 2
    before = local.tokenizer.chat_template
    local.tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    try:
        assert local.chat([user("abc")], max_tokens=1).reply.prompt_tokens == len("[abc]")
    finally:
        local.tokenizer.chat_template = before


def test_what_cannot_be_done_is_said(local, tmp_path):
    with pytest.raises(LLMError, match="tokens"):
        local.chat([user("x" * 5000)])
    with pytest.raises(LLMError, match="pictures"):
        local.chat([user("x", b"\x89PNG....")])
    with pytest.raises(InputError) as failure:
        Local(tmp_path)
    assert "\n" not in str(failure.value)


def test_behind_a_server_the_client_gives_what_the_model_gives(local, tmp_path):
    with serve(answers_of(local)) as server:
        client = Client(
            server.url, "tiny", patience=Patience(tries=2, seconds=30), cache=Cache(tmp_path), concurrency=2
        )
        assert client.chat([user("hello")], max_tokens=6).text == local.chat([user("hello")], max_tokens=6).text
        near, far = local.logprobs([user("A or B?")], top=5), client.logprobs([user("A or B?")], top=5)
        assert far[0].text == near[0].text
        assert far[0].top == pytest.approx(dict(near[0].top))
        assert client.choose([user("A or B?")], "AB") == pytest.approx(local.choose([user("A or B?")], "AB"))
        with pytest.raises(AnswerError):
            client.chat([user("x")], Word, max_tokens=8)
        assert client.usage.prompt_tokens > 0


def test_an_untrained_model_still_gives_a_digest(local):
    """It fits no schema: every entry falls back and none is lost."""
    entries = [Entry(id=f"2602.{i:05d}", title="T", abstract="We propose a net. It works.") for i in range(3)]
    model = answers_of(local)
    with serve(lambda body: model({**body, "max_tokens": 8})) as server:
        client = Client(server.url, "tiny", patience=Patience(tries=2, seconds=30), concurrency=2)
        made, report = summarise(entries, client)
    assert [entry.id for entry in made] == [entry.id for entry in entries]
    assert report.extractive == 3
