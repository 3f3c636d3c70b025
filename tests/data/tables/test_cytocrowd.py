"""The CytoCrowd tables: real ones where they are, small ones in the official form, and never a personal name."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from assay.data import samples
from assay.data.tables import cytocrowd
from assay.errors import InputError

pd = pytest.importorskip("pandas")

SECRET = "Q. Personal-Name"
WORKERS = f"""worker_bbox,author,author_id,img_name,weight,cluster,category,sam_conf,sam_bbox
[   6. 1272.  407. 1777.],{SECRET},7,%5B1_2%5D.jpg,,,其他正常细胞,0.98,[   0. 1320.  424. 1759.]
[1.5e+01 2.0e+00 3.0e+01 4.5e+01],{SECRET},3,b.jpg,,,ASC-US,0.9,[0. 0. 1. 1.]
[0. 0. 5. 5.],{SECRET},7,b.jpg,,,未知,0.9,[0. 0. 1. 1.]
"""
GOLD = """bbox,author,author_id,img_name,weight,cluster,category,sam_conf
"[2944, 1229, 3263, 1812]",groundtruth,2,b.jpg,,,滴虫,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Datasets").mkdir()
    (tmp_path / "Datasets" / "WorkerData.csv").write_text(WORKERS, encoding="utf-8")
    (tmp_path / "Datasets" / "GroundTruth.csv").write_text(GOLD, encoding="utf-8")
    return tmp_path


def test_official_form(folder: Path) -> None:
    votes, gold = cytocrowd.read(folder)
    assert_allclose(votes.boxes, [[6, 1272, 407, 1777], [15, 2, 30, 45], [0, 0, 5, 5]])
    assert [votes.classes[k] for k in votes.labels] == ["other normal", "ASC-US", "未知"]
    assert [votes.image_names[i] for i in votes.images] == ["[1_2].jpg", "b.jpg", "b.jpg"]
    assert [votes.people[a] for a in votes.annotators] == ["7", "3", "7"]
    assert_allclose(gold.boxes, [[2944, 1229, 3263, 1812]])
    assert gold.classes == votes.classes
    assert gold.classes[gold.labels[0]] == "trichomonas"
    assert gold.image_names[gold.images[0]] == "b.jpg"


def test_names_are_never_parsed_into_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    read_csv = pd.read_csv

    def watched(*args: object, **options: object) -> object:
        table = read_csv(*args, **options)
        asked.append((options["usecols"], list(table.columns)))
        assert not table.astype(str).apply(lambda column: column.str.contains("Personal")).to_numpy().any()
        return table

    monkeypatch.setattr(pd, "read_csv", watched)
    votes, gold = cytocrowd.read(folder)
    assert len(asked) == 2
    for columns, read in asked:
        assert "author" not in columns
        assert "author" not in read
    assert "Personal" not in repr((votes, gold))


def test_download_checks_the_sum_and_drops_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = {"WorkerData.csv": WORKERS.encode(), "GroundTruth.csv": GOLD.encode()}
    monkeypatch.setattr(
        cytocrowd.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(sent[url.rsplit("/", 1)[1]])
    )
    with pytest.raises(InputError, match="SHA-256"):
        cytocrowd.download(tmp_path / "a")
    assert not list((tmp_path / "a").rglob("*.csv"))
    monkeypatch.setattr(cytocrowd, "SHA256", {name: hashlib.sha256(text).hexdigest() for name, text in sent.items()})
    folder = cytocrowd.download(tmp_path / "b")
    votes, gold = cytocrowd.read(folder)
    assert (len(votes.labels), len(gold.labels)) == (3, 1)
    assert all("Personal" not in path.read_text(encoding="utf-8") for path in folder.rglob("*.csv"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("WorkerData.csv", "worker_bbox,author_id\n", "columns worker_bbox"),
        ("WorkerData.csv", "worker_bbox,author_id,img_name,category\n", "no rows"),
        ("WorkerData.csv", "worker_bbox,author_id,img_name,category\n[1. 2. 3.],3,a.jpg,SCC\n", "row 1"),
        ("GroundTruth.csv", "a\x00b", "columns bbox"),
    ],
)
def test_broken_tables(folder: Path, name: str, text: str, words: str) -> None:
    (folder / "Datasets" / name).write_text(text)
    with pytest.raises(InputError, match=words):
        cytocrowd.read(folder)


def test_missing_tables(tmp_path: Path) -> None:
    assert not cytocrowd.is_cytocrowd(tmp_path)
    with pytest.raises(InputError, match="no WorkerData"):
        cytocrowd.read_workers(tmp_path)


def test_real_tables() -> None:
    folder = samples.locate("cytocrowd")
    if folder is None:
        pytest.skip("the CytoCrowd tables are not here")
    votes, gold = cytocrowd.read(folder)
    images = len(votes.image_records)
    if images == 446:  # the whole set; an excerpt keeps the form
        assert (len(votes.labels), len(gold.labels)) == (14_579, 6_402)
        assert np.bincount(votes.annotators).tolist() == [4291, 1601, 4760, 3927]
        assert (len(set(votes.labels)), len(set(gold.labels))) == (18, 16)
    assert votes.people == ("3", "4", "5", "7")
    assert all(name.isdigit() for name in votes.people)
    assert_array_equal(np.unique(votes.images), np.arange(images))
    for table in (votes, gold):
        assert (table.boxes[:, 2:] > table.boxes[:, :2]).all()
        assert table.boxes.min() >= 0
        assert (table.boxes[:, [0, 2]] <= 3840).all()
