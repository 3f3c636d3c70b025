"""Words of a caption, and which of them carry content."""

from __future__ import annotations

import re

_WORD = re.compile(r"\d+(?:[.,:]\d+)*%?|[^\W_]+(?:['’-][^\W_]+)*")

# Function words of English. Numbers and negations are facts and stay out of this list.
_FUNCTION_WORDS = """
    a an the this that these those such some any each every either both all another other
    i me my mine we us our ours you your yours he him his she her hers it its they them their theirs
    myself ourselves yourself himself herself itself themselves who whom whose which what there here
    am is are was were be been being isn do does did doing have has had having will would shall should can could may
    might must ought get gets got let
    and or but if while as because so than then though although unless until since whether yet also too very just only
    of at by for with about between into through during before after to from in on onto off over under again further
    once within along across around near toward towards against upon via per out up down
    how when where why it's that's there's he's she's they're we're i'm you're i've we've they've i'll we'll
"""
_FUNCTION = frozenset(_FUNCTION_WORDS.split())
_NEGATION = re.compile(
    r"(?:.*n['’]t|no|not|none|nothing|never|neither|nor|nobody|nowhere|without|cannot)", re.IGNORECASE
)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every word in a text: letters with inner hyphens and apostrophes, or a number."""
    return [match.span() for match in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text)


def content_positions(caption: str) -> list[int]:
    """Numbers of the words that carry content: nouns, verbs, adjectives, adverbs of manner, numbers, negations.

    A word counts unless it is an English function word. In another language every word counts.
    """
    return [n for n, word in enumerate(words(caption)) if _NEGATION.fullmatch(word) or word.casefold() not in _FUNCTION]
