"""ViSIL's study: apply on videos and summaries with a saved model and with servers, refusal of bad input, full path."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("av")
pytest.importorskip("transformers")

from assay.data import samples  # noqa: E402
from assay.data.video.frames import nearest_distance, read_frames  # noqa: E402
from assay.errors import InputError  # noqa: E402
from assay.lab.apply import run_apply  # noqa: E402
from assay.llm.testing import Sent, answers_of, completion, serve  # noqa: E402
from assay.llm.testing_models import tiny_clip, tiny_vision_model  # noqa: E402
from assay.studies.evaluation.vi_sil import CHOICES, SCORES, prepare, study, trial  # noqa: E402


def write_video(path, count=12, size=(48, 64)):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        for n in range(count):
            picture = np.full((*size, 3), 20 * n, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_vision_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def given(tmp_path):
    """A video, a text, a folder of pictures of odd kinds, a mixture."""
    write_video(tmp_path / "talk.mp4")
    (tmp_path / "s 1.txt").write_text("Two red dogs don't run.\n", encoding="utf-8")
    frames = tmp_path / "s2"
    frames.mkdir()
    Image.new("L", (30, 20), 100).save(frames / "f10.png")
    Image.new("RGBA", (64, 48), (60, 60, 60, 255)).save(frames / "f2.png")
    (tmp_path / "s3.yaml").write_text("text: a grey wall\nframes: [s2/f2.png]\n", encoding="utf-8")
    return tmp_path


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def arguments(folder, *more, video="talk.mp4", summaries=("s 1.txt", "s2", "s3.yaml")):
    named = [part for name in summaries for part in ("--summaries", str(folder / name))]
    return [str(folder / video), "--out", str(folder / "out"), *named, "--frames", "3", *map(str, more)]


def test_apply_with_a_saved_model(given, model):
    report = run_apply(study, arguments(given, "--model", model, "--words", 10, "--budget", 600, "--captions", 2))
    table = {row["summary"]: row for row in rows(given / "out" / "visil.csv")}
    assert set(table) == {"s 1", "s2", "s3"}
    assert float(table["s2"]["cost"]) == 512
    assert (table["s3"]["frames"], table["s3"]["words"]) == ("1", "3")
    for row in table.values():
        assert float(row["low"]) <= float(row["visil"]) <= float(row["high"])
    assert report["mode"] == "forced"
    assert report["frames"] == 3
    assert report["of"] == 12
    assert report["loss"] == min(float(row["visil"]) for row in table.values())
    assert json.loads((given / "out" / "report.json").read_text())["chosen"] == report["chosen"]
    lost = rows(given / "out" / "words.csv")
    for name, row in table.items():
        mine = [r for r in lost if r["summary"] == name]
        captions = {r["caption"] for r in mine}
        mean = np.mean([np.mean([float(r["lost"]) for r in mine if r["caption"] == c]) for c in captions])
        assert mean == pytest.approx(float(row["visil"]), abs=1e-3)
    assert (given / "out" / "front.png").stat().st_size > 5000
    assert any((given / "out" / "chosen").iterdir())


def test_apply_makes_candidates_and_reads_a_folder_as_video(given, model):
    video = given / "frames"
    video.mkdir()
    for n in range(5):
        Image.new("RGB", (32, 32), (50 * n, 0, 0)).save(video / f"f{n}.png")
    run_apply(study, [str(video), "--out", str(given / "out"), "--model", str(model), "--make", "--words", "8"])
    names = {row["summary"] for row in rows(given / "out" / "visil.csv")}
    assert {"made-uniform-1", "made-uniform-4", "made-shots-2"} <= names


def test_apply_over_a_server_forces_or_falls_back_to_masking(given, model):
    from assay.llm.local_vision import LocalVision

    local = LocalVision(model, device="cpu", max_new_tokens=6)
    with serve(answers_of(local)) as server:
        report = run_apply(study, arguments(given, "--model", server.url, "--name", "tiny", "--words", 8))
    assert report["mode"] == "forced"
    here = run_apply(study, arguments(given, "--model", model, "--words", 8))
    assert here["loss"] == pytest.approx(report["loss"], abs=1e-4)


def plain_server(body):
    """A chat server without prompt_logprobs: sees "red" in pictures, knows that dogs are likely."""
    if not body.get("logprobs"):
        return Sent(completion("Two red dogs run."))
    parts = body["messages"][-1]["content"]
    text = parts if isinstance(parts, str) else parts[-1]["text"]
    sees = not isinstance(parts, str)
    likely = {"Two": -0.1 if sees else -3.0, " red": -0.2 if sees or "red" in text else -4.0, "dog": -1.0, "ru": -2.0}
    top = [{"token": token, "logprob": value} for token, value in likely.items()]
    return Sent(completion("x", logprobs={"content": [{"token": "x", "logprob": -1.0, "top_logprobs": top}]}))


def test_masked_mode_reads_the_likeliest_tokens(given):
    with serve(plain_server) as server:
        report = run_apply(study, arguments(given, "--model", server.url, "--name", "m", summaries=("s 1.txt", "s2")))
    assert report["mode"] == "masked"
    assert "masked" in report["notes"][-1]
    table = {row["summary"]: float(row["visil"]) for row in rows(given / "out" / "visil.csv")}
    assert table["s2"] == 0
    assert table["s 1"] == pytest.approx(2.9 / 4, abs=1e-4)
    worst = next(row for row in rows(given / "out" / "words.csv") if row["summary"] == "s 1")
    assert (worst["word"], float(worst["lost"])) == ("Two", pytest.approx(2.9))
    assert report["chosen"] == "s2"


def test_apply_refuses_in_one_line(given, model, tmp_path, monkeypatch):
    monkeypatch.delenv("ASSAY_LLM_MODEL", raising=False)
    monkeypatch.delenv("ASSAY_LLM_URL", raising=False)
    (given / "bad.mp4").write_bytes(b"no video at all" * 40)
    (given / "empty.txt").write_text(" \n")
    (given / "hollow").mkdir()
    (given / "bad.yaml").write_text("text: [1\n")
    (given / "far.yaml").write_text("frames: [../../etc/passwd]\n")
    (given / "odd.yaml").write_text("words: yes\n")
    (given / "noise.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff")
    use = ("--model", model, "--words", 6)
    for wrong, said in (
        (arguments(given, *use, video="bad.mp4"), "cannot be read"),
        (arguments(given, *use, video="none.mp4"), "does not exist"),
        (arguments(given, *use, video="hollow"), "no pictures"),
        (arguments(given, *use, summaries=("empty.txt",)), "empty"),
        (arguments(given, *use, summaries=("hollow",)), "no pictures"),
        (arguments(given, *use, summaries=("bad.yaml",)), "no YAML"),
        (arguments(given, *use, summaries=("far.yaml",)), "outside"),
        (arguments(given, *use, summaries=("odd.yaml",)), "expected `text`"),
        (arguments(given, *use, summaries=("noise.png",)), "cannot be read"),
        (arguments(given, *use, summaries=()), "no summary"),
        (arguments(given, *use, "--budget", 2), "cheapest"),
        (arguments(given, *use, "--budget", -3), "positive"),
        (arguments(given), "no model is named"),
        (arguments(given, "--model", "http://127.0.0.1:9"), "--name"),
        (arguments(given, "--model", tmp_path / "nowhere"), "expected http"),
        (arguments(given, "--model", tmp_path / "hollow"), "cannot be loaded"),
    ):
        with pytest.raises(InputError, match=said) as failure:
            run_apply(study, wrong)
        assert "\n" not in str(failure.value)
        assert not (given / "out").exists()


def test_a_server_without_any_logprobs_is_named(given):
    from assay.errors import AssayError

    with (
        serve(lambda body: Sent(completion("Two red dogs run."))) as server,
        pytest.raises(AssayError, match="no log-probabilities"),
    ):
        run_apply(study, arguments(given, "--model", server.url, "--name", "m"))
    assert not (given / "out").exists()


def test_frames_of_files_and_what_is_not_of_the_video(tmp_path):
    found = read_frames(write_video(tmp_path / "v.mp4", 12), 4)
    assert [round(image.mean() / 20) for image in found.images] == [1, 4, 7, 10]
    assert found.seconds == pytest.approx([0.2, 0.8, 1.4, 2.0])
    assert found.thumbs.shape == (12, 16, 16)
    assert nearest_distance(np.full((9, 9, 3), 100, np.uint8), found.thumbs) < 0.03
    board = np.kron(np.indices((8, 8)).sum(0) % 2, np.ones((8, 8))).astype(np.uint8)[..., None].repeat(3, 2) * 255
    assert nearest_distance(board, found.thumbs) > 0.3
    assert len(read_frames(tmp_path / "v.mp4", 50).images) == 12
    assert max(read_frames(tmp_path / "v.mp4", 1, longest=16).images[0].shape) == 16


def test_real_clips_are_read():
    folder = samples.locate("sst-em")
    if folder is None:
        pytest.skip("the sample videos are not here")
    for path in sorted(folder.rglob("*.mp4"))[:2]:
        found = read_frames(path, 4)
        assert len(found.images) == 4
        assert found.seconds == sorted(found.seconds)
        assert nearest_distance(found.images[1], found.thumbs) < 0.01


@pytest.mark.parametrize("layout", ["longvideobench", "mvbench"])
def test_the_full_path_on_a_tiny_sample(tmp_path, model, monkeypatch, layout):
    data = tmp_path / "data"
    options = ["a dog", "a wall", "two cats"]
    if layout == "longvideobench":
        (data / "videos").mkdir(parents=True)
        write_video(data / "videos" / "v1.mp4")
        first = {"video_path": "v1.mp4", "question": "What is seen?", "candidates": options, "correct_choice": 1}
        entries = [first, first | {"video_path": "absent.mp4"}]
        (data / "lvb_val.json").write_text(json.dumps(entries))
    else:
        (data / "video" / "deep").mkdir(parents=True)
        (data / "json").mkdir()
        write_video(data / "video" / "deep" / "v1.mp4")
        entries = [{"video": "v1.mp4", "question": "What is seen?", "candidates": options, "answer": "a wall"}]
        (data / "json" / "scene.json").write_text(json.dumps(entries))
    monkeypatch.setenv("ASSAY_LLM_MODEL", f"local:{model}")
    monkeypatch.setenv("ASSAY_READER_MODEL", f"local:{model}")
    monkeypatch.setenv("ASSAY_CLIP_MODEL", str(tiny_clip(tmp_path / "clip")))
    shared = prepare(0, "full", "cpu", data)
    (video,) = shared.videos["paraphrased"]
    assert set(video.correct) <= {0.0, 1.0}
    for arm in ("visil", "nvisil", "rouge-l", "embed-sim", "vibe-grounding"):
        found = trial(arm, "paraphrased", "full", shared)
        assert found["measured"] in (0.0, 1.0)
        assert all(np.isfinite(value) for value in found.values())
    for arm in ("visil-select", "text-only", "frames-only", "length-heuristic", "text-visil", "embed-select"):
        found = trial(arm, "paraphrased", "full", shared)
        assert 0 <= found["qa_accuracy"] <= 1
        assert found["tau_by_budget"] == sorted(found["tau_by_budget"])
    assert trial("coverage-oracle", "paraphrased", "full", shared) == {"measured": 0.0}
    assert set(SCORES) & set(CHOICES) == set()


def test_full_data_is_checked(tmp_path):
    with pytest.raises(InputError, match="--data"):
        prepare(0, "full", "cpu", None)
    with pytest.raises(InputError, match="expected lvb_val"):
        prepare(0, "full", "cpu", tmp_path)
    for entry, said in (
        ({"question": "?"}, "lacks candidates"),
        ({"question": "?", "candidates": ["a", "b"], "correct_choice": 5}, "none of the candidates"),
        (
            {"question": "?", "candidates": ["a", "b"], "correct_choice": 1, "video_path": "../../x"},
            "none of their videos",
        ),
    ):
        (tmp_path / "lvb_val.json").write_text(json.dumps([entry]))
        with pytest.raises(InputError, match=said):
            prepare(0, "full", "cpu", tmp_path)
