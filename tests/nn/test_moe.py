import pytest
import torch

from assay.nn.moe import ExpertPool, Routing, TopKRouter, balance_loss, gate_entropy, mix


def test_gates_are_the_softmax_over_the_best_scores() -> None:
    torch.manual_seed(0)
    router = TopKRouter(6, 5, top=2).eval()
    v = torch.randn(7, 6)
    gates, probabilities = router(v)
    assert ((gates > 0).sum(1) == 2).all()
    torch.testing.assert_close(gates.sum(1), torch.ones(7))
    scores = v @ router.score.weight.T
    torch.testing.assert_close(probabilities, scores.softmax(1))
    for row, score in zip(gates, scores, strict=True):
        best = score.argsort(descending=True)[:2]
        torch.testing.assert_close(row[best], score[best].softmax(0))


def test_all_experts_make_a_dense_softmax_and_noise_is_for_training_only() -> None:
    torch.manual_seed(0)
    router = TopKRouter(4, 3)
    v = torch.randn(50, 4)
    router.eval()
    torch.testing.assert_close(router(v).gates, router(v).probabilities)
    router.train()
    assert not torch.equal(router(v).gates, router(v).gates)
    torch.testing.assert_close(router(v).probabilities, router(v).probabilities)
    quiet = TopKRouter(4, 3, top=1, noise=0.0)
    torch.testing.assert_close(quiet(v).gates, quiet(v).gates)


def test_noise_tries_experts_that_have_fallen_behind() -> None:
    torch.manual_seed(0)
    router = TopKRouter(1, 3, top=1, noise=1.0)
    with torch.no_grad():
        router.score.weight.copy_(torch.tensor([[1.0], [0.5], [0.0]]))
    chosen = (router(torch.ones(500, 1)).gates > 0).float().mean(0)
    assert chosen.min() > 0.05


def test_balance_is_one_when_even_and_e_when_one_expert_takes_all() -> None:
    even = Routing(torch.eye(4), torch.full((4, 4), 0.25))
    assert balance_loss(even).item() == pytest.approx(1)
    one = torch.eye(4)[[0, 0, 0]]
    assert balance_loss(Routing(one, one)).item() == pytest.approx(4)


def test_balance_lowers_the_probability_of_the_most_used_expert() -> None:
    scores = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    p = scores.softmax(1)
    gates = torch.eye(2)[[0, 0, 1]]
    balance_loss(Routing(gates, p)).backward()
    assert (scores.grad[:, 0] > 0).all()
    assert (scores.grad[:, 1] < 0).all()


def test_entropy_of_gates() -> None:
    assert gate_entropy(torch.eye(4)).item() == pytest.approx(1)
    assert gate_entropy(torch.eye(4)[[1, 1]]).item() == pytest.approx(0)
    with pytest.raises(ValueError, match="two experts"):
        gate_entropy(torch.ones(3, 1))


def test_pool_equals_its_experts_one_by_one() -> None:
    torch.manual_seed(0)
    pool = ExpertPool(5, 7, 3, experts=4)
    v, gates = torch.randn(6, 5), torch.rand(6, 4)
    out = pool(v)
    for k in range(4):
        rows = slice(7 * k, 7 * (k + 1))
        hidden = torch.relu(v @ pool.first.weight[rows].T + pool.first.bias[rows])
        torch.testing.assert_close(out[:, k], hidden @ pool.second[k] + pool.bias[k])
    torch.testing.assert_close(mix(out, gates), (out * gates[..., None]).sum(1))
    assert sum(p.numel() for p in pool.parameters()) == 4 * (5 * 7 + 7 + 7 * 3 + 3)


def test_an_expert_that_was_not_chosen_gets_no_gradient() -> None:
    torch.manual_seed(0)
    pool = ExpertPool(5, 7, 3, experts=3)
    mix(pool(torch.randn(6, 5)), torch.tensor([[1.0, 0.0, 0.0]]).repeat(6, 1)).sum().backward()
    assert pool.second.grad[0].abs().sum() > 0
    assert pool.second.grad[1:].abs().sum() == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TopKRouter(3, 0), "at least one expert"),
        (lambda: TopKRouter(3, 2, top=3), "1..2"),
        (lambda: TopKRouter(3, 2, top=0), "1..2"),
        (lambda: TopKRouter(3, 2, noise=-1.0), "noise"),
        (lambda: ExpertPool(3, 2, 2, 0), "at least one expert"),
    ],
)
def test_bad_sizes(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
