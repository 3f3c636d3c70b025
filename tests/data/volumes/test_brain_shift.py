"""The simulated pairs: the truth is the truth, the image follows its formula, and settings do what they say."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("nilearn")

from scipy.ndimage import map_coordinates

from assay.data.volumes.brain_shift import Pair, brain_shift_pair, rigid_motion, spline_shift
from assay.data.volumes.mni import Brain, mni_brain
from assay.data.volumes.ultrasound import ATTENUATION, COMPRESSION, FAR, HALF_ANGLE, NEAR, Probe, simulate_ultrasound


@pytest.fixture(scope="module")
def brain() -> Brain:
    return mni_brain(3, (56, 64, 56))


def pair(brain: Brain, seed: int = 0, **settings: object) -> Pair:
    return brain_shift_pair(brain, np.random.default_rng(seed), **settings)  # type: ignore[arg-type]


def test_the_template(brain: Brain) -> None:
    assert brain.t1.shape == (56, 64, 56)
    assert float((brain.grey + brain.white + brain.fluid)[brain.inside].mean()) == pytest.approx(1, abs=0.03)
    volume_l = brain.inside.sum() * 27 / 1e6
    assert 1.4 < volume_l < 2.2  # litres of an adult's brain and the fluid around it
    centre = np.argwhere(brain.inside).mean(0) @ brain.affine[:3, :3].T + brain.affine[:3, 3]
    assert abs(centre[0]) < 2  # symmetric about the midline
    with pytest.raises(ValueError, match="fit"):
        mni_brain(3, (99, 99, 99))
    with pytest.raises(ValueError, match="spacing"):
        mni_brain(0)


def test_the_same_image_comes_back_along_the_truth(brain: Brain) -> None:
    p = pair(brain, image="t1", resection=True)
    warped = map_coordinates(p.moving, np.indices(p.moving.shape) + p.u, order=1, mode="constant")
    np.testing.assert_allclose(p.fixed[p.mask_fixed], warped[p.mask_fixed], atol=1e-4)
    np.testing.assert_allclose(
        p.targets - p.landmarks,
        [p.u[:, *map(int, x)] for x in p.landmarks], atol=1e-6,
    )  # fmt: skip
    assert not p.cavity[tuple(p.landmarks.astype(int).T)].any()
    assert p.cavity.sum() * p.spacing**3 > 1000  # mm³
    assert float(p.fixed[p.cavity].max()) == 0


def test_motion_has_the_size_asked_for(brain: Brain) -> None:
    small = pair(brain, degrees=0, millimetres=2, shift_sd=0)
    assert float(np.ptp(small.u.reshape(3, -1), axis=1).max()) < 1e-5  # a plain shift
    assert float(np.abs(small.u).max()) * small.spacing <= 2
    large = pair(brain, 1)
    assert 2 < float(np.linalg.norm(large.targets - large.landmarks, axis=1).mean()) * large.spacing < 25
    values = spline_shift(np.indices((16, 20, 16)).astype(float), np.random.default_rng(0), 2.4)
    assert 1 < float(values.std()) < 2.6
    u = rigid_motion(np.indices((9, 9, 9)).astype(float), np.full(3, 4.0), np.array([0, 0, 90.0]), np.zeros(3))
    np.testing.assert_allclose(np.array([6, 4, 4]) + u[:, 6, 4, 4], [4, 6, 4], atol=1e-9)


def test_the_fan() -> None:
    probe = Probe(np.array([20.0, 20.0, 90.0]), np.array([0.0, 0.0, -1.0]))
    fan, depth, beam = probe.fan((40, 40, 88))
    assert depth[20, 20, 60] == pytest.approx(60)  # mm
    np.testing.assert_allclose(beam[:, 20, 20, 60], [0, 0, -1])
    assert fan[20, 20, 80]
    assert not fan[20, 20, 81]  # nearer than NEAR
    assert fan[20, 20, 28]
    assert not fan[20, 20, 27]  # beyond FAR
    angle = np.rad2deg(np.arccos(-beam[2]))
    assert angle[fan].max() < HALF_ANGLE
    assert depth[fan].min() >= NEAR
    assert depth[fan].max() <= FAR


def test_the_image_follows_its_formula() -> None:
    shape = (40, 40, 88)
    probe = Probe(np.array([20.0, 20.0, 90.0]), np.array([0.0, 0.0, -1.0]))
    none = np.zeros(shape, np.float32)
    white = np.ones(shape, np.float32)
    scan = simulate_ultrasound(none, white, none, none, probe, np.random.default_rng(0), looks=200_000)
    expected = np.log1p(COMPRESSION * 0.30 * np.exp(-ATTENUATION * probe.fan(shape)[1])) / np.log1p(COMPRESSION)
    np.testing.assert_allclose(scan.image[scan.fan], expected[scan.fan], atol=0.005)
    assert float(scan.image[~scan.fan].max()) == 0
    assert float(scan.reflection.max()) < 1e-6  # one tissue has no interface
    white[:, :, :50] = 0
    grey = 1 - white
    across = simulate_ultrasound(grey, white, none, none, probe, np.random.default_rng(0))
    edge = across.reflection[20, 20]
    assert 48 <= int(edge.argmax()) <= 51
    assert edge.max() > 10 * edge[40]
    aside = Probe(np.array([20.0, 120.0, 50.0]), np.array([0.0, -1.0, 0.0]))  # along the interface: little comes back
    assert simulate_ultrasound(grey, white, none, none, aside, np.random.default_rng(0)).reflection[20, 20].max() < (
        0.3 * edge.max()
    )


def test_speckle_is_rayleigh_and_looks_calm_it() -> None:
    shape = (40, 40, 60)
    probe = Probe(np.array([20.0, 20.0, 70.0]), np.array([0.0, 0.0, -1.0]))
    none, white = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    spread = {}
    for looks in (1, 24):
        scan = simulate_ultrasound(none, white, none, none, probe, np.random.default_rng(1), looks)
        linear = np.expm1(scan.image * np.log1p(COMPRESSION)) / COMPRESSION / 0.3
        speckle = (linear * np.exp(ATTENUATION * probe.fan(shape)[1]))[scan.fan]
        assert float((speckle**2).mean()) == pytest.approx(1, abs=0.05)
        spread[looks] = float(speckle.std() / speckle.mean())
    assert spread[1] == pytest.approx(np.sqrt(4 / np.pi - 1), abs=0.02)  # Rayleigh: 0.523
    assert spread[24] < 0.12
    with pytest.raises(ValueError, match="look"):
        simulate_ultrasound(none, white, none, none, probe, np.random.default_rng(0), looks=0)


def test_the_same_seed_gives_the_same_pair(brain: Brain) -> None:
    np.testing.assert_array_equal(pair(brain, 5).fixed, pair(brain, 5).fixed)
    assert (pair(brain, 5).fixed != pair(brain, 6).fixed).any()
