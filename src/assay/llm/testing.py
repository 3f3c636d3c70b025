"""For tests: a server on loopback that speaks chat completions, well or badly, and a recorder of answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from assay.llm.cache import Cache
from assay.llm.model import LLMError, Model, Reply, Request, ScoreRequest, Token


@dataclass(frozen=True)
class Sent:
    """What the stub sends back: a body (JSON or raw bytes), a status, headers, after `delay` seconds.

    `cut` announces the whole length and breaks off in the middle.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


@dataclass
class Stub:
    """A running stub: its base address and the requests it saw, each `(path, headers, body)`."""

    url: str
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)


def completion(
    text: str, *, finish: str = "stop", prompt: int = 10, made: int = 5, logprobs: Any = None
) -> dict[str, Any]:
    """The body of a chat completion that says `text`."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish,
        "logprobs": logprobs,
    }
    usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
    return {"id": "stub", "object": "chat.completion", "choices": [choice], "usage": usage}


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Sent]) -> Iterator[Stub]:
    """Serve `answer(request body)` on 127.0.0.1 until the block ends."""
    stub = Stub("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            stub.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            sent = answer(body)
            if sent.delay:
                time.sleep(sent.delay)
            data = sent.body if isinstance(sent.body, bytes) else json.dumps(sent.body).encode()
            try:
                self.send_response(sent.status)
                for name, value in {"Content-Type": "application/json", **sent.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if sent.cut else data)
                self.wfile.flush()
            except OSError:
                self.close_connection = True
            if sent.cut:
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is part of the game."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


def answers_of(model: Model) -> Callable[[dict[str, Any]], Sent]:
    """An answer function for `serve` behind which a real model, such as `Local`, does the work."""

    def answer(body: dict[str, Any]) -> Sent:
        form = body.get("response_format") or {}
        if form.get("type") == "json_schema":
            return Sent({"error": {"message": "response_format json_schema is not supported"}}, status=400)
        if body.get("prompt_logprobs") is not None:
            return _forced(model, body)
        request = Request(
            tuple(body["messages"]),
            body.get("max_tokens"),
            body.get("temperature") or 0.0,
            body.get("seed"),
            tuple(body.get("stop") or ()),
            top_logprobs=body.get("top_logprobs") or 0,
        )
        try:
            reply = model.complete(request)
        except LLMError as error:
            return Sent({"error": {"message": str(error)}}, status=400)
        places = [
            {
                "token": t.text,
                "logprob": t.logprob,
                "top_logprobs": [{"token": k, "logprob": v} for k, v in t.top.items()],
            }
            for t in reply.tokens
        ]
        logprobs = {"content": places} if places else None
        return Sent(
            completion(
                reply.text,
                finish=reply.finish,
                prompt=reply.prompt_tokens,
                made=reply.completion_tokens,
                logprobs=logprobs,
            )
        )

    return answer


def _forced(model: Model, body: dict[str, Any]) -> Sent:
    """As vLLM answers `prompt_logprobs`: an entry for every token of the prompt, the first without."""
    *before, last = body["messages"]
    try:
        reply = model.complete(ScoreRequest(tuple(before), 1, continuation=last["content"]))
    except LLMError as error:
        return Sent({"error": {"message": str(error)}}, status=400)
    entries = [{str(n): {"logprob": t.logprob, "rank": 1, "decoded_token": t.text}} for n, t in enumerate(reply.tokens)]
    opening = {"0": {"logprob": -0.5, "rank": 1, "decoded_token": "assistant:"}}
    return Sent(completion("", finish="length") | {"prompt_logprobs": [None, opening, *entries]})


class Recorded(Model):
    """Answers from a file of JSON lines. With a `model`, what is missing is asked and added; without, refused.

    Record once against a real server, keep the file beside the test, and replay without any.
    """

    def __init__(self, path: Path, model: Model | None = None, *, name: str = "recorded") -> None:
        super().__init__(model.name if model else name)
        self._path, self._model, self._writing = Path(path), model, threading.Lock()
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        self._replies = {row["key"]: _reply_of(row["reply"]) for row in map(json.loads, lines)}

    def complete(self, request: Request) -> Reply:
        key = Cache(Path())._path(asdict(request)).stem
        if key in self._replies:
            return self._replies[key]
        if self._model is None:
            raise LLMError(f"{self._path.name} holds no answer to this request; record it with a model")
        reply = self._model.complete(request)
        with self._writing, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "reply": asdict(reply)}, sort_keys=True) + "\n")
        self._replies[key] = reply
        return reply


def _reply_of(row: dict[str, Any]) -> Reply:
    return Reply(**{**row, "tokens": tuple(Token(**token) for token in row["tokens"])})
