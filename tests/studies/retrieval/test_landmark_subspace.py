import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from assay.data.subspaces import turntable, union_of_subspaces
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.metrics.clustering import clustering_accuracy
from assay.studies.retrieval import _landmark_data as sets
from assay.studies.retrieval import landmark_subspace as ls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    images, objects = turntable(3, 24, np.random.default_rng(1), 24)
    for i, (image, label) in enumerate(zip(images, objects, strict=True)):
        (root / f"object{label}").mkdir(exist_ok=True)
        Image.fromarray((image * 255).astype(np.uint8)).save(root / f"object{label}" / f"{i:03d}.png")
    Image.new("L", (24, 24), 90).save(root / "blank.png")
    return root


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_folder_of_pictures_is_clustered_and_the_model_places_it_again(folder: Path, tmp_path: Path) -> None:
    words = ls.apply(folder, tmp_path / "clusters", k=3, size=16, epochs=2)
    assert "blank.png" in words
    rows = rows_of(tmp_path / "clusters" / "labels.csv")
    assert len(rows) == 72
    truth = [row["file"].split("/")[0] for row in rows]
    assert clustering_accuracy(truth, [row["cluster"] for row in rows]) > 0.95
    report = json.loads((tmp_path / "clusters" / "report.json").read_text())
    assert report["constant"] == ["blank.png"]
    assert sum(report["cluster_sizes"]) == 72
    pages = sorted((tmp_path / "clusters").glob("*.html"))
    assert len(pages) == 3
    assert sum(page.read_text().count("<img") for page in pages) == 72
    model = tmp_path / "clusters" / "model"
    assert sorted(path.name for path in model.iterdir()) == ["config.json", "model.safetensors"]
    ls.apply(folder / "object1", tmp_path / "again", model=model)
    first = {row["file"].split("/")[-1]: row["cluster"] for row in rows}
    for row in rows_of(tmp_path / "again" / "labels.csv"):
        assert row["cluster"] == first[row["file"]]


def test_real_digits_as_files(tmp_path: Path) -> None:
    digits = load_digits()
    rows = np.flatnonzero(np.isin(digits.target, (0, 4, 6)))[:120]
    for row in rows:
        picture = Image.fromarray((digits.images[row] * 15.9375).astype(np.uint8))
        picture.save(tmp_path / f"{row:04d}_{digits.target[row]}.png")
    ls.apply(tmp_path, tmp_path / "clusters", k=3, size=8, epochs=2)
    found = rows_of(tmp_path / "clusters" / "labels.csv")
    truth = [row["file"].split("_")[1] for row in found]
    assert clustering_accuracy(truth, [row["cluster"] for row in found]) > 0.95


@pytest.mark.parametrize("kind", ["npy", "csv", "mat"])
def test_matrices_and_the_number_of_clusters(tmp_path: Path, kind: str) -> None:
    made = union_of_subspaces(160, np.random.default_rng(0), groups=4, dim=2, ambient=20, noise=0.02)
    file = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(file, made.rows)
    elif kind == "csv":
        np.savetxt(file, made.rows, delimiter=",", header=",".join("abcdefghijklmnopqrst"), comments="")
    else:
        savemat(file, {"data": made.rows, "name": "x"})
    ls.apply(file, tmp_path / "out", auto_k=True, largest_k=6, m=60)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["k"] == 4
    assert clustering_accuracy(made.labels, [row["cluster"] for row in rows_of(tmp_path / "out" / "labels.csv")]) > 0.95


def test_pictures_of_a_mat_file(tmp_path: Path) -> None:
    images, _ = turntable(2, 20, np.random.default_rng(0), 16)
    savemat(tmp_path / "set.mat", {"fea": images.transpose(0, 2, 1).reshape(40, -1)})
    ls.apply(tmp_path / "set.mat", tmp_path / "out", k=2, features="raw")
    assert len(list((tmp_path / "out").glob("cluster_*.html"))) == 2


def test_bad_input_is_said_in_one_line(folder: Path, tmp_path: Path) -> None:
    matrix, few, ragged, odd = (tmp_path / name for name in ("x.npy", "few.npy", "ragged.csv", "x.txt"))
    np.save(matrix, np.random.default_rng(0).normal(size=(30, 5)))
    np.save(few, np.ones((2, 3)))
    ragged.write_text("1,2\n3\n")
    odd.write_text("1")
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(5):
        (broken / f"{i}.png").write_bytes(b"no picture")
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(5):
        Image.new("L", (9, 9), 7).save(flat / f"{i}.png")
    for given, options, words in (
        (matrix, {}, "exactly one"),
        (matrix, {"k": 3, "auto_k": True}, "exactly one"),
        (matrix, {"k": 15}, "fewer clusters"),
        (matrix, {"k": 3, "m": 30}, "fewer landmarks"),
        (matrix, {"k": 1}, "at least 2"),
        (matrix, {"k": 2, "features": "ae"}, "for pictures"),
        (folder, {"k": 2, "features": "best"}, "raw, ae or hf"),
        (folder, {"k": 2, "features": f"hf:{tmp_path}"}, "features"),
        (folder, {"k": 2, "size": 4}, "--size"),
        (few, {"k": 2}, "too few"),
        (ragged, {"k": 2}, "same count"),
        (odd, {"k": 2}, r"\.npy"),
        (broken, {"k": 2}, "unreadable image"),
        (flat, {"k": 2}, "single colour"),
        (tmp_path / "none", {"k": 2}, "no such file"),
        (matrix, {"model": tmp_path}, "model/ folder"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            ls.apply(given, tmp_path / "out", **options)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_refuses_samples_of_another_width(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(40, 6)))
    np.save(tmp_path / "y.npy", rng.normal(size=(40, 7)))
    ls.apply(tmp_path / "x.npy", tmp_path / "out", k=2, m=10)
    with pytest.raises(InputError, match="shape"):
        ls.apply(tmp_path / "y.npy", tmp_path / "new", model=tmp_path / "out" / "model")


def test_on_the_command_line(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 6)))
    run_apply(ls.study, [str(tmp_path / "x.npy"), "--k", "2", "--m", "12", "--out", str(tmp_path / "new" / "out")])
    names = sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert names == ["labels.csv", "model", "report.json"]


def test_full_scale_reads_official_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, objects = turntable(3, 12, np.random.default_rng(0), 16)
    savemat(tmp_path / "ORL_32x32.mat", {"fea": images.transpose(0, 2, 1).reshape(36, -1), "gnd": objects[:, None] + 1})
    found, truth, rows = ls.draw("orl", "full", np.random.default_rng(0), tmp_path)
    np.testing.assert_allclose(found, images, atol=1e-2)
    monkeypatch.setattr(ls, "PER_CLUSTER", 5)
    case = ls.make_case(found, truth, rows, "orl", 0, "smoke")
    assert case.m == 15
    result = ls.trial("sdsnet", "orl", 0, "full", {"orl": case})
    assert 1 / 3 <= result["acc"] <= result["acc_by_labels"] <= 1
    monkeypatch.setattr(sets.samples, "locate", lambda name: None)
    with pytest.raises(InputError, match=r"COIL100\.mat"):
        sets.pictures("coil-100", None, True)


def test_faces_of_yale_b_go_through_their_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces, _ = turntable(3, 10, np.random.default_rng(0), 48)
    faces = faces[:, :, 3:45]  # 48 high, 42 wide
    stack = faces.transpose(0, 2, 1).reshape(3, 10, -1)  # MATLAB stores columns
    savemat(tmp_path / "YaleBCrop025.mat", {"Y": (stack.transpose(2, 1, 0) * 255).astype(np.uint8)})
    found, truth, rows = ls.draw("yale-b", "full", np.random.default_rng(0), tmp_path)
    np.testing.assert_allclose(found, faces, atol=1e-2)
    monkeypatch.setattr(ls, "PER_CLUSTER", 4)
    case = ls.make_case(found, truth, rows, "yale-b", 0, "smoke")
    assert case.latents.shape == (30, 30 * 6 * 6)
    assert ls.trial("sdsnet", "yale-b", 0, "full", {"yale-b": case})["acc"] > 0.5


def test_an_all_pairs_arm_says_what_it_would_need_instead_of_running() -> None:
    assert ls.grow("lsr-full", 32000, 0, "pocket") == {"needed_mb": 8 * 32000**2 / 2**20}
