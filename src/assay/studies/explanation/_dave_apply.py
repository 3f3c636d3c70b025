"""DAVE on a user's pictures: maps, overlays, a table of how far to trust them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn

from assay.errors import InputError, require
from assay.methods.explanation.dave import (
    Transform,
    Transforms,
    UnsupportedLayer,
    dave,
    logits_of,
    normalise,
    patch_artifact,
    patch_of,
)
from assay.studies.explanation._dave_models import Classifier, load_classifier, pictures_of, read_picture

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]


def explain_files(
    place: Path, out: Path, model: str, target: str | None, others: Mapping[str, Explain], contrast: bool,
    passes: int, noise: float,
) -> dict[str, Any]:  # fmt: skip
    """Write maps of every picture and return what was found in words and numbers.

    Raises:
        InputError: bad options, pictures, model or class.
    """
    if passes < 2 or not 0 <= noise <= 1:
        raise InputError(f"--passes must be at least 2 and --noise in [0, 1], got {passes} and {noise}")
    files = pictures_of(place)
    classifier = load_classifier(model)
    wanted = None if target is None else classifier.number(target)
    try:
        patch = patch_of(classifier.model)
        shifts = Transforms.shifts(patch, passes // 2)
    except UnsupportedLayer as error:
        raise InputError(f"--model {model}: {error}") from error

    def ours(network: nn.Module, x: Tensor, goal: Tensor) -> Tensor:
        return dave(network, x, goal, transforms=shifts, noise=noise, contrast=contrast, batch=8)

    out.mkdir(parents=True)
    rows, kept = [], []
    stems: dict[str, int] = {}
    for file in files:
        picture, transparent = read_picture(file)
        if min(picture.shape[1:]) < patch:
            raise InputError(f"{file}: smaller than a patch of the model ({patch} px)")
        stems[file.stem] = stems.get(file.stem, 0) + 1
        stem = file.stem if stems[file.stem] == 1 else f"{file.stem}-{stems[file.stem]}"
        for name, explain in {"dave": ours, **others}.items():
            row, found = _explained(classifier, picture, wanted, explain, patch)
            ending = "" if name == "dave" else f".{name}"
            _write(out / f"{stem}{ending}", picture, row.pop("map"))
            on_white = "transparency put on white" if transparent else ""
            rows.append({"picture": file.name, "method": name, **row, "note": on_white})
            if name == "dave":
                kept.append(found)
    with (out / "maps.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if place.is_dir():
        _draw_spectrum(torch.cat(kept), patch, out / "spectrum.png")
    first = rows[0]
    report = {"pictures": len(files), "maps": len(rows), "patch": patch, "size": list(classifier.size)}
    return report | {key: first[key] for key in ("class", "probability", "stability", "artifact_db") if len(files) == 1}


def _explained(
    classifier: Classifier, picture: Tensor, wanted: int | None, explain: Explain, patch: int
) -> tuple[dict[str, Any], Tensor]:
    """A row of the table with the map at the picture's size, and the map at the model's size."""
    x = classifier.prepare(picture)
    with torch.no_grad():
        logits = logits_of(classifier.model(x))
    number = int(logits.argmax()) if wanted is None else wanted
    if number >= logits.shape[1]:
        raise InputError(f"the model has {logits.shape[1]} classes, but its names go to {number}")
    goal = torch.tensor([number])
    try:
        found = explain(classifier.model, x, goal)
        move = Transform(3, 3)
        again, known = move.invert(explain(classifier.model, move.apply(x), goal).unsqueeze(1))
    except UnsupportedLayer as error:
        raise InputError(f"the model cannot be explained: {error}") from error
    inside = known[0, 0] > 0
    row = {
        "class": classifier.names.get(number, str(number)),
        "number": number,
        "probability": round(float(logits.softmax(dim=1)[0, number]), 4),
        "stability": _rank_correlation(found[0][inside], again[0, 0][inside]),
        "artifact_db": "",
        "map": nn.functional.interpolate(
            found[None], picture.shape[1:], mode="bilinear", align_corners=False, antialias=True
        )[0, 0],
    }
    if patch >= 2 and min(x.shape[-2:]) >= 8 * patch:
        row["artifact_db"] = round(patch_artifact(found, patch), 2)
    return row, found


def _rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's, rounded; 0 where a map is constant."""
    from scipy.stats import spearmanr

    a, b = first.numpy(), second.numpy()
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else round(float(spearmanr(a, b).statistic), 4)


def _write(stem: Path, picture: Tensor, found: Tensor) -> None:
    np.save(stem.with_name(f"{stem.name}.npy"), found.numpy().astype(np.float32), allow_pickle=False)
    share = normalise(found).numpy()[..., None]
    colour = colormaps["inferno"](share[..., 0])[..., :3]
    grey = picture.mean(dim=0).numpy()[..., None]
    overlay = (1 - 0.75 * share) * grey + 0.75 * share * colour
    image = require("PIL.Image", "explanation").fromarray((overlay * 255).round().clip(0, 255).astype(np.uint8))
    image.save(stem.with_name(f"{stem.name}.png"))


def _draw_spectrum(maps: Tensor, patch: int, file: Path) -> None:
    """Mean power of all maps on both frequency axes, with the frequencies of the patch grid."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    window = torch.hann_window(maps.shape[-2]).view(-1, 1) * torch.hann_window(maps.shape[-1])
    power = torch.fft.fft2((maps - maps.mean(dim=(1, 2), keepdim=True)) * window).abs().square().mean(dim=0)
    for name, line in (("across", power[0]), ("down", power[:, 0])):
        half = len(line) // 2
        axis.plot(np.arange(1, half + 1) / len(line), 10 * np.log10(line[1 : half + 1].numpy() + 1e-20), label=name)
    for m in range(1, patch // 2 + 1):
        axis.axvline(m / patch, color="grey", lw=0.5, ls=":")
    axis.set(xlabel="frequency (1/px of the model's input)", ylabel="mean power (dB)")
    axis.legend()
    figure.savefig(file, dpi=150)
