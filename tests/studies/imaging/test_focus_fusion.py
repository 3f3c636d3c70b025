"""GMFF's study: its data, apply on stacks in users' formats, refusals, and the full-scale path on a tiny model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from safetensors.torch import save_file

from assay.data import photos
from assay.data.focus_stack import blurred
from assay.data.samples import locate
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.methods.imaging.focus_fusion import Restorer
from assay.studies.imaging import _focus_apply as using
from assay.studies.imaging import _focus_data as data
from assay.studies.imaging import focus_fusion as paper
from assay.studies.imaging._focus_files import open_stack, write_picture
from assay.studies.imaging._focus_models import load_fusion, load_restorer, save
from assay.studies.imaging.focus_fusion import study

HEIGHT, WIDTH = 88, 120


@pytest.fixture(scope="module")
def picture():
    found = photos.crop("coffee", (HEIGHT, WIDTH), np.random.default_rng(1), tries=4)
    grain = 0.05 * np.random.default_rng(0).random(found.shape, dtype=np.float32)
    return torch.from_numpy(0.95 * found + grain).permute(2, 0, 1).contiguous()


@pytest.fixture(scope="module")
def frames(picture):
    """Three frames, each sharp in a third."""
    soft, third = blurred(picture, 6), WIDTH // 3
    made = []
    for k in range(3):
        frame = soft.clone()
        frame[..., k * third : (k + 1) * third] = picture[..., k * third : (k + 1) * third]
        made.append(frame)
    return made


def pixels(frame, depth=8):
    top = 2**depth - 1
    return (frame * top).round().permute(1, 2, 0).numpy().astype(np.uint8 if depth == 8 else np.uint16)


def write_folder(root, frames, suffix=".png", depth=8):
    root.mkdir(parents=True)
    for k, frame in enumerate(frames):
        write_picture(root / f"a frame {k}{suffix}", pixels(frame, depth))
    return root


def run(*given):
    return run_apply(study, [str(word) for word in given])


def test_folder_in_picture_depth_and_masks_out(tmp_path, frames, picture):
    stack = write_folder(tmp_path / "stack", frames)
    (stack / "notes.txt").write_text("no frame")
    report = run(stack, "--out", tmp_path / "fused.png")
    names = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert names == {f"fused{end}" for end in (".png", "-depth.png", "-missing.png", "-invented.png", "-report.json")}
    fused = np.asarray(Image.open(tmp_path / "fused.png"))
    assert fused.shape == (HEIGHT, WIDTH, 3)
    wanted, mean = pixels(picture).astype(float), pixels(torch.stack(frames).mean(0)).astype(float)
    assert np.abs(fused - wanted).mean() < 0.35 * np.abs(mean - wanted).mean()
    depth = np.asarray(Image.open(tmp_path / "fused-depth.png")).astype(float) / 65535 * 2
    third = WIDTH // 3
    assert [round(depth[:, k * third + 12 : (k + 1) * third - 12].mean()) for k in range(3)] == [0, 1, 2]
    assert np.asarray(Image.open(tmp_path / "fused-invented.png")).max() == 0
    assert report["invented_share"] == 0
    assert report["bits"] == 8
    written = json.loads((tmp_path / "fused-report.json").read_text())
    assert written["frames"] == [f"a frame {k}.png" for k in range(3)]
    before = (tmp_path / "fused.png").read_bytes()
    run(stack, "--out", tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == before


def test_restoring_marks_every_pixel_it_changes(tmp_path, frames):
    stack = write_folder(tmp_path / "stack", frames[:2])  # the right third is in focus nowhere
    plain = run(stack, "--out", tmp_path / "plain.png")
    report = run(stack, "--out", tmp_path / "made.png", "--restore", "small", "--steps", 2)
    assert plain["missing_share"] == report["missing_share"] > 0.1
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("plain", "made"))
    marked = np.asarray(Image.open(tmp_path / "made-invented.png")) > 0
    assert 0 < marked.mean() < 1
    assert (one[~marked] == two[~marked]).all()
    assert (one[marked] != two[marked]).any()
    assert report["invented_share"] == pytest.approx(marked.mean(), abs=1e-3)
    free = run(stack, "--out", tmp_path / "free.png", "--restore", "small", "--steps", 2, "--no-trust")
    assert free["invented_share"] == 1


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path, frames, suffix):
    stack = write_folder(tmp_path / "deep", frames, suffix, 16)
    report = run(stack, "--out", tmp_path / f"fused{suffix}", "--classical")
    assert report["bits"] == 16
    held = open_stack(tmp_path / "deep", _made(tmp_path / "scratch"))
    assert (held.depth, held.height, held.width) == (16, HEIGHT, WIDTH)
    assert np.abs(held.read(3, 9, 5, 50)[1].numpy() - frames[1][:, 3:9, 5:50].numpy()).max() < 1e-4
    if suffix == ".tif":
        fused = tifffile.imread(tmp_path / "fused.tif")
        assert fused.dtype == np.uint16
        assert len(np.unique(fused)) > 5000
    with pytest.raises(InputError, match="16 bits"):
        run(stack, "--out", tmp_path / "fused.jpg", "--classical")


def test_pages_grey_transparent_and_odd_names(tmp_path, frames):
    pages = tmp_path / "pages.tiff"
    tifffile.imwrite(pages, np.stack([pixels(f) for f in frames]), photometric="rgb")
    first = run(pages, "--out", tmp_path / "a.png", "--classical")
    mixed = tmp_path / "ein ~ordner #1"
    mixed.mkdir()
    Image.fromarray(pixels(frames[0])).convert("RGBA").save(mixed / "0.png")
    Image.fromarray(pixels(frames[1])).convert("L").save(mixed / "1.PNG")
    Image.fromarray(pixels(frames[2])).convert("P").save(mixed / "2.png")
    second = run(mixed, "--out", tmp_path / "b.jpg", "--classical")
    assert first["width"] == second["width"] == WIDTH
    assert Image.open(tmp_path / "b.jpg").size == (WIDTH, HEIGHT)


def test_alignment_and_sizes(tmp_path, frames, picture):
    moved = [torch.roll(frames[0], (3, -4), (1, 2)), frames[1], frames[2]]
    stack = write_folder(tmp_path / "moved", moved)
    report = run(stack, "--out", tmp_path / "a.png")
    assert "--register" in report["warning"]
    aligned = run(stack, "--out", tmp_path / "b.png", "--register")
    assert "warning" not in aligned
    wanted = pixels(picture).astype(float)[10:-10, 10:30]
    one, two = (np.asarray(Image.open(tmp_path / f"{n}.png")).astype(float)[10:-10, 10:30] for n in "ab")
    assert np.abs(two - wanted).mean() < 0.7 * np.abs(one - wanted).mean()
    Image.fromarray(pixels(frames[1])[:60]).save(stack / "a frame 1.png")
    with pytest.raises(InputError, match="120x60 pixels, but the first frame has 120x88"):
        run(stack, "--out", tmp_path / "c.png")
    assert not list(tmp_path.glob("c*"))


def test_a_large_stack_goes_through_in_tiles(tmp_path, frames, monkeypatch):
    stack = write_folder(tmp_path / "stack", frames)
    run(stack, "--out", tmp_path / "whole.png")
    monkeypatch.setattr(using, "TOKENS", 1)  # the smallest tile
    run(stack, "--out", tmp_path / "tiles.png")
    one, two = (np.asarray(Image.open(tmp_path / f"{n}.png")).astype(int) for n in ("whole", "tiles"))
    assert np.abs(one - two).max() <= 1
    report = run(stack, "--out", tmp_path / "half.png", "--reduce", 2)
    assert report["weights_found_at"] == "1/2"
    assert np.asarray(Image.open(tmp_path / "half.png")).shape == one.shape


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--restore", "nowhere"], "no weights there"),
        (["--no-trust"], "needs --restore"),
        (["--reduce", "-1"], "--reduce"),
        (["--threshold", "0"], "--threshold"),
        (["--classical", "--fusion", "x"], "not both"),
        (["--fusion", "x.safetensors"], "no such file"),
        (["--out", "x.gif"], "expected a picture"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, frames, options, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stack = write_folder(tmp_path / "stack", frames)
    with pytest.raises(InputError, match=says):
        run(stack, *options)
    assert [p.name for p in tmp_path.iterdir()] == ["stack"]


def test_stacks_that_cannot_be_used(tmp_path, frames):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no pictures"):
        run(empty, "--out", tmp_path / "a.png")
    with pytest.raises(InputError, match=r"one frame \(a frame 0\.png\)"):
        run(write_folder(tmp_path / "one", frames[:1]), "--out", tmp_path / "a.png")
    broken = write_folder(tmp_path / "broken", frames)
    (broken / "a frame 1.png").write_bytes(b"\x89PNG no")
    with pytest.raises(InputError, match="unreadable image"):
        run(broken, "--out", tmp_path / "a.png")
    with pytest.raises(InputError, match="no such file or folder"):
        run(tmp_path / "none", "--out", tmp_path / "a.png")
    text = tmp_path / "some.txt"
    text.write_text("x")
    with pytest.raises(InputError, match="expected a folder"):
        run(text, "--out", tmp_path / "a.png")
    outside = write_folder(tmp_path / "linked", frames)
    (outside / "z.png").symlink_to(tmp_path / "one" / "a frame 0.png")
    with pytest.raises(InputError, match="leads out"):
        run(outside, "--out", tmp_path / "a.png")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no safetensors"):
        run(broken, "--out", tmp_path / "a.png", "--fusion", tmp_path / "bad.safetensors")
    save_file({"x": torch.zeros(1)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(InputError, match="expected network"):
        load_restorer(tmp_path / "other.safetensors")


def test_networks_come_back_from_their_files(tmp_path):
    fusion, restorer = load_fusion(), load_restorer()
    save(fusion, fusion.config, tmp_path / "stage1.safetensors")
    save(restorer.denoiser, restorer.denoiser.unet.config, tmp_path / "restorer.safetensors")
    stack, picture = torch.rand(1, 2, 3, 24, 24), torch.rand(3, 24, 24)
    with torch.no_grad():
        assert torch.equal(load_fusion(tmp_path / "stage1.safetensors")(stack).image, fusion(stack).image)
    again = using.restorer_from(str(tmp_path))
    assert torch.equal(again(picture, steps=2), restorer(picture, steps=2))
    with pytest.raises(InputError, match="expected network"):
        load_fusion(tmp_path / "restorer.safetensors")


def test_scenes_are_what_their_conditions_say():
    rng = np.random.default_rng(5)
    lacking = data.draw(data.motorcycle, rng, 64, True)
    assert lacking.missing().float().mean() >= data.LEAST
    assert len(lacking.frames) == 4
    whole = data.draw(data.judged_scene, rng, 64, False)
    assert len(whole.frames) == 5
    assert whole.missing().sum() == 0
    names = {*data.TEST, "motorcycle_left", "motorcycle_right"}
    assert not names & set(data.TRAIN)
    stacks = data.training_stacks(data.from_photos(["coffee"]), rng, 48, 2)
    frames, truth, nearest = data.fusion_batches(stacks, rng, 3, 32)()
    assert frames.shape == (3, 4, 3, 32, 32)
    picked = frames.gather(1, nearest[:, None, None].expand(3, 1, 3, 32, 32))[:, 0]
    assert (picked - truth).abs().mean() < (frames.mean(1) - truth).abs().mean()


def test_real_pairs_and_triples():
    folder = locate("lytro-multifocus")
    if folder is None:
        pytest.skip("the Lytro multi-focus set is not at hand")
    stacks = data.real_stacks(folder, 96)
    assert sorted({len(stack) for stack in stacks}) == [2, 3]
    assert all(stack.shape[1:] == (3, 96, 96) for stack in stacks)


def test_full_scale_on_a_tiny_model(tmp_path, tiny_diffusion, monkeypatch):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for name in ("coffee", "astronaut"):
            Image.fromarray(photos.photo(name)).save(tmp_path / part / f"{name}.jpg")
    (tmp_path / "model").symlink_to(tiny_diffusion)
    tiny = replace(paper.SIZES["smoke"], stacks=2)
    monkeypatch.setitem(paper.SIZES, "full", tiny)
    monkeypatch.setitem(paper.TESTS, "full", (1, 64))
    monkeypatch.setitem(paper.REAL_SIDE, "full", 64)
    shared = paper.prepare(0, "full", "cpu", tmp_path)
    assert isinstance(shared.restorer, Restorer)
    found = paper.trial("gmff", "missing", 0, "full", shared)
    assert found["psnr_missing"] > 5
    control = shared.restorer.denoiser.control.state_dict()
    folder = tmp_path / "weights"
    folder.mkdir()
    for part in ("vae", "unet", "scheduler", "tokenizer", "text_encoder"):
        (folder / part).symlink_to(tiny_diffusion / part)
    with pytest.raises(InputError, match=r"no control\.safetensors"):
        using.restorer_from(str(folder))
    save_file({name: value.contiguous() for name, value in control.items()}, str(folder / "control.safetensors"))
    again = using.restorer_from(str(folder))
    fused = shared.cases["missing"][0].found.image
    assert torch.allclose(again(fused, steps=1), shared.restorer(fused, steps=1), atol=1e-5)
    with pytest.raises(InputError, match="--data"):
        paper.prepare(0, "full", "cpu", None)
    with pytest.raises(InputError, match="no such folder"):
        paper.prepare(0, "full", "cpu", tiny_diffusion)


def _made(folder):
    folder.mkdir()
    return folder
