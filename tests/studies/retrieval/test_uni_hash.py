import csv
import json
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.metrics.hamming import unpack_codes
from assay.studies.retrieval import _uni_arms as arms
from assay.studies.retrieval import _uni_data as sets
from assay.studies.retrieval import uni_hash as study
from assay.studies.retrieval._uni_features import Extractor
from assay.studies.retrieval._uni_files import read_labelled


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real digits, in class folders, of odd names, modes and sizes."""
    root = tmp_path_factory.mktemp("pictures")
    digits = load_digits()
    for label in range(5):
        folder = root / f"digit {label}"
        folder.mkdir()
        for i, row in enumerate(np.flatnonzero(digits.target == label)[:24]):
            image = Image.fromarray((digits.images[row] * 15.9).astype(np.uint8)).resize((40 + i, 44))
            mode = ("L", "RGB", "RGBA", "P")[i % 4]
            image.convert(mode).save(folder / f"={i:02d} ä.png")
    (root / "digit 0" / ".hidden.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def model(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model"
    words = study.apply("train", [pictures], out, bits=32, epochs=8)
    assert words.startswith("120 pictures of 5 classes")
    return out


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_train_index_search(pictures: Path, model: Path, tmp_path: Path) -> None:
    report = json.loads((model / "report.json").read_text())
    assert len(report["held_out_classes"]) == 1
    assert set(report["mAP"]) == {"seen", "seen_open", "unseen", "unseen_open"}
    assert report["mAP"]["seen"] > 0.8
    assert np.load(model / "codes.npy").shape == (120, 4)
    study.apply("index", [model, pictures], tmp_path / "codes.faiss")
    codes = np.load(tmp_path / "codes.npy")
    np.testing.assert_array_equal(codes, np.load(model / "codes.npy"))
    index = faiss.read_index_binary(str(tmp_path / "codes.faiss"))
    assert (index.ntotal, index.d) == (120, 32)
    words = study.apply("search", [model, tmp_path / "codes.faiss", pictures / "digit 3"], tmp_path / "found", k=5)
    assert "and 23 more" in words
    rows = rows_of(tmp_path / "found" / "results.csv")
    assert len(rows) == 24 * 5
    assert np.mean([row["file"].startswith("digit 3/") for row in rows]) > 0.8
    assert all(row["distance"] == "0" for row in rows if row["rank"] == "1")
    page = (tmp_path / "found" / "results.html").read_text()
    assert page.count("<img") == 12 * 6


def test_the_report_is_that_of_held_out_pictures_and_classes(pictures: Path) -> None:
    files = read_labelled(pictures)
    pool = sets.Pool(np.zeros((120, 3), np.float32), files.labels, np.arange(120))
    task = sets.make_task(pool, np.random.default_rng(0), unseen=0.2)
    assert len(task.seen) == 4
    (unseen,) = task.searches["unseen"]
    (open_,) = task.searches["unseen_open"]
    (seen,) = task.searches["seen"]
    for search in (unseen, open_, seen):
        assert not set(search.query) & set(search.gallery)
    assert not set(task.train) & (set(unseen.query) | set(unseen.gallery) | set(seen.query))
    assert set(open_.gallery) == set(unseen.gallery) | set(seen.gallery)
    assert files.labels[task.train][:, task.seen].sum() == len(task.train)


def test_a_csv_with_several_labels(pictures: Path, tmp_path: Path) -> None:
    lines = ["file,labels"]
    for label in range(4):
        for file in sorted((pictures / f"digit {label}").glob("=*.png"))[:8]:
            image = Image.open(file)
            image.save(tmp_path / f"{label}{file.name}")
            lines.append(f"{label}{file.name},{label};{'even' if label % 2 == 0 else 'odd'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    study.apply("train", [tmp_path / "table.csv"], tmp_path / "model", bits=16, epochs=2)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["classes"] == ["0", "1", "2", "3", "even", "odd"]
    assert "; " in rows_of(tmp_path / "model" / "codes.csv")[0]["labels"]


def test_two_classes_train_without_a_held_out_class(pictures: Path, tmp_path: Path) -> None:
    for label in (0, 1):
        (tmp_path / "images" / str(label)).mkdir(parents=True)
        for file in sorted((pictures / f"digit {label}").glob("=*.png"))[:3]:
            Image.open(file).save(tmp_path / "images" / str(label) / file.name)
    study.apply("train", [tmp_path / "images"], tmp_path / "model", bits=8, epochs=2)
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert report["held_out_classes"] == []
    assert "unseen" not in report["mAP"]


def save_tiny(folder: Path, kind: str, seed: int = 0) -> Path:
    import transformers

    torch.manual_seed(seed)
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=32,
            patch_size=8,
        )
        network = transformers.ViTForImageClassification(config)
    else:
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        network = transformers.ResNetForImageClassification(config)
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    return folder


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_frozen_backbones_from_a_folder(pictures: Path, tmp_path: Path, kind: str) -> None:
    backbone = save_tiny(tmp_path / "backbone", kind)
    name = f"hf:{backbone}"
    study.apply("train", [pictures], tmp_path / "model", bits=16, epochs=2, features=name)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["features"] == name
    words = study.apply("index", [tmp_path / "model", pictures], tmp_path / "codes.faiss")
    assert words.startswith("120 pictures")
    images = np.random.default_rng(0).random((2, 3, 32, 32)).astype(np.float32)
    rows = Extractor(name)(images)
    assert rows.shape == (2, 16 if kind == "vit" else 12)
    import transformers

    pixels = (torch.from_numpy(images) - 0.5) / 0.5
    with torch.no_grad():
        last = transformers.AutoModel.from_pretrained(backbone).eval()(pixel_values=pixels).last_hidden_state
    expected = last[:, 0] if kind == "vit" else last.mean((2, 3))
    np.testing.assert_allclose(rows, expected.numpy(), rtol=1e-4, atol=1e-5)
    save_tiny(backbone, kind, seed=1)  # the same name, other weights
    query = next((pictures / "digit 1").glob("=*.png"))
    with pytest.raises(InputError, match="another model"):
        study.apply("search", [tmp_path / "model", tmp_path / "codes.faiss", query], tmp_path / "found")


def test_an_index_of_another_model_is_refused(pictures: Path, model: Path, tmp_path: Path) -> None:
    study.apply("index", [model, pictures / "digit 0"], tmp_path / "index")
    study.apply("train", [pictures], tmp_path / "other", bits=32, epochs=1, seed=1)
    query = next((pictures / "digit 1").glob("=*.png"))
    with pytest.raises(InputError, match="another model"):
        study.apply("search", [tmp_path / "other", tmp_path / "index", query], tmp_path / "found")
    found = study.apply("search", [model, tmp_path / "index", query], tmp_path / "found", k=100)
    assert found.startswith(query.name)
    assert len(rows_of(tmp_path / "found" / "results.csv")) == 24


def test_bad_input_is_said_in_one_line(pictures: Path, model: Path, tmp_path: Path) -> None:
    empty, one, broken = (tmp_path / name for name in ("empty", "one", "broken"))
    empty.mkdir()
    (one / "a").mkdir(parents=True)
    (broken / "a").mkdir(parents=True)
    (broken / "b").mkdir()
    for i in range(4):
        Image.new("L", (9, 9)).save(one / "a" / f"{i}.png")
        (broken / "ab"[i % 2] / f"{i}.png").write_bytes(b"no picture")
    tables = {"lines": "x.png\n", "gone": "x.png,a\n", "away": "../x.png,a\n"}
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    fake = tmp_path / "fake.faiss"
    fake.write_bytes(b"IBxFnothing")
    fake.with_suffix(".json").write_text(json.dumps({"files": [], "root": "", "model": ""}))
    picture = one / "a" / "0.png"
    for task, inputs, options, words in (
        ("train", [pictures], {"bits": 12}, "multiple of 8"),
        ("train", [pictures], {"bits": 0}, "multiple of 8"),
        ("train", [pictures], {"epochs": 0}, "--epochs"),
        ("train", [pictures], {"features": "raw"}, "hog or hf"),
        ("train", [pictures], {"features": f"hf:{empty}"}, "--features"),
        ("train", [empty], {}, "at least 2 classes"),
        ("train", [one], {}, "at least 2 classes"),
        ("train", [broken], {}, "unreadable"),
        ("train", [tmp_path / "none"], {}, "no such file"),
        ("train", [tmp_path / "lines.csv"], {}, "label1;label2"),
        ("train", [tmp_path / "gone.csv"], {}, "no such file"),
        ("train", [tmp_path / "away.csv"], {}, "leads out"),
        ("train", [pictures, pictures], {}, "takes IMAGES"),
        ("index", [model], {}, "takes MODEL GALLERY"),
        ("index", [empty, pictures], {}, "model folder"),
        ("index", [model, empty], {}, "no pictures"),
        ("search", [model, fake, picture], {}, "not an index"),
        ("search", [model, tmp_path / "no.faiss", picture], {}, "expected an index"),
        ("search", [model, fake, picture], {"k": 0}, "--k"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            study.apply(task, inputs, tmp_path / "out", **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_on_the_command_line(pictures: Path, tmp_path: Path) -> None:
    run_apply(study.study, ["train", str(pictures), "--bits", "16", "--epochs", "1", "--out", str(tmp_path / "model")])
    run_apply(study.study, ["index", str(tmp_path / "model"), str(pictures), "--out", str(tmp_path / "codes.faiss")])
    query = next((pictures / "digit 2").glob("=*.png"))
    inputs = [str(tmp_path / "model"), str(tmp_path / "codes.faiss"), str(query)]
    run_apply(study.study, ["search", *inputs, "--k", "3", "--out", str(tmp_path / "found")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["codes.faiss", "codes.json", "codes.npy", "found", "model"]


def test_variants_of_a_person_never_stand_on_both_sides() -> None:
    assert sets.concept_key("1F468-200D-1F373") == sets.concept_key("1F469-200D-1F373") == "1F373"
    assert sets.concept_key("1F468") == "1F468"
    rng = np.random.default_rng(0)
    concept = np.tile(np.repeat(np.arange(30), 2), 2)
    pool = sets.Pool(
        rng.normal(size=(120, 4)).astype(np.float32), sets.many_hot(concept % 6), concept, np.repeat([0, 1], 60)
    )
    task = sets.make_task(pool, rng)
    assert {name: len(found) for name, found in task.searches.items()} == dict.fromkeys(task.searches, 2)
    for found in task.searches.values():
        for search in found:
            assert not set(concept[search.query]) & set(concept[search.gallery])
            assert set(pool.domain[search.query]).isdisjoint(pool.domain[search.gallery])
    items = task.items[task.train]
    torch.testing.assert_close(items.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert 1 <= sets.make_task(pool, rng, most=1).searches["seen"][0].query.size <= 2 * 4


def test_iterative_quantisation_finds_a_rotated_cube() -> None:
    rng = np.random.default_rng(0)
    bits = 2 * rng.integers(2, size=(400, 8)) - 1
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    items = ((bits + 0.1 * rng.normal(size=bits.shape)) @ rotation).astype(np.float32)
    codes = unpack_codes(arms.pca_itq(items, np.arange(300), 8, 0)).astype(float)
    agreement = np.abs(codes.T @ bits) / len(bits)
    assert (agreement.max(1) > 0.9).sum() >= 6


def test_shuffled_labels_are_those_of_training_only() -> None:
    pool = sets.Pool(np.zeros((60, 2), np.float32), sets.many_hot(np.arange(60) % 5), np.arange(60))
    task = sets.make_task(pool, np.random.default_rng(0))
    other = arms.shuffled(task, np.random.default_rng(1))
    changed = np.flatnonzero((other.labels != task.labels).any(1))
    assert len(changed)
    assert set(changed) <= set(task.train)
    np.testing.assert_array_equal(other.labels[task.train].sum(0), task.labels[task.train].sum(0))


def test_full_scale_on_a_tiny_sample(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    digits = load_digits()
    rows = np.concatenate([np.flatnonzero(digits.target == c)[:8] for c in range(10)])
    pixels = np.stack(
        [np.asarray(Image.fromarray(digits.images[r].astype(np.uint8) * 15).resize((32, 32))) for r in rows]
    )
    table = np.concatenate([digits.target[rows, None], np.tile(pixels.reshape(80, -1), 3)], axis=1).astype(np.uint8)
    table.tofile(folder / "data_batch_1.bin")
    save_tiny(tmp_path / "backbone", "vit")
    pool = sets.pool_of("main", "full", tmp_path, "cpu")
    assert pool.items.shape == (80, 16)
    task = sets.make_task(pool, np.random.default_rng(0), most=study.QUERIES["full"])
    codes = arms.codes_of("unihash", task, 16, 0, 2, {})
    found = arms.measures(codes, task)
    assert 0 < found["hmean_map"] <= 1
    with pytest.raises(InputError, match="--data"):
        sets.pool_of("main", "full", None, "cpu")


def test_arms_share_networks_and_ablations_differ_in_one_thing() -> None:
    pool = sets.Pool(
        np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32),
        sets.many_hot(np.arange(60) % 5),
        np.arange(60),
    )
    task = sets.make_task(pool, np.random.default_rng(0))
    trained: dict = {}
    both = arms.codes_of("two-codes", task, 16, 0, 1, trained)
    np.testing.assert_array_equal(both[:, :1], arms.codes_of("centre-only", task, 8, 0, 1, trained))
    np.testing.assert_array_equal(both[:, 1:], arms.codes_of("pair-only", task, 8, 0, 1, trained))
    assert set(trained) == {("centre-only", 8), ("pair-only", 8)}
    real = arms.codes_of("real-valued", task, 16, 0, 1, trained)
    np.testing.assert_allclose(np.linalg.norm(real, axis=1), 1, rtol=1e-5)
    whole = arms.SETTINGS["unihash"]
    assert arms.setting_of("tied-gates") == replace(whole, tied=True)
    assert arms.setting_of("no-private") == replace(whole, private=False)
    assert arms.setting_of("dense-gates") == replace(whole, top=4)
