"""Full scale of the DAVE study: grid pointing game and object masks on ImageNet validation images.

The folder given with `--data` holds `val/<class>/*.JPEG` (the class folders in the order of the model's classes when
sorted, as WordNet ids are), optionally `masks/<class>/*.png` (ImageNet-S: class number as R + 256 G, 0 background,
1000 to be ignored), and optionally `model/`, a Hugging Face folder; otherwise `facebook/deit-base-patch16-224`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.errors import InputError, require
from assay.lab import Evidence
from assay.methods.explanation.dave import logits_of, patch_artifact, patch_of
from assay.metrics.localisation import area_share, energy_in_mask, grid_pointing_game
from assay.studies.explanation._dave_models import Classifier, load_classifier, read_picture

MODEL = "facebook/deit-base-patch16-224"
GRID = 3
GRIDS = 500
MASKED = 1000
CONFIDENT = 0.99
IGNORED = 1000


def prepare(
    data: Path | None, seed: int, device: str, grids: int = GRIDS, masked: int = MASKED, confident: float = CONFIDENT
) -> dict[str, Any]:
    """Confident images, the grids drawn from them, and images with masks.

    Raises:
        InputError: no folder, no class folders, or too few confident images of different classes for a grid.
    """
    if data is None or not (data / "val").is_dir():
        raise InputError("the full scale needs ImageNet: pass --data FOLDER with val/<class>/*.JPEG")
    classifier = load_classifier(str(data / "model") if (data / "model").is_dir() else MODEL)
    classifier.model.to(device)
    rng = np.random.default_rng(seed)
    folders = sorted(p for p in (data / "val").iterdir() if p.is_dir())
    files = [(p, number) for number, folder in enumerate(folders) for p in sorted(folder.iterdir()) if p.is_file()]
    chosen: dict[int, list[Path]] = {}
    for i in rng.permutation(len(files)):
        path, number = files[i]
        if sum(map(len, chosen.values())) >= GRID * GRID * max(grids // 4, 2):
            break
        if _probability(classifier, path, number, device) >= confident:
            chosen.setdefault(number, []).append(path)
    if len(chosen) < GRID * GRID:
        raise InputError(f"{data}: confident images of {len(chosen)} classes only; a grid needs {GRID * GRID}")
    drawn = []
    for _ in range(grids):
        numbers = rng.choice(sorted(chosen), GRID * GRID, replace=False)
        drawn.append([(chosen[n][rng.integers(len(chosen[n]))], int(n)) for n in numbers])
    masks = [(p, n, m) for p, n in files if (m := data / "masks" / p.parent.name / f"{p.stem}.png").is_file()]
    some = [masks[i] for i in rng.permutation(len(masks))[:masked]]
    return {"classifier": classifier, "grids": drawn, "masks": some, "device": device,
            "patch": patch_of(classifier.model)}  # fmt: skip


def trial(
    explain: Callable[[nn.Module, Tensor, Tensor], Tensor], condition: str, shared: dict[str, Any]
) -> dict[str, float]:
    """Grid pointing game with every image of a grid explained in turn once, energy in masks, artefact of the maps."""
    classifier, device = shared["classifier"], shared["device"]
    if condition == "shuffled":
        return {}  # nobody has such a model of ImageNet; the pocket scale has
    if condition == "randomised":
        network = classifier.model
        torch.manual_seed(0)
        drawn_anew = type(network)(getattr(network, "config", None) or network.options)
        classifier = replace(classifier, model=drawn_anew.to(device).eval())
    shares, maps = [], []
    for i, grid in enumerate(shared["grids"]):
        x = assemble(classifier, [path for path, _ in grid]).to(device)
        cell = i % len(grid)
        found = explain(Resampled(classifier.model), x, torch.tensor([grid[cell][1]], device=device)).cpu()
        side = x.shape[-1] // GRID * GRID
        shares.append(float(grid_pointing_game(found[:, :side, :side], [cell], GRID)[0]))
    energies, lifts = [], []
    for path, number, mask_file in shared["masks"]:
        inside = read_mask(mask_file, classifier.size)
        if not inside.any():
            continue
        x = classifier.prepare(read_picture(path)[0]).to(device)
        found = explain(classifier.model, x, torch.tensor([number], device=device)).cpu()
        energies.append(float(energy_in_mask(found, inside[None])[0]))
        lifts.append(energies[-1] / float(area_share(inside[None])[0]))
        maps.append(found / found.abs().max().clamp_min(1e-12))
    result = {"grid_pg": float(np.mean(shares)), "detection_f1": 1.0}
    if maps:
        result |= {"energy_in_mask": float(np.mean(energies)), "energy_lift": float(np.mean(lifts)),
                   "grid_artifact_db": patch_artifact(torch.cat(maps), shared["patch"])}  # fmt: skip
    return result


class Resampled(nn.Module):
    """A model that takes images of other sizes than it was trained on, its positions resampled."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, getattr(model, "config", None)
        self.options = getattr(model, "options", None)
        self.keyword = {"interpolate_pos_encoding": True} if self.config and self.config.model_type != "dinov2" else {}
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.model(x, **self.keyword)


def assemble(classifier: Classifier, paths: list[Path]) -> Tensor:
    """A grid of images (1, 3, GRID * H, GRID * W), row by row."""
    cells = [classifier.prepare(read_picture(path)[0]) for path in paths]
    return torch.cat([torch.cat(cells[i : i + GRID], dim=3) for i in range(0, GRID * GRID, GRID)], dim=2)


def read_mask(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Pixels of the object in an ImageNet-S annotation, at the model's size."""
    with require("PIL.Image", "explanation").open(file) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.int64)
    number = pixels[..., 0] + 256 * pixels[..., 1]
    inside = torch.from_numpy((number > 0) & (number != IGNORED)).float()
    return (F.interpolate(inside[None, None], size, mode="nearest")[0, 0] > 0).numpy()


def figure(evidence: Evidence) -> plt.Figure:
    """Grid pointing game and energy in masks of every arm."""
    fig, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for axis, metric in zip(axes, ("grid_pg", "energy_in_mask"), strict=True):
        axis.barh(list(evidence.arms), [np.nanmean(evidence.values(metric, arm, "trained")) for arm in evidence.arms])
        axis.set_xlabel(evidence.label(metric))
    return fig


@torch.no_grad()
def _probability(classifier: Classifier, path: Path, number: int, device: str) -> float:
    logits = logits_of(classifier.model(classifier.prepare(read_picture(path)[0]).to(device)))
    return float(logits.softmax(dim=1)[0, number]) if number < logits.shape[1] else 0.0
