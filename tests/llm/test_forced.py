"""Log-probabilities of a given text: of a local model, of one that sees pictures, and over the chat interface."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.errors import InputError
from assay.llm.cache import Cache
from assay.llm.client import Client
from assay.llm.forced import word_logprobs
from assay.llm.messages import user
from assay.llm.model import LLMError, NoForcedLogprobs, Token
from assay.llm.testing import Recorded, Sent, answers_of, completion, serve
from assay.llm.testing_models import tiny_text_model, tiny_vision_model
from assay.net import Patience

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from assay.llm.local import Local  # noqa: E402
from assay.llm.local_vision import LocalVision  # noqa: E402


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return Local(tiny_text_model(tmp_path_factory.mktemp("text")), device="cpu", max_new_tokens=8)


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    return LocalVision(tiny_vision_model(tmp_path_factory.mktemp("vision")), device="cpu", max_new_tokens=8)


def picture(value):
    return np.full((20, 24, 3), value, np.uint8)


def test_forced_logprobs_are_those_of_greedy_steps(text_model):
    """Each token's value is that which the network gives when it stands before it."""
    tokens = text_model.score([user("hello")], "abc d")
    assert [t.text for t in tokens] == list("abc d")
    prompt = text_model.tokenizer("user: hello\nassistant:", return_tensors="pt").input_ids
    for n, token in enumerate(tokens):
        so_far = torch.tensor([text_model.tokenizer("abc d"[:n]).input_ids], dtype=torch.long)
        with torch.inference_mode():
            logits = text_model.network(torch.cat([prompt, so_far], 1)).logits[0, -1].float()
        number = text_model.tokenizer.convert_tokens_to_ids(token.text)
        assert token.logprob == pytest.approx(logits.log_softmax(-1)[number].item(), abs=1e-4)
    assert text_model.score([user("hello")], "  ") == ()
    with pytest.raises(LLMError, match="tokens"):
        text_model.score([user("x")], "y" * 9000)


def test_a_vision_model_reads_its_pictures(vision):
    dark, light = (vision.score([user("look", picture(v))], "a dog") for v in (0, 250))
    assert [t.text for t in dark] == list("a dog")
    assert [t.logprob for t in dark] != [t.logprob for t in light]
    assert dark == vision.score([user("look", picture(0))], "a dog")
    two = vision.score([user("look", picture(0), picture(250))], "a dog")
    assert two != dark
    none = vision.score([user("look")], "a dog")
    assert all(t.logprob < 0 for t in (*two, *none))
    (token,) = vision.logprobs([user("look", picture(0))], top=200)
    letter = vision.score([user("look", picture(0))], "a")[0].logprob
    assert token.top["a"] == pytest.approx(letter, abs=1e-4)
    assert len(vision.chat([user("look", picture(9))], max_tokens=4).text) <= 4


def test_a_vision_model_behind_vllms_interface_gives_the_same(vision, tmp_path):
    with serve(answers_of(vision)) as server:
        client = Client(server.url, "tiny", cache=Cache(tmp_path), patience=Patience(tries=1, seconds=30))
        messages = [user("look", picture(40))]
        far, near = client.score(messages, "a red dog"), vision.score(messages, "a red dog")
        assert [t.logprob for t in far] == pytest.approx([t.logprob for t in near])
        asked = len(server.seen)
        assert client.score(messages, "a red dog") == far
        assert len(server.seen) == asked
        assert client.usage.cached == 1
        body = server.seen[0][2]
        assert body["messages"][-1] == {"role": "assistant", "content": "a red dog"}
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False


def test_recorded_scores_are_replayed(text_model, tmp_path):
    path = tmp_path / "answers.jsonl"
    first = Recorded(path, text_model).score([user("x")], "dog")
    assert Recorded(path).score([user("x")], "dog") == first
    with pytest.raises(LLMError, match="no answer"):
        Recorded(path).score([user("x")], "cat")


@pytest.mark.parametrize(
    "sent",
    [
        Sent(completion("whatever")),
        Sent({"error": {"message": "unknown field prompt_logprobs"}}, status=400),
        Sent(completion("") | {"prompt_logprobs": [None, {"7": {"logprob": -1.0, "decoded_token": "else"}}]}),
    ],
)
def test_servers_without_forced_logprobs_are_told_apart(sent):
    with serve(lambda body: sent) as server:
        client = Client(server.url, "m", patience=Patience(tries=1, seconds=10))
        with pytest.raises(NoForcedLogprobs):
            client.score([user("x")], "a dog")


def test_a_server_error_is_no_missing_feature():
    with serve(lambda body: Sent({"error": "busy"}, status=500)) as server:
        client = Client(server.url, "m", patience=Patience(tries=1, seconds=10))
        with pytest.raises(LLMError) as failure:
            client.score([user("x")], "a dog")
    assert not isinstance(failure.value, NoForcedLogprobs)


def test_words_get_the_sum_of_their_tokens():
    text = 'A "red-ish" dog, 3.5 m.'
    pieces = ["A", ' "', "red", "-i", "sh", '"', "\u2581dog", ",", " ", "3", ".5", "\u0120m", "."]
    tokens = tuple(Token(piece, -float(n + 1)) for n, piece in enumerate(pieces))
    spans = [(0, 1), (3, 10), (12, 15), (17, 20), (21, 22)]
    assert [text[a:b] for a, b in spans] == ["A", "red-ish", "dog", "3.5", "m"]
    assert word_logprobs(tokens, text, spans) == [-1, -12, -7, -21, -12]
    joined = (Token("A", -1.0), Token(' "red', -2.0), Token('-ish"', -4.0), *tokens[6:])
    assert word_logprobs(joined, text, spans)[1] == -6
    assert sum(word_logprobs(tokens, text, spans)) > -math.inf


def test_what_is_no_vision_model_is_named(tmp_path, text_model, vision):
    with pytest.raises(InputError) as failure:
        LocalVision(tmp_path)
    assert "\n" not in str(failure.value)
    with pytest.raises(InputError, match="vision-language"):
        LocalVision(text_model.name)
    with pytest.raises(LLMError, match="address"):
        vision.chat([user("x", "http://127.0.0.1/dog.png")])
