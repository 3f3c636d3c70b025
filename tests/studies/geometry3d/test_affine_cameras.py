"""`apply` of the affine maps on files in the field's formats, what it refuses, and the full-scale path."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from skimage.io import imsave

from assay.data.scenes.colmap import ColmapCamera, ColmapImage, ColmapPoints, Reconstruction, write_colmap
from assay.data.scenes.ray_cast import Rectangle, Scene, Texture, photo
from assay.data.stereo import write_pfm
from assay.errors import InputError
from assay.geometry.cameras import Camera, intrinsics, look_at, relative_pose
from assay.lab.apply import run_apply
from assay.lab.study import call_with
from assay.methods.geometry3d.affine_cameras import affine_between
from assay.studies.geometry3d.affine_cameras import study

DOUBLE = torch.float64


def quaternion(R: torch.Tensor) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return np.roll(Rotation.from_matrix(R.numpy()).as_quat(), 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tilted photo seen by two cameras: pictures, depth map, a COLMAP model with 3D points, a json."""
    folder = tmp_path_factory.mktemp("world")
    K = intrinsics(160, 120, fov=45, dtype=DOUBLE)
    cameras = []
    for eye in ([0.0, -1.2, 2.4], [0.9, -0.9, 2.3]):
        R, t = look_at(torch.tensor(eye, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE))
        cameras.append(Camera(R, t, K, 160, 120))
    scene = Scene([Rectangle(torch.zeros(3), torch.tensor([2.0, 2, 1]), paint=Texture(photo("coffee", 400), 2.0))])
    views = [scene.render(camera, 3) for camera in cameras]
    (folder / "images").mkdir()
    for name, view in zip(("a.png", "b.png"), views, strict=True):
        imsave(folder / "images" / name, (view.image.numpy() * 255).round().astype(np.uint8))
    np.save(folder / "depth.npy", views[0].depth.numpy().astype(np.float32))
    g = np.random.default_rng(0)
    xyz = np.concatenate([g.uniform(-0.7, 0.7, (150, 2)), np.zeros((150, 1))], 1)
    pixels, _ = cameras[0].project(torch.from_numpy(xyz))
    ids = np.arange(150) + 10
    images = {
        i + 1: ColmapImage(i + 1, quaternion(c.R), c.t.numpy(), 1, name, *extra)
        for i, (c, name, extra) in enumerate(zip(cameras, ("a.png", "b.png"), ((pixels.numpy(), ids), ()), strict=True))
    }
    points = ColmapPoints(
        ids, xyz, np.zeros((150, 3), np.uint8), np.zeros(150), [np.array([[1, i]]) for i in range(150)]
    )
    parameters = (float(K[0, 0]), float(K[1, 1]), 80.0, 60.0)
    for binary in (True, False):
        model = Reconstruction({1: ColmapCamera(1, "PINHOLE", 160, 120, parameters)}, images, points)
        write_colmap(folder / ("bin" if binary else "text"), model, binary=binary)
    lens = Reconstruction({1: ColmapCamera(1, "OPENCV", 160, 120, (*parameters, 0.1, 0, 0, 0))}, images, points)
    write_colmap(folder / "lens", lens)
    R, t = relative_pose(*cameras)
    given = {"K1": K.tolist(), "K2": K.tolist(), "R": R.tolist(), "t": t.tolist()}
    (folder / "pair.json").write_text(json.dumps(given))
    n = cameras[0].R @ torch.tensor([0, 0, -1.0], dtype=DOUBLE)
    return folder, cameras, n


def rows(path) -> dict[str, np.ndarray]:
    with path.open() as lines:
        table = list(csv.DictReader(lines))
    return {name: np.array([float(row[name] or "nan") for row in table]) for name in table[0]}


def truth(world, table):
    _, (first, second), n = world
    R, t = relative_pose(first, second)
    d = (n @ first.t).expand(len(table["x1"]))
    p1 = torch.tensor(np.stack([table["x1"], table["y1"]], 1))
    return affine_between(R, t, p1, n.expand(len(p1), 3), d, K1=first.K, K2=second.K)


@pytest.mark.parametrize("kind", ["bin", "text"])
def test_a_colmap_model_with_its_own_points(world, tmp_path, kind):
    folder, _, n = world
    out = tmp_path / "affines.csv"
    images = ["--images", str(folder / "images")]
    result = run_apply(study, [str(folder / kind), "--pair", "a.png", "b.png", *images, "--out", str(out)])
    table = rows(out)
    assert len(table["x1"]) == result["points"] > 100
    A, p2, s = truth(world, table)
    found = np.stack([table[k] for k in ("a11", "a12", "a21", "a22")], 1).reshape(-1, 2, 2)
    assert np.allclose(found, A, atol=1e-6)
    assert np.allclose(np.stack([table["x2"], table["y2"]], 1), p2, atol=1e-5)
    assert np.allclose(table["s"], s, atol=1e-6)
    assert np.allclose(np.stack([table[k] for k in ("nx", "ny", "nz")], 1), -n, atol=1e-6)
    assert np.median(table["zncc"]) > 0.97
    assert result["zncc affine"] > result["zncc shifted"] + 0.1
    sheet = (tmp_path / "affines.html").read_text()
    assert sheet.count("<img") == 180
    assert "http" not in sheet


def test_points_of_a_table_with_a_depth_map_and_centre_origin(world, tmp_path):
    folder, *_ = world
    (tmp_path / "points.csv").write_text("name,x1,y1\na,70,50\nb,90.25,70\nc,1000,5\nd,2,2\n")
    pair = [str(folder / "images/a.png"), str(folder / "images/b.png")]
    # The json was written for the corner origin; shifted by the half pixel it stands for the other one.
    given = json.loads((folder / "pair.json").read_text())
    for K in (given["K1"], given["K2"]):
        K[0][2] -= 0.5
        K[1][2] -= 0.5
    (tmp_path / "pair.json").write_text(json.dumps(given))
    arguments = ["--pair", *pair, "--points", str(tmp_path / "points.csv"), "--depth", str(folder / "depth.npy")]
    out = ["--origin", "centre", "--out", str(tmp_path / "o.csv")]
    result = run_apply(study, [str(tmp_path / "pair.json"), *arguments, *out])
    assert result["points"] == 2
    assert result["skipped"] == {"no depth or no plane at the point": 2}
    table = rows(tmp_path / "o.csv")
    assert table["x1"].tolist() == [70, 90.25]
    table["x1"], table["y1"] = table["x1"] + 0.5, table["y1"] + 0.5
    expected = truth(world, table)
    assert np.allclose(table["a11"], expected.A[:, 0, 0], atol=0.01)  # depth of the nearest pixel
    assert np.allclose(table["x2"] + 0.5, expected.p2[:, 0], atol=0.3)


def test_auto_points_over_a_depth_map_without_pictures(world, tmp_path):
    folder, *_ = world
    given = json.loads((folder / "pair.json").read_text()) | {"width": 160, "height": 120}
    (tmp_path / "pair.json").write_text(json.dumps(given))
    depth = ["--depth", str(folder / "depth.npy"), "--limit", "50"]
    result = run_apply(study, [str(tmp_path / "pair.json"), *depth, "--out", str(tmp_path / "o.csv")])
    assert 10 < result["points"] <= 50
    assert np.isnan(rows(tmp_path / "o.csv")["zncc"]).all()
    assert not (tmp_path / "o.html").exists()


def test_normals_come_back_from_matches(world, tmp_path):
    folder, (first, _), n = world
    forward, back = tmp_path / "affines.csv", tmp_path / "normals.csv"
    arguments = [str(folder / "bin"), "--pair", "a.png", "b.png", "--images", str(folder / "images")]
    run_apply(study, [*arguments, "--out", str(forward)])
    result = run_apply(study, [*arguments, "--inverse", str(forward), "--out", str(back)])
    table = rows(back)
    assert result["normals"] == len(table["x1"]) == len(rows(forward)["x1"])
    assert np.allclose(np.stack([table[k] for k in ("nx", "ny", "nz")], 1), -n, atol=1e-5)
    pixels = torch.tensor(np.stack([table["x1"], table["y1"]], 1))
    world_points = first.unproject(pixels, torch.tensor(table["depth"]))
    assert float(world_points[:, 2].abs().max()) < 1e-5  # the plane z = 0
    assert 0 < float(np.median(table["sd_deg"])) < 30
    body = (tmp_path / "normals.ply").read_bytes().split(b"end_header\n")[1]
    cloud = np.frombuffer(body, np.dtype([("xyz", "<f4", 3), ("n", "<f4", 3), ("rgb", "u1", 3)]))
    assert np.allclose(cloud["xyz"], world_points, atol=1e-5)
    assert np.allclose(cloud["n"], [0, 0, 1], atol=1e-5)  # towards the camera, which is above


def test_kitti_calibration_with_a_disparity(tmp_path):
    """The layout of KITTI stereo: calib text, 8-bit pictures, 16-bit disparity; a wall at 10 m."""
    P = "P2: 100 0 79.5 0 0 100 59.5 0 0 0 1 0\nP3: 100 0 79.5 -50 0 100 59.5 0 0 0 1 0\n"
    (tmp_path / "calib.txt").write_text(P)
    image = (photo("brick", 160)[:120].numpy() * 255).astype(np.uint8)
    imsave(tmp_path / "left.png", image)
    imsave(tmp_path / "right.png", np.roll(image, -5, 1))
    imsave(tmp_path / "disp.png", np.full((120, 160), 5 * 256, np.uint16), check_contrast=False)
    pair = ["--pair", str(tmp_path / "left.png"), str(tmp_path / "right.png")]
    arguments = [str(tmp_path / "calib.txt"), *pair, "--depth", str(tmp_path / "disp.png")]
    run_apply(study, [*arguments, "--out", str(tmp_path / "o.csv")])
    table = rows(tmp_path / "o.csv")
    assert np.allclose(table["x1"] - table["x2"], 5)
    assert np.allclose([table["a11"].mean(), table["a12"].mean(), table["a22"].mean()], [1, 0, 1], atol=1e-6)
    assert np.allclose(table["nz"], -1)
    inside = table["x1"] > 20  # the picture was rolled
    assert table["zncc"][inside].min() > 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{w}/bin", "--pair", "a.png", "c.png"], r"'c\.png' is not in the model"),
        (["{w}/bin", "--pair", "a.png", "a.png"], "twice"),
        (["{w}/bin"], "--pair"),
        (["{w}/bin", "--pair", "b.png", "a.png"], "no depth"),
        (["{w}/lens", "--pair", "a.png", "b.png"], "distortion.*OPENCV"),
        (["{w}/nothing"], "neither a COLMAP folder"),
        (["{w}/images"], "no COLMAP model|--pair"),
        (["{w}/bin", "--pair", "a.png", "b.png", "--images", "{w}/text"], r"does not hold a\.png"),
        (["{w}/bin", "--pair", "a.png", "b.png", "--size", "4"], "--size must be odd"),
        (["{w}/bin", "--pair", "a.png", "b.png", "--limit", "0"], "--limit"),
        (["{w}/bin", "--pair", "a.png", "b.png", "--points", "{w}/none.csv"], "none.csv cannot be read"),
        (["{w}/bin", "--pair", "a.png", "b.png", "--inverse", "{w}/pair.json"], "lacks the columns"),
        (["{w}/bin", "--pair", "a.png", "b.png", "--depth", "{w}/pair.json"], "a depth map is"),
        (["{w}/pair.json"], "'width' is missing"),
        (["{w}/images/a.png"], "KITTI calibration"),
    ],
)
def test_bad_input_is_refused_in_one_line(world, tmp_path, arguments, message):
    folder, *_ = world
    given = [argument.replace("{w}", str(folder)) for argument in arguments]
    with pytest.raises(InputError, match=message) as caught:
        run_apply(study, [*given, "--out", str(tmp_path / "o.csv")])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_refused(world, tmp_path):
    folder, *_ = world
    arguments = [str(folder / "bin"), "--pair", "a.png", "b.png", "--images", str(folder / "images")]
    np.save(tmp_path / "small.npy", np.ones((3, 3)))
    with pytest.raises(InputError, match=r"shape \(120, 160\)"):
        run_apply(study, [*arguments, "--depth", str(tmp_path / "small.npy"), "--out", str(tmp_path / "o.csv")])
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as a depth map"):
        run_apply(study, [*arguments, "--depth", str(tmp_path / "pickled.npy"), "--out", str(tmp_path / "o.csv")])
    (tmp_path / "p.csv").write_text("x1,y1\n-50,-50\n")
    depth = ["--depth", str(folder / "depth.npy"), "--points", str(tmp_path / "p.csv")]
    with pytest.raises(InputError, match="none of 1 points could be used: 1 no depth"):
        run_apply(study, [*arguments, *depth, "--out", str(tmp_path / "o.csv")])


def test_a_model_cannot_name_pictures_outside_its_folder(world, tmp_path):
    folder, *_ = world
    text = (folder / "text/images.txt").read_text().replace("a.png", "../../secret.png")
    model = tmp_path / "model"
    model.mkdir()
    for name in ("cameras.txt", "points3D.txt"):
        (model / name).write_text((folder / "text" / name).read_text())
    (model / "images.txt").write_text(text)
    images = ["--images", str(folder / "images")]
    with pytest.raises(InputError, match="outside its folder"):
        run_apply(study, [str(model), "--pair", "secret.png", "b.png", *images, "--out", str(tmp_path / "o.csv")])


def test_full_scale_reads_official_stereo_folders(tmp_path):
    """A tiny scene in the layout of ETH3D two-view: a slanted wall whose disparity grows with the row."""
    scene = tmp_path / "forest_1l"
    scene.mkdir()
    left = photo("gravel", 220)[:140].numpy()
    rows_, columns = np.mgrid[:140, :220]
    disparity = (8 + 0.08 * rows_).astype(np.float32)
    from scipy.ndimage import map_coordinates

    right = np.stack(
        [map_coordinates(left[..., c], [rows_, columns + disparity], order=1, mode="nearest") for c in range(3)], -1
    )
    imsave(scene / "im0.png", (left * 255).astype(np.uint8))
    imsave(scene / "im1.png", (right * 255).astype(np.uint8))
    write_pfm(scene / "disp0GT.pfm", disparity)
    (scene / "calib.txt").write_text(
        "cam0=[200 0 110; 0 200 70; 0 0 1]\ncam1=[200 0 110; 0 200 70; 0 0 1]\ndoffs=0\nbaseline=60\n"
    )
    from assay.studies.geometry3d import affine_cameras as module

    shared = {"stereo": []}
    (pair, candidates), *rest = module._real(tmp_path)
    assert rest == []
    assert pair.name == "forest_1l"
    chosen = module.spread_over_tilts(candidates.tilt, 30, np.random.default_rng(0))
    shared["stereo"].append(module.stereo_patches(pair, candidates, chosen))
    results = {
        arm: call_with(study.trial_hook, {"arm": arm, "condition": "stereo", "seed": 1, "shared": shared})
        for arm in ("translation", "affine", "normal_linear6")
    }
    assert results["affine"]["warp_error_px"] < 0.01 < results["translation"]["warp_error_px"]
    assert results["affine"]["zncc"] > results["translation"]["zncc"]
    assert results["normal_linear6"]["normal_err_deg"] < 45
    (scene / "calib.txt").rename(scene / "other.txt")
    module._real.cache_clear()
    with pytest.raises(InputError, match="no scenes"):
        module._real(tmp_path)


def test_smoke_trials_cover_every_arm():
    shared = call_with(study.prepare_hook, {"seed": 0, "scale": "smoke", "data": None})
    for planned in study.trials("smoke", [0]):
        result = call_with(
            study.trial_hook, {"arm": planned.arm, "condition": planned.condition, "seed": 0, "shared": shared}
        )
        assert {"warp_error_px", "normal_err_deg"} & set(result)
    closed = study.trial_hook("affine", "planes", 0, shared)
    numeric = study.trial_hook("dlt_numeric", "planes", 0, shared)
    assert closed["warp_error_px"] == pytest.approx(numeric["warp_error_px"], abs=1e-5)
