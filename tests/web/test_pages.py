"""Every kind of page: right, safe, and small."""

from __future__ import annotations

import re

import pytest
from tests.web.conftest import CONTRADICTED, DAY, HOSTILE, ODD, SUPPORTED, evidence, verdict
from tests.web.reading import Reader

from assay.papers.card import AREAS
from assay.papers.digests.store import Store
from assay.web.addresses import list_path, paper_path
from assay.web.library import Filters, Library
from assay.web.pages import Site

LIMIT = 200_000
KINDS = [
    "",
    "zh/",
    "search/",
    "search/2/",
    "zh/search/3/",
    "days/",
    f"day/{DAY}/",
    f"day/{DAY}/6/",
    f"zh/day/{DAY}/2/",
    f"day/{DAY}/in/eess.IV/",
    f"day/{DAY}/in/eess.IV/2/",
    "day/2026-02-06/",
    "zh/day/2026-02-06/",
    "day/unknown/",
    "overview/",
    "claims/",
    "trends/",
    "area/labels/",
    paper_path(SUPPORTED),
    paper_path(CONTRADICTED),
    paper_path("2602.06938"),
    paper_path(HOSTILE.key),
    *(paper_path(entry.key) for entry in ODD),
]
QUERIES = [
    {"q": "diffusion"},
    {"q": "<script>alert(1)</script>\"'", "author": "<img onerror=1>", "day": '"><b>', "category": "'><script>"},
    {"q": "x" * 5000, "page": "999999"},
    {"q": "nothing-has-this-word"},
    {"area": "labels", "verdict": "supported"},
]


@pytest.mark.parametrize("path", KINDS)
def test_page_is_well_formed_safe_and_small(site, path):
    page = site.page(path)
    assert page.status == 200, path
    assert len(page.text.encode("utf-8", "replace")) < LIMIT
    read = Reader(page.text)
    assert len(read.ids) == len(set(read.ids))
    assert read.tags.count("h1") == 1
    assert "<script>alert" not in page.text
    assert "<img src=x" not in page.text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x07]", page.text)


@pytest.mark.parametrize("query", QUERIES)
def test_search_is_well_formed_safe_and_small(site, query):
    for path in ("search/", "zh/search/"):
        page = site.page(path, query)
        assert page.status in {200, 404}
        assert len(page.text.encode()) < LIMIT
        Reader(page.text)
        assert "<script>alert" not in page.text
    Reader("<div>" + site.fragment(query).text + "</div>")


@pytest.mark.parametrize(
    "path",
    [
        "nope/",
        "day/2001-01-01/",
        f"day/{DAY}/7/",
        f"day/{DAY}/0/",
        f"day/{DAY}/01/",
        f"day/{DAY}/in/cs.XX/",
        "search/99/",
        "paper/9999.99999/",
        "paper/_long-0/",
        "paper/%/",
        "area/nope/",
        "claims/2/",
        "claims/x/",
        "zh/overview/",
        "paper/\x00/",
        "a/" * 60,
        f"paper/{SUPPORTED}/nope.csv",
        "paper/2602.06938/trials.csv",
    ],
)
def test_what_is_not_there_is_told_as_404(site, path):
    page = site.page(path)
    assert page.status == 404
    Reader(page.text)


def test_an_address_without_its_slash_leads_to_the_page(site):
    assert site.page("overview").location == "overview/"
    assert site.page("//search", {"q": "a b"}).location == "search/?q=a+b"
    assert site.page("paper/hep-th/9901001/").location == "paper/hep-th_2f9901001/"
    assert site.page("/evil.example/x").location == "evil.example/x/"


def test_inner_links_lead_somewhere(site):
    """Every link of every kind of page, resolved as a browser would."""
    from urllib.parse import urljoin

    for path in KINDS:
        for link in set(Reader(site.page(path).text).inner):
            target = urljoin(f"/{path}", link).lstrip("/")
            if not target.startswith(("static/", "figure/")):
                assert site.page(target).status == 200, (path, link)


def test_a_day_is_parted_by_category_and_pages(site):
    found = Reader(site.page(f"day/{DAY}/").text)
    assert "eess.IV" in found.text
    listed = [
        key
        for page in range(1, 7)
        for key in re.findall(r'<a href="[./]*paper/([\d.]+)/"', site.page(list_path(day=DAY, page=page)).text)
    ]
    assert len(listed) == len(set(listed)) == 101
    of_category = site.library.day(DAY, "eess.IV")
    assert of_category.count == sum(1 for n in range(1, 101) if n % 3 == 0)
    assert all("eess.IV" in row.entry.categories for row in of_category.rows)


def test_language_switch_keeps_the_place(site):
    english, chinese = site.page(f"day/{DAY}/2/").text, site.page(f"zh/day/{DAY}/2/").text
    assert f'href="../../../zh/day/{DAY}/2/" hreflang="zh"' in english
    assert f'href="../../../../day/{DAY}/2/" hreflang="en"' in chinese
    assert "用于图像分割的扩散模型" in chinese
    assert "lang=zh" not in chinese
    assert "zh/search/?q=a" in site.page("search/", {"q": "a diffusion", "day": "2026"}).text.replace("&amp;", "&")


def test_filters_work_together(site):
    library = site.library

    def keys(**filters):
        rows, _ = library.find(Filters(**filters))
        return {row.key for row in rows}

    assert keys(area="labels", verdict="supported") == {SUPPORTED}
    assert keys(area="labels", verdict="contradicted") == set()
    assert keys(verdict="contradicted", runs="yes") == {CONTRADICTED}, "papers of the catalogue that no digest names"
    assert keys(verdict="stale") == {SUPPORTED, CONTRADICTED}
    assert keys(runs="no", verdict="stale") == set()
    assert keys(words="crowd", area="labels", day=DAY, category="cs.CV") >= {SUPPORTED}
    assert keys(words="diffusion", author="Grace Hopper3", category="eess.IV", day="2026-02") == {
        f"2602.{n:05d}" for n in range(1, 101) if n % 7 == 3 and n % 3 == 0
    }
    assert keys(day="2026-02-06") == {HOSTILE.key, "2602.00200"}
    assert keys(words="part", day="2026-02-06", until="2026-02-07") == {"2602.00200"}
    assert keys(words="strings", until="1999-12", day="1999") == {"hep-th/9901001"}


def test_filters_fill_the_form_again(site):
    page = site.page("search/", {"area": "labels", "verdict": "stale", "author": 'A "B"', "day": "2026"}).text
    assert "<option selected>labels</option>" in page
    assert "<option selected>stale</option>" in page
    assert 'name="author" value="A &#34;B&#34;"' in page
    assert "<details open><summary>Filters" in page


def test_a_page_with_filters_keeps_them_on_the_next(site):
    text = site.page("search/", {"q": "diffusion", "category": "cs.CV"}).text
    assert "search/?q=diffusion&amp;category=cs.CV&amp;page=2" in text
    assert "page=3" in site.page("search/", {"q": "diffusion", "category": "cs.CV", "page": "2"}).text


def test_verdicts_stand_beside_the_kind_of_data_and_the_stale_mark(site):
    paths = [paper_path(SUPPORTED), "claims/", "area/labels/", "overview/", f"day/{DAY}/", "search/"]
    for path in paths:
        text = site.page(path, {"verdict": "supported"} if path == "search/" else {}).text
        assert "real data" in text, path
        assert ">stale</span>" in text, path
    claims = site.page("claims/").text
    assert claims.count('class="badge contradicted"') == claims.count("real and simulated data") == 41


def test_a_paper_page_has_all_it_takes_to_judge_and_use_it(site):
    text = site.page(paper_path(SUPPORTED)).text
    for words in ("The idea", "What the paper claims", "What we found", "+2 points", "0.05 [0.04, 0.06]", "Stale:",
                  f"assay run {SUPPORTED}", f"assay apply {SUPPORTED}", "from assay.methods.labels import",
                  "negative control: held", "Every trial as CSV", "arXiv page", "Means over seeds"):  # fmt: skip
        assert words in text, words


def test_many_trials_are_folded_and_bounded(site):
    text = site.page(paper_path(CONTRADICTED)).text
    assert "The first 30 of 3000 trials" in text
    table = site.page(f"{paper_path(CONTRADICTED)}trials.csv")
    assert table.kind == "text/csv"
    assert table.text.count("\n") == 3001


def test_hostile_addresses_become_no_link(site):
    for entry in ODD:
        links = Reader(site.page(paper_path(entry.key)).text).links
        assert not any("onclick" in link or "javascript" in link for link in links)
    assert "https://example.org/a.pdf" in Reader(site.page(paper_path(ODD[2].key)).text).links


def test_a_long_abstract_is_cut_in_lists_and_on_its_page(site):
    listed = site.page("day/2026-02-06/").text
    assert "The whole abstract" in listed
    assert len(site.page(paper_path(HOSTILE.key)).text) < LIMIT


def test_damaged_evidence_of_one_paper_leaves_the_others(home, tmp_path):
    (tmp_path / "evidence" / f"{SUPPORTED}.json").write_text('{"format": 1, "verdicts": [')
    site = Site(Library(home / "digests.sqlite"))
    assert "evidence file damaged" in site.page(paper_path(SUPPORTED)).text
    assert site.page("claims/").status == 200
    assert "contradicted" in site.page(paper_path(CONTRADICTED)).text
    assert str(tmp_path) not in site.page(paper_path(SUPPORTED)).text


def test_without_a_digest_the_catalogue_is_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("ASSAY_EVIDENCE", str(tmp_path / "none"))
    site = Site(Library(tmp_path / "none.sqlite"))
    for path in ("", "zh/", "search/", "search/2/", "days/", "overview/", "claims/", "trends/", paper_path(SUPPORTED)):
        page = site.page(path)
        assert page.status == 200, path
        Reader(page.text)
    assert not (tmp_path / "none.sqlite").exists()
    assert "CytoCrowd" in site.page("search/", {"q": "cytocrowd", "area": "labels"}).text


def test_a_catalogue_full_of_evidence_still_fits(home, tmp_path, monkeypatch):
    """Every paper of the catalogue with twenty claims: no page grows beyond its limit."""
    from assay.lab import record
    from assay.papers import catalogue

    found = [verdict(f"C{n}", ("supported", "contradicted", "inconclusive")[n % 3], 0.1 * n - 1) for n in range(20)]
    monkeypatch.setattr(catalogue, "runs", lambda card: True)
    ids = list(catalogue.cards())
    for paper in ids:
        record.write(evidence(paper, found))
    site = Site(Library(home / "digests.sqlite"))
    for path in ("claims/", "overview/", *(f"area/{area}/" for area in AREAS)):
        assert len(site.page(path).text.encode()) < LIMIT, path
    assert f"{20 * len(ids)} measured claims" in Reader(site.page("claims/").text).text
    listed, page = 0, 1
    while (shown := site.page(f"claims/{page}/" if page > 1 else "claims/")).status == 200:
        assert len(shown.text.encode()) < LIMIT, page
        listed, page = listed + shown.text.count('<section class="of-paper">'), page + 1
    assert listed == len(ids)


def test_topics_are_counted_by_day(site):
    found = site.library.trends
    assert found is not None
    assert found.periods[-2:] == (DAY, "2026-02-06")
    segmentation = next(trend for trend in found.topics if trend.name == "segmentation")
    assert segmentation.counts[-2:] == (100, 1)
    category = next(trend for trend in found.categories if trend.name == "cs.CV")
    assert category.total == 103
    assert "segmentation" in Reader(site.page("trends/").text).text


def test_many_days_are_counted_by_month(assay_home):
    from assay.papers.digests.entry import Digest, Entry
    from assay.web.topics import trends

    with Store(assay_home / "digests.sqlite") as store:
        for n in range(90):
            day = f"2025-{1 + n // 28:02d}-{1 + n % 28:02d}"
            store.add(Digest("jsonl", day, day, [Entry(id=f"2501.{n:05d}", title=f"Video {n}", date=day)]))
        found = trends(store)
    assert found.periods == ("2025-01", "2025-02", "2025-03", "2025-04")
    assert found.papers == (28, 28, 28, 6)
    assert found.topics[0].counts == (28, 28, 28, 6)
