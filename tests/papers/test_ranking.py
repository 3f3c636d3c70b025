"""Ranking against slow formulas and plain expectations; libraries in the formats people export."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError
from assay.papers import ranking
from assay.papers.digests.entry import Entry
from assay.papers.library import arxiv_id, read_library

CATS = Entry(id="1", title="Cats on mats", abstract="We segment cats lying on mats.")
SPLATS = Entry(id="2", title="Gaussian splatting of streets", abstract="Splats render driving scenes in real time.")
SPLAT_PRUNING = Entry(id="3", title="Pruning Gaussian splats", abstract="We remove splats and keep rendering quality.")
CHINESE = Entry(id="4", title="高斯泼溅", abstract="我们提出一种高斯泼溅方法。")
ALL = [CATS, SPLATS, SPLAT_PRUNING, CHINESE]

texts = st.lists(st.lists(st.sampled_from("abcdef"), max_size=8), min_size=1, max_size=8)


@given(texts, st.lists(st.sampled_from("abcdefg"), max_size=6))
def test_bm25_against_the_formula(documents, query):
    k1, b = 1.2, 0.75
    mean = sum(map(len, documents)) / len(documents) or 1
    expected = []
    for document in documents:
        total = 0.0
        for word, weight in Counter(query).items():
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            f = document.count(word)
            total += weight * idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(document) / mean)) if f else 0
        expected.append(total)
    assert ranking.BM25(documents).scores(Counter(query)) == pytest.approx(expected)


def test_by_words_prefers_what_is_alike():
    scores = ranking.by_words(
        ALL, [Entry(id="9", title="Compact Gaussian splats", abstract="Fewer splats, same quality.")]
    )
    assert ranking.order(ALL, scores)[0].id == "3"
    assert scores[0] == scores[3] == 0
    zh = ranking.by_words(ALL, [Entry(title="高斯泼溅的压缩")])
    assert max(range(4), key=zh.__getitem__) == 3


def test_by_words_and_by_meaning_take_nothing():
    assert ranking.by_words([], [CATS]) == []
    assert ranking.by_words(ALL, []) == [0.0] * 4
    assert ranking.by_meaning([], [CATS], None) == []


def test_by_meaning_is_the_mean_of_the_three_nearest():
    vectors = {
        t: v / np.linalg.norm(v) for t, v in zip("abcde", np.random.default_rng(0).normal(size=(5, 4)), strict=True)
    }
    liked = [Entry(title=t) for t in "bcde"]
    (score,) = ranking.by_meaning([Entry(title="a")], liked, lambda ts: np.stack([vectors[t[0]] for t in ts]))
    assert score == pytest.approx(np.mean(sorted(vectors["a"] @ vectors[t] for t in "bcde")[-3:]))


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        ("gaussian splatting", "2"),
        ("GAUSSIAN  Splats", "3"),
        ("cat", ""),
        ("高斯", "4"),
        ("", ""),
        ("splats render", "2"),
    ],
)
def test_phrases(phrase, expected):
    assert "".join(e.id for e in ALL if ranking.matches(e, phrase)) == expected


def test_authors():
    entry = Entry(authors=("José Á. García", "Li Wei"))
    assert ranking.by_author(entry, "garcia jose")
    assert ranking.by_author(entry, "Wei")
    assert not ranking.by_author(entry, "Jose Wei")
    assert not ranking.by_author(entry, "")


@given(st.text(max_size=200), st.text(max_size=30))
def test_any_text_can_be_ranked_and_searched(text, phrase):
    entry = Entry(id="1", title=text, abstract=text, authors=(text,))
    ranking.matches(entry, phrase)
    ranking.by_author(entry, phrase)
    assert len(ranking.by_words([entry], [entry])) == 1


BIB = r"""
@comment{ignored}
@article{kerbl2023, title = {{3D} Gaussian {Splatting} \& more}, author = {Kerbl, Bernhard and Doe, Jane},
  abstract = {Radiance fields in real time.}, eprint = {2308.04079}, archiveprefix = {arXiv}}
@misc{two, title="Second paper", howpublished="\url{https://arxiv.org/abs/2401.01234v2}"}
@article{broken, title = {never closed
"""
CSV = """"Key","Item Type","Publication Year","Author","Title","Publication Title","DOI","Url","Abstract Note","Extra"
"AB","preprint","2024","Kerbl, Bernhard; Doe, Jane","A ""quoted"" title",,,"http://arxiv.org/abs/2401.01234","Text.
Second line.","arXiv:2401.01234 [cs]"
"CD","book","1999",,"No id",,,,,
"""
CSL = json.dumps(
    [
        {
            "title": "A",
            "author": [{"family": "Doe", "given": "Jane"}],
            "abstract": "x",
            "URL": "https://arxiv.org/pdf/2401.01234",
        },
        {"title": "B", "number": "arXiv:2402.00001"},
        "nonsense",
    ]
)
RDF = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/"
 xmlns:bib="http://purl.org/net/biblio#" xmlns:foaf="http://xmlns.com/foaf/0.1/" xmlns:dcterms="http://purl.org/dc/terms/">
<rdf:Description rdf:about="http://arxiv.org/abs/2401.01234"><dc:title>Zotero paper</dc:title>
<bib:authors><rdf:Seq><rdf:li><foaf:Person><foaf:surname>Doe</foaf:surname><foaf:givenName>Jane</foaf:givenName></foaf:Person>
</rdf:li></rdf:Seq></bib:authors><dcterms:abstract>Text.</dcterms:abstract></rdf:Description></rdf:RDF>"""


def test_bibtex(tmp_path):
    path = tmp_path / "library.bib"
    path.write_text(BIB)
    one, two = read_library(path)[:2]
    assert (one.id, one.title) == ("2308.04079", "3D Gaussian Splatting & more")
    assert one.abstract == "Radiance fields in real time."
    assert (two.id, two.title) == ("2401.01234", "Second paper")


@pytest.mark.parametrize(
    ("name", "text"), [("z.csv", CSV), ("z.json", CSL), ("z.rdf", RDF), ("bom.csv", "\ufeff" + CSV)]
)
def test_zotero_exports(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    first = read_library(path)[0]
    assert first.id == "2401.01234"
    assert first.abstract
    assert any("Doe" in author for author in first.authors)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\xff\xfe\x00",
        b"[" * 5000,
        b"{}",
        b"<x/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        b"@article{",
    ],
)
def test_what_is_no_library_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError) as failure:
        read_library(path)
    assert "\n" not in str(failure.value)
    with pytest.raises(InputError):
        read_library(tmp_path / "missing.bib")


@given(st.binary(max_size=300) | st.text(alphabet='@{}(),="\\ab\n', max_size=200).map(str.encode))
def test_hostile_libraries_raise_nothing_else(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "hostile"
    path.write_bytes(content)
    try:
        found = read_library(path)
    except InputError:
        return
    assert found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2401.01234", "2401.01234"), ("arXiv:2401.01234v3 [cs.CV]", "2401.01234"),
        ("https://arxiv.org/pdf/2401.01234", "2401.01234"), ("10.48550/arXiv.2401.01234", "2401.01234"),
        ("price 2401.01234 euros", ""), ("", ""), (None, ""),
    ],
)  # fmt: skip
def test_ids_in_fields(text, expected):
    assert arxiv_id(text) == expected
