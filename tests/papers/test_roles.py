"""Roles of sentences: the accuracy that the docs state, and the splitter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.papers import roles

SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"
REAL = Path(__file__).with_name("roles_of_real_abstracts.tsv")
LETTERS = dict(zip("MDRC", roles.ROLES, strict=True))
DOCS = Path(__file__).resolve().parents[2] / "docs" / "digests.md"


def stated(pattern):
    """A percentage that the docs state."""
    return float(re.search(pattern, DOCS.read_text(encoding="utf-8"))[1]) / 100


def test_accuracy_on_held_out_sentences_is_what_the_docs_state():
    held_out = roles.labelled(held_out=True)
    assert len(held_out) >= 100
    assert roles.accuracy(held_out) == pytest.approx(stated(r"held-out sentences: \*\*([\d.]+) %"), abs=5e-4)


def test_training_and_held_out_share_no_abstract():
    training, held_out = roles.labelled(held_out=False), roles.labelled(held_out=True)
    assert {row.abstract for row in training}.isdisjoint(row.abstract for row in held_out)
    assert {row.text for row in training}.isdisjoint(row.text for row in held_out)
    assert len(training) + len(held_out) >= 300
    assert {row.role for row in training} == set(roles.ROLES)


def test_better_than_place_alone():
    """The obvious rival: first third motivation, then method, the last but one result, the last conclusion."""
    right = total = 0
    for group in roles.by_abstract(roles.labelled(held_out=True)).values():
        for index, row in enumerate(group):
            left = len(group) - 1 - index
            guess = (
                "conclusion"
                if left == 0
                else "result"
                if left <= 2
                else "motivation"
                if index < len(group) / 3
                else "method"
            )
            right += guess == row.role
            total += 1
    assert roles.accuracy(roles.labelled(held_out=True)) > right / total + 0.15


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the seed digests are not here")
@pytest.mark.parametrize("group", ["seen", "unseen"])
def test_accuracy_on_real_abstracts_is_what_the_docs_state(group):
    """Roles of real abstracts, labelled by hand; their text is read from the digests and not kept here."""
    from assay.papers.digests.detect import read_file

    abstracts = {}
    for path in sorted(SEEDS.glob("*.txt")):
        abstracts |= {entry.id: entry.abstract for entry in read_file(path).entries if entry.abstract}
    rows = []
    for line in REAL.read_text(encoding="utf-8").splitlines():
        paper, letters, used_for = line.split("\t")
        if used_for == group:
            parts = roles.sentences(abstracts[paper])
            number = int(paper.replace(".", ""))
            rows += [roles.Labelled(number, LETTERS[c], s) for c, s in zip(letters, parts, strict=True)]
    if group == "unseen":
        assert roles.accuracy(rows) == pytest.approx(stated(r"unseen real abstracts: \*\*([\d.]+) %"), abs=5e-4)
    assert roles.accuracy(rows) > 0.85


def test_sentences_end_where_they_should():
    text = "We beat e.g. ResNet by 3.5 points (cf. Fig. 2). J. Smith et al. proposed it, i.e. before us! "
    text += "Is $a. B$ a formula? Yes."
    assert roles.sentences(text) == [
        "We beat e.g. ResNet by 3.5 points (cf. Fig. 2).",
        "J. Smith et al. proposed it, i.e. before us!",
        "Is $a. B$ a formula?",
        "Yes.",
    ]
    assert roles.sentences("第一句。第二句！") == ["第一句。", "第二句！"]
    assert roles.sentences("") == []


@given(st.text(max_size=400))
def test_nothing_is_lost_or_invented(text):
    parts = roles.sentences(text)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert len(roles.roles(parts)) == len(parts)


def test_roles_of_an_ordinary_abstract():
    parts = roles.sentences(
        "Blurred plates are hard to read. Existing readers fail at night. We propose PlateNet, a reader that"
        " models blur. It reads 97% of the plates, 12 points above the best rival. Our code is available online."
    )
    assert roles.roles(parts) == ["motivation", "motivation", "method", "result", "conclusion"]
    for row in roles.probabilities(parts):
        assert sum(row.values()) == pytest.approx(1)


def test_long_text_costs_little():
    assert len(roles.sentences("a. B" * 500_000)) <= 200
    assert len(roles.roles(roles.sentences("A cat. " * 100_000))) <= 200
