import json

import numpy as np
import pytest
import torch
from PIL import Image

from assay.errors import AssayError, InputError
from assay.lab.apply import run_apply
from assay.studies.generation import _scoped_attention_flux as flux
from assay.studies.generation import scoped_attention
from assay.studies.generation.scoped_attention import Codec, make_data, prepare, steps_to, study, trial

pytest.importorskip("diffusers")


def picture(path, size=(64, 64), seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(np.kron(pixels[:8, :8], np.ones((size[1] // 8, size[0] // 8, 1), dtype=np.uint8))).save(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A training folder: two pictures, one with everything."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("a.png", "b.png", "dog.png", "depth.png", "mask.png")):
        picture(folder / name, seed=number)
    rows = [
        {
            "image": "a.png",
            "text": "a corgi on the beach",
            "depth": "depth.png",
            "subject": "dog.png",
            "keyword": "corgi",
        },
        {"image": "b.png", "text": "a red corgi", "subject": "dog.png", "keyword": "corgi", "mask": "mask.png"},
        {"image": "b.png", "text": "a cat"},
    ]
    (folder / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


@pytest.fixture(scope="module")
def trained(flux_folder, pictures, tmp_path_factory):
    """The output folder of `--train`."""
    out = tmp_path_factory.mktemp("train") / "out"
    run_apply(
        study,
        ["--model", str(flux_folder), "--train", str(pictures), "--size", "64", "--train-steps", "12", "--rank", "2",
         "--text-tokens", "16", "--learning-rate", "0.05", "--out", str(out)],
    )  # fmt: skip
    return out


def arguments(flux_folder, *more):
    return ["--model", str(flux_folder), "--text-tokens", "16", "--steps", "3", "--size", "64", *map(str, more)]


def test_training_writes_a_lora_that_names_itself_and_losses(trained):
    facts = json.loads((trained / "model" / "config.json").read_text())
    assert facts["paper"] == "2602.06850"
    assert facts["kinds"] == ["edges", "depth", "subject"]
    assert len((trained / "losses.csv").read_text().splitlines()) == 13
    from safetensors.torch import load_file

    weights = load_file(trained / "model" / "pka.safetensors")
    assert sum(float(value.abs().sum()) for name, value in weights.items() if name.endswith(".up")) > 0


def test_drawing_uses_the_conditions_and_shows_the_scopes(flux_folder, pictures, trained, tmp_path):
    def draw(name, *more):
        lora = ["--prompt", "a corgi on the beach", "--lora", trained / "model"]
        told = run_apply(study, arguments(flux_folder, *lora, *more, "--out", tmp_path / name / "img.png"))
        return told, np.asarray(Image.open(tmp_path / name / "img.png"), dtype=float)

    subject = ["--subject", f"corgi={pictures / 'dog.png'}"]
    maps = ["--edges", pictures / "a.png", "--depth", pictures / "depth.png"]
    told, full = draw("full", *maps, *subject)
    assert told["conditions"] == ["edges", "depth", "subject"]
    assert 0.3 <= told["share of the picture that sees"]["corgi"] <= 1
    assert Image.open(tmp_path / "full" / "scopes.png").size == (64, 64)
    assert full.shape == (64, 64, 3)
    _, again = draw("again", *maps, *subject)
    np.testing.assert_array_equal(full, again)
    _, plain = draw("plain")
    assert not (tmp_path / "plain" / "scopes.png").exists()
    assert np.abs(full - plain).max() > 0
    _, two = draw("two", *subject, "--subject", f"beach={pictures / 'b.png'}")
    assert Image.open(tmp_path / "two" / "scopes.png").size == (128, 64)
    assert np.abs(full - two).max() > 0


def test_without_a_lora_the_picture_is_that_of_the_pipeline_itself(flux_folder, tmp_path):
    run_apply(study, arguments(flux_folder, "--prompt", "a cat", "--seed", 3, "--out", tmp_path / "img.png"))
    pipe = flux.load_pipeline(str(flux_folder))
    expected = pipe(
        prompt="a cat", height=64, width=64, num_inference_steps=3, guidance_scale=3.5,
        generator=torch.Generator().manual_seed(3), max_sequence_length=16,
    ).images[0]  # fmt: skip
    drawn = np.asarray(Image.open(tmp_path / "img.png"), dtype=int)
    assert np.abs(drawn - np.asarray(expected, dtype=int)).max() <= 1


def test_the_profile_reports_three_designs_and_writes_nothing(flux_folder, tmp_path):
    told = run_apply(study, arguments(flux_folder, "--profile", "--conditions", 3, "--out", tmp_path / "x" / "img.png"))
    rows = {line.split()[0]: line.split()[1:] for line in told.splitlines()[1:]}
    assert set(rows) == {"dense", "cached", "pka"}
    pairs = {name: float(row[-1]) for name, row in rows.items()}
    assert pairs["dense"] > pairs["cached"] > pairs["pka"]
    assert all(float(row[0]) > 0 for row in rows.values())
    assert not (tmp_path / "x" / "img.png").exists()


def test_concatenation_on_flux_draws_and_trains(flux_folder, pictures):
    pipe = flux.load_pipeline(str(flux_folder))
    samples = flux.read_samples(pictures)
    pattern = scoped_attention.PATTERNS["concat"]
    done = flux.train_flux(pipe, samples, 4, (64, 64), 2, 0.05, 0, 16, pattern, uniform=True)
    maps = {"edges": flux.edge_picture(flux.open_picture(pictures / "a.png"))}
    drawn = [
        np.asarray(flux.draw_flux(pipe, lora, "a cat", maps, [], (64, 64), 2, text_tokens=16, pattern=pattern)[0])
        for lora in (done.lora, None)
    ]
    assert len(done.losses) == 4
    assert (drawn[0] != drawn[1]).any()
    assert not pipe.transformer._forward_hooks
    assert not pipe.transformer._forward_pre_hooks


@pytest.mark.parametrize(("more", "message"), [
    ([], "exactly one of"),
    (["--prompt", "a cat", "--profile"], "exactly one of"),
    (["--prompt", "a cat", "--window", "2"], "odd number"),
    (["--prompt", "a cat", "--rho", "0"], "--rho"),
    (["--prompt", "a cat", "--subject", "corgi=DOG"], "keyword 'corgi' is not in the prompt"),
    (["--prompt", "a cat", "--subject", "cat"], "expected KEYWORD=PICTURE"),
    (["--prompt", "a cat", "--subject", "cat=/no/such.png"], "no such picture"),
    (["--prompt", "a cat", "--subject", "cat=JSONL"], "not a picture"),
    (["--prompt", "a cat", "--edges", "ODD"], "multiples of 16"),
    (["--prompt", "a cat", "--edges", "A", "--depth", "ODD"], "give one size"),
    (["--prompt", "a cat", "--edges", "A"], "conditions need --lora"),
    (["--prompt", "a cat", "--edges", "A", "--lora", "JSONL"], "not a safetensors file"),
    (["--prompt", "a cat", "--edges", "A", "--lora", "/no/such"], "no LoRA"),
    (["--profile", "--size", "40"], "multiples of 16"),
    (["--train", "/no/such"], "captions.jsonl"),
])  # fmt: skip
def test_bad_input_is_refused_in_one_line(flux_folder, pictures, tmp_path, more, message):
    odd = picture(tmp_path / "odd.png", (72, 64))
    names = {"DOG": pictures / "dog.png", "A": pictures / "a.png", "ODD": odd, "JSONL": pictures / "captions.jsonl"}
    for name, path in names.items():
        more = [
            word if word != name and not word.endswith(f"={name}") else word.replace(name, str(path)) for word in more
        ]
    with pytest.raises(AssayError, match=message) as caught:
        run_apply(study, ["--model", str(flux_folder), *more, "--out", str(tmp_path / "out" / "img.png")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_models_that_are_none_are_refused(flux_folder, tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        flux.load_pipeline(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="no model_index"):
        flux.load_pipeline(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="StableDiffusionPipeline"):
        flux.load_pipeline(str(tmp_path))
    with pytest.raises(InputError, match="cannot load the model"):
        flux.load_pipeline("nobody/no-such-model")


def test_a_lora_knows_what_it_was_trained_for(flux_folder, pictures, tmp_path):
    pipe = flux.load_pipeline(str(flux_folder))
    lora = flux.FluxConditionLoRA(pipe.transformer, ("edges",), 2)
    flux.save_lora(lora, tmp_path / "model")
    back = flux.load_lora(tmp_path / "model" / "pka.safetensors", pipe.transformer)
    assert back.kinds == ("edges",)
    for a, b in zip(lora.parameters(), back.parameters(), strict=True):
        assert torch.equal(a, b)
    more = ["--prompt", "a cat", "--depth", pictures / "depth.png", "--lora", tmp_path / "model"]
    with pytest.raises(InputError, match="not trained for depth; it knows edges"):
        run_apply(study, arguments(flux_folder, *more, "--out", tmp_path / "img.png"))
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not a PKA LoRA"):
        flux.load_lora(tmp_path / "other.safetensors", pipe.transformer)


@pytest.mark.parametrize(("line", "message"), [
    ("no json", "line 1: not JSON"),
    ('{"image": "a.png"}', 'expected an object with "image" and "text"'),
    ('{"image": "../a.png", "text": "x"}', "lies outside"),
    ('{"image": "gone.png", "text": "x"}', "no file gone.png"),
    ('{"image": "a.png", "text": "x", "subject": "a.png"}', "belong together"),
    ('{"image": "a.png", "text": "x", "subject": "a.png", "keyword": "dog"}', "not in the text"),
    ("", "no pictures listed"),
])  # fmt: skip
def test_listings_that_do_not_fit_are_refused(tmp_path, line, message):
    folder = tmp_path / "inner"
    folder.mkdir()
    picture(tmp_path / "a.png")
    picture(folder / "a.png")
    (folder / "captions.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        flux.read_samples(folder)


def test_full_scale_runs_every_kind_of_arm_on_a_tiny_flux(flux_folder, pictures, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for path in pictures.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    (data / "model").symlink_to(flux_folder, target_is_directory=True)
    settings = {"steps": 3, "size": 64, "text": 16, "draw": 2, "rate": 0.01}
    (data / "full.json").write_text(json.dumps(settings))
    shared = prepare(0, "full", "cpu", data)
    for arm, condition in (
        ("no-condition", "aligned"),
        ("concat", "misaligned"),
        ("pka", "style"),
        ("random-scope", "aligned"),
    ):
        found = trial(arm, condition, 0, "full", shared)
        assert 0 <= found["condition_error"] <= 1
        assert 0 <= found["edge_f1"] <= 1
    fast, dense = (trial(arm, "speed", 0, "full", shared) for arm in ("pka", "concat"))
    assert fast["pairs"] < dense["pairs"]
    with pytest.raises(InputError, match="--data"):
        prepare(0, "full", "cpu", None)


# What the pocket study stands on


def test_controls_change_what_they_say():
    rng = [np.random.default_rng(0) for _ in range(3)]
    aligned, moved, style = (
        make_data(6, name, g) for name, g in zip(("aligned", "misaligned", "style"), rng, strict=True)
    )
    shifted = [
        any(torch.equal(torch.roll(a, s, d), b) for s in (-8, 8) for d in (1, 2))
        for a, b in zip(make_edges(moved), moved["edges"], strict=True)
    ]
    assert all(shifted)
    assert torch.equal(make_edges(aligned), aligned["edges"])
    assert all(scene.cover is not None for scene in style["scenes"])


def make_edges(data):
    from assay.data.scenes import shapes

    maps = [shapes.edge_map(rendering.image) for rendering in data["renderings"]]
    return torch.tensor(np.stack(maps), dtype=torch.float32)[:, None]


def test_the_codec_keeps_most_of_the_picture():
    images = make_data(40, "aligned", np.random.default_rng(1))["image"]
    codec = Codec(images)
    latents = codec.encode(images)
    assert latents.shape == (40, 16, 6, 6)
    lost = (codec.decode(latents) - images).var() / images.var()
    assert lost < 0.15
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, atol=1e-4, rtol=1e-4)


def test_steps_to_a_target_are_read_off_the_line():
    assert steps_to(0.5, [0, 10, 20], [0.7, 0.6, 0.4]) == pytest.approx(15)
    assert steps_to(0.8, [0, 10, 20], [0.7, 0.6, 0.4]) == 0
    assert steps_to(0.1, [0, 10, 20], [0.7, 0.6, 0.4]) == 30
