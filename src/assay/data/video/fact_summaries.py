"""Summaries of simulated videos of facts: texts of a given length, by writers of different care, and keyframes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from assay.data.video.fact_grammar import COUNTS, ORDINALS, SYNONYMS, WORDS, marginals

Writer = Literal["salient", "random", "careless"]


def write_text(
    events: NDArray[np.int64],
    words: int,
    rng: np.random.Generator,
    writer: Writer = "random",
    synonyms: float = 0.0,
    wrong: float = 0.1,
) -> str:
    """A text of at most `words` words that states facts event by event, each event opened by its ordinal.

    Args:
        events: (N, 4) facts of the video.
        words: ordinals and facts together; no text is shorter than its facts need.
        writer: `salient` takes the fact of most surprise a word next, `random` any, `careless` any and errs.
        synonyms: chance that a fact is told by its synonym.
        wrong: chance that a careless writer tells another value.

    Raises:
        ValueError: a negative number of words.
    """
    if words < 0:
        raise ValueError(f"{words} words: expected 0 or more")
    surprise = np.stack([-np.log(share)[events[:, a]] for a, share in enumerate(marginals())], axis=1)
    order = rng.permutation(events.size)
    chosen = np.zeros(events.shape, dtype=bool)
    used = 0
    while len(order):
        event, attribute = np.divmod(order, 4)
        price = 2 - chosen.any(1)[event]
        fits = used + price <= words
        order, event, attribute, price = order[fits], event[fits], attribute[fits], price[fits]
        if not len(order):
            break
        pick = int(np.argmax(surprise[event, attribute] / price)) if writer == "salient" else 0
        chosen[event[pick], attribute[pick]] = True
        used += int(price[pick])
        order = np.delete(order, pick)
    said: list[str] = []
    for event in np.flatnonzero(chosen.any(1)):
        said.append(ORDINALS[event])
        for attribute in np.flatnonzero(chosen[event]):
            value = int(events[event, attribute])
            if writer == "careless" and rng.random() < wrong:
                value = int((value + rng.integers(1, COUNTS[attribute])) % COUNTS[attribute])
            word = WORDS[attribute][value]
            said.append(SYNONYMS[attribute][word] if rng.random() < synonyms else word)
    return " ".join(said)
