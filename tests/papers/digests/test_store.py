"""The store: one row per paper, every source kept, all or nothing; search in any language."""

from __future__ import annotations

import os
import sqlite3

import pytest

from assay.errors import StoreError, UnknownName
from assay.papers.digests import detect, index
from assay.papers.digests.entry import Digest, Entry
from assay.papers.digests.render import render_digest
from assay.papers.digests.store import Store


def digest(*entries: Entry, name: str = "a.md", day: str = "2026-02-05", form: str = "toc") -> Digest:
    return Digest(form, name, day, list(entries))


def entry(number: int, title: str, **facts) -> Entry:
    return Entry(id=f"2602.{number:05d}", title=title, **{"categories": ("cs.CV",), **facts})


def titles(papers):
    return [paper.entry.title for paper in papers]


def test_adding_the_seeds_again_changes_nothing(store, seeds):
    for path in seeds:
        store.add(detect.read_file(path))
    before = store.path.read_bytes(), store.count(), store.digests()
    for path in seeds:
        assert store.add(detect.read_file(path)).again
    assert (store.count(), store.digests()) == before[1:]
    assert store.count() == 117
    for kept in store.digests():
        with open(kept.name, "rb") as file:
            assert render_digest(store.digest(kept.number)).encode() == file.read()


def test_a_paper_of_several_digests_is_one_row_with_every_field_of_every_source(store):
    store.add(digest(entry(1, "From digest", tldr="短", extra={"score": 1}), name="one.md"))
    store.add(
        digest(
            entry(1, "Official", abstract="A.", categories=("cs.LG", "cs.CV")), form="atom", name="q", day="2026-02-06"
        )
    )
    store.add(
        digest(entry(1, "Third", authors=("B",), links={"code": "https://github.com/a/b"}), name="three.md", day="")
    )
    assert store.count() == 1
    paper = store.paper("2602.00001")
    assert (paper.entry.title, paper.entry.tldr, paper.entry.abstract, paper.entry.authors) == (
        "Official",
        "短",
        "A.",
        ("B",),
    )
    assert paper.entry.categories == ("cs.LG", "cs.CV")
    assert paper.days == ("2026-02-06", "2026-02-05", "2026-02")
    sources = store.sources("2602.00001")
    assert [(s.name, s.entry.title, s.entry.extra) for s in sources] == [
        ("one.md", "From digest", {"score": 1}),
        ("q", "Official", {}),
        ("three.md", "Third", {}),
    ]
    assert titles(store.search("digest")) == []
    assert titles(store.search("official")) == ["Official"]


def test_the_order_of_adding_does_not_change_arxivs_own_facts(tmp_path):
    one = digest(entry(1, "Digest says"), name="one.md")
    two = digest(entry(1, "arXiv says"), name="q", form="oai")
    for order in ((one, two), (two, one)):
        with Store.in_memory() as store:
            for each in order:
                store.add(each)
            assert store.paper("2602.00001").entry.title == "arXiv says"


def test_papers_without_id_are_told_apart_by_title(store):
    store.add(digest(Entry(title="A  Title!"), Entry(title="Another")))
    store.add(digest(Entry(title="a title", abstract="x"), name="b.md"))
    assert store.count() == 2
    assert store.paper(Entry(title="A Title").key).entry.abstract == "x"


def test_a_digest_is_stored_whole_or_not_at_all(store):
    store.add(digest(entry(1, "Kept")))
    bad = digest(*(entry(i, f"New {i}") for i in range(2, 1400)), name="b.md")
    bad.entries[-1].title = "half \ud800"
    with pytest.raises(UnicodeEncodeError):
        store.add(bad)
    assert (store.count(), len(store.digests()), titles(store.search("new"))) == (1, 1, [])
    assert titles(store.search("kept")) == ["Kept"]


def test_replacing_and_removing(store):
    store.add(digest(entry(1, "Old one"), entry(2, "Stays")))
    store.add(digest(entry(2, "Elsewhere"), name="other.md"))
    added = store.add(digest(entry(1, "New one"), name="a.md"), replace=True)
    assert (titles(store.search("old")), titles(store.search("new"))) == ([], ["New one"])
    assert titles(store.search("elsewhere")) == ["Elsewhere"]
    store.remove(added.digest)
    assert store.paper("2602.00001") is None
    assert store.search("new") == []
    assert store.days() == [("2026-02-05", 1)]
    with pytest.raises(UnknownName):
        store.remove(99)


def test_a_day_given_later_takes_the_place_of_none(store):
    store.add(digest(entry(1, "T"), day=""))
    assert store.paper("2602.00001").days == ("2026-02",)
    store.add(digest(entry(1, "T"), day="2026-02-09"))
    assert store.paper("2602.00001").days == ("2026-02-09",)
    assert len(store.digests()) == 1
    assert store.digests("2026-02")[0].day == "2026-02-09"


def test_search_finds_words_phrases_beginnings_and_leaves_out(store):
    store.add(
        digest(
            entry(1, "Dense-Unet for Segmentation", abstract="We segment naïve images with $\\mathcal{L}_2$."),
            entry(2, "Diffusion transformers", abstract="segmentation of video", title_zh="扩散模型的研究"),
            entry(3, "Something else", tldr="基于自监督学习的方法，用于3D扩散", authors=("Kaiming He", "José Ñandú")),
        )
    )
    assert titles(store.search("segmentation")) == ["Dense-Unet for Segmentation", "Diffusion transformers"]
    assert titles(store.search("segm -video")) == ["Dense-Unet for Segmentation"]
    assert titles(store.search("dense-unet")) == titles(store.search("NAIVE")) == ["Dense-Unet for Segmentation"]
    assert titles(store.search('"of video"')) == ["Diffusion transformers"]
    assert store.search('"video of"') == []
    assert len(store.search("扩散")) == 2
    assert titles(store.search("扩散模型")) == ["Diffusion transformers"]
    assert titles(store.search("究")) == ["Diffusion transformers"]
    assert titles(store.search("3D扩散")) == ["Something else"]
    assert titles(store.search("jose nandu")) == ["Something else"]
    assert titles(store.search(author="he kaiming")) == ["Something else"]
    assert store.search(author="kaiming nandu") == []
    assert titles(store.search("di", typing=True)) == ["Diffusion transformers"]
    assert store.search("di") == []


@pytest.mark.parametrize(
    "words",
    ['"', '""', "-", "-x", "*", "a OR", "NEAR(", "title:", "(", ") AND", "^", "\0", "'; DROP", "𠀀", "x" * 5000],
)
def test_search_takes_any_words(store, words):
    store.add(digest(entry(1, "A title or two")))
    assert isinstance(store.search(words), list)
    assert isinstance(store.search(words, author=words, categories=[words], typing=True), list)


def test_filters(store):
    store.add(digest(entry(1, "One model"), entry(2, "Two model", categories=("cs.RO", "cs.CV")), day="2026-02-05"))
    store.add(
        digest(entry(3, "Three model", categories=("eess.IV",)), entry(1, "One model"), name="b.md", day="2026-02-07")
    )
    assert titles(store.search()) == ["Three model", "One model", "Two model"]
    assert (
        titles(store.search(categories=["cs.RO"]))
        == titles(store.search("model", categories=["cs.RO"]))
        == ["Two model"]
    )
    assert set(titles(store.search("model", days="2026-02-05"))) == {"One model", "Two model"}
    assert titles(store.search(days="2026-02-05")) == ["Two model", "One model"]
    assert len(store.search("model", days="2026-02")) == 3
    assert len(store.search("model", days=("2026-02-06", "2026-03-01"))) == 2
    assert titles(store.search(limit=1, offset=1)) == ["One model"]
    assert titles(store.search("model", ids=["2602.00003", "9999.99999"])) == ["Three model"]
    assert store.search("model", ids=[]) == []
    assert store.days() == [("2026-02-07", 2), ("2026-02-05", 2)]
    assert store.categories() == [("cs.CV", 2), ("cs.RO", 1), ("eess.IV", 1)]
    assert store.known(["2602.00003", "x"]) == {"2602.00003"}


def test_the_area_of_the_catalogue_filters(store):
    store.add(digest(Entry(id="2602.06830", title="GaussianPOP"), entry(1, "Gaussian other")))
    from assay.papers import catalogue

    area = catalogue.find("2602.06830").area
    assert titles(store.search("gaussian", area=area)) == titles(store.search(area=area)) == ["GaussianPOP"]


def test_the_index_stays_whole_over_many_changes(store):
    for turn in range(12):
        entries = [
            entry(n, f"word{n} turn{turn} 中文{turn}", categories=("cs.CV", f"c.{turn % 3}"))
            for n in range(turn % 4, 9)
        ]
        store.add(digest(*entries, name=f"{turn % 5}.md", day=f"2026-02-{turn + 1:02d}"), replace=turn % 2 == 0)
    store._db.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    for paper in store.search(limit=100):
        assert paper.key in {found.key for found in store.search(f'"{paper.entry.title.split()[0]}"')}
    assert store.search("turn0") == []


def test_a_damaged_store_is_told_in_one_line(tmp_path):
    path = tmp_path / "digests.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        Store(path)
    assert Store.reading(tmp_path / "none.sqlite") is None


@pytest.mark.skipif(os.name == "nt", reason="folders of another kind")
def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="folder"):
        Store(tmp_path / "file" / "sub" / "digests.sqlite")


def test_two_writers_wait_for_each_other(tmp_path):
    path = tmp_path / "digests.sqlite"
    with Store(path) as one, Store(path) as two:
        one.add(digest(entry(1, "One")))
        two.add(digest(entry(2, "Two"), name="b.md"))
        assert one.count() == two.count() == 2
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_every_part_of_a_chinese_run_is_a_phrase_of_the_index():
    assert index.indexed("用扩散模型A") == " 用扩 扩散 散模 模型 型 A"
    assert index.query("散模型") == '("散模 模型")'
    assert index.query("型") == '("型" *)'
