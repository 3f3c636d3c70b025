"""Fetch one address: http or https only, with a limit on size and time."""

from __future__ import annotations

import httpx

from assay import __version__
from assay.errors import InputError

MOST_BYTES = 100_000_000
_SECONDS = 30.0
_REDIRECTS = 5


def fetch(address: str, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of an address, unpacked.

    Raises:
        InputError: another scheme than http or https, no answer, an error of the server, or more than `most_bytes`.
    """
    if not address.lower().startswith(("http://", "https://")):
        raise InputError(f"cannot fetch {address[:200]!r}: expected an http or https address")
    agent = {"User-Agent": f"assay/{__version__}"}
    try:
        with (
            httpx.Client(timeout=_SECONDS, follow_redirects=True, max_redirects=_REDIRECTS, headers=agent) as client,
            client.stream("GET", address) as answer,
        ):
            if not answer.is_success:
                raise InputError(f"{address}: the server answers {answer.status_code} {answer.reason_phrase}".rstrip())
            content = bytearray()
            for part in answer.iter_bytes():
                content += part
                if len(content) > most_bytes:
                    raise InputError(f"{address}: more than {most_bytes // 1_000_000} MB; fetch it to a file first")
            return bytes(content)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise InputError(f"{address}: {str(error) or type(error).__name__}") from error
