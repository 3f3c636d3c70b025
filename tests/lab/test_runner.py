"""Running: what is stored, skipped, run again, and what happens when things break."""

import os
import signal
import sqlite3
import time

import pytest

from assay.errors import AssayError, UnknownName
from assay.lab import runner
from assay.lab.registry import load_module
from assay.lab.runner import Options
from assay.lab.study import Trial


@pytest.fixture
def study(toy):
    return load_module("assay_toy.study")


def metrics(outcome, but=("seconds",)):
    return {str(r.trial): {k: v for k, v in r.metrics.items() if k not in but} for r in outcome.results}


def test_finished_trials_are_skipped(toy, study):
    first = runner.run(study, Options(jobs=1))
    assert (first.planned, first.skipped, len(first.results)) == (24, 0, 24)
    again = runner.run(study, Options(jobs=1, seeds=5))
    assert (again.planned, again.skipped) == (30, 24)
    assert len(toy.log) == 30
    assert metrics(first).items() <= metrics(again).items()


def test_chosen_arms_only(toy, study):
    outcome = runner.run(study, Options(jobs=1, seeds=1, arms=["method"]))
    assert sorted(toy.log) == ["method easy 0", "method hard 0"]
    assert {r.trial.arm for r in outcome.results} == {"method"}


def test_fresh_runs_again(toy, study):
    runner.run(study, Options(jobs=1, seeds=1))
    outcome = runner.run(study, Options(jobs=1, seeds=1, fresh=True))
    assert len(toy.log) == 12
    assert outcome.skipped == 0


def test_changed_code_runs_again_and_old_results_stay(toy):
    assert toy.cli("run", toy.paper, "--seeds", 1, "--jobs", 1).returncode == 0
    toy.edit_method("1.0", "2.0")
    assert toy.json("run", toy.paper, "--seeds", 1, "--jobs", 1)[0]["skipped"] == 0
    toy.edit_method("2.0", "1.0")
    assert toy.json("run", toy.paper, "--seeds", 1, "--jobs", 1)[0]["skipped"] == 6
    assert len(toy.log) == 12


def test_same_metrics_in_this_process_and_in_workers(tmp_path, study):
    here = runner.run(study, Options(jobs=1, store=tmp_path / "a.sqlite"))
    there = runner.run(study, Options(jobs=2, store=tmp_path / "b.sqlite"))
    assert metrics(here) == metrics(there)
    arms = {r.trial.arm: r.metrics["global"] for r in here.results if r.trial.seed == 1}
    assert len(set(arms.values())) == 1, "every arm of a seed starts from the same state"


def test_a_trial_that_raises_is_recorded_and_the_others_go_on(toy):
    done = toy.cli("run", toy.paper, "--seeds", 2, TOY_BAD="raise:method:easy:1")
    assert done.returncode == 1
    assert "method in easy, seed 1" in done.stderr
    assert "the toy broke" in done.stderr
    assert "INCONCLUSIVE" in done.stdout
    again = toy.json("run", toy.paper, "--seeds", 2)
    assert again[0]["skipped"] == 11
    assert again[0]["failed"] == 0


def test_the_traceback_is_kept(toy, study, monkeypatch):
    monkeypatch.setenv("TOY_BAD", "raise:method:easy:0")
    outcome = runner.run(study, Options(jobs=1, seeds=1))
    [failed] = outcome.failed
    assert failed.trial == Trial(0, "method", "easy", "pocket")
    assert 'raise RuntimeError("the toy broke")' in failed.error


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_trial_beyond_its_limit_is_failed(toy, study, monkeypatch, jobs):
    monkeypatch.setenv("TOY_BAD", "hang:copy:hard:0")
    outcome = runner.run(study, Options(jobs=jobs, seeds=2, time_limit=0.5))
    [failed] = outcome.failed
    assert "time limit of 0.5 s" in failed.error
    assert len(outcome.results) == 12


def test_a_worker_that_dies_is_pinned_on_its_trial(toy, study, monkeypatch):
    monkeypatch.setenv("TOY_BAD", "die:method:hard:1")
    outcome = runner.run(study, Options(jobs=2, seeds=3))
    [failed] = outcome.failed
    assert failed.trial == Trial(1, "method", "hard", "pocket")
    assert "worker process died" in failed.error
    assert len(outcome.results) == 18


def test_a_failing_preparation_fails_its_seed_only(toy, study, monkeypatch):
    def broken(seed):
        if seed == 1:
            raise RuntimeError("no data")
        return {"noise": [0.0], "global": 0.0}

    monkeypatch.setattr(study, "prepare_hook", broken)
    outcome = runner.run(study, Options(jobs=1, seeds=2))
    assert {r.trial.seed for r in outcome.failed} == {1}
    assert all("in prepare" in r.error for r in outcome.failed)


def test_killed_half_way_and_resumed(toy, assay_home):
    process = toy.popen("run", toy.paper, "--jobs", 2, TOY_SLEEP="0.15")
    store = assay_home / "trials.sqlite"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        time.sleep(0.05)
        if store.exists() and _count(store) >= 5:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = _count(store)
    assert 5 <= finished < 24
    ran = len(toy.log)
    again = toy.json("run", toy.paper, "--jobs", 2)[0]
    assert again["skipped"] == finished
    assert again["failed"] == 0
    assert len(toy.log) == ran + 24 - finished, "nothing finished is run again"
    straight = toy.json("run", toy.paper, "--jobs", 1, ASSAY_HOME=str(assay_home / "other"))[0]
    assert [v["estimate"] for v in straight["verdicts"]] == [v["estimate"] for v in again["verdicts"]]


def test_two_runs_at_once_on_one_store(toy, assay_home):
    both = [toy.popen("run", toy.paper, "--jobs", 1, TOY_SLEEP="0.02") for _ in range(2)]
    assert [process.wait(timeout=400) for process in both] == [0, 0]
    assert _count(assay_home / "trials.sqlite") == 24


def _count(store):
    try:
        with sqlite3.connect(store, timeout=10) as db:
            return db.execute("SELECT COUNT(*) FROM trials WHERE status = 'ok'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": "huge"}, "smoke, pocket, full"),
        ({"arms": ["nobody"]}, "baseline, method, copy"),
        ({"engine": "mpi"}, "local, ray"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
    ],
)
def test_unknown_names_list_the_choices(toy, study, options, words):
    with pytest.raises(UnknownName, match=words):
        runner.run(study, Options(**options))


@pytest.mark.parametrize("options", [{"seeds": 0}, {"jobs": 0}])
def test_counts_must_be_positive(toy, study, options):
    with pytest.raises(AssayError, match="at least 1"):
        runner.run(study, Options(**options))


def test_a_trial_must_return_numbers(toy, study, monkeypatch):
    monkeypatch.setattr(study, "trial_hook", lambda arm: {"name": arm})
    outcome = runner.run(study, Options(jobs=1, seeds=1))
    assert len(outcome.failed) == 6
    assert "expected a number" in outcome.failed[0].error


def test_workers_of_a_killed_run_stop_at_the_next_trial(toy, assay_home):
    process = toy.popen("run", toy.paper, "--jobs", 2, "--seeds", 2, TOY_SLEEP="0.5")
    store = assay_home / "trials.sqlite"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and _count(store) < 2:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)  # the runner alone: its workers live on
    process.wait()
    time.sleep(1.0)
    ran = len(toy.log)
    time.sleep(1.5)
    assert len(toy.log) == ran < 12
