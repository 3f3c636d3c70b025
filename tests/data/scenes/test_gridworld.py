"""Lakes against gymnasium itself, walks against its dynamics, and the readers on the authors' samples."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assay.data.samples import locate
from assay.data.scenes.board_traces import read_board, read_traces
from assay.data.scenes.gridworld import ACTIONS, ANSWERS, answer_at, cell_classes, draw_walk, frames, photograph, walk
from assay.errors import InputError

gymnasium = pytest.importorskip("gymnasium")
LAKE = ("SFFF", "FHFH", "FFFH", "HFFG")


def rendered(layout: tuple[str, ...], actions: tuple[int, ...]) -> np.ndarray:
    """Gymnasium's own pictures."""
    pytest.importorskip("pygame", reason="gymnasium renders with pygame")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    env = gymnasium.make("FrozenLake-v1", desc=list(layout), is_slippery=False, render_mode="rgb_array")
    env.reset(seed=0)
    found = [env.render()]
    for action in actions:
        env.step(action)
        found.append(env.render())
    env.close()
    return np.stack(found)


@pytest.mark.parametrize("actions", [(2, 2, 1, 1, 0, 1, 2, 2), (0, 3, 1, 2), (2, 1)])
def test_pictures_are_gymnasiums(actions: tuple[int, ...]) -> None:
    mine = walk(LAKE, actions)
    theirs = rendered(LAKE, mine.actions)
    np.testing.assert_array_equal(frames(mine, 64), theirs)
    small = theirs.reshape(len(theirs), 32, 8, 32, 8, 3).mean(axis=(2, 4)).round()
    np.testing.assert_array_equal(frames(mine, 8), small)


def test_walks_follow_gymnasiums_dynamics() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = draw_walk(rng, 4, 5, str(rng.choice(ANSWERS)))
        env = gymnasium.make("FrozenLake-v1", desc=list(drawn.layout), is_slippery=False).unwrapped
        env.reset(seed=0)
        for action, place in zip(drawn.actions, drawn.positions[1:], strict=True):
            state, reward, ended, _, _ = env.step(action)
            assert divmod(state, 4) == place
        assert (ended, reward) == {"A": (True, 1), "B": (True, 0), "C": (False, 0)}[drawn.answer]


@pytest.mark.parametrize("answer", ANSWERS)
def test_walks_have_the_length_and_answer_asked_for(answer: str) -> None:
    rng = np.random.default_rng(1)
    for size, length in ((3, 2), (4, 6), (5, 8)):
        drawn = draw_walk(rng, size, length, answer)
        assert len(drawn.actions) == length
        assert drawn.answer == answer
        assert all(answer_at(drawn.layout, place) == "C" for place in drawn.positions[:-1])
    with pytest.raises(ValueError, match="no walk of size"):
        draw_walk(rng, 4, 0, answer)


def test_a_walk_ends_at_a_hole_and_at_the_border_it_stays() -> None:
    fallen = walk(LAKE, (2, 1, 2, 2))
    assert fallen.actions == (2, 1)
    assert fallen.answer == "B"
    assert walk(LAKE, (0,)).positions == ((0, 0), (0, 0))
    classes = cell_classes(fallen)
    assert (classes[0, 0, 0], classes[1, 0, 1], classes[2, 1, 1]) == (5 + 2, 0 + 3, 10 + 1)
    assert (classes % 5 > 0).sum(axis=(1, 2)).tolist() == [1, 1, 1]
    for layout, message in ((("SF", "F"), "square"), (("SX", "FF"), "letters"), (("FF", "FF"), "one S")):
        with pytest.raises(ValueError, match=message):
            walk(layout, (0,))
    with pytest.raises(ValueError, match="0 to 3"):
        walk(LAKE, (4,))
    with pytest.raises(ValueError, match="divisor"):
        frames(fallen, 7)


def test_a_photograph_keeps_one_light_for_a_walk() -> None:
    clean = frames(walk(LAKE, (2, 2)), 8)
    seen = photograph(clean, np.random.default_rng(3), gain=(0.7, 0.7), noise=0.01)
    np.testing.assert_allclose(seen.mean(), clean.mean() / 255 * 0.7, rtol=1e-2)
    again = photograph(clean, np.random.default_rng(3), gain=(0.7, 0.7), noise=0.01)
    np.testing.assert_array_equal(seen, again)


def test_the_authors_samples_are_read_and_their_lakes_are_ours() -> None:
    folder = locate("mvot-samples")
    if folder is None:
        pytest.skip("the authors' samples are not here")
    traces = read_traces(folder)
    by_task = {task: [t for t in traces if t.task == task] for task in ("maze", "frozenlake")}
    assert len(by_task["maze"]) == 5
    assert len(by_task["frozenlake"]) == 9
    assert by_task["maze"][0].actions == ("down", "left", "left", "up", "up")
    assert [t.answer for t in by_task["maze"]] == ["A", "C", "A", "B", "A"]
    for trace in by_task["frozenlake"]:
        drawn = walk(("FHF", "HFG", "FSF"), tuple(ACTIONS.index(word) for word in trace.actions))
        assert drawn.answer == trace.answer
        assert drawn.positions == trace.places
        theirs = np.stack([read_board(file, 3, 64) for file in trace.frames])
        np.testing.assert_allclose(frames(drawn, 64) / 255, theirs, atol=1e-6)
    board = read_board(by_task["maze"][0].frames[0], 3, 8)
    assert board.shape == (24, 24, 3)
    assert board[0].mean() < 0.5  # the margin is gone, the black border is not


def lake_folder(tmp_path: Path, **changes: object) -> Path:
    drawn = walk(("SF", "HG"), (2, 1))
    (tmp_path / "0").mkdir()
    for k, frame in enumerate(frames(drawn, 16)):
        Image.fromarray(frame).save(tmp_path / "0" / f"{k}.png")
    entry = {"actions": [[2, 1]], "states": [[0, 1, 3]], "data_id": [0], "env_desc": "SFHG",
             "exec_states": ["success"]} | changes  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps({"0": entry}))
    return tmp_path


def test_tables_that_do_not_fit_are_told(tmp_path: Path) -> None:
    assert read_traces(lake_folder(tmp_path))[0].actions == ("right", "down")
    for number, (changes, message) in enumerate([
        ({"actions": [[7, 1]]}, "not a table"), ({"env_desc": "SFH"}, "not square"),
        ({"data_id": [9]}, "not beside"), ({"data_id": ["../0"]}, "not beside"), ({"exec_states": ["lost"]}, "lost"),
    ]):  # fmt: skip
        folder = tmp_path / f"other{number}"
        folder.mkdir()
        with pytest.raises(InputError, match=message):
            read_traces(lake_folder(folder, **changes))
    with pytest.raises(InputError, match="no table"):
        read_traces(tmp_path / "0")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="not a picture"):
        read_board(tmp_path / "bad.png", 2, 8)
    Image.new("RGB", (8, 8), "white").save(tmp_path / "white.png")
    with pytest.raises(InputError, match="one colour"):
        read_board(tmp_path / "white.png", 2, 8)
