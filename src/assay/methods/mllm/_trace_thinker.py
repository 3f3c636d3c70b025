"""A `TraceLM` as a thinker: it reads and writes texts and codes of an interleaved context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from assay.methods.mllm._trace_lm import PAD, Steps, TraceLM


class Context(Protocol):
    segments: list[str | Tensor]
    texts: list[str]
    images: list[Tensor]


class TraceThinker:
    """Says a thought where a picture came last, draws the next picture where a thought came last.

    The question is its words, one a step; a thought is one word; an answer's word becomes "The answer is X.".

    Args:
        model: the model. grid: rows and columns of the board. answers: words that are answers.
        temperature: of the draws; 0 takes the likeliest.
    """

    def __init__(
        self, model: TraceLM, grid: tuple[int, int], answers: Sequence[str] = ("A", "B", "C"), temperature: float = 1.0
    ) -> None:
        self.model, self.grid, self.temperature = model, grid, temperature
        self.answers, self.image_length = set(answers), grid[0] * grid[1]

    def next_segment(self, context: Context, generator: torch.Generator | None = None) -> str | Tensor:
        """A thought, the answer, or (n,) codes.

        Raises:
            ValueError: a word that the model does not know, or more steps than it takes.
        """
        steps, drawing = self.steps(context), isinstance(context.segments[-1], str) and len(context.texts) > 1
        if drawing:
            return self.model.draw(steps, temperature=self.temperature, generator=generator)[0]
        place = torch.tensor([len(context.texts)])  # the step after the thoughts so far
        number = self.model.say(steps, 1, place, temperature=self.temperature, generator=generator)
        word = self.model.words.word(int(number))
        return f"The answer is {word}." if word in self.answers else word

    def steps(self, context: Context) -> Steps:
        """A context as the model takes it; older pictures follow the newest one, newer before older."""
        words, (question, *thoughts) = self.model.words, context.texts
        asked = question.split()
        if max(len(asked), len(thoughts)) > self.model.steps:
            raise ValueError(f"{max(len(asked), len(thoughts))} steps; the model takes {self.model.steps}")
        rows = []
        for line in (asked, thoughts):
            numbers = [words.id(word) for word in line]
            rows.append(torch.tensor([numbers + [words.id(PAD)] * (self.model.steps - len(numbers))]))
        first, *others = (picture.flatten() for picture in context.images)
        pictures = [first, *(reversed(others) if others else [first])]
        return Steps(rows[0], rows[1], torch.stack(pictures)[:, None], self.grid)
