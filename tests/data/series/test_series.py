"""Windows, splits, simulators, and readers of the official layouts on small files of the same form."""

import numpy as np
import pytest

from assay.data.series import archive, har, watch
from assay.data.series.har_folders import UCI_SIGNALS, read_folder
from assay.data.series.recordings import read_npz, read_windows
from assay.data.series.windows import (
    Recording,
    Windows,
    cut,
    drop_constant,
    split_by_subject,
    split_by_time,
    standardise,
    stratified,
)
from assay.errors import InputError


def recording(times, values, label="a", subject="s"):
    values = np.asarray(values, dtype=float).reshape(len(times), -1)
    names = tuple(f"c{i}" for i in range(values.shape[1]))
    return Recording(np.asarray(times, dtype=float), values, np.full(len(times), label), subject, names, "r")


def test_a_ramp_stays_a_ramp_whatever_the_rate():
    times = np.sort(np.random.default_rng(0).uniform(0, 20, 900))
    times[0], times[-1] = 0, 20
    made = cut([recording(times, 3 * times)], seconds=2, rate=10, overlap=0.5)
    assert made.x.shape == (19, 1, 20)
    expected = 3 * (made.starts[:, None] + np.arange(20) / 10)
    np.testing.assert_allclose(made.x[:, 0], expected, atol=1e-4)


def test_windows_do_not_cross_a_long_gap_and_say_so():
    times = np.concatenate([np.arange(0, 5, 0.1), np.arange(50, 55, 0.1)])
    made = cut([recording(times, times)], seconds=2, rate=10, overlap=0)
    assert len(made.x) == 4
    assert (np.diff(made.x[:, 0], axis=1) < 0.2).all()
    assert "1 gap" in made.notes[0]


def test_missing_samples_are_interpolated_and_unlabelled_windows_left_out():
    values = np.arange(40, dtype=float)
    values[10:13] = np.nan
    one = recording(np.arange(40) / 10, values)
    one.labels[20:] = ""
    made = cut([one], seconds=1, rate=10, overlap=0)
    assert len(made.x) == 2
    np.testing.assert_allclose(made.x[1, 0], np.arange(10, 20), atol=1e-4)


def test_cut_refuses():
    with pytest.raises(InputError, match="does not rise at row 3"):
        cut([recording([0, 1, 1, 2], np.ones(4))], 1, 10)
    with pytest.raises(InputError, match="at least 4"):
        cut([recording([0, 1], np.ones(2))], 0.1, 10)
    with pytest.raises(InputError, match="no recording holds"):
        cut([recording([0, 1], np.ones(2))], 5, 10)


def test_splits_keep_subjects_and_times_apart():
    made = har.periodic(np.random.default_rng(0), subjects=6, each=12)
    train, test = split_by_subject(made, 0.3, np.random.default_rng(1))
    assert not set(made.subjects[train]) & set(made.subjects[test])
    assert set(made.y[test]) == set(range(6))
    assert len(train) + len(test) == len(made.y)
    train, test = split_by_time(made, 0.25)
    for k in range(6):
        assert train[made.y[train] == k].max() < test[made.y[test] == k].min() - 0
    train, test = stratified(made.y, 0.5, np.random.default_rng(0))
    assert (np.bincount(made.y[train]) == np.bincount(made.y[test])).all()
    with pytest.raises(InputError, match="at least two"):
        split_by_subject(made.take(np.nonzero(made.subjects == "s00")[0]), 0.3, np.random.default_rng(0))


def test_constant_channels_go_and_are_named():
    x = np.random.default_rng(0).normal(size=(5, 3, 8)).astype(np.float32)
    x[:, 1] = 2
    whole = Windows(x, np.zeros(5, np.int64), np.full(5, ""), ("a",), ("u", "v", "w"))
    kept = drop_constant(whole)
    assert kept.channels == ("u", "w")
    assert "v" in kept.notes[0]
    np.testing.assert_array_equal(kept.x, x[:, [0, 2]])
    mean, std = standardise(kept.x)
    scaled = (kept.x - mean) / std
    np.testing.assert_allclose(scaled.std(axis=(0, 2)), 1, atol=1e-5)
    with pytest.raises(InputError, match="every channel"):
        drop_constant(Windows(x[:, 1:2], whole.y, whole.subjects, ("a",), ("v",)))


@pytest.mark.parametrize("make", [har.periodic, har.episodic])
def test_simulators_repeat_and_vary(make):
    first = make(np.random.default_rng(5), subjects=3, each=8)
    again = make(np.random.default_rng(5), subjects=3, each=8)
    other = make(np.random.default_rng(6), subjects=3, each=8)
    np.testing.assert_array_equal(first.x, again.x)
    assert np.abs(first.x - other.x).max() > 0.1
    assert first.x.shape == (24, 6, 128)
    assert np.isfinite(first.x).all()
    with pytest.raises(ValueError, match="positive"):
        make(np.random.default_rng(0), subjects=0)


def test_a_tremble_is_in_its_band_and_anywhere_in_the_window():
    rng = np.random.default_rng(0)
    bursts = np.stack([har._burst(rng)[0] for _ in range(400)])
    power = np.abs(np.fft.rfft(bursts)) ** 2
    hertz = np.fft.rfftfreq(128, 1 / 50)
    assert power[:, (hertz > 1.5) & (hertz < 10)].sum() > 0.95 * power.sum()
    when = np.cumsum((bursts**2).mean(0)) / (bursts**2).mean(0).sum()
    assert abs(when[63] - 0.5) < 0.08  # neither half of the window is favoured


def test_pink_noise_has_one_over_f_power():
    power = (np.abs(np.fft.rfft(har.pink((3000, 128), np.random.default_rng(0)))) ** 2).mean(axis=0)
    slope = np.polyfit(np.log(np.arange(2, 60)), np.log(power[2:60]), 1)[0]
    assert abs(slope + 1) < 0.1


def test_watch_of_the_wheel():
    if watch.installed() is None:
        pytest.skip("seglearn, whose wheel carries the recordings, is not installed")
    recordings = watch.read_watch()
    assert len(recordings) == 140
    each = {(r.subject, r.labels[0]) for r in recordings}
    assert len(each) == 10 * len(watch.EXERCISES)  # ten persons, every exercise with either arm
    assert all(r.values.shape == (len(r.times), 6) and np.isfinite(r.values).all() for r in recordings)
    gravity = [np.linalg.norm(r.values[:, :3], axis=1).mean() for r in recordings]
    assert 0.9 < np.median(gravity) < 1.4  # in g, and smooth in time: the numbers were put back in their order
    rough = [np.abs(np.diff(r.values, axis=0)).mean(0) / r.values.std(0) for r in recordings]
    assert np.median(rough) < 0.4  # in another order it is above 2
    assert cut(recordings, 2.56, 50.0).x.shape[1:] == (6, 128)


def test_watch_refuses_another_file_and_runs_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    path = tmp_path / "watch_dataset.npy"
    np.save(path, np.array({"X": Bomb()}), allow_pickle=True)
    with pytest.raises(InputError, match="SHA-256"):
        watch.read_watch(path)
    assert not (tmp_path / "ran").exists()


def test_ts_sets_are_joined_and_stretched(tmp_path):
    (tmp_path / "A_TRAIN.ts").write_text("@data\n1,2,3:4,5,6:b\n1,1,1:2,2,2:a\n")
    (tmp_path / "A_TEST.ts").write_text("@data\n0,1,2,3,4:0,0,0,0,8:a\n")
    made = read_windows(tmp_path, 1, 10)
    assert (made.x.shape, made.classes, made.rate) == ((3, 2, 3), ("a", "b"), 10)
    np.testing.assert_allclose(made.x[0], [[0, 2, 4], [0, 0, 8]])
    assert made.y.tolist() == [0, 1, 0]
    assert "3 to 5" in made.notes[0]
    (tmp_path / "A_TEST.ts").write_text("@data\n0,1,2:a\n")
    with pytest.raises(InputError, match="one number of channels"):
        read_windows(tmp_path, 1, 10)


def test_ts_refuses_a_broken_line(tmp_path):
    path = tmp_path / "x.ts"
    path.write_text("@data\n1,2,3:4,5,6:a\n1,2,three:4,5,6:b\n")
    with pytest.raises(InputError, match="line 3"):
        archive.read_ts(path)
    path.write_text("@data\n1,2,3,NaN:4,5,6,NaN:a\n")
    series, labels = archive.read_ts(path)
    assert series[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert labels == ["a"]


def uci_har(root, rng, n=6):
    for part, who in (("train", 1), ("test", 2)):
        folder = root / part / "Inertial Signals"
        folder.mkdir(parents=True)
        for i, name in enumerate(UCI_SIGNALS):
            np.savetxt(folder / f"{name}_{part}.txt", rng.normal(size=(n, 128)) + 10 * i, fmt="%.7e")
        np.savetxt(root / part / f"y_{part}.txt", np.arange(n) % 6 + 1, fmt="%d")
        np.savetxt(root / part / f"subject_{part}.txt", np.full(n, who), fmt="%d")
    return root


def test_uci_har(tmp_path):
    root = uci_har(tmp_path / "UCI HAR Dataset", np.random.default_rng(0))
    name, made = read_folder(tmp_path)
    assert name == "UCI-HAR"
    assert made.x.shape == (12, 9, 128)
    assert made.y.tolist() == [*range(6), *range(6)]
    np.testing.assert_allclose(made.x.mean(axis=(0, 2)), 10 * np.arange(9), atol=0.2)  # channels in their order
    assert not set(made.subjects[:6]) & set(made.subjects[6:])
    (root / "test" / "y_test.txt").write_text("1\n")
    with pytest.raises(InputError, match="different numbers of rows"):
        read_folder(tmp_path)
    (root / "train" / "Inertial Signals" / "total_acc_z_train.txt").unlink()
    with pytest.raises(InputError, match="not complete"):
        read_folder(tmp_path)


def test_wisdm(tmp_path):
    lines = [f"33,Jogging,{10**9 + i * 50_000_000},{i % 7 - 3.5},12.68,0.5{i % 10};" for i in range(400)]
    lines[5] = lines[5] + "\n" + lines[5]  # a repeated time
    lines[9] = "33,Jogging,;"
    (tmp_path / "WISDM_ar_v1.1_raw.txt").write_text("\n".join(lines))
    name, made = read_folder(tmp_path)
    assert (name, made.classes, made.x.shape[1:]) == ("WISDM", ("Jogging",), (3, 128))
    assert set(made.subjects) == {"33"}


def test_pamap2_daphnet_opportunity(tmp_path):
    rng = np.random.default_rng(0)
    pamap = rng.normal(size=(1200, 54))
    pamap[:, 0] = np.arange(1200) / 100
    pamap[:, 1] = 4
    pamap[::3, 5] = np.nan
    (tmp_path / "p" / "Protocol").mkdir(parents=True)
    np.savetxt(tmp_path / "p" / "Protocol" / "subject101.dat", pamap, fmt="%.4f")
    name, made = read_folder(tmp_path / "p")
    assert (name, made.x.shape[1:], set(made.subjects)) == ("PAMAP2", (36, 170), {"subject101"})
    assert np.isfinite(made.x).all()

    daphnet = rng.integers(-500, 500, size=(640, 11))
    daphnet[:, 0] = np.arange(640) * 1000 // 64
    daphnet[:, 10] = np.where(np.arange(640) < 192, 0, np.where(np.arange(640) < 448, 1, 2))
    (tmp_path / "d").mkdir()
    np.savetxt(tmp_path / "d" / "S01R01.txt", daphnet, fmt="%d")
    name, made = read_folder(tmp_path / "d")
    assert (name, made.classes, made.x.shape[1:]) == ("Daphnet", ("freeze", "no freeze"), (9, 128))
    assert set(made.subjects) == {"S01"}

    opportunity = rng.normal(size=(150, 250))
    opportunity[:, 0] = np.arange(150) * 33
    opportunity[:, 249] = 406516
    (tmp_path / "o").mkdir()
    np.savetxt(tmp_path / "o" / "S1-ADL1.dat", opportunity, fmt="%.3f")
    name, made = read_folder(tmp_path / "o")
    assert (name, made.x.shape[1:], set(made.subjects)) == ("Opportunity", (77, 30), {"S1"})


def test_motionsense_and_matlab_sets(tmp_path):
    from scipy.io import savemat

    rng = np.random.default_rng(0)
    names = ["", "attitude.roll", *(f"{k}.{a}" for k in ("rotationRate", "userAcceleration") for a in "xyz")]
    folder = tmp_path / "m" / "A_DeviceMotion_data" / "wlk_7"
    folder.mkdir(parents=True)
    table = np.column_stack([np.arange(300), rng.normal(size=(300, 7))])
    np.savetxt(folder / "sub_1.csv", table, delimiter=",", header=",".join(names), comments="")
    name, made = read_folder(tmp_path / "m")
    assert (name, made.classes, made.x.shape[1:]) == ("MotionSense", ("wlk",), (6, 128))

    (tmp_path / "s").mkdir()
    skoda = np.column_stack([np.repeat([32, 48, 49], 400), rng.normal(size=(1200, 70))])
    savemat(tmp_path / "s" / "right_classall_clean.mat", {"right_classall_clean": skoda})
    name, made = read_folder(tmp_path / "s")
    assert (name, made.classes, made.x.shape[1:]) == ("SKODA", ("48", "49"), (30, 98))

    (tmp_path / "u").mkdir()
    savemat(tmp_path / "u" / "acc_data.mat", {"acc_data": rng.normal(size=(8, 453))})
    labels = np.column_stack([np.arange(8) % 4 + 1, np.arange(8) // 4 + 1, np.ones(8)])
    savemat(tmp_path / "u" / "acc_labels.mat", {"acc_labels": labels})
    name, made = read_folder(tmp_path / "u")
    assert (name, made.x.shape, set(made.subjects)) == ("UniMiB-SHAR", (8, 3, 151), {"01", "02"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,x,label\n0,1,a\n1,two,a\n", "could not convert"),
        ("t,x,label\n0,1,a\n", "expected time"),
        ("time,label\n0,a\n", "sensor columns"),
        ("time,x,label\n0,1\n", "3 cells"),
        ("", "expected time"),
    ],
)
def test_csv_refuses(tmp_path, text, message):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_windows(path, 1, 10)


def test_npz_refuses_objects_shapes_and_nan(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, x=np.array([{}, {}]), y=np.arange(2))
    with pytest.raises(InputError, match="cannot be read"):
        read_npz(path)
    np.savez(path, x=np.zeros((3, 4)), y=np.arange(3))
    with pytest.raises(InputError, match="expected numbers"):
        read_npz(path)
    np.savez(path, x=np.full((3, 4, 5), np.nan), y=np.arange(3))
    with pytest.raises(InputError, match="NaN"):
        read_npz(path)
