"""The 117 cards against the digests they came from."""

import re
from pathlib import Path

import pytest

from assay.papers import catalogue
from assay.papers.card import AREAS, Card

SEEDS = Path(__file__).resolve().parents[3] / "shared" / "seeds"
CARDS = {paper: card for paper, card in catalogue.cards().items() if paper not in catalogue.plugins()}


def test_there_are_117_papers_in_known_areas_with_files_of_their_own():
    assert len(CARDS) == 117
    assert {card.area for card in CARDS.values()} == set(AREAS)
    assert len({(card.area, card.file) for card in CARDS.values()}) == 117


def test_no_card_is_a_placeholder():
    for card in CARDS.values():
        words = " ".join([card.idea, *(claim.text for claim in card.claims)])
        assert "TODO" not in words, card.id
        assert all(claim.source != "none" for claim in card.claims if claim.figure), card.id


def test_cards_agree_with_the_digests():
    if not SEEDS.is_dir():
        pytest.skip(f"the digests are not here: {SEEDS}")
    facts = dict(fact for path in sorted(SEEDS.glob("*.txt")) for fact in _facts(path))
    assert len(facts) == 117
    for paper, (title, authors, category, digest) in facts.items():
        card = CARDS[paper]
        assert card.title == title
        assert ",".join(card.authors) == re.sub(r"\s*,\s*", ",", authors.strip())
        assert card.categories[:1] == ((category,) if category else ())
        assert digest in card.digests
        assert str(card.links.abs) == f"https://arxiv.org/abs/{paper}"
        assert str(card.links.pdf) == f"https://arxiv.org/pdf/{paper}"
        assert card.month == f"20{paper[:2]}-{paper[2:4]}"


def _facts(path):
    """(id, (title, authors, category, digest)) of each entry, read with other code than the product's."""
    text = path.read_text(encoding="utf-8")
    for block in re.split(r"^(?=### \[\d+\] \[)", text, flags=re.MULTILINE)[1:]:
        first, second = block.splitlines()[:2]
        title, paper = re.fullmatch(r"### \[\d+\] \[(.*)\]\(https://arxiv\.org/abs/(.*)\)", first).groups()
        category = re.search(r"^Main category: (\S+)", block, flags=re.MULTILINE)
        yield paper, (title, second.strip("*"), category[1] if category else "", path.stem)
    for block in text.split("\n---\n") if "**Title (ZH)**" in text else []:
        title = re.search(r"^# (.*?)\s*$", block, flags=re.MULTILINE)
        if title:
            authors = re.search(r"^\*\*Authors\*\*: (.*)$", block, flags=re.MULTILINE)[1]
            yield re.search(r"arxiv\.org/pdf/(\S+)\)", block)[1], (title[1], authors, "", path.stem)


@pytest.mark.parametrize("name", ["", "  ", "2602", "12345"])
def test_what_names_no_paper(name):
    with pytest.raises(catalogue.UnknownName):
        catalogue.find(name)


def test_a_card_refuses_what_it_does_not_know():
    facts = next(iter(CARDS.values())).model_dump()
    with pytest.raises(ValueError, match="extra"):
        Card.model_validate(facts | {"extra": 1})
    with pytest.raises(ValueError, match="unknown area"):
        Card.model_validate(facts | {"area": "vision"})
