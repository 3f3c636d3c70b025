"""The store: damaged, full, and read back."""

import sqlite3

import pytest

from assay.errors import StoreError
from assay.lab.store import Result, Setting, Store
from assay.lab.study import Trial

SETTING = Setting("2603.00001", "abc")


def test_what_is_put_is_read_back(tmp_path):
    trial = Trial(3, "method", "easy", "pocket")
    with Store(tmp_path / "s.sqlite") as store:
        store.put(SETTING, Result(trial, {"a": 1.5, "curve": [1.0, [2.0]]}, 0.25))
        assert store.results(SETTING, "pocket") == [Result(trial, {"a": 1.5, "curve": [1.0, [2.0]]}, 0.25)]
        assert store.finished(SETTING, "pocket") == {("method", "easy", 3)}
        assert store.finished(Setting("2603.00001", "abc", "cuda"), "pocket") == set()
        store.put(SETTING, Result(trial, {}, 0.1, "broke"))
        assert store.finished(SETTING, "pocket") == set()


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be one" * 40, b"SQLite format 3\x00" + b"\xff" * 4000]
)
def test_a_damaged_store_is_named_and_kept(toy, assay_home, content):
    assay_home.mkdir(parents=True)
    path = assay_home / "trials.sqlite"
    path.write_bytes(content)
    done = toy.cli("run", toy.paper)
    assert done.returncode == 2
    assert f"the store {path} is damaged" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert path.read_bytes() == content


def test_a_truncated_store_is_named(toy, assay_home):
    assert toy.cli("run", toy.paper).returncode == 0
    path = assay_home / "trials.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes()[:5000])
    done = toy.cli("run", toy.paper)
    assert done.returncode == 2
    assert "damaged" in done.stderr


def test_a_full_disk_loses_nothing(tmp_path):
    """SQLite's page limit stands in for a full disk: both give the same error."""
    with Store(tmp_path / "s.sqlite") as store:
        store.put(SETTING, Result(Trial(0, "method", "", "pocket"), {"a": 1.0}, 0.1))
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count = {pages}")
        large = Result(Trial(1, "method", "", "pocket"), {"curve": [1.0] * 100_000}, 0.1)
        with pytest.raises(StoreError, match="full; free some space"):
            store.put(SETTING, large)
    with Store(tmp_path / "s.sqlite") as store:
        assert ("method", "", 0) in store.finished(SETTING, "pocket")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot make the folder"):
        Store(tmp_path / "file" / "s.sqlite")
