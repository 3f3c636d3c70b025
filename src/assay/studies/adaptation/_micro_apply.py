"""`assay apply 2602.06523`: train on a user's recordings and export, or label a recording with a trained network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.data.series.recordings import read_csv, read_windows
from assay.data.series.windows import cut, drop_constant, split_by_subject, split_by_time, standardise
from assay.errors import InputError
from assay.methods.adaptation.micro_conv_lstm import Fit, MicroBiConvLSTM, predict, quantize, to_onnx
from assay.metrics.cost import parameter_count
from assay.studies.adaptation._micro_arms import Task, macro_f1, train
from assay.studies.adaptation._micro_report import Trained, confusion, footprint, load, save, write_csv


def run(
    recordings: Path, out: Path, window: float, rate: float, overlap: float, export: str, updates: int,
    seed: int, model: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """What the study's `apply` does; arguments as there."""
    if not (window > 0 and rate > 0 and np.isfinite([window, rate]).all()) or not 0 <= overlap < 1 or updates < 1:
        raise InputError(
            f"--window and --rate must be positive, --overlap in [0, 1) and --updates at least 1, got {window},"
            f" {rate}, {overlap} and {updates}"
        )
    wanted = {word.strip() for word in export.split(",")}
    if not wanted <= {"onnx", "c", "none"} or ("none" in wanted and len(wanted) > 1):
        raise InputError(f"--export {export}: expected onnx, c, onnx,c or none")
    if model is not None:
        return label(recordings, load(model), out)
    windows = drop_constant(read_windows(recordings, window, rate, overlap))
    if len(windows.classes) < 2:
        raise InputError(f"{recordings}: one class ({windows.classes[0]}), expected at least two")
    rng, notes = np.random.default_rng(seed), list(windows.notes)
    if len(set(windows.subjects.tolist())) > 1:
        train_rows, test_rows = split_by_subject(windows, 0.25, rng)
    else:
        train_rows, test_rows = split_by_time(windows, 0.25, embargo=1)
        notes.append("fewer than two subjects: the last quarter of each class tests, in time; expect less on others")
    if len(train_rows) < 2:
        raise InputError(f"{recordings}: {len(windows.y)} windows are too few to train and test on")
    rate = windows.rate or rate
    mean, std = standardise(windows.x[train_rows])
    steps = windows.x.shape[2]
    shell = MicroBiConvLSTM(windows.x.shape[1], len(windows.classes))
    try:
        shell.length(steps)
    except ValueError as error:
        raise InputError(f"{recordings}: {error}") from error
    ready = Trained(shell, windows.classes, windows.channels, steps / rate, rate, mean, std)
    x, y = ready.standardised(windows.x), torch.from_numpy(windows.y)
    people = windows.subjects[train_rows]
    whole = Task(x[train_rows], y[train_rows], people, x[test_rows], y[test_rows], len(windows.classes))
    net = train(MicroBiConvLSTM, whole, seed, Fit(lr=5e-3, updates=updates))
    ready = replace(ready, net=net)
    small = quantize(net, whole.x[torch.randperm(len(whole.x), generator=torch.Generator().manual_seed(seed))[:200]])

    save(ready, out / "model")
    np.savez(out / "int8.npz", **small.state())
    if "c" in wanted:
        small.to_c(out / "micro.h")
    if "onnx" in wanted:
        to_onnx(net, out / "model.onnx")
        to_onnx(small, out / "model_int8.onnx")
    said, said8 = predict(net, whole.x_test).argmax(1), small(whole.x_test).argmax(1)
    write_csv(out / "confusion.csv", confusion(whole.y_test.numpy(), said.numpy(), windows.classes))
    write_csv(out / "footprint.csv", footprint(net, steps))
    report = {
        "windows": {"train": len(train_rows), "test": len(test_rows), "steps": steps, "rate": rate},
        "channels": list(windows.channels),
        "classes": list(windows.classes),
        "macro_f1": round(macro_f1(said, whole.y_test, whole.classes), 2),
        "macro_f1_int8": round(macro_f1(said8, whole.y_test, whole.classes), 2),
        "parameters": parameter_count(net),
        "footprint": footprint(net, steps),
        "notes": notes,
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def label(recordings: Path, trained: Trained, out: Path) -> dict[str, Any]:
    """A label for every second of a CSV (or of each in a folder): that of the window around its middle."""
    files = sorted(recordings.glob("*.csv")) if recordings.is_dir() else [recordings]
    if not files:
        raise InputError(f"{recordings}: no CSV recordings in it")
    rows = []
    for path in files:
        for recording in read_csv(path, labelled=False):
            missing = [name for name in trained.channels if name not in recording.channels]
            if missing:
                raise InputError(f"{path}: channels {', '.join(missing)} are missing; the model was trained on them")
            order = [recording.channels.index(name) for name in trained.channels]
            times = recording.times
            span = times[-1] - times[0]
            ready = replace(
                recording, values=recording.values[:, order], channels=trained.channels,
                labels=np.full(len(times), "?"), subject="", name=path.name,
            )  # fmt: skip
            windows = cut([ready], trained.seconds, trained.rate, overlap=max(1 - 0.5 / trained.seconds, 0))
            chance = torch.softmax(predict(trained.net, trained.standardised(windows.x)), dim=1)
            assert windows.starts is not None
            middles = windows.starts + trained.seconds / 2
            for second in range(int(span) + 1):
                best = chance[int(np.abs(middles - second - 0.5).argmin())]
                k = int(best.argmax())
                rows.append({
                    "file": path.name, "subject": recording.subject, "second": second, "label": trained.classes[k],
                    "probability": round(float(best[k]), 4),
                })  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "labels.csv", rows)
    return {"seconds": len(rows), "labels": {c: sum(r["label"] == c for r in rows) for c in trained.classes}}
