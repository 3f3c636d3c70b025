"""ViSIL: the information of a video that its summary loses, by what a vision-language model can still account for.

A detailed caption C = (c_1 .. c_n), written by the model that sees the whole video V, stands for what the video holds;
its content words W are the facts. The same model, shown evidence E (frames, text, both or nothing), gives

    l(E) = mean over i in W of max(log p(c_i | c_<i, E), floor)                (nats a content word)

    ViSIL(S) = l(V) - l(S)                      an estimate of the pointwise information i(V; C | S): what S lost of V
    nViSIL(S) = (l(V) - l(S)) / (l(V) - l(none))        0: as good as the video, 1: no better than nothing

one number whether S is a paragraph, a row of keyframes or a mixture. With several captions l is their mean. The set of
summaries that are not dominated in (cost, ViSIL) is the front from which `select` takes the best within a budget.

The paper defines the score by the inference of a vision-language model and chooses summaries on its front of loss and
load; its public text gives no estimator. Captions, content words, floor (0.5 %) and filling in masked words are ours,
after the public code of the same laboratory's VIBE; `grounding` is VIBE's own score of a text.

Source: 2601.09851; VIBE (2505.17423)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from assay.methods.evaluation._vi_sil_choice import (
    Candidate,
    Summary,
    cost,
    medoid_keyframes,
    pareto,
    select,
    shot_keyframes,
    uniform_keyframes,
)
from assay.methods.evaluation._vi_sil_words import content_positions, word_spans, words

__all__ = [
    "FLOOR", "Candidate", "EvidenceModel", "Query", "Summary", "Visil", "WordLoss", "content_positions", "cost",
    "grounding", "log_likelihoods", "medoid_keyframes", "pareto", "select", "shot_keyframes", "uniform_keyframes",
    "visil", "visil_many", "word_spans", "words",
]  # fmt: skip

FLOOR = math.log(0.005)
Mode = Literal["forced", "masked"]


@dataclass(frozen=True)
class Query:
    """One question to a model: log-probabilities of words of a caption, given evidence.

    Attributes:
        caption: the text. positions: numbers of its words (see `words`), ascending.
        evidence: what is shown; None: nothing.
    """

    caption: str
    evidence: Summary | None
    positions: tuple[int, ...]


class EvidenceModel(Protocol):
    """What ViSIL asks of a model. `masked_logprobs` is needed for `mode="masked"` only."""

    def logprobs(self, queries: Sequence[Query]) -> Sequence[Sequence[float]]:
        """log p(word | words before it, evidence) at each query's positions, in nats, the caption teacher-forced."""
        ...

    def masked_logprobs(self, queries: Sequence[Query]) -> Sequence[Sequence[float]]:
        """The same for each word masked once in turn and filled in."""
        ...


@dataclass(frozen=True)
class WordLoss:
    """A content word and how well each evidence explains it (floored log-probabilities in nats)."""

    caption: int
    position: int
    word: str
    video: float
    summary: float
    nothing: float

    @property
    def lost(self) -> float:
        """What the summary lost of this word."""
        return self.video - self.summary


@dataclass(frozen=True)
class Visil:
    """The score of a summary.

    Attributes:
        loss: ViSIL in nats per content word; lower is better; may be negative by chance.
        normalised: nViSIL; NaN where the video explains the caption no better than nothing does.
        ci: 95 % bootstrap interval of `loss` over words (captions are drawn first, then their words).
        per_word: every content word of every caption.
        l_video, l_summary, l_none: the mean floored log-likelihoods.
    """

    loss: float
    normalised: float
    ci: tuple[float, float]
    per_word: tuple[WordLoss, ...]
    l_video: float
    l_summary: float
    l_none: float


def visil(
    model: EvidenceModel,
    video: Summary,
    summary: Summary | None,
    captions: str | Sequence[str],
    floor: float = FLOOR,
    mode: Mode = "forced",
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Visil:
    """Information about the video that a summary loses.

    Args:
        model: gives log-probabilities. video: the whole video as evidence. summary: the summary; None: nothing.
        captions: one or several texts that stand for the video's content, best sampled from the model shown the video.
        floor: least log-probability a word counts with; `-inf`: none.
        mode: `forced` reads log-probabilities of the caption, `masked` fills in each content word in turn.
        resamples: of the bootstrap; 0: no interval (NaN). seed: of the bootstrap.

    Raises:
        ValueError: no caption has a content word, or `floor` is not negative.

    Warns:
        UserWarning: l(V) <= l(none): the model cannot read this video; `normalised` is NaN.
    """
    return visil_many(model, video, [summary], captions, floor, mode, resamples=resamples, seed=seed)[0]


def visil_many(
    model: EvidenceModel,
    video: Summary,
    summaries: Sequence[Summary | None],
    captions: str | Sequence[str],
    floor: float = FLOOR,
    mode: Mode = "forced",
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Visil]:
    """`visil` of several summaries of one video; the model is asked once for all. Arguments and errors as there."""
    texts = [captions] if isinstance(captions, str) else list(captions)
    found = log_likelihoods(model, [video, None, *summaries], texts, floor, mode)
    marks = [(number, place) for number, text in enumerate(texts) for place in content_positions(text)]
    names = [words(text) for text in texts]
    groups = np.array([number for number, _ in marks])
    of_video, of_none = found[0], found[1]
    l_video, l_none = _mean(of_video, groups), _mean(of_none, groups)
    if not l_video > l_none:
        warnings.warn(
            f"the model explains the caption no better with the video ({l_video:.3f}) than with nothing"
            f" ({l_none:.3f}): it cannot read this video, and the normalised loss is undefined",
            stacklevel=2,
        )
    scores = []
    for values in found[2:]:
        l_summary = _mean(values, groups)
        loss = l_video - l_summary
        scores.append(
            Visil(
                loss=loss,
                normalised=loss / (l_video - l_none) if l_video > l_none else math.nan,
                ci=_interval(of_video - values, groups, resamples, seed),
                per_word=tuple(
                    WordLoss(number, place, names[number][place], float(v), float(s), float(n))
                    for (number, place), v, s, n in zip(marks, of_video, values, of_none, strict=True)
                ),
                l_video=l_video,
                l_summary=l_summary,
                l_none=l_none,
            )
        )
    return scores


def log_likelihoods(
    model: EvidenceModel,
    evidence: Sequence[Summary | None],
    captions: Sequence[str],
    floor: float = FLOOR,
    mode: Mode = "forced",
) -> NDArray[np.float64]:
    """Floored log-probabilities of all content words of all captions under each evidence, (evidence, words).

    Raises:
        ValueError: no content word, a floor that is not negative, an unknown mode, or a model that answers with another
            number of values or with log-probabilities above zero.
    """
    if not floor < 0:
        raise ValueError(f"floor {floor}: expected a negative log-probability")
    if mode not in ("forced", "masked"):
        raise ValueError(f"mode {mode!r}: expected forced or masked")
    places = [tuple(content_positions(text)) for text in captions]
    if not any(places):
        raise ValueError("the caption has no content word, so there is nothing that a summary could lose")
    asked = [(text, place) for text, place in zip(captions, places, strict=True) if place]
    shown = [None if e is None or e.empty else e for e in evidence]
    queries = [Query(text, e, place) for e in shown for text, place in asked]
    answers = (model.logprobs if mode == "forced" else model.masked_logprobs)(queries)
    for query, answer in zip(queries, answers, strict=True):
        if len(answer) != len(query.positions):
            raise ValueError(f"the model gave {len(answer)} log-probabilities for {len(query.positions)} words")
    values = np.concatenate([np.asarray(answer, dtype=float) for answer in answers]).reshape(len(evidence), -1)
    if np.isnan(values).any() or (values > 1e-4).any():
        raise ValueError("the model gave log-probabilities that are NaN or above zero")
    return np.maximum(values, floor)


def grounding(model: EvidenceModel, video: Summary, text: str, floor: float = FLOOR, mode: Mode = "masked") -> float:
    """VIBE's grounding of a text in a video: pointwise mutual information over its content words, summed (nats).

        sum over i of max(log p(t_i | t_<i, V), floor) - max(log p(t_i | t_<i), floor)

    It asks how much the video explains of the summary, where ViSIL asks how much the summary explains of the video; a
    row of frames has none.

    Raises:
        ValueError: as for `log_likelihoods`.
    """
    given, alone = log_likelihoods(model, [video, None], [text], floor, mode)
    return float((given - alone).sum())


def _mean(values: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    """Mean over captions of the mean over each one's words."""
    return float(np.mean([values[groups == group].mean() for group in np.unique(groups)]))


def _interval(lost: NDArray[np.float64], groups: NDArray[np.int64], resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean over captions of means over words, both levels drawn with replacement."""
    if resamples < 1 or not np.isfinite(lost).all():
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = []
    for group in np.unique(groups):
        mine = lost[groups == group]
        means.append(mine[rng.integers(0, len(mine), (resamples, len(mine)))].mean(1))
    drawn = rng.integers(0, len(means), (resamples, len(means)))
    totals = np.stack(means, 1)[np.arange(resamples)[:, None], drawn].mean(1)
    low, high = np.percentile(totals, [2.5, 97.5])
    middle = _mean(lost, groups)
    return float(min(low, middle)), float(max(high, middle))
