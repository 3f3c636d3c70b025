"""apply on a folder of pictures (points in every format, one and several classes, a kept bank, a small DINO), its
refusals, and the full-scale path on photographs of road cracks."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from assay.data.samples import locate
from assay.data.scenes.textured import textured_scene
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.lab.study import call_with
from assay.studies.segmentation import _prior_aware_data as parts
from assay.studies.segmentation import prior_aware_cut as paper
from assay.studies.segmentation.prior_aware_cut import study

SIZE = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pictures of gravel on brick with a distractor, one in a subfolder; their masks; and clicks on two."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(4)
    rows = []
    for name in ("one.png", "two.png", "more/three.jpg"):
        scene = textured_scene(rng, "gravel", "brick", shape="blob", size=SIZE)
        for place, array in (("images", 255 * scene.image), ("truth", 255.0 * scene.target)):
            file = (root / place / name).with_suffix(".png" if place == "truth" else name[-4:])
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.round().astype(np.uint8)).save(file)
        if name != "more/three.jpg":
            ground = ~scene.target & ~scene.distractor
            for mask, label in ((scene.target, "fg"), (ground, "bg"), (scene.distractor, "bg")):
                y, x = np.nonzero(mask)
                rows += [(name, x[k], y[k], label) for k in rng.choice(len(x), 4)]
    write_points(root / "points.csv", rows)
    return root


def write_points(file, rows):
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([("file", "x", "y", "label"), *rows])


def read_points(file):
    with file.open() as handle:
        return [tuple(row.values()) for row in csv.DictReader(handle)]


def run(folder, out, *options):
    return run_apply(study, [str(folder / "images"), "--out", str(out), *map(str, options)])


def masks(out):
    return {p.relative_to(out / "masks").as_posix(): p.read_bytes() for p in sorted((out / "masks").rglob("*.png"))}


def test_points_in_masks_out(tmp_path, folder):
    points = ["--points", folder / "points.csv", "--tokens", "gabor"]
    report = run(folder, tmp_path / "a", *points, "--truth", folder / "truth", "--refine")
    assert report["images"] == 3
    assert report["miou"] > 0.3
    out = tmp_path / "a"
    kinds = {"masks": "png", "eigenvectors": "tiff", "overlays": "png"}
    expected = [f"{kind}/{name}.{end}" for kind, end in kinds.items() for name in ("one", "two", "more/three")]
    found = [p.relative_to(out).as_posix() for p in out.rglob("*.*")]
    assert sorted(found) == sorted([*expected, "bank.safetensors", "images.csv"])
    mask = np.asarray(Image.open(out / "masks" / "one.png"))
    score = np.asarray(Image.open(out / "eigenvectors" / "one.tiff"))
    assert mask.shape == score.shape == (SIZE, SIZE)
    assert set(np.unique(mask)) <= {0, 255}
    assert np.array_equal(mask > 0, score > 0)
    with (out / "images.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["file"] for row in rows] == ["more/three.jpg", "one.png", "two.png"]
    assert float(rows[1]["foreground"]) == pytest.approx((mask > 0).mean(), abs=1e-3)

    run(folder, tmp_path / "b", *points, "--refine")
    assert masks(tmp_path / "b") == masks(out)  # the same bytes again

    kept = run(folder, tmp_path / "c", "--bank", out / "bank.safetensors", "--tokens", "gabor")
    assert kept["images"] == 3
    rest = masks(tmp_path / "c")["more/three.png"]
    plain = run(folder, tmp_path / "d", *points)
    assert plain["images"] == 3
    assert rest == masks(tmp_path / "d")["more/three.png"]  # no clicks in it: the bank is all that counts


def test_labelme_and_coco_points(tmp_path, folder):
    rows = read_points(folder / "points.csv")
    run(folder, tmp_path / "csv", "--points", folder / "points.csv", "--tokens", "gabor")
    expected = masks(tmp_path / "csv")
    labelme = tmp_path / "labelme"
    labelme.mkdir()
    for name in ("one.png", "two.png"):
        shapes = [
            {"label": l, "points": [[float(x), float(y)]], "shape_type": "point"} for f, x, y, l in rows if f == name
        ]
        (labelme / f"{name}.json").write_text(json.dumps({"imagePath": f"..\\pics\\{name}", "shapes": shapes}))
    run(folder, tmp_path / "l", "--points", labelme, "--tokens", "gabor")
    assert masks(tmp_path / "l") == expected
    names = ["one.png", "two.png"]
    coco = {
        "images": [{"id": i, "file_name": n} for i, n in enumerate(names)],
        "categories": [{"id": 1, "name": "foreground"}, {"id": 2, "name": "background"}],
        "annotations": [
            {
                "image_id": names.index(f),
                "category_id": 1 if word == "fg" else 2,
                "keypoints": [float(x), float(y), 2, 0, 0, 0],
            }
            for f, x, y, word in rows
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    run(folder, tmp_path / "k", "--points", tmp_path / "coco.json", "--tokens", "gabor")
    assert masks(tmp_path / "k") == expected


def test_several_classes(tmp_path, folder):
    rows = read_points(folder / "points.csv")
    named = [(f, x, y, "gravel" if word == "fg" else word) for f, x, y, word in rows]
    named = [(f, x, y, "blot" if i % 12 >= 8 else word) for i, (f, x, y, word) in enumerate(named)]
    write_points(tmp_path / "p.csv", named)
    report = run(
        folder, tmp_path / "o", "--points", tmp_path / "p.csv", "--tokens", "gabor", "--truth", folder / "truth"
    )
    assert report["classes"] == ["gravel", "blot"]
    values = np.unique(np.asarray(Image.open(tmp_path / "o" / "masks" / "one.png")))
    assert set(values) <= {0, 1, 2}
    assert len(values) > 1


def test_a_transformer_from_a_folder(tmp_path, folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=7
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "model")
    more = ["--model", tmp_path / "model", "--size", 112]
    report = run(folder, tmp_path / "o", "--points", folder / "points.csv", *more)
    assert report["images"] == 3
    with pytest.raises(InputError, match="not made with Gabor"):
        run(folder, tmp_path / "p", "--bank", tmp_path / "o" / "bank.safetensors", "--tokens", "gabor")


def test_refusals_leave_nothing_behind(tmp_path, folder):
    rows = read_points(folder / "points.csv")

    def points(changed, name="p.csv"):
        write_points(tmp_path / name, changed)
        return ["--points", tmp_path / name, "--tokens", "gabor"]

    bad = [
        ([], "either --points"),
        (["--points", folder / "points.csv"], "give --model"),
        (["--points", tmp_path / "none.csv", "--tokens", "gabor"], "no such file"),
        (points(rows[:4], "a.csv"), "4 foreground and 0 background"),
        (points([*rows, ("one.png", 500, 5, "bg")], "b.csv"), "outside the picture"),
        (points([*rows, ("other.png", 5, 5, "bg")], "c.csv"), "no picture of the folder"),
        (points([*rows, ("one.png", "left", 5, "bg")], "d.csv"), "must be numbers"),
        (points([*rows, ("one.png", "nan", 5, "bg")], "e.csv"), "finite"),
        ([*points(rows, "f.csv"), "--truth", tmp_path], "0 masks"),
        ([*points(rows, "g.csv"), "--kappa", 0], "--kappa"),
        (["--points", folder / "points.csv", "--tokens", "gabor", "--cell", 60], "smaller than 4 cells"),
    ]
    (tmp_path / "h.csv").write_text("file,x,y\none.png,1,2\n")
    bad.append((["--points", tmp_path / "h.csv", "--tokens", "gabor"], "no column 'label'"))
    (tmp_path / "i.json").write_text("{}")
    bad.append((["--points", tmp_path / "i.json", "--tokens", "gabor"], "neither LabelMe"))
    for options, words in bad:
        with pytest.raises(InputError, match=words):
            run(folder, tmp_path / "out", *options)
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out", "--points", folder / "points.csv", "--tokens", "gabor")


@pytest.mark.skipif(locate("crackforest") is None, reason="the CrackForest sample is not here")
def test_full_scale_on_the_official_sample(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "model")
    for name in ("image", "groundTruth"):
        (tmp_path / name).symlink_to(locate("crackforest") / name)
    monkeypatch.setitem(paper.TESTS, "full", 1)
    monkeypatch.setattr(parts, "BANK_PHOTOS", 22)
    shared = call_with(paper.prepare, {"seed": 0, "scale": "full", "device": "cpu", "data": tmp_path})
    assert len(shared["real"][0].test) == 2
    known = {"condition": "real", "seed": 0, "scale": "full", "shared": shared}
    found = call_with(paper.trial, {"arm": "panc", **known})
    assert {"miou", "miou_5", "miou_10", "miou_30", "pixel_miou"} <= set(found)
    assert all(0 <= value <= 1 for name, value in found.items() if "miou" in name)


def test_full_scale_needs_data():
    with pytest.raises(InputError, match="--data FOLDER"):
        call_with(paper.prepare, {"seed": 0, "scale": "full", "device": "cpu", "data": None})


def test_clicks():
    found = parts.collections("scenes", 1, np.random.default_rng(0))[0]
    tokens, _ = found.tokens(0.0, (0,))
    bank = parts.annotate(found.bank, tokens, 6, (1,))
    assert len(bank.fg) == len(bank.bg) == 6
    inside = torch.cat([x[item.clear] for x, item in zip(tokens, found.bank, strict=True)])
    blots = torch.cat([x[item.other] for x, item in zip(tokens, found.bank, strict=True)])
    assert all(bool(torch.isclose(inside, row).all(dim=1).any()) for row in bank.fg)
    assert sum(bool(torch.isclose(blots, row).all(dim=1).any()) for row in bank.bg) == 2
    again = parts.annotate(found.bank, tokens, 6, (1,))
    assert torch.equal(bank.fg, again.fg)
    other = parts.annotate(found.bank, tokens, 6, (1,), wanted="other")
    assert all(bool(torch.isclose(blots, row).all(dim=1).any()) for row in other.fg)
