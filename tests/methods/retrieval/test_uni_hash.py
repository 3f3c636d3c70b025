import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from torch import nn

from assay.methods.retrieval import uni_hash as uh


def test_hadamard_centres_lie_half_of_the_bits_apart() -> None:
    for classes, q in ((5, 8), (16, 16), (28, 32), (32, 32)):
        h = uh.HashCenters(classes, q).binary().detach()
        assert set(h.unique().tolist()) == {-1.0, 1.0}
        distance = (q - h @ h.T) / 2
        assert (distance[~torch.eye(classes, dtype=bool)] == q / 2).all()
        if classes > 8:  # a plain Hadamard matrix has a column of ones: a bit that tells nothing
            assert (h.mean(0).abs() < 1).all()


def test_random_centres_where_there_is_no_hadamard_matrix() -> None:
    for classes, q, init in ((40, 32, "hadamard"), (4, 24, "hadamard"), (4, 32, "random")):
        h = uh.HashCenters(classes, q, init, torch.Generator().manual_seed(0)).binary()
        again = uh.HashCenters(classes, q, init, torch.Generator().manual_seed(0)).binary()
        torch.testing.assert_close(h, again)
        assert h.shape == (classes, q)


def test_probability_at_a_centre_in_closed_form_and_the_length_of_a_code_does_not_matter() -> None:
    centres = uh.HashCenters(10, 16)
    h = centres.binary()
    p = centres.log_probabilities(h).exp()
    expected = math.exp(4) / (math.exp(4) + 9)  # sqrt(16) = 4, all other centres are orthogonal
    torch.testing.assert_close(p.diagonal(), torch.full((10,), expected))
    u, y = torch.randn(6, 16), F.one_hot(torch.arange(6), 10).float()
    torch.testing.assert_close(centres.loss(u, y), centres.loss(u * torch.rand(6, 1) * 9, y))


def test_centre_loss_is_the_written_sum_for_one_and_many_labels() -> None:
    torch.manual_seed(0)
    centres = uh.HashCenters(4, 8)
    u = torch.randn(5, 8)
    many = torch.randint(2, (5, 4)).float()
    p = torch.softmax(8**0.5 * F.cosine_similarity(u[:, None], centres.binary()[None], dim=2), 1)
    torch.testing.assert_close(
        centres.loss(u, many), -(many * p.log() + (1 - many) * (1 - p).log()).sum(1).mean()
    )  # fmt: skip
    label = torch.tensor([0, 3, 1, 1, 2])
    rest = torch.stack([(1 - p[i, [c for c in range(4) if c != label[i]]]).log().sum() for i in range(5)])
    single = -(p[torch.arange(5), label].log() + rest).mean()
    torch.testing.assert_close(centres.loss(u, F.one_hot(label, 4).float()), single)


def test_centre_loss_stays_finite_where_a_class_is_certain() -> None:
    centres = uh.HashCenters(2, 4096)
    u = centres.binary().detach().clone().requires_grad_()
    loss = centres.loss(u, torch.eye(2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(u.grad).all()


def test_centres_learn_through_their_signs() -> None:
    u = uh.HashCenters(3, 8, "hadamard", torch.Generator().manual_seed(0)).binary().detach()
    centres = uh.HashCenters(3, 8, "random", torch.Generator().manual_seed(2))
    start = centres.loss(u, torch.eye(3)).item()
    assert ((centres.binary() * u).sum(1) < 4).any()
    optimiser = torch.optim.Adam(centres.parameters(), lr=0.1)
    for _ in range(100):
        optimiser.zero_grad()
        centres.loss(u, torch.eye(3)).backward()
        optimiser.step()
    assert centres.loss(u, torch.eye(3)).item() < 0.8 * start
    assert ((centres.binary() * u).sum(1) >= 4).all()  # at least 6 of 8 bits


def test_pair_loss_is_weighted_cross_entropy_of_inner_products() -> None:
    torch.manual_seed(0)
    u, label = torch.tanh(torch.randn(7, 16)).double(), torch.tensor([0, 1, 0, 2, 2, 2, 1])
    s = (label[:, None] == label).double()
    theta, off = 0.5 * (16 / 16) * u @ u.T, ~torch.eye(7, dtype=bool)
    similar, n = s[off].sum(), off.sum()
    weight = torch.where(s[off] > 0, n / (2 * similar), n / (2 * (n - similar)))
    expected = F.binary_cross_entropy_with_logits(theta[off], s[off], weight=weight)
    torch.testing.assert_close(uh.pairwise_loss(u, s), expected)
    renamed = torch.tensor([5, 3, 9])[label]
    torch.testing.assert_close(uh.pairwise_loss(u, (renamed[:, None] == renamed).double()), expected)
    order = torch.randperm(7)
    torch.testing.assert_close(uh.pairwise_loss(u[order], s[order][:, order]), expected)
    plain = F.binary_cross_entropy_with_logits(2 * theta[off], torch.ones(42).double())
    torch.testing.assert_close(uh.pairwise_loss(u, torch.ones(7, 7), alpha=2.0), plain)  # one kind: equal weights
    assert uh.pairwise_loss(u[:1], s[:1, :1]) == 0
    x = torch.tanh(torch.randn(4, 3)).double().requires_grad_()
    t = torch.tensor([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]).double()
    assert torch.autograd.gradcheck(lambda a: uh.pairwise_loss(a, t), (x,))


def test_aligned_branches_lose_nothing_and_each_is_a_fixed_teacher_of_the_other() -> None:
    torch.manual_seed(0)
    u, w = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    assert uh.mutual_loss(u, 3 * u).item() == pytest.approx(0, abs=1e-6)
    assert uh.mutual_loss(u, -u).item() == pytest.approx(4)
    uh.mutual_loss(u, w).backward()
    expected = torch.autograd.grad((1 - F.cosine_similarity(u, w.detach())).mean(), u)[0]
    torch.testing.assert_close(u.grad, expected)
    for direction, learner, teacher in (("to-centre", 0, 1), ("to-pair", 1, 0)):
        grads = torch.autograd.grad(uh.mutual_loss(u, w, direction), (u, w), allow_unused=True)
        assert grads[learner].abs().sum() > 0
        assert grads[teacher] is None or grads[teacher].abs().sum() == 0


def test_quantisation_is_zero_at_the_corners() -> None:
    assert uh.quantization_loss(torch.tensor([[1.0, -1.0]])) == 0
    assert uh.quantization_loss(torch.tensor([[0.0, 0.5]])).item() == pytest.approx((1 + 0.25) / 2)


def test_experts_by_hand_and_their_number_of_parameters() -> None:
    torch.manual_seed(0)
    d, q, hidden = 6, 8, 5
    module = uh.SplitMergeExperts(d, q, experts=3, top=2, hidden=hidden).eval()
    v = torch.randn(9, d)
    centre, pair, exchange = module(v)
    said = module.pool(v)
    for code, head, routing in (
        (centre, module.private_centre, exchange.centre), (pair, module.private_pair, exchange.pair),
    ):  # fmt: skip
        assert ((routing.gates > 0).sum(1) == 2).all()
        torch.testing.assert_close(routing.gates.sum(1), torch.ones(9))
        torch.testing.assert_close(code, torch.tanh(head(v) + (said * routing.gates[..., None]).sum(1)))
    expert = d * hidden + hidden + hidden * q + q
    assert sum(p.numel() for p in module.parameters()) == 3 * expert + 2 * (d * q + q) + 2 * d * 3


def test_limits_of_the_pool() -> None:
    torch.manual_seed(0)
    v = torch.randn(4, 6)
    one = uh.SplitMergeExperts(6, 8, experts=1)
    for head in (one.private_centre, one.private_pair):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    centre, pair, _ = one(v)
    assert torch.equal(centre, pair)
    tied = uh.SplitMergeExperts(6, 8, experts=4, tied=True, private=False)
    centre, pair, exchange = tied(v)
    assert torch.equal(centre, pair)
    assert exchange.centre is exchange.pair
    none = uh.SplitMergeExperts(6, 8, experts=0)
    centre, pair, exchange = none(v)
    torch.testing.assert_close(pair, torch.tanh(none.private_pair(v)))
    assert exchange.balance == 0
    with pytest.raises(ValueError, match="nothing makes a code"):
        uh.SplitMergeExperts(6, 8, experts=0, private=False)


def make(q: int = 16, classes: int = 3, seed: int = 0, **options) -> uh.UniHash:
    torch.manual_seed(seed)
    return uh.UniHash(nn.Sequential(nn.Linear(5, 12), nn.ReLU()), 12, q, classes, **options)


def blobs(n: int = 90, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return 3 * F.one_hot(y, 5).float() + 0.3 * torch.randn(n, 5, generator=generator), y


def test_without_pairs_and_experts_the_centre_branch_trains_bit_for_bit_as_alone() -> None:
    x, y = blobs()
    model = make(experts=0)
    backbone, head = nn.Sequential(nn.Linear(5, 12), nn.ReLU()), nn.Linear(12, 16)
    backbone.load_state_dict(model.backbone.state_dict())
    head.load_state_dict(model.heads.private_centre.state_dict())
    centres = uh.HashCenters(3, 16)
    centres.load_state_dict(model.centers.state_dict())
    how = uh.Training(epochs=5, weights=uh.Weights(pair=0, align=0), weight_decay=0.01, seed=3)
    uh.fit(model, uh.tensor_batches(x, y, 32), how)
    groups = [
        {"params": backbone.parameters(), "lr": 1e-4, "weight_decay": 0.01},
        {"params": head.parameters(), "lr": 1e-3, "weight_decay": 0.01},
        {"params": centres.parameters(), "lr": 1e-3, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 5)
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        for rows in torch.randperm(90, generator=generator).split(32):
            optimiser.zero_grad()
            u = torch.tanh(head(backbone(x[rows])))
            loss = centres.loss(u, F.one_hot(y[rows], 3).float()) + 0.1 * uh.quantization_loss(u)
            loss.backward()
            optimiser.step()
        schedule.step()
    assert torch.equal(model(x).centre, torch.tanh(head(backbone(x))))
    assert torch.equal(model.centers.real, centres.real)


def test_a_trained_network_gives_a_class_its_own_code() -> None:
    x, y = blobs()
    model = make()
    losses = uh.fit(model, uh.tensor_batches(x, y, 32), uh.Training(epochs=40, learning_rate=1e-2, backbone_rate=None))
    assert losses[-1] < 0.3 * losses[0]
    fresh, label = blobs(30, seed=1)
    for which in ("both", "centre", "pair"):
        distance, index = uh.hamming_search(model.codes(fresh, which), model.codes(x, which), 10)
        assert (y.numpy()[index] == label.numpy()[:, None]).mean() > 0.95
        assert distance.mean() < 2


def test_training_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    x, y = blobs()
    found = []
    for noise in (1, 2):
        model = make(dropout=0.2)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        uh.fit(model, uh.tensor_batches(x, y, 32), uh.Training(epochs=2))
        assert torch.equal(torch.get_rng_state(), before)
        found.append(model.signs(x))
    assert torch.equal(*found)


def test_codes_do_not_depend_on_the_batch_and_pack_the_signs() -> None:
    x, _ = blobs(40)
    model = make().train()
    together = model.signs(x)
    assert model.training
    alone = torch.cat([model.signs(row[None]) for row in x])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(model.signs(x), model.signs(x, "centre") + model.signs(x, "pair"))
    codes = model.codes(x)
    assert codes.shape == (40, 2)
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(np.unpackbits(codes, axis=1), together.numpy() > 0)


def test_many_labels_are_one_label_each_when_rows_are_one_hot() -> None:
    x, y = blobs(12)
    model = make().eval()
    out = model(x)
    torch.testing.assert_close(model.loss(out, y), model.loss(out, F.one_hot(y, 3)))
    shared = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0]] * 4)
    assert torch.isfinite(model.loss(out, shared))


def test_the_loss_is_the_weighted_sum() -> None:
    x, y = blobs(12)
    model = make().eval()
    out, rows = model(x), F.one_hot(y, 3).float()
    w = uh.Weights(2.0, 3.0, 0.7, 0.2, 0.05)
    expected = (
        2 * model.centers.loss(out.centre, rows) + 3 * uh.pairwise_loss(out.pair, rows @ rows.T)
        + 0.7 * uh.mutual_loss(out.centre, out.pair)
        + 0.2 * (uh.quantization_loss(out.centre) + uh.quantization_loss(out.pair)) + 0.05 * out.exchange.balance
    )  # fmt: skip
    torch.testing.assert_close(model.loss(out, y, w), expected)


def test_a_frozen_backbone_stays() -> None:
    x, y = blobs()
    model = make()
    before = [p.clone() for p in model.backbone.parameters()]
    uh.fit(model, uh.tensor_batches(x, y, 32), uh.Training(epochs=2, backbone_rate=0.0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.backbone.parameters(), strict=True))


def test_mean_average_precision_is_that_of_scikit_learn_without_ties() -> None:
    rng = np.random.default_rng(0)
    distance = np.array([rng.permutation(40) for _ in range(6)])
    relevant = rng.random((6, 40)) < 0.3
    expected = np.mean([average_precision_score(r, -d) for r, d in zip(relevant, distance, strict=True)])
    assert uh.mean_average_precision(distance, relevant) == pytest.approx(expected)


def test_bad_arguments() -> None:
    x, y = blobs(8)
    model = make()
    for call, words in (
        (lambda: make(q=12), "multiple of 8"),
        (lambda: make(q=0), "multiple of 8"),
        (lambda: make(classes=1), "2 classes"),
        (lambda: uh.HashCenters(3, 8, "best"), "hadamard"),
        (lambda: model.centers.loss(torch.ones(2, 16), torch.ones(2, 4)), "labels"),
        (lambda: uh.pairwise_loss(torch.ones(2, 8), torch.ones(3, 3)), "similarities"),
        (lambda: uh.mutual_loss(torch.ones(2, 8), torch.ones(3, 8)), "one shape"),
        (lambda: uh.mutual_loss(torch.ones(2, 8), torch.ones(2, 8), "away"), "direction"),
        (lambda: model.codes(x, "all"), "which"),
        (lambda: model.loss(model(x), y, uh.Weights(0, 0, 0)), "weight 0"),
        (lambda: uh.tensor_batches(x, y[:3]), "two or more"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(FloatingPointError, match="epoch 1"):
        uh.fit(model, uh.tensor_batches(x * torch.nan, y), uh.Training(epochs=1))
