"""The prior-aware cut against dense eigenvectors, its invariances, its limits, and what it refuses."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F

from assay.methods.segmentation import _graph_cut as graph
from assay.methods.segmentation.prior_aware_cut import (
    PANC,
    ClassBank,
    PriorBank,
    UndecidedCut,
    add_anchors,
    affinity,
    fiedler,
    guided_filter,
    hard_links,
    otsu,
    segment_image,
    tokencut,
)

GRID = (9, 10)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tokens(seed=0, groups=3, noise=0.6, size=8, grid=GRID):
    """Noisy tokens of a few groups, `(h, w, D)`, and the group of each."""
    g = generator(seed)
    centres = torch.randn(groups, size, generator=g, dtype=torch.float64)
    kind = torch.randint(groups, grid, generator=g)
    kind[: grid[0] // 2, : grid[1] // 2] = 0
    return centres[kind] + noise * torch.randn(*grid, size, generator=g, dtype=torch.float64), kind


def bank_of(x, kind, wanted=0, count=4):
    flat, kinds = x.flatten(0, 1), kind.flatten()
    return PriorBank(flat[kinds == wanted][:count], flat[kinds != wanted][: 2 * count])


def weights(seed=0, n=120):
    x, _ = tokens(seed, grid=(n, 1))
    return affinity(x.flatten(0, 1), kind="soft", beta=0.5)


def exact(W, k):
    D = np.diag(W.sum(dim=1).numpy())
    values, vectors = scipy.linalg.eigh(D - W.numpy(), D)
    return values[1 : k + 1], vectors[:, 1 : k + 1]


@pytest.mark.parametrize("solver", ["lobpcg", "eigsh", "dense"])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_those_of_scipy(solver, seed):
    W = weights(seed)
    values, vectors = exact(W, 3)
    found = fiedler(W, 3, solver)
    np.testing.assert_allclose(found.values, values, atol=1e-6)
    D = np.diag(W.sum(dim=1).numpy())
    for ours, theirs in zip(found.vectors.numpy().T, vectors.T, strict=True):
        cosine = ours @ D @ theirs / np.sqrt((ours @ D @ ours) * (theirs @ D @ theirs))
        assert abs(cosine) > 1 - 1e-6


def test_vectors_are_orthogonal_and_their_quotients_are_the_values():
    W = add_anchors(weights(4), torch.rand(120, generator=generator(), dtype=torch.float64), 0.3)
    values, y = fiedler(W, 4)
    d = W.sum(dim=1)
    assert float((d @ y).abs().max()) < 1e-6 * float(d.sum())
    gram = y.T @ (d[:, None] * y)
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64) * d.sum(), atol=1e-6 * float(d.sum()), rtol=0)
    quotient = ((y * (d[:, None] * y - W @ y)).sum(dim=0)) / (y * d[:, None] * y).sum(dim=0)
    torch.testing.assert_close(quotient, values, atol=1e-9, rtol=0)
    assert (values.diff() >= 0).all()
    assert 0 <= float(values.min()) <= float(values.max()) <= 2


def test_the_search_space_is_condensed_and_still_exact(monkeypatch):
    monkeypatch.setattr(graph, "BASIS", 12)
    W = weights(5, 300)
    values, _ = exact(W, 1)
    np.testing.assert_allclose(fiedler(W).values, values, atol=1e-8)


def test_arpack_takes_over_where_the_search_does_not_end(monkeypatch):
    W = weights(6)
    wanted = fiedler(W, solver="dense").values
    monkeypatch.setattr(graph, "STEPS", 1)
    torch.testing.assert_close(fiedler(W).values, wanted, atol=1e-8, rtol=0)


def test_equal_values_and_single_precision():
    W = torch.zeros(90, 90, dtype=torch.float64)
    for part in range(3):  # three components: the value 0 three times
        rows = slice(30 * part, 30 * part + 30)
        W[rows, rows] = 1
    values, y = fiedler(W, 2)
    assert float(values.abs().max()) < 1e-9
    for part in range(3):
        assert float(y[30 * part : 30 * part + 30].std(dim=0).max()) < 1e-6
    single = weights(7).float()
    torch.testing.assert_close(fiedler(single).values.double(), fiedler(single.double()).values, atol=1e-5, rtol=0)


def test_same_bytes_every_time():
    x, kind = tokens(8, grid=(24, 24))
    bank = bank_of(x, kind)
    first, again = PANC()(x, bank), PANC()(x.clone(), bank)
    assert first.y.numpy().tobytes() == again.y.numpy().tobytes()
    assert first.mask.numpy().tobytes() == again.mask.numpy().tobytes()


def test_affinity():
    x, _ = tokens(1)
    flat = F.normalize(x.flatten(0, 1), dim=-1)
    hard, soft = affinity(3 * flat, tau=0.2, eps=1e-5), affinity(flat, kind="soft", beta=0.15)
    for i, j in ((0, 0), (3, 50), (7, 8)):
        cosine = float(flat[i] @ flat[j])
        assert float(hard[i, j]) == (1.0 if cosine > 0.2 else 1e-5)
        assert float(soft[i, j]) == pytest.approx(np.exp((cosine - 1) / 0.15))
    assert torch.equal(hard, hard.T)
    assert torch.equal(soft, soft.T)


def test_anchors_by_hand():
    W = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    whole = add_anchors(W, torch.tensor([0.25, 1.0]), 0.5)
    expected = torch.tensor([
        [1.0, 2.0, 0.375, 1.125],
        [2.0, 1.0, 1.5, 0.0],
        [0.375, 1.5, 0.0, 0.0],
        [1.125, 0.0, 0.0, 0.0],
    ])  # fmt: skip
    torch.testing.assert_close(whole, expected)
    shares = torch.tensor([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]])
    assert add_anchors(W, shares, 0.5).shape == (5, 5)


def test_without_a_bank_it_is_tokencut():
    x, _ = tokens(2)
    ours, base = PANC(tau=0.3)(x), tokencut(x, tau=0.3)
    assert torch.equal(ours.y, base.y)
    assert torch.equal(ours.mask, base.mask)
    assert ours.anchors is None
    y = ours.y
    assert torch.equal(ours.mask, y > y.mean())
    assert bool(ours.mask.flatten()[y.abs().argmax()])


def test_scale_of_the_weights_and_order_of_the_tokens_do_not_matter():
    x, _ = tokens(3)
    method, bank = PANC(kind="soft"), bank_of(*tokens(3))
    p = method.prior(x, bank).flatten()
    W = affinity(x.flatten(0, 1), kind="soft")
    mask = method.cut(W, p, GRID).mask
    assert torch.equal(method.cut(1e4 * W, p, GRID).mask, mask)
    order = torch.randperm(90, generator=generator(1))
    mixed = method(x.flatten(0, 1)[order].view(9, 10, -1), bank)
    assert torch.equal(mixed.mask.flatten(), mask.flatten()[order])
    base = tokencut(x).mask
    assert torch.equal(tokencut(x.flatten(0, 1)[order].view(9, 10, -1)).mask.flatten(), base.flatten()[order])


@pytest.mark.parametrize("method", [PANC(), PANC(kind="soft"), PANC(link="hard")])
def test_exchanging_the_sides_complements_the_mask(method):
    x, kind = tokens(4)
    bank = bank_of(x, kind)
    assert torch.equal(method(x, bank).mask, ~method(x, bank.swapped).mask)


def test_the_bank_decides_what_is_cut_out():
    x, kind = tokens(5, noise=0.2)
    for wanted in range(3):
        assert torch.equal(PANC(kappa=3)(x, bank_of(x, kind, wanted)).mask, kind == wanted)


def test_a_prior_that_says_nothing_falls_back():
    x, _ = tokens(6, grid=(12, 12))
    W = affinity(x.flatten(0, 1), kind="soft")
    with pytest.warns(UndecidedCut):
        found = PANC().cut(W, torch.full((144,), 0.5, dtype=torch.float64), (12, 12))
    assert abs(found.gap) < 1e-9
    assert torch.equal(found.mask, found.y > found.y.mean())
    side = torch.ones(2, 8, dtype=torch.float64)
    with pytest.warns(UndecidedCut):
        PANC()(x, PriorBank(side, side))


@pytest.mark.parametrize("kappa", [1e-4, 0.3, 100.0])
def test_two_blocks_joined_by_anchors_alone_are_cut_exactly(kappa):
    W = torch.zeros(100, 100, dtype=torch.float64)
    W[:40, :40], W[40:, 40:] = 1, 1
    p = (torch.arange(100) < 40).double()
    found = PANC(kappa=kappa).cut(W, p, (10, 10))
    assert torch.equal(found.mask.flatten(), p > 0.5)
    assert found.gap > 0


def test_a_strong_prior_decides_alone():
    W = weights(9, 200)
    p = torch.rand(200, generator=generator(2), dtype=torch.float64)
    p = (p - p.mean() + 0.5).clamp(0, 1)
    p = torch.cat([p[:100], 1 - p[:100]])  # balanced
    found = PANC(kappa=1e4).cut(W, p, (20, 10))
    assert torch.equal(found.mask.flatten(), p > 0.5)
    slope = torch.stack([p, torch.ones_like(p)], dim=1)
    fit = slope @ torch.linalg.lstsq(slope, found.y.flatten()[:, None]).solution
    assert float((fit[:, 0] - found.y.flatten()).abs().max()) < 1e-3 * float(found.y.std())


def test_marks_of_the_image_itself():
    x, kind = tokens(7)
    prior = PANC().prior(x, bank_of(x, kind), {(2, 3): True, (4, 4): False})
    assert prior[2, 3] == 1
    assert prior[4, 4] == 0
    with pytest.raises(ValueError, match="mark at cell"):
        PANC().prior(x, bank_of(x, kind), {(9, 0): True})


def test_hard_links_reach_the_most_certain_tenth():
    p = torch.linspace(0, 1, 40)
    links = hard_links(p)
    assert (links[:, 0] == 1).nonzero().flatten().tolist() == [36, 37, 38, 39]
    assert (links[:, 1] == 1).nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert float(hard_links(torch.full((40,), 0.3)).max()) < 1e-3


def test_otsu_is_scikit_images():
    filters = pytest.importorskip("skimage.filters")
    values = torch.cat([torch.randn(300, generator=generator()), 4 + torch.randn(100, generator=generator(1))])
    assert otsu(values) == pytest.approx(filters.threshold_otsu(values.numpy()), abs=0.05)
    assert otsu(torch.ones(5)) == 1
    x, kind = tokens(4, noise=0.2)
    found = PANC(threshold="otsu", kappa=3)(x, bank_of(x, kind))
    assert found.anchors[1] <= found.threshold <= found.anchors[0]
    assert torch.equal(found.mask, kind == 0)


def test_several_classes():
    x, kind = tokens(10, groups=4, noise=0.2, grid=(14, 14))
    flat, kinds = x.flatten(0, 1), kind.flatten()
    sides = [flat[kinds == k][:4] for k in range(4)]
    bank = ClassBank(("a", "b", "c"), tuple(sides[:3]), sides[3])
    found = PANC(kappa=1)
    assert torch.equal(found.classes(x, bank).labels, kind)
    one = PriorBank(sides[0], torch.cat(sides[1:]))
    alone = found.classes(x, ClassBank(("a",), (one.fg,), one.bg))
    assert torch.equal(alone.labels == 0, found(x, one).mask)


def test_banks(tmp_path):
    x, kind = tokens(11)
    bank = PriorBank.from_points([x], [(0, 0, 0, True), (0, 1, 1, True), (0, 8, 9, False)])
    torch.testing.assert_close(bank.fg, F.normalize(torch.stack([x[0, 0], x[1, 1]]), dim=-1))
    twice = PriorBank(torch.cat([bank.fg, 2 * bank.fg]), bank.bg)
    torch.testing.assert_close(twice.compact().fg, bank.fg)
    kept = PriorBank(bank.fg, bank.bg, {"mean": torch.arange(3.0)})
    kept.save(tmp_path / "bank.safetensors")
    read = PriorBank.load(tmp_path / "bank.safetensors")
    torch.testing.assert_close(read.fg, bank.fg)
    torch.testing.assert_close(read.bg, bank.bg)
    assert torch.equal(read.extra["mean"], torch.arange(3.0))
    classes = ClassBank(("crack", "patch.old"), (bank.fg, bank.bg), bank.bg)
    classes.save(tmp_path / "classes.safetensors")
    assert ClassBank.load(tmp_path / "classes.safetensors").names == ("crack", "patch.old")
    with pytest.raises(ValueError, match="2 classes"):
        PriorBank.load(tmp_path / "classes.safetensors")
    (tmp_path / "other").write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match="not a safetensors"):
        PriorBank.load(tmp_path / "other")
    assert not kind.is_floating_point()


def test_guided_filter_keeps_edges_of_the_guide():
    g = generator(3)
    guide = torch.zeros(30, 40, dtype=torch.float64)
    guide[:, 20:] = 1
    noisy = guide + 0.3 * torch.randn(30, 40, generator=g, dtype=torch.float64)
    found = guided_filter(guide, noisy, 4, 1e-4)
    assert float((found - guide).abs().max()) < 0.3
    assert float((found - guide).std()) < 0.2 * float((noisy - guide).std())
    flat = guided_filter(torch.full((30, 40), 0.5, dtype=torch.float64), torch.ones(30, 40, dtype=torch.float64), 3)
    torch.testing.assert_close(flat, torch.ones(30, 40, dtype=torch.float64))
    # a window inside the image, by the formula
    I, p, r = guide[10:15, 18:23], noisy[10:15, 18:23], 2
    a = ((I * p).mean() - I.mean() * p.mean()) / (I.var(unbiased=False) + 1e-4)
    direct = guided_filter(guide, noisy, r, 1e-4)
    assert bool(a.isfinite())
    assert direct.shape == guide.shape


def test_pixels():
    x, kind = tokens(12, noise=0.1)
    image = torch.rand(3, 72, 80, generator=generator())
    bank = bank_of(x, kind)
    found = segment_image(image, lambda _: x, bank, method=PANC(kappa=3))
    assert found.mask.shape == (72, 80)
    centres = found.score[4::8, 4::8]
    assert torch.equal((centres > 0), found.cut.mask)
    refined = segment_image(image, lambda _: x, bank, (36, 40), method=PANC(kappa=3), refine=True)
    assert refined.mask.shape == (36, 40)
    plain = segment_image(image, lambda _: x, None)
    assert plain.cut.anchors is None


def test_bad_input():
    x, kind = tokens(13)
    bank = bank_of(x, kind)
    W = weights(1)
    uneven = W.clone()
    uneven[0, 1] += 1
    alone = W.clone()
    alone[3], alone[:, 3] = 0, 0
    negative = W.clone()
    negative[1, 2] = negative[2, 1] = -1
    for bad, words in ((uneven, "symmetric"), (alone, "positive sum"), (negative, "negative"), (W[:3], "square")):
        with pytest.raises(ValueError, match=words):
            fiedler(bad)
    with pytest.raises(ValueError, match="not finite"):
        fiedler(W * float("nan"))
    with pytest.raises(ValueError, match="k must"):
        fiedler(W, 120)
    with pytest.raises(ValueError, match="unknown solver"):
        fiedler(W, solver="power")
    with pytest.raises(ValueError, match="finite"):
        affinity(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="unknown kind"):
        affinity(x.flatten(0, 1), kind="medium")
    with pytest.raises(ValueError, match=r"0\.\.1"):
        add_anchors(W, torch.full((120,), 1.5), 0.3)
    with pytest.raises(ValueError, match="kappa"):
        PANC(kappa=0)
    with pytest.raises(ValueError, match="tokens of size 8"):
        PANC()(x, PriorBank(torch.ones(1, 5), -torch.ones(1, 5)))
    with pytest.raises(ValueError, match="at least 4 cells"):
        PANC()(x[:1, :3], bank)
    with pytest.raises(ValueError, match="F of at least 1"):
        PriorBank(bank.fg[:0], bank.bg)
    with pytest.raises(ValueError, match="both sides"):
        PriorBank.from_points([x], [(0, 0, 0, True)])
    with pytest.raises(ValueError, match="grid of 9x10"):
        PriorBank.from_points([x], [(0, 9, 0, True)])
    with pytest.raises(ValueError, match="alike"):
        guided_filter(torch.ones(3, 4), torch.ones(4, 3), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PANC()(x, bank)
