"""JSON lines and arXiv's feeds, from samples of our own making."""

from __future__ import annotations

import json

import pytest

from assay.errors import InputError
from assay.papers.digests import detect, jsonl

ATOM = """<?xml version='1.0' encoding='UTF-8'?>
<feed xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns:os="http://a9.com/-/spec/opensearch/1.1/" xmlns="http://www.w3.org/2005/Atom">
  <id>https://arxiv.org/api/abc</id><title>arXiv Query</title><updated>2026-02-06T18:34:08Z</updated>
  <os:totalResults>2</os:totalResults>
  <entry>
    <id>http://arxiv.org/abs/2602.00001v2</id>
    <title>A title that
  breaks &amp; goes on</title>
    <updated>2026-02-05T10:00:00Z</updated><published>2026-02-01T09:00:00Z</published>
    <link href="https://arxiv.org/abs/2602.00001v2" rel="alternate" type="text/html"/>
    <link href="https://arxiv.org/pdf/2602.00001v2" rel="related" type="application/pdf" title="pdf"/>
    <link href="https://doi.org/10.1/x" rel="related" title="doi"/>
    <summary>First paragraph with $x&lt;y$.
  Second paragraph.</summary>
    <category term="cs.LG" scheme="http://arxiv.org/schemas/atom"/><category term="cs.CV"/>
    <arxiv:primary_category term="cs.CV"/>
    <arxiv:comment>12 pages</arxiv:comment><arxiv:journal_ref>J. 1</arxiv:journal_ref><arxiv:doi>10.1/x</arxiv:doi>
    <author><name>Ana "Nina" O'Brien</name><arxiv:affiliation>Univ, A</arxiv:affiliation></author>
    <author><name>Luther King, Jr.</name></author>
    <rights>CC</rights>
  </entry>
  <entry><id>http://arxiv.org/abs/hep-th/9901001v1</id><title>Old</title></entry>
</feed>
"""
RSS = """<?xml version='1.0' encoding='UTF-8'?>
<rss xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns:dc="http://purl.org/dc/elements/1.1/" version="2.0"><channel>
<title>cs.CV updates on arXiv.org</title><link>http://rss.arxiv.org/rss/cs.CV</link>
<pubDate>Fri, 06 Feb 2026 00:00:00 -0500</pubDate>
<item><title>Paper &lt;b&gt;one&lt;/b&gt;</title><link>https://arxiv.org/abs/2602.00003</link>
<description>arXiv:2602.00003v1 Announce Type: replace-cross
Abstract: Body of one.</description>
<guid isPermaLink="false">oai:arXiv.org:2602.00003v1</guid><category>cs.CV</category><category>cs.RO</category>
<pubDate>Fri, 06 Feb 2026 00:00:00 -0500</pubDate><arxiv:announce_type>replace-cross</arxiv:announce_type>
<dc:rights>http://creativecommons.org/licenses/by/4.0/</dc:rights><dc:creator>Jie Tan, Yu Rong</dc:creator></item>
<item><description>nameless</description></item>
</channel></rss>
"""
RDF = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">
<channel rdf:about="http://arxiv.org/"><title>cs.CV updates</title><dc:date>2023-01-05</dc:date></channel>
<item rdf:about="http://arxiv.org/abs/2301.00001"><title>Old style. (arXiv:2301.00001v1 [cs.CV])</title>
<link>http://arxiv.org/abs/2301.00001</link><description>&lt;p&gt;Text &amp;amp; more&lt;/p&gt;</description>
<dc:creator>&lt;a href="http://arxiv.org/find/1"&gt;A. One&lt;/a&gt;,
&lt;a href="x"&gt;B. Two&lt;/a&gt;</dc:creator></item></rdf:RDF>
"""
OAI = """<?xml version="1.0"?>
<oai:OAI-PMH xmlns:oai="http://www.openarchives.org/OAI/2.0/"><oai:responseDate>2026-02-06T00:00:00Z</oai:responseDate>
<oai:ListRecords>
<oai:record><oai:header><oai:identifier>oai:arXiv.org:2602.00004</oai:identifier><oai:datestamp>2026-02-05</oai:datestamp>
<oai:setSpec>cs</oai:setSpec></oai:header><oai:metadata><a:arXiv xmlns:a="http://arxiv.org/OAI/arXiv/">
<a:id>2602.00004</a:id><a:created>2026-02-03</a:created><a:updated>2026-02-04</a:updated>
<a:authors><a:author><a:keyname>King</a:keyname><a:forenames>Martin Luther</a:forenames><a:suffix>Jr.</a:suffix>
<a:affiliation>X</a:affiliation></a:author><a:author><a:keyname>Team</a:keyname></a:author></a:authors>
<a:title>From OAI</a:title><a:categories>cs.CV cs.LG</a:categories><a:comments>c</a:comments>
<a:msc-class>68</a:msc-class>
<a:license>http://l</a:license><a:abstract>  Abs.
  Second.
</a:abstract></a:arXiv></oai:metadata></oai:record>
<oai:record><oai:header status="deleted">
<oai:identifier>oai:arXiv.org:2602.00005</oai:identifier></oai:header></oai:record>
<oai:record><oai:header><oai:identifier>oai:arXiv.org:2602.00006</oai:identifier></oai:header></oai:record>
<oai:resumptionToken cursor="0" completeListSize="9">tok</oai:resumptionToken></oai:ListRecords></oai:OAI-PMH>
"""
LINE = {
    "id": "2510.09842",
    "categories": ["cs.NI", "cs.AR"],
    "pdf": "https://arxiv.org/pdf/2510.09842",
    "abs": "https://arxiv.org/abs/2510.09842",
    "authors": ["Mo J. B", "King, Jr."],
    "title": "T",
    "comment": None,
    "summary": "One\ntwo.\n  Three.",
    "score": 3.5,
    "AI": {"tldr": "短", "motivation": "为", "method": "法", "result": "果", "conclusion": "论", "more": [1]},
}


def test_atom():
    digest = detect.read(ATOM.encode(), "q.xml")
    assert (digest.format, digest.day, digest.problems, digest.facts["totalResults"]) == ("atom", "2026-02-06", [], "2")
    entry, old = digest.entries
    assert (entry.id, entry.version, entry.title) == ("2602.00001", "v2", "A title that breaks & goes on")
    assert entry.abstract == "First paragraph with $x<y$.\n  Second paragraph."
    assert entry.authors == ('Ana "Nina" O\'Brien', "Luther King, Jr.")
    assert entry.extra == {"affiliations": {'Ana "Nina" O\'Brien': ["Univ, A"]}, "rights": "CC"}
    assert entry.categories == ("cs.CV", "cs.LG")
    assert (entry.date, entry.updated) == ("2026-02-01T09:00:00Z", "2026-02-05T10:00:00Z")
    assert (entry.comment, entry.journal, entry.doi) == ("12 pages", "J. 1", "10.1/x")
    assert set(entry.links) == {"abs", "pdf", "doi"}
    assert (old.id, old.abstract, old.line) == ("hep-th/9901001", None, 22)


def test_an_error_of_the_api_is_told():
    text = ATOM.split("  <entry>")[0] + (
        "<entry><id>http://arxiv.org/api/errors#x</id><title>Error</title><summary>bad id</summary></entry></feed>"
    )
    digest = detect.read(text.encode(), "q.xml")
    assert digest.entries == []
    assert "bad id" in str(digest.problems[0])


def test_rss():
    digest = detect.read(RSS.encode(), "rss")
    entry = digest.entries[0]
    assert (digest.format, digest.day, entry.id, entry.version) == ("rss", "2026-02-06", "2602.00003", "v1")
    assert (entry.title, entry.abstract) == ("Paper <b>one</b>", "Body of one.")
    assert (entry.authors, entry.categories) == (("Jie Tan", "Yu Rong"), ("cs.CV", "cs.RO"))
    assert entry.extra["announce_type"] == "replace-cross"
    assert [p.line for p in digest.problems] == [11]


def test_rss_of_the_older_kind():
    entry = detect.read(RDF.encode(), "rdf").entries[0]
    assert (entry.id, entry.version, entry.title, entry.abstract) == ("2301.00001", "v1", "Old style", "Text & more")
    assert (entry.authors, entry.categories) == (("A. One", "B. Two"), ("cs.CV",))


def test_oai_with_any_prefix():
    digest = detect.read(OAI.encode(), "oai")
    (entry,) = digest.entries
    assert (entry.id, entry.title, entry.abstract) == ("2602.00004", "From OAI", "Abs.\n  Second.")
    assert entry.authors == ("Martin Luther King Jr.", "Team")
    assert (entry.categories, entry.date, entry.updated, entry.comment) == (
        ("cs.CV", "cs.LG"),
        "2026-02-03",
        "2026-02-04",
        "c",
    )
    assert entry.extra["msc-class"] == "68"
    assert entry.extra["setSpec"] == ["cs"]
    assert digest.facts["resumptionToken"] == "tok"
    assert digest.facts["deleted"] == ["oai:arXiv.org:2602.00005"]
    assert len(digest.problems) == 1


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "http://x/y.dtd">',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
    ],
)
@pytest.mark.parametrize("text", [ATOM, RSS, OAI])
def test_documents_with_entities_are_refused(text, declared):
    at = text.index("?>") + 2
    with pytest.raises(InputError, match="refused"):
        detect.read((text[:at] + declared + text[at:]).encode(), "evil")


def test_nesting_is_bounded():
    with pytest.raises(InputError, match="nested"):
        detect.read(b"<feed><entry>" + b"<a>" * 100_000, "deep")


def test_what_comes_before_a_fault_is_read():
    digest = detect.read(ATOM[: ATOM.index("<entry><id>http://arxiv.org/abs/hep")].encode() + b"<entry><id>&", "cut")
    assert [entry.id for entry in digest.entries] == ["2602.00001"]
    assert digest.problems[0].line >= 22


@pytest.mark.parametrize("data", [b"", b"hello", b"<html></html>", b"\xff\xfe\x00", b"[]", b"<feed", b"\x00" * 99])
def test_other_content_is_refused_in_one_line(data):
    with pytest.raises(InputError) as told:
        detect.read(data, "x")
    assert "\n" not in str(told.value)


def test_json_lines_keep_every_field_and_come_back():
    digest = detect.read(json.dumps(LINE).encode(), "2025-10-14_AI_enhanced_Chinese.jsonl")
    (entry,) = digest.entries
    assert (digest.day, digest.problems, entry.id, entry.summary_language) == ("2025-10-14", [], "2510.09842", "zh")
    assert entry.abstract == LINE["summary"]
    assert entry.extra == {"score": 3.5, "AI.more": [1]}
    assert json.loads(jsonl.render([entry])) == LINE


def test_json_lines_tell_what_cannot_be_read():
    bad = [
        '{"id": 3}',
        "{",
        "[]",
        '{"title": "ok", "authors": 3, "AI": 1}',
        '{"title": "\\ud800"}',
        "{" * 100_000,
        '{"id": 1e999}',
        "{}",
    ]
    digest = detect.read("\n".join(bad).encode(), "x.jsonl")
    assert [entry.title for entry in digest.entries] == ["ok", "\ufffd"]
    assert {p.line for p in digest.problems} == {1, 2, 3, 4, 5, 6, 7, 8}


def test_text_that_is_not_utf8_is_read_and_told():
    digest = detect.read('{"title": "caf\xe9"}'.encode("latin-1"), "x")
    assert digest.entries[0].title == "caf\ufffd"
    assert "UTF-8" in str(digest.problems[0])
