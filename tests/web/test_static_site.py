"""The static site: every link leads to a file, nothing needs a server."""

from __future__ import annotations

import json
import posixpath
from pathlib import Path

import pytest
from tests.web.conftest import DAY, SUPPORTED
from tests.web.reading import Reader

from assay.errors import InputError
from assay.web import figures, site
from assay.web.addresses import paper_path


@pytest.fixture
def built(home, tmp_path):
    out = tmp_path / "site"
    pages = site.build(home / "digests.sqlite", out, with_figures=False)
    assert pages == sum(1 for _ in out.rglob("index.html"))
    return out


def pages_of(out: Path) -> dict[str, Reader]:
    """Every page by the path of its folder."""
    return {
        path.parent.relative_to(out).as_posix(): Reader(path.read_text(encoding="utf-8"))
        for path in out.rglob("index.html")
    }


def test_every_link_leads_to_a_file_and_everything_is_reached(built):
    found = pages_of(built)
    reached = {"."}
    for folder, page in found.items():
        for link in set(page.inner):
            target = posixpath.normpath(posixpath.join(folder, link))
            path = built / target
            assert path.is_file() or (path / "index.html").is_file(), (folder, link)
            assert not target.startswith(".."), (folder, link)
        for path in page.ids:
            assert path
    todo = ["."]
    while todo:
        folder = todo.pop()
        for link in found[folder].inner:
            target = posixpath.normpath(posixpath.join(folder, link))
            if target in found and target not in reached:
                reached.add(target)
                todo.append(target)
    assert reached == set(found), "without JavaScript, links alone lead to every page"


def test_pages_carry_their_policy_and_stay_small(built):
    for path in built.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "Content-Security-Policy" in text
        assert len(text.encode()) < 200_000
        assert "?page" not in text
        assert "http://" not in text.replace("http://www.w3.org", "")


def test_no_link_depends_on_a_query_for_its_page(built):
    for folder, page in pages_of(built).items():
        for link in page.links:
            if "?" in link and "://" not in link:
                assert "search/?" in link, (folder, link)


def test_the_index_finds_papers(built):
    rows = json.loads((built / "static" / "index.json").read_text(encoding="utf-8"))
    known = next(row for row in rows if row["id"] == SUPPORTED)
    assert known["path"] == paper_path(SUPPORTED)
    assert known["verdicts"] == ["supported", "stale"]
    assert known["data"] == "real"
    assert "crowd" in known["text"]
    assert all((built / row["path"] / "index.html").is_file() for row in rows)
    assert sum("noise" in row["text"] for row in rows) >= 101, "words of abstracts are found"
    assert len(json.dumps(rows[0])) < 20_000


def test_trials_and_host_files_are_there(built):
    assert (built / paper_path(SUPPORTED) / "trials.csv").read_text().startswith("paper,scale,arm")
    assert (built / ".nojekyll").is_file()
    assert (built / "404.html").is_file()


def test_building_again_takes_away_what_is_gone_and_leaves_what_is_not_ours(built, home):
    own = built / "CNAME"
    own.write_text("papers.example")
    assert (built / "day" / DAY / "2" / "index.html").is_file()
    (home / "digests.sqlite").unlink()
    site.build(home / "digests.sqlite", built, with_figures=False)
    assert not (built / "day").exists()
    assert own.is_file()
    listed = built / ".assay-files"
    listed.write_text(listed.read_text() + "../outside\n/etc/hostname\n")
    outside = built.parent / "outside"
    outside.write_text("not ours")
    site.build(home / "digests.sqlite", built, with_figures=False)
    assert outside.is_file()
    assert Path("/etc/hostname").exists()


def test_the_same_input_gives_the_same_files(built, home, tmp_path):
    again = tmp_path / "again"
    site.build(home / "digests.sqlite", again, with_figures=False)
    for path in built.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(built)).read_bytes()


def test_figures_that_can_be_drawn_are_shown(home, tmp_path, monkeypatch):
    def draw(papers, seconds=0.0):
        summary = site.Library(home / "x").states[SUPPORTED].summary
        (home / "figures").mkdir()
        (home / "figures" / f"{figures.stem_of(summary)}.png").write_bytes(b"png")
        (home / "figures" / f"{figures.stem_of(summary)}.svg").write_bytes(b"svg")

    monkeypatch.setattr(figures, "draw", draw)
    out = tmp_path / "site"
    site.build(home / "digests.sqlite", out)
    with_figure = [path for path in out.rglob("index.html") if "figure/" in path.read_text(encoding="utf-8")]
    assert with_figure == [out / "paper" / SUPPORTED / "index.html"]
    assert len(list((out / "figure").iterdir())) == 2


def test_a_file_in_the_way_is_told(home, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="needs a folder"):
        site.build(home / "digests.sqlite", tmp_path / "file")
