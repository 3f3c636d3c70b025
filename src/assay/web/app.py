"""The server: pages by path, figures, and search as you type. Binds to this machine unless told otherwise."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.errors import AssayError
from assay.web import figures
from assay.web.library import Library, version_of_digests, version_of_evidence
from assay.web.pages import CONTENT_POLICY, LANGUAGES, QUERY, STATIC, Page, Site

_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_DRAWING_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_CACHE_BYTES = 24 * 2**20
_ENTRY_BYTES = 1_000
"""What a kept page takes beside its text."""
_LOOK_SECONDS = 1.0
_MOST_QUERY = 2_000
_MOST_PATH = 400
_MOST_WAITING = 32
_METHODS = ["GET", "HEAD"]
_log = logging.getLogger("assay.web")

Answer = tuple[bytes, Page, str]
"""A page's bytes, the page without its text, and its entity tag."""


class Pages:
    """Rendered pages, kept until digests or evidence change; bounded in bytes, so memory stays flat."""

    def __init__(self, digests: Path) -> None:
        self._digests = digests
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, Answer] = OrderedDict()
        self._bytes = 0
        self._looked = -_LOOK_SECONDS
        self._evidence: Any = None
        self._version: Any = None
        self._undrawable: set[str] = set()
        self._site = self._new_site(None)

    def kept(self, key: Any) -> Answer | None:
        """A page that is rendered already and still right; None also when it is time to look for changes."""
        if time.monotonic() - self._looked >= _LOOK_SECONDS:
            return None
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def get(self, key: Any) -> Answer:
        """The page of (path, query, fragment)."""
        site = self._current()
        found = self.kept(key)
        if found is not None:
            return found
        path, query, fragment = key
        asked = dict(query)
        if fragment:
            language = asked.pop("lang", "en")
            depth = int(asked.pop("depth", "1"))
            page = site.fragment(asked, language=language, depth=depth)
        else:
            page = site.page(path, asked)
        made = _answer(page)
        if page.status == 200:
            with self._lock:
                if key not in self._kept and site is self._site:
                    self._kept[key] = made
                    self._bytes += len(made[0]) + _ENTRY_BYTES
                while self._bytes > _CACHE_BYTES and self._kept:
                    _, (dropped, _, _) = self._kept.popitem(last=False)
                    self._bytes -= len(dropped) + _ENTRY_BYTES
        return made

    def error(self, status: int, words: str, depth: int) -> Answer:
        return _answer(self._site.error(status, words, depth))

    def figure(self, name: str) -> Path | None:
        """The file of a figure, drawn now if need be; None when there is none, or it cannot be drawn here."""
        path = figures.kept(name)
        paper = figures.paper_of(name)
        if path is not None or paper is None or name in self._undrawable:
            return path
        recorded = self._site.library.record(paper)
        if recorded is None or not name.startswith(figures.stem_of(recorded) + "."):
            return None
        figures.draw([paper])
        path = figures.kept(name)
        if path is None:
            self._undrawable.add(name)
            with self._lock:
                self._looked, self._version = -_LOOK_SECONDS, None  # pages that show it are to be rendered anew
        return path

    def _current(self) -> Site:
        now = time.monotonic()
        with self._lock:
            if now - self._looked < _LOOK_SECONDS:
                return self._site
        evidence, digests = version_of_evidence(), version_of_digests(self._digests)
        with self._lock:
            self._looked = now
            if (evidence, digests) != self._version:
                same = self._site.library if evidence == self._evidence else None
                self._version, self._evidence = (evidence, digests), evidence
                self._site = self._new_site(same)
                self._kept.clear()
                self._bytes = 0
            return self._site

    def _new_site(self, known: Library | None) -> Site:
        library = Library(self._digests, known.evidence if known else None)
        return Site(library, has_figure=lambda name: name not in self._undrawable)


class _Guard:
    """Every answer carries the headers that keep a page from running or loading what is not ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                named = {name for name, _ in headers}
                message["headers"] = headers + [pair for pair in self._headers if pair[0] not in named]
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


def create_app(digests: Path) -> FastAPI:
    """The application over a digest store.

    Args:
        digests: file of the digest store; it need not exist.
    """
    app = FastAPI(title="Assay", docs_url=None, redoc_url=None, openapi_url=None)
    pages = Pages(digests)
    drawing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="figure")
    waiting: MutableMapping[str, int] = {"figures": 0}
    app.add_middleware(_Guard)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.api_route("/figure/{name}", methods=_METHODS)
    async def figure(name: str) -> Response:
        path = figures.kept(name)
        if path is None and waiting["figures"] < _MOST_WAITING:
            waiting["figures"] += 1
            try:
                path = await asyncio.get_running_loop().run_in_executor(drawing, pages.figure, name)
            except AssayError:
                path = None
            finally:
                waiting["figures"] -= 1
        if path is None:
            return Response("no such figure", status_code=404, media_type="text/plain")
        headers = {"Cache-Control": "max-age=86400", "Content-Security-Policy": _DRAWING_POLICY}
        return FileResponse(path, media_type=figures.KINDS[path.suffix[1:]], headers=headers)

    @app.api_route("/{path:path}", methods=_METHODS)
    async def page(request: Request, path: str) -> Response:
        depth = path.count("/")
        if len(request.scope.get("query_string", b"")) > _MOST_QUERY or len(path) > _MOST_PATH:
            return _respond(request, pages.error(414, "The address is too long.", depth))
        key = _key(request, path)
        try:
            found = pages.kept(key)
            answer = await run_in_threadpool(pages.get, key) if found is None else found
        except AssayError as error:
            answer = pages.error(500, str(error), depth)
        except Exception:
            _log.exception("page %r failed", path)
            answer = pages.error(500, "This page could not be made; the server's log tells why.", depth)
        return _respond(request, answer)

    return app


def _key(request: Request, path: str) -> tuple[str, tuple[tuple[str, str], ...], bool]:
    fragment = path == "fragment"
    query = {name: value for name, value in request.query_params.items() if name in QUERY and value.strip()}
    if fragment:
        language, depth = request.query_params.get("lang", ""), request.query_params.get("depth", "")
        query["lang"] = language if language in LANGUAGES else "en"
        query["depth"] = depth if depth in {"0", "1", "2", "3", "4", "5", "6", "7"} else "1"
    return path, tuple(sorted(query.items())), fragment


def _answer(page: Page) -> Answer:
    content = page.text.encode("utf-8", "replace")
    without = Page("", page.status, page.kind, page.location)
    return content, without, f'"{hashlib.sha256(content).hexdigest()[:20]}"'


def _respond(request: Request, answer: Answer) -> Response:
    content, page, tag = answer
    if page.location:
        root = quote(request.scope.get("root_path", ""))
        return Response(status_code=page.status, headers={"Location": f"{root}/{page.location}"})
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if page.kind == "text/csv":
        headers["Content-Disposition"] = 'attachment; filename="trials.csv"'
    if page.status == 200 and tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, status_code=page.status, media_type=f"{page.kind}; charset=utf-8", headers=headers)
