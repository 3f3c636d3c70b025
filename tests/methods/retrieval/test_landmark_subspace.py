import copy
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import check_estimator

from assay.data.subspaces import union_of_subspaces
from assay.methods.retrieval import landmark_subspace as ls


def dense(codes):
    return codes.toarray() if sparse.issparse(codes) else codes


@pytest.fixture(scope="module")
def samples():
    return union_of_subspaces(200, np.random.default_rng(0), groups=4, dim=3, ambient=30, noise=0.05)


def test_labels_are_those_of_sklearn_on_the_full_graph(samples):
    z = ls.unit_rows(samples.rows)
    u = ls.choose_landmarks(z, 60, seed=1).points
    codes = ls.landmark_codes(z, u, 0.1, 5)
    factor = ls.factor_spectral(codes, 4, seed=0)
    c = dense(codes)
    w = (c / c.sum(axis=0)) @ c.T
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-12)
    theirs = SpectralClustering(4, affinity="precomputed", random_state=0, n_init=20).fit_predict(w)
    assert adjusted_rand_score(theirs, factor.labels) == 1
    values = factor.singular_values
    assert values[0] == pytest.approx(1)
    assert values.min() >= 0
    assert values.max() <= 1 + 1e-12
    np.testing.assert_allclose(np.sort(np.linalg.eigvalsh(w))[::-1][:10], values[:10] ** 2, atol=1e-10)


def test_all_samples_as_landmarks_give_least_squares_regression(samples):
    z = samples.rows
    wanted = z @ z.T @ np.linalg.inv(z @ z.T + 0.3 * np.eye(len(z)))
    np.testing.assert_allclose(ls.landmark_codes(z, z, 0.3, nonneg=False), wanted, atol=1e-8)


def test_independent_subspaces_without_noise_are_separated_exactly():
    clean = union_of_subspaces(120, np.random.default_rng(3), groups=4, dim=3, ambient=30)
    rows = np.concatenate([np.flatnonzero(clean.labels == g)[:3] for g in range(4)])
    c = ls.landmark_codes(clean.rows, clean.rows[rows], 1e-12, nonneg=False)
    other = clean.labels[:, None] != clean.labels[rows]
    assert np.abs(c[other]).max() < 1e-8
    np.testing.assert_allclose(c @ clean.rows[rows], clean.rows, atol=1e-7)
    labels = ls.factor_spectral(np.where(np.abs(c) < 1e-8, 0, c), 4).labels
    assert adjusted_rand_score(clean.labels, labels) == 1


@pytest.mark.parametrize("how", ["points", "random", "leverage"])
def test_a_landmark_never_expresses_itself(samples, how):
    z = ls.unit_rows(samples.rows)
    chosen = ls.choose_landmarks(z, 40, how, seed=2)
    own = chosen.self_index(len(z))
    c = ls.landmark_codes(z, chosen.points, 0.1, nonneg=False, self_index=own)
    for j in (0, 17, 39):
        i = chosen.source[j]
        np.testing.assert_array_equal(z[i], chosen.points[j])
        assert c[i, j] == 0
        rest = np.delete(chosen.points, j, axis=0)
        wanted = z[i] @ rest.T @ np.linalg.inv(rest @ rest.T + 0.1 * np.eye(39))
        np.testing.assert_allclose(np.delete(c[i], j), wanted, atol=1e-10)
    sparse_codes = ls.landmark_codes(z, chosen.points, 0.1, 3, self_index=own)
    assert np.abs(sparse_codes[chosen.source, np.arange(40)]).max() == 0
    assert (np.diff(sparse_codes.indptr) <= 3).all()
    near = ls.gaussian_codes(z, chosen.points, 1.0, 3, own)
    assert np.abs(near[chosen.source, np.arange(40)]).max() == 0


def test_order_of_samples_and_rotation_of_latents_play_no_part(samples):
    rng = np.random.default_rng(5)
    z, u = samples.rows, samples.rows[:50] + 0.01
    c = dense(ls.landmark_codes(z, u, 0.2, 4))
    order = rng.permutation(len(z))
    np.testing.assert_allclose(dense(ls.landmark_codes(z[order], u, 0.2, 4)), c[order], atol=1e-12)
    turn = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    np.testing.assert_allclose(dense(ls.landmark_codes(z @ turn, u @ turn, 0.2, 4)), c, atol=1e-10)
    np.testing.assert_allclose(c.sum(axis=1), 1)
    np.testing.assert_allclose(dense(ls.gaussian_codes(z @ turn, u @ turn, 0.5)), dense(ls.gaussian_codes(z, u, 0.5)))


def test_streamed_and_whole_agree_and_new_samples_are_placed(samples):
    z = ls.unit_rows(samples.rows)
    u = ls.choose_landmarks(z, 50).points
    codes = ls.landmark_codes(z, u, 0.1, 3)
    whole = ls.factor_spectral(codes, 4)
    streamed = ls.stream_spectral(lambda: (codes[i : i + 37] for i in range(0, 200, 37)), 4)
    # Where the graph falls into parts the singular vectors may turn among themselves: compare what does not turn.
    np.testing.assert_allclose(
        streamed.embedding @ streamed.embedding.T, whole.embedding @ whole.embedding.T, atol=1e-6
    )
    np.testing.assert_array_equal(whole.assign(codes)[0], whole.labels)
    assert adjusted_rand_score(streamed.labels, whole.labels) == 1


def test_rows_that_no_landmark_expresses_go_to_the_nearest():
    u = np.eye(3)[:2]
    z = np.array([[1.0, 0, 0], [-1, -2, 0], [0, 0, 1]])
    c = dense(ls.landmark_codes(z, u, 0.1, 1))
    np.testing.assert_array_equal(c[1], [1, 0])  # distance 8 against 10
    assert ls.unexpressed(z, u, 0.1) == 2
    np.testing.assert_allclose(c.sum(axis=1), 1)


def test_torch_codes_equal_numpy_codes_and_their_gradient_is_right(samples):
    z, u = torch.from_numpy(samples.rows[:8]), torch.from_numpy(samples.rows[50:62])
    own = torch.tensor([3, -1, -1, 0, -1, 11, -1, -1])
    for nonneg in (True, False):
        for s in (3, None):
            mine = ls.ridge_codes(z, u, 0.2, s, nonneg, own).numpy()
            theirs = dense(ls.landmark_codes(z.numpy(), u.numpy(), 0.2, s, nonneg, own.numpy()))
            np.testing.assert_allclose(mine, theirs, atol=1e-10)
    free = (z[:4].clone().requires_grad_(), u.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda a, b: ls.ridge_codes(a, b, 0.2, 4, True, own[:4]), free)
    assert torch.autograd.gradcheck(lambda a, b: ls.ridge_codes(a, b, 0.2, None, False), free)


def test_bad_input_is_refused(samples):
    z = samples.rows
    for words, call in (
        ("m must", lambda: ls.choose_landmarks(z, 200)),
        ("unknown choice", lambda: ls.choose_landmarks(z, 20, "best")),
        ("lam must", lambda: ls.landmark_codes(z, z[:5], 0)),
        ("s must", lambda: ls.landmark_codes(z, z[:5], 1.0, 6)),
        ("of one width", lambda: ls.landmark_codes(z, z[:5, :3], 1.0)),
        ("rank", lambda: ls.factor_spectral(np.ones((9, 4)), 2)),
        ("no coefficient", lambda: ls.factor_spectral(np.eye(4)[[0, 1]] * [[1], [0]], 1)),
        ("bandwidth", lambda: ls.gaussian_codes(z, z[:5], 0)),
        ("k < m", lambda: ls.SDSNet(ls.DenseAutoencoder(30), 5, 5)),
        ("below the 200", lambda: ls.SDSNet(ls.DenseAutoencoder(30), 5, 200).fit(torch.zeros(200, 30))),
        ("finite", lambda: ls.SDSNet(ls.DenseAutoencoder(30), 5, 9).fit(torch.full((20, 30), torch.nan))),
        ("n_landmarks", lambda: ls.SubspaceClustering(5, n_landmarks=5).fit(z)),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_number_of_clusters_from_the_gap(samples):
    z = ls.unit_rows(samples.rows)
    factor = ls.factor_spectral(ls.landmark_codes(z, ls.choose_landmarks(z, 80).points, 0.1, 3), 4)
    assert adjusted_rand_score(samples.labels, factor.labels) > 0.95
    assert ls.estimate_clusters(factor.singular_values, 10) == 4


def test_selection_prefers_a_clear_clustering(samples):
    z = ls.unit_rows(samples.rows)
    lam, s, found = ls.select_codes(z, ls.choose_landmarks(z, 60), 4, (0.1, 1.0), (3, 60))
    assert len(found) == 4
    assert (lam, s) in {(a, b) for a in (0.1, 1.0) for b in (3, 60)}
    best = max(found, key=lambda pair: pair[0])
    assert adjusted_rand_score(samples.labels, best[1].labels) > 0.9


@pytest.mark.parametrize("how", ["kmeans", "points"])
def test_network_learns_predicts_and_repeats(samples, how):
    inputs = torch.from_numpy(samples.rows).float()
    torch.manual_seed(0)
    start = ls.DenseAutoencoder(30, 64, 16)
    training = ls.Training(100, 6, 50, learning_rate=3e-3, refresh=3, landmarks=how, restarts=5)
    first = ls.SDSNet(copy.deepcopy(start), 4, 50, training, seed=3).fit(inputs)
    assert first.losses[-1] < first.losses[0]
    assert adjusted_rand_score(samples.labels, first.labels) > 0.8
    again = ls.SDSNet(copy.deepcopy(start), 4, 50, training, seed=3).fit(inputs)
    np.testing.assert_array_equal(first.labels, again.labels)
    if how == "kmeans":
        np.testing.assert_array_equal(first.predict(inputs), first.labels)
        np.testing.assert_array_equal(first.predict(inputs[5:9]), first.labels[5:9])


def test_joint_loss_moves_encoder_decoder_and_landmarks(samples):
    net = ls.SDSNet(ls.DenseAutoencoder(30, 16, 8), 4, 20)
    u = torch.randn(20, 8, requires_grad=True)
    net._terms(torch.from_numpy(samples.rows[:30]).float(), u, None).sum().backward()
    assert u.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in net.autoencoder.parameters())


def test_memory_grows_linearly():
    peaks = []
    for n in (4000, 16000):
        rows = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
        tracemalloc.start()
        ls.SubspaceClustering(4, n_landmarks=30, n_init=1, random_state=0, landmarks="random").fit(rows)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0]
    assert peaks[1] < 0.05 * 8 * 16000**2


def test_estimator_is_one():
    check_estimator(ls.SubspaceClustering())
