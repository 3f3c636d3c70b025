"""FlowConsist on users' pictures, its full scale on a tiny official layout, and the pieces of its trials."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.studies.generation import _flow_consist_apply as using
from assay.studies.generation import _flow_consist_arms, flow_consist
from assay.studies.generation._flow_consist_arms import Plan, digits, finish, measure, paired_task, rings_task
from assay.studies.generation._flow_consist_images import read_pictures
from assay.studies.generation.flow_consist import prepare, study, trial

pytest.importorskip("diffusers")
TINY = Plan(10, 0.3, 32, 16, 0.6, 16, early=0.1)


def fill(folder: Path, n: int = 210, mode: str = "L", seed: int = 0) -> Path:
    """Pictures of a bright square on dark ground, of odd sizes, half in each of two folders."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        place = folder / ("left side" if i % 2 else "rechts-ü")
        place.mkdir(parents=True, exist_ok=True)
        h, w = rng.integers(9, 14, 2)
        pixels = np.zeros((h, w), dtype=np.uint8)
        pixels[3:7, (1 if i % 2 else 5) :][:, :4] = rng.integers(150, 255)
        Image.fromarray(pixels).convert(mode).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("user") / "my pictures")


SMALL = ["--size", "8", "--steps", "12", "--width", "8", "--batch", "8", "--sample", "10"]


@pytest.fixture(scope="module")
def trained(pictures: Path) -> Path:
    out = pictures.parent / "out"
    run_apply(study, [str(pictures), *SMALL, "--classes", "folders", "--guidance", "1.5", "--out", str(out)])
    return out


def test_training_writes_a_model_pictures_losses_and_a_report(trained: Path) -> None:
    from safetensors.torch import load_file

    said = json.loads((trained / "model" / "config.json").read_text())
    assert (said["paper"], said["kind"], said["channels"]) == ("2602.06346", "UNet2DModel", 1)
    assert load_file(trained / "model" / "model.safetensors")
    with np.load(trained / "samples.npz", allow_pickle=False) as samples:
        assert samples["arr_0"].shape == (10, 8, 8, 3)
        assert samples["arr_1"].tolist() == [0, 1] * 5
    assert Image.open(trained / "grid.png").size == (64, 24)
    with (trained / "losses.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12
    assert float(rows[0]["consistency"]) == 0 < float(rows[-1]["consistency"])
    assert float(rows[-1]["auxiliary"]) > 0
    report = json.loads((trained / "report.json").read_text())
    assert report["pictures"] == {"train": 146, "held_out": 64, "size": 8, "channels": 1}
    assert report["classes"] == ["left side", "rechts-ü"]
    assert report["frechet"]["noise"] > report["frechet"]["training pictures (what equal laws give at this size)"]
    assert report["self_drift"] >= 0


def test_a_model_draws_again_to_the_byte_and_can_be_measured(trained: Path, pictures: Path, tmp_path: Path) -> None:
    run_apply(study, [str(trained), "--sample", "10", "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "grid.png").read_bytes() == (trained / "grid.png").read_bytes()
    assert not (tmp_path / "again" / "model").exists()
    said = run_apply(study, [str(pictures), "--load", str(trained / "model"), "--out", str(tmp_path / "measured"),
                             "--sample", "2"])  # fmt: skip
    report = json.loads((trained / "report.json").read_text())
    assert said["frechet"] == report["frechet"]
    assert said["self_drift"] == report["self_drift"]


def test_a_dit_and_a_published_model_train_too(pictures: Path, tmp_path: Path) -> None:
    run_apply(study, [str(pictures), *SMALL, "--network", "dit", "--out", str(tmp_path / "dit")])
    assert json.loads((tmp_path / "dit/model/config.json").read_text())["kind"] == "DiTTransformer2DModel"
    read = read_pictures(pictures, 8, "auto", by_folder=False)
    net, _ = using.make("unet", read, 8, 0)
    start = tmp_path / "published"
    net.model.time_embedding = net.model.time_embedding.inner  # as it was before it was wrapped
    net.model.save_pretrained(start / "unet", safe_serialization=True)
    again, about = using.make(str(start), read, 64, 1)
    assert about.kind == "UNet2DModel"
    assert torch.equal(again.model.conv_in.weight, net.model.conv_in.weight)
    with pytest.raises(InputError, match="made for"):
        using.make(str(start), replace(read, x=read.x.repeat(1, 3, 1, 1)), 8, 0)


def test_colours_transparency_depth_and_sizes_of_users_files(tmp_path: Path) -> None:
    folder = fill(tmp_path / "mixed", 200, "RGB")
    Image.new("RGBA", (9, 30), (255, 0, 0, 0)).save(folder / "clear.png")
    read = read_pictures(folder, 8, "auto", by_folder=False)
    assert read.x.shape == (201, 3, 8, 8)
    assert read.x[read.names.index("clear.png")].min() == 1  # nothing on white
    assert -1 <= read.x.min() <= read.x.max() <= 1
    deep = np.full((10, 10), 65535, dtype=np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    grey = read_pictures(folder, 8, "grey", by_folder=False)
    assert grey.x.shape == (202, 1, 8, 8)
    assert grey.x[grey.names.index("deep.png")].min() == pytest.approx(1, abs=0.01)
    with pytest.raises(InputError, match=r"1 grey and 201 colour pictures \(such as deep.png\)"):
        read_pictures(folder, 8, "auto", by_folder=False)
    with pytest.raises(InputError, match="lies in no class folder"):
        read_pictures(folder, 8, "rgb", by_folder=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--size", "9"], "multiple of 8"),
        (["--steps", "0"], "at least 1"),
        (["--guidance", "2"], "--classes folders"),
        (["--load", "nowhere"], "no model of 2602.06346"),
        (["--network", "no/such folder"], "expected unet, dit"),
    ],
)
def test_options_that_cannot_be_are_refused_and_nothing_is_left(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=says):
        run_apply(study, [str(pictures), *SMALL[2:], "--size", "8", *options, "--out", str(tmp_path / "out")])
    assert os.listdir(tmp_path) == []


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path, trained: Path) -> None:
    def refused(folder: Path, says: str, *options: str) -> None:
        with pytest.raises(InputError, match=says):
            run_apply(study, [str(folder), "--size", "8", *options, "--out", str(tmp_path / "out")])

    refused(tmp_path / "gone", "no such folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "0 pictures")
    refused(fill(tmp_path / "few", 20), "20 pictures.*at least 200")
    folder = fill(tmp_path / "broken", 200)
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    refused(folder, "1 pictures cannot be read: torn.jpg")
    refused(trained, "is a model itself", "--load", str(trained))
    model = tmp_path / "damaged"
    model.mkdir()
    (model / "config.json").write_text((trained / "model/config.json").read_text())
    (model / "model.safetensors").write_bytes(b"nothing")
    refused(model, "damaged model")


# The trials


def test_every_arm_runs_from_one_start_with_its_own_settings() -> None:
    task = rings_task(TINY, 0, 64)
    before = [p.clone() for p in task.start.net.parameters()]
    found = {}
    for arm in ("conditional", "marginal", "flowconsist", "meanflow", "early-switch"):
        flow, seconds = finish(task, **flow_consist.SETTINGS[arm], step=0.25)
        found[arm] = measure(task, flow)
        assert seconds > 0
    assert all(torch.equal(a, b) for a, b in zip(before, task.start.net.parameters(), strict=True))
    assert found["conditional"]["target_variance"] > 0 == found["marginal"]["target_variance"]
    assert len({m["map_rmse"] for m in found.values()}) == 5
    again, _ = finish(task, **flow_consist.SETTINGS["conditional"], step=0.25)
    assert measure(task, again)["map_rmse"] == found["conditional"]["map_rmse"]


def test_a_perfect_network_has_no_drift_and_the_oracle_no_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_flow_consist_arms, "DRAWS", 64)
    task = rings_task(TINY, 0, 400)
    law = task.law
    assert law is not None

    class Perfect(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, t, r, condition=None):
            if torch.equal(t, r):
                return law.velocity(x, t)
            moved = torch.stack([a - b for a, b in zip(x, self.carried(x, t, r), strict=True)])
            return moved / (t - r).clamp(min=1e-6)[:, None]

        def carried(self, x, t, r):
            for i in range(12):
                h = (t - r) / 12
                now = t - i * h
                v = law.velocity(x, now)
                x = x - h[:, None] * (v + law.velocity(x - h[:, None] * v, now - h)) / 2
            return x

    flow, _ = finish(task, velocity=law.velocity)
    flow.ema.average = Perfect()
    found = measure(task, flow)
    assert found["map_rmse"] < 0.05
    assert found["self_drift"] < 0.05
    assert found["swd1"] < 0.25
    assert found["target_bias"] == 0
    flow.velocity = "conditional"
    assert measure(task, flow)["target_bias"] > 0.05


def test_the_paired_control_gives_noise_its_own_data() -> None:
    task = paired_task(TINY, 1, 64)
    x0, _, noise = task.draw(torch.Generator().manual_seed(0))
    assert noise is not None
    order = noise[:, 0].argsort()
    assert (x0[order, 0].diff() >= 0).all()


def test_digits_are_split_once_and_their_features_tell_them_apart() -> None:
    train, images = digits()
    assert (train.shape, images.held.shape) == ((1200, 64), (597, 64))
    assert images.features(images.held).shape == (597, 32)


def test_full_scale_reads_the_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import AutoencoderKL
    from transformers import Dinov2Config, Dinov2Model

    from assay.studies.generation import _flow_consist_full as full

    for part in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            place = tmp_path / "ILSVRC/Data/CLS-LOC" / part / name
            place.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(
                    place / f"{name}_{i}.JPEG"
                )
    torch.manual_seed(0)
    AutoencoderKL(
        sample_size=32, block_out_channels=(4, 4), layers_per_block=1, latent_channels=4, norm_num_groups=1,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).save_pretrained(tmp_path / "vae", safe_serialization=True)  # fmt: skip
    Dinov2Model(
        Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    ).save_pretrained(tmp_path / "dino", safe_serialization=True)
    tiny = full.Sizes(
        size=32, plan=replace(TINY, steps=4, batch=4, rectify_batch=2, ema=0.9), layers=1, heads=2, head_width=8,
        tested=6, autoencoder=str(tmp_path / "vae"), features=str(tmp_path / "dino"),
    )  # fmt: skip
    monkeypatch.setattr(full, "SIZES", tiny)
    monkeypatch.setitem(flow_consist.PLANS, "full", {"rings": TINY, "paired": TINY})
    monkeypatch.setitem(flow_consist.TESTED, "full", 32)
    shared = prepare(0, "full", tmp_path, "cpu")
    found = trial("flowconsist", "images", shared)
    assert np.isfinite(found["frechet_features"])
    assert "frechet_pixels" not in found
    with pytest.raises(InputError, match="train and val"):
        full.latents_task(tmp_path / "vae", 0, "cpu")
    with pytest.raises(InputError, match="--data"):
        full.latents_task(None, 0, "cpu")
