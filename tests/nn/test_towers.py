"""Two towers: the loss against plain cross entropy, cones and the gap, and published checkpoints in small."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from assay.errors import InputError
from assay.metrics.modality_gap import mean_gap
from assay.nn.clip_towers import ClipTowers
from assay.nn.towers import ConvTower, MLPTower, TowerTraining, TwoTowers, contrastive_loss, train_towers

spec = importlib.util.spec_from_file_location("tiny_clip", Path(__file__).with_name("tiny_clip.py"))
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)


def unit(*shape: int, seed: int) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1)


def test_the_loss_against_loops() -> None:
    img, txt = unit(5, 4, seed=0), unit(5, 4, seed=1)
    same = torch.eye(5, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    for positives in (torch.eye(5, dtype=torch.bool), same):
        total = 0.0
        for a, b in ((img, txt), (txt, img)):
            for i in range(5):
                logits = [7.0 * float(a[i] @ b[j]) for j in range(5)]
                norm = math.log(sum(math.exp(x) for x in logits))
                mine = [j for j in range(5) if positives[i, j]]
                total += sum(norm - logits[j] for j in mine) / len(mine) / 10
        assert float(contrastive_loss(img, txt, 7.0, positives)) == pytest.approx(total)
    assert float(contrastive_loss(img, txt, 7.0)) == pytest.approx(
        float(contrastive_loss(img, txt, 7.0, torch.eye(5, dtype=torch.bool)))
    )
    assert torch.autograd.gradcheck(lambda a, b: contrastive_loss(a, b, 3.0, same), (
        img.requires_grad_(), txt.requires_grad_(),
    ))  # fmt: skip


def test_bad_pairs() -> None:
    with pytest.raises(ValueError, match="positive"):
        contrastive_loss(unit(3, 4, seed=0), unit(3, 4, seed=1), 1.0, torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="as many"):
        contrastive_loss(unit(3, 4, seed=0), unit(2, 4, seed=1), 1.0)
    with pytest.raises(ValueError, match="temperature"):
        TwoTowers(MLPTower(3, 2), MLPTower(3, 2), 0.001)


def test_towers_learn_pairs_and_cones_leave_a_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(300, 8, generator=generator)
    images = latent @ torch.randn(8, 20, generator=generator)
    texts = latent @ torch.randn(8, 15, generator=generator)
    gaps = {}
    for length in (0.0, 3.0):
        torch.manual_seed(1)
        model = TwoTowers(MLPTower(20, 16, 32), MLPTower(15, 16, 32), 0.01, learn_temperature=False)
        model.separate(length, torch.Generator().manual_seed(2))
        losses = train_towers(model, images, texts, torch.arange(300), TowerTraining(30, 100, 5e-3), 0)
        assert losses[-1] < losses[0] / 2
        with torch.no_grad():
            img, txt = model.encode_image(images), model.encode_text(texts)
        nearest = (img @ txt.T).argsort(dim=1, descending=True)[:, :10]
        assert (nearest == torch.arange(300)[:, None]).any(1).float().mean() > 0.9
        gaps[length] = mean_gap(img, txt)
    assert gaps[3.0] > gaps[0.0] + 0.3


def test_the_conv_tower_reads_pictures_of_any_size() -> None:
    tower = ConvTower(3, 5, 8)
    for side in (8, 32, 33):
        assert tower(torch.randn(2, 3, side, side)).shape == (2, 5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_checkpoint_in_the_official_layout(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tiny.save_tiny_clip(tmp_path, kind)
    towers = ClipTowers(tmp_path)
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8))
    grey = Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8))
    clear = rgb.convert("RGBA")
    clear.putalpha(255)
    rows = towers.encode_image([rgb, grey, clear], batch=2)
    assert rows.shape == (3, 16)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(rows[0], rows[2])
    texts = ["a photo of a cat", "the big red house and the small blue tree in the green house of the dog", ""]
    found = towers.encode_text(texts, batch=3)
    torch.testing.assert_close(found[0], towers.encode_text(texts[:1])[0], atol=1e-5, rtol=0)
    # Against the library's own forward pass, on pixels normalised by hand where no resizing is needed.
    pixels = torch.from_numpy(np.repeat(np.asarray(grey)[None].astype(np.float32) / 255, 3, 0))
    pixels = (pixels - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.25, 0.3])[:, None, None]
    reference = transformers.AutoModel.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[1, *[tiny.WORDS.index(w) + 4 for w in texts[0].split()], 2]])
    if kind == "siglip":
        ids = torch.nn.functional.pad(ids, (0, 12 - ids.shape[1]))
    with torch.no_grad():
        out = reference(input_ids=ids, pixel_values=pixels[None])
    torch.testing.assert_close(rows[1], out.image_embeds[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0], out.text_embeds[0], atol=1e-5, rtol=0)
    assert towers.scale == pytest.approx(float(reference.logit_scale.detach().exp()))


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for folder, words in ((tmp_path / "none", "cannot be loaded"), (other, "no two towers")):
        with pytest.raises(InputError, match=words) as caught:
            ClipTowers(folder)
        assert "\n" not in str(caught.value)
