"""Aligned autoencoders: the penalties, the sorting of atoms, and what is done with them."""

import numpy as np
import pytest
import torch

from assay.data.paired_concepts import draw_pairs, make_world
from assay.methods.vision_language import iso_energy_sae as iso
from assay.nn.sae import SparseAutoencoder


def codes(n: int, k: int, seed: int, on: float = 0.4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, k, generator=generator, dtype=torch.float64) + 0.1
    return z * (torch.rand(n, k, generator=generator) < on)


def known(kind: str = "mp", one_sided: int = 2) -> tuple[SparseAutoencoder, torch.Tensor, torch.Tensor]:
    """An autoencoder on orthonormal atoms with its true picture and text codes; the last atoms are one-sided."""
    sae = SparseAutoencoder(12, 12, 12, kind)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0)))[0]
    with torch.no_grad():
        sae.dictionary.copy_(basis)
    z_img, z_txt = codes(300, 12, 1).float(), codes(300, 12, 2).float()
    z_img[:, 12 - one_sided :] = 0
    z_txt[:, 12 - 2 * one_sided : 12 - one_sided] = 0
    z_img[:, 0] += 0.2
    z_txt[:, 0] += 0.2
    return sae, z_img, z_txt


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    return draw_pairs(make_world(rng, d=24, concepts=20, one_sided=3, angle=0.7), 1500, rng, active=3)


SMALL = {"k_atoms": 48, "k": 5, "epochs": 6, "batch": 250, "learning_rate": 5e-3}


@pytest.mark.parametrize("penalty", [iso.align_cosine, iso.align_energy])
def test_gradients_of_the_penalties(penalty) -> None:
    a, b = codes(6, 8, 0, 1.1).requires_grad_(), codes(6, 8, 1, 1.1).requires_grad_()
    assert torch.autograd.gradcheck(penalty, (a, b))


def test_energy_penalty_is_zero_only_for_equal_energies_and_asks_for_no_pairs() -> None:
    a, b = codes(50, 8, 0), codes(50, 8, 1)
    value = float(iso.align_energy(a, b))
    assert 0 < value < 1
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert float(iso.align_energy(a, b[order])) == pytest.approx(value, abs=1e-12)
    assert float(iso.align_cosine(a, b[order])) != pytest.approx(float(iso.align_cosine(a, b)), abs=1e-6)
    assert float(iso.align_energy(a, a[order])) == pytest.approx(0, abs=1e-12)
    scaled = b * (a.square().mean(0) / b.square().mean(0)).sqrt()
    assert float(iso.align_energy(a, scaled)) == pytest.approx(0, abs=1e-12)
    one_sided = torch.cat([a, torch.zeros_like(a)], 1), torch.cat([torch.zeros_like(b), b], 1)
    assert float(iso.align_energy(*one_sided)) == pytest.approx(1, abs=1e-3)


def test_cosine_penalty_against_a_loop() -> None:
    a, b = codes(20, 8, 0, 0.8), codes(20, 8, 1, 0.8)
    total = 0.0
    for x, y in zip(a.numpy().copy(), b.numpy().copy(), strict=True):
        for j in {int(x.argmax()), int(y.argmax())}:
            x[j] = y[j] = 0
        total += x @ y / max(np.linalg.norm(x) * np.linalg.norm(y), 1e-8)
    assert float(iso.align_cosine(a, b)) == pytest.approx(-total / 20)


@pytest.mark.parametrize("kind", ["topk", "mp"])
def test_without_weight_every_penalty_trains_the_same_autoencoder(pairs, kind) -> None:
    quick = {**SMALL, "kind": kind, "epochs": 1}
    plain = iso.fit(pairs.img, pairs.txt, iso.FitOptions(align="none", beta=0.5, **quick), 3)[0]
    for align in ("cosine", "energy"):
        other = iso.fit(pairs.img, pairs.txt, iso.FitOptions(align=align, beta=0.0, **quick), 3)[0]
        for name, value in plain.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize(("kind", "align"), [("topk", "energy"), ("topk", "cosine"), ("mp", "energy")])
def test_training_keeps_its_promises(pairs, kind, align) -> None:
    how = {**SMALL, "kind": kind}
    plain, first = iso.fit(pairs.img, pairs.txt, iso.FitOptions(align="none", **how), 0)
    sae, log = iso.fit(pairs.img, pairs.txt, iso.FitOptions(align=align, beta=5e-3, **how), 0)
    torch.testing.assert_close(sae.dictionary.norm(dim=1), torch.ones(48))
    z = sae.encode(iso.as_rows(pairs.img))[1]
    assert (z >= 0).all()
    assert (z > 0).sum(1).max() <= 5
    assert log["loss"][-1] < log["loss"][0]
    assert log["penalty"][-1] < log["penalty"][0]
    assert log["r2"][-1] > first["r2"][-1] - 0.1
    mine, theirs = (iso.score_rows(s, pairs.img, pairs.txt) for s in (sae, plain))
    assert mine.bimodal_share > theirs.bimodal_share


def test_unpaired_sides_of_any_length_train_on_energy_only(pairs) -> None:
    how = iso.FitOptions(align="energy", beta=1e-3, **{**SMALL, "epochs": 1})
    for img, txt in ((pairs.img[:400], pairs.txt), (pairs.img, pairs.txt[:700])):
        sae, log = iso.fit(img, txt, how)
        assert np.isfinite(log["loss"]).all()
        assert torch.isfinite(sae.dictionary).all()
    with pytest.raises(ValueError, match="energy"):
        iso.fit(pairs.img[:-1], pairs.txt, iso.FitOptions(align="cosine"))


def test_scores_of_known_codes() -> None:
    z_img, z_txt = codes(40, 6, 0), codes(60, 6, 1)
    z_img[:, 4] = 0
    z_txt[:, 3] = 0
    z_img[:, 5] = z_txt[:, 5] = 0
    scores, swapped = iso.modality_scores(z_img, z_txt), iso.modality_scores(z_txt.numpy(), z_img.numpy())
    np.testing.assert_allclose(scores.energy_img, (z_img**2).mean(0))
    np.testing.assert_allclose(swapped.mu[:5], 1 - scores.mu[:5], atol=1e-12)
    assert scores.mu[3] == pytest.approx(1, abs=1e-6)
    assert scores.mu[4] == pytest.approx(0, abs=1e-6)
    assert scores.dead.tolist() == [False] * 5 + [True]
    assert np.isnan(scores.mu[5])
    assert scores.bimodal.tolist() == [True] * 3 + [False] * 3
    assert scores.unimodal.tolist() == [False] * 3 + [True, True, False]


def test_scores_of_rows_are_scores_of_their_codes(pairs, monkeypatch) -> None:
    sae = SparseAutoencoder(24, 30, 4, "mp")
    whole = iso.modality_scores(*(sae.encode(iso.as_rows(x))[1] for x in (pairs.img, pairs.txt)))
    monkeypatch.setattr(iso, "CHUNK", 170)
    np.testing.assert_allclose(iso.score_rows(sae, pairs.img, pairs.txt).energy, whole.energy, rtol=1e-5)


@pytest.mark.parametrize("kind", ["topk", "mp"])
def test_bimodal_and_unimodal_parts_add_up(pairs, kind) -> None:
    sae = iso.fit(pairs.img, pairs.txt, iso.FitOptions(align="none", **{**SMALL, "kind": kind, "epochs": 1}))[0]
    scores = iso.score_rows(sae, pairs.img, pairs.txt)
    whole = iso.intervene(sae, pairs.img)
    torch.testing.assert_close(whole, sae(iso.as_rows(pairs.img)).detach())
    parts = [iso.intervene(sae, pairs.img, mask) for mask in (scores.bimodal, scores.unimodal, scores.dead)]
    torch.testing.assert_close(sum(parts), whole, atol=1e-6, rtol=0)


def test_one_sided_atoms_do_not_reach_across_when_atoms_are_orthogonal() -> None:
    sae, z_img, z_txt = known()
    sae = sae.double()
    z_img, z_txt = z_img.double(), z_txt.double()
    scores = iso.modality_scores(z_img, z_txt)
    assert scores.unimodal.sum() == 4
    keep = torch.as_tensor(scores.bimodal, dtype=torch.float64)
    whole = sae.decode(z_img) @ sae.decode(z_txt).T
    shared = sae.decode(z_img * keep) @ sae.decode(z_txt * keep).T
    # The basis comes from float32, so it is orthonormal to float32.
    torch.testing.assert_close(whole, shared, atol=1e-5, rtol=0)
    basis = torch.linalg.qr(sae.dictionary.detach())[0]
    torch.testing.assert_close(
        (z_img @ basis) @ (z_txt @ basis).T, (z_img * keep @ basis) @ (z_txt * keep @ basis).T, atol=1e-10, rtol=0
    )


def test_closing_the_gap_keeps_what_is_shared() -> None:
    sae, z_img, z_txt = known()
    img, txt = (sae.decode(z).detach() for z in (z_img, z_txt))
    scores = iso.score_rows(sae, img, txt)
    closed = iso.close_gap(img, txt, sae, scores)
    shared = z_img.clone()
    shared[:, 8:] = 0
    expected = iso.as_rows(sae.decode(shared).detach())
    torch.testing.assert_close(closed[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(closed[1].norm(dim=1), torch.ones(300))


def test_an_edit_moves_along_shared_atoms_only() -> None:
    sae, z_img, z_txt = known()
    img, txt = (sae.decode(z).detach() for z in (z_img, z_txt))
    scores = iso.score_rows(sae, img, txt)
    query = iso.edit(sae, scores, img, txt, 0.7)
    only_text = sae.dictionary.detach()[10:]  # one-sided, of texts
    torch.testing.assert_close(query @ only_text.T, torch.zeros(300, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(iso.edit(sae, scores, img, txt, 0.0), iso.as_rows(img))
    plain = iso.as_rows(iso.as_rows(img) + 0.7 * iso.as_rows(txt))
    assert (plain @ only_text.T).abs().max() > 0.1


def test_distance_to_the_fifth_neighbour() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(4, 6)), rng.normal(size=(30, 6))
    q, g = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    np.testing.assert_allclose(iso.ood_distance(query, gallery), np.sort(1 - q @ g.T, axis=1)[:, 4], atol=1e-6)
    with pytest.raises(ValueError, match="neighbour"):
        iso.ood_distance(query, gallery[:4])


def test_baselines_do_what_they_say(pairs) -> None:
    rows = [iso.as_rows(x) for x in (pairs.img, pairs.txt)]
    means = rows[0].mean(0), rows[1].mean(0)
    for to in ("zero", "common"):
        img, _ = iso.shift_means(*rows, to=to)
        place = 0 if to == "zero" else (means[0] + means[1]) / 2
        torch.testing.assert_close(img, iso.as_rows(rows[0] - means[0] + place))
    img, txt = iso.drop_coordinates(*rows, 3)
    gone = np.argsort(-(means[0] - means[1]).abs().numpy())[:3]
    assert (img[:, gone] == 0).all()
    assert (txt[:, gone] == 0).all()
    assert (img != 0).sum() == 21 * len(img)


def test_bridge_joins_the_atoms_of_one_concept() -> None:
    rng = np.random.default_rng(0)
    concept = rng.gamma(4, 0.25, size=(500, 6)) * (rng.random((500, 6)) < 0.3)
    z_img, z_txt = np.zeros((500, 8)), np.zeros((500, 8))
    z_img[:, :4] = z_txt[:, :4] = concept[:, :4]  # four shared atoms
    z_img[:, 4], z_txt[:, 5] = concept[:, 4], concept[:, 4]  # one concept split into a picture and a text atom
    z_img[:, 6], z_txt[:, 7] = rng.random(500), rng.random(500)
    dictionary = np.eye(8)
    dictionary[5] = 0.8 * dictionary[4] + 0.6 * dictionary[5]
    joined = iso.bridge(z_img, z_txt, dictionary, joint=80, near=80)
    assert joined[4, 5] == pytest.approx(0.8, abs=0.01)
    np.testing.assert_allclose(np.diag(joined)[:4], 1)
    assert joined.sum() == pytest.approx(4.8, abs=0.01)
    energy, both = np.ones(8), np.arange(8) < 4
    assert iso.rho(joined, energy, both) == pytest.approx((4 / 0.5) / (0.8 / 0.5), rel=0.02)
    assert iso.rho(np.diag(both.astype(float)), energy, both) == np.inf
    assert np.isnan(iso.rho(joined, energy, np.ones(8, bool)))


def test_probes_along_a_direction() -> None:
    rng = np.random.default_rng(0)
    img, txt = rng.normal(size=(400, 3)), rng.normal(size=(300, 3))
    txt[:, 0] += 20
    found = iso.probe_accuracy(img, txt, np.eye(3))
    assert found[0] == pytest.approx(1)
    assert found[1:].max() < 0.62
    # brute force over all thresholds
    values = np.r_[img[:, 1], txt[:, 1]]
    right = [abs((img[:, 1] <= t).mean() - (txt[:, 1] <= t).mean()) for t in values]
    assert found[1] == pytest.approx(0.5 + max(right) / 2)
    assert iso.probe_accuracy(np.ones((9, 1)), np.ones((5, 1)), np.eye(1))[0] == pytest.approx(0.5)
    fisher = iso.fisher_ratio(img, txt, np.eye(3))
    assert fisher[0] == pytest.approx(200, rel=0.2)
    assert fisher[1] < 0.1


@pytest.mark.parametrize(
    ("img", "txt", "words"),
    [
        (np.full((4, 3), np.nan), np.ones((4, 3)), "not finite"),
        (np.ones((4, 3)), np.zeros((4, 3)), "zero"),
        (np.ones((4, 3)), np.ones((4, 2)), "one width"),
        (np.ones(4), np.ones((4, 2)), "table"),
    ],
)
def test_bad_rows(img, txt, words) -> None:
    with pytest.raises(ValueError, match=words):
        iso.fit(img, txt)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="align"):
        iso.fit(np.ones((4, 3)), np.ones((4, 3)), iso.FitOptions(align="soft"))
    with pytest.raises(ValueError, match="beta"):
        iso.fit(np.ones((4, 3)), np.ones((4, 3)), iso.FitOptions(beta=-1))
