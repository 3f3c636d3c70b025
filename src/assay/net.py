"""One HTTP request, patient, bounded and discreet: retries with back-off, a size limit, no secret in an error."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assay.errors import AssayError, InputError

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 529})


class NetworkError(AssayError):
    """A server could not be reached, or went on refusing.

    Attributes:
        status: the last HTTP status; None when no answer came.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Response:
    """Status, headers (names in lower case) and the whole decoded body; `tries` requests were needed."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    tries: int = 1


@dataclass(frozen=True)
class Patience:
    """How long to try: waits double from `first_wait` to `longest_wait` seconds, each shortened by chance to half.

    A server's Retry-After goes before our own wait; one above `longest_wait` ends the attempt at once.

    Attributes:
        tries: requests in all.
        seconds: limit of one whole request, body included.
        bytes: limit of a body.
    """

    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0
    seconds: float = 120.0
    bytes: int = 256 << 20
    sleep: Callable[[float], None] = time.sleep


def request(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    patience: Patience,
    headers: Mapping[str, str] | None = None,
    json: Any = None,
    secrets: Iterable[str] = (),
    redirects: bool = False,
) -> Response:
    """Send until an answer comes that is worth having; statuses other than `RETRIED` are returned, not judged.

    Args:
        secrets: strings that no message may hold.
        redirects: follow redirects; never where a key is sent, as it would go to a host nobody named.

    Raises:
        NetworkError: no such answer within `patience.tries`; the message names host and reason, never a secret.
        InputError: the address is not an http or https address.
    """
    import httpx

    where, secrets = address(url), tuple(secrets)
    reason, status = "", None
    for attempt in range(patience.tries):
        asked: float | None = None
        try:
            answer = _once(client, method, url, headers, json, patience, redirects)
            if answer.status not in RETRIED:
                return Response(answer.status, answer.headers, answer.content, attempt + 1)
            status, asked = answer.status, retry_after(answer.headers.get("retry-after"))
            reason = f"status {status}{_said(answer.content, secrets)}"
        except httpx.TimeoutException:
            status, reason = None, "timed out"
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError, ValueError):
            raise InputError(f"{where}: not an address that can be asked; expected http(s)://host/...") from None
        except httpx.HTTPError as error:
            status, reason = None, redact(f"{type(error).__name__}: {error}", secrets)
        if asked is not None and asked > patience.longest_wait:
            raise NetworkError(f"{where}: {reason}; asks to wait {asked:.0f} seconds", status)
        if attempt + 1 < patience.tries:
            own = min(patience.longest_wait, patience.first_wait * 2**attempt) * random.uniform(0.5, 1.0)
            patience.sleep(own if asked is None else max(asked, 0.0))
    raise NetworkError(f"{where}: {reason} ({patience.tries} tries)", status)


def address(url: str) -> str:
    """An address fit for a message: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address given"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}" if parts.scheme else "the address given"


def redact(text: str, secrets: Iterable[str]) -> str:
    """`text` in one line without control characters, every secret replaced by `[key]`."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[key]")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header (a number or an HTTP date) asks for; None when it says nothing usable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


def _once(
    client: httpx.Client,
    method: str,
    url: str,
    headers: Mapping[str, str] | None,
    json: Any,
    patience: Patience,
    redirects: bool,
) -> Response:
    import httpx

    end = time.monotonic() + patience.seconds
    body = bytearray()
    with client.stream(
        method, url, headers=dict(headers or {}), json=json, timeout=patience.seconds, follow_redirects=redirects
    ) as answer:
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > patience.bytes:
                raise NetworkError(f"{address(url)}: answer of more than {patience.bytes >> 20} MB refused")
            if time.monotonic() > end:
                raise httpx.ReadTimeout("too slow")
        return Response(answer.status_code, {k.lower(): v for k, v in answer.headers.items()}, bytes(body))


def _said(content: bytes, secrets: Iterable[str]) -> str:
    text = redact(content[:2000].decode("utf-8", "replace"), secrets)
    return f": {text[:200]}" if text and not text.startswith("<") else ""
