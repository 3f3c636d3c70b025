"""The server: headers, methods, caching, errors, figures."""

from __future__ import annotations

import os

import pytest
from starlette.testclient import TestClient
from tests.web.conftest import CONTRADICTED, DAY, SUPPORTED
from tests.web.reading import Reader

from assay.web import app as web
from assay.web import figures
from assay.web.addresses import paper_path
from assay.web.app import create_app


@pytest.fixture
def client(home):
    with TestClient(create_app(home / "digests.sqlite"), follow_redirects=False) as found:
        yield found


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/nope/",
        "/static/app.js",
        "/static/none.css",
        "/figure/none.png",
        "/fragment?q=a",
        "/overview",
        f"/{paper_path(SUPPORTED)}trials.csv",
        "/search/?q=" + "x" * 3000,
        "/" + "x" * 500,
    ],
)
def test_every_answer_forbids_what_is_not_ours(client, path):
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/zh/", 200),
        (f"/day/{DAY}/2/", 200),
        ("/nope/", 404),
        ("/search/?q=" + "x" * 3000, 414),
        ("/" + "x" * 500, 414),
        ("/%00/", 404),
        ("/%ff%fe/", 404),
        ("/paper/%2e%2e/", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/search/?page=%ff&q=%00%ed%a0%80", 200),
        ("/figure/2602.06674-0000000000000000.png", 404),
        ("/figure/..%2f..%2fdigests.sqlite/", 404),
    ],
)
def test_status(client, path, status):
    assert client.get(path).status_code == status
    assert client.head(path).status_code == status


def test_only_reading(client):
    assert client.post("/").status_code == 405
    assert client.delete("/search/").status_code == 405


def test_redirects_stay_here(client):
    for path in ("/overview", "//evil.example", "/%5Cevil.example", "///evil.example/a"):
        answer = client.get(f"http://testserver{path}")
        assert answer.status_code == 308
        assert answer.headers["location"].startswith("/")
        assert not answer.headers["location"].startswith(("//", "/\\"))


def test_a_page_known_already_is_not_sent_again(client):
    first = client.get("/claims/")
    again = client.get("/claims/", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert client.get("/claims/", headers={"If-None-Match": '"other"'}).status_code == 200


def test_search_as_you_type_links_from_where_it_is(client):
    text = client.get("/fragment", params={"q": "segm", "depth": "3", "lang": "zh"}).text
    Reader(text)
    assert 'href="../../../paper/' in text
    assert "用于图像分割" in text
    assert client.get("/fragment", params={"q": "segm", "depth": "'\"", "lang": "<"}).status_code == 200


def test_new_evidence_and_digests_are_seen(client, home, tmp_path, monkeypatch):
    from assay.papers.digests.entry import Digest, Entry
    from assay.papers.digests.store import Store

    monkeypatch.setattr(web, "_LOOK_SECONDS", 0.0)
    assert "Brand new" not in client.get("/").text
    with Store(home / "digests.sqlite") as store:
        store.add(Digest("jsonl", "new", "2026-02-07", [Entry(id="2602.05555", title="Brand new")]))
    assert "Brand new" in client.get("/").text
    (tmp_path / "evidence" / f"{SUPPORTED}.json").unlink()
    assert SUPPORTED not in client.get("/claims/").text


def test_a_broken_store_is_told_without_a_trace(assay_home, tmp_path, monkeypatch):
    monkeypatch.setenv("ASSAY_EVIDENCE", str(tmp_path))
    assay_home.mkdir()
    (assay_home / "digests.sqlite").write_bytes(b"no database at all" * 1000)
    with TestClient(create_app(assay_home / "digests.sqlite")) as client:
        answer = client.get("/")
        assert answer.status_code == 500
        assert "damaged" in answer.text
        assert "Traceback" not in answer.text
        Reader(answer.text)


def test_an_error_nobody_foresaw_is_a_page_too(client, monkeypatch):
    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(web.Site, "page", fail)
    answer = client.get("/area/labels/")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    Reader(answer.text)


def test_damaged_evidence_beside_good(client, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "_LOOK_SECONDS", 0.0)
    (tmp_path / "evidence" / f"{CONTRADICTED}.json").write_bytes(b"\xff\xfe{")
    assert client.get(f"/{paper_path(CONTRADICTED)}").status_code == 200
    assert client.get(f"/{paper_path(CONTRADICTED)}trials.csv").status_code == 404
    assert "damaged" in client.get("/area/shape/").text


def test_kept_pages_take_bounded_room(home, monkeypatch):
    monkeypatch.setattr(web, "_CACHE_BYTES", 200_000)
    pages = web.Pages(home / "digests.sqlite")
    for number in range(60):
        pages.get(("search/", (("q", f"diffusion {number}"),), False))
        kept = sum(len(content) + web._ENTRY_BYTES for content, _, _ in pages._kept.values())
        assert kept == pages._bytes <= 200_000
    assert pages._kept


def test_a_figure_is_drawn_apart_once_and_kept(client, home, monkeypatch):
    import subprocess
    import sys

    drawn = []

    def draw(papers, seconds=0.0):
        drawn.extend(papers)
        summary = web.Library(home / "x").states[SUPPORTED].summary
        folder = home / "figures"
        folder.mkdir(exist_ok=True)
        for kind in figures.KINDS:
            (folder / f"{figures.stem_of(summary)}.{kind}").write_bytes(b"<svg/>")

    monkeypatch.setattr(figures, "draw", draw)
    links = [link for link in Reader(client.get(f"/{paper_path(SUPPORTED)}").text).links if "figure/" in link]
    assert {link.rpartition(".")[2] for link in links} == {"png", "svg"}
    for link in links * 2:
        answer = client.get("/" + link.replace("../", ""))
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("image/")
        assert "sandbox" in answer.headers["content-security-policy"]
    assert drawn == [SUPPORTED]
    code = "import sys, assay.web.app; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0


def test_a_figure_that_cannot_be_drawn_is_left_out_from_then_on(client, monkeypatch):
    tried = []
    monkeypatch.setattr(figures, "draw", lambda papers: tried.extend(papers))
    path = f"/{paper_path(SUPPORTED)}"
    link = next(link for link in Reader(client.get(path).text).links if link.endswith(".png"))
    for _ in range(3):
        assert client.get("/" + link.replace("../", "")).status_code == 404
    assert tried == [SUPPORTED]
    assert "figure/" not in client.get(path).text


def test_serve_says_when_its_port_is_taken(home):
    import socket

    from typer.testing import CliRunner

    from assay.cli import app
    from assay.errors import AssayError

    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = CliRunner().invoke(app, ["serve", "--port", str(taken.getsockname()[1])])
    assert isinstance(result.exception, AssayError)
    assert "--port" in str(result.exception)
