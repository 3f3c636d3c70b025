import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assay.data.image.hashing_sets import read_hashing_set
from assay.errors import InputError


def cifar(root: Path, records: int = 6) -> np.ndarray:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, (2 * records, 3073), dtype=np.uint8)
    table[:, 0] = np.arange(2 * records) % 10
    table[:records].tofile(folder / "data_batch_1.bin")
    table[records:].tofile(folder / "test_batch.bin")
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n")
    return table


def test_cifar_10_in_its_binary_version(tmp_path: Path) -> None:
    table = cifar(tmp_path)
    found = read_hashing_set(tmp_path)
    assert found.classes == tuple("abcdefghij")
    np.testing.assert_array_equal(found.labels.argmax(1), table[:, 0])
    pictures = list(found.pictures(32))
    np.testing.assert_allclose(pictures[7] * 255, table[7, 1:].reshape(3, 32, 32), atol=1e-3)
    (tmp_path / "cifar-10-batches-bin" / "data_batch_2.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="3073"):
        read_hashing_set(tmp_path)


def test_coco_pictures_have_the_categories_that_occur_in_them(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val2017").mkdir()
    for i in (1, 2):
        Image.new("RGB", (20, 10), (40 * i, 0, 0)).save(tmp_path / "val2017" / f"{i}.png")
    given = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in (1, 2, 3)] + [{"id": 4, "file_name": "../../x.png"}],
        "categories": [{"id": 5, "name": "dog"}, {"id": 9, "name": "cat"}, {"id": 11, "name": "car"}],
        "annotations": [
            {"image_id": i, "category_id": c} for i, c in ((1, 9), (1, 5), (1, 5), (2, 9), (3, 11), (4, 5))
        ],
    }
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(given))
    found = read_hashing_set(tmp_path)
    assert found.classes == ("dog", "cat")  # no picture of the car is here
    np.testing.assert_array_equal(found.labels, [[1, 1], [0, 1]])
    assert next(iter(found.pictures(8))).shape == (3, 8, 8)
    file.write_text("{}")
    with pytest.raises(InputError, match="no COCO instances"):
        read_hashing_set(tmp_path)


def test_class_folders_with_and_without_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("n01", "n02"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (9, 9)).save(tmp_path / split / name / "a.JPEG")
    found = read_hashing_set(tmp_path)
    assert found.classes == ("n01", "n02")
    np.testing.assert_array_equal(found.labels.sum(0), [2, 2])
    assert len(read_hashing_set(tmp_path / "val")) == 2
    with pytest.raises(InputError, match="2 classes"):
        read_hashing_set(tmp_path / "val" / "n01")
    with pytest.raises(InputError, match="no such folder"):
        read_hashing_set(tmp_path / "none")
    (tmp_path / "train" / "n01" / "b.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="unreadable"):
        list(read_hashing_set(tmp_path).pictures(8))
