"""The study of aligned autoencoders: apply on real files, readers, what is measured, and the full scale in small."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from assay.data.image import emoji
from assay.data.paired_concepts import draw_pairs, make_world
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.studies.vision_language import _iso_emoji, _iso_files, _iso_full, _iso_measures
from assay.studies.vision_language import iso_energy_sae as iso

TINY = Path(__file__).parents[2] / "nn" / "tiny_clip.py"
QUICK = ["--atoms", "48", "--k", "5", "--epochs", "2"]


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return draw_pairs(make_world(rng, d=24, concepts=20, one_sided=3, angle=0.3), 400, rng, active=3)


@pytest.fixture(scope="module")
def matrices(pairs, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("rows")
    np.save(folder / "img.npy", 3 * pairs.img)
    np.save(folder / "txt.npy", pairs.txt.astype(np.float32))
    return folder / "img.npy", folder / "txt.npy"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("tiny_clip", TINY)
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    return tiny.save_tiny_clip(tmp_path_factory.mktemp("clip"))


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_two_matrices_on_the_command_line(matrices, tmp_path: Path) -> None:
    img, txt = map(str, matrices)
    names = tmp_path / "captions.csv"
    with names.open("w", newline="") as handle:
        csv.writer(handle).writerows([["caption"], *[[f"=text {i}"] for i in range(400)]])
    out = tmp_path / "new" / "out"
    long = ["--atoms", "48", "--k", "5"]
    words = run_apply(iso.study, ["--embeddings", img, txt, "--texts", str(names), *long, "--out", str(out)])
    assert "warning: only 400 rows" in words
    assert "energy" in words
    assert sorted(p.name for p in out.iterdir()) == [
        "atoms.csv", "img_shared.npy", "model", "report.html", "report.json", "txt_shared.npy",
    ]  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert report["gap"]["bimodal"] < report["gap"]["before"] / 2
    assert report["recall_10"]["before"] > 0.7
    assert report["recall_10"]["bimodal"] > report["recall_10"]["one_sided"]
    shared = np.load(out / "img_shared.npy", allow_pickle=False)
    norms = np.linalg.norm(shared, axis=1)
    assert np.allclose(norms[norms > 0], 1, atol=1e-5)
    rows = table(out / "atoms.csv")
    assert len(rows) == 48
    energies = [float(row["energy"]) for row in rows]
    assert energies == sorted(energies, reverse=True)
    for row in rows:
        if row["class"] != "dead":
            assert (row["class"] == "shared") == (0.05 <= float(row["mu"]) <= 0.95)
    assert any(row["text_1"].startswith("'=text") for row in rows)
    assert "=text" in (out / "report.html").read_text()

    again = tmp_path / "again"
    run_apply(iso.study, ["--embeddings", img, txt, "--sae", str(out / "model"), "--out", str(again)])
    np.testing.assert_allclose(np.load(again / "img_shared.npy"), shared, atol=1e-6)
    assert not (again / "model").exists()


def test_safetensors_and_rows_that_are_no_pairs(pairs, tmp_path: Path) -> None:
    save_file({"image_embeds": pairs.img, "text_embeds": pairs.txt[:300]}, tmp_path / "both.safetensors")
    both = str(tmp_path / "both.safetensors")
    run_apply(
        iso.study, ["--embeddings", both, both, "--unpaired", "--kind", "topk", *QUICK, "--out", str(tmp_path / "o")]
    )
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["align"] == "energy"
    assert report["rows"] == [400, 300]
    assert "recall_1" not in report
    assert np.load(tmp_path / "o" / "txt_shared.npy").shape == (300, 24)


def test_pictures_and_captions_through_a_model(clip: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "odd name").mkdir(parents=True)
    lines = [["file", "Caption"]]
    for i in range(30):
        pixels = rng.integers(0, 255, (rng.integers(20, 50), 40, 3), np.uint8)
        image = Image.fromarray(pixels).convert(["RGB", "L", "RGBA", "P"][i % 4])
        name = f"odd name/#{i} é.png"
        image.save(folder / name)
        lines += [[name, f"a photo of a {word}"] for word in ("cat", "dog")]
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows(lines)
    given = ["--images", str(folder), "--texts", str(tmp_path / "captions.csv"), "--model", str(clip)]
    run_apply(iso.study, [*given, "--k", "4", "--epochs", "1", "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == [60, 60]
    # Both captions of a picture lie on one side of the split, and each of its two is a match.
    assert report["held_out"] % 2 == 0
    assert "data:image/jpeg" in (tmp_path / "out" / "report.html").read_text()
    assert any("odd name/#" in row["image_1"] for row in table(tmp_path / "out" / "atoms.csv"))


def test_bad_input_is_said_in_one_line(matrices, clip: Path, tmp_path: Path) -> None:
    img, txt = matrices
    rng = np.random.default_rng(0)
    short, wide, holes, zero, words, few, same = (
        tmp_path / f"{n}.npy" for n in ["short", "wide", "holes", "zero", "words", "few", "same"]
    )
    np.save(short, rng.normal(size=(300, 24)))
    np.save(wide, rng.normal(size=(400, 25)))
    np.save(holes, np.full((400, 24), np.nan))
    np.save(zero, np.zeros((400, 24)))
    np.save(words, np.array(["a", "b"]))
    np.save(few, rng.normal(size=(20, 24)))
    np.save(same, np.ones((400, 24)))
    (tmp_path / "damaged.npy").write_bytes(b"\x93NUMPY no")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    many = tmp_path / "many.safetensors"
    save_file({"a": np.ones((3, 2)), "b": np.ones((3, 2))}, many)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (tmp_path / "outside.png").write_bytes(b"x")
    (pictures / "broken.png").write_bytes(b"no picture")
    captions = {}
    for name, line in (("broken", "broken.png,a cat"), ("outside", "../outside.png,a cat"), ("gone", "x.png,a cat"),
                       ("blank", "broken.png,"), ("none", "")):  # fmt: skip
        captions[name] = tmp_path / f"{name}.csv"
        captions[name].write_text(f"image,caption\n{line}\n")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    cases = [
        ({}, "either"),
        ({"embeddings": (img, txt), "images": pictures}, "either"),
        ({"embeddings": (img, txt), "model": "x"}, "--model"),
        ({"images": pictures}, "--texts"),
        ({"embeddings": (tmp_path / "none.npy", txt)}, "no such file"),
        ({"embeddings": (img, short)}, "--unpaired"),
        ({"embeddings": (img, wide)}, "columns"),
        ({"embeddings": (holes, txt)}, "not finite"),
        ({"embeddings": (img, zero)}, "zero"),
        ({"embeddings": (words, txt)}, "numbers"),
        ({"embeddings": (few, few)}, "at least 40"),
        ({"embeddings": (same, txt)}, "the same"),
        ({"embeddings": (tmp_path / "damaged.npy", txt)}, "cannot be used"),
        ({"embeddings": (tmp_path / "pickled.npy", txt)}, "cannot be used"),
        ({"embeddings": (many, txt)}, "one named 'img'"),
        ({"embeddings": (captions["gone"], txt)}, r"\.npy or \.safetensors"),
        ({"embeddings": (img, txt), "k": 0}, "--k"),
        ({"embeddings": (img, txt), "atoms": 10}, "--atoms"),
        ({"embeddings": (img, txt), "epochs": 0}, "--epochs"),
        ({"embeddings": (img, txt), "beta": -1.0}, "--beta"),
        ({"embeddings": (img, txt), "align": "cosine", "unpaired": True}, "energy"),
        ({"embeddings": (img, txt), "sae": tmp_path}, "model/"),
        ({"embeddings": (img, txt), "texts": captions["gone"]}, "1 captions for 400"),
        ({"images": tmp_path / "nowhere", "texts": captions["gone"], "model": str(clip)}, "no such folder"),
        ({"images": pictures, "texts": tmp_path / "odd.csv", "model": str(clip)}, "column named caption"),
        ({"images": pictures, "texts": captions["none"], "model": str(clip)}, "no captions"),
        ({"images": pictures, "texts": captions["blank"], "model": str(clip)}, "no caption"),
        ({"images": pictures, "texts": captions["gone"], "model": str(clip)}, "no picture"),
        ({"images": pictures, "texts": captions["outside"], "model": str(clip)}, "leads out"),
        ({"images": pictures, "texts": captions["broken"], "model": str(clip)}, "not a readable picture"),
        ({"images": pictures, "texts": captions["broken"], "model": str(tmp_path / "no")}, "cannot be loaded"),
    ]
    for given, said in cases:
        with pytest.raises(InputError, match=said) as caught:
            iso.apply(tmp_path / "out", **given)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_model_refuses_vectors_of_another_width(matrices, tmp_path: Path) -> None:
    iso.apply(tmp_path / "out", matrices, atoms=30, k=3, epochs=1)
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(60, 25)))
    with pytest.raises(InputError, match="columns"):
        iso.apply(tmp_path / "new", (tmp_path / "wide.npy",) * 2, sae=tmp_path / "out" / "model")
    config = tmp_path / "out" / "model" / "config.json"
    config.write_text(config.read_text().replace('"k_atoms": 30', '"k_atoms": 31'))
    with pytest.raises(InputError, match="model/"):
        iso.apply(tmp_path / "new", matrices, sae=tmp_path / "out" / "model")


def test_captions_of_coco(tmp_path: Path) -> None:
    coco(tmp_path, 3)
    found = _iso_files.read_captions(tmp_path / "annotations" / "captions_val2017.json")
    assert found == [(f"val{i}.jpg", f"a {word}") for i in range(3) for word in ("cat", "dog")]


def coco(folder: Path, pictures: int) -> None:
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir()
    for part in ("train2017", "val2017"):
        (folder / part).mkdir()
        names = [f"{part[:-4]}{i}.jpg" for i in range(pictures)]
        for name in names:
            Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(folder / part / name)
        found = {
            "images": [{"id": i + 7, "file_name": name} for i, name in enumerate(names)],
            "annotations": [
                {"image_id": i + 7, "caption": f"a {word}\n"} for i in range(pictures) for word in ("cat", "dog")
            ],
        }
        (folder / "annotations" / f"captions_{part}.json").write_text(json.dumps(found))


def test_the_full_scale_reads_official_layouts(clip: Path, tmp_path: Path) -> None:
    coco(tmp_path, 8)
    shop = tmp_path / "fashion-iq"
    for name in ("captions", "image_splits", "images"):
        (shop / name).mkdir(parents=True)
    for name in ("A1", "B2", "C3", "D4", "E5", "F6"):
        Image.new("RGB", (20, 30), (*tuple(ord(c) for c in name), 9)).save(shop / "images" / f"{name}.png")
    (shop / "image_splits" / "split.dress.val.json").write_text('["A1", "B2", "C3", "D4", "E5", "F6", "lost"]')
    query = {"candidate": "A1", "captions": ["is red", "in blue"], "target": "C3"}
    (shop / "captions" / "cap.dress.val.json").write_text(json.dumps([query, {**query, "target": "lost"}]))
    rows = _iso_full.embed_coco(tmp_path, 0, model=str(clip))
    assert rows.img.shape == rows.txt.shape == (16, 16)
    assert rows.test_img.shape == rows.test_txt.shape == (8, 16)
    torch.testing.assert_close(rows.img[0], rows.img[1])
    assert rows.gallery.shape == (6, 16)
    assert rows.target.tolist() == [2]
    assert rows.ref_row.tolist() == [0]
    case = _iso_measures.Case(rows)
    found = iso.trial("raw", "real", 0, "full", {"real": case})
    assert {"recall", "gap", "edit_recall", "edit_ood"} <= set(found)
    with pytest.raises(InputError, match="--data"):
        iso.prepare(0, "full", "cpu", None)


def test_the_full_scale_takes_the_papers_sizes() -> None:
    how = iso.options("mp-cosine", "real", "full", 2)
    assert (how.k_atoms, how.k, how.kind, how.epochs, how.batch) == (None, 20, "mp", 5, 512)
    assert how.beta == 4e-4
    assert iso.options("mp-cosine", "real", "full", 4).beta == 7e-5


def test_the_control_differs_in_energies_alone() -> None:
    equal, unequal = (iso.simulate(name, 3, "smoke") for name in ("equal", "unequal"))
    assert torch.equal(equal.rows.img, unequal.rows.img)
    assert not torch.equal(equal.rows.txt, unequal.rows.txt)
    np.testing.assert_array_equal(equal.amp_txt > 0, unequal.amp_txt > 0)


def test_edits_name_what_only_the_target_has() -> None:
    concepts = emoji.load().concepts[:200]
    refs, changes = _iso_emoji.find_edits(concepts)
    assert (refs >= 0).mean() > 0.8
    for i, (ref, change) in enumerate(zip(refs, changes, strict=True)):
        if ref < 0:
            continue
        other = concepts[ref]
        assert other.subgroup == concepts[i].subgroup
        assert change
        base = _iso_emoji._words(other)
        assert all(word in _iso_emoji._words(concepts[i]) and word not in base for word in change.split(", "))


def test_truth_is_found_and_a_split_is_seen() -> None:
    rng = np.random.default_rng(0)
    amp = rng.gamma(4, 0.25, size=(300, 4)) * (rng.random((300, 4)) < 0.5)
    extra = rng.random((300, 2))
    whole = _iso_measures.against_truth(amp, amp, np.hstack([extra, amp]), np.hstack([extra, amp]))
    assert whole == {"mcc": pytest.approx(1), "split_rate": 0}
    img, txt = np.hstack([amp, 0 * amp[:, :1]]), np.hstack([0 * amp[:, :1], amp[:, 1:], amp[:, :1]])
    split = _iso_measures.against_truth(amp, amp, img, txt)
    assert split["split_rate"] == 0.25
    assert split["mcc"] < 0.95
