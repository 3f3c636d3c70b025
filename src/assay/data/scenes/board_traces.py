"""Traces of moves on boards with a picture after every move, in the two layouts that MVoT's authors use.

    maze         NAME.json: a list with grid_num, path_locs, action_list ("down-1"), candidate_locs, file_prefix;
                 frames PREFIX_1.jpg and on
    FrozenLake   data.json: maps by key, with env_desc, and data_id, actions, states, exec_states of every trace;
                 frames ID/0.png and on, in a folder KEY where there are several maps

A maze's answer is the letter of the candidate at the end of the path; that of a lake is A (gift), B (hole) or C.

Source: 2501.07542, data samples of its public repository (Apache-2.0)
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.data.scenes.gridworld import ACTIONS
from assay.errors import InputError, require

ENDS = {"success": "A", "terminated": "B", "truncated": "C"}
MARGIN = 1 / 16  # of the side; narrower ones belong to the board, such as the outer grid line of a lake
LARGEST = 64 * 1024 * 1024  # bytes of a table


@dataclass(frozen=True)
class BoardTrace:
    """One trace: T actions in words, T + 1 picture files and cells (row, column), the answer's letter."""

    name: str
    task: str
    grid: int
    actions: tuple[str, ...]
    answer: str
    frames: tuple[Path, ...]
    places: tuple[tuple[int, int], ...]


def read_traces(folder: Path) -> list[BoardTrace]:
    """All traces of the tables in a folder and below it.

    Raises:
        InputError: no table in either layout, a table that does not fit its layout, or a frame that is missing or lies
            outside of the table's surroundings.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of traces (maze or FrozenLake tables with their frames)")
    found: list[BoardTrace] = []
    for table in sorted(folder.rglob("*.json")):
        if table.stat().st_size > LARGEST:
            raise InputError(f"{table}: larger than {LARGEST // 2**20} MB")
        try:
            content = json.loads(table.read_text(encoding="utf-8"))
            if isinstance(content, list) and content and isinstance(content[0], dict) and "action_list" in content[0]:
                found += [_maze(entry, table) for entry in content]
            elif isinstance(content, dict) and any(isinstance(v, dict) and "env_desc" in v for v in content.values()):
                for key, entry in content.items():
                    found += _lake(key, entry, table, len(content) == 1)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            raise InputError(f"{table}: not a table of traces: {type(error).__name__} {error}") from error
    if not found:
        raise InputError(f"{folder}: no table with action_list (maze) or env_desc (FrozenLake) in it")
    return found


def read_board(file: Path, grid: int, cell: int, *, exact: bool = False) -> NDArray[np.float32]:
    """A picture of a board, cut to its border and brought to (grid cell, grid cell, 3) of 0 to 1.

    A wide margin of one colour around the board (as mazes have) is cut off. Transparency is put on white.

    Args:
        exact: refuse a picture without such a margin whose sides are no multiple of `grid`.

    Raises:
        InputError: not a picture, one that is all one colour, or as `exact` says.
    """
    image = require("PIL.Image", "mllm")
    try:
        with image.open(file) as opened:
            full = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise InputError(f"{file}: not a picture that can be read ({error})") from error
    white = image.new("RGBA", full.size, (255, 255, 255, 255))
    picture = image.alpha_composite(white, full).convert("RGB")
    pixels = np.asarray(picture).astype(np.int64)
    differs = np.abs(pixels - pixels[0, 0]).max(axis=2) > 24  # JPEG leaves some grain in a margin
    if not differs.any():
        raise InputError(f"{file}: all of one colour, no board is seen")
    rows, columns = np.nonzero(differs.any(1))[0], np.nonzero(differs.any(0))[0]
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    margin = min(left, picture.width - right) / picture.width, min(top, picture.height - bottom) / picture.height
    if max(margin) > MARGIN:
        picture = picture.crop((left, top, right, bottom))
    elif exact and (picture.width % grid or picture.height % grid):
        raise InputError(f"{file}: {picture.width} x {picture.height} pixels cannot be cut into {grid} x {grid} cells")
    small = picture.resize((grid * cell, grid * cell), image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def _maze(entry: dict[str, Any], table: Path) -> BoardTrace:
    places = [tuple(place) for place in entry["path_locs"]]
    candidates = [tuple(place) for place in entry["candidate_locs"]]
    if places[-1] not in candidates:
        raise ValueError(f"the path ends at {places[-1]}, which is no candidate")
    actions = tuple(str(action).rsplit("-", 1)[0] for action in entry["action_list"])
    files = [f"{entry['file_prefix']}_{k + 1}" for k in range(len(places))]
    answer = "ABCDEFGH"[candidates.index(places[-1])]
    cells = tuple((int(row), int(column)) for row, column in places)
    return _checked(str(entry["file_prefix"]), "maze", int(entry["grid_num"]), actions, answer, files, cells, table)


def _lake(key: str, entry: dict[str, Any], table: Path, only: bool) -> list[BoardTrace]:
    size = math.isqrt(len(entry["env_desc"]))
    if size * size != len(entry["env_desc"]):
        raise ValueError(f"env_desc {entry['env_desc']} is not square")
    found = []
    for number, steps, states, end in zip(
        entry["data_id"], entry["actions"], entry["states"], entry["exec_states"], strict=True
    ):
        stem = f"{number}" if only else f"{key}/{number}"
        actions = tuple(ACTIONS[step] for step in steps[: len(states) - 1])
        files = [f"{stem}/{k}" for k in range(len(states))]
        cells = tuple(divmod(int(state), size) for state in states)
        found.append(_checked(stem, "frozenlake", size, actions, ENDS[end], files, cells, table))
    return found


def _checked(
    name: str, task: str, grid: int, actions: tuple[str, ...], answer: str, files: list[str],
    places: tuple[tuple[int, int], ...], table: Path,
) -> BoardTrace:  # fmt: skip
    """A trace whose words are known and whose frames are there, beside the table or one folder up."""
    if unknown := set(actions) - set(ACTIONS):
        raise ValueError(f"action {sorted(unknown)[0]}, expected one of {', '.join(ACTIONS)}")
    if len(files) != len(actions) + 1:
        raise ValueError(f"{name}: {len(actions)} actions and {len(files)} frames")
    for root in (table.parent.resolve(), table.parent.parent.resolve()):
        paths = [next((p for p in _endings(root / file) if p.is_file()), None) for file in files]
        if all(path is not None and path.resolve().is_relative_to(root) for path in paths):
            return BoardTrace(name, task, grid, actions, answer, tuple(path for path in paths if path), places)
    raise InputError(f"{table}: the frames {files[0]} to {files[-1]} are not beside it")


def _endings(stem: Path) -> list[Path]:
    return [stem.with_name(stem.name + ending) for ending in (".png", ".jpg", ".jpeg")]
