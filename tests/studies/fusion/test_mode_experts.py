"""Trial forecasts on users' tables, the full scale on tiny official layouts, and how epochs are chosen."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.data.tables.top_trials import COLUMNS, read_trials
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.lab.study import call_with
from assay.metrics.classification import roc_auc
from assay.studies.fusion import _mode_arms as arms
from assay.studies.fusion import _mode_text as text
from assay.studies.fusion import mode_experts as m

pytest.importorskip("rdkit")
DRUGS = ("CC(=O)OC1=CC=CC=C1C(O)=O", "CCO", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "C1CCCCC1")
SENTENCES = ("Adults over 18 years", "Measurable disease", "ECOG 0 or 1", "Signed consent", "Prior chemotherapy")


def write_trials(file: Path, rows: int, seed: int = 0, first: int = 1000, **changed: str) -> None:
    """A file in TOP's layout; success goes with the first drug."""
    rng = np.random.default_rng(seed)
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        for i in range(rows):
            drug = int(rng.integers(4))
            told = rng.permutation(SENTENCES)
            writer.writerow(
                {
                    "nctid": f"NCT{first + i:08d}",
                    "label": int(rng.random() < (0.9 if drug == 0 else 0.2)),
                    "diseases": "['asthma']",
                    "icdcodes": """["['J45.20', 'J45.21']"]""",
                    "drugs": "['x']",
                    "smiless": repr([DRUGS[drug]]),
                    "criteria": f"Inclusion Criteria:\n - {told[0]}\n - {told[1]}\nExclusion Criteria:\n - {told[2]}",
                    **changed,
                }
            )


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("user")
    write_trials(root / "my trials.csv", 120)
    said = run_apply(m.study, [str(root / "my trials.csv"), "--out", str(root / "out"), "--epochs", "6"])
    return root, said


def test_training_writes_forecasts_reasons_calibration_and_a_model(applied: tuple[Path, dict]) -> None:
    root, said = applied
    out = root / "out"
    assert said["split_by"] == "registration number"
    assert said["parts"] == {"train": 84, "valid": 18, "test": 18}
    predictions = rows(out / "predictions.csv")
    assert [row["part"] for row in predictions] == ["train"] * 84 + ["valid"] * 18 + ["test"] * 18
    assert all(0 <= float(row["probability"]) <= 1 for row in predictions)
    report = json.loads((out / "report.json").read_text())
    low, high = report["roc_auc_interval"]
    assert low <= report["roc_auc"] <= high
    assert sum(float(row["trials"]) for row in rows(out / "calibration.csv")) == report["judged"] == 18
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in (out / "model").iterdir()} == {"config.json", "model.safetensors"}


def test_reasons_name_the_tokens_of_every_pair(applied: tuple[Path, dict]) -> None:
    told = rows(applied[0] / "out" / "selected.csv")
    first = [row for row in told if row["nctid"] == "NCT00001000"]
    assert {(row["from"], row["to"]) for row in first} == {
        (a, b) for a in arms.MODES for b in arms.MODES if a != b
    }  # fmt: skip
    assert {row["token"] for row in first if row["from"] == "disease"} == {"asthma"}
    assert all(row["token"] in DRUGS for row in told if row["from"] == "drug")
    criteria = [row["token"] for row in first if (row["from"], row["to"]) == ("criteria", "drug")]
    assert sorted(c.split(":")[0] for c in criteria) == ["exclusion", "inclusion", "inclusion"]
    assert all(0 <= float(row["p"]) <= 1 and row["kept"] in "01" for row in told)


def test_the_stored_model_says_the_same_again(applied: tuple[Path, dict], tmp_path: Path) -> None:
    root, _ = applied
    said = run_apply(
        m.study, [str(root / "my trials.csv"), "--model", str(root / "out" / "model"), "--out", str(tmp_path / "again")]
    )
    assert said["trials"] == 120
    before, after = (rows(folder / "predictions.csv") for folder in (root / "out", tmp_path / "again"))
    assert [r["probability"] for r in before] == [r["probability"] for r in after]
    assert [r["forecast"] for r in before] == [r["forecast"] for r in after]


def test_odd_rows_are_kept_and_told_about(applied: tuple[Path, dict], tmp_path: Path) -> None:
    root, _ = applied
    file = tmp_path / "odd.csv"
    file.write_text(
        "nctid,smiless,icdcodes,criteria\n"
        "no molecule,\"['???']\",\"['J45.2']\",free text\n"
        "nothing,,,\n"
        "odd code,CCO,!x,\n",
        encoding="utf-8",
    )
    run_apply(m.study, [str(file), "--model", str(root / "out" / "model"), "--out", str(tmp_path / "o")])
    predictions = {row["nctid"]: row for row in rows(tmp_path / "o" / "predictions.csv")}
    assert predictions["nothing"]["probability"] == predictions["nothing"]["forecast"] == ""
    assert 0 <= float(predictions["no molecule"]["probability"]) <= 1
    assert 0 <= float(predictions["odd code"]["probability"]) <= 1
    warnings = json.loads((tmp_path / "o" / "report.json").read_text())["warnings"]
    assert len(warnings) == 2
    assert not (tmp_path / "o" / "calibration.csv").exists()


def test_other_column_names_and_start_dates(tmp_path: Path) -> None:
    write_trials(tmp_path / "a.csv", 60)
    lines = (tmp_path / "a.csv").read_text().replace("smiless", "Molecules", 1).replace("label", "Won", 1)
    (tmp_path / "b.csv").write_text(lines)
    said = run_apply(
        m.study,
        [
            str(tmp_path / "b.csv"),
            "--smiles",
            "molecules",
            "--label",
            "won",
            "--epochs",
            "1",
            "--out",
            str(tmp_path / "o"),
        ],
    )
    assert said["labelled"] == 60


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ("a,b\n1,2\n", [], "none of the columns"),
        ("nctid,criteria,label\nx,old,1\n", [], "1 of 1 trials have an outcome"),
        ("nctid,criteria\nx,old\n", ["--model", "nowhere"], "config.json"),
        ("nctid,criteria\nx,old\n", ["--epochs", "0"], "epochs"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path, content: str, options: list[str], says: str) -> None:
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        run_apply(m.study, [str(tmp_path / "in.csv"), "--out", str(tmp_path / "out"), *options])
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.csv"]


def test_one_outcome_only_and_a_foreign_model(tmp_path: Path, applied: tuple[Path, dict]) -> None:
    write_trials(tmp_path / "a.csv", 50, label="1")
    with pytest.raises(InputError, match="only one outcome"):
        run_apply(m.study, [str(tmp_path / "a.csv"), "--out", str(tmp_path / "out")])
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"paper": "2602.06938"}))
    with pytest.raises(InputError, match=r"model of 2602\.06938"):
        run_apply(m.study, [str(tmp_path / "a.csv"), "--model", str(model), "--out", str(tmp_path / "out")])
    config = json.loads((applied[0] / "out" / "model" / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "e": 32}))
    (model / "model.safetensors").write_bytes((applied[0] / "out" / "model" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="not a model of"):
        run_apply(m.study, [str(tmp_path / "a.csv"), "--model", str(model), "--out", str(tmp_path / "out")])


def small_task(watched: bool) -> arms.Task:
    made = m.simulated(3, "smoke", 6.0)
    return arms.Task(made.train, made.valid, made.test, watched)


def test_test_trials_never_choose_the_epoch_or_the_rounds() -> None:
    """The public code keeps the checkpoint with the best ROC on the test set."""
    task = small_task(True)
    flipped = arms.Task(task.train, task.valid, arms.replace(task.test, y=1 - task.test.y), True)
    for arm in ("mexa", "ffnn", "xgboost", "logreg"):
        how = m.settings_for(arm, "sim-match", "smoke")
        a, b = (arms.run(arm, t, 0, how) for t in (task, flipped))
        np.testing.assert_allclose(a.test, b.test, err_msg=arm)
        if a.epochs:
            best = max(range(len(a.epochs)), key=lambda i: a.epochs[i][0])
            assert roc_auc(task.test.y, a.test) == pytest.approx(a.epochs[best][1], abs=1e-4), arm


def test_shuffled_outcomes_leave_the_test_trials_alone() -> None:
    task = small_task(False)
    shuffled = m.permuted(task, np.random.default_rng(0))
    assert shuffled.test is task.test
    assert sorted(shuffled.train.y) == sorted(task.train.y)
    assert not np.array_equal(shuffled.train.y, task.train.y)
    assert shuffled.train.tokens is task.train.tokens


@pytest.fixture
def tiny_bert(tmp_path: Path) -> Path:
    """A random BERT in the published layout."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "bert"
    folder.mkdir()
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefgh"),
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=256,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_full_scale_reads_every_phase_and_encodes_first_tokens(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "top" / "data"
    data.mkdir(parents=True)
    for p, phase in enumerate(("I", "II", "III")):
        for i, part in enumerate(("train", "valid", "test")):
            write_trials(data / f"phase_{phase}_{part}.csv", 24, seed=9 * p + i, first=1000 * i)
    monkeypatch.setattr(m, "BIOBERT", f"first-token:{tiny_bert}")
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(m.EPOCHS, "full", {"top": 1, "sim": 1})
    monkeypatch.setitem(m.SIZES, "full", (64, 32, 32))
    shared = call_with(m.prepare, {"seed": 0, "scale": "full", "data": tmp_path / "top"})
    assert len(shared["top"]) == 3
    assert shared["top"][0].train.tokens["inclusion"].shape == (24, 8, 8)
    encoder = text.sentence_encoder(f"first-token:{tiny_bert}")
    tokenizer, network = encoder._load()
    with torch.inference_mode():
        state = network(**tokenizer("signed consent", return_tensors="pt")).last_hidden_state[0, 0]
    np.testing.assert_allclose(encoder(["signed consent", "ecog"])[0], state.numpy(), atol=1e-5)
    assert list((tmp_path / "home" / "sentences").rglob("*.npy"))
    told = call_with(m.trial, {"arm": "mexa", "condition": "top", "seed": 0, "scale": "full", "shared": shared})
    assert told["roc_auc"] == pytest.approx(np.mean([told[f"roc_auc_{phase}"] for phase in ("I", "II", "III")]))
    monkeypatch.setattr(m.samples, "locate", lambda _: None)
    with pytest.raises(InputError, match="--data"):
        call_with(m.prepare, {"seed": 0, "scale": "full", "data": None})


def test_without_the_files_a_simulated_set_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(m.samples, "locate", lambda _: None)
    assert m.study.data_kind("pocket") == "simulated"
    (task,) = m.top_tasks(0, "pocket", None)
    assert (len(task.train), len(task.valid), len(task.test)) == (160, 60, 60)


def test_pooled_features_are_means_and_counts(tmp_path: Path) -> None:
    write_trials(tmp_path / "a.csv", 4)
    trials = read_trials(tmp_path / "a.csv")
    sets, _ = arms.trial_sets(arms.TrialFeatures.fit(trials, width=4), trials)
    table = arms.pooled(sets.tokens, sets.pad)
    assert table.shape == (4, 15 + 1 + 64 + 1 + 4 + 1 + 4 + 1)
    torch.testing.assert_close(table[:, 15], torch.ones(4))
    torch.testing.assert_close(table[2, 81:85], sets.tokens["inclusion"][2, :2].mean(0))
