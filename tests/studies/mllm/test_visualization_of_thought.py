"""The MVoT study: its worlds and judging, `apply` on pictures and traces, the full scale on a tiny checkpoint."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from assay.data.samples import locate
from assay.data.scenes.gridworld import ACTIONS, ANSWERS, Walk, draw_walk, frames
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.methods.mllm.visualization_of_thought import Steps, TraceThinker, think
from assay.studies.mllm import _vot_arms as arms
from assay.studies.mllm import _vot_full as full
from assay.studies.mllm import _vot_pocket as pocket
from assay.studies.mllm.visualization_of_thought import study, trial

pytest.importorskip("gymnasium")
SIZE = pocket.Size(train=54, test=54, updates=3, direct=3, verbal=3, batch=8, width=16, codes=24)
ENDS = {"A": "success", "B": "terminated", "C": "truncated"}


@pytest.fixture(scope="module")
def world() -> pocket.World:
    return pocket.build_world(7, SIZE)


def save_anole(folder: Path) -> Path:
    """The tiny checkpoint of the method's tests."""
    pytest.importorskip("transformers")
    place = Path(__file__).parents[2] / "methods" / "mllm" / "test_anole.py"
    spec = importlib.util.spec_from_file_location("anole_checkpoint", place)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.save_tiny(folder)


def trace_folder(place: Path, walks: list[Walk], cell: int = 16) -> Path:
    """Walks as MVoT's authors store them, one map a key."""
    table = {}
    for key, walk in enumerate(walks):
        (place / str(key) / "0").mkdir(parents=True)
        for k, frame in enumerate(frames(walk, cell)):
            Image.fromarray(frame).save(place / str(key) / "0" / f"{k}.png")
        size = len(walk.layout)
        table[str(key)] = {
            "actions": [list(walk.actions)], "states": [[r * size + c for r, c in walk.positions]], "data_id": [0],
            "env_desc": "".join(walk.layout), "exec_states": [ENDS[walk.answer]],
        }  # fmt: skip
    (place / "data.json").write_text(json.dumps(table))
    return place


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained through the command line, on twelve walks."""
    place = tmp_path_factory.mktemp("traces")
    rng = np.random.default_rng(3)
    walks = [draw_walk(rng, 3 + k % 2, 2 + k % 3, ANSWERS[k % 3]) for k in range(12)]
    report = run_apply(study, [str(trace_folder(place / "lakes", walks)), "--train", "--updates", "40", "--out", str(place / "mine")])  # noqa: E501  # fmt: skip
    assert report["traces"] == 12
    assert report["held out"] == 3
    assert 0 <= report["right on training traces"] <= 1
    config = json.loads((place / "mine" / "model" / "config.json").read_text())
    assert config["about"]["paper"] == "2501.07542"
    return place


def test_worlds_hold_every_length_and_answer_and_codes_mean_something(world: pocket.World) -> None:
    for boards, longest in ((world.train, 6), (world.test, 8)):
        for board, grid in zip(boards, pocket.GRIDS, strict=True):
            assert board.traces.grid == (grid, grid)
            assert set(board.traces.lengths.tolist()) == set(range(2, longest + 1))
            said = [world.words.word(int(a)) for a in board.traces.answers]
            assert max(said.count(a) for a in ANSWERS) - min(said.count(a) for a in ANSWERS) <= longest
    again = pocket.build_world(7, SIZE)
    assert torch.equal(again.test[0].traces.frames, world.test[0].traces.frames)
    board = world.test[1]
    found = arms.check_drawn(board.traces.frames, board, world)
    assert found["right"].mean() > 0.8  # the tokenizer's own ceiling
    wrong = board.traces.frames.clone()
    wrong[:, 1:] = -1
    assert not arms.check_drawn(wrong, board, world)["right"].any()


def test_batched_imagining_is_thinking_trace_by_trace(world: pocket.World) -> None:
    for keep_all in (False, True):
        arm = "mvot-all-frames" if keep_all else "mvot"
        model = arms.train_arm(arm, world, 1, pocket.Size(**{**vars(SIZE), "updates": 25}))
        traces = world.test[0].traces.take(torch.arange(6))
        found = arms.imagine(model, traces, keep_all=keep_all, temperature=0.0)
        for row in range(6):
            words = [world.words.word(int(a)) for a in traces.actions[row, : traces.lengths[row]]]
            thinker = TraceThinker(model, traces.grid, temperature=0.0)
            one = think(thinker, " ".join(words), traces.frames[row, 0], max_rounds=17, keep_all=keep_all)
            drawn = found.frames[row, 1:][found.frames[row, 1:, 0] >= 0]
            known = len(one.images) if all(t in ACTIONS for t in one.texts[: len(one.images)]) else 0
            assert torch.equal(drawn[:known], torch.stack(one.images)[:known] if known else drawn[:0])
            if one.answer in ANSWERS:
                assert world.words.word(int(found.answers[row])) == one.answer


def test_a_mute_model_is_wrong_but_has_no_other_faults(world: pocket.World) -> None:
    model = arms.train_arm("mvot", world, 1, SIZE)
    model.say = lambda steps, count, *args, **more: torch.full((len(steps.question), count), world.words.id("A"))
    found = arms.judge_arm("mvot", model, world, 1)
    assert (found["v_acc"], found["v_ratio"]) == (0, 0)
    assert np.isnan(found["v_red"])
    assert found["accuracy"] == pytest.approx(1 / 3, abs=0.1)


def test_thoughts_in_words_say_where_the_elf_stands(world: pocket.World) -> None:
    board = world.train[0]
    said = pocket.verbal_thoughts(board, world.words, True)
    walk = board.walks[0]
    words = [world.words.word(int(n)) for n in said[0] if int(n) != world.words.id("<pad>")]
    assert words[0] == f"at{walk.positions[0][0]}{walk.positions[0][1]}"
    assert words[1] == "start"
    assert words[-1] == walk.answer
    assert len(words) == 2 * len(walk.positions) + 1


def test_permuted_distances_keep_their_values(world: pocket.World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(arms, "fit_traces", lambda m, g, f, distance, *rest, **more: seen.append(distance))
    for arm in ("mvot", "mvot-permuted"):
        arms.train_arm(arm, world, 1, SIZE)
    assert not torch.equal(*seen)
    torch.testing.assert_close(seen[0].flatten().sort().values, seen[1].flatten().sort().values)
    assert (seen[1].diagonal() == 0).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_actions_are_followed_on_a_picture(learnt: Path, tmp_path: Path, mode: str) -> None:
    walk = draw_walk(np.random.default_rng(5), 4, 3, "C")
    picture = tmp_path / "my board (1).png"
    Image.fromarray(frames(walk, 32)[0]).convert(mode).save(picture)
    model = str(learnt / "mine" / "model")
    report = run_apply(study, [str(picture), "--actions", "right Down", "--grid", "4", "--model", model,
                               "--out", str(tmp_path / "new" / "thought")])  # fmt: skip
    out = tmp_path / "new" / "thought"
    trace = json.loads((out / "trace.json").read_text())
    assert trace["actions"] == ["right", "down"]
    assert len(trace["frames"]) == report["frames"] == len(list((out / "frames").iterdir()))
    assert Image.open(out / "frames" / "00.png").size == (256, 256)
    assert Image.open(out / "strip.png").size == (report["frames"] * 264 - 8, 256)


def test_a_trained_model_answers_the_walks_it_saw(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    walks = [draw_walk(rng, 3, 2, answer) for answer in ANSWERS]
    folder = trace_folder(tmp_path / "lakes", walks)
    report = run_apply(study, [str(folder), "--train", "--updates", "120", "--out", str(tmp_path / "mine")])
    assert report["right on training traces"] == 1
    for key, walk in enumerate(walks):
        actions = " ".join(ACTIONS[a] for a in walk.actions)
        found = run_apply(study, [str(folder / str(key) / "0" / "0.png"), "--actions", actions, "--grid", "3",
                                  "--model", str(tmp_path / "mine" / "model"),
                                  "--out", str(tmp_path / f"out{key}")])  # fmt: skip
        assert found["answer"] == walk.answer
        assert found["frames"] == 3


def test_the_authors_mazes_are_learnt(tmp_path: Path) -> None:
    folder = locate("mvot-samples")
    if folder is None:
        pytest.skip("the authors' samples are not here")
    mazes = next(folder.rglob("maze"))
    report = run_apply(study, [str(mazes), "--train", "--updates", "5", "--out", str(tmp_path / "mine")])
    assert (report["task"], report["traces"], report["answers"]) == ("maze", 5, ["A", "B", "C"])
    found = run_apply(study, [str(next(mazes.rglob("path_3_1.jpg"))), "--actions", "right down", "--grid", "3",
                              "--model", str(tmp_path / "mine" / "model"),
                              "--out", str(tmp_path / "thought")])  # fmt: skip
    assert found["frames"] >= 1
    with pytest.raises(InputError, match="frozenlake and maze"):
        run_apply(study, [str(folder), "--train", "--out", str(tmp_path / "both")])


def test_a_chameleon_checkpoint_imagines_too(tmp_path: Path) -> None:
    model = save_anole(tmp_path / "anole")
    picture = tmp_path / "board.png"
    Image.fromarray(frames(draw_walk(np.random.default_rng(5), 3, 3, "C"), 16)[0]).save(picture)
    report = run_apply(study, [str(picture), "--actions", "right", "--grid", "3", "--model", str(model),
                               "--temperature", "1", "--out", str(tmp_path / "thought")])  # fmt: skip
    assert Image.open(tmp_path / "thought" / "frames" / "00.png").size == (192, 192)
    assert json.loads((tmp_path / "thought" / "trace.json").read_text())["rounds"] <= 60
    assert report["frames"] >= 1


def test_bad_input_is_refused_in_one_line(learnt: Path, tmp_path: Path) -> None:
    good = learnt / "lakes" / "0" / "0" / "0.png"  # 3 x 3 cells of 16 pixels
    model = str(learnt / "mine" / "model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(tmp_path / "other.npz", centroids=np.zeros((3, 4), np.float32), patch=8, fine=1)
    odd = np.random.default_rng(0).integers(0, 255, (48, 50, 3), dtype=np.uint8)
    Image.fromarray(odd).save(tmp_path / "odd.png")
    fine = {"actions": "right", "grid": 3, "model": model}
    for place, options, words in (
        (good, fine | {"actions": ""}, "--actions is empty"),
        (good, fine | {"actions": "right jump"}, "jump: no such action"),
        (good, fine | {"grid": 7}, "up to 4 cells"),
        (tmp_path / "odd.png", fine, "cannot be cut into 3 x 3"),
        (good, fine | {"grid": 1}, "--grid"),
        (good, {"actions": "right", "grid": 3}, "no --model: train one"),
        (good, fine | {"actions": "up " * 30}, "30 actions"),
        (good, fine | {"model": str(tmp_path / "empty")}, "no Chameleon checkpoint"),
        (good, fine | {"tokenizer": tmp_path / "bad.npz"}, "no tokenizer"),
        (good, fine | {"tokenizer": tmp_path / "other.npz"}, "do not fit"),
        (tmp_path / "text.png", fine, "not a picture"),
        (tmp_path / "empty", fine, "expected a picture"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            run_apply(study, [str(place), "--out", str(tmp_path / "out"),
                              *(w for k, v in options.items() for w in (f"--{k}", str(v)))])  # fmt: skip
        assert "\n" not in str(caught.value)
    for folder, words in ((tmp_path / "empty", "no table"), (good, "expected a folder")):
        with pytest.raises(InputError, match=words):
            run_apply(study, [str(folder), "--train", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_full_scale_on_a_tiny_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    rng = np.random.default_rng(4)
    data = trace_folder(tmp_path / "data", [draw_walk(rng, 3, 2, ANSWERS[k % 3]) for k in range(6)])
    save_anole(data / "model")
    (data / "fit.json").write_text('{"epochs": 1}')
    shared = {"full": full.prepare(0, data, "cpu")}
    assert (len(shared["full"].train), len(shared["full"].test)) == (5, 1)
    for arm in ("mvot", "cot", "mvot-all-frames"):
        found = trial(arm, 0, "full", shared)
        assert 0 <= found["accuracy"] <= 1
        assert found["accuracy_frozenlake"] == found["accuracy"]
        assert ("v_acc_sampled" in found) == (arm != "cot")
    with pytest.raises(InputError, match="--data"):
        full.prepare(0, None, "cpu")
    (data / "fit.json").write_text('{"epoch": 1}')
    with pytest.raises(InputError, match="expected settings"):
        full.prepare(0, data, "cpu")


def test_cells_are_named_by_their_look() -> None:
    walk = draw_walk(np.random.default_rng(4), 3, 3, "C")
    seen = frames(walk, 16).astype(np.float32) / 255
    looks = full.cut(seen, 3)
    names = full.name_looks(looks.reshape(-1, looks.shape[-1])).reshape(4, 9)
    place = walk.positions[0][0] * 3 + walk.positions[0][1]
    assert names[0, place] not in np.delete(names[0], place)
    assert (np.delete(names, [r * 3 + c for r, c in walk.positions], axis=1) == np.delete(
        names[:1], [r * 3 + c for r, c in walk.positions], axis=1)).all()  # fmt: skip


def test_contexts_of_a_batch_name_their_pictures(world: pocket.World) -> None:
    traces = world.test[0].traces.take(torch.arange(3))
    made = traces.frames.clone()
    steps = arms.steps_of(traces, traces.actions, made, torch.tensor([0, 2, 1]), True)
    assert isinstance(steps, Steps)
    assert torch.equal(steps.pictures[1, 1], made[1, 2])
    assert torch.equal(steps.pictures[2, 1], made[1, 1])
    assert (steps.pictures[2, 0] == -1).all()
    assert (steps.pictures[2, 2] == -1).all()
