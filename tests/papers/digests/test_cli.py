"""`assay digest` as a user runs it."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
from typer.testing import CliRunner

from assay.digest_cli import app
from assay.errors import AssayError, InputError, UnknownName

LINES = '{"id": "2601.00001", "title": "Blue model", "authors": ["A B"], "categories": ["cs.CV"], "summary": "x"}\n'


def run(*arguments, given=None):
    result = CliRunner().invoke(app, list(arguments), input=given, standalone_mode=False)
    if isinstance(result.exception, AssayError):
        raise result.exception
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_add_search_list_show_render(seeds, tmp_path):
    result = run("add", *map(str, seeds))
    assert result.return_value == 0
    assert "61 entries (toc), 61 new, 0 known" in result.output
    found = json.loads(run("search", "扩散模型", "--category", "cs.CV", "--json").stdout)
    assert found
    assert all("cs.CV" in paper["categories"] for paper in found)
    assert (
        "GaussianPOP" in run("search", "gaussianpop", "--area", "shape").output + run("list", "--limit", "200").output
    )
    assert len(json.loads(run("list", "--digests", "--json").stdout)) == 5
    told = json.loads(run("show", "https://arxiv.org/abs/2602.06830v1", "--json").stdout)
    assert told["sources"][0]["tldr"] == told["tldr"]
    out = tmp_path / "out.md"
    run("render", "5", "--out", str(out))
    assert out.read_bytes() == seeds[4].read_bytes()
    assert run("render", "1", "--format", "bibtex").stdout_bytes.count(b"@misc{") == 10


def test_what_cannot_be_read_is_listed_and_the_rest_is_kept(tmp_path):
    path = tmp_path / "2026-01-05.jsonl"
    path.write_text(LINES + "{broken\n")
    result = run("add", str(path), "--json")
    assert result.return_value == 1
    assert f"{path}:2: not JSON" in result.stderr
    assert json.loads(result.stdout)[0]["problems"][0]["line"] == 2
    assert "Blue model" in run("list", "--day", "2026-01-05").output
    again = run("add", "-", given=LINES)
    assert again.return_value == 0
    result = run("add", str(path), str(tmp_path / "none"))
    assert result.return_value == 1
    assert "none" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("add", "none.md"), InputError),
        (("add", "file:///etc/passwd"), InputError),
        (("search", "x"), AssayError),
        (("add", "x", "--day", "tomorrow"), InputError),
        (("list", "--area", "none"), UnknownName),
        (("render", "1", "--format", "x"), UnknownName),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, error):
    with pytest.raises(error) as told:
        run(*arguments)
    assert "\n" not in str(told.value)


def test_addresses_are_fetched_with_a_limit(monkeypatch):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
                return
            self.send_response(404 if self.path == "/none" else 200)
            self.end_headers()
            self.wfile.write(LINES.encode() if self.path == "/ok" else b"x" * 3000)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    try:
        assert "1 new" in run("add", f"{base}/ok").output
        from assay.papers.digests.fetch import fetch

        for path, words in (("/none", "404"), ("/big", "more than"), ("/moved", "file|scheme|protocol")):
            with pytest.raises(InputError, match=words):
                fetch(base + path, most_bytes=1000 if path == "/big" else 10_000)
    finally:
        server.shutdown()
        server.server_close()
