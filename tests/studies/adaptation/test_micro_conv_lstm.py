"""MicroBi-ConvLSTM's study: apply on files, refusal of bad ones, labelling, and the full-scale path on a tiny set."""

import csv
import json

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from assay.data.series import har
from assay.data.series.har_folders import official
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.methods.adaptation.micro_conv_lstm import Fit
from assay.studies.adaptation import micro_conv_lstm as module
from assay.studies.adaptation._micro_arms import held_out, macro_f1
from assay.studies.adaptation._micro_tuning import development
from assay.studies.adaptation.micro_conv_lstm import apply, study, task, trial


def write_recordings(folder, subjects=("ann", "bob", "cy"), seconds=30, rate=25, constant=False, gap=False):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in subjects:
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time", "ax", "ay", "az", *(["flat"] if constant else []), "label"])
            for i in range(seconds * rate):
                t = i / rate + (100 if gap and i > seconds * rate // 2 else 0)
                word, hertz = (("walk", 1.0), ("run", 3.0))[(i // (5 * rate)) % 2]
                axes = np.sin(6.28 * hertz * t + np.arange(3)) + 0.1 * rng.normal(size=3)
                writer.writerow([f"{t:.3f}", *axes.round(4), *([7] if constant else []), word])
    return folder


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_apply_trains_exports_and_labels(tmp_path):
    folder = write_recordings(tmp_path / "rec", constant=True, gap=True)
    out = tmp_path / "har"
    report = run_apply(study, [str(folder), "--out", str(out), "--window", "2", "--rate", "20", "--updates", "60"])
    assert report["macro_f1"] > 85
    assert abs(report["macro_f1"] - report["macro_f1_int8"]) < 5
    assert report["channels"] == ["ax", "ay", "az"]
    assert any("flat" in note for note in report["notes"])
    assert any("gaps" in note for note in report["notes"])
    names = {p.name for p in out.iterdir()}
    assert names == {
        "model", "int8.npz", "model.onnx", "model_int8.onnx", "micro.h", "confusion.csv", "footprint.csv",
        "report.json",
    }  # fmt: skip
    assert json.loads((out / "report.json").read_text())["parameters"] == 80 * 3 + 33 * 2 + 9104
    assert [row["bits"] for row in rows(out / "footprint.csv")] == ["32", "8"]
    told = sum(int(v) for row in rows(out / "confusion.csv") for k, v in row.items() if k in ("run", "walk"))
    assert told == report["windows"]["test"]

    said = tmp_path / "said"
    run_apply(study, [str(folder / "bob.csv"), "--out", str(said), "--model", str(out / "model")])
    labels = rows(said / "labels.csv")
    sure = [row for row in labels if int(row["second"]) < 15 and int(row["second"]) % 5 == 2]
    assert [row["label"] for row in sure] == ["walk", "run", "walk"]


def test_apply_on_windows_of_one_subject_says_so(tmp_path):
    made = har.periodic(np.random.default_rng(0), subjects=1, each=36)
    np.savez(tmp_path / "w.npz", x=made.x, y=made.y)
    out = tmp_path / "o"
    report = run_apply(study, [str(tmp_path / "w.npz"), "--out", str(out), "--export", "c", "--updates", "3"])
    assert "fewer than two subjects" in report["notes"][-1]
    assert (tmp_path / "o" / "micro.h").exists()
    assert not (tmp_path / "o" / "model.onnx").exists()


def test_apply_refuses(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no CSV"):
        apply(empty, tmp_path / "o")
    with pytest.raises(InputError, match="no such file"):
        apply(tmp_path / "none", tmp_path / "o")
    with pytest.raises(InputError, match="must be positive"):
        apply(empty, tmp_path / "o", window=-1)
    with pytest.raises(InputError, match="--export onnx,java"):
        apply(empty, tmp_path / "o", export="onnx,java")
    np.savez(tmp_path / "one.npz", x=np.random.default_rng(0).normal(size=(6, 3, 20)), y=np.zeros(6))
    with pytest.raises(InputError, match="at least two"):
        apply(tmp_path / "one.npz", tmp_path / "o")
    np.savez(tmp_path / "short.npz", x=np.random.default_rng(0).normal(size=(6, 3, 3)), y=np.arange(6) % 2)
    with pytest.raises(InputError, match="too short"):
        apply(tmp_path / "short.npz", tmp_path / "o")
    with pytest.raises(InputError, match="no model folder"):
        apply(empty, tmp_path / "o", model=empty)


def test_macro_f1_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    said, truth = torch.randint(0, 4, (2, 200), generator=generator)
    assert macro_f1(said, truth, 4) == pytest.approx(100 * metrics.f1_score(truth, said, average="macro"))


def test_apply_on_ts_windows(tmp_path):
    made = har.periodic(np.random.default_rng(0), subjects=1, each=36)
    lines = [
        ":".join(",".join(f"{v:.3f}" for v in row) for row in x) + f":{y}" for x, y in zip(made.x, made.y, strict=True)
    ]
    (tmp_path / "Set_TRAIN.ts").write_text("\n".join(["@data", *lines]))
    out = tmp_path / "o"
    report = run_apply(study, [str(tmp_path / "Set_TRAIN.ts"), "--out", str(out), "--export", "c", "--updates", "2"])
    assert report["windows"]["steps"] == 128
    assert report["classes"] == list("012345")


def test_tuning_sees_no_judged_window(monkeypatch):
    """Persons of tuning tasks never test in a judged split, and held-out persons do not train."""
    made = har.periodic(np.random.default_rng(0), subjects=10, each=12)
    monkeypatch.setattr(module, "watch", lambda scale: (made, sorted(set(made.subjects.tolist()))))
    monkeypatch.setattr("assay.studies.adaptation._micro_tuning.watch", module.watch)
    first = {"s00", "s01", "s02", "s03"}
    for seed in range(20):
        assert first <= set(module.watch_task(np.random.default_rng(seed), "pocket").people)
    tasks = development("watch", 1000)
    assert len(tasks) == module.ALWAYS_TRAIN
    for one in tasks:
        assert set(one.people) < first
        assert len(one.x) == 36
    task = module.simulated("episodic", 3, "smoke")
    inner = held_out(task, ["s00"])
    assert "s00" not in inner.people
    assert len(inner.x) + len(inner.x_test) == len(task.x)


def test_without_the_wheel_a_simulated_set_stands_in_and_the_evidence_says_so(monkeypatch):
    monkeypatch.setattr(module, "installed", lambda: None)
    monkeypatch.setattr(module, "watch", module.watch.__wrapped__)
    windows, persons = module.watch("smoke")
    assert len(persons) == 10
    assert windows.x.shape[1:] == (6, 128)
    assert study.data_kind("pocket") == "simulated"
    monkeypatch.setattr(module, "installed", lambda: __file__)
    assert study.data_kind("pocket") == "real and simulated"


def test_every_trained_arm_has_a_rate_of_its_own():
    for arm in module.NETWORKS:
        for condition in set(module.ARM_CONDITIONS.get(arm, module.JUDGED)):
            assert (arm, condition) in module.RATES


def test_full_scale_reads_official_folders(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "d").mkdir()
    for subject in (1, 2, 3):
        table = rng.integers(-500, 500, size=(1200, 11))
        table[:, 0] = np.arange(1200) * 1000 // 64
        table[:, 10] = 1 + (np.arange(1200) > 600)
        np.savetxt(tmp_path / "d" / f"S0{subject}R01.txt", table, fmt="%d")
    with pytest.raises(InputError, match="no periodic set"):
        official(tmp_path)
    (tmp_path / "w").mkdir()
    lines = [
        f"{user},{word},{(10**4 + i) * 50_000_000 + j * 10**11},{rng.normal():.3f},{rng.normal():.3f},1.5;"
        for user in (1, 2, 3) for j, word in enumerate(("Jogging", "Walking")) for i in range(300)
    ]  # fmt: skip
    (tmp_path / "w" / "WISDM_ar_v1.1_raw.txt").write_text("\n".join(lines))
    kinds = official(tmp_path)
    assert [len(v) for v in kinds.values()] == [1, 1]
    monkeypatch.setattr(module, "budget", lambda scale: Fit(updates=2, batch=8))
    tasks = [task(w, np.random.default_rng(0)) for w in kinds["episodic"] * 2]
    found = trial("micro-uni", "episodic", 0, "full", {"episodic": tasks})
    assert len(found["macro_f1_sets"]) == 2
    assert found["macro_f1"] == pytest.approx(np.mean(found["macro_f1_sets"]))
    with pytest.raises(InputError, match="--data"):
        official(None)
