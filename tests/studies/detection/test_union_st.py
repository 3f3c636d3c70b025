"""UnionST's study: its hooks, word images from own fonts and words, labelling rounds, readings, the full-scale path."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("skimage")
pytest.importorskip("wordfreq")
pytest.importorskip("lmdb")
pytest.importorskip("safetensors")

import torch
from PIL import Image

from assay.data import samples
from assay.data.text import fonts
from assay.data.text.word_images import WordLmdb, read_gt, read_lmdb
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.studies.detection import _union_full as full_scale
from assay.studies.detection import _union_reader as reader_files
from assay.studies.detection import _union_world as worlds
from assay.studies.detection.union_st import prepare, size_of, study, trial

if not fonts.installed(worlds.HELD_PACKAGES) or not fonts.installed(worlds.TRAIN_PACKAGES):
    pytest.skip("the font packages are not installed", allow_module_level=True)

WORDS = ["alpha", "Beta", "gamma", "Straße", "no-1", "東京"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "my fonts").mkdir()
    for name in ("DejaVuSans", "cmr10"):
        (tmp_path / "my fonts" / f"{name} é.ttf").write_bytes(fonts.bundled()[name].read_bytes())
    (tmp_path / "my fonts" / "broken.ttf").write_bytes(b"not a font")
    (tmp_path / "words.txt").write_text("\n".join(WORDS[:5]), encoding="utf-8")
    return tmp_path


def crops(folder: Path, count: int = 12) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.integers(0, 255, (20 + i, 50, 3), dtype=np.uint8)
        Image.fromarray(image).convert(("L", "RGB", "RGBA")[i % 3]).save(folder / f"crop {i:02}.png")
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_arm_runs_and_labels_are_what_was_asked_for() -> None:
    shared = prepare(1, "smoke", None, "cpu")
    before = {k: v.clone() for k, v in shared["reader"].state_dict().items()}
    found = {arm: trial(arm, 1, "smoke", shared) for arm in study.arms}
    for result in found.values():
        assert 0 <= result["word_acc_wild"] <= 100
        assert len(result["groups_wild"]) == 7
    assert found["real_100"]["labels"] == size_of("smoke").pool
    assert found["sel_9"]["labels"] == found["random_9"]["labels"] == int(0.09 * size_of("smoke").pool)
    assert found["pseudo_only"]["labels"] == 0
    assert all(torch.equal(v, before[k]) for k, v in shared["reader"].state_dict().items())
    assert found["union"]["invisible"] >= 0


def test_training_and_test_words_and_faces_are_apart() -> None:
    world = worlds.World(3, worlds.Size())
    parts = [set(world.train_words), set(world.test_words), set(world.pool_words)]
    assert len(set.union(*parts)) == sum(len(part) for part in parts)
    assert not set(worlds.held_fonts()) & set(worlds.train_fonts())
    assert not set(worlds.TEXTURES) & set(worlds.PHOTOS)
    assert set(world.engine("no_font").faces) == set(worlds.CLASSIC_FONTS)
    assert world.engine("no_corpus").corpus.kinds == ("lexicon",)
    assert world.engine("no_layout").config.layouts == {"flow": 1}


def test_columns_follow_the_glyphs() -> None:
    world = worlds.World(0, worlds.Size())
    for sample in world.engine("classic").samples(10, 0):
        symbols = worlds.columns(sample, world.alphabet, 24, 72).tolist()
        assert len(symbols) == 36
        path = [world.alphabet[s - 1] if s else "" for s in symbols]
        assert [c for c, _ in groupby("".join(path))] == [c for c, _ in groupby(sample.text.lower())]


def test_make_writes_images_labels_boxes_and_an_lmdb(own: Path) -> None:
    line = [
        "--make",
        "9",
        "--fonts",
        str(own / "my fonts"),
        "--words",
        str(own / "words.txt"),
        "--height",
        "32",
        "--lmdb",
    ]
    result = run_apply(study, [*line, "--out", str(own / "synth")])
    assert result["images"] == 9
    assert result["fonts"] == 2
    assert (result["words"], result["words_left_out"]) == (5, 0)
    assert list(result["fonts_refused"]) == ["broken.ttf"]
    labels = read_gt(own / "synth" / "gt.txt")
    assert [text for _, text in labels] == [text for _, text in read_lmdb(own / "synth" / "lmdb")]
    boxes = [json.loads(row) for row in (own / "synth" / "boxes.jsonl").read_text(encoding="utf-8").splitlines()]
    for (path, text), entry in zip(labels, boxes, strict=True):
        with Image.open(path) as picture:
            assert picture.height == 32
            assert all(0 <= x0 < x1 <= picture.width for x0, _, x1, _ in entry["boxes"])
        assert entry["text"] == text
        assert len(entry["boxes"]) == len(text.replace(" ", ""))


def test_workers_do_not_change_what_is_made(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.studies.detection import _union_apply

    monkeypatch.setattr(_union_apply, "BATCH", 4)
    line = ["--make", "8", "--fonts", str(own / "my fonts"), "--words", str(own / "words.txt"), "--classic"]
    run_apply(study, [*line, "--out", str(own / "one")])
    run_apply(study, [*line, "--workers", "2", "--out", str(own / "two")])
    for name in ("images/000000001.png", "images/000000008.png", "gt.txt", "boxes.jsonl"):
        assert (own / "one" / name).read_bytes() == (own / "two" / name).read_bytes()


def test_the_loop_on_own_crops_with_a_human(own: Path) -> None:
    folder = crops(own / "crops")
    start = [
        "--crops",
        str(folder),
        "--fonts",
        str(own / "my fonts"),
        "--words",
        str(own / "words.txt"),
        "--updates",
        "2",
    ]
    first = run_apply(study, [*start, "--sel", "--budget", "0.5", "--out", str(own / "run")])
    assert (first["round"], first["asked"]) == (1, 2)
    for number in (1, 2, 3):
        ask = own / "run" / f"ask_round{number}.csv"
        asked = rows(ask)
        assert len(asked) == 2
        with ask.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "text"])
            writer.writerows([row["file"], "Alpha!"] for row in asked)
        result = run_apply(study, [*start, "--answers", str(ask), "--out", str(own / "run")])
        assert result["labels"] == 2 * number
    assert "all rounds" in result["next"]
    state = json.loads((own / "run" / "state.json").read_text())
    assert set(state["labels"].values()) == {"alpha"}
    read = run_apply(study, ["--crops", str(folder), "--read", str(own / "run" / "model"), "--out", str(own / "texts")])
    assert read["crops"] == 12
    assert [row["file"] for row in rows(own / "texts" / "readings.csv")] == [f"crop {i:02}.png" for i in range(12)]


def test_the_real_crops_are_read(own: Path) -> None:
    folder = samples.locate("scene-text")
    if folder is None:
        pytest.skip("the word crops are not here")
    reader_files.save(worlds.CtcRecogniser("abc", 4, reader_files.HEIGHT), own / "model")
    result = run_apply(study, ["--crops", str(folder), "--read", str(own / "model"), "--out", str(own / "texts")])
    assert result["crops"] == 7
    assert worlds.real_crops(worlds.Size()).texts[0] == "available"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--make", "-1"], "must be at least 1"),
        (["--make", "3", "--height", "4"], "--height"),
        (["--make", "3", "--fonts", "nowhere"], "no such folder"),
        (["--make", "3", "--words", "none.txt"], "none.txt"),
        (["--make", "3", "--words", "japanese.txt"], "no font has the characters '京東'"),
        (["--make", "3", "--backgrounds", "empty"], "no pictures"),
        (["--make", "3", "--crops", "crops"], "--backgrounds"),
        ([], "choose one"),
        (["--make", "3", "--sel"], "choose one"),
        (["--sel"], "--crops"),
        (["--sel", "--crops", "empty"], "no pictures"),
        (["--sel", "--crops", "crops", "--budget", "2"], "--budget"),
        (["--crops", "crops", "--read", "empty"], "no model folder"),
        (["--crops", "tiny", "--read", "model"], "at least 8"),
        (["--crops", "crops", "--answers", "answers.csv"], "not the state"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    own: Path, line: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    (own / "empty").mkdir()
    crops(own / "crops", 3)
    (own / "tiny").mkdir()
    Image.new("L", (30, 5)).save(own / "tiny" / "low.png")
    reader_files.save(worlds.CtcRecogniser("abc", 4, reader_files.HEIGHT), own / "model")
    (own / "japanese.txt").write_text("東京\nabc", encoding="utf-8")
    (own / "answers.csv").write_text("file,text\n")
    if "--fonts" not in line:
        line = [*line, "--fonts", "my fonts"]
    with pytest.raises(InputError, match=message) as caught:
        run_apply(study, [*line, "--out", "result"])
    assert "\n" not in str(caught.value)
    assert not (own / "result").exists()


def test_answers_are_checked(own: Path) -> None:
    reader = worlds.CtcRecogniser("abc", 4, reader_files.HEIGHT)
    file = own / "ask.csv"
    for content, message in (
        ("file\nx.png\n", "columns file and text"), ("file,text\ny.png,a\n", "was not asked"),
        ("file,text\nx.png,\n", "is empty"), ("file,text\nx.png,xaz\n", "alphabet: 'xz'"),
    ):  # fmt: skip
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            reader_files.read_answers(file, ["x.png"], reader)
    file.write_text("file,text\nx.png,A b\n")
    assert reader_files.read_answers(file, ["x.png"], reader) == {"x.png": "ab"}


def test_a_state_that_names_other_files_is_refused(own: Path) -> None:
    (own / "state.json").write_text(json.dumps({
        "round": 1, "labels": {"../x": "a"}, "asked": [], "accepted": {}, "files": ["x"], "seed": 0, "budget": 0.1,
    }))  # fmt: skip
    with pytest.raises(InputError, match="not among its files"):
        reader_files.state_of(own)


def test_full_scale_reads_lmdbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = replace(
        full_scale.FULL, channels=4, base=8, rendered=6, base_steps=1, steps=1, round_steps=1, clean=4, pool=12
    )  # fmt: skip
    monkeypatch.setattr(full_scale, "FULL", tiny)
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 60), dtype=np.uint8)).save(held, "PNG")
    for name in ("union/a", "classic", "pool", "test/curve", "test/general"):
        with WordLmdb(tmp_path / name, most_bytes=1 << 22) as written:
            for text in ("Word-1", "ünfit", "two", "x9", "!", "abc", "def", "gh", "ijk", "lm", "nop", "q", "rs", "tu"):
                written.add(held.getvalue(), text)
    shared = prepare(0, "full", tmp_path, "cpu")
    assert shared["union"].texts == ["word1", "two", "x9", "abc", "def", "gh"]
    assert len(shared["pool"]) == 12
    assert shared["wild"].groups == [0] * 12 + [1] * 12
    for arm in ("union", "classic", "no_layout", "sel_9"):
        found = trial(arm, 0, "full", shared)
        assert len(found["groups_wild"]) == 2
    assert shared["world"].engine("union").config.geometry["rotation_180"] == 1.0
    with pytest.raises(InputError, match="no LMDB"):
        full_scale.read(tmp_path / "none", 5)
    with pytest.raises(InputError, match="--data"):
        prepare(0, "full", None, "cpu")
