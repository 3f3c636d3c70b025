"""Layouts of segmentation data sets, the real sample where it is at hand, and files that cannot be used."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from assay.data.image.folder import DataError
from assay.data.image.mask_pairs import find_pairs, read_mask, read_rgb
from assay.data.samples import locate

MASK = np.zeros((20, 30), bool)
MASK[4:9, 5:25] = True


def picture(file, array=None):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8) if array is None else array).save(file)


@pytest.mark.parametrize(
    ("layout", "image", "mask"),
    [
        ("ham10000", "HAM10000_images_part_1/I_1.png", "HAM10000_segmentations_tschandl/I_1_segmentation.png"),
        ("cub", "images/001.Albatross/a.png", "segmentations/001.Albatross/a.png"),
        ("ecssd", "images/0001.png", "ground_truth_mask/0001.png"),
        ("duts", "DUTS-TE-Image/x.png", "DUTS-TE-Mask/x.png"),
        ("plain", "images/deep/x.png", "masks/deep/x.png"),
    ],
)  # fmt: skip
def test_layouts(tmp_path, layout, image, mask):
    picture(tmp_path / image)
    picture(tmp_path / mask, (MASK * 255).astype(np.uint8))
    picture(tmp_path / image.replace(".png", "_alone.png"))
    name, pairs = find_pairs(tmp_path)
    assert name == layout
    assert len(pairs) == 1
    read, truth = pairs[0].read()
    assert read.shape == (3, 20, 30)
    assert float(read.max()) == pytest.approx(90 / 255)
    assert np.array_equal(truth, MASK)


def test_crackforest_layout(tmp_path):
    picture(tmp_path / "image" / "001.png")
    (tmp_path / "groundTruth").mkdir()
    content = {"Segmentation": (1 + MASK).astype(np.uint8), "Boundaries": MASK.astype(np.uint8)}
    savemat(tmp_path / "groundTruth" / "001.mat", {"groundTruth": content})
    name, pairs = find_pairs(tmp_path)
    assert name == "crackforest"
    assert np.array_equal(pairs[0].read()[1], MASK)


@pytest.mark.skipif(locate("crackforest") is None, reason="the CrackForest sample is not here")
def test_the_official_sample():
    name, pairs = find_pairs(locate("crackforest"))
    assert name == "crackforest"
    assert len(pairs) == 24
    for pair in pairs[::6]:
        image, mask = pair.read()
        assert image.shape == (3, 320, 480)
        assert 0.001 < mask.mean() < 0.1
        assert image[:, mask].mean() < image[:, ~mask].mean()  # cracks are dark


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="expected one of"):
        find_pairs(tmp_path)
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="no image"):
        find_pairs(tmp_path)
    picture(tmp_path / "masks" / "a.png", np.zeros((10, 10), np.uint8))
    with pytest.raises(DataError, match="beside an image"):
        find_pairs(tmp_path)[1][0].read()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="not a readable picture"):
        read_rgb(tmp_path / "bad.png")
    savemat(tmp_path / "bad.mat", {"other": 1})
    with pytest.raises(DataError, match=r"groundTruth\.Segmentation"):
        read_mask(tmp_path / "bad.mat")
    assert not read_mask(tmp_path / "masks" / "a.png").any()
