"""Mislabel detection on users' files, its full scale on tiny official layouts, and the pieces of its trials."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from assay.errors import InputError
from assay.lab.apply import call_atomically
from assay.lab.study import call_with
from assay.studies.labels import _mislabel_data as d
from assay.studies.labels import mislabel as m

Image = pytest.importorskip("PIL.Image")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def digit_folders(root: Path, each: int = 40, wrong: int = 4) -> set[str]:
    """Folders of real digits 0, 1 and 4 with a few of each in the wrong folder; names of the wrong ones."""
    digits = load_digits()
    moved = set()
    for c, digit in enumerate((0, 1, 4)):
        for i, at in enumerate(np.nonzero(digits.target == digit)[0][:each]):
            folder = ("zero", "one", "four")[(c + 1) % 3 if i < wrong else c]
            name = f"{folder}/{digit}_{i}.png"
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray((digits.images[at] * 15).astype(np.uint8)).resize((32, 32)).save(root / name)
            if i < wrong:
                moved.add(name)
    return moved


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[str], dict]:
    root = tmp_path_factory.mktemp("user")
    wrong = digit_folders(root / "digits")
    options = {
        "dataset": root / "digits",
        "out": root / "out",
        "policy": "correct+filter",
        "size": 16,
        "top": 30,
        "epochs": 20,
    }
    return root / "digits", root / "out", wrong, call_atomically(m.apply, options)


def test_misplaced_images_come_first(applied: tuple) -> None:
    _, out, wrong, said = applied
    first = rows(out / "suspects.csv")[: len(wrong)]
    assert len({row["name"] for row in first} & wrong) >= 0.75 * len(wrong)
    assert said["samples"] == 120
    assert 6 <= said["suspects"] <= 20


def test_every_output_is_there_and_consistent(applied: tuple) -> None:
    dataset, out, _, said = applied
    report = json.loads((out / "report.json").read_text())
    cleaned = rows(out / "cleaned.csv")
    assert report["actions"]["keep"] + report["actions"]["relabel"] == len(cleaned)
    assert {row["label"] for row in cleaned} == {"zero", "one", "four"}
    assert all((dataset / row["path"]).is_file() for row in cleaned)
    assert report["retraining"]["accuracy_after"] >= report["retraining"]["accuracy_before"] - 0.05
    matrix = rows(out / "noise_rates.csv")
    assert all(sum(float(row[c]) for c in ("zero", "one", "four")) == pytest.approx(1, abs=1e-3) for row in matrix)
    assert (out / "contact_sheet.html").read_text().count("<li>") == 30
    assert json.loads((out / "model" / "config.json").read_text())["paper"] == "2602.06938"
    assert 0.02 < said["estimated_noise"] < 0.2


def test_a_cleaned_list_and_a_saved_model_can_be_used_again(applied: tuple, tmp_path: Path) -> None:
    dataset, out, _, _ = applied
    (dataset / "cleaned.csv").write_bytes((out / "cleaned.csv").read_bytes())
    said = call_atomically(
        m.apply,
        {
            "dataset": dataset / "cleaned.csv",
            "out": tmp_path / "again",
            "model": str(out / "model"),
            "size": 16,
            "epochs": 2,
        },
    )
    assert said["samples"] == len(rows(out / "cleaned.csv"))


def test_stored_probabilities_need_no_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 300)
    logits = rng.normal(size=(300, 3)) + 5 * np.eye(3)[true]
    np.save(tmp_path / "probs.npy", np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    given = np.where(np.arange(300) < 30, (true + 1) % 3, true)
    (tmp_path / "labels.csv").write_text("label\n" + "\n".join("abc"[c] for c in given))
    options = {
        "dataset": tmp_path / "labels.csv",
        "probabilities": tmp_path / "probs.npy",
        "out": tmp_path / "out",
        "top": 30,
    }
    said = call_atomically(m.apply, options)
    found = {int(row["row"]) for row in rows(tmp_path / "out" / "suspects.csv")}
    assert len(found & set(range(30))) >= 27
    assert said["estimated_noise"] == pytest.approx(0.1, abs=0.03)
    assert len(rows(tmp_path / "out" / "cleaned.csv")) == 300  # review changes nothing
    assert not (tmp_path / "out" / "model").exists()


def test_features_train_a_linear_classifier(tmp_path: Path) -> None:
    digits = load_digits()
    given = digits.target[:400].copy()
    given[:20] = (given[:20] + 5) % 10
    np.save(tmp_path / "x.npy", digits.data[:400])
    (tmp_path / "y.csv").write_text("label\n" + "\n".join(map(str, given)))
    call_atomically(
        m.apply, {"dataset": tmp_path / "y.csv", "features": tmp_path / "x.npy", "out": tmp_path / "out", "top": 20}
    )
    found = {int(row["row"]) for row in rows(tmp_path / "out" / "suspects.csv")}
    assert len(found & set(range(20))) >= 14
    assert "<img" not in (tmp_path / "out" / "contact_sheet.html").read_text()


def test_near_duplicates_without_groups_are_told_and_kept_together(tmp_path: Path) -> None:
    digit_folders(tmp_path / "set", each=8, wrong=0)
    for file in list((tmp_path / "set" / "zero").iterdir()):
        (file.parent / f"copy_{file.name}").write_bytes(file.read_bytes())
    said = call_atomically(m.apply, {"dataset": tmp_path / "set", "out": tmp_path / "out", "size": 16, "epochs": 1})
    assert "--group-by video" in said["warnings"][0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dataset": "gone"}, "no such file"),
        ({"dataset": "one"}, "at least two classes"),
        ({"dataset": "damaged"}, "unreadable image"),
        ({"dataset": "two", "group_by": "video"}, "no column 'video'"),
        ({"dataset": "two", "top": 0}, "at least 1"),
        ({"dataset": "three", "model": "no/such/model"}, "not an image classifier"),
        ({"dataset": "two.csv", "probabilities": "probs.npy"}, "3 columns"),
        ({"dataset": "two.csv", "probabilities": "probs.npy", "features": "probs.npy"}, "not both"),
        ({"dataset": "three.csv", "probabilities": "probs.npy"}, "sum to 1"),
        ({"dataset": "grouped.csv"}, "three are needed"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, change: dict, says: str, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("one/a", "two/a", "two/b", "damaged/a", "damaged/b"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / name / "x.png")
    rng = np.random.default_rng(0)
    for i in range(6):
        (tmp_path / f"three/{'ab'[i % 2]}").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"three/{'ab'[i % 2]}/{i}.png")
    (tmp_path / "damaged/a/x.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "two.csv").write_text("label\na\nb\n")
    (tmp_path / "three.csv").write_text("label\na\nb\nc\n")
    (tmp_path / "grouped.csv").write_text("path,label,group\ntwo/a/x.png,a,g\ntwo/b/x.png,b,g\n")
    count = 3 if change["dataset"] == "three.csv" else 2
    np.save(tmp_path / "probs.npy", np.ones((count, 3)))
    options = {k: tmp_path / v if k in ("dataset", "probabilities", "features") else v for k, v in change.items()}
    with pytest.raises(InputError, match=says) as caught:
        call_atomically(m.apply, {**options, "out": tmp_path / "out"})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def tiny_checkpoint(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=5
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)


def test_full_scale_reads_kvasir_capsule_and_a_local_backbone(tmp_path: Path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    classes = ("Normal clean mucosa", "Angiectasia", "Erosion")
    for v in range(9):
        for f in range(6):
            folder = tmp_path / "labelled_images" / classes[v % 3 if 1 < f < 5 else 0]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"v{v}_{f}.jpg")
    tiny_checkpoint(tmp_path / "backbone")
    monkeypatch.setitem(d.SIZES, "full", d.Size(digits=60, videos=0, frames=0, pixels=32, epochs=1))
    monkeypatch.setattr(m.study, "conditions", dict.fromkeys(("digits-sym20", "capsule-pair", "capsule-boundary"), ""))
    shared = call_with(m.prepare, {"seed": 0, "scale": "full", "device": "cpu", "data": tmp_path})
    case = shared["capsule-pair"]
    assert case.classes[case.normal] == "Normal clean mucosa"
    assert not set(case.groups) & {f"v{v}" for v in range(9)} - set(case.groups)
    changed = {(case.classes[a], case.classes[b]) for a, b in zip(case.true, case.given, strict=True) if a != b}
    assert changed <= {("Angiectasia", "Erosion"), ("Erosion", "Angiectasia")}
    given = {"seed": 0, "scale": "full", "device": "cpu", "data": tmp_path, "shared": shared}
    result = call_with(m.trial, {"arm": "framework", "condition": "capsule-boundary", **given})
    assert 0 <= result["test_f1"] <= 1


def test_full_scale_without_data_says_what_it_needs() -> None:
    with pytest.raises(InputError, match="--data"):
        d.load("capsule", 0, "full", None)


def test_apply_fine_tunes_a_transformers_classifier_and_saves_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tiny_checkpoint(tmp_path / "backbone")
    digit_folders(tmp_path / "set", each=6, wrong=0)
    options = {
        "dataset": tmp_path / "set",
        "out": tmp_path / "out",
        "model": str(tmp_path / "backbone"),
        "epochs": 1,
        "size": 32,
    }
    call_atomically(m.apply, options)
    network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "model")
    assert set(network.config.id2label.values()) == {"zero", "one", "four"}


def test_noise_of_a_condition_is_what_it_says_and_training_never_sees_a_test_sample() -> None:
    digits = d.load("digits", 3, "pocket")
    assert (m.add_noise(digits, "sym20", 3).wrong).mean() == pytest.approx(0.2)
    assert not m.add_noise(digits, "none", 3).wrong.any()
    train = {x.numpy().tobytes() for x in digits.inputs}
    assert sum(x.numpy().tobytes() in train for x in digits.test_inputs) < 5  # the pool itself holds a few equal scans
    assert len(digits.inputs) + len(digits.test_inputs) == 1797


def test_augmentations_keep_shape_and_are_drawn_from_the_generator() -> None:
    x = torch.rand(4, 3, 8, 8)
    for augment in (d.shift, d.turn):
        a, b, c = (augment(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
        assert a.shape == x.shape
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_shifted_images_are_windows_of_the_padded_ones() -> None:
    x = torch.rand(6, 2, 5, 5)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    shifted = d.shift(x, torch.Generator().manual_seed(0))
    for i in range(6):
        windows = [padded[i, :, a : a + 5, b : b + 5] for a in range(3) for b in range(3)]
        assert any(torch.equal(shifted[i], window) for window in windows)


def test_normalised_images_do_not_feel_tint_and_brightness() -> None:
    x = torch.rand(2, 3, 8, 8)
    tinted = x * 0.5 + torch.tensor([0.1, 0.2, 0.0])[:, None, None]
    torch.testing.assert_close(d.normalise(tinted), d.normalise(x), atol=1e-4, rtol=1e-4)
