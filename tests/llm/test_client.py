"""The client against servers that behave well and badly."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
import traceback

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from assay import llm
from assay.errors import AssayError, InputError
from assay.llm.cache import Cache
from assay.llm.client import Client
from assay.llm.messages import image_url, system, user
from assay.llm.model import LLMError, Reply, Request
from assay.llm.schema import AnswerError, json_schema, parse
from assay.llm.testing import Recorded, Sent, completion, serve
from assay.net import Patience, redact, retry_after

KEY = "sk-very-secret-0123456789"


class Verdict(BaseModel):
    """A small schema."""

    word: str = Field(max_length=20)
    score: int


GOOD = '{"word": "fine", "score": 3}'


def patience(waits=None, **options):
    return Patience(**{"tries": 4, "sleep": (waits if waits is not None else []).append, **options})


def in_turn(*replies):
    """An answer function that gives each reply once, the last one for ever."""
    left, lock = list(replies), threading.Lock()

    def answer(body):
        with lock:
            sent = left.pop(0) if len(left) > 1 else left[0]
        return sent(body) if callable(sent) else sent

    return answer


def test_chat_counts_tokens_and_cost():
    with serve(lambda body: Sent(completion(body["messages"][-1]["content"].upper(), prompt=100, made=20))) as stub:
        client = Client(stub.url, "m", KEY, price=(1.0, 10.0))
        assert client.chat([system("be loud"), user("hello")]).text == "HELLO"
        assert client.usage.prompt_tokens == 100
        assert client.usage.cost == pytest.approx((100 * 1 + 20 * 10) / 1e6)
        path, headers, body = stub.seen[0]
        assert path == "/v1/chat/completions"
        assert headers["authorization"] == f"Bearer {KEY}"
        assert body["model"] == "m"
        assert [m["role"] for m in body["messages"]] == ["system", "user"]


def test_retries_with_back_off_and_honours_retry_after():
    waits = []
    answer = in_turn(
        Sent({"error": "busy"}, 429, {"Retry-After": "7"}), Sent(b"oops", 500), Sent(b"", 503), Sent(completion("ok"))
    )
    with serve(answer) as stub:
        client = Client(stub.url, "m", patience=patience(waits))
        assert client.chat([user("x")]).text == "ok"
    assert waits[0] == 7
    assert 1 <= waits[1] <= 2
    assert 2 <= waits[2] <= 4
    assert client.usage.retries == 3


def test_gives_up_with_one_line_and_refuses_a_wait_too_long():
    with serve(lambda body: Sent(b"line one\nline two\x1b[31m", 500)) as stub:
        with pytest.raises(LLMError) as failure:
            Client(stub.url, "m", patience=patience()).chat([user("x")])
        assert len(stub.seen) == 4
        assert "\n" not in str(failure.value)
        assert "\x1b" not in str(failure.value)
    with (
        serve(lambda body: Sent(b"", 429, {"Retry-After": "86400"})) as stub,
        pytest.raises(LLMError, match="asks to wait 86400"),
    ):
        Client(stub.url, "m", patience=patience()).chat([user("x")])
    assert len(stub.seen) == 1


def test_slow_answers_time_out_and_are_tried_again():
    slow = Sent(completion("late"), delay=1.0)
    with serve(in_turn(slow, Sent(completion("in time")))) as stub:
        client = Client(stub.url, "m", patience=patience(seconds=0.2))
        assert client.chat([user("x")]).text == "in time"
        assert client.usage.retries == 1


def test_broken_off_answers_are_tried_again():
    with serve(in_turn(Sent(completion("half"), cut=True), Sent(completion("whole")))) as stub:
        assert Client(stub.url, "m", patience=patience()).chat([user("x")]).text == "whole"


def test_no_server_and_too_much_answer_are_errors():
    with pytest.raises(LLMError, match=r"127\.0\.0\.1:9"):
        Client("http://127.0.0.1:9", "m", patience=patience(tries=2)).chat([user("x")])
    with serve(lambda body: Sent(b"x" * 5000)) as stub, pytest.raises(LLMError, match="more than"):
        Client(stub.url, "m", patience=patience(bytes=4000)).chat([user("x")])


def test_a_200_that_is_no_completion_is_asked_once_more():
    with serve(in_turn(Sent(b"<html>"), Sent(completion("ok")))) as stub:
        assert Client(stub.url, "m", patience=patience()).chat([user("x")]).text == "ok"
    with serve(lambda body: Sent({"choices": []})) as stub, pytest.raises(LLMError, match="no chat completion"):
        Client(stub.url, "m", patience=patience()).chat([user("x")])


@pytest.mark.parametrize("refused", [["json_schema"], ["json_schema", "json_object"]])
def test_structured_output_steps_down_and_remembers(refused):
    def answer(body):
        form = body.get("response_format", {}).get("type")
        return Sent({"error": {"message": f"{form} unsupported"}}, 400) if form in refused else Sent(completion(GOOD))

    with serve(answer) as stub:
        client = Client(stub.url, "m", patience=patience())
        assert client.chat([user("x")], Verdict).parsed == Verdict(word="fine", score=3)
        assert len(stub.seen) == 1 + len(refused)
        client.chat([user("y")], Verdict)
        assert len(stub.seen) == 2 + len(refused)
        assert "JSON schema" in stub.seen[-1][2]["messages"][-1]["content"]


def test_refusals_that_have_another_cause_do_not_change_the_form():
    with serve(in_turn(*[Sent({"error": "context too long"}, 400)] * 3, Sent(completion(GOOD)))) as stub:
        client = Client(stub.url, "m", patience=patience())
        with pytest.raises(LLMError, match="context too long"):
            client.chat([user("x")], Verdict)
        client.chat([user("x")], Verdict)
        assert stub.seen[-1][2]["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"<think>maybe {{1}} or {{2}}</think>Sure! {GOOD} Anything else?",
        '{"note": "first"} ' + GOOD,
    ],
)
def test_json_is_found_among_words(text):
    assert parse(text, Verdict).score == 3


@pytest.mark.parametrize("wrong", ["no json", '{"word": "fine"}', '{"word": "fine", "score": "many"}', '{"word": "fi'])
def test_one_repair_then_an_error(wrong):
    with serve(in_turn(Sent(completion(wrong)), Sent(completion(GOOD)))) as stub:
        answer = Client(stub.url, "m").chat([user("x")], Verdict)
        assert answer.repaired
        assert answer.parsed.score == 3
        assert stub.seen[1][2]["messages"][-2]["content"] == wrong
    with serve(lambda body: Sent(completion(wrong))) as stub:
        with pytest.raises(AnswerError):
            Client(stub.url, "m").chat([user("x")], Verdict)
        assert len(stub.seen) == 2


def test_truncated_answers_get_room():
    with serve(in_turn(Sent(completion('{"word": "f', finish="length")), Sent(completion(GOOD)))) as stub:
        assert Client(stub.url, "m").chat([user("x")], Verdict, max_tokens=50).repaired
        assert stub.seen[1][2]["max_tokens"] == 100


@given(st.text() | st.text(alphabet='{}[]":,0 \\', max_size=300))
def test_hostile_answers_raise_nothing_else(text):
    with contextlib.suppress(AnswerError):
        parse(text, Verdict)


def test_a_wall_of_braces_costs_little():
    start = time.perf_counter()
    with pytest.raises(AnswerError):
        parse('{"a":' * 200_000, Verdict)
    with pytest.raises(AnswerError):
        parse("<think>" * 20_000 + "{" * 500_000, Verdict)
    assert time.perf_counter() - start < 2


def test_schema_is_strict():
    schema = json_schema(Verdict)
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["word", "score"]


def test_cache_is_keyed_by_content(tmp_path):
    with serve(lambda body: Sent(completion(GOOD))) as stub:
        for _ in range(2):
            client = Client(stub.url, "m", KEY, cache=Cache(tmp_path))
            client.chat([user("x")], Verdict)
        assert len(stub.seen) == 1
        assert client.usage.cached == 1
        client.chat([user("y")], Verdict)
        client.chat([user("x")], Verdict, temperature=0.5)
        client.chat([user("x")], Verdict, sample=1)
        Client(stub.url, "other", cache=Cache(tmp_path)).chat([user("x")], Verdict)
        assert len(stub.seen) == 5
    files = list(tmp_path.rglob("*.json"))
    assert len(files) == 5
    assert all(KEY not in file.read_text() for file in files)


def test_cache_keeps_only_answers_of_use_and_survives_damage(tmp_path):
    with serve(in_turn(Sent(completion("bad")), Sent(completion("bad")), Sent(completion(GOOD)))) as stub:
        client = Client(stub.url, "m", cache=Cache(tmp_path))
        with pytest.raises(AnswerError):
            client.chat([user("x")], Verdict)
        assert not list(tmp_path.rglob("*.json"))
        assert client.chat([user("x")], Verdict).parsed.score == 3
        for file in tmp_path.rglob("*.json"):
            file.write_text('{"text": 1')
        assert not client.chat([user("x")], Verdict).cached


def test_many_at_once_within_the_limit_in_order():
    now, most, lock = 0, 0, threading.Lock()

    def answer(body):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        text = body["messages"][-1]["content"]
        return Sent(b"no", 400) if text == "7" else Sent(completion(text))

    with serve(answer) as stub:
        found = Client(stub.url, "m", concurrency=5).chat_many([[user(str(i))] for i in range(30)])
    assert 2 <= most <= 5
    assert isinstance(found[7], LLMError)
    assert [a.text for i, a in enumerate(found) if i != 7] == [str(i) for i in range(30) if i != 7]


def test_logprobs_and_choices():
    place = {
        "token": "B",
        "logprob": float(np.log(0.6)),
        "top_logprobs": [
            {"token": t, "logprob": float(np.log(p))} for t, p in {"B": 0.6, " b": 0.1, "A": 0.2, "zzz": 0.1}.items()
        ],
    }
    with serve(
        lambda body: Sent(completion("B", logprobs={"content": [place]} if body.get("logprobs") else None))
    ) as stub:
        client = Client(stub.url, "m")
        token = client.logprobs([user("A or B?")], top=4)[0]
        assert token.text == "B"
        assert token.top["A"] == pytest.approx(np.log(0.2))
        chosen = client.choose([user("A or B?")], ["A", "B"])
        assert chosen["B"] == pytest.approx(0.7 / 0.9)
        assert client.choose([user("A or B?")], ["C", "D"]) == {"C": 0.5, "D": 0.5}
    with serve(lambda body: Sent(completion("B"))) as stub, pytest.raises(LLMError, match="log-probabilities"):
        Client(stub.url, "m").logprobs([user("x")])


def test_pictures_travel_as_data_addresses(tmp_path):
    array = np.zeros((4, 6, 3))
    array[..., 0] = 1.0
    address = image_url(array)
    assert address.startswith("data:image/png;base64,")
    with serve(lambda body: Sent(completion("red"))) as stub:
        Client(stub.url, "m").chat([user("colour?", array, "https://example.org/a.png")])
        parts = stub.seen[0][2]["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["image_url", "image_url", "text"]
    assert parts[0]["image_url"]["url"] == address
    (tmp_path / "a.txt").write_text("no picture")
    for wrong in (tmp_path / "a.txt", tmp_path / "missing.png", b"GARBAGE", np.zeros((3, 4, 5, 6))):
        with pytest.raises(InputError):
            image_url(wrong)


@pytest.mark.parametrize("sent", ["echo", "status", "headers", "cut"])
def test_key_never_shows(sent, caplog):
    caplog.set_level(logging.DEBUG)

    def answer(body):
        if sent == "echo":
            return Sent({"error": f"bad key {KEY}"}, 401)
        if sent == "status":
            return Sent(f"Authorization: Bearer {KEY} is wrong".encode(), 500)
        return Sent(completion("x"), 200, {"X-Echo": f"Bearer {KEY}"}, cut=sent == "cut")

    with serve(answer) as stub:
        client = Client(stub.url.replace("http://", "http://me:pass-word-9@"), "m", KEY, patience=patience(tries=2))
        shown = [repr(client), str(client), repr(vars(client)), str(client.usage)]
        try:
            client.chat([user("x")])
        except LLMError as error:
            shown += [str(error), repr(error), "".join(traceback.format_exception(error)), repr(error.__context__)]
    shown += [record.getMessage() for record in caplog.records]
    assert len(shown) > 4
    for text in shown:
        assert KEY not in text
        assert "pass-word-9" not in text


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "127.0.0.1:80", "http://", "http://[::1", "javascript:alert(1)", "http://a:b"]
)
def test_bad_addresses_are_one_line(url):
    with pytest.raises(InputError) as failure:
        Client(url, "m", KEY).chat([user("x")])
    assert KEY not in str(failure.value)


def test_a_key_no_header_can_carry_is_refused_unseen():
    with pytest.raises(InputError) as failure:
        Client("http://127.0.0.1:1", "m", "sk-a\nb")
    assert "sk-a" not in str(failure.value)


def test_redirects_are_not_followed():
    with serve(lambda body: Sent(completion("stolen"))) as other:
        away = Sent(b"", 307, {"Location": other.url + "/chat/completions"})
        with serve(lambda body: away) as stub, pytest.raises(LLMError, match="status 307"):
            Client(stub.url, "m", KEY).chat([user("x")])
        assert not other.seen


def test_environment(monkeypatch):
    for name in ("URL", "KEY", "MODEL", "PRICE", "CONCURRENCY", "TIMEOUT"):
        monkeypatch.delenv(f"ASSAY_LLM_{name}", raising=False)
    assert llm.from_env() is None
    monkeypatch.setenv("ASSAY_LLM_URL", "http://127.0.0.1:1/v1")
    with pytest.raises(InputError, match="ASSAY_LLM_MODEL"):
        llm.from_env()
    monkeypatch.setenv("ASSAY_LLM_MODEL", "m")
    monkeypatch.setenv("ASSAY_LLM_PRICE", "0.5,2")
    monkeypatch.setenv("ASSAY_LLM_CONCURRENCY", "3")
    model = llm.from_env()
    assert (model.name, model.price, model.concurrency) == ("m", (0.5, 2.0), 3)
    monkeypatch.setenv("ASSAY_LLM_PRICE", "cheap")
    with pytest.raises(InputError, match="ASSAY_LLM_PRICE"):
        llm.from_env()


def test_recorded_answers_replay_without_a_server(tmp_path):
    path = tmp_path / "answers.jsonl"
    with serve(lambda body: Sent(completion("said once"))) as stub:
        first = Recorded(path, Client(stub.url, "m", KEY))
        assert first.chat([user("x")]).text == "said once"
        assert first.chat([user("x")]).text == "said once"
        assert len(stub.seen) == 1
    assert Recorded(path).chat([user("x")]).text == "said once"
    with pytest.raises(LLMError, match="holds no answer"):
        Recorded(path).chat([user("other")])
    assert KEY not in path.read_text()


def test_cache_key_holds_everything_an_answer_depends_on(tmp_path):
    cache = Cache(tmp_path)
    reply = Reply("a", tokens=())
    cache.put({"messages": "\ud800"}, Reply("\ud800"))
    assert cache.get({"messages": "\ud800"}).text == "\ud800"
    cache.put({"b": 1, "a": 2}, reply)
    assert cache.get({"a": 2, "b": 1}) == reply
    assert Request(()).sample == 0


@given(st.text(), st.text(min_size=1))
def test_redaction(text, secret):
    assert "\n" not in redact(text, [secret])
    assert retry_after(text) is None or retry_after(text) >= 0


def test_retry_after_takes_dates():
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 21 Oct 2099 07:28:00 GMT") > 1e6
    assert issubclass(LLMError, AssayError)
    assert json.dumps(retry_after("3")) == "3.0"
