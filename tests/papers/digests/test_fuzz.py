"""Broken input of every format raises nothing but InputError. ASSAY_FUZZ=1 tries 10,000 cases a format."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError
from assay.papers.digests import detect
from assay.papers.digests.entry import Entry
from assay.papers.digests.render import FORMATS, render, render_digest
from assay.papers.digests.store import Store

from .generated import CASES
from .test_feeds import ATOM, LINE, OAI, RDF, RSS
from .test_markdown import markdown_bilingual, markdown_toc

_ENTRIES = [
    Entry(
        id="2601.00001",
        title="One (a)",
        title_zh="一",
        authors=("A B", "C, Jr."),
        categories=("cs.CV",),
        abstract="x\n\ny",
        abstract_zh="甲",
        tldr="t",
        motivation="m",
        method="me",
        result="r",
        conclusion="c",
    ),
    Entry(id="2601.00002", title="Two", authors=("D",), categories=("cs.RO",), abstract="z", tldr="u"),
]
SAMPLES = {
    "toc": markdown_toc.render(markdown_toc.compose(_ENTRIES)),
    "bilingual": markdown_bilingual.render(markdown_bilingual.compose(_ENTRIES)),
    "jsonl": json.dumps(LINE) + "\n" + json.dumps(LINE | {"id": "2510.1", "AI": None}, ensure_ascii=False) + "\n",
    "atom": ATOM,
    "rss": RSS,
    "rdf": RDF,
    "oai": OAI,
}
HOSTILE = [
    b"\x00",
    b"\xff",
    b"&x;",
    b"]]>",
    b"<![CDATA[",
    b"<!--",
    b"<?x?>",
    b'"',
    b"\\ud800",
    b"null",
    b"1e999",
    b"{" * 50,
    b"[" * 50,
    b"### [1] [",
    b"](",
    b")\n",
    b"---\n",
    b"# ",
    b"<details>\n",
    b"</details>\n",
    b"**Link**:",
    "\u202e".encode(),
    b"\r",
    b"\n\n",
    b"<script>alert(1)</script>",
    b"javascript:alert(1)",
    b"99999999999999999999",
    b"<entry>",
    b"</entry>",
    b"<a xmlns='b'>",
]


@pytest.mark.parametrize("form", SAMPLES)
@CASES
@given(seed=st.integers(0, 2**32), edits=st.integers(1, 8))
def test_broken_input_raises_only_the_documented_error(form, seed, edits):
    data = _broken(SAMPLES[form].encode(), random.Random(seed), edits)
    try:
        digest = detect.read(data, "fuzz")
    except InputError as error:
        _one_line(error)
        return
    for entry in digest.entries:
        assert entry.key
        assert Entry.from_dict(json.loads(json.dumps(entry.as_dict()))).as_dict() == entry.as_dict()
    for made in FORMATS:
        render_digest(digest, made).encode()
        assert isinstance(render(digest.entries, made), str)
    with Store.in_memory() as store:
        store.add(digest)
        assert store.count() == len({entry.key for entry in digest.entries})


@CASES
@given(data=st.binary(max_size=300))
def test_any_bytes_raise_only_the_documented_error(data):
    try:
        detect.read(data, "fuzz")
    except InputError as error:
        _one_line(error)


def _one_line(error):
    assert "\n" not in str(error)


def _broken(data: bytes, rng: random.Random, edits: int) -> bytes:
    """Cut, repeat, swap and insert pieces."""
    for _ in range(edits):
        a, b = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        b = min(b, a + rng.choice([1, 5, 60, 600]))
        kind = rng.randrange(5)
        if kind == 0:
            data = data[:a] + data[b:]
        elif kind == 1:
            data = data[:b] + data[a:]
        elif kind == 2:
            data = data[:a] + rng.choice(HOSTILE) + data[b:]
        elif kind == 3:
            data = data[:a] + rng.choice(HOSTILE) + data[a:]
        else:
            data = data[:a] + rng.randbytes(min(b - a, 8)) + data[b:]
        data = data or b"\n"
    return data
