import numpy as np
import pytest
from scipy.linalg import subspace_angles

from assay.data.subspaces import gaussian_blobs, subspace_bases, turntable, union_of_subspaces


def test_principal_angles_are_those_asked_for():
    bases = subspace_bases(3, 4, 30, 0.3, np.random.default_rng(0))
    for basis in bases:
        np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-12)
    # Two subspaces, each at 0.3 from the common one, are at most 0.6 apart.
    assert subspace_angles(bases[0], bases[1]).max() <= 0.6 + 1e-9


def test_samples_lie_in_their_subspaces_and_bending_takes_them_out():
    flat = union_of_subspaces(200, np.random.default_rng(0), groups=4, dim=3, ambient=20)
    ranks = [np.linalg.matrix_rank(flat.rows[flat.labels == g]) for g in range(4)]
    assert ranks == [3] * 4
    np.testing.assert_allclose(np.linalg.norm(flat.rows, axis=1), 1)
    assert np.bincount(flat.labels).tolist() == [50] * 4
    bent = union_of_subspaces(200, np.random.default_rng(0), groups=4, dim=3, ambient=20, bend=50)
    assert min(np.linalg.matrix_rank(bent.rows[bent.labels == g]) for g in range(4)) > 3


def test_blobs_are_nearest_to_their_centres():
    blobs = gaussian_blobs(4000, np.random.default_rng(0), groups=4, ambient=16, distance=8)
    centres = np.stack([blobs.rows[blobs.labels == g].mean(axis=0) for g in range(4)])
    np.testing.assert_array_equal(
        ((blobs.rows[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)[:50], blobs.labels[:50]
    )


def test_turntable_keeps_outlines_and_comes_round():
    images, labels = turntable(3, 8, np.random.default_rng(0), 16)
    assert images.shape == (24, 16, 16)
    assert images.min() >= 0
    assert images.max() <= 1
    assert labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    for g in range(3):
        seen = images[labels == g] > 0
        np.testing.assert_array_equal(seen[:4], seen[4:])  # the other side has the same outline
    finer, _ = turntable(3, 24, np.random.default_rng(0), 16)
    np.testing.assert_allclose(finer[::3], images, atol=1e-6)  # the same objects in smaller steps
    assert np.abs(finer[1] - finer[0]).mean() < np.abs(images[1] - images[0]).mean() > 0


@pytest.mark.parametrize("more", [{"angle": 0}, {"ambient": 9}, {"groups": 300}])
def test_bad_input_is_refused(more):
    with pytest.raises(ValueError):
        union_of_subspaces(200, np.random.default_rng(0), **more)
