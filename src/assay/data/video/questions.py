"""Multiple-choice questions about videos, read from the official layouts of LongVideoBench and MVBench."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.errors import InputError


@dataclass(frozen=True)
class Question:
    """A question about a video: its options and the number of the right one."""

    video: Path
    text: str
    options: tuple[str, ...]
    answer: int


def read_questions(folder: Path) -> list[Question]:
    """Questions whose videos are there.

    LongVideoBench: `lvb_val.json`, a list of objects with `video_path`, `question`, `candidates` and `correct_choice`,
    beside `videos/`. MVBench: `json/TASK.json`, lists of objects with `video`, `question`, `candidates` and `answer`
    (the words of the right candidate), beside `video/` with the videos in any folders below.

    Raises:
        InputError: neither layout is found, an entry lacks a field, or none of the videos is there.
    """
    if (folder / "lvb_val.json").is_file():
        found = [_long(entry, folder) for entry in _entries(folder / "lvb_val.json")]
    elif list((folder / "json").glob("*.json")):
        files = {path.name: path for path in sorted((folder / "video").rglob("*")) if path.is_file()}
        found = [_mv(entry, files) for path in sorted((folder / "json").glob("*.json")) for entry in _entries(path)]
    else:
        raise InputError(f"{folder}: expected lvb_val.json (LongVideoBench) or json/*.json (MVBench)")
    there = [question for question in found if question is not None]
    if not there:
        raise InputError(f"{folder}: {len(found)} questions, but none of their videos is there")
    return there


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: expected a list of objects")
    for number, row in enumerate(rows):
        missing = {"question", "candidates"} - set(row)
        if missing or not isinstance(row["candidates"], list) or len(row["candidates"]) < 2:
            raise InputError(f"{path}: entry {number} lacks {', '.join(sorted(missing)) or 'two candidates'}")
    return rows


def _long(entry: dict[str, Any], folder: Path) -> Question | None:
    video = _inside(folder / "videos", str(entry.get("video_path", "")))
    answer = entry.get("correct_choice")
    if not isinstance(answer, int) or not 0 <= answer < len(entry["candidates"]):
        raise InputError(f"{folder / 'lvb_val.json'}: correct_choice {answer!r} is none of the candidates")
    return None if video is None else Question(video, entry["question"], tuple(map(str, entry["candidates"])), answer)


def _mv(entry: dict[str, Any], files: dict[str, Path]) -> Question | None:
    options = tuple(map(str, entry["candidates"]))
    if str(entry.get("answer")) not in options:
        raise InputError(f"MVBench: answer {entry.get('answer')!r} of {entry.get('video')!r} is none of the candidates")
    video = files.get(Path(str(entry.get("video", ""))).name)
    return None if video is None else Question(video, entry["question"], options, options.index(str(entry["answer"])))


def _inside(root: Path, name: str) -> Path | None:
    place = (root / name).resolve()
    return place if name and place.is_relative_to(root.resolve()) and place.is_file() else None
