"""apply on files as trainers leave them, its refusals, and the full scale on a tiny data set in the COLMAP layout."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from assay.data.samples import locate
from assay.data.scenes.cameras_json import write_cameras_json
from assay.data.scenes.colmap import ColmapCamera, ColmapImage, ColmapPoints, Reconstruction, write_colmap
from assay.data.scenes.ray_cast import room, room_cameras
from assay.data.scenes.splat_ply import read_splat_ply, write_splat_ply
from assay.errors import InputError
from assay.geometry.splats import Splats
from assay.lab.apply import run_apply
from assay.lab.study import call_with
from assay.studies.shape import gaussian_pop as paper
from assay.studies.shape.gaussian_pop import Protocol, pack, study, unpack

SIZE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A data set as COLMAP and the INRIA trainer leave it: sparse/0, images/, point_cloud/iteration_7, cameras.json."""
    from scipy.spatial.transform import Rotation

    folder = tmp_path_factory.mktemp("dataset")
    generator = torch.Generator().manual_seed(0)
    place = room(generator, texels=32)
    cameras = room_cameras(9, generator, width=SIZE, height=SIZE)
    (folder / "images").mkdir()
    images, points, colors = {}, [], []
    for i, camera in enumerate(cameras):
        shot = place.render(camera, samples=1)
        name = f"{i:03d}.png"
        Image.fromarray((255 * shot.image.numpy()).round().astype(np.uint8)).save(folder / "images" / name)
        quaternion = np.roll(Rotation.from_matrix(camera.R.double().numpy()).as_quat(), 1)
        images[i + 1] = ColmapImage(i + 1, quaternion, camera.t.double().numpy(), 1, name)
        hit = shot.depth.isfinite()
        points.append(camera.unproject(camera.pixel_centres()[hit], shot.depth[hit].float())[::40])
        colors.append(shot.image[hit].float()[::40])
    xyz, rgb = torch.cat(points), torch.cat(colors)
    n = len(xyz)
    K = cameras[0].K.double()
    model = Reconstruction(
        {1: ColmapCamera(1, "PINHOLE", SIZE, SIZE, (float(K[0, 0]), float(K[1, 1]), SIZE / 2, SIZE / 2))},
        images,
        ColmapPoints(
            np.arange(n) + 1,
            xyz.double().numpy(),
            (255 * rgb).round().byte().numpy(),
            np.zeros(n),
            [np.zeros((0, 2), np.int64)] * n,
        ),
    )
    write_colmap(folder / "sparse" / "0", model)
    write_cameras_json(folder / "cameras.json", {f"{i:03d}": c for i, c in enumerate(cameras)})
    cloud = folder / "point_cloud" / "iteration_7"
    cloud.mkdir(parents=True)
    write_splat_ply(Splats.from_points(xyz, rgb, opacity=0.6, degree=3), cloud / "point_cloud.ply")
    return folder


@pytest.fixture
def ply(dataset):
    return dataset / "point_cloud" / "iteration_7" / "point_cloud.ply"


def run(ply, out, *options):
    return run_apply(study, [str(ply), "--out", str(out), *map(str, options)])


def report_of(out):
    return json.loads((out.parent / "report.json").read_text())


def test_kept_rows_are_byte_for_byte_those_of_the_input(tmp_path, dataset, ply):
    out = tmp_path / "small.ply"
    line = run(ply, out, "--keep", 0.3, "--cameras", dataset / "cameras.json")
    before, after = read_splat_ply(ply), read_splat_ply(out)
    expected = round(0.3 * len(before.rows))
    assert len(after.rows) == expected
    found = {row.tobytes(): i for i, row in enumerate(before.rows)}
    places = [found[row.tobytes()] for row in after.rows]
    assert places == sorted(places)
    report = report_of(out)
    assert report["gaussians"] == {"before": len(before.rows), "after": expected}
    assert len(report["psnr_small_against_full"]["views"]) == 9
    assert report["psnr_small_against_full"]["mean"] > 20
    assert f"-> {expected} Gaussians" in line
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_colmap_model_gives_the_same_result_as_cameras_json(tmp_path, dataset, ply):
    run(ply, tmp_path / "a" / "small.ply", "--cameras", dataset / "cameras.json")
    run(ply, tmp_path / "b" / "small.ply", "--colmap", dataset / "sparse" / "0")
    first, second = (set(map(bytes, read_splat_ply(tmp_path / n / "small.ply").rows)) for n in "ab")
    assert len(first & second) > 0.97 * len(first)  # poses differ in the last digits of float32


def test_pop_keeps_the_images_better_than_opacity(tmp_path, dataset, ply):
    means = {}
    for score in ("pop", "opacity"):
        run(ply, tmp_path / score / "s.ply", "--cameras", dataset / "cameras.json", "--score", score, "--keep", 0.6)
        means[score] = report_of(tmp_path / score / "s.ply")["psnr_small_against_full"]["mean"]
    assert means["pop"] > means["opacity"] + 1


def test_without_cameras_views_are_placed_around_and_a_warning_is_printed(tmp_path, ply, capsys):
    run(ply, tmp_path / "small.ply", "--keep", 100, "--size", 48, "--views", 6, "--rounds", 2)
    assert len(read_splat_ply(tmp_path / "small.ply").rows) == 100
    assert "no cameras given" in capsys.readouterr().err
    assert report_of(tmp_path / "small.ply")["cameras"].startswith("none given")


def test_keeping_all_gives_the_same_file(tmp_path, dataset, ply):
    run(ply, tmp_path / "small.ply", "--keep", 1, "--cameras", dataset / "cameras.json")
    assert (tmp_path / "small.ply").read_bytes() == ply.read_bytes()
    assert report_of(tmp_path / "small.ply")["psnr_small_against_full"]["mean"] is None


def test_refinement_brings_the_images_closer_to_the_photographs(tmp_path, dataset, ply):
    common = ("--cameras", dataset / "cameras.json", "--images", dataset / "images", "--rounds", 2, "--keep", 0.5)
    run(ply, tmp_path / "a" / "small.ply", *common)
    run(ply, tmp_path / "b" / "small.ply", *common, "--refine", 40)
    plain, refined = (report_of(tmp_path / n / "small.ply") for n in "ab")
    assert refined["psnr_small_against_photos"]["mean"] > plain["psnr_small_against_photos"]["mean"] + 0.5
    assert plain["psnr_full_against_photos"] == refined["psnr_full_against_photos"]
    read_splat_ply(tmp_path / "b" / "small.ply").splats.check()


def test_the_target_variant_takes_photographs(tmp_path, dataset, ply):
    options = ("--cameras", dataset / "cameras.json", "--images", dataset / "images", "--score", "pop_target")
    run(ply, tmp_path / "small.ply", *options, "--rounds", 1)
    report = report_of(tmp_path / "small.ply")
    assert report["score"] == "pop_target"


def test_refusals(tmp_path, dataset, ply):
    cameras = dataset / "cameras.json"
    mesh = tmp_path / "mesh.ply"
    mesh.write_text(
        "ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n" + "\0\0\0\0"
    )
    empty = tmp_path / "empty.ply"
    read_splat_ply(ply).select(np.zeros(0, int)).write(empty)
    broken = tmp_path / "broken.ply"
    bad = read_splat_ply(ply)
    bad.rows["scale_1"][3] = np.inf
    bad.write(broken)
    wide = tmp_path / "wide"
    shutil.copytree(dataset / "images", wide)
    Image.new("RGB", (SIZE, SIZE // 2)).save(wide / "004.png")
    far = tmp_path / "far.json"
    far.write_text(
        json.dumps([{**entry, "position": [0, 0, 1e6]} for entry in json.loads(cameras.read_text())]), encoding="utf-8"
    )
    cases = [
        ((mesh,), "property y is missing"),
        ((empty,), "the scene is empty"),
        ((tmp_path / "none.ply",), "no such file"),
        ((broken, "--cameras", cameras), "1 of .* Gaussians have a log_scales that is not finite"),
        ((ply, "--cameras", cameras, "--images", wide), "004.png is 32x16 pixels, its camera 32x32"),
        ((ply, "--cameras", cameras, "--keep", 0), "keep must be"),
        ((ply, "--cameras", cameras, "--keep", 1e9), "keep must be"),
        ((ply, "--cameras", cameras, "--colmap", dataset / "sparse/0"), "not both"),
        ((ply, "--cameras", cameras, "--refine", 5), "--refine needs photographs"),
        ((ply, "--cameras", cameras, "--score", "pop_target"), "--score pop_target needs photographs"),
        ((ply, "--images", dataset / "images"), "--images needs their cameras"),
        ((ply, "--cameras", cameras, "--rounds", 0), "--rounds"),
        ((ply, "--cameras", far), "do the cameras belong to it"),
        ((ply, "--cameras", ply), "cannot be read as cameras.json"),
        ((ply, "--colmap", tmp_path), "holds no COLMAP model"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            run(arguments[0], tmp_path / "out" / "small.ply", *arguments[1:])
    assert not (tmp_path / "out").exists()


def test_on_the_garden_sample(tmp_path):
    folder = locate("gsplat-garden")
    if folder is None:
        pytest.skip("the sample gsplat-garden is not here")
    (source,) = folder.glob("derived/point_cloud/*/point_cloud.ply")
    part = tmp_path / "part.ply"
    file = read_splat_ply(source)
    file.select(np.arange(0, len(file.rows), 16)).write(part)
    run(part, tmp_path / "small.ply", "--cameras", folder / "derived" / "cameras.json", "--size", 160, "--keep", 0.5)
    assert len(read_splat_ply(tmp_path / "small.ply").rows) == 1250
    assert report_of(tmp_path / "small.ply")["psnr_small_against_full"]["mean"] > 30


@pytest.mark.parametrize("trained", [True, False])
def test_full_scale_reads_a_data_set_in_the_colmap_layout(monkeypatch, tmp_path, dataset, trained):
    folder = tmp_path / "data"
    shutil.copytree(dataset, folder)
    if not trained:
        shutil.rmtree(folder / "point_cloud")
    tiny = Protocol(SIZE, 0, 6, 4, train=0, valid=0, test=0, rounds=2, keeps=(0.5, 0.3), factors=(0.3, 1.0), left_out=3)
    monkeypatch.setattr(paper, "FULL", tiny)
    small = replace(paper.SCALES["smoke"], gaussians=40, fit_steps=3, refine_steps=2, train=2, rounds=2)
    monkeypatch.setitem(paper.SCALES, "pocket", small)
    given = {"seed": 0, "scale": "full", "device": "cpu", "data": folder}
    shared = call_with(study.prepare_hook, given)
    fitted = shared["scene"]
    assert [len(fitted.views[part][0]) for part in ("train", "valid", "test")] == [6, 1, 2]
    assert fitted.start.degree == 3
    if trained:
        assert torch.equal(
            fitted.trained.means, read_splat_ply(folder / "point_cloud/iteration_7/point_cloud.ply").splats.means
        )
    else:
        assert not torch.equal(fitted.trained.means, fitted.start.means)
    for arm in ("pop", "blend_train"):
        found = call_with(study.trial_hook, {**given, "arm": arm, "condition": "scene", "shared": shared})
        wanted = ("psnr_ft_at_50pct", "psnr_ft_at_30pct", "psnr_ft_mean") if arm == "pop" else ("psnr_end",)
        assert all(np.isfinite(found[name]) for name in wanted)
    assert study.data_kind("full") == "real"


def test_full_scale_needs_a_data_set(tmp_path):
    given = {"seed": 0, "scale": "full", "device": "cpu"}
    with pytest.raises(InputError, match="--data FOLDER"):
        paper.photographed_scene(0, paper.FULL, "cpu", None)
    with pytest.raises(InputError, match="holds no COLMAP model"):
        paper.photographed_scene(0, paper.FULL, given["device"], tmp_path)


def test_images_survive_packing():
    image = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(unpack(np.array(pack([image])[0], float)), (255 * image).round().byte().numpy())
