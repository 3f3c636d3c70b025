"""DAVE: are maps of a transformer's effective gradient sharper, steadier, free of the patch grid? (2602.06613)

A small transformer learns to name the digits (one to four, real, on real textures) of a scene; the mask of each digit
says where a map for it should lie. All maps explain one present and detected label per scene of the same model, from
the same 32 passes where they take several. Blurred input-x-gradient (its blur tuned on validation scenes) is the plain
remedy against grid lines; SmoothGrad's noise is tuned on the same scenes. DAVE keeps its default settings.

How the transformer comes to learn in its budget (found by detection alone, on scenes of other seeds, before any map
was made): single digits come first, as one quarter of a scene with a quarter of the tokens; no picture is drawn twice;
positions start as large as patches; batches are small; Muon steps the matrices of the blocks. AdamW alone in batches
of 64 hardly leaves the plateau of the start.

Arms without the decomposition (`dave-fullgrad`), without moves (`dave-noreynolds`) and without filter
(`dave-nolowpass`) say what each part does. Controls: a model with weights drawn anew, and one trained on shuffled
labels, must not be found to look at the label's digit rather than at the scene's other digits.

Full scale: grids of 3x3 images and object masks of ImageNet with published weights (see `_dave_imagenet`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from assay.data.image.digit_scenes import digit_scenes
from assay.lab import Better, Evidence, Gate, Same, Study
from assay.methods.explanation.dave import (
    Transforms,
    dave,
    effective_gradient,
    full_gradient,
    normalise,
    patch_artifact,
)
from assay.metrics.faithfulness import area_under, perturbation_curve
from assay.metrics.localisation import (
    area_share,
    energy_in_mask,
    grid_pointing_game,
    pixel_average_precision,
    pointing_game,
)
from assay.studies.explanation import _dave_arms as arms
from assay.studies.explanation import _dave_imagenet as imagenet
from assay.studies.explanation import _dave_pocket as pocket
from assay.studies.explanation._dave_apply import explain_files
from assay.studies.explanation._dave_pocket import PATCH, Size, as_input

BLURS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
NOISES = (0.05, 0.1, 0.2)
CURVE = (4, 8, 16, 32)
SHOWN = 3

SIZES = {
    "smoke": Size(digits=128, scenes=64, mislabelled=64, width=32, depth=2, explained=4, probed=2),
    "pocket": Size(digits=40_000, scenes=32_000, mislabelled=2_000, width=64, depth=4, explained=32, probed=6),
}

study = Study(
    paper="2602.06613",
    arms={
        "dave": "DAVE: effective gradient, 16 shifts x 2 draws of noise, low-pass",
        "gradient": "norm of the gradient",
        "input-x-gradient": "gradient times input",
        "blurred-input-x-gradient": "the same, blurred; blur tuned",
        "smoothgrad-x-input": "the same over 32 noisy copies; noise tuned",
        "integrated-gradients": "32 steps from mid-grey",
        "grad-cam": "Grad-CAM on the patch tokens before the last attention",
        "attention-rollout": "attention rollout, the same for every class",
        "lrp-like": "effective gradient times input, one pass",
        "dave-fullgrad": "ablation: DAVE on the plain gradient",
        "dave-noreynolds": "ablation: DAVE without moves, 32 draws of noise",
        "dave-nolowpass": "ablation: DAVE without the filter",
        "centre-prior": "floor: a bump in the middle",
    },
    conditions={
        "trained": "the trained model",
        "randomised": "control: all weights drawn anew",
        "shuffled": "control: trained on shuffled labels",
    },
    arm_conditions={
        arm: ["trained"]
        for arm in (
            "gradient", "blurred-input-x-gradient", "smoothgrad-x-input", "integrated-gradients", "grad-cam",
            "attention-rollout", "lrp-like", "dave-fullgrad", "dave-noreynolds", "dave-nolowpass", "centre-prior",
        )
    },
    gates=[
        Gate("detection_f1", method="dave", condition="trained", at_least=0.8,
             why="the model must detect the digits before it can be asked where it sees them"),
    ],
    claims=[
        Better("energy_in_mask", name="C1", method="dave", baseline="smoothgrad-x-input", conditions=["trained"],
               paper="better localisation than prior attribution (second-hand)"),
        Better("energy_in_mask", name="C1b", method="dave", baseline="blurred-input-x-gradient",
               conditions=["trained"], paper="none: ours"),
        Better("grid_artifact_db", name="C2", method="dave", baseline="input-x-gradient", higher=False,
               conditions=["trained"], paper="architecture-made artefacts are told apart from content"),
        Better("grid_artifact_db", name="C2b", method="dave", baseline="blurred-input-x-gradient", higher=False,
               conditions=["trained"], paper="none: ours"),
        Better("shift_stability", name="C3", method="dave", baseline="integrated-gradients",
               conditions=["trained"], paper="stable attribution maps at pixel resolution"),
        Better("shift_stability", name="C3b", method="dave", baseline="blurred-input-x-gradient",
               conditions=["trained"], paper="none: ours"),
        Better("energy_in_mask", name="C4", method="dave", baseline="dave-fullgrad", conditions=["trained"],
               paper="the effective transformation carries the attribution"),
        Better("energy_in_mask", name="C5", method="dave", baseline="dave-noreynolds", conditions=["trained"],
               paper="none: ours"),
        Better("deletion_auc", name="C6", method="dave", baseline="attention-rollout", higher=False,
               conditions=["trained"], paper="none: ours"),
        Same("target_gain", name="control: randomised", method="dave", baseline="centre-prior", margin=0.05,
             conditions=["randomised"], baseline_conditions=["trained"], expected="supported",
             text="on random weights DAVE prefers the label's digit to the others no more than a fixed bump (0.05)"),
        Same("target_gain", name="control: shuffled", method="dave", baseline="centre-prior", margin=0.05,
             conditions=["shuffled"], baseline_conditions=["trained"], expected="supported",
             text="on a model of shuffled labels DAVE prefers the label's digit no more than a fixed bump does (0.05)"),
        Better("energy_lift", name="sanity", method="dave", conditions=["trained"], baseline_conditions=["randomised"],
               text="DAVE's energy on the digit comes from training: it falls when the weights are drawn anew",
               paper="none: ours"),
    ],
    metrics={
        "energy_in_mask": "share of positive attribution on the digit",
        "energy_lift": "the same over the digit's share of the area",
        "target_gain": "share on the label's digit among all digits, less its share of their area",
        "grid_pg": "grid pointing game: share in the right quarter",
        "pointing": "pointing game, 1 px",
        "pixel_ap": "average precision of the digit's pixels",
        "grid_artifact_db": "patch grid over local background (dB)",
        "shift_stability": "rank correlation under held-out shifts and a crop",
        "noise_stability": "rank correlation under noise",
        "deletion_auc": "area under deletion",
        "insertion_auc": "area under insertion",
        "class_overlap": "common mass of the maps of two digits",
        "variation_share": "operator variation over the norm of the gradient",
        "detection_f1": "F1 of the model on test scenes",
        "ms": "time per map (ms)",
        "energy_cascade": "energy lift while weights are drawn anew, head first",
        "stability_by_passes": "rank correlation under shifts, by number of passes",
    },
    seeds={"pocket": 3, "full": 3},
    data="real and simulated",
    tolerance=2e-3,
    tolerances={"ms": None, "pictures": None, "spectrum": None, "energy_cascade": 0.05, "stability_by_passes": 0.05},
)  # fmt: skip

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> dict[str, Any]:
    if scale == "full":
        return imagenet.prepare(data, seed, device)
    size = SIZES[scale]
    test = digit_scenes(max(4 * size.explained, 64), np.random.default_rng((seed, 3)), part="test")
    validation = digit_scenes(2 * size.explained, np.random.default_rng((seed, 4)))
    model = pocket.train(size, seed)
    shared = {
        "trained": model,
        "cascade": pocket.randomised(model, seed),
        "shuffled": pocket.train(size, seed, shuffled=True),
        "f1": pocket.detection_f1(model, test),
        "seed": seed,
        "size": size,
    }
    shared["randomised"] = shared["cascade"][-1]
    shared |= dict(zip(("scenes", "target", "second"), _explained(model, test, size.explained, seed), strict=True))
    return shared | _tuned(model, *_explained(model, validation, size.explained // 2, seed)[:2])


@study.trial
def trial(arm: str, condition: str, scale: str, shared: dict[str, Any]) -> dict[str, Any]:
    explain = explainer(arm, shared)
    if scale == "full":
        return imagenet.trial(explain, condition, shared)
    model, scenes, target, size = shared[condition], shared["scenes"], shared["target"], shared["size"]
    x = as_input(scenes.images)
    started = time.perf_counter()
    maps = explain(model, x, target)
    seconds = time.perf_counter() - started
    found = {"ms": 1000 * seconds / len(x), "detection_f1": shared["f1"], **localisation(maps, scenes, target)}
    if condition == "randomised" and arm == "dave":
        few = slice(0, size.probed)
        lifts = [
            localisation(explain(step, x[few], target[few]), scenes[few], target[few]) for step in shared["cascade"]
        ]
        found["energy_cascade"] = [lift["energy_lift"] for lift in lifts]
    if condition != "trained":
        return found
    few = x[: size.probed]
    maps_of = partial(explain, model)
    found["grid_artifact_db"] = patch_artifact(maps / maps.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-12), PATCH)
    found["shift_stability"] = pocket.shift_stability(maps_of, few, target[: len(few)])
    found["noise_stability"] = pocket.noise_stability(maps_of, few, target[: len(few)])
    for mode in ("deletion", "insertion"):
        found[f"{mode}_auc"] = float(
            area_under(perturbation_curve(_probability(model, target), x, maps, mode=mode)).mean()
        )
    several = torch.nonzero(shared["second"] >= 0)[: 2 * size.probed, 0]
    if len(several):
        found["class_overlap"] = pocket.overlap(maps[several], explain(model, x[several], shared["second"][several]))
    if arm == "dave":
        plain, effective = full_gradient(model, x, target), effective_gradient(model, x, target)
        found["variation_share"] = float((plain - effective).norm() / plain.norm())
    if arm in ("dave", "dave-fullgrad", "dave-noreynolds", "smoothgrad-x-input"):
        fewer = few[:4], target[: len(few[:4])]
        found["stability_by_passes"] = [
            pocket.shift_stability(partial(explainer(arm, shared, n), model), *fewer, ((3, 0), (2, 2))) for n in CURVE
        ]
    if shared["seed"] == 0:
        found["spectrum"] = pocket.axis_spectrum(maps)
        found["pictures"] = (99 * normalise(maps[:SHOWN])).round().tolist()
        if arm == "centre-prior":
            found["scenes"] = (99 * scenes.images[:SHOWN]).round().tolist()
    return found


def explainer(arm: str, shared: dict[str, Any], passes: int = arms.PASSES) -> Explain:
    """The map of an arm; `passes` for those that take several."""
    shifts = Transforms.shifts(shared.get("patch", PATCH), max(1, passes // 2))
    return {
        "dave": partial(dave, transforms=shifts),
        "dave-fullgrad": partial(dave, transforms=shifts, gradient="full"),
        "dave-noreynolds": partial(dave, transforms=Transforms.identity(), repeats=passes),
        "dave-nolowpass": partial(dave, transforms=shifts, lowpass=0.0),
        "lrp-like": partial(dave, transforms=Transforms.identity(), noise=0.0, lowpass=0.0),
        "gradient": arms.gradient_norm,
        "input-x-gradient": arms.input_x_gradient,
        "blurred-input-x-gradient": partial(arms.blurred_input_x_gradient, sigma=shared.get("blur", 1.0)),
        "smoothgrad-x-input": partial(arms.smoothgrad_x_input, noise=shared.get("noise", 0.1), passes=passes),
        "integrated-gradients": partial(arms.integrated_gradients, passes=passes),
        "grad-cam": arms.grad_cam,
        "attention-rollout": arms.attention_rollout,
        "centre-prior": arms.centre_prior,
    }[arm]


def localisation(maps: Tensor, scenes: Any, target: Tensor) -> dict[str, float]:
    """How far maps of one label per scene lie on its digit."""
    rows = torch.arange(len(target))
    masks, everything = scenes.masks[rows, target], scenes.masks.any(dim=1)
    energy, among = energy_in_mask(maps, masks), energy_in_mask(maps, everything)
    several = (scenes.labels.sum(dim=1) > 1).numpy()
    share = energy / np.maximum(among, 1e-12) - area_share(masks) / area_share(everything)
    return {
        "energy_in_mask": float(energy.mean()),
        "energy_lift": float((energy / area_share(masks)).mean()),
        "target_gain": float(share[several].mean()) if several.any() else 0.0,
        "grid_pg": float(grid_pointing_game(maps, scenes.cells[rows, target], 2).mean()),
        "pointing": float(pointing_game(maps, masks, 1.0).mean()),
        "pixel_ap": float(pixel_average_precision(maps, masks).mean()),
    }


def _explained(model: nn.Module, scenes: Any, count: int, seed: int) -> tuple[Any, Tensor, Tensor]:
    """Scenes with a detected label, that label, and a second one or -1; any present label where hardly any is found."""
    first, second = pocket.choose_targets(model, scenes, np.random.default_rng((seed, 6)))
    rows = torch.nonzero(first >= 0)[:count, 0]
    if len(rows) < count:  # smoke: the model has learnt next to nothing
        first, second = scenes.labels.argmax(dim=1), 9 - scenes.labels.flip(1).argmax(dim=1)
        rows = torch.arange(count)
    return scenes[rows], first[rows], second[rows]


def _tuned(model: nn.Module, scenes: Any, target: Tensor) -> dict[str, float]:
    """Blur and SmoothGrad noise with the most energy on the digits of validation scenes."""
    x = as_input(scenes.images)

    def best(values: tuple[float, ...], explain: Callable[[float], Tensor]) -> float:
        energies = {value: localisation(explain(value), scenes, target)["energy_in_mask"] for value in values}
        return max(energies, key=energies.__getitem__)

    plain = arms.input_x_gradient(model, x, target)
    return {
        "blur": best(BLURS, lambda sigma: arms.low_pass(plain, sigma)),
        "noise": best(NOISES, lambda noise: arms.smoothgrad_x_input(model, x, target, noise)),
    }


def _probability(model: nn.Module, target: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda images, rows: model(images).gather(1, target[rows].view(-1, 1))[:, 0].sigmoid()


@study.figure
def figure(evidence: Evidence) -> plt.Figure:
    if evidence.scale == "full":
        return imagenet.figure(evidence)
    shown = ("input-x-gradient", "blurred-input-x-gradient", "smoothgrad-x-input", "integrated-gradients", "grad-cam",
             "attention-rollout", "lrp-like", "dave-fullgrad", "dave")  # fmt: skip
    fig = plt.figure(figsize=(15, 10.5), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.15, 1))
    scenes = evidence.series("scenes", "centre-prior", "trained")
    rows = scenes.shape[1] if len(scenes) else 1
    axes = top.subplots(rows, len(shown) + 1, squeeze=False)
    for column, arm in enumerate(("scene", *shown)):
        axes[0, column].set_title(arm.replace("-gradient", "-\ngradient").replace("-input", "-\ninput"), fontsize=8)
        maps = evidence.series("pictures", arm, "trained") if column else scenes
        for row in range(rows):
            axes[row, column].axis("off")
            if len(maps) and column:
                axes[row, column].imshow(maps[0][row], cmap="magma", vmin=0, vmax=99)
            elif len(maps):
                axes[row, column].imshow(maps[0][row].transpose(1, 2, 0) / 99)
    _plots(evidence, bottom.subplots(1, 4))
    return fig


def _plots(evidence: Evidence, axes: Any) -> None:
    names = [arm for arm in evidence.arms if "trained" in evidence.conditions_of(arm)]
    for axis, metric in zip(axes[:2], ("energy_in_mask", "shift_stability"), strict=True):
        for place, arm in enumerate(reversed(names)):
            mean, low, high = evidence.mean_interval(metric, arm, "trained")
            bars = None if np.isnan(low) else [[mean - low], [high - mean]]
            axis.errorbar(mean, place, xerr=bars, fmt="o", color="C3" if arm.startswith("dave") else "C0", capsize=3)
        axis.set_yticks(range(len(names)), reversed(names) if metric == "energy_in_mask" else [""] * len(names))
        axis.set_xlabel(evidence.label(metric), fontsize=9)
    for arm in ("input-x-gradient", "blurred-input-x-gradient", "lrp-like", "dave-fullgrad", "dave"):
        spectrum = evidence.series("spectrum", arm, "trained")
        if len(spectrum):
            axes[2].plot(np.linspace(0, 0.5, spectrum.shape[1])[1:], spectrum[0][1:], label=arm, lw=1)
    for m in range(1, PATCH // 2 + 1):
        axes[2].axvline(m / PATCH, color="grey", lw=0.5, ls=":")
    axes[2].set(xlabel="frequency on the axes (1/px)", ylabel="share of power (dB)")
    axes[2].legend(fontsize=7)
    for arm in ("dave", "dave-fullgrad", "dave-noreynolds", "smoothgrad-x-input"):
        curve = evidence.series("stability_by_passes", arm, "trained")
        if len(curve):
            axes[3].plot(CURVE, curve.mean(axis=0), "o-", label=arm, ms=3)
    axes[3].set(xlabel="passes", ylabel=evidence.label("stability_by_passes"), xscale="log")
    axes[3].set_xticks(CURVE, [str(passes) for passes in CURVE])
    axes[3].minorticks_off()
    axes[3].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)


@study.apply
def apply(
    photo: Path,
    out: Path = Path("maps"),
    model: str = "google/vit-base-patch16-224",
    target: str | None = None,
    compare: bool = False,
    contrast: bool = False,
    passes: int = 32,
    noise: float = 0.05,
) -> dict[str, Any]:
    """Explain what a vision transformer sees in your pictures: a map of every pixel's share in a class.

    Writes per picture the map (float32 .npy at the picture's size) and an overlay (.png), and maps.csv with how steady
    each map is under a shift and how far the patch grid shows; for a folder also the spectrum of all maps.

    Args:
        photo: a picture, or a folder of pictures.
        out: folder to write.
        model: Hugging Face id or folder of a ViT, DeiT, DINOv2 or CLIP image classifier, or one of this package's ViT.
        target: class to explain, by name or number; each picture's first choice when left out.
        compare: add the maps of the other methods.
        contrast: explain the class against all others instead of by itself.
        passes: forward and backward passes per map.
        noise: noise added to the pictures, as a share of their range of values.
    """
    others = {
        name: explainer(name, {})
        for name in ("input-x-gradient", "smoothgrad-x-input", "integrated-gradients", "grad-cam", "attention-rollout")
    }
    return explain_files(photo, out, model, target, others if compare else {}, contrast, passes, noise)
