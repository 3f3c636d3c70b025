"""Stereo pairs: the geometry of the shipped one, the official folder layout, and normals against planes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.io import imsave

from assay.data.stereo import motorcycle, plane_normals, read_pfm, read_stereo_folder, write_pfm
from assay.errors import InputError
from assay.geometry.cameras import homogeneous
from assay.geometry.patches import sample


def test_motorcycle_depth_projects_to_the_disparity_and_the_same_colours():
    pair = motorcycle()
    rows, columns = pair.seen.nonzero().T
    p1 = pair.camera1.pixel_centres()[rows, columns]
    p2, _ = pair.camera2.project(pair.camera1.unproject(p1, pair.depth[rows, columns]))
    assert torch.allclose(p2[:, 0], p1[:, 0] - pair.disparity[rows, columns])
    assert torch.allclose(p2[:, 1], p1[:, 1])
    there = sample(pair.image2.permute(2, 0, 1), p2[:, None, None])[:, :, 0, 0]
    off = (there - pair.image1[rows, columns]).abs().mean(-1)
    assert float(off.median()) < 0.02
    assert 2000 < float(pair.depth.nanmedian()) < 5000  # a motorcycle two to five metres away
    assert 0.7 < float(pair.seen.double().mean()) < 0.93


def test_normals_of_planes_are_exact():
    g = torch.Generator().manual_seed(0)
    K = torch.tensor([[300.0, 0, 40], [0, 290, 30], [0, 0, 1]], dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(60) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    ray = homogeneous(torch.stack([columns, rows], -1).double()) @ torch.linalg.inv(K).T
    for _ in range(5):
        m = torch.tensor([0, 0, 0.3], dtype=torch.float64) + 0.1 * torch.randn(3, generator=g, dtype=torch.float64)
        normals, good = plane_normals(1 / (ray @ m), K.T.T)
        wanted = (m / m.norm()).expand(60, 80, 3)
        assert bool(good[7:-7, 7:-7].all())
        assert not bool(good[:7].any())
        assert torch.allclose(normals[good], wanted[good], atol=1e-9)


def test_edges_and_holes_have_no_normal():
    depth = torch.full((40, 40), 2.0, dtype=torch.float64)
    depth[:, 20:] = 3.0
    depth[5, 5] = torch.nan
    K = torch.tensor([[100.0, 0, 20], [0, 100, 20], [0, 0, 1]], dtype=torch.float64)
    _, good = plane_normals(depth, K, window=7)
    assert not bool(good[2:9, 2:9].any())
    assert not bool(good[:, 17:23].any())
    assert bool(good[20:30, 8:16].all())


def write_scene(folder, width=60, height=40):
    rng = np.random.default_rng(0)
    folder.mkdir()
    left = rng.integers(0, 255, (height, width, 3), np.uint8)
    for name, image in (("im0", left), ("im1", np.roll(left, -5, 1))):
        imsave(folder / f"{name}.png", image, check_contrast=False)
    disparity = np.full((height, width), 5, np.float32)
    disparity[0, :3] = np.inf
    write_pfm(folder / "disp0GT.pfm", disparity)
    (folder / "calib.txt").write_text(
        "cam0=[700.5 0 30; 0 700.5 20; 0 0 1]\ncam1=[700.5 0 33; 0 700.5 20; 0 0 1]\ndoffs=3\nbaseline=60\n"
        f"width={width}\nheight={height}\nndisp=64\n"
    )
    return left


def test_official_folder(tmp_path):
    left = write_scene(tmp_path / "delivery_area_1l")
    pair = read_stereo_folder(tmp_path / "delivery_area_1l")
    assert pair.name == "delivery_area_1l"
    assert torch.equal((pair.image1 * 255).round().byte(), torch.from_numpy(left))
    assert float(pair.depth[20, 30]) == pytest.approx(700.5 * 60 / 8)
    assert bool(pair.disparity[0, :3].isnan().all())
    assert bool(pair.seen[5, 6:].all())
    assert not bool(pair.seen[:, :5].any())
    mask = np.full((40, 60), 255, np.uint8)
    mask[10] = 128
    imsave(tmp_path / "delivery_area_1l/mask0nocc.png", mask, check_contrast=False)
    assert not bool(read_stereo_folder(tmp_path / "delivery_area_1l").seen[10].any())


def test_a_nearer_thing_hides_what_is_behind():
    from assay.data.stereo import _seen_on_the_right

    disparity = torch.full((1, 30), 2.0, dtype=torch.float64)
    disparity[:, 15:20] = 8.0  # covers the columns 7 to 11 on the right, where 9 to 13 of the background go
    seen = _seen_on_the_right(disparity)[0]
    assert seen[15:20].all()
    assert not seen[9:14].any()
    assert seen[2:8].all()
    assert seen[20:].all()


def test_pfm_round_trip_and_refusals(tmp_path):
    values = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    write_pfm(tmp_path / "a.pfm", values)
    assert np.array_equal(read_pfm(tmp_path / "a.pfm"), values)
    (tmp_path / "b.pfm").write_bytes(b"Pf\n7 5\n1.0\n" + values[::-1].astype(">f4").tobytes())
    assert np.array_equal(read_pfm(tmp_path / "b.pfm"), values)
    (tmp_path / "c.pfm").write_bytes((tmp_path / "a.pfm").read_bytes()[:-4])
    with pytest.raises(InputError, match="cut off"):
        read_pfm(tmp_path / "c.pfm")
    (tmp_path / "d.pfm").write_bytes(b"PF\n7 5\n-1\n")
    with pytest.raises(InputError, match="one-channel"):
        read_pfm(tmp_path / "d.pfm")


def test_incomplete_folders_are_named(tmp_path):
    write_scene(tmp_path / "s")
    (tmp_path / "s/calib.txt").write_text("cam0=[1 0 3; 0 1 2; 0 0 1]\n")
    with pytest.raises(InputError, match="'cam1' is missing"):
        read_stereo_folder(tmp_path / "s")
    (tmp_path / "s/im1.png").unlink()
    with pytest.raises(InputError, match=r"missing im1\.png"):
        read_stereo_folder(tmp_path / "s")
