"""The local store: every finished trial, in SQLite, safe against being killed and against two runs at once."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from assay.errors import StoreError
from assay.lab.study import Trial

_SCHEMA = """
CREATE TABLE IF NOT EXISTS trials (
    paper TEXT NOT NULL, scale TEXT NOT NULL, code TEXT NOT NULL, setting TEXT NOT NULL,
    arm TEXT NOT NULL, condition TEXT NOT NULL, seed INTEGER NOT NULL,
    status TEXT NOT NULL, metrics TEXT NOT NULL, error TEXT NOT NULL, seconds REAL NOT NULL, finished REAL NOT NULL,
    run TEXT NOT NULL,
    PRIMARY KEY (paper, scale, code, setting, arm, condition, seed)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS trials_by_run ON trials (run);
CREATE TABLE IF NOT EXISTS running (
    paper TEXT NOT NULL, scale TEXT NOT NULL, code TEXT NOT NULL, setting TEXT NOT NULL,
    arm TEXT NOT NULL, condition TEXT NOT NULL, seed INTEGER NOT NULL, run TEXT NOT NULL,
    PRIMARY KEY (paper, scale, code, setting, arm, condition, seed)
) WITHOUT ROWID;
"""
_BUSY_SECONDS = 60.0

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Setting:
    """What a stored trial depends on besides its own name: study, code, device and data folder."""

    paper: str
    code: str
    device: str = "cpu"
    data: str = ""

    @property
    def text(self) -> str:
        return f"{self.device} {self.data}".strip()

    def key(self, trial: Trial) -> tuple[str, str, str, str, str, str, int]:
        return (self.paper, trial.scale, self.code, self.text, trial.arm, trial.condition, trial.seed)


@dataclass(frozen=True)
class Result:
    """A trial that ended: its metrics, or the traceback of its failure."""

    trial: Trial
    metrics: dict[str, Any]
    seconds: float
    error: str = ""

    @property
    def ok(self) -> bool:
        return not self.error


def _told(method: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
    """Turn SQLite's errors into one line that says what to do."""

    @wraps(method)
    def wrapper(self: Store, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except sqlite3.Error as error:
            raise StoreError(_advice(self.path, error)) from error

    return wrapper


class Store:
    """Trials of all papers in one file.

    Raises:
        StoreError: the file is damaged, not writable, or the disk is full. Nothing stored is changed by that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder of the store {path.parent}: {error.strerror}") from error
        try:
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(_advice(path, error)) from error

    @classmethod
    def reading(cls, path: Path) -> Store | None:
        """The store, or None where there is none yet (reading makes no file)."""
        return cls(path) if path.is_file() else None

    @_told
    def put(self, setting: Setting, result: Result, run: str = "") -> None:
        """Store a trial at once, in place of an older result of the same name."""
        key = setting.key(result.trial)
        status = "ok" if result.ok else "failed"
        row = (*key, status, json.dumps(result.metrics), result.error, result.seconds, time.time(), run)
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO trials VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", row)
            self._db.execute(
                "DELETE FROM running WHERE (paper,scale,code,setting,arm,condition,seed) = (?,?,?,?,?,?,?)", key
            )

    @_told
    def start(self, setting: Setting, trial: Trial, run: str) -> None:
        """Note that a trial has begun, so that a process that dies with it can be named."""
        self._db.execute("INSERT OR REPLACE INTO running VALUES (?,?,?,?,?,?,?,?)", (*setting.key(trial), run))

    @_told
    def started(self, run: str) -> list[Trial]:
        """Trials of a run that began and did not end."""
        rows = self._db.execute("SELECT seed, arm, condition, scale FROM running WHERE run = ?", (run,))
        return [Trial(*row) for row in rows]

    @_told
    def forget_started(self, run: str) -> None:
        """Drop the notes of begun trials of a run that is over."""
        self._db.execute("DELETE FROM running WHERE run = ?", (run,))

    @_told
    def ended(self, run: str) -> set[Trial]:
        """Trials that a run has ended so far, well or not."""
        rows = self._db.execute("SELECT seed, arm, condition, scale FROM trials WHERE run = ?", (run,))
        return {Trial(*row) for row in rows}

    @_told
    def count_ended(self, run: str) -> int:
        """How many trials a run has ended so far."""
        return int(self._db.execute("SELECT COUNT(*) FROM trials WHERE run = ?", (run,)).fetchone()[0])

    @_told
    def finished(self, setting: Setting, scale: str) -> set[tuple[str, str, int]]:
        """(arm, condition, seed) of the trials that ended well."""
        rows = self._db.execute(
            "SELECT arm, condition, seed FROM trials"
            " WHERE paper=? AND scale=? AND code=? AND setting=? AND status='ok'",
            (setting.paper, scale, setting.code, setting.text),
        )
        return set(rows)

    @_told
    def results(self, setting: Setting, scale: str) -> list[Result]:
        """Every stored trial of a setting and scale, by seed, arm and condition."""
        return list(self._results(setting, scale))

    def _results(self, setting: Setting, scale: str) -> Iterator[Result]:
        rows = self._db.execute(
            "SELECT seed, arm, condition, scale, metrics, seconds, error FROM trials"
            " WHERE paper=? AND scale=? AND code=? AND setting=? ORDER BY seed, arm, condition",
            (setting.paper, scale, setting.code, setting.text),
        )
        for seed, arm, condition, at, metrics, seconds, error in rows:
            yield Result(Trial(seed, arm, condition, at), json.loads(metrics), seconds, error)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk ends the transaction by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def by_name(results: Iterable[Result]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """(arm, condition, seed) -> metrics, of the trials that ended well."""
    return {(r.trial.arm, r.trial.condition, r.trial.seed): r.metrics for r in results if r.ok}


def _advice(path: Path, error: sqlite3.Error) -> str:
    words = str(error)
    if "full" in words:
        return f"the disk of the store {path} is full; free some space and run again (finished trials are kept)"
    if "malformed" in words or "not a database" in words or "corrupt" in words:
        return f"the store {path} is damaged ({words}); move it away, or put a copy back, and run again"
    if "readonly" in words or "unable to open" in words:
        return f"the store {path} cannot be written ({words}); check its rights, or set ASSAY_HOME to another folder"
    if "locked" in words:
        return f"the store {path} has been locked by another process for {_BUSY_SECONDS:.0f} s; run again when it ends"
    return f"the store {path} cannot be used: {words}"
