"""Both Markdown formats: seeds and generated digests come back to the byte; what is broken is told with its line."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.papers.digests import detect, markdown_bilingual, markdown_toc
from assay.papers.digests.entry import Entry
from assay.papers.digests.render import render_digest

from .generated import CASES, ENTRIES

FORMATS = {"toc": markdown_toc, "bilingual": markdown_bilingual}


def test_seeds_come_back_to_the_byte(seeds):
    counts = []
    for path in seeds:
        digest = detect.read_file(path)
        assert digest.problems == []
        assert render_digest(digest).encode() == path.read_bytes()
        counts.append(len(digest.entries))
    assert sum(counts) == 117


def test_seeds_keep_no_copy_of_their_text(seeds):
    for path in seeds:
        digest = detect.read_file(path)
        layout = str(digest.layout) + "".join(str(entry.layout) for entry in digest.entries)
        assert len(layout) < 0.01 * path.stat().st_size


def test_seeds_are_read_into_fields(seeds):
    first = detect.read_file(seeds[0])
    assert [(s.category, s.entries) for s in first.sections] == [("cs.CV", 9), ("eess.IV", 1)]
    entry = first.entries[0]
    assert (entry.id, entry.authors, entry.categories) == ("2601.02392", ("Mo Chen",), ("cs.CV",))
    assert entry.summary_language == "zh"
    assert entry.abstract.startswith("Coronary calcification")
    assert entry.abstract_zh.startswith("冠状动脉")
    last = detect.read_file(seeds[4]).entries[0]
    assert (last.id, last.authors[0], last.authors[-1]) == ("2501.07166", "Jie Tan", "Helen Meng")
    assert last.title == "Natural Language-Assisted Multi-modal Medication Recommendation"
    assert last.title_zh.startswith("自然语言")


@pytest.mark.parametrize("form", FORMATS)
@CASES
@given(found=ENTRIES, newline=st.sampled_from(["\n", "\r\n"]))
def test_a_written_digest_comes_back_to_the_byte_with_its_fields(form, found, newline):
    module = FORMATS[form]
    written = module.compose(found)
    text = module.render(written)
    digest = module.read(text)
    assert module.render(digest) == text
    assert digest.problems == []
    assert digest.layout.get("newline", "\n") == "\n" or "\r" in text
    assert not any(entry.layout for entry in digest.entries) or "\r" in text
    for before, after in zip(written.entries, digest.entries, strict=True):
        names = ("title", "abstract", "abstract_zh", "id", "authors")
        names += ("tldr", "motivation", "method", "result", "conclusion") if form == "toc" else ("title_zh",)
        assert {n: getattr(after, n) for n in names} == {n: getattr(before, n) for n in names}
    if "\r" not in text:
        other = text.replace("\n", newline)
        assert module.render(module.read(other)) == other


SPACE = ["", " ", "  ", "\n", "\n\n", "\n\n\n", " \n", "\t"]


@CASES
@given(found=ENTRIES, seed=st.integers(0, 2**32))
def test_odd_white_space_and_missing_pieces_come_back_to_the_byte(found, seed):
    rng = random.Random(seed)
    for form, module in FORMATS.items():
        text = module.render(module.compose(found))
        for odd in ("\n\n", " \n", "TL;DR: ", "*\n", "**Abstract**: ", "---\n", "[[Back]](#toc)\n"):
            if odd in text and rng.random() < 0.5:
                text = text.replace(odd, odd + rng.choice(SPACE))
        digest = module.read(text)
        if not digest.problems:
            assert module.render(digest) == text, form


def test_numbers_totals_and_addresses_come_back_as_they_were():
    text = (
        "<div id=toc></div>\n\n# Table of Contents\n\n- [cs.CV](#cs.CV) [Total: 12]\n- [cs.RO](#cs.RO) [Total: 0]\n\n\n"
        "<div id='cs.CV'></div>\n\n# cs.CV [[Back]](#toc)\n\n"
        "### [007] [ Spaced\n  title ](https://arxiv.org/pdf/2601.00001v3)\n**\n\n"
        "Main category: cs.RO\n\nTL;DR:\n\n\n<details>\n"
        "  <summary>Details</summary>\nMethod:  two  \n\nAbstract: a\n\n</details>"
    )
    digest = markdown_toc.read(text)
    assert digest.problems == []
    assert markdown_toc.render(digest) == text
    entry = digest.entries[0]
    assert (entry.id, entry.version, entry.title, entry.method, entry.tldr) == (
        "2601.00001",
        "v3",
        "Spaced\n  title",
        "two",
        "",
    )
    assert digest.sections[0].total == 12


def test_commas_and_suffixes_in_names():
    entry = Entry(id="2601.00001", title="T", authors=("Martin Luther King, Jr.", "Ann Lee"))
    for module in FORMATS.values():
        assert module.read(module.render(module.compose([entry]))).entries[0].authors == entry.authors


@pytest.mark.parametrize("form", FORMATS)
def test_no_paper_can_end_its_entry_and_begin_another(form):
    evil = "x\n\n</details>\n\n\n### [2] [Fake](https://arxiv.org/abs/2601.66666)\n*Eve*\n\n"
    evil += "---\n# Fake\n\n**Title (ZH)**: 假\n\n---\n# a"
    found = [Entry(id="2601.00001", title="T\n---\n# y", abstract=evil, abstract_zh=evil, authors=("A\n*",), tldr=evil)]
    module = FORMATS[form]
    digest = module.read(module.render(module.compose(found)))
    assert [entry.id for entry in digest.entries] == ["2601.00001"]
    assert digest.problems == []


def test_what_is_broken_is_told_with_its_line_and_the_rest_is_read():
    text = (
        "<div id=toc></div>\nstray words\n\n### [1] [One](https://arxiv.org/abs/2601.00001)\n*A*\n\n"
        "TL;DR: t\n\n<details>\n"
        "  <summary>Details</summary>\nAbstract: cut off\n\n### [2] [Two](https://arxiv.org/abs/2601.00002)\n*B*\n\n"
        "TL;DR: u\n"
        "\n\n### [x] broken\n\n### [3] No link\n*C*\n"
    )
    digest = detect.read(text.encode(), "day.md")
    assert [entry.id or entry.title for entry in digest.entries] == ["2601.00001", "2601.00002", "No link"]
    assert digest.entries[0].abstract == "cut off"
    assert [(p.file, p.line) for p in digest.problems] == [("day.md", 2), ("day.md", 4), ("day.md", 19), ("day.md", 21)]
    text = "# One \n\n**Link**: [PDF](https://arxiv.org/pdf/2601.00001)\n\n---\n**Title (ZH)**: 无\n\n---\n\nwords\n"
    digest = detect.read(text.encode(), "day.md")
    assert len(digest.entries) == 2
    assert [p.line for p in digest.problems] == [6, 6]


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "(",
        "](",
        "*",
        "[",
        "### [1] [",
        "**Link**: [",
        "</details>\n",
        "---\n",
        "\n",
        "- [",
        "<",
        "# x\n---\n",
        "### [1] [a\n",
        "### [1] [a](b)\n",
        "<details>\n",
        "**Link**: x\n",
        "Abstract:\n\n",
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_reading_is_linear_in_hostile_text(form, line):
    head = {
        "toc": "### [1] [T](https://arxiv.org/abs/2601.00001)\n*A*\n\n<details>\nAbstract: ",
        "bilingual": "# T\n\n**Abstract**: ",
    }

    def cost(size: int) -> float:
        text = head[form] + line * (size // len(line))
        start = time.process_time()
        FORMATS[form].read(text)
        return time.process_time() - start

    small = min(cost(20_000) for _ in range(3))
    assert cost(200_000) < 60 * small + 0.05


def test_fifty_megabytes_of_one_line_do_not_stall():
    for head in (
        b"### [1] [T](https://arxiv.org/abs/2601.00001)\n*A*\n\n<details>\nAbstract: ",
        b"# T\n\n**Abstract**: ",
        b'{"title": "',
    ):
        start = time.process_time()
        digest = detect.read(head + b"](*[ " * 10_000_000, "big")
        assert time.process_time() - start < 8
        assert digest.entries or digest.problems
