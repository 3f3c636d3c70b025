"""CytoCrowd's study: its hooks, merging real files, refusing bad ones, and the full-scale path on a tiny set."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pandas")

from assay.data import samples
from assay.data.tables.box_table import BoxTable, simulate_crowd
from assay.data.tables.coco_json import read_coco, write_coco
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.llm.model import Model, Reply, Request
from assay.llm.schema import AnswerError
from assay.studies.labels import _cyto_images as pictures
from assay.studies.labels import cyto_crowd
from assay.studies.labels.cyto_crowd import apply, merge, prepare, study, trial


def crowd(scenes: int = 6) -> tuple[BoxTable, BoxTable]:
    return simulate_crowd(
        scenes, np.random.default_rng(0), accuracy=(0.9, 0.8, 0.7), detection=(0.9, 0.8, 0.7),
        false_boxes=(0.3, 0.5, 1.0), class_shares=(3, 2, 1), objects=5, canvas=(2000, 1500),
    )  # fmt: skip


def save_coco(path: Path, table: BoxTable, people: bool) -> Path:
    more = [{"annotator": table.people[a]} for a in table.annotators] if people else None
    write_coco(
        path, table.boxes, table.labels.tolist(), table.images.tolist(), categories=table.categories,
        image_records=table.image_records, more=more,
    )  # fmt: skip
    return path


def save_csv(path: Path, table: BoxTable) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "annotator", "x0", "y0", "x1", "y1", "label"])
        for box, label, person, image in zip(table.boxes, table.labels, table.annotators, table.images, strict=True):
            writer.writerow([table.image_names[image], table.people[person], *box, table.classes[label]])
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_arm_in_every_condition() -> None:
    shared = prepare(1, "smoke", None)
    assert set(shared) == set(study.conditions)
    for condition in study.conditions:
        for arm in study.arms:
            found = trial(arm, condition, 1, "smoke", shared, "cpu", None)
            for name in ("tp_accuracy", "precision", "recall", "box_f1", "joint_f1"):
                assert 0 <= found[name] <= 1
            assert found["images"] == cyto_crowd.SMOKE_IMAGES


def test_without_real_tables_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    assert study.data_kind("pocket") == "simulated"
    shared = prepare(0, "pocket", None)
    assert len(shared["cytocrowd"].gold.image_records) == cyto_crowd.SCENES
    with pytest.raises(InputError, match=r"assay\.data\.tables\.cytocrowd"):
        prepare(0, "full", None)
    if samples.CHECKOUT.parent.joinpath("shared/data/cytocrowd").is_dir():
        monkeypatch.delenv("ASSAY_DATA")
        assert study.data_kind("pocket") == "real and simulated"


def test_seeds_resample_the_same_images_for_every_arm() -> None:
    one, again, other = (prepare(seed, "smoke", None)["sim-equal"] for seed in (1, 1, 2))
    assert np.array_equal(one.votes.boxes, again.votes.boxes)
    assert one.gold.image_names != other.gold.image_names
    assert len(set(one.gold.image_names)) < len(one.gold.image_names)
    whole = prepare(0, "smoke", None)["sim-equal"].gold.image_names
    assert len(set(whole)) == len(whole)


def test_arms_do_what_they_say() -> None:
    shared = prepare(0, "smoke", None)["cytocrowd"]
    majority, filtered = merge("majority", shared), merge("majority+existence", shared)
    assert len(filtered.labels) < len(majority.labels)
    assert (filtered.existence >= cyto_crowd.MIN_EXISTENCE).all()
    assert (merge("majority+two-voters", shared).voters.sum(axis=1) >= 2).all()
    assert len(merge("union", shared).labels) == len(shared.votes.labels)
    assert len(set(merge("best-single-annotator", shared).annotators)) == 1
    precision = cyto_crowd.by_voters(majority, shared.gold)
    assert len(precision["pattern_precision"]) == 2**shared.votes.n_annotators - 1
    assert sum(precision["pattern_share"]) == pytest.approx(1)


def test_merging_a_coco_file_and_scoring_it(tmp_path: Path) -> None:
    votes, gold = crowd()
    source = save_coco(tmp_path / "votes.json", votes, True)
    truth = save_coco(tmp_path / "gold.json", gold, False)
    out = tmp_path / "merged.json"
    report = apply(source, out, label="dawid-skene", min_existence=0.0, gold=truth)
    merged = read_coco(out)
    assert report["kept"] == report["groups"] == len(merged.labels)
    assert report["boxes"] == len(votes.labels)
    assert report["recall"] > 0.9
    assert report["tp_accuracy"] > 0.7
    entries = json.loads(out.read_text())["annotations"]
    assert all(0 <= e["score"] <= 1 and 1 <= len(e["votes"]) <= 3 for e in entries)
    people = rows(tmp_path / "annotators.csv")
    assert [row["annotator"] for row in people] == list(votes.people)
    assert sum(int(row["boxes"]) for row in people) == len(votes.labels)
    assert people[0]["common_with_annotator 1"] == ""
    assert float(people[0]["kappa_with_annotator 2"]) == float(people[1]["kappa_with_annotator 1"])
    disputed = rows(tmp_path / "disputed.csv")
    entropy = [float(row["entropy"]) for row in disputed]
    assert len(disputed) == report["groups"]
    assert entropy == sorted(entropy, reverse=True)


def test_csv_and_coco_give_the_same(tmp_path: Path) -> None:
    votes, _ = crowd()
    reports = []
    for name, source in (
        ("a", save_coco(tmp_path / "a.json", votes, True)),
        ("b", save_csv(tmp_path / "b.csv", votes)),
    ):
        (tmp_path / name).mkdir()
        reports.append(apply(source, tmp_path / name / "merged.json", min_existence=0.9))
    assert reports[0] == reports[1]
    assert 0 < reports[0]["kept"] < reports[0]["groups"]
    a, b = (read_coco(tmp_path / name / "merged.json") for name in "ab")
    assert np.allclose(np.sort(a.boxes, axis=0), np.sort(b.boxes, axis=0), atol=0.01)


def test_the_real_folder(tmp_path: Path) -> None:
    folder = samples.locate("cytocrowd")
    if folder is None:
        pytest.skip("the CytoCrowd tables are not here")
    report = apply(folder, tmp_path / "merged.json", gold=folder)
    assert 0.85 < report["box_f1"] < 0.95
    assert 0.9 < report["tp_accuracy"] < 0.96
    assert [row["annotator"] for row in rows(tmp_path / "annotators.csv")] == ["3", "4", "5", "7"]


def test_the_same_annotator_twice_is_kept_apart_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(
        "image,annotator,x0,y0,x1,y1,label\na,x,0,0,10,10,c\na,x,0,0,10,11,c\na,y,0,0,10,10,c\n", encoding="utf-8"
    )
    report = apply(path, tmp_path / "m.json", min_existence=0)
    assert report["same_annotator_overlaps"] == 1
    assert report["groups"] == 2


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    votes, gold = crowd(2)
    out = tmp_path / "out.json"
    header = "image,annotator,x0,y0,x1,y1,label\n"
    alone, flat, odd = (tmp_path / name for name in ("alone.csv", "flat.csv", "odd.csv"))
    alone.write_text(header + "a,x,0,0,1,1,c\n")
    flat.write_text(header + "a,x,0,0,1,1,c\na,y,3,0,2,1,c\n")
    odd.write_text("picture,who\n1,2\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "boxes.xml").write_text("<a/>")
    source = save_coco(tmp_path / "votes.json", votes, True)
    for given, words in (
        (alone, "at least two"),
        (flat, "no area"),
        (odd, "expected the columns image,annotator"),
        (save_coco(tmp_path / "gold.json", gold, False), "who drew the box"),
        (tmp_path / "empty", "CytoCrowd folder"),
        (tmp_path / "boxes.xml", r"expected a COCO \.json"),
        (tmp_path / "none.json", "no such file"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            apply(given, out)
        assert "\n" not in str(caught.value)
    for options, words in (
        ({"iou": 0.0}, "--iou"),
        ({"min_existence": 2.0}, "--min-existence"),
        ({"gold": tmp_path / "none.csv"}, "no such file"),
    ):
        with pytest.raises(InputError, match=words):
            apply(source, out, **options)
    with pytest.raises(InputError, match="name is taken"):
        apply(source, tmp_path / "disputed.csv")
    assert not out.exists()


def test_on_the_command_line(tmp_path: Path) -> None:
    source = save_coco(tmp_path / "votes.json", crowd()[0], True)
    place = tmp_path / "new" / "merged.json"
    run_apply(study, [str(source), "--label", "zencrowd", "--min-existence", "0.5", "--out", str(place)])
    assert sorted(path.name for path in place.parent.iterdir()) == ["annotators.csv", "disputed.csv", "merged.json"]


def tiny_pictures(folder: Path, gold: BoxTable) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in gold.image_names:
        Image.fromarray(rng.integers(0, 255, (150, 200, 3), dtype=np.uint8)).save(folder / name, format="PNG")


def tiny_detr(training: pictures.Training, n_classes: int):
    transformers = pytest.importorskip("transformers")
    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=20, num_labels=n_classes,
    )  # fmt: skip
    return transformers.DetrForObjectDetection(config)


class Chooser(Model):
    """Answers with the first class, or with nothing usable."""

    def __init__(self, name: str, usable: bool = True) -> None:
        super().__init__(name, concurrency=1)
        self.usable = usable

    def complete(self, request: Request) -> Reply:
        return Reply('{"name": "class 1"}' if self.usable else "a cell, surely")


def test_full_scale_on_a_tiny_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    votes, gold = crowd()
    tiny_pictures(tmp_path, gold)
    monkeypatch.setattr(pictures, "pretrained", tiny_detr)
    monkeypatch.setattr(pictures.llm, "from_env", lambda: Chooser("first class"))
    training = pictures.Training(epochs=2, batch=2, size=(64, 48))
    merged = merge("majority", cyto_crowd.Crowd(cyto_crowd.as_votes(votes), gold, np.arange(len(votes.labels))))
    found = pictures.full_scale("majority", merged, gold, tmp_path, "cpu", training)
    assert set(found) == {"detector_ap50", "detector_ap50_gold", "vlm_accuracy"}
    assert found["vlm_accuracy"] == pytest.approx((gold.labels == 0).mean())
    assert 0 <= found["detector_ap50"] <= 1
    assert set(pictures.full_scale("union", merged, gold, tmp_path, "cpu", training)) == {"detector_ap50"}
    assert pictures.full_scale("pm", merged, gold, tmp_path, "cpu", training) == {}


def test_the_detector_learns(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    _, gold = crowd(2)
    tiny_pictures(tmp_path, gold)
    paths = [pictures.image_path(tmp_path, name) for name in gold.image_names]
    training = pictures.Training(epochs=40, batch=2, size=(64, 48), learning_rate=3e-3)
    model = tiny_detr(training, 3)
    losses = pictures.fine_tune(model, paths, np.arange(2), gold.boxes / 10, gold.labels, gold.images, training, "cpu")
    assert losses[-1] < 0.7 * losses[0]
    boxes, scores, labels, images = pictures.detect(model, paths, np.arange(2), training, "cpu")
    assert boxes.shape == (40, 4)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert set(labels) <= {0, 1, 2}
    assert np.bincount(images).tolist() == [20, 20]


def test_crops_and_files_of_pictures(tmp_path: Path) -> None:
    from PIL import Image

    picture = np.zeros((50, 80, 3), np.uint8)
    picture[20:30, 10:30] = 255
    Image.fromarray(picture).save(tmp_path / "%5B1%5D.png")
    path = pictures.image_path(tmp_path, "[1].png")
    cut = pictures.crop(path, np.array([10.0, 20, 30, 30]))
    assert cut.shape == (14, 28, 3)
    assert cut[2:12, 4:24].min() == 255
    assert cut.sum() == picture.sum()
    for name in ("none.png", "../secret.png"):
        with pytest.raises(InputError, match="no image"):
            pictures.image_path(tmp_path, name)


def test_a_model_that_never_answers_is_an_error_not_a_zero(tmp_path: Path) -> None:
    _, gold = crowd(2)
    tiny_pictures(tmp_path, gold)
    paths = [tmp_path / name for name in gold.image_names]
    with pytest.raises(AnswerError):
        pictures.crop_accuracy(Chooser("mute", usable=False), paths, gold)
