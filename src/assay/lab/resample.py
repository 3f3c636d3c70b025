"""Resamples of fixed real data, whole groups at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def resample_groups(groups: Sequence[Any] | NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Row indices of a bootstrap resample that draws whole groups (subjects, patients, scenes) with replacement.

    A group drawn twice appears twice, its rows together and in their order. Seed 0 is the data as they are,
    so that one figure of a study is always the plain figure of the data.

    Args:
        groups: group label of each row, shape `(N,)`.
        seed: 0 for the identity, any other for a resample.

    Returns:
        Indices into the rows, about `N` of them (exactly `N` when all groups are equally large).

    Raises:
        ValueError: no rows.
    """
    labels = np.asarray(groups)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"groups must be a non-empty vector, got shape {labels.shape}")
    if seed == 0:
        return np.arange(labels.size)
    names, member = np.unique(labels, return_inverse=True)
    rows = np.split(np.argsort(member, kind="stable"), np.cumsum(np.bincount(member))[:-1])
    drawn = np.random.default_rng(seed).integers(0, len(names), size=len(names))
    return np.concatenate([rows[group] for group in drawn])
