"""Any OpenAI-compatible server: Ollama, vLLM, llama.cpp, the commercial ones."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from assay.errors import InputError
from assay.llm.cache import Cache
from assay.llm.forced import forced_body, forced_reply
from assay.llm.model import LLMError, Model, NoForcedLogprobs, Reply, Request, ScoreRequest, Token
from assay.llm.schema import instruction
from assay.net import NetworkError, Patience, address, redact, request

_FORMS = ("json_schema", "json_object", "plain")
_FORM_REFUSED = frozenset({400, 404, 415, 422, 501})
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy")


class Client(Model):
    """A model behind a chat-completions address.

    429, 5xx, timeouts and broken connections are tried again with back-off, honouring Retry-After. Structured output is
    asked for as `json_schema`; a server that refuses it is asked for `json_object`, then in words, and what worked is
    remembered. Safe to share between threads.

    Args:
        url: base address such as `http://127.0.0.1:11434/v1`, or the full one ending in `/chat/completions`.
        name: the model's name on that server.
        key: secret sent as a bearer token; it is kept out of every error, log, cache file and representation.
        patience: tries, waits and limits of one request.
        cache, concurrency, price: see `Model`.

    Raises:
        InputError: the address is not http(s), or the key holds characters no header can carry.
    """

    def __init__(
        self,
        url: str,
        name: str,
        key: str | None = None,
        *,
        cache: Cache | None = None,
        concurrency: int = 16,
        price: tuple[float, float] = (0.0, 0.0),
        patience: Patience | None = None,
    ) -> None:
        import httpx

        super().__init__(name, cache=cache, concurrency=concurrency, price=price)
        self._address, user, password = _endpoint(url)
        self._secrets = _Secrets(tuple(filter(None, [(key or "").strip(), password])))
        headers = {"Accept": "application/json"}
        if key and key.strip():
            if not (key.strip().isascii() and key.strip().isprintable()):
                raise InputError("ASSAY_LLM_KEY holds characters that no HTTP header can carry; copy it again")
            headers["Authorization"] = f"Bearer {key.strip()}"
        _keep_out_of_logs(self._secrets)
        self._patience = patience or Patience(bytes=64 << 20)
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        self._http = httpx.Client(
            headers=headers, limits=limits, auth=(user, password) if password and not key else None
        )
        self._slots = threading.BoundedSemaphore(self.concurrency)
        self._form = 0

    def __repr__(self) -> str:
        return f"Client({address(self._address)!r}, {self.name!r})"

    def identity(self) -> str:
        return f"{address(self._address)} {self.name}"

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def complete(self, request: Request) -> Reply:
        if isinstance(request, ScoreRequest):
            return self._score(request)
        form = self._form if request.schema else len(_FORMS) - 1
        while True:
            try:
                reply = self._post(self._body(request, _FORMS[form]))
                self._form = max(self._form, form) if request.schema else self._form
                return reply
            except LLMError as error:
                if error.status not in _FORM_REFUSED or form + 1 >= len(_FORMS):
                    raise
                form += 1

    def _score(self, request: ScoreRequest) -> Reply:
        try:
            return self._post(forced_body(self.name, request), lambda data: forced_reply(data, request))
        except NoForcedLogprobs as error:
            raise NoForcedLogprobs(f"{address(self._address)}: {error}") from None
        except LLMError as error:
            if error.status in _FORM_REFUSED:
                raise NoForcedLogprobs(f"{address(self._address)}: refuses prompt_logprobs", error.status) from None
            raise

    def _body(self, request: Request, form: str) -> dict[str, Any]:
        messages = [dict(message) for message in request.messages]
        body: dict[str, Any] = {"model": self.name, "messages": messages, "temperature": request.temperature}
        if request.schema and form == "json_schema":
            name = str(request.schema.get("title", "answer"))
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": name, "schema": request.schema, "strict": True},
            }
        elif request.schema:
            messages.append({"role": "user", "content": instruction(dict(request.schema))})
            if form == "json_object":
                body["response_format"] = {"type": "json_object"}
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if request.seed is not None:
            body["seed"] = request.seed
        if request.stop:
            body["stop"] = list(request.stop)
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": min(request.top_logprobs, 20)}
        return body

    def _post(self, body: dict[str, Any], read: Callable[[Any], Reply] | None = None) -> Reply:
        where = address(self._address)
        for last in (False, True):
            try:
                with self._slots:
                    answer = request(
                        self._http,
                        "POST",
                        self._address,
                        patience=self._patience,
                        json=body,
                        secrets=self._secrets.values,
                    )
            except NetworkError as error:
                raise LLMError(str(error), error.status) from None
            with self._counting:
                self.usage.retries += answer.tries - 1
            if answer.status >= 300:
                said = redact(answer.content[:2000].decode("utf-8", "replace"), self._secrets.values)[:300]
                raise LLMError(f"{where}: status {answer.status}: {said}", answer.status)
            try:
                return (read or _reply)(json.loads(answer.content))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
                if last:
                    raise LLMError(
                        f"{where}: the answer is no chat completion; is this an OpenAI-compatible server?"
                    ) from None
        raise AssertionError


class _Secrets:
    """Strings that must not be shown; a repr or a dump of the client's fields shows this instead."""

    __slots__ = ("values",)

    def __init__(self, values: tuple[str, ...]) -> None:
        self.values = values

    def __repr__(self) -> str:
        return "[key]" if self.values else "[no key]"


class _Redactor(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.secrets: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if any(secret in message for secret in self.secrets):
            record.msg, record.args = redact(message, self.secrets), ()
        return True


_REDACTOR = _Redactor()


def _keep_out_of_logs(secrets: _Secrets) -> None:
    """A server may echo the key in its headers, which the HTTP library writes to its debug log."""
    if secrets.values:
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_REDACTOR)
        _REDACTOR.secrets.update(secrets.values)


def _endpoint(url: str) -> tuple[str, str, str]:
    """The address to post to, without user and password, and these two."""
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError("ASSAY_LLM_URL is no http(s) address; expected one such as http://127.0.0.1:11434/v1")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = (path or "/v1") + "/chat/completions"
    host = parts.netloc.rpartition("@")[2]
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return urlunsplit((parts.scheme, host, path, parts.query, "")), user, password


def _reply(data: Any) -> Reply:
    choice = data["choices"][0]
    content = choice["message"].get("content")
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    usage = data.get("usage") or {}
    places = (choice.get("logprobs") or {}).get("content") or []
    return Reply(
        text=str(content or ""),
        finish=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        tokens=tuple(Token(p["token"], float(p["logprob"]), _top(p)) for p in places),
    )


def _top(place: Mapping[str, Any]) -> dict[str, float]:
    return {t["token"]: float(t["logprob"]) for t in place.get("top_logprobs") or []}


def _count(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1e12 else 0
