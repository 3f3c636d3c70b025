"""Are imagined frames of a board right: the cells that should change, those that should not, and for how long?

Frames are compared as what their cells show (class numbers), not as pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class FrameChecks:
    """Booleans per frame.

    Attributes:
        right: every cell that should change came out as it should.
        redundant: some other cell is not as it should be.
    """

    right: NDArray[np.bool_]
    redundant: NDArray[np.bool_]


def check_frames(before: NDArray[np.int64], after: NDArray[np.int64], drawn: NDArray[np.int64]) -> FrameChecks:
    """Check drawn frames against the true ones.

    Args:
        before, after: (..., cells) true frames before and after the step. drawn: (..., cells) the imagined frame.
            Where nothing should change, `right` asks for all cells.

    Raises:
        ValueError: shapes differ.
    """
    if not before.shape == after.shape == drawn.shape:
        raise ValueError(f"shapes differ: {before.shape}, {after.shape}, {drawn.shape}")
    changing, same = before != after, drawn == after
    still = ~changing.any(-1)
    right = np.where(still, same.all(-1), (same | ~changing).all(-1))
    return FrameChecks(right, ~(same | changing).all(-1))


def consecutive_ratio(right: NDArray[np.bool_], lengths: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Share of frames before the first wrong one, (N,).

    Args:
        right: (N, T). lengths: (N,) frames that count, at least one; T for all when None.

    Raises:
        ValueError: a length outside 1 to T.
    """
    steps = right.shape[1]
    lengths = np.full(len(right), steps) if lengths is None else lengths
    if ((lengths < 1) | (lengths > steps)).any():
        raise ValueError(f"lengths must be 1 to {steps}, got {lengths.min()} to {lengths.max()}")
    counted = right & (np.arange(steps) < lengths[:, None])
    return np.cumprod(counted, axis=1).sum(1) / lengths
