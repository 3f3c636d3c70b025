"""The DAVE study: its other maps against captum, its measures, `apply` on files, the full scale on a tiny set."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assay.data.image.digit_scenes import digit_scenes
from assay.errors import InputError
from assay.lab.apply import run_apply
from assay.methods.explanation.dave import Transform, patch_of
from assay.nn.vit import ViT
from assay.studies.explanation import _dave_arms as arms
from assay.studies.explanation import _dave_imagenet as imagenet
from assay.studies.explanation import _dave_pocket as pocket
from assay.studies.explanation.dave import apply, explainer, study, trial


def tiny(seed: int = 0, **changes) -> ViT:
    torch.manual_seed(seed)
    return ViT(
        **{"image_size": (32, 32), "patch": 4, "width": 16, "depth": 2, "heads": 2, "classes": 10} | changes
    ).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def picture(path: Path, size: tuple[int, int] = (50, 40), mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_the_other_maps_are_captums(x: torch.Tensor) -> None:
    attr = pytest.importorskip("captum.attr")
    model, target = tiny(), torch.tensor([1, 7])
    plain = attr.InputXGradient(model).attribute(x, target=target).sum(1).detach()
    torch.testing.assert_close(arms.input_x_gradient(model, x, target), plain)
    path = attr.IntegratedGradients(model).attribute(x, target=target, n_steps=32, method="riemann_middle").sum(1)
    torch.testing.assert_close(arms.integrated_gradients(model, x, target), path.detach().float(), rtol=1e-3, atol=1e-5)


def test_rollout_and_grad_cam_against_their_formulas(x: torch.Tensor) -> None:
    model, target = tiny(), torch.tensor([1, 7])
    weights = [(w.mean(1) + torch.eye(65)) / 2 for w in model(x, return_attention=True).attention]
    by_hand = (weights[1] @ weights[0])[:, 0, 1:].view(2, 1, 8, 8)
    found = arms.attention_rollout(model, x, target)
    expected = torch.nn.functional.interpolate(by_hand, size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(found, expected.detach())
    seen = []
    hook = model.blocks[-1].norm1.register_forward_hook(lambda m, i, output: seen.append(output))
    score = model(x).gather(1, target.view(-1, 1)).sum()
    hook.remove()
    grads = torch.autograd.grad(score, seen[0])[0][:, 1:]
    cam = (seen[0][:, 1:] * grads.mean(1, keepdim=True)).sum(-1).relu().view(2, 1, 8, 8).detach()
    expected = torch.nn.functional.interpolate(cam, size=(32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(arms.grad_cam(model, x, target), expected)


def test_every_arm_gives_a_finite_map_of_the_image(x: torch.Tensor) -> None:
    model, target = tiny(), torch.tensor([1, 7])
    for arm in study.arms:
        found = explainer(arm, {}, passes=4)(model, x, target)
        assert found.shape == (2, 32, 32)
        assert found.isfinite().all()


def test_stability_of_maps_that_follow_the_image_and_that_do_not(x: torch.Tensor) -> None:
    target = torch.tensor([0, 0])
    assert pocket.shift_stability(lambda images, t: images[:, 0], x, target, ((3, 0), (2, 2))) == pytest.approx(1)
    fixed = pocket.shift_stability(lambda images, t: x[:, 0], x, target, ((3, 0), (2, 2)))
    assert abs(fixed) < 0.2
    assert pocket.shift_stability(lambda images, t: images[:, 0] * 0, x, target, ((3, 0),)) == 0
    seen = {(t.down, t.right) for t in explainer("dave", {}).keywords["transforms"]}
    assert seen.isdisjoint(pocket.HELD_OUT)
    assert pocket.overlap(x[:, 0], x[:, 0]) == pytest.approx(1)
    assert pocket.overlap(x[:, 0], -x[:, 0]) == 0


def test_weights_are_drawn_anew_from_the_head_down() -> None:
    model = tiny()
    steps = pocket.randomised(model, 1)
    assert len(steps) == model.options.depth + 2
    kept = [
        {name.split(".")[0] if not name.startswith("blocks") else ".".join(name.split(".")[:2])
         for name, value in step.state_dict().items()
         if name.endswith(("weight", "tokens")) and value.ndim > 1 and torch.equal(value, model.state_dict()[name])}
        for step in steps
    ]  # fmt: skip
    assert kept[0] == {"blocks.0", "blocks.1", "patches", "special_tokens"}
    assert kept[1] == {"blocks.0", "patches", "special_tokens"}
    assert kept[2] == {"patches", "special_tokens"}
    assert kept[3] == set()


def test_training_lowers_the_loss_and_depends_on_the_seed_only() -> None:
    size = pocket.Size(digits=192, scenes=192, mislabelled=64, width=16, depth=1, explained=4, probed=2)
    one, two, other = (pocket.train(size, 3), pocket.train(size, 3), pocket.train(size, 3, shuffled=True))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    scenes = digit_scenes(64, np.random.default_rng(1))
    with torch.no_grad():
        before = loss(pocket.drawn(one.options, 3)(pocket.as_input(scenes.images)), scenes.labels)
        assert loss(one(pocket.as_input(scenes.images)), scenes.labels) < before


def test_a_picture_is_explained_by_this_packages_vit(tmp_path: Path) -> None:
    tiny().save(tmp_path / "model")
    source = picture(tmp_path / "photo.png", mode="RGBA")
    report = run_apply(study, [str(source), "--model", str(tmp_path / "model"), "--target", "7", "--passes", "4",
                               "--compare", "--out", str(tmp_path / "new" / "maps")])  # fmt: skip
    out = tmp_path / "new" / "maps"
    found = np.load(out / "photo.npy", allow_pickle=False)
    assert found.shape == (40, 50)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert Image.open(out / "photo.png").size == (50, 40)
    with (out / "maps.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["method"] for row in rows][:2] == ["dave", "input-x-gradient"]
    assert len(rows) == 6
    assert {row["class"] for row in rows} == {"7"}
    assert "white" in rows[0]["note"]
    assert all(-1 <= float(row["stability"]) <= 1 for row in rows)
    assert report["class"] == "7"
    assert len(list(out.glob("*.npy"))) == 6


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "clip"])
def test_a_folder_is_explained_by_hugging_face_models(kind: str, tmp_path: Path) -> None:
    save_tiny(kind, tmp_path / "model")
    folder = tmp_path / "photos"
    folder.mkdir()
    picture(folder / "a.png")
    picture(folder / "b.jpg")
    report = apply(folder, tmp_path / "maps", model=str(tmp_path / "model"), target="Tabby", passes=4)
    assert report["pictures"] == 2
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == [
        "a.npy", "a.png", "b.npy", "b.png", "maps.csv", "spectrum.png",
    ]  # fmt: skip
    with (tmp_path / "maps" / "maps.csv").open() as handle:
        assert {row["number"] for row in csv.DictReader(handle)} == {"1"}


def save_tiny(kind: str, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    labels = {"id2label": {0: "goldfish, Carassius auratus", 1: "tabby, tabby cat", 2: "tiger"}}
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 4}
    if kind == "clip":
        config = transformers.CLIPConfig(vision_config=size | {"intermediate_size": 32}, text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 64}, **labels)  # noqa: E501  # fmt: skip
        model = transformers.CLIPForImageClassification(config)
    elif kind == "dinov2":
        model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**size, mlp_ratio=2, **labels))
    else:
        name = {"vit": "ViT", "deit": "DeiT"}[kind]
        config = getattr(transformers, f"{name}Config")(**size, intermediate_size=32, **labels)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
    model.save_pretrained(folder)


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    save_tiny("vit", tmp_path / "model")
    model = str(tmp_path / "model")
    good = picture(tmp_path / "photo.png")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    (tmp_path / "resnet").mkdir()
    (tmp_path / "resnet" / "config.json").write_text('{"model_type": "resnet"}')
    for place, options, words in (
        (good, {"model": model, "target": "taby"}, "closest: tabby"),
        (good, {"model": model, "target": "3"}, r"classes 0\.\.2"),
        (good, {"model": str(tmp_path / "resnet")}, "no vision transformer"),
        (good, {"model": str(tmp_path / "nothing-here")}, "cannot be loaded"),
        (good, {"model": model, "passes": 1}, "--passes"),
        (tmp_path / "text.png", {"model": model}, "not a readable picture"),
        (tmp_path / "empty", {"model": model}, "no pictures"),
        (tmp_path / "none.png", {"model": model}, "no such file"),
        (picture(tmp_path / "small.png", (3, 3)), {"model": model}, "smaller than a patch"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            run_apply(study, [str(place), "--out", str(tmp_path / "out"),
                              *(w for k, v in options.items() for w in (f"--{k}", str(v)))])  # fmt: skip
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_full_scale_on_a_tiny_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(classes=10).save(tmp_path / "model")
    for n in range(10):
        for kind in ("val", "masks"):
            (tmp_path / kind / f"n{n:08d}").mkdir(parents=True)
        picture(tmp_path / "val" / f"n{n:08d}" / "a.png")
        mask = np.zeros((40, 50, 3), np.uint8)
        mask[:20, :, 0] = n + 1
        mask[20:, :, :2] = (232, 3)  # 1000: to be ignored
        Image.fromarray(mask).save(tmp_path / "masks" / f"n{n:08d}" / "a.png")
    shared = imagenet.prepare(tmp_path, 0, "cpu", grids=2, masked=2, confident=0.0)
    assert imagenet.read_mask(tmp_path / "masks" / "n00000003" / "a.png", (32, 32)).sum() == 512
    for condition in ("trained", "randomised"):
        found = trial("lrp-like", condition, "full", shared)
        assert 0 <= found["grid_pg"] <= 1
        assert found["energy_lift"] == pytest.approx(2 * found["energy_in_mask"])
    assert trial("lrp-like", "shuffled", "full", shared) == {}
    whole = imagenet.assemble(shared["classifier"], [path for path, _ in shared["grids"][0]])
    assert whole.shape == (1, 3, 96, 96)
    assert patch_of(imagenet.Resampled(shared["classifier"].model)) == 4
    with pytest.raises(InputError, match="confident images"):
        imagenet.prepare(tmp_path, 0, "cpu", confident=1.1)
    with pytest.raises(InputError, match="--data"):
        imagenet.prepare(None, 0, "cpu")
    assert Transform(3, 3) not in set(explainer("dave", {}).keywords["transforms"])
