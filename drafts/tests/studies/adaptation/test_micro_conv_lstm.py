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
from assay.studies.adaptation.micro_conv_lstm import apply, macro_f1, study, task, trial


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
    monkeypatch.setattr(module, "budget", lambda scale, windows: Fit(updates=2, batch=8))
    tasks = [task(w, np.random.default_rng(0)) for w in kinds["episodic"] * 2]
    found = trial("micro-uni", "episodic", 0, "full", {"episodic": tasks})
    assert len(found["macro_f1_sets"]) == 2
    assert found["macro_f1"] == pytest.approx(np.mean(found["macro_f1_sets"]))
    with pytest.raises(InputError, match="--data"):
        official(None)
