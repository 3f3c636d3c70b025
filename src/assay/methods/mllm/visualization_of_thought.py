"""Multimodal visualisation of thought: a model that draws the state after every step and reasons on from its drawing.

    v_i ~ P(v | x, z_1, v_1, ..., v_{i-1}, z_i)        a picture, as codes of a vector-quantised tokenizer
    z_{i+1} ~ P(z | x, z_1, v_1, ..., z_i, v_i)        a thought in words, at last the answer

Training cuts a trace into samples of two kinds (`trace_samples`) with loss on the target only, and adds to the
cross-entropy over all target tokens `weight` (1 in the paper) times the `token_discrepancy` over the picture's tokens:
a wrong code that looks like the right one costs little. Inference (`think`) keeps two pictures in its context, the
first and the newest.

`PatchCodebook` and `TraceLM` are a tokenizer and a model small enough to train on a laptop; `AnoleThinker` brings
Chameleon and Anole checkpoints. Both take part in `think` through one method, `next_segment(context)`.

Source: 2501.07542
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from assay.methods.mllm._anole import AnoleThinker
from assay.methods.mllm._patch_codebook import PatchCodebook
from assay.methods.mllm._token_discrepancy import codebook_distance, token_discrepancy
from assay.methods.mllm._trace_fit import TraceFit, Traces, context_at, fit_traces
from assay.methods.mllm._trace_lm import Steps, TraceLM, TraceWords
from assay.methods.mllm._trace_thinker import TraceThinker

__all__ = [
    "AnoleThinker",
    "InterleavedContext",
    "PatchCodebook",
    "Sample",
    "Steps",
    "Thinker",
    "Trace",
    "TraceFit",
    "TraceLM",
    "TraceThinker",
    "TraceWords",
    "Traces",
    "answer_of",
    "codebook_distance",
    "context_at",
    "fit_traces",
    "think",
    "token_discrepancy",
    "trace_samples",
]

Segment = str | Tensor


@dataclass(frozen=True)
class Sample:
    """One training sample: segments of context, and what follows them (the only part with loss).

    Attributes:
        kind: "visualise" (the target is a picture) or "reason" (it is text).
        context: texts and pictures in their order.
        target: the segment to learn.
    """

    kind: Literal["visualise", "reason"]
    context: tuple[Segment, ...]
    target: Segment


class InterleavedContext:
    """What the model sees: the question, the texts in order, and at most two pictures: the first and the newest.

    Args:
        first: the picture of the question. latest: the newest picture, if another one was drawn already.
        texts: the question and thoughts so far; the first one stands before the first picture.
        keep_all: keep every picture (an ablation).
    """

    def __init__(
        self, first: Tensor | None = None, latest: Tensor | None = None, texts: Sequence[str] = (), *,
        keep_all: bool = False,
    ) -> None:  # fmt: skip
        self.keep_all = keep_all
        self.segments: list[Segment] = []
        pictures = [picture for picture in (first, latest) if picture is not None]
        for segment in [*texts[:1], *pictures[:1], *texts[1:], *pictures[1:]]:
            self.segments.append(segment)

    @property
    def texts(self) -> list[str]:
        return [segment for segment in self.segments if isinstance(segment, str)]

    @property
    def images(self) -> list[Tensor]:
        return [segment for segment in self.segments if isinstance(segment, Tensor)]

    def push(self, text: str | None = None, image: Tensor | None = None) -> None:
        """Append a text, a picture, or first the one and then the other; a third picture takes the second's place."""
        if text is not None:
            self.segments.append(text)
        if image is not None:
            places = [k for k, segment in enumerate(self.segments) if isinstance(segment, Tensor)]
            if not self.keep_all and len(places) >= 2:
                del self.segments[places[-1]]
            self.segments.append(image)


def trace_samples(frames: Sequence[Tensor], texts: Sequence[str], answer: str, question: str = "") -> list[Sample]:
    """Cut a trace into T samples that draw the next frame and T + 1 that say the next action or the answer.

        (x, f_0, z_1..z_i, f_{i-1}) -> f_i          i = 1..T
        (x, f_0, z_1..z_i, f_i) -> z_{i+1}          i = 0..T; at the end "The answer is X."

    Args:
        frames: f_0 to f_T, codes of any shape. texts: z_1 to z_T, such as actions in words. answer: X.
        question: x in words.

    Raises:
        ValueError: there is not one frame more than there are texts.
    """
    if len(frames) != len(texts) + 1:
        raise ValueError(f"{len(frames)} frames and {len(texts)} texts: expected one frame more")
    samples = []
    for i in range(len(texts) + 1):
        if i:
            seen = InterleavedContext(frames[0], frames[i - 1] if i > 1 else None, [question, *texts[: i - 1]])
            seen.push(text=texts[i - 1])
            samples.append(Sample("visualise", tuple(seen.segments), frames[i]))
        seen = InterleavedContext(frames[0], frames[i] if i else None, [question, *texts[:i]])
        target = texts[i] if i < len(texts) else f"The answer is {answer}."
        samples.append(Sample("reason", tuple(seen.segments), target))
    return samples


class Thinker(Protocol):
    """A model that goes on with an interleaved context."""

    image_length: int

    def next_segment(self, context: InterleavedContext, generator: torch.Generator | None = None) -> Segment:
        """A text, or a picture as (image_length,) codes."""


@dataclass
class Trace:
    """What was thought: texts and pictures in their order, and the answer (None when none was spoken)."""

    texts: list[str] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    answer: str | None = None
    rounds: int = 0


def think(
    model: Thinker, question: str, image: Tensor, *, max_rounds: int = 60, stop: str = "the answer is",
    keep_all: bool = False, generator: torch.Generator | None = None,
) -> Trace:  # fmt: skip
    """Let a model think in words and pictures until it speaks the answer.

    Args:
        model: gives one segment at a time. question: x in words. image: its picture, (image_length,) codes.
        max_rounds: segments at most. stop: words that end the thought, in any case.
        keep_all: keep all pictures in context (an ablation). generator: of the draws.

    Raises:
        ValueError: a picture has the wrong number of codes.

    Source: 2501.07542
    """
    context, trace = InterleavedContext(image, None, [question], keep_all=keep_all), Trace()
    _check_length(image, model.image_length)
    for _ in range(max_rounds):
        segment = model.next_segment(context, generator)
        trace.rounds += 1
        if isinstance(segment, Tensor):
            _check_length(segment, model.image_length)
            context.push(image=segment)
            trace.images.append(segment)
            continue
        context.push(text=segment)
        trace.texts.append(segment)
        if stop.lower() in segment.lower():
            trace.answer = answer_of(segment, stop)
            break
    return trace


def answer_of(text: str, stop: str = "the answer is") -> str | None:
    """The word after the words of the answer, without its full stop; None when there is none."""
    found = re.search(re.escape(stop) + r"\s*:?\s*([^\s.,;]+)", text, re.IGNORECASE)
    return found.group(1) if found else None


def _check_length(picture: Tensor, expected: int) -> None:
    if picture.numel() != expected:
        raise ValueError(f"a picture of {picture.numel()} codes, expected {expected}")
