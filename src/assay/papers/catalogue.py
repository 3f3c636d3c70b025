"""The catalogue: every card, found by id, address or a part of its title, and where its study lives."""

from __future__ import annotations

import difflib
import importlib.util
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from assay.errors import AssayError, UnknownName
from assay.papers.card import ARXIV_ID, Card

PACKAGE = Path(__file__).resolve().parents[1]
CARDS = Path(__file__).resolve().parent / "cards"
ENTRY_POINTS = "assay.studies"


def normalise_id(text: str) -> str | None:
    """The arXiv id in `2602.06830`, `arXiv:2602.06830v2` or an arXiv address; None when there is none."""
    cleaned = re.sub(r"^\s*arxiv:\s*", "", text, flags=re.IGNORECASE)
    cleaned = re.sub(r"^\s*(https?://)?(www\.|export\.)?arxiv\.org/(abs|pdf|html)/", "", cleaned, flags=re.IGNORECASE)
    match = re.fullmatch(rf"\s*({ARXIV_ID.pattern})(v\d+)?(\.pdf)?/?\s*", cleaned)
    return match[1] if match else None


@cache
def cards() -> dict[str, Card]:
    """Every card by id, in the order of areas and files, cards of plug-ins last."""
    found = {card.id: card for path in sorted(CARDS.glob("*.toml")) for card in _read(path, area=path.stem)}
    for paper, entry in plugins().items():
        found.setdefault(paper, _plugin_card(entry))
    return found


def find(text: str) -> Card:
    """The card named by an id, an address, or a unique part of the title.

    Raises:
        UnknownName: no such paper (the nearest titles are offered), or a part of several titles.
    """
    paper = normalise_id(text)
    if paper:
        card = _by_id(paper)
        if card:
            return card
    everything = cards()
    wanted = text.casefold().strip()
    hits = [card for card in everything.values() if wanted and not paper and wanted in card.title.casefold()]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise UnknownName(f"{text!r} is part of {len(hits)} titles: {_offer(hits[:5])}")
    if paper:
        near = [everything[i] for i in difflib.get_close_matches(paper, everything, n=3, cutoff=0.6)]
    else:
        titles = {card.title.casefold(): card for card in everything.values()}
        ranked = sorted(titles, key=lambda title: -_closeness(wanted, title))
        near = [titles[t] for t in ranked[:3]]
    raise UnknownName(f"no paper {text!r} in the catalogue; nearest: {_offer(near)}")


def search(words: str) -> list[Card]:
    """Cards that hold every word in title, authors, idea, claims, area or id."""
    wanted = words.casefold().split()
    return [card for card in cards().values() if all(word in _text_of(card) for word in wanted)]


def study_module(card: Card) -> str:
    """Dotted name of the card's study module, whether or not it exists."""
    entry = plugins().get(card.id)
    return entry.module if entry else f"assay.studies.{card.area}.{card.file}"


def method_module(card: Card) -> str | None:
    """Dotted name of the card's method module in this package; None for plug-ins."""
    return None if card.id in plugins() else f"assay.methods.{card.area}.{card.file}"


def runs(card: Card) -> bool:
    """A paper runs when its study module exists."""
    return card.id in plugins() or (PACKAGE / "studies" / card.area / f"{card.file}.py").is_file()


@cache
def plugins() -> Mapping[str, EntryPoint]:
    """Studies of other installed packages: arXiv id -> entry point of the group `assay.studies`."""
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _by_id(paper: str) -> Card | None:
    """One card, reading only the area files that mention it."""
    for path in sorted(CARDS.glob("*.toml")):
        if f'"{paper}"' in path.read_text(encoding="utf-8"):
            for card in _read(path, area=path.stem):
                if card.id == paper:
                    return card
    return _plugin_card(plugins()[paper]) if paper in plugins() else None


@cache
def _read(path: Path, area: str | None = None) -> tuple[Card, ...]:
    try:
        rows: list[dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))["paper"]
        return tuple(Card.model_validate(({"area": area} if area else {}) | row) for row in rows)
    except (tomllib.TOMLDecodeError, KeyError, ValidationError, OSError) as error:
        first = str(error).replace("\n", " ")[:300]
        raise AssayError(f"card file {path} cannot be read: {first}") from error


def _plugin_card(entry: EntryPoint) -> Card:
    """The card of a plug-in: `card.toml` beside its study module."""
    spec = importlib.util.find_spec(entry.module)
    if spec is None or spec.origin is None:
        raise AssayError(f"plug-in study {entry.name}: module {entry.module} is not importable")
    path = Path(spec.origin).with_name("card.toml")
    return _read(path)[0]


def _text_of(card: Card) -> str:
    claims = (claim.text for claim in card.claims)
    return " ".join([card.id, card.title, card.area, card.file, card.idea, *card.authors, *claims]).casefold()


def _closeness(wanted: str, title: str) -> float:
    """How alike a query and a title are: each word against its nearest word, and the query written as one word."""
    tokens = re.findall(r"\w+", title)

    def nearest(word: str) -> float:
        return max(difflib.SequenceMatcher(None, word, token).ratio() for token in tokens)

    words = re.findall(r"\w+", wanted)
    return sum(map(nearest, words)) / len(words) + nearest("".join(words)) if words and tokens else 0.0


def _offer(found: list[Card]) -> str:
    return "; ".join(f"{card.id} {card.title}" for card in found)
