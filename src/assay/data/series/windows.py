"""Recordings of sensors cut into labelled windows, and splits that keep subjects apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Recording:
    """One recording: `times` `(n,)` in seconds, rising; `values` `(n, C)`; `labels` `(n,)` words, "" for none."""

    times: NDArray[np.float64]
    values: NDArray[np.float64]
    labels: NDArray[np.str_]
    subject: str
    channels: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class Windows:
    """Windows of equal length.

    Attributes:
        x: `(N, C, T)`. y: `(N,)`, index into `classes`. subjects: `(N,)`, who wore the sensor, or the recording.
        classes, channels: names. rate: samples a second, 0 when unknown. notes: what was left out, in words.
        starts: `(N,)`, seconds from a recording's first sample to the window's; None when unknown.
    """

    x: Floats
    y: Ints
    subjects: NDArray[np.str_]
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    rate: float = 0.0
    notes: tuple[str, ...] = ()
    starts: NDArray[np.float64] | None = None

    def take(self, rows: NDArray) -> Windows:
        """Only these windows."""
        starts = None if self.starts is None else self.starts[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], subjects=self.subjects[rows], starts=starts)


def cut(
    recordings: Sequence[Recording], seconds: float, rate: float, overlap: float = 0.5, *, purity: float = 0.5
) -> Windows:
    """Resample recordings to one rate and cut them into windows, each with its most frequent label.

    Samples are linearly interpolated. A gap longer than a window ends a stretch; windows never cross it. A window
    without label in at least `purity` of its samples is left out. Missing values (NaN) are interpolated in time.

    Args:
        recordings: with the same channels. seconds: length of a window. rate: samples a second of the windows.
        overlap: share of a window that the next repeats, in [0, 1).

    Raises:
        InputError: other channels, times that do not rise, settings out of range, or no window at all.
    """
    steps = round(seconds * rate)
    if steps < 4 or not 0 <= overlap < 1:
        raise InputError(f"a window of {seconds:g} s at {rate:g} a second has {steps} samples, expected at least 4")
    hop = max(round(steps * (1 - overlap)), 1)
    x, labels, subjects, starts, notes = [], [], [], [], []
    for recording in recordings:
        if recording.channels != recordings[0].channels:
            raise InputError(
                f"{recording.name}: channels {', '.join(recording.channels)}; expected those of the first recording:"
                f" {', '.join(recordings[0].channels)}"
            )
        if len(recording.times) > 1 and (np.diff(recording.times) <= 0).any():
            row = int((np.diff(recording.times) <= 0).argmax()) + 1
            raise InputError(f"{recording.name}: time does not rise at row {row + 1}; sort the rows by time")
        stretches = _stretches(recording, seconds)
        if len(stretches) > 1:
            notes.append(f"{recording.name}: {len(stretches) - 1} gaps longer than a window, cut there")
        for rows in stretches:
            values, words = _resample(recording, rows, rate)
            first = recording.times[rows][0] - recording.times[0]
            for start in range(0, len(values) - steps + 1, hop):
                word, share = _most_frequent(words[start : start + steps])
                if word and share >= purity:
                    x.append(values[start : start + steps].T)
                    labels.append(word)
                    subjects.append(recording.subject)
                    starts.append(first + start / rate)
    if not x:
        raise InputError(
            f"no recording holds a labelled window of {seconds:g} s ({steps} samples at {rate:g} a second)"
        )
    classes, y = np.unique(labels, return_inverse=True)
    return Windows(
        np.stack(x).astype(np.float32), y.astype(np.int64), np.array(subjects), tuple(map(str, classes)),
        recordings[0].channels, rate, tuple(notes), np.array(starts),
    )  # fmt: skip


def drop_constant(windows: Windows) -> Windows:
    """Without the channels that never change; their names go into the notes.

    Raises:
        InputError: no channel is left.
    """
    moves = windows.x.max(axis=(0, 2)) > windows.x.min(axis=(0, 2))
    if not moves.any():
        raise InputError("every channel is constant; there is nothing to learn from")
    gone = [name for name, kept in zip(windows.channels, moves, strict=True) if not kept]
    notes = windows.notes + ((f"constant channels dropped: {', '.join(gone)}",) if gone else ())
    kept = tuple(name for name in windows.channels if name not in gone)
    return replace(windows, x=windows.x[:, moves], channels=kept, notes=notes)


def split_by_subject(windows: Windows, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Rows for training and for testing with no subject in both; about `share` of the subjects test.

    Subjects are drawn until every class is in both parts, at most 100 times; after that the last draw stands.

    Raises:
        InputError: fewer than two subjects.
    """
    names = np.unique(windows.subjects)
    if len(names) < 2:
        raise InputError(f"{len(names)} subject, expected at least two to keep apart")
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    test = np.zeros(len(windows.y), dtype=bool)
    for _ in range(100):
        test = np.isin(windows.subjects, rng.permutation(names)[:count])
        if all(set(windows.y[part]) == set(windows.y) for part in (test, ~test)):
            break
    return np.nonzero(~test)[0], np.nonzero(test)[0]


def split_by_time(windows: Windows, share: float, embargo: int = 1) -> tuple[Ints, Ints]:
    """Rows for training and testing; the last `share` of each class tests, `embargo` windows before it are left out."""
    train, test = [], []
    for k in np.unique(windows.y):
        rows = np.nonzero(windows.y == k)[0]
        count = min(max(round(share * len(rows)), 1), max(len(rows) - 1, 1))
        test.append(rows[len(rows) - count :])
        train.append(rows[: max(len(rows) - count - embargo, 1)] if len(rows) > 1 else rows[:0])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def stratified(y: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Rows for training and testing with `share` of every class in the test part."""
    test = np.zeros(len(y), dtype=bool)
    for k in np.unique(y):
        rows = rng.permutation(np.nonzero(y == k)[0])
        test[rows[: round(share * len(rows))]] = True
    return np.nonzero(~test)[0], np.nonzero(test)[0]


def standardise(train: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each channel, both `(C, 1)`; a deviation of 0 counts as 1."""
    mean = train.mean(axis=(0, 2), dtype=np.float64)[:, None]
    std = train.std(axis=(0, 2), dtype=np.float64)[:, None]
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _stretches(recording: Recording, seconds: float) -> list[slice]:
    breaks = np.nonzero(np.diff(recording.times) > seconds)[0] + 1
    edges = [0, *breaks.tolist(), len(recording.times)]
    return [slice(a, b) for a, b in pairwise(edges) if b - a > 1]


def _resample(recording: Recording, rows: slice, rate: float) -> tuple[NDArray, NDArray]:
    times, values, labels = recording.times[rows], recording.values[rows], recording.labels[rows]
    grid = times[0] + np.arange(int((times[-1] - times[0]) * rate + 1e-6) + 1) / rate
    columns = []
    for column in values.T:
        seen = np.isfinite(column)
        columns.append(np.interp(grid, times[seen], column[seen]) if seen.any() else np.zeros(len(grid)))
    nearest = np.clip(np.searchsorted(times, grid - 1e-9), 0, len(times) - 1)
    return np.stack(columns, axis=1), labels[nearest]


def _most_frequent(words: NDArray[np.str_]) -> tuple[str, float]:
    names, count = np.unique(words, return_counts=True)
    best = int(count.argmax())
    return str(names[best]), count[best] / len(words)
