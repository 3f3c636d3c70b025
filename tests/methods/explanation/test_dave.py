"""DAVE: exact identities of the effective map, equivariance, limits, other people's models, bad input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.methods.explanation import dave as method
from assay.methods.explanation.dave import (
    Transform,
    Transforms,
    UnsupportedLayer,
    attention_weights,
    completeness,
    cosine_to,
    dave,
    effective_gradient,
    frozen_operators,
    full_gradient,
    logits_of,
    low_pass,
    normalise,
    patch_artifact,
    replayed_operators,
    reynolds_average,
)
from assay.nn.vit import ViT

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}


def strong(model: nn.Module) -> nn.Module:
    """Weights large enough that attention and gates depend on the input."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def own(**changes) -> nn.Module:
    shape = {"image_size": (8, 8), "patch": 4, "width": 16, "depth": 2, "heads": 2, "classes": 4}
    return strong(ViT(**shape | changes))


def other(kind: str, attention: str = "sdpa") -> nn.Module:
    transformers = pytest.importorskip("transformers")
    more = {"_attn_implementation": attention}
    if kind == "clip":
        return strong(
            transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SMALL, intermediate_size=32, **more))
        )
    if kind == "dinov2":
        config = transformers.Dinov2Config(**SMALL, mlp_ratio=2, num_labels=4, **more)
        return strong(transformers.Dinov2ForImageClassification(config))
    if kind == "deit":
        config = transformers.DeiTConfig(**SMALL, intermediate_size=32, num_labels=4, **more)
        return strong(transformers.DeiTForImageClassificationWithTeacher(config))
    config = transformers.ViTConfig(**SMALL, intermediate_size=32, num_labels=4, **more)
    return strong(transformers.ViTForImageClassification(config))


MODELS = ["own", "vit", "deit", "dinov2", "clip"]


def make(kind: str) -> nn.Module:
    return own() if kind == "own" else other(kind)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", MODELS)
def test_logit_is_effective_map_times_image_plus_offset(kind: str, x: Tensor) -> None:
    model = make(kind)
    assert completeness(model, x, 1).abs().max() < 1e-4
    assert completeness(model.double(), x.double(), torch.tensor([0, 1, 2])).abs().max() < 1e-10
    plain, effective = full_gradient(model, x.double(), 1), effective_gradient(model, x.double(), 1)
    assert (plain - effective).norm() > 0.05 * plain.norm()


@pytest.mark.parametrize("kind", MODELS)
def test_forward_values_do_not_change_and_all_is_undone(kind: str, x: Tensor) -> None:
    model = make(kind)
    plain, gradient = logits_of(model(x)), full_gradient(model, x, 1)
    with frozen_operators(model):
        assert torch.equal(logits_of(model(x)), plain)
    with pytest.raises(RuntimeError, match="on purpose"), frozen_operators(model):
        raise RuntimeError("on purpose")
    assert torch.equal(full_gradient(model, x, 1), gradient)
    assert all("forward" not in vars(m) for m in model.modules())


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", "clip"])
def test_eager_and_fused_attention_agree(kind: str, x: Tensor) -> None:
    maps = [dave(other(kind, attention), x, 2, transforms=Transforms.identity()) for attention in ("eager", "sdpa")]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-4, atol=1e-6)


def test_gradient_equals_finite_differences_of_the_recorded_map(x: Tensor) -> None:
    model, x = own().double(), x[:1].double()
    found = effective_gradient(model, x, 2)
    with torch.no_grad(), frozen_operators(model, keep=True) as tape:
        model(x)
    step = 1e-4
    for place in ((0, 0, 0), (1, 3, 5), (2, 7, 7)):
        ends = []
        for sign in (1, -1):
            moved = x.clone()
            moved[(0, *place)] += sign * step
            with torch.no_grad(), replayed_operators(model, tape):
                ends.append(model(moved)[0, 2])
        assert float((ends[0] - ends[1]) / (2 * step)) == pytest.approx(float(found[(0, *place)]), abs=1e-8)


def test_every_operator_is_the_adjoint_of_its_linear_part(x: Tensor) -> None:
    model = own().double()
    with torch.no_grad(), frozen_operators(model, keep=True) as tape:
        model(x.double())
    generator = torch.Generator().manual_seed(0)
    for operator in tape:
        coefficient = next(v for v in vars(operator).values() if isinstance(v, Tensor))
        shape = (*coefficient.shape[:-1], 16 if type(operator).__name__ == "Normalisation" else coefficient.shape[-1])
        u, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        linear = operator.push(u) - operator.push(torch.zeros_like(u))
        torch.testing.assert_close((linear * v).sum(), (u * operator.pull(v)).sum())


class Flat(nn.Module):
    """A linear classifier on pixels, with a patch size so that it passes for a transformer."""

    class Options:
        patch = 4

    options = Options()

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.linear = nn.Flatten(), nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.flatten(x))


def test_linear_classifier_gives_weight_times_image(x: Tensor) -> None:
    model = Flat().eval()
    expected = (model.linear.weight[2].view(3, 8, 8) * x).sum(1)
    plain = {"transforms": Transforms.identity(), "noise": 0.0, "lowpass": 0.0}
    torch.testing.assert_close(dave(model, x, 2, **plain), expected)


def test_without_coefficients_the_gradient_is_the_plain_one(x: Tensor) -> None:
    model = own()
    model.norm = nn.Identity()
    for block in model.blocks:
        block.norm1, block.norm2, block.mlp[1] = nn.Identity(), nn.Identity(), nn.Identity()
        for part in (block.attention.query, block.attention.key):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)
    torch.testing.assert_close(effective_gradient(model, x, 1), full_gradient(model, x, 1))


def test_full_torus_makes_maps_equivariant_and_averaging_idempotent(x: Tensor) -> None:
    model, x = own().double(), x[:1].double()
    torus = Transforms.torus(8, 8)
    options = {"transforms": torus, "noise": 0.0, "lowpass": 0.0, "batch": 64}
    moved = torch.roll(x, (3, -2), (-2, -1))
    found = dave(model, x, 1, **options)
    torch.testing.assert_close(dave(model, moved, 1, **options), torch.roll(found, (3, -2), (-2, -1)))

    def once(images: Tensor, rows: Tensor) -> Tensor:
        return images.cumsum(-1).sin()

    def average(images: Tensor, rows: Tensor) -> Tensor:
        return reynolds_average(once, images, torus, batch=512)

    torch.testing.assert_close(reynolds_average(average, x, torus, batch=512), average(x, x))


def test_one_pass_without_noise_and_filter_is_effective_map_times_image(x: Tensor) -> None:
    model = own()
    found = dave(model, x, 1, transforms=Transforms.identity(), noise=0.0, lowpass=0.0)
    torch.testing.assert_close(found, (effective_gradient(model, x, 1) * x).sum(1))
    norm = dave(model, x, 1, transforms=Transforms.identity(), noise=0.0, lowpass=0.0, form="sensitivity")
    torch.testing.assert_close(norm, effective_gradient(model, x, 1).norm(dim=1))


def test_seeds_batches_and_constants(x: Tensor) -> None:
    model, target = own(), torch.tensor([0, 3, 1])
    found = dave(model, x, target)
    assert torch.equal(found, dave(model, x, target))
    assert not torch.allclose(found, dave(model, x, target, seed=1))
    for row in range(3):
        alone = dave(model, x[row : row + 1], target[row : row + 1], batch=7)
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        model.head.bias += 5
    torch.testing.assert_close(dave(model, x, target), found)


def test_contrast_of_two_classes_is_the_difference_of_their_maps(x: Tensor) -> None:
    model = own(classes=2)
    first, second = dave(model, x, 0), dave(model, x, 1)
    torch.testing.assert_close(dave(model, x, 0, contrast=True), first - second, rtol=1e-4, atol=1e-6)


def test_cosine_score_explains_models_without_classes(x: Tensor) -> None:
    model, prototype = other("clip"), torch.randn(16, generator=torch.Generator().manual_seed(5))
    score = cosine_to(prototype)
    features = logits_of(model(x))
    torch.testing.assert_close(score(model(x)), F.cosine_similarity(features, prototype.expand_as(features)))
    by_hand = sum(effective_gradient(model, x, k) * (prototype[k] / prototype.norm()) for k in range(16))
    by_hand = by_hand / features.norm(dim=1).view(-1, 1, 1, 1).detach()
    torch.testing.assert_close(effective_gradient(model, x, score), by_hand, rtol=1e-4, atol=1e-6)


class BCos(nn.Module):
    """|cos(x, w)| * <w, x> for every row w."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3 * 8 * 8, generator=torch.Generator().manual_seed(2)))

    def forward(self, x: Tensor) -> Tensor:
        linear, gate = self.parts(x)
        return gate * linear

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        linear = x @ self.weight.T
        return linear, (linear / (x.norm(dim=1, keepdim=True) * self.weight.norm(dim=1))).abs()


def test_rules_bring_in_layers_of_ones_own(x: Tensor) -> None:
    model = Flat().eval()
    model.linear = BCos()
    with pytest.raises(UnsupportedLayer, match="linear: BCos"):
        effective_gradient(model, x, 1)
    rules = {BCos: lambda module, given: module.parts(given)}
    plain = model(x)
    with frozen_operators(model, rules=rules):
        assert torch.equal(model(x), plain)
    gate = model.linear.parts(x.flatten(1))[1][:, 1].detach()
    expected = gate.view(-1, 1, 1, 1) * model.linear.weight[1].detach().view(3, 8, 8)
    torch.testing.assert_close(effective_gradient(model, x, 1, rules=rules), expected)
    assert completeness(model, x, 1, rules=rules).abs().max() < 1e-4
    assert "forward" not in vars(model.linear)


@pytest.mark.parametrize(
    "transforms", [Transforms.shifts(4), Transforms.shifts(16, 9), Transforms.flips(), Transforms.torus(3, 3)]
)
def test_moves_are_undone_where_they_are_known(transforms: Transforms) -> None:
    maps = torch.randn(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    for transform in transforms:
        back, known = transform.invert(transform.apply(maps))
        torch.testing.assert_close(back, maps * known)
        assert known.shape == (1, 1, 24, 32)
        assert known.mean() > 0.4
    assert len(set(transforms)) == len(transforms)


def test_rotations_are_undone_on_smooth_maps() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 40), torch.linspace(-1, 1, 60), indexing="ij")
    maps = torch.exp(-3 * (x - 0.2) ** 2 - 2 * y**2)[None, None]
    for transform in Transforms.rotations(5, 3):
        back, known = transform.invert(transform.apply(maps))
        assert known.mean() > 0.8
        assert ((back - maps) * known).abs().max() < 0.01
    turned = Transform(degrees=5).apply(maps)
    assert (turned - maps).abs().max() > 0.02


def test_shifts_fill_the_patch_evenly() -> None:
    for patch, n in ((16, 16), (14, 32), (8, 40)):
        found = [(t.down, t.right) for t in Transforms.shifts(patch, n)]
        assert len(set(found)) == n
        assert min(min(f) for f in found) >= -(patch // 2)
        assert max(max(f) for f in found) < patch - patch // 2
        quarters = [sum((d < 0) == a and (r < 0) == b for d, r in found) for a in (0, 1) for b in (0, 1)]
        assert min(quarters) >= n / 4 - 2
    assert len(Transforms.shifts(4, 16)) == len(Transforms.shifts(4, 99)) == 16


def test_artifact_of_stripes_and_of_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 512, 512, generator=generator)
    assert abs(patch_artifact(noise, 16)) < 1
    stripes = torch.zeros(512, 512)
    stripes[:, ::16] = 1
    assert patch_artifact(stripes, 16) > 20
    assert patch_artifact(noise + 2 * stripes, 16) > 20
    faint = patch_artifact(low_pass(noise + 2 * stripes, 2.0), 16)
    assert faint > 15  # a blur weakens lines and background alike


def test_filter_keeps_the_mean_and_display_the_maximum() -> None:
    maps = torch.zeros(1, 21, 21)
    maps[0, 10, 10] = 1
    blurred = low_pass(maps, 1.5)
    assert blurred.sum() == pytest.approx(1, abs=1e-6)
    assert blurred[0, 10, 12] / blurred[0, 10, 10] == pytest.approx(float(torch.tensor(-4 / 4.5).exp()), rel=1e-4)
    assert low_pass(maps, 0) is maps
    assert normalise(torch.tensor([[[-2.0, 4.0], [1.0, 0.0]]])).tolist() == [[[0, 1], [0.25, 0]]]
    assert normalise(-torch.ones(1, 2, 2)).max() == 0


def test_attention_of_every_layer_is_found(x: Tensor) -> None:
    model = own()
    expected = model(x, return_attention=True).attention
    for kind in ("sdpa", "eager"):
        weights = attention_weights(other("vit", kind), x)
        assert [tuple(w.shape) for w in weights] == [(3, 2, 5, 5)] * 2
        torch.testing.assert_close(weights[0].sum(-1), torch.ones(3, 2, 5))
    for ours, theirs in zip(attention_weights(model, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_bad_input_is_refused(x: Tensor) -> None:
    model = own()
    for given, words in (
        ((model, x[..., :7], 1), "multiples of the patch"),
        ((model, x, 4), "target must lie in 0..3"),
        ((model, x, [0, 1]), "class per image"),
        ((model, x[0], 1), "floating-point"),
        ((Flat().train(), x, 1), "train mode"),
    ):
        with pytest.raises(ValueError, match=words):
            dave(*given)
    for options in ({"noise": -1.0}, {"repeats": 0}, {"lowpass": -0.1}):
        with pytest.raises(ValueError, match="must not be negative"):
            dave(model, x, 1, **options)
    with pytest.raises(ValueError, match="transforms are empty"):
        Transforms(())
    with pytest.raises(ValueError, match="contrast needs"):
        dave(model, x, cosine_to(torch.ones(4)), contrast=True)
    with pytest.raises(UnsupportedLayer, match="patch size"):
        dave(nn.Linear(2, 2), x, 1)
    model.blocks[0].mlp[1] = nn.GroupNorm(1, 64)
    with pytest.raises(UnsupportedLayer, match="GroupNorm"):
        dave(model, x, 1)
    assert "dave" in method.__all__
