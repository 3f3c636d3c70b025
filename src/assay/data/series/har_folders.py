"""Public activity sets in their official layouts, found by the files a folder holds.

`read_folder` knows UCI-HAR, WISDM v1.1, PAMAP2, Daphnet, Opportunity, MotionSense, SKODA Mini Checkpoint and
UniMiB-SHAR. Windows follow each set's usual protocol (`PROTOCOL`). MATLAB files are read by SciPy, which runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.data.series.windows import Recording, Windows, cut
from assay.errors import InputError

UCI_SIGNALS = tuple(f"{kind}_{axis}" for kind in ("body_acc", "body_gyro", "total_acc") for axis in "xyz")
UCI_CLASSES = ("walking", "walking upstairs", "walking downstairs", "sitting", "standing", "laying")
OF_EPISODES = ("Daphnet", "SKODA", "Opportunity")  # sets of short events rather than of repeating activities
PROTOCOL = {  # seconds, samples a second, overlap
    "WISDM": (6.4, 20.0, 0.5), "PAMAP2": (5.12, 33.3, 0.5), "Daphnet": (2.0, 64.0, 0.5),
    "Opportunity": (1.0, 30.0, 0.5), "MotionSense": (2.56, 50.0, 0.5), "SKODA": (2.0, 49.0, 0.5),
}  # fmt: skip


def read_folder(folder: Path) -> tuple[str, Windows] | None:
    """Name and windows of a known set; None when the folder holds none of them.

    Raises:
        InputError: files of a known set that cannot be read.
    """
    for name, (pattern, reader) in READERS.items():
        found = sorted(folder.rglob(pattern))
        if found:
            return name, reader(found)
    return None


def official(folder: Path | None) -> dict[str, list[Windows]]:
    """The public sets in a folder, by kind.

    Raises:
        InputError: no folder, or none of a kind in it.
    """
    if folder is None:
        raise InputError(f"the full scale needs --data FOLDER with some of: {', '.join(READERS)}")
    parts = [folder, *sorted(p for p in folder.iterdir() if p.is_dir())] if folder.is_dir() else []
    sets = dict(one for one in map(read_folder, parts[1:] or parts) if one)
    kinds = {
        "periodic": [w for name, w in sets.items() if name not in OF_EPISODES],
        "episodic": [w for name, w in sets.items() if name in OF_EPISODES],
    }
    for kind, found in kinds.items():
        if not found:
            raise InputError(f"{folder}: no {kind} set found; known: {', '.join(READERS)}, each in a folder of its own")
    return kinds


def read_uci_har(found: list[Path]) -> Windows:
    """UCI-HAR: nine files of 128 columns for each of train and test; the rows of both, in that order."""
    root = found[0].parent.parent.parent
    x, y, who = [], [], []
    for part in ("train", "test"):
        signals = [
            _numbers(root / part / "Inertial Signals" / f"{name}_{part}.txt", columns=128) for name in UCI_SIGNALS
        ]
        labels = _numbers(root / part / f"y_{part}.txt", columns=1)[:, 0].astype(np.int64)
        subjects = _numbers(root / part / f"subject_{part}.txt", columns=1)[:, 0].astype(np.int64)
        if len({len(s) for s in signals} | {len(labels), len(subjects)}) > 1:
            raise InputError(f"{root / part}: signals, labels and subjects have different numbers of rows")
        if labels.min() < 1 or labels.max() > 6:
            raise InputError(f"{root / part}: labels must lie in 1..6, got {labels.min()}..{labels.max()}")
        x.append(np.stack(signals, axis=1))
        y.append(labels - 1)
        who += [f"{s:02d}" for s in subjects]
    return Windows(
        np.concatenate(x).astype(np.float32), np.concatenate(y), np.array(who), UCI_CLASSES, UCI_SIGNALS, 50.0
    )


def read_wisdm(found: list[Path]) -> Windows:
    """WISDM v1.1: `user,activity,timestamp in ns,x,y,z;`. Broken lines and repeated times, of which it has some, go."""
    rows = re.findall(
        r"(\d+),([A-Za-z]+),(\d+),(-?[\d.]+(?:[eE]-?\d+)?),(-?[\d.]+(?:[eE]-?\d+)?),(-?[\d.]+(?:[eE]-?\d+)?)",
        found[0].read_text(encoding="utf-8", errors="replace"),
    )
    if not rows:
        raise InputError(f"{found[0]}: no line user,activity,timestamp,x,y,z;")
    by_user: dict[str, list[tuple]] = {}
    for user, activity, time, *axes in rows:
        by_user.setdefault(user, []).append((int(time) * 1e-9, activity, [float(v) for v in axes]))
    recordings = []
    for user, samples in by_user.items():
        times = np.array([s[0] for s in samples])
        order = np.unique(times, return_index=True)[1]
        values, labels = np.array([s[2] for s in samples])[order], np.array([s[1] for s in samples])[order]
        recordings.append(Recording(times[order], values, labels, user, ("acc_x", "acc_y", "acc_z"), f"user {user}"))
    return cut(recordings, *PROTOCOL["WISDM"])


def read_pamap2(found: list[Path]) -> Windows:
    """PAMAP2: 54 columns; 12 of each of three sensors (two accelerometers, gyroscope, magnetometer)."""
    columns = [3 + 17 * sensor + 1 + i for sensor in range(3) for i in range(12)]
    names = tuple(f"{place}_{i}" for place in ("hand", "chest", "ankle") for i in range(12))
    recordings = []
    for path in found:
        table = _numbers(path, columns=54)
        labels = np.array([f"{int(k):02d}" if k else "" for k in table[:, 1]])
        recordings.append(Recording(table[:, 0], table[:, columns], labels, path.stem, names, path.name))
    return cut(recordings, *PROTOCOL["PAMAP2"])


def read_daphnet(found: list[Path]) -> Windows:
    """Daphnet: time in ms, nine accelerations, annotation (0 outside the experiment, 1 no freeze, 2 freeze)."""
    words = np.array(["", "no freeze", "freeze"])
    names = tuple(f"{place}_{axis}" for place in ("ankle", "leg", "trunk") for axis in "xyz")
    recordings = []
    for path in found:
        table = _numbers(path, columns=11)
        if not np.isin(table[:, 10], (0, 1, 2)).all():
            raise InputError(f"{path}: annotations must be 0, 1 or 2")
        order = np.unique(table[:, 0], return_index=True)[1]
        table = table[order]
        labels = words[table[:, 10].astype(np.int64)]
        recordings.append(Recording(table[:, 0] / 1e3, table[:, 1:10], labels, path.name[:3], names, path.name))
    return cut(recordings, *PROTOCOL["Daphnet"])


def read_opportunity(found: list[Path]) -> Windows:
    """Opportunity: 250 columns; 45 of the five body sensors, 32 of the shoes; gestures in the last column."""
    body = [start + i for start in (37, 50, 63, 76, 89) for i in range(9)]
    columns = body + list(range(102, 134))
    names = tuple(f"column {c + 1}" for c in columns)
    recordings = []
    for path in found:
        table = _numbers(path, columns=250)
        labels = np.array([f"{int(k)}" for k in table[:, 249]])
        recordings.append(Recording(table[:, 0] / 1e3, table[:, columns], labels, path.name[:2], names, path.name))
    return cut(recordings, *PROTOCOL["Opportunity"])


def read_motionsense(found: list[Path]) -> Windows:
    """MotionSense: a folder a trial (`wlk_7`), a CSV a subject; rotation rate and user acceleration."""
    names = tuple(f"{kind}.{axis}" for kind in ("rotationRate", "userAcceleration") for axis in "xyz")
    recordings = []
    for path in found:
        with path.open(encoding="utf-8") as lines:
            header = [word.strip().strip('"') for word in lines.readline().split(",")]
        if not set(names) <= set(header):
            raise InputError(f"{path}: columns {', '.join(n for n in names if n not in header)} are missing")
        table = _numbers(path, separator=",", skip=1)
        values = table[:, [header.index(name) for name in names]]
        word = path.parent.name.split("_")[0]
        times = np.arange(len(values)) / 50.0
        recordings.append(Recording(times, values, np.full(len(values), word), path.stem, names, path.name))
    return cut(recordings, *PROTOCOL["MotionSense"])


def read_skoda(found: list[Path]) -> Windows:
    """SKODA Mini Checkpoint, right arm: label, then per sensor its number, three calibrated and three raw axes."""
    from scipy.io import loadmat

    table = _matrix(loadmat(found[0]), found[0])
    sensors = (table.shape[1] - 1) // 7
    columns = [1 + 7 * s + 1 + i for s in range(sensors) for i in range(3)]
    labels = np.array(["" if k == 32 else f"{int(k)}" for k in table[:, 0]])  # 32: no gesture
    names = tuple(f"sensor {s}_{axis}" for s in range(sensors) for axis in "xyz")
    times = np.arange(len(table)) / 98.0
    return cut([Recording(times, table[:, columns], labels, "one", names, found[0].name)], *PROTOCOL["SKODA"])


def read_unimib(found: list[Path]) -> Windows:
    """UniMiB-SHAR: `acc_data` (N, 453), three axes of 151 samples; `acc_labels`: class and subject."""
    from scipy.io import loadmat

    x = _matrix(loadmat(found[0]), found[0])
    beside = found[0].with_name("acc_labels.mat")
    if not beside.is_file():
        raise InputError(f"{beside}: no such file; it belongs to {found[0].name}")
    labels = _matrix(loadmat(beside), beside)
    if x.shape[1] != 453 or len(labels) != len(x) or labels.shape[1] < 2:
        raise InputError(f"{found[0]}: expected (N, 453) and labels (N, 2 or more), got {x.shape} and {labels.shape}")
    classes, y = np.unique(labels[:, 0].astype(np.int64), return_inverse=True)
    who = np.array([f"{int(s):02d}" for s in labels[:, 1]])
    return Windows(
        x.reshape(len(x), 3, 151).astype(np.float32), y, who, tuple(map(str, classes)), ("x", "y", "z"), 50.0
    )


READERS: dict[str, tuple[str, Callable[[list[Path]], Windows]]] = {
    "UCI-HAR": ("train/Inertial Signals/body_acc_x_train.txt", read_uci_har),
    "WISDM": ("WISDM_ar_v1.1_raw.txt", read_wisdm),
    "PAMAP2": ("subject1??.dat", read_pamap2),
    "Daphnet": ("S??R??.txt", read_daphnet),
    "Opportunity": ("S?-*.dat", read_opportunity),
    "MotionSense": ("*_*/sub_*.csv", read_motionsense),
    "SKODA": ("right_classall_clean.mat", read_skoda),
    "UniMiB-SHAR": ("acc_data.mat", read_unimib),
}


def _numbers(
    path: Path, columns: int | None = None, separator: str | None = None, skip: int = 0
) -> NDArray[np.float64]:  # fmt: skip
    if not path.is_file():
        raise InputError(f"{path}: no such file; the set is not complete")
    try:
        table = np.loadtxt(path, delimiter=separator, skiprows=skip, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from error
    if columns is not None and table.shape[1] != columns:
        raise InputError(f"{path}: {table.shape[1]} columns, expected {columns}")
    return table


def _matrix(file: dict, path: Path) -> NDArray[np.float64]:
    tables = [v for k, v in file.items() if not k.startswith("__") and isinstance(v, np.ndarray) and v.ndim == 2]
    if not tables or tables[0].dtype == object:
        raise InputError(f"{path}: no matrix of numbers in it")
    return max(tables, key=lambda table: table.size).astype(np.float64)
