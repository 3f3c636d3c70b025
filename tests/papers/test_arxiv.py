"""arXiv's interfaces against a local server: pages, politeness, resuming, conditional requests, refusals."""

from __future__ import annotations

from datetime import date

import pytest
from arxiv_server import Paper

from assay.errors import InputError
from assay.net import Patience
from assay.papers.arxiv import Arxiv, ArxivError, day_of, unique
from assay.papers.digests.entry import Entry

PAPERS = [Paper(f"2602.{i:05d}", f"Title {i}", f"Abstract of {i}.", day=f"2026-02-{i:02d}") for i in range(1, 9)]
FEB = (date(2026, 2, 1), date(2026, 2, 28))


@pytest.fixture
def server(arxiv):
    arxiv.papers = list(PAPERS)
    return arxiv


def quick(tmp_path, waits=None, **options):
    """arXiv without waiting; what would be waited is noted."""
    noted = waits if waits is not None else []
    patience = Patience(**{"tries": 3, "first_wait": 6.0, "longest_wait": 60.0, "seconds": 5.0, **options})
    return Arxiv(tmp_path, pause=3.0, patience=patience, sleep=noted.append)


def ids(entries):
    return [entry.id for entry in entries]


def test_query_pages_through_everything_in_the_span(server, tmp_path):
    found = quick(tmp_path).query(["cs.CV"], date(2026, 2, 2), date(2026, 2, 8))
    assert ids(found) == [p.id for p in PAPERS[1:]]
    assert found[0].title == "Title 2"
    assert found[0].date.startswith("2026-02-02")
    assert len(server.seen) == 3


def test_one_request_in_three_seconds_over_all_interfaces(server, tmp_path):
    waits = []
    arxiv = quick(tmp_path, waits)
    arxiv.query(["cs.CV"], *FEB)
    quick(tmp_path, waits).today(["cs.CV"])
    quick(tmp_path, waits).bulk(["cs.CV"], *FEB)
    assert len(waits) == len(server.seen) - 1
    assert all(2.5 < wait <= 3.0 for wait in waits)


def test_the_pause_is_really_kept(server, tmp_path):
    Arxiv(tmp_path, pause=0.15).query(["cs.CV"], *FEB)
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert len(gaps) == 2
    assert min(gaps) >= 0.15


def test_busy_servers_are_asked_again_after_the_time_they_name(server, tmp_path):
    waits = []
    server.failures = [(503, {"Retry-After": "20"}), (500, {})]
    assert len(quick(tmp_path, waits).query(["cs.CV"], date(2026, 2, 1), date(2026, 2, 2))) == 2
    assert waits[0] == 20
    assert waits[1] >= 3.0
    server.failures = [(500, {})] * 9
    with pytest.raises(ArxivError, match="3 tries"):
        quick(tmp_path).today(["cs.CV"])


def test_conditional_requests_reuse_the_answer(server, tmp_path):
    first = quick(tmp_path).today(["cs.CV"])
    second = quick(tmp_path).today(["cs.CV"])
    assert ids(first) == ids(second) == [p.id for p in PAPERS]
    assert "if-none-match" not in server.seen[0][1]
    assert server.seen[1][1]["if-none-match"]
    assert server.seen[1][1]["if-modified-since"] == "Thu, 05 Feb 2026 00:00:00 GMT"
    server.papers.append(Paper("2602.00099", "Late", "Late one."))
    assert "2602.00099" in ids(quick(tmp_path).today(["cs.CV"]))


def test_today_leaves_out_replaced_papers_and_joins_categories(server, tmp_path):
    server.papers = [
        Paper("2602.00001", "New", "a"),
        Paper("2602.00002", "Cross", "b", categories=("eess.IV", "cs.CV"), announced="cross"),
        Paper("2602.00003", "Old", "c", announced="replace"),
        Paper("2602.00004", "Old cross", "d", announced="replace-cross"),
    ]
    found = unique(quick(tmp_path).today(["cs.CV", "eess.IV"]))
    assert ids(found) == ["2602.00001", "2602.00002"]
    assert found[1].categories == ("eess.IV", "cs.CV")
    assert found[0].abstract == "a"


@pytest.mark.parametrize("interface", ["query", "bulk"])
def test_a_harvest_goes_on_where_it_stopped(server, tmp_path, interface):
    server.stop_after = 2
    with pytest.raises(ArxivError):
        getattr(quick(tmp_path), interface)(["cs.CV"], *FEB)
    before = len(server.seen)
    server.stop_after = None
    found = getattr(quick(tmp_path), interface)(["cs.CV"], *FEB)
    assert ids(found) == [p.id for p in PAPERS]
    assert len(server.seen) - before == 1
    assert not list((tmp_path / "harvests").glob("*.json"))


def test_empty_pages_are_asked_again(server, tmp_path):
    server.empty_pages = 2
    assert len(quick(tmp_path).query(["cs.CV"], *FEB)) == len(PAPERS)


def test_bulk_keeps_what_was_submitted_in_the_span_and_changed_since(server, tmp_path):
    server.papers = [
        Paper("2602.00001", "In", "a", day="2026-02-03"),
        Paper("2602.00002", "In, changed later", "b", day="2026-02-04", changed="2026-05-01"),
        Paper("2501.00003", "Older, changed", "c", day="2025-01-01", changed="2026-02-03"),
        Paper("2603.00004", "Later", "d", day="2026-03-09"),
        Paper("2602.00005", "Elsewhere", "e", day="2026-02-03", categories=("hep-th",)),
    ]
    assert ids(quick(tmp_path).bulk(["cs.CV"], *FEB)) == ["2602.00001", "2602.00002"]
    assert "set=cs%3Acs%3ACV" in server.paths()[0]
    assert quick(tmp_path).bulk(["cs.RO"], *FEB) == []
    quick(tmp_path).bulk(["astro-ph.CO"], *FEB)
    assert "set=physics%3Aastro-ph%3ACO" in server.paths()[-1]


def test_an_expired_token_says_so_and_begins_again(server, tmp_path):
    first = quick(tmp_path)
    server.stop_after = 1
    with pytest.raises(ArxivError):
        first.bulk(["cs.CV"], *FEB)
    server.stop_after = None
    server.body = b'<OAI-PMH xmlns="x"><error code="badResumptionToken">gone</error></OAI-PMH>'
    with pytest.raises(ArxivError, match="expired"):
        quick(tmp_path).bulk(["cs.CV"], *FEB)
    server.body = None
    assert len(quick(tmp_path).bulk(["cs.CV"], *FEB)) == len(PAPERS)


def test_by_ids_gives_those_that_exist(server, tmp_path):
    assert ids(quick(tmp_path).by_ids(["2602.00003", "2602.99999"])) == ["2602.00003"]


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>maintenance</body></html>",
        b"",
        b"not xml",
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><rss><channel>&a;</channel></rss>',
        b'<rss version="2.0"><channel><item><title>half',
    ],
)
def test_answers_that_are_no_feed_are_refused_and_not_kept(server, tmp_path, body):
    server.body = body
    with pytest.raises(ArxivError) as failure:
        quick(tmp_path).today(["cs.CV"])
    assert "\n" not in str(failure.value)
    server.body = None
    assert len(quick(tmp_path).today(["cs.CV"])) == len(PAPERS)


@pytest.mark.parametrize("category", ["", "cs.CV OR all", "../x", "cs CV", "x" * 50, "cs.CV&start=3"])
def test_categories_are_checked_before_anything_is_asked(server, tmp_path, category):
    with pytest.raises(InputError):
        quick(tmp_path).query([category], *FEB)
    assert not server.seen


def test_days():
    assert day_of("2026-02-05", "--date") == date(2026, 2, 5)
    assert day_of("yesterday", "--date") < day_of("today", "--date")
    for wrong in ("2026-13-01", "5 Feb", "", "2999-01-01", "1900-01-01"):
        with pytest.raises(InputError, match="--since"):
            day_of(wrong, "--since")


def test_duplicates_keep_the_latest_version_and_all_categories():
    one = Entry(id="2602.1", title="a", version="v1", categories=("cs.CV",), date="2026-02-01")
    two = Entry(id="2602.1", title="b", version="v2", categories=("cs.CV", "cs.LG"))
    (found,) = unique([one, two])
    assert (found.title, found.categories, found.date) == ("b", ("cs.CV", "cs.LG"), "2026-02-01")
    assert unique([one, Entry(id="2602.2")])[1].id == "2602.2"
