"""Tables of numbers with named columns, as .csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from assay.errors import InputError


def read_columns(path: Path, names: Sequence[str]) -> Tensor:
    """The named columns of a .csv with a header line, `(N, len(names))` float64; other columns are ignored.

    Raises:
        InputError: no such file, a column that is missing, no rows, or an entry that is no finite number (line named).
    """
    path = Path(path)
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in names if name not in header]
            if missing:
                found = ", ".join(header) or "nothing"
                raise InputError(f"{path} lacks the columns {', '.join(missing)}; its first line has: {found}")
            reader.fieldnames = header
            for row in reader:
                try:
                    values = [float(row[name]) for name in names]
                except (TypeError, ValueError):
                    values = [math.nan]
                if not all(map(math.isfinite, values)):
                    raise InputError(f"{path}, line {reader.line_num}: {', '.join(names)} must be finite numbers")
                rows.append(values)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error
    if not rows:
        raise InputError(f"{path} has no rows")
    return torch.tensor(rows, dtype=torch.float64)


def write_columns(path: Path, names: Sequence[str], table: Tensor) -> None:
    """Write a table `(N, len(names))` with a header line; NaN becomes an empty entry.

    Raises:
        ValueError: another number of columns.
    """
    if table.ndim != 2 or table.shape[1] != len(names):
        raise ValueError(f"{len(names)} names for a table of shape {tuple(table.shape)}")
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([f"{v:.9g}" if math.isfinite(v) else "" for v in row] for row in table.tolist())
