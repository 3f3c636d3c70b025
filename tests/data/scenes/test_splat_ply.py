"""Splat files: bitwise round trips, the column order of the INRIA layout, and files that are something else."""

import numpy as np
import pytest
import torch

from assay.data.samples import locate
from assay.data.scenes.splat_ply import read_splat_ply, splat_ply, write_splat_ply
from assay.errors import InputError
from assay.geometry.splats import Splats


def scene(n=7, degree=3):
    g = torch.Generator().manual_seed(0)
    sizes = {"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logit": (), "sh": ((degree + 1) ** 2, 3)}
    return Splats(**{name: torch.randn(n, *size, generator=g) for name, size in sizes.items()})


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_parameters_come_back_bitwise(tmp_path, degree):
    splats = scene(degree=degree)
    splats.quats[0, 0] = -0.0
    write_splat_ply(splats, tmp_path / "a.ply")
    back = read_splat_ply(tmp_path / "a.ply").splats
    for name, x in splats.tensors().items():
        assert np.array_equal(x.numpy().view(np.int32), back.tensors()[name].numpy().view(np.int32)), name


def test_file_comes_back_bitwise_with_extra_columns_comments_and_elements(tmp_path):
    body = splat_ply(scene(4, degree=1))
    header = list(body.header)
    header.insert(2, "comment made by a trainer")
    header[-1:] = ["property uchar label", "element extra 2", "property double x", "end_header"]
    rows = np.zeros(4, np.dtype([*body.rows.dtype.descr, ("label", "u1")]))
    for name in body.rows.dtype.names:
        rows[name] = body.rows[name]
    rows["label"] = [3, 1, 4, 1]
    data = ("\n".join(header) + "\n").encode() + rows.tobytes() + np.arange(2.0).tobytes()
    (tmp_path / "a.ply").write_bytes(data)
    file = read_splat_ply(tmp_path / "a.ply")
    file.write(tmp_path / "b.ply")
    assert (tmp_path / "b.ply").read_bytes() == data
    assert np.array_equal(file.with_splats(file.splats).rows, file.rows)

    file.select(np.array([1, 3])).write(tmp_path / "c.ply")
    small = read_splat_ply(tmp_path / "c.ply")
    assert small.rows.tobytes() == rows[[1, 3]].tobytes()
    assert small.rest == np.arange(2.0).tobytes()


def test_higher_coefficients_lie_channel_by_channel(tmp_path):
    splats = scene(1, degree=1)
    rows = splat_ply(splats).rows
    assert [rows[f"f_rest_{i}"][0] for i in range(9)] == splats.sh[0, 1:].T.reshape(-1).tolist()
    assert rows["rot_0"][0] == splats.quats[0, 0]
    assert rows["nx"][0] == 0


def test_changed_parameters_are_written_and_the_rest_stays():
    file = splat_ply(scene(3, degree=1))
    file.rows["ny"] = 5
    changed = scene(3, degree=1)
    changed = Splats(**{k: v + 1 for k, v in changed.tensors().items()})
    rows = file.with_splats(changed).rows
    assert np.array_equal(rows["x"], changed.means[:, 0].numpy())
    assert (rows["ny"] == 5).all()
    with pytest.raises(ValueError, match="do not fit"):
        file.with_splats(scene(3, degree=2))


def test_sample_round_trip(tmp_path):
    folder = locate("gsplat-garden")
    if folder is None:
        pytest.skip("the sample gsplat-garden is not here")
    (path,) = folder.glob("derived/point_cloud/*/point_cloud.ply")
    file = read_splat_ply(path)
    file.write(tmp_path / "copy.ply")
    assert (tmp_path / "copy.ply").read_bytes() == path.read_bytes()
    write_splat_ply(file.splats, tmp_path / "again.ply")
    assert (tmp_path / "again.ply").read_bytes() == path.read_bytes()


def broken(tmp_path, change):
    write_splat_ply(scene(), tmp_path / "a.ply")
    (tmp_path / "b.ply").write_bytes(change((tmp_path / "a.ply").read_bytes()))
    return tmp_path / "b.ply"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"solid stl" + b, "not a ply file"),
        (lambda b: b"", "not a ply file"),
        (lambda b: b[:300], "not a ply file"),
        (lambda b: b[:-5], "ends early"),
        (
            lambda b: b.replace(b"property float opacity\n", b"property float opaqueness\n"),
            "property opacity is missing",
        ),
        (lambda b: b.replace(b"f_rest_44", b"f_last_44"), "44 f_rest properties"),
        (lambda b: b.replace(b"binary_little_endian", b"ascii"), "expected binary_little_endian"),
        (lambda b: b.replace(b"vertex 7", b"vertex 0"), "the scene is empty"),
        (lambda b: b.replace(b"element vertex 7", b"element chunk 7"), "first element of the ply is chunk"),
        (lambda b: b.replace(b"property float nx", b"property list uchar int nx"), "cannot read the vertex property"),
        (lambda b: b.replace(b"property float nx", b"property float ny"), "cannot read the vertex property"),
    ],
)
def test_other_files_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_splat_ply(broken(tmp_path, change))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_splat_ply(tmp_path / "none.ply")
