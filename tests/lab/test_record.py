"""Published evidence: written from the store, read back, verified, and known to be stale."""

import json
from pathlib import Path

import pytest

from assay.errors import StoreError
from assay.lab import record, runner
from assay.lab.registry import load_module
from assay.lab.verify import agree


@pytest.fixture
def recorded(toy):
    """The toy paper with evidence recorded."""
    study = load_module("assay_toy.study")
    outcome = runner.run(study, runner.Options(jobs=1))
    return record.write(record.make(study, "pocket", outcome.seeds, outcome.results, "cpu"))


def test_record_holds_trials_verdicts_and_provenance(toy, recorded):
    text = json.loads(recorded.read_text())
    assert len(text["trials"]) == 24
    assert text["seeds"] == [0, 1, 2, 3]
    assert [v["outcome"] for v in text["verdicts"]] == ["supported", "supported"]
    assert text["verdicts"][1]["control"] == "held"
    assert {"package", "code", "python", "libraries", "cpu", "seconds"} <= text["provenance"].keys()
    estimate = text["verdicts"][0]["estimate"]
    rows = {(t["arm"], t["condition"], t["seed"]): t["metrics"]["score"] for t in text["trials"]}
    by_hand = [
        sum(rows["method", c, s] - rows["baseline", c, s] for c in ("easy", "hard")) / 2 for s in range(4)
    ]  # fmt: skip
    assert estimate == pytest.approx(sum(by_hand) / 4, rel=1e-6)


def test_the_summary_is_the_record_without_its_trials(toy, recorded):
    whole, summary = record.read(toy.paper), record.read_summary(toy.paper)
    assert summary.model_dump() == whole.model_dump(exclude={"trials"})


def test_record_refuses_unfinished_trials(toy):
    toy.cli("run", toy.paper, "--seeds", 2, "--jobs", 1)
    done = toy.cli("record", toy.paper)
    assert done.returncode == 2
    assert "12 of 24" in done.stderr
    assert not Path(toy.env["ASSAY_EVIDENCE"]).exists()


def test_verify_agrees_then_names_what_was_changed(toy, recorded):
    done = toy.cli("verify", toy.paper, "--jobs", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agrees" in done.stdout
    text = json.loads(recorded.read_text())
    text["trials"][0]["metrics"]["score"] += 0.5
    text["verdicts"][0]["outcome"] = "contradicted"
    recorded.write_text(json.dumps(text))
    done = toy.cli("verify", toy.paper, "--jobs", 1)
    assert done.returncode == 1
    assert "score was" in done.stdout
    assert "C1: was contradicted, is supported" in done.stdout


def test_verify_tells_of_a_verdict_that_rests_on_timings_without_calling_it_a_difference(toy, recorded):
    text = json.loads(recorded.read_text())
    first = text["verdicts"][0]
    for changes, code in (
        ({"metric": "seconds", "p": 0.9, "outcome": "inconclusive"}, 0),
        ({"metric": "seconds", "p": 0.9, "outcome": "contradicted"}, 1),  # a reversal is never the clock's
        ({"metric": "score", "p": 0.9, "outcome": "inconclusive"}, 1),
        ({"metric": "score", "p": first["p"], "outcome": "inconclusive"}, 0),  # only the correction moved it
    ):
        recorded.write_text(json.dumps(text | {"verdicts": [first | changes, *text["verdicts"][1:]]}))
        done = toy.cli("verify", toy.paper, "--jobs", 1)
        assert done.returncode == code, done.stdout + done.stderr
        assert f"C1: was {changes['outcome']}, is supported" in done.stdout
        assert ("rests on timings" in done.stdout) == (code == 0)


def test_changed_code_makes_evidence_stale_everywhere(toy, recorded):
    assert "(stale)" not in toy.cli("list", "--runs").stdout
    toy.edit_method("1.0", "3.0")
    assert "supported (stale)" in toy.cli("list", "--runs").stdout
    assert toy.paper in toy.cli("list", "--verdict", "stale").stdout
    assert "STALE" in toy.cli("show", toy.paper).stdout
    assert toy.json("show", toy.paper)["stale"] is True
    out = recorded.parent / "report"
    assert toy.json("report", toy.paper, "--out", out)["stale"] is True
    assert "Stale." in (out / "report.html").read_text()
    assert toy.cli("run", "--stale", "--jobs", 1).returncode == 0
    assert toy.cli("record", "--stale").returncode == 0
    assert "(stale)" not in toy.cli("list", "--runs").stdout
    assert json.loads(recorded.read_text())["verdicts"][0]["estimate"] == pytest.approx(2.25, abs=0.1)


def test_a_damaged_evidence_file_is_one_line(toy, recorded):
    for damage in ("", "{", '{"format": 1}', "\x00\x00", "[1]"):
        recorded.write_text(damage)
        for reading in (record.read, record.read_summary):
            with pytest.raises(StoreError, match="damaged"):
                reading(toy.paper)
    for command in (["show", toy.paper], ["list"], ["verify", toy.paper]):
        done = toy.cli(*command)
        assert done.returncode == 2
        assert f"{recorded} is damaged" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert toy.json("run", toy.paper, "--jobs", 1)[0]["skipped"] == 24, "local results are not touched"


@pytest.mark.parametrize(
    ("old", "new", "tolerance", "same"),
    [
        (1.0, 1.0 + 1e-7, 1e-6, True),
        (1.0, 1.001, 1e-6, False),
        (None, float("nan"), 1e-6, True),
        (None, 1.0, 1e-6, False),
        ([1.0, [2.0]], [1.0, [2.0]], 0.0, True),
        ([1.0], [1.0, 2.0], 1.0, False),
        ([1.0], 1.0, 1.0, False),
    ],
)
def test_agreement(old, new, tolerance, same):
    assert agree(old, new, tolerance) is same


def test_floats_survive_and_nan_becomes_null():
    assert record._compact({"a": [0.1, float("nan"), float("inf")]}) == {"a": [0.1, None, None]}
