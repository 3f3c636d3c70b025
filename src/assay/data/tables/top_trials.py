"""Clinical trials as tables: the TOP benchmark's csv files and ClinicalTrials.gov exports.

TOP (futianfan/clinical-trial-outcome-prediction) keeps its official split by time in files such as `phase_I_train.csv`
with the columns nctid, status, why_stop, label, phase, diseases, icdcodes, drugs, smiless, criteria; lists are Python
literals inside the fields, and `icdcodes` holds one such list (again as text) per disease.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError

PARTS = ("train", "valid", "test")
PHASES = ("I", "II", "III")
COLUMNS = ("nctid", "status", "why_stop", "label", "phase", "diseases", "icdcodes", "drugs", "smiless", "criteria")
LONGEST_FIELD = 4_000_000  # characters; the longest criteria of TOP have some ten thousand

ALIASES = {
    "nctid": ("nctid", "nct_id", "nct number", "nct id"),
    "phase": ("phase", "phases"),
    "diseases": ("diseases", "conditions", "condition"),
    "drugs": ("drugs", "interventions", "intervention"),
    "start": ("start_date", "start date", "startdate", "study first submitted", "first posted"),
}


@dataclass(frozen=True)
class Trials:
    """Trials row by row.

    Attributes:
        nctid: registration number, or the row's number where there is none.
        label: 1 success, 0 failure, NaN unknown; (N,) float.
        phase: as given.
        diseases: names.
        icd: for each disease its ICD-10 codes.
        drugs: names.
        smiles: of the drugs that have one; not aligned with `drugs` (TOP leaves out those without).
        inclusion, exclusion: criteria, one sentence an entry.
        start: ISO dates, empty where unknown.
    """

    nctid: tuple[str, ...]
    label: NDArray[np.float64]
    phase: tuple[str, ...]
    diseases: tuple[tuple[str, ...], ...]
    icd: tuple[tuple[tuple[str, ...], ...], ...]
    drugs: tuple[tuple[str, ...], ...]
    smiles: tuple[tuple[str, ...], ...]
    inclusion: tuple[tuple[str, ...], ...]
    exclusion: tuple[tuple[str, ...], ...]
    start: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.nctid)

    def take(self, rows: Iterable[int]) -> Trials:
        """The given rows, in that order; a row may come twice."""
        chosen = [int(row) for row in rows]
        return Trials(**{
            f.name: self.label[chosen] if f.name == "label" else tuple(getattr(self, f.name)[i] for i in chosen)
            for f in fields(self)
        })  # fmt: skip


def read_split(folder: Path, phase: str = "I") -> dict[str, Trials]:
    """The official train, valid and test files of a phase, from the folder or its `data/`.

    Raises:
        InputError: an unknown phase, or a file is missing or broken.
    """
    if phase not in PHASES:
        raise InputError(f"phase is one of {', '.join(PHASES)}, got {phase!r}")
    found = {}
    for part in PARTS:
        name = f"phase_{phase}_{part}.csv"
        places = [folder / name, folder / "data" / name]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise InputError(f"{folder}: no {name} there or in its data/; expected the TOP benchmark's files")
        found[part] = read_trials(file)
    return found


def read_trials(
    file: Path,
    *,
    smiles: str = "smiless",
    icd: str = "icdcodes",
    criteria: str = "criteria",
    label: str = "label",
) -> Trials:
    """Read a TOP-style csv, a ClinicalTrials.gov csv export, or one of its JSON exports (API version 2).

    Args:
        file: `.csv` or `.json`.
        smiles, icd, criteria, label: names of these columns in a csv; the label may be missing.

    Raises:
        InputError: not such a file, no rows, or none of the columns that describe a trial.
    """
    rows = _from_json(file) if file.suffix.lower() == ".json" else _from_csv(file)
    if not rows:
        raise InputError(f"{file}: holds no trials")
    names = {name.strip().lower(): name for name in rows[0] if name}
    wanted = {"smiles": smiles, "icd": icd, "criteria": criteria, "label": label}
    columns = {key: names.get(name.strip().lower()) for key, name in wanted.items()}
    columns |= {key: next((names[a] for a in tried if a in names), None) for key, tried in ALIASES.items()}
    if not any(columns[key] for key in ("smiles", "icd", "criteria", "diseases")):
        raise InputError(
            f"{file}: none of the columns {smiles}, {icd}, {criteria}, diseases; it has {', '.join(list(names)[:12])}"
        )

    def field(row: dict[str, Any], key: str) -> Any:
        column = columns[key]
        return row.get(column) if column is not None else None

    split = [split_criteria(str(field(row, "criteria") or "")) for row in rows]
    return Trials(
        nctid=tuple(str(field(row, "nctid") or "").strip() or f"row {i + 1}" for i, row in enumerate(rows)),
        label=np.array([_label(field(row, "label"), file, i) for i, row in enumerate(rows)]),
        phase=tuple(str(field(row, "phase") or "").strip().lower() for row in rows),
        diseases=tuple(names_in(field(row, "diseases")) for row in rows),
        icd=tuple(codes_in(field(row, "icd")) for row in rows),
        drugs=tuple(names_in(field(row, "drugs")) for row in rows),
        smiles=tuple(names_in(field(row, "smiles"), separators="|;\n ") for row in rows),
        inclusion=tuple(inside for inside, _ in split),
        exclusion=tuple(outside for _, outside in split),
        start=tuple(_date(field(row, "start")) for row in rows),
    )


HEADER = re.compile(
    r"^\W*(?:(?:key|main|major|general|principal|patient|subject|participant)s?\s+)*(inclusion|exclusion)"
    r"(?:\s+criteri\w*[^:\n]{0,60}(?::|$)|\s*(?::|$))",
    re.IGNORECASE,
)
BULLET = re.compile(r"^\s*(?:(?:[-*•–·]|\d{1,2}[.)]|[a-z][.)])\s+)+")


def split_criteria(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Inclusion and exclusion criteria of a free text, a sentence an entry.

    A line such as "Exclusion Criteria:" turns to its kind; what stands before any header counts as inclusion. A bullet,
    a number or a blank line starts a new criterion, other lines go on with the last one. Runs of space become one.
    """
    kinds: dict[str, list[str]] = {"inclusion": [], "exclusion": []}
    kind, fresh = "inclusion", True
    for line in text.splitlines():
        if not line.strip():
            fresh = True
            continue
        header = HEADER.match(line)
        if header and len(line.strip()) < 400:
            kind, fresh = header[1].lower(), True
            line = line[header.end() :]
            if not line.strip(" :.-"):
                continue
        bullet = BULLET.match(line)
        body = " ".join(line[bullet.end() if bullet else 0 :].split())
        if not any(letter.isalnum() for letter in body):
            continue
        if bullet or fresh or not kinds[kind]:
            kinds[kind].append(body)
        else:
            kinds[kind][-1] += " " + body
        fresh = False
    return tuple(kinds["inclusion"]), tuple(kinds["exclusion"])


def names_in(value: Any, separators: str = "|;\n") -> tuple[str, ...]:
    """Entries of a field: a list, a literal of one, or text with separators. Empty entries are left out."""
    entries: Sequence[Any]
    if isinstance(value, (list, tuple)):
        entries = value
    else:
        text = str(value or "").strip()
        literal = _literal(text)
        if isinstance(literal, (list, tuple)):
            entries = literal
        else:
            entries = re.split(f"[{re.escape(separators)}]+", text)
    return tuple(entry for entry in (str(e).strip() for e in entries) if entry and entry.lower() != "nan")


def codes_in(value: Any) -> tuple[tuple[str, ...], ...]:
    """ICD codes of each disease. TOP's nested literal, a flat list (one disease a code), or text with separators."""
    text = str(value or "").strip() if not isinstance(value, (list, tuple)) else value
    literal = _literal(text) if isinstance(text, str) else text
    if not isinstance(literal, (list, tuple)):
        return tuple((code,) for code in names_in(text, "|;, \n"))
    groups = []
    for entry in literal:
        inner = _literal(entry) if isinstance(entry, str) else entry
        codes = inner if isinstance(inner, (list, tuple)) else [entry]
        groups.append(tuple(str(code).strip() for code in codes if str(code).strip()))
    return tuple(group for group in groups if group)


def _literal(text: str) -> Any:
    if not text.startswith(("[", "(")) or len(text) > LONGEST_FIELD:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _label(value: Any, file: Path, row: int) -> float:
    text = str(value if value is not None else "").strip().lower()
    if text in ("", "nan", "none", "na"):
        return float("nan")
    known = {"1": 1.0, "1.0": 1.0, "true": 1.0, "success": 1.0, "0": 0.0, "0.0": 0.0, "false": 0.0, "failure": 0.0}
    if text not in known:
        raise InputError(f"{file}: row {row + 1} has the label {text[:40]!r}; expected 1, 0 or nothing")
    return known[text]


def _date(value: Any) -> str:
    """`2014-05-01` of an ISO date or month; empty for all else."""
    match = re.match(r"^\s*(\d{4})-(\d{1,2})(?:-(\d{1,2}))?", str(value or ""))
    if not match:
        return ""
    try:
        return date(int(match[1]), int(match[2]), int(match[3] or 1)).isoformat()
    except ValueError:
        return ""


def _from_csv(file: Path) -> list[dict[str, Any]]:
    before = csv.field_size_limit(min(LONGEST_FIELD, sys.maxsize))
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            return [row for row in csv.DictReader(handle) if any(row.values())]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: not a csv in UTF-8 ({str(error)[:120]})") from None
    finally:
        csv.field_size_limit(before)


def _from_json(file: Path) -> list[dict[str, Any]]:
    """Rows of a ClinicalTrials.gov JSON export: a study, a list of studies, or an answer with `studies`."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not JSON ({str(error)[:120]})") from None
    studies = data.get("studies", [data]) if isinstance(data, dict) else data
    if not isinstance(studies, list) or not all(isinstance(s, dict) and "protocolSection" in s for s in studies):
        raise InputError(f"{file}: not a ClinicalTrials.gov export: no protocolSection")

    def at(study: dict[str, Any], *path: str) -> Any:
        for name in ("protocolSection", *path):
            study = study.get(name) or {} if isinstance(study, dict) else {}
        return study or None

    return [
        {
            "nctid": at(s, "identificationModule", "nctId"),
            "phase": "/".join(map(str, at(s, "designModule", "phases") or [])),
            "diseases": at(s, "conditionsModule", "conditions"),
            "drugs": [str(d.get("name", "")) for d in at(s, "armsInterventionsModule", "interventions") or []],
            "criteria": at(s, "eligibilityModule", "eligibilityCriteria"),
            "start_date": at(s, "statusModule", "startDateStruct", "date"),
            **{name: s[name] for name in ("smiless", "icdcodes", "label") if name in s},
        }
        for s in studies
    ]
