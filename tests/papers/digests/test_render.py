"""What is written out can be read by others: feeds, bibliographies, pages that run nothing."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from assay.errors import UnknownName
from assay.papers.digests import detect
from assay.papers.digests.entry import Entry
from assay.papers.digests.render import FORMATS, bibtex, paragraphs, render, render_digest, safe_address

EVIL = Entry(
    id="2601.00001",
    title='<script>alert(1)</script> "q" \u202egnp.exe',
    authors=('<img src=x onerror="a()">',),
    categories=('cs.CV"><b>',),
    abstract="</p><script>x</script>\n\n<a href='javascript:x'>y</a>",
    tldr="]]> & <!--",
    links={"abs": "javascript:alert(1)"},
    title_zh="<题>",
)


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs


def test_a_page_runs_nothing():
    page = render([EVIL, Entry(title="x", links={"abs": "javascript:alert(1)"})], "html", day="2026-01-02")
    parser = _Tags()
    parser.feed(page)
    assert not parser.tags & {"script", "img", "iframe", "b"}
    assert not [name for name, _ in parser.attributes if name.startswith("on")]
    assert {value for name, value in parser.attributes if name == "href"} == {
        "#c0",
        "#c1",
        "https://arxiv.org/abs/2601.00001",
    }
    assert "Content-Security-Policy" in page
    assert "\u202e" not in page


def test_a_feed_comes_back():
    first = Entry(
        id="2601.00001",
        title="T & <b>",
        authors=("A B", "C"),
        categories=("cs.CV", "cs.RO"),
        abstract="a\n\nb",
        date="2026-01-02",
    )
    digest = detect.read(render([first, EVIL], "rss", title="D", day="2026-01-03").encode(), "feed")
    assert (digest.day, digest.problems, len(digest.entries)) == ("2026-01-03", [], 2)
    entry = digest.entries[0]
    for name in ("id", "title", "authors", "categories", "abstract", "date"):
        assert getattr(entry, name) == getattr(first, name)


def test_bibtex():
    found = [
        Entry(
            id="2601.00001",
            title="On 50% of {x} & $a_b$_c",
            authors=("José Ñandú", "Luther King, Jr."),
            categories=("cs.CV",),
        ),
        Entry(id="2601.00002", title="On 50% of {", authors=("José Ñandú",), doi="10.1/x"),
    ]
    text = bibtex(found)
    assert "@misc{nandu202650," in text
    assert "@misc{nandu202650-2," in text
    assert "title = {{On 50\\% of {x} \\& $a_b$\\_c}}" in text
    assert "author = {José Ñandú and {Luther King, Jr.}}" in text
    assert text.count("{") == text.count("}")


def test_every_format_writes_every_source(seeds):
    digests = [detect.read_file(path) for path in seeds]
    for form in FORMATS:
        for digest in digests:
            text = render_digest(digest, form)
            assert all(entry.id in text for entry in digest.entries)
    with pytest.raises(UnknownName, match="toc, bilingual"):
        render([], "pdf")


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "//x.y",
        "http://",
        "http://[",
        "https://a b",
        'https://a/"onx',
        "ftp://a",
        "",
    ],
)
def test_only_plain_web_addresses_are_links(address):
    assert safe_address(address) == ""
    assert safe_address("https://arxiv.org/abs/2601.00001?x=1#y") == "https://arxiv.org/abs/2601.00001?x=1#y"


def test_paragraphs():
    assert paragraphs("a\nb\n  c\n\nd ") == ["a b", "c", "d"]
