"""Training of a `TraceLM` on traces: whole batches of the samples that `trace_samples` cuts one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.methods.mllm._token_discrepancy import token_discrepancy
from assay.methods.mllm._trace_lm import PAD, SAY, Steps, TraceLM


@dataclass(frozen=True)
class Traces:
    """Traces on boards of one size.

    Attributes:
        actions: (N, S) word numbers, `<pad>` after the last. lengths: (N,) T of every trace.
        frames: (N, S + 1, n) codes; what stands after frame T does not matter.
        answers: (N,) word numbers. grid: rows and columns.
        counts: (N,) answers to a second question, asked with the word `count`; None: it is never asked.
        said: (N, M) word numbers of a chain of thought in words, `<pad>` after its end; for models that draw nothing.
    """

    actions: Tensor
    lengths: Tensor
    frames: Tensor
    answers: Tensor
    grid: tuple[int, int]
    counts: Tensor | None = None
    said: Tensor | None = None

    def take(self, rows: Tensor) -> Traces:
        """The traces of some rows."""
        counts = None if self.counts is None else self.counts[rows]
        said = None if self.said is None else self.said[rows]
        return replace(
            self, actions=self.actions[rows], lengths=self.lengths[rows], frames=self.frames[rows],
            answers=self.answers[rows], counts=counts, said=said,
        )  # fmt: skip


@dataclass(frozen=True)
class TraceFit:
    """How to train.

    Attributes:
        updates: steps of AdamW. batch: samples of either kind in a step. rate: highest learning rate (it rises over
            the first tenth and falls to zero along a cosine).
        cross_entropy, discrepancy: weights of the two losses; the paper has 1 and 1.
        keep_all: every picture stays in context.
        final: share of the reasoning samples that are moved to the end of their trace, where the answer is due.
        asked: share that ask for `counts` instead, at the end too.
    """

    updates: int = 600
    batch: int = 64
    rate: float = 3e-3
    cross_entropy: float = 1.0
    discrepancy: float = 1.0
    keep_all: bool = False
    final: float = 0.0
    asked: float = 0.0


def context_at(traces: Traces, done: Tensor, seen: Tensor, start: Tensor, pad: int, keep_all: bool = False) -> Steps:
    """Contexts with `done` thoughts and the pictures up to frame `seen`.

    Args:
        done, seen: (N,). start: (N,) empty places before the first step, so that no place is ever new.
    """
    rows, width = len(done), traces.actions.shape[1]
    place = torch.arange(width, device=done.device) - start[:, None]
    step = place.clamp(0, width - 1)
    words = traces.actions.gather(1, step)
    there = (place >= 0) & (place < traces.lengths[:, None])
    question = torch.where(there, words, pad)
    thoughts = torch.where(there & (place < done[:, None]), words, pad)
    who = torch.arange(rows, device=done.device)
    pictures = [traces.frames[:, 0], traces.frames[who, seen]]
    for age in range(1, width if keep_all else 1):
        older = seen - age
        frame = traces.frames[who, older.clamp(min=0)]
        pictures.append(torch.where((older > 0)[:, None], frame, -1))
    return Steps(question, thoughts, torch.stack(pictures), traces.grid)


def losses(
    model: TraceLM, traces: Traces, fit: TraceFit, distance: Tensor, generator: torch.Generator, count: int | None
) -> Tensor:
    """Loss of one batch of both kinds of sample: mean over pictures plus mean over texts (kinds come equally often)."""
    width, rows = traces.actions.shape[1], len(traces.lengths)

    def drawn(highest: Tensor) -> Tensor:
        return (torch.rand(rows, generator=generator) * (highest + 1)).long().clamp(max=highest)

    start = drawn(width - traces.lengths)
    step = drawn(traces.lengths - 1)  # frame step + 1 is drawn
    who = torch.arange(rows)
    target = traces.frames[who, step + 1]
    logits = model.draw_logits(context_at(traces, step + 1, step, start, model.pad, fit.keep_all), target)
    loss = logits.new_zeros(())
    if fit.cross_entropy:
        loss = loss + fit.cross_entropy * F.cross_entropy(logits.flatten(0, 1), target.flatten())
    if fit.discrepancy:
        ids = model.words.image_ids
        loss = loss + fit.discrepancy * token_discrepancy(logits, target, ids, distance, shift=False)

    done = drawn(traces.lengths)
    lot = torch.rand(rows, generator=generator)
    asked = lot < (fit.asked if traces.counts is not None else 0.0)
    done = torch.where(asked | (lot > 1 - fit.final), traces.lengths, done)
    following = traces.actions.gather(1, done.clamp(max=width - 1)[:, None])[:, 0]
    word = torch.where(done < traces.lengths, following, traces.answers)
    opening = torch.full_like(word, model.words.id(SAY))
    if traces.counts is not None and count is not None:
        word, opening = torch.where(asked, traces.counts, word), torch.where(asked, count, opening)
    context = context_at(traces, done, done, start, model.pad, fit.keep_all)
    spoken = model.say_logits(context, word.new_zeros(rows, 0), start + done + 1, opening)[:, 0]
    return loss + F.cross_entropy(spoken, word)


def fit_traces(
    model: TraceLM, groups: Sequence[Traces], fit: TraceFit, distance: Tensor, generator: torch.Generator,
    count: int | None = None, loss: Callable[[Traces], Tensor] | None = None,
) -> list[float]:  # fmt: skip
    """Train in place on groups of traces in turn, one board size a step; gives the losses.

    Args:
        groups: traces by board size. distance: (K, K) of `codebook_distance`. generator: of batches.
        count: word that asks for `counts`. loss: another loss of a batch (for models that think otherwise).
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=fit.rate, weight_decay=0.01, fused=True)
    rise = max(fit.updates // 10, 1)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / rise, total_iters=rise),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(fit.updates - rise, 1)),
        ],
        [rise],
    )
    history = []
    model.train()
    for update in range(fit.updates):
        group = groups[update % len(groups)]
        batch = group.take(torch.randint(len(group.lengths), (fit.batch,), generator=generator))
        value = loss(batch) if loss else losses(model, batch, fit, distance, generator, count)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append(float(value.detach()))
    model.eval()
    return history


__all__ = ["PAD", "TraceFit", "Traces", "context_at", "fit_traces", "losses"]
