import numpy as np
import pytest
from scipy.io import savemat

from assay.data import samples
from assay.data.image import coil
from assay.errors import InputError


def upright(n: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *shape)).astype(np.float64)


def by_columns(images: np.ndarray) -> np.ndarray:
    return np.stack([image.ravel(order="F") for image in images])


@pytest.mark.parametrize(("name", "peak"), [("orl", 255), ("coil-20", 1)])
def test_fea_and_gnd(tmp_path, name, peak):
    images = upright(6, (32, 32)) * peak / 255
    file = tmp_path / coil.OFFICIAL[name]
    savemat(file, {"fea": by_columns(images), "gnd": np.array([[1], [1], [2], [2], [9], [9]])})
    assert coil.find(tmp_path, name) == file
    found = coil.read_mat(file)
    np.testing.assert_allclose(found.images, images / peak, atol=1e-6)
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2])


def test_cropped_yale_b(tmp_path):
    images = upright(6, (48, 42)).reshape(3, 2, 48, 42)  # people, lightings
    stack = np.stack([by_columns(person) for person in images])
    (tmp_path / "Data").mkdir()
    savemat(tmp_path / "Data" / "YaleBCrop025.mat", {"Y": stack.transpose(2, 1, 0).astype(np.uint8)})
    found = coil.read_mat(coil.find(tmp_path, "yale-b"))
    np.testing.assert_allclose(found.images, images.reshape(6, 48, 42) / 255, atol=1e-6)
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1, 2, 2])


def test_bad_files_are_refused_in_one_line(tmp_path):
    file = tmp_path / "x.mat"
    for variables, words in (
        ({"other": np.eye(3)}, "it has other"),
        ({"fea": np.ones((3, 10))}, "do not make"),
        ({"fea": np.full((3, 9), np.nan)}, "not finite"),
        ({"fea": np.ones((3, 9)), "gnd": np.ones((2, 1))}, "3 pictures but 2 labels"),
    ):
        savemat(file, variables)
        with pytest.raises(InputError, match=words) as caught:
            coil.read_mat(file)
        assert "\n" not in str(caught.value)
    file.write_bytes(b"MATLAB 7.3 or nonsense" * 20)
    with pytest.raises(InputError, match="not a MATLAB file"):
        coil.read_mat(file)
    assert coil.find(tmp_path, "coil-100") is None


def test_the_real_coil_20():
    folder = samples.locate("coil-20")
    if folder is None:
        pytest.skip("no sample coil-20 here")
    found = coil.read_mat(coil.find(folder, "coil-20"))
    assert found.images.shape == (1440, 32, 32)
    assert np.bincount(found.labels).tolist() == [72] * 20
    first = found.images[:72]
    # Neighbouring views of an object resemble each other more than opposite ones.
    near = np.abs(first - np.roll(first, 1, axis=0)).mean()
    assert near < np.abs(first - np.roll(first, 36, axis=0)).mean()
