"""GMFF: convexity and symmetry of stage 1, tiles against the whole, classical fusion, masks, alignment, stage 2."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from assay.data.focus_stack import Lens, blurred, focus_planes, layered_scene, photograph
from assay.data.photos import crop, cropper
from assay.methods.imaging.focus_fusion import (
    GMFF,
    ControlledDenoiser,
    Fusion,
    Misregistered,
    PixelCodec,
    PixelDenoiser,
    Regressor,
    Restorer,
    StackFusion,
    as_stack,
    classical_fuse,
    combine,
    denoising_loss,
    depth_edges,
    fit_denoiser,
    fit_fusion,
    fit_regressor,
    focus_measure,
    fuse_tiles,
    fusion_loss,
    lacking,
    low_band,
    misregistration,
    missing_focus_mask,
    one_hot,
    register,
    samples,
    trust_mask,
)
from assay.nn.diffusion import Schedule
from assay.nn.unet import UNet


@pytest.fixture(scope="module")
def picture():
    found = crop("china", (96, 96), np.random.default_rng(1), scale=0.7, tries=4)
    grain = 0.05 * np.random.default_rng(0).random(found.shape, dtype=np.float32)  # something to see everywhere
    return torch.from_numpy(0.95 * found + grain).permute(2, 0, 1).contiguous()


@pytest.fixture(scope="module")
def halves(picture):
    """Two frames, each blurred on one half."""
    soft = blurred(picture, 5)
    left, right = picture.clone(), picture.clone()
    left[..., 48:], right[..., :48] = soft[..., 48:], soft[..., :48]
    return torch.stack([left, right])


@pytest.fixture(scope="module")
def missing_stack():
    rng = np.random.default_rng(7)
    planes = focus_planes()
    layers, chosen = layered_scene(cropper(["gravel", "grass"]), planes, 128, rng)
    return photograph(layers, [p for i, p in enumerate(planes) if i != chosen[0]], Lens(), rng, margin=16)


def a_fusion(**more) -> StackFusion:
    torch.manual_seed(0)
    return StackFusion(**({"width": 6} | more)).eval()


def a_denoiser(spread: float = 0.1) -> PixelDenoiser:
    torch.manual_seed(0)
    net = PixelDenoiser(UNet(3, 3, (8, 12), time_width=16, condition_channels=3), spread)
    nn.init.normal_(net.unet.leave[2].weight, std=0.1)
    return net.eval()


@pytest.mark.parametrize("frames", [2, 3, 5])
@torch.no_grad()
def test_weights_are_convex_and_order_is_no_matter(frames):
    stack = torch.rand(2, frames, 3, 37, 50, generator=torch.Generator().manual_seed(frames))
    net = a_fusion()
    found = net(stack)
    assert (found.weights >= 0).all()
    assert torch.allclose(found.weights.sum(1), torch.ones(2, 37, 50), atol=1e-5)
    assert (found.image <= stack.amax(1) + 1e-5).all()
    assert (found.image >= stack.amin(1) - 1e-5).all()
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(0))
    other = net(stack[:, order])
    assert torch.allclose(other.weights, found.weights[:, order], atol=1e-4)
    assert torch.allclose(other.image, found.image, atol=1e-4)


@torch.no_grad()
def test_limits_of_stage_one():
    net = a_fusion()
    frame = torch.rand(1, 1, 3, 24, 24)
    same = net(frame.expand(1, 4, 3, 24, 24))
    assert torch.allclose(same.image, frame[:, 0], atol=1e-6)
    stack = 0.5 * torch.rand(1, 3, 3, 24, 24)
    assert torch.allclose(net(stack + 0.3).image, net(stack).image + 0.3, atol=1e-4)
    sharp = a_fusion(temperature=0.01)(stack)
    assert sharp.weights.amax(1).mean() > net(stack).weights.amax(1).mean()
    for bad in (stack[:, :1], stack[0], stack[:, :, :2]):
        with pytest.raises(ValueError, match="at least two frames"):
            net(bad)


@torch.no_grad()
def test_tiles_give_what_the_whole_gives():
    stack = torch.rand(3, 3, 150, 200, generator=torch.Generator().manual_seed(0))
    net = a_fusion(temperature=0.05)
    whole, missing = net(stack[None]), missing_focus_mask(stack, 0.5, noise=0.01, sharpest=1.0)
    depth = (whole.weights[0] * torch.arange(3.0)[:, None, None]).sum(0)
    seen, largest = torch.zeros(150, 200), 0
    for tile in fuse_tiles(
        lambda a, b, c, d: stack[..., a:b, c:d], 150, 200, net, tile=40, noise=0.01, sharpest=1.0, threshold=0.5
    ):
        place = (slice(tile.top, tile.top + 40), slice(tile.left, tile.left + 40))
        seen[place] += 1
        largest = max(largest, (tile.image - whole.image[0][(..., *place)]).abs().max())
        assert torch.allclose(tile.depth, depth[place], atol=1e-4)
        assert torch.equal(tile.missing, missing[place])
    assert (seen == 1).all()
    assert largest < 1e-5
    with pytest.raises(ValueError, match="multiple of 8"):
        next(fuse_tiles(lambda *a: stack, 150, 200, net, tile=20))


def test_reduced_weights_still_combine_full_frames(halves):
    def read(a, b, c, d):
        return halves[..., a:b, c:d]

    (tile,) = fuse_tiles(read, 96, 96, None, tile=64, reduce=2)
    whole = classical_fuse(halves)
    assert (tile.image - whole.image).abs()[:, :, :40].mean() < 0.01
    assert tile.depth[:, :38].mean() < 0.15
    assert tile.depth[:, 58:].mean() > 0.85


def test_gradients_reach_every_parameter_and_training_helps():
    net = a_fusion()
    soft = torch.rand(1, 3, 32, 32)
    stack = torch.stack([soft[0], blurred(soft[0], 3)])[None]
    nearest = torch.zeros(1, 32, 32, dtype=torch.long)
    net.train()
    fusion_loss(net(stack), soft, nearest).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    net = a_fusion()
    history = fit_fusion(net, lambda: (stack, soft, nearest), 25, lr=5e-3)
    assert history[-1] < 0.6 * history[0]
    assert not net.training


@pytest.mark.parametrize("kind", ["sml", "lap", "tenengrad"])
def test_classical_fusion_takes_the_sharp_half(halves, picture, kind):
    hard = classical_fuse(halves, kind, guided=False)
    away = [slice(8, 36), slice(60, 88)]
    right = [(hard.weights[i][8:88, part] == 1).float().mean() for i, part in enumerate(away)]
    textured = [focus_measure(halves, kind)[i][8:88, part].median() > 0 for i, part in enumerate(away)]
    assert all(textured)
    assert min(right) > 0.99
    soft = classical_fuse(halves, kind)
    assert torch.allclose(soft.weights.sum(0), torch.ones(96, 96), atol=1e-5)
    for found in (hard, soft):
        assert (found.image - picture).abs().mean() < 0.3 * (halves.mean(0) - picture).abs().mean()
    assert torch.equal(one_hot(hard.logits), hard.weights)
    with pytest.raises(ValueError, match="odd window"):
        focus_measure(halves, kind, 4)


def test_stacks_that_are_none(halves):
    with pytest.raises(ValueError, match="at least two"):
        as_stack(halves[:1])
    with pytest.raises(ValueError, match="one size"):
        as_stack([halves[0], halves[1][:, :50]])
    with pytest.raises(ValueError, match=r"0\.\.1"):
        as_stack(halves * 255)
    with pytest.raises(ValueError, match="at least two"):
        as_stack([])
    with pytest.raises(ValueError, match="sml"):
        focus_measure(halves, "best")


def test_missing_focus_is_found(missing_stack, halves):
    truth = missing_stack.missing()
    found = missing_focus_mask(missing_stack.frames)
    assert found[truth].float().mean() > 0.3
    assert found[missing_stack.blur.amin(0) < 1].float().mean() < 0.03
    none = missing_focus_mask(halves)
    assert none[:, 8:40].float().mean() < 0.1
    both = missing_focus_mask(torch.stack([blurred(halves[0], 5), blurred(halves[1], 5)]), sharpest=1.0)
    assert both.float().mean() > 0.5
    softer = torch.stack([blurred(frame, 2) for frame in halves])  # all of it a little soft, as some cameras are
    assert missing_focus_mask(softer)[:, 8:40].float().mean() < 0.1
    assert missing_focus_mask(missing_stack.frames, 0.05).sum() < found.sum()
    flat = 0.5 + 0.01 * torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert missing_focus_mask(flat).float().mean() < 0.02


def test_depth_edges_and_trust():
    weights = torch.zeros(2, 40, 40)
    weights[0, :, :20], weights[1, :, 20:] = 1, 1
    edge = depth_edges(weights)
    assert edge[:, 18:22].any(1).all()
    assert not edge[:, :15].any()
    assert not edge[:, 25:].any()
    assert not depth_edges(torch.full((2, 40, 40), 0.5)).any()
    mask = trust_mask(torch.zeros(40, 40, dtype=torch.bool), edge)
    assert (mask[:, 19] == 1).all()
    assert (mask[:, :5] == 0).all()
    assert ((mask[:, 12] > 0) & (mask[:, 12] < 1)).all()
    assert trust_mask(torch.zeros(9, 9, dtype=torch.bool)).max() == 0


def test_alignment_undoes_scale_and_shift(picture):
    from assay.methods.imaging._focus_register import move

    moved = move(picture, 1.02, 1.5, -2.0)
    stack = torch.stack([blurred(moved, 2), picture])
    assert misregistration(stack) > 1
    found = register(stack)
    inner = (..., slice(8, -8), slice(8, -8))
    assert torch.equal(found[1], picture)
    wanted = blurred(picture, 2)
    assert (found[0] - wanted)[inner].abs().mean() < 0.25 * (stack[0] - wanted)[inner].abs().mean()
    assert misregistration(found) < 1


def test_a_stack_in_register_gives_no_warning(missing_stack):
    method = GMFF(a_fusion(), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = method(missing_stack.frames)
    assert torch.equal(found.image, found.fused)
    assert found.mask.max() == 0
    shifted = missing_stack.frames.clone()
    shifted[1] = shifted[1].roll(4, -1)
    with pytest.warns(Misregistered, match="shifted"):
        method(shifted)


def test_the_gaussian_part_of_the_denoiser():
    """With an untrained network: the exact prediction for white noise of that spread around the condition."""
    net = PixelDenoiser(UNet(3, 3, (8,), time_width=8, condition_channels=3), spread=0.3)
    g = torch.Generator().manual_seed(0)
    condition = torch.rand(4, 3, 64, 64, generator=g)
    x = condition + 0.3 * torch.randn(condition.shape, generator=g)
    noise = torch.randn(condition.shape, generator=g)
    t = torch.tensor([5, 100, 400, 900])
    x_t = net.schedule.noisy(x, noise, t)
    error = net(x_t, t, condition) - net.schedule.target(x, noise, t, "v")
    expected = 1 / net.loss_weight(x, t)[:, 0].flatten()
    assert torch.allclose(error.square().mean((1, 2, 3)), expected, rtol=0.05)
    uneven = PixelDenoiser(net.unet, spread=[0.3, 0.1, 0.1])
    assert torch.allclose(uneven(x_t, t, condition)[:, 0], net(x_t, t, condition)[:, 0], atol=1e-6)
    assert error.mean().abs() < 0.02


def test_pixels_come_back_and_what_is_lacking_is_brightness(picture):
    codec = PixelCodec()
    assert torch.allclose(codec.decode(codec.encode(picture[None])), picture[None], atol=1e-6)
    spread = lacking(codec, blurred(picture, 4)[None], picture[None])
    assert spread[0] > 2 * max(spread[1:]) > 0


def test_restorer_keeps_its_promises(picture):
    restore = Restorer(a_denoiser())
    one = restore(picture, steps=3, seed=1)
    assert torch.equal(one, restore(picture, steps=3, seed=1))
    assert not torch.equal(one, restore(picture, steps=3, seed=2))
    assert one.min() >= 0
    assert one.max() <= 1
    assert torch.equal(restore(picture, strength=0.0), picture)
    assert torch.equal(restore(picture, torch.zeros(96, 96)), picture)
    mask = torch.zeros(96, 96)
    mask[:40] = 1
    part = restore(picture, mask, steps=3, seed=1)
    assert torch.equal(part[:, 40:], picture[:, 40:])
    assert torch.allclose(part[:, :40], one[:, :40], atol=1e-6)
    inner = (..., slice(16, -16), slice(16, -16))
    assert (low_band(one[None]) - low_band(picture[None]))[inner].abs().mean() < 0.01  # coarse colours are kept
    noise = restore(picture, steps=3, seed=1, start="noise")
    assert not torch.equal(noise, one)
    assert samples(restore, picture, 3, steps=2).std(0).mean() > 0
    with pytest.raises(ValueError, match="strength"):
        restore(picture, strength=1.2)
    with pytest.raises(ValueError, match="pictures"):
        restore(picture[:2])


def test_training_stage_two_and_the_regression(picture):
    truth = picture[None, :, :32, :32]
    fused = blurred(picture, 3)[None, :, :32, :32]
    g = torch.Generator().manual_seed(0)
    net = a_denoiser()
    history = fit_denoiser(net, PixelCodec(), lambda: (fused, truth), 40, g, lr=5e-3)
    assert np.mean(history[-10:]) < 0.8 * np.mean(history[:10])
    regress = Regressor(UNet(3, 3, (8, 12), time_width=0))
    history = fit_regressor(regress, lambda: (fused, truth), 40, lr=5e-3)
    assert history[-1] < 0.8 * history[0]
    control = ControlledDenoiser(UNet(3, 3, (8,), time_width=8), Schedule.linear(), "eps")
    nn.init.normal_(control.net.unet.leave[2].weight, std=0.1)
    before = {name: p.clone() for name, p in control.named_parameters()}
    fit_denoiser(control, PixelCodec(), lambda: (fused, truth), 3, g)
    moved = {name for name, p in control.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all(name.startswith("net.branch.") for name in moved)
    assert denoising_loss(control, truth, fused, g) > 0


def test_cascade_confines_what_it_invents(missing_stack):
    stack = missing_stack.frames
    method = GMFF(a_fusion(), Restorer(a_denoiser()), steps=2)
    found = method(stack, seed=3)
    assert torch.equal(found.image[:, found.mask == 0], found.fused[:, found.mask == 0])
    assert 0 < found.mask.mean() < 1
    assert not torch.equal(found.image, found.fused)
    assert torch.allclose(found.fused, combine(stack, found.weights))
    free = GMFF(a_fusion(), Restorer(a_denoiser()), steps=2, trust=False)(stack, seed=3)
    assert free.mask.min() == 1
    assert found.depth.shape == found.mask.shape
    assert isinstance(a_fusion()(stack[None]), Fusion)


def test_stable_diffusion_layout(tmp_path, picture):
    """A tiny random model in the official layout: the untrained branch changes nothing, and only it is trained."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    diffusers.UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12, attention_head_dim=4, sample_size=16,
    ).save_pretrained(tmp_path / "unet")  # fmt: skip
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    words = ["<|startoftext|>", "<|endoftext|>", "a", "a</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(
        str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"), model_max_length=7
    ).save_pretrained(tmp_path / "tokenizer")
    transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=4, hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=7, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )
    ).save_pretrained(tmp_path / "text_encoder")  # fmt: skip
    restore = Restorer.from_pretrained(tmp_path)
    net = restore.denoiser
    z, t, c = torch.randn(1, 4, 12, 12), torch.tensor([20]), torch.randn(1, 4, 12, 12)
    with torch.no_grad():
        base = net.unet(z, t, encoder_hidden_states=net.text).sample
        assert torch.allclose(net(z, t, c), base, atol=1e-6)
    small = picture[None, :, :24, :24]
    fit_denoiser(net, restore.codec, lambda: (small, small), 3, torch.Generator().manual_seed(0), lr=1e-2)
    assert all(p.grad is None for p in net.unet.parameters())
    with torch.no_grad():
        assert not torch.allclose(net(z, t, c), net(z, t, c + 1), atol=1e-6)
    made = restore(picture[:, :30, :26], steps=2)
    assert made.shape == (3, 30, 26)
    again = Restorer.from_pretrained(tmp_path, net.control.state_dict())
    assert torch.allclose(again(picture[:, :30, :26], steps=2), made, atol=1e-5)
