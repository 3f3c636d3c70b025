"""The server: pages by path, figures, and search as you type. Binds to this machine unless told otherwise."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles

from assay.errors import AssayError
from assay.web import figures
from assay.web.library import Library, version
from assay.web.pages import CONTENT_POLICY, Site

STATIC = Path(__file__).with_name("static")
_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_CACHE_BYTES = 32 * 2**20
_LOOK_SECONDS = 1.0
_NAMES = frozenset({"q", "day", "category", "area", "author", "runs", "verdict", "lang", "page"})
_MOST_QUERY = 2_000


class Pages:
    """Rendered pages, kept until digests or evidence change; bounded in bytes, so memory stays flat."""

    def __init__(self, digests: Path) -> None:
        self._digests = digests
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, tuple[bytes, int]] = OrderedDict()
        self._bytes = 0
        self._looked = 0.0
        self._version: Any = None
        self._site = Site(Library(digests))

    def get(self, path: str, query: dict[str, str], *, fragment: bool = False) -> tuple[bytes, int]:
        """HTML and status of a page."""
        site = self._current()
        key = (path, tuple(sorted(query.items())), fragment)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        if fragment:
            made = (site.fragment(query).encode("utf-8", "replace"), 200)
        else:
            page = site.page(path, query)
            made = (page.html.encode("utf-8", "replace"), page.status)
        with self._lock:
            if key not in self._kept and site is self._site:
                self._kept[key] = made
                self._bytes += len(made[0])
            while self._bytes > _CACHE_BYTES and self._kept:
                _, (dropped, _) = self._kept.popitem(last=False)
                self._bytes -= len(dropped)
        return made

    def error(self, status: int, words: str) -> bytes:
        return self._site.error(status, words).html.encode()

    def _current(self) -> Site:
        now = time.monotonic()
        with self._lock:
            if now - self._looked < _LOOK_SECONDS:
                return self._site
            self._looked = now
        found = version(self._digests)
        with self._lock:
            if found != self._version:
                self._version = found
                self._site = Site(Library(self._digests))
                self._kept.clear()
                self._bytes = 0
            return self._site


def create_app(digests: Path) -> FastAPI:
    """The application over a digest store.

    Args:
        digests: file of the digest store; it need not exist.
    """
    app = FastAPI(title="Assay", docs_url=None, redoc_url=None, openapi_url=None)
    pages = Pages(digests)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/figure/{name}")
    def figure(name: str) -> Response:
        content = figures.figure(name)
        if content is None:
            return Response("no such figure", status_code=404, media_type="text/plain", headers=_HEADERS)
        return Response(content, media_type="image/png", headers={**_HEADERS, "Cache-Control": "max-age=86400"})

    @app.get("/fragment")
    def fragment(request: Request) -> Response:
        return _answer(request, *pages.get("search/", _query(request), fragment=True))

    @app.get("/{path:path}")
    def page(request: Request, path: str) -> Response:
        if len(str(request.url.query)) > _MOST_QUERY or len(path) > 300:
            return _answer(request, pages.error(414, "The address is too long."), 414)
        try:
            return _answer(request, *pages.get(path, _query(request)))
        except AssayError as error:
            return _answer(request, pages.error(500, str(error)), 500)

    return app


def _query(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.query_params.items() if name in _NAMES and value}


def _answer(request: Request, content: bytes, status: int) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    headers = {**_HEADERS, "ETag": tag, "Cache-Control": "no-cache"}
    if status == 200 and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, status_code=status, media_type="text/html; charset=utf-8", headers=headers)
