"""A server on loopback that speaks arXiv's three interfaces, from answers of our own making; it can also misbehave."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 3


@dataclass(frozen=True)
class Paper:
    """A paper of the server."""

    id: str
    title: str
    abstract: str
    authors: tuple[str, ...] = ("Ada Example", "Bo Sample")
    categories: tuple[str, ...] = ("cs.CV",)
    day: str = "2026-02-05"
    changed: str = ""
    announced: str = "new"


@dataclass
class ArxivServer:
    """What it serves, what it saw, and how it misbehaves: statuses to give before answering, by interface."""

    papers: list[Paper]
    url: str = ""
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    empty_pages: int = 0
    stop_after: int | None = None
    body: bytes | None = None

    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@contextmanager
def serve(papers: list[Paper]) -> Iterator[ArxivServer]:
    """Serve until the block ends."""
    state = ArxivServer(papers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            state.times.append(time.monotonic())
            if state.stop_after is not None and len(state.seen) > state.stop_after:
                self._send(500, b"down")
            elif state.failures:
                status, headers = state.failures.pop(0)
                self._send(status, b"busy", headers)
            else:
                body = state.body if state.body is not None else _answer(state, self.path)
                tag = '"' + hashlib.sha256(body).hexdigest()[:12] + '"'
                if self.headers.get("If-None-Match") == tag:
                    self._send(304, b"")
                else:
                    self._send(200, body, {"ETag": tag, "Last-Modified": "Thu, 05 Feb 2026 00:00:00 GMT"})

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


def _answer(state: ArxivServer, path: str) -> bytes:
    parts = urlsplit(path)
    words = {name: values[0] for name, values in parse_qs(parts.query).items()}
    if parts.path.startswith("/rss/"):
        return _rss(state.papers, unquote(parts.path.removeprefix("/rss/")).split("+"))
    if parts.path == "/oai":
        return _oai(state.papers, words)
    return _atom(state, words)


def _rss(papers: list[Paper], categories: list[str]) -> bytes:
    items = "".join(
        f"<item><title>{escape(p.title)}</title><link>https://arxiv.org/abs/{p.id}</link>"
        f"<description>arXiv:{p.id}v1 Announce Type: {p.announced} \nAbstract: {escape(p.abstract)}</description>"
        f'<guid isPermaLink="false">oai:arXiv.org:{p.id}v1</guid>'
        + "".join(f"<category>{c}</category>" for c in p.categories)
        + f"<pubDate>Thu, 05 Feb 2026 00:00:00 -0500</pubDate><arxiv:announce_type>{p.announced}</arxiv:announce_type>"
        f"<dc:creator>{escape(', '.join(p.authors))}</dc:creator></item>"
        for category in categories
        for p in papers
        if category in p.categories
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss xmlns:arxiv="http://arxiv.org/schemas/atom"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/" version="2.0"><channel><title>updates</title>'
        f"<link>http://rss.arxiv.org/rss/x</link><description>x</description>{items}</channel></rss>"
    ).encode()


def _atom(state: ArxivServer, words: dict[str, str]) -> bytes:
    if "id_list" in words:
        ids = words["id_list"].split(",")
        found, start, total = [p for p in state.papers if p.id in ids], 0, len(ids)
    else:
        query = words["search_query"]
        first, last = query.split("submittedDate:[")[1].rstrip("]").split(" TO ")
        found = [
            p
            for p in sorted(state.papers, key=lambda p: p.day)
            if any(f"cat:{c}" in query for c in p.categories) and first[:8] <= p.day.replace("-", "") <= last[:8]
        ]
        start, total = int(words["start"]), len(found)
        found = found[start : start + PAGE]
        if state.empty_pages and start:
            state.empty_pages -= 1
            found = []
    entries = "".join(
        f"<entry><id>http://arxiv.org/abs/{p.id}v1</id><title>{escape(p.title)}</title><summary>{escape(p.abstract)}</summary>"
        f"<published>{p.day}T10:00:00Z</published><updated>{p.day}T10:00:00Z</updated>"
        + "".join(f"<author><name>{escape(a)}</name></author>" for a in p.authors)
        + f'<arxiv:primary_category term="{p.categories[0]}"/>'
        + "".join(f'<category term="{c}"/>' for c in p.categories)
        + "</entry>"
        for p in found
    )
    return (
        '<feed xmlns="http://www.w3.org/2005/Atom" xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/"'
        ' xmlns:arxiv="http://arxiv.org/schemas/atom"><title>query</title>'
        f"<opensearch:totalResults>{total}</opensearch:totalResults><opensearch:startIndex>{start}</opensearch:startIndex>"
        f"{entries}</feed>"
    ).encode()


def _oai(papers: list[Paper], words: dict[str, str]) -> bytes:
    if "resumptionToken" in words:
        set_, since, start = words["resumptionToken"].split("|")
        if set_ == "expired":
            return _oai_frame('<error code="badResumptionToken">gone</error>')
    else:
        set_, since, start = words["set"], words["from"], "0"
    category = ".".join(set_.split(":")[1:])
    found = [p for p in papers if category in p.categories and (p.changed or p.day) >= since]
    if not found:
        return _oai_frame('<error code="noRecordsMatch">none</error>')
    end = int(start) + PAGE
    records = "".join(
        f"<record><header><identifier>oai:arXiv.org:{p.id}</identifier>"
        f"<datestamp>{p.changed or p.day}</datestamp></header>"
        f'<metadata><arXiv xmlns="http://arxiv.org/OAI/arXiv/"><id>{p.id}</id><created>{p.day}</created><authors>'
        + "".join(
            f"<author><keyname>{escape(a.split()[-1])}</keyname><forenames>{escape(a.split()[0])}</forenames></author>"
            for a in p.authors
        )
        + f"</authors><title>{escape(p.title)}</title><categories>{' '.join(p.categories)}</categories>"
        f"<abstract>{escape(p.abstract)}</abstract></arXiv></metadata></record>"
        for p in found[int(start) : end]
    )
    token = f"<resumptionToken>{set_}|{since}|{end}</resumptionToken>" if end < len(found) else ""
    return _oai_frame(f"<ListRecords>{records}{token}</ListRecords>")


def _oai_frame(inside: str) -> bytes:
    return (
        '<?xml version="1.0"?><OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
        f"<responseDate>2026-02-06T00:00:00Z</responseDate>{inside}</OAI-PMH>"
    ).encode()
