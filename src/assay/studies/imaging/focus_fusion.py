"""GMFF: fuse a focus stack softly, then redraw what no frame shows in focus. (2512.21495)

Questions: does the second, generative stage restore places that no frame has in focus; does soft selection spare
the edges of depth; and is drawing a sample better to look at than the best guess of a regression?

Scenes are layers cut from real photographs (scikit-image's and scikit-learn's), a third of them the motorcycle with
its measured disparity, rendered through a thin lens with noise and focus breathing. `missing`: four of five focal
planes, one layer's own is left out; `complete`: all five. Networks learn from other photographs than they are judged
on, new scenes, crops and starts for every seed. `lytro`: real pairs and triples (halved, middle square), which have no
truth; how much of the frames' edges is kept is measured there. Where they are not at hand simulated stacks stand in,
and the evidence then says so.

How far this is from the paper: there, stage 1 stands on MobileNetV3 features and stage 2 is Stable Diffusion 2.1 with
a control branch. Here both are small networks with seconds of training on nine photographs, and the diffusion model
works on pixels and gets the fused picture as input channels. So a verdict about the generative stage is about the
cascade with a model that knows hardly any pictures; how Stable Diffusion does is open until
`--scale full --data FOLDER` is run.

Settings were chosen on development stacks (for networks, of photographs held out of their training), before any judged
stack was drawn: for sml the window, the filter's radius and epsilon (18 combinations for each of three measures; sml
and the best differ by 0.06 dB); for stage 1 the rate (of two) and the temperature (of three); for the regression the
rate (of three); for stage 2 the rate (of two), the spread alike or by channel, how steps are drawn, batch 6 or 12 at
equal time, and 5, 10 or 20 sampling steps from 0.15, 0.3, 0.6 or all of the noise. The regression has the same U-Net,
crops and updates as stage 2, and its output is confined to the same mask. Threshold and window of the mask: 6 x 3
values; photographs have blur of their own, which limits it (it finds somewhat more than half of what is missing). That
it is judged by the picture's own sharpest places was added after a look at the real pairs, which are softer than the
simulated ones; no claim about real pairs rests on the mask.

`lpx` compares local energies of Gabor filters averaged over a few pixels, so that texture need not lie in its exact
place; `lpx_point` compares them pixel by pixel. Averaging and the energy that counts as unseen (about that of the
sensor's noise) were fixed on the development stacks after a first look at them, for what the measure is meant to be;
both are claimed on.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.data import samples
from assay.data.focus_stack import FocusStack
from assay.errors import InputError, require
from assay.lab import Better, Evidence, NotWorse, Same, Study
from assay.methods.imaging.focus_fusion import (
    Fusion,
    Regressor,
    Restorer,
    StackFusion,
    classical_fuse,
    combine,
    depth_edges,
    luma,
    missing_focus_mask,
    one_hot,
    trust_mask,
)
from assay.methods.imaging.focus_fusion import samples as draws
from assay.metrics.fusion_quality import edge_preservation
from assay.metrics.gabor_distance import gabor_distance
from assay.metrics.image import psnr, ssim
from assay.studies.imaging._focus_data import (
    MISSING,
    TRAIN,
    draw,
    from_photos,
    judged_scene,
    layers_from,
    real_stacks,
    training_stacks,
)
from assay.studies.imaging._focus_models import (
    Sizes,
    fuse_all,
    train_fusion,
    train_regressor,
    train_restorer,
)

# Chosen on development stacks.
RATE_FUSION, RATE_RESTORE, RATE_REGRESS = 4e-3, 8e-3, 5e-3
SML = {"measure": "sml", "size": 5, "radius": 2, "epsilon": 1e-3}
STEPS, STRENGTH = 5, 0.6
THRESHOLD, REACH = 0.2, 5

SIZES = {
    "smoke": Sizes(width=4, widths=(8, 12), stacks=2, size=64, fusion=(2, 1, 32), restore=(2, 2, 32)),
    "pocket": Sizes(fusion=(100, 4, 48), restore=(250, 6, 48)),
    "full": Sizes(width=16, widths=(64, 128, 256), stacks=2000, size=512, fusion=(8000, 4, 128),
                  restore=(20_000, 8, 512)),
}  # fmt: skip
TESTS = {"smoke": (1, 64), "pocket": (10, 96), "full": (100, 512)}  # stacks of a condition, side in pixels
REAL_SIDE = {"smoke": 64, "pocket": 160, "full": 256}
SHOWN = 40  # side of the window that the figure shows

ARMS = {
    "sml": "sharpest frame by the sum-modified Laplacian, softened by a guided filter, tuned",
    "hard-select": "the network's sharpest frame, without softness",
    "stage1": "soft fusion by the network, no restoration",
    "regress": "stage 1, then a U-Net trained by L1, in the mask",
    "regress-nomask": "regress everywhere",
    "gmff": "stage 1, then a diffusion sample, in the mask",
    "gmff-no-edges": "ablation: gmff whose mask leaves depth edges alone",
    "gmff-nomask": "gmff everywhere",
    "gmff-noise-start": "gmff whose sampling starts from pure noise",
}
SIMULATED = ("missing", "complete")

study = Study(
    paper="2512.21495",
    arms=ARMS,
    conditions={
        "missing": "a focal plane is missing (simulated lens, real photographs)",
        "complete": "every depth is in focus in some frame (simulated lens, real photographs)",
        "lytro": "real pairs and triples without truth (simulated ones where they are not at hand)",
    },
    arm_conditions={
        "regress": SIMULATED, "regress-nomask": SIMULATED, "gmff-nomask": SIMULATED, "gmff-no-edges": SIMULATED,
        "gmff-noise-start": ("missing",),
    },
    claims=[
        Better(
            "psnr_missing", name="C1", method="gmff", baseline="stage1", conditions=["missing"],
            paper="abstract: rebuilds what lies in missing focal planes; no figure",
        ),
        Better(
            "sharp_gap", name="C1b", method="gmff", baseline="stage1", higher=False, conditions=["missing"],
            paper="abstract: rebuilds what lies in missing focal planes; no figure",
        ),
        Better(
            "edge_err", name="C2", method="stage1", baseline="hard-select", higher=False, conditions=SIMULATED,
            paper="abstract: edge artefacts of hard or uncertain selection disappear; no figure",
        ),
        Better(
            "edge_err", name="C2b", method="stage1", baseline="sml", higher=False, conditions=SIMULATED,
            paper="abstract: edge artefacts of hard or uncertain selection disappear; no figure",
        ),
        Better(
            "edge_err", name="C2c", method="gmff", baseline="stage1", higher=False, conditions=SIMULATED,
            paper="abstract: edge artefacts of hard or uncertain selection disappear; no figure",
        ),
        Better(
            "lpx_missing", name="C3", method="gmff", baseline="regress", higher=False, conditions=["missing"],
            paper="none: what a sample should gain over the mean",
        ),
        Better(
            "lpx_point_missing", name="C3b", method="gmff", baseline="regress", higher=False, conditions=["missing"],
            paper="none: the same, pixel by pixel",
        ),
        Better(
            "sharp_gap", name="C3c", method="gmff-nomask", baseline="regress-nomask", higher=False,
            conditions=["missing"], paper="none: the same of gradient energy, without the mask",
        ),
        Same(
            "psnr", name="C4", method="gmff", baseline="stage1", margin=0.1, conditions=["complete"],
            paper="none: confined by the mask, restoration should leave complete stacks alone",
        ),
        NotWorse(
            "q_abf", name="C5", method="stage1", baseline="sml", margin=0.02, conditions=["lytro"],
            paper="abstract: best fusion among compared methods; no figure, and the measure is ours",
        ),
        Better(
            "psnr", name="control: no mask", method="gmff-nomask", baseline="stage1", conditions=["complete"],
            expected="not supported", paper="none: where nothing is missing, a sample cannot be nearer to the truth",
        ),
    ],
    metrics={
        "psnr": "PSNR (dB)",
        "ssim": "SSIM",
        "psnr_focus": "PSNR where some frame is in focus (dB)",
        "psnr_missing": "PSNR where no frame is in focus (dB)",
        "sharp_missing": "gradient energy over the truth's where no frame is in focus",
        "sharp_gap": "|log2| of gradient energy over the truth's where no frame is in focus",
        "lpx_missing": "Gabor distance where no frame is in focus",
        "lpx_point_missing": "Gabor distance pixel by pixel where no frame is in focus",
        "edge_err": "L1 error in a 6-pixel band at depth edges",
        "halluc": "gradient energy where the truth is smooth (1e-4)",
        "invented": "share of pixels that stage 2 touches",
        "mask_recall": "share of the missing region that the mask finds",
        "diversity": "standard deviation over four samples where no frame is in focus",
        "q_abf": "edge preservation Q^AB/F",
        "seconds": "seconds a stack, on this CPU",
    },
    seeds=4,
    data=lambda scale: "real and simulated" if samples.locate("lytro-multifocus") else "simulated",
    tolerances={"seconds": None},
    time_limit={"full": 172_800},
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A stack to judge on, what stage 1 makes of it (and in how many seconds), and where stage 2 may touch it."""

    frames: Tensor
    found: Fusion
    seconds: float
    mask: Tensor
    lacking: Tensor
    truth: FocusStack | None


@dataclass(frozen=True)
class Shared:
    """What all arms of a seed share."""

    restorer: Restorer
    regressor: Regressor
    cases: dict[str, list[Case]]


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> Shared:
    rng, judged = (np.random.default_rng([2512_21495, part, seed]) for part in (0, 1))
    sizes, (count, side) = SIZES[scale], TESTS[scale]
    if scale == "full":
        if data is None:
            raise InputError("the full scale needs --data FOLDER with train/, test/ and model/")
        # Loaded by name: recorded evidence does not rest on it and does not go stale with it.
        large = require("assay.studies.imaging._focus_full", "imaging")
        learnt, scene = (layers_from(large.folder_cropper(data / part)) for part in ("train", "test"))
    else:
        learnt, scene = from_photos(TRAIN), judged_scene
    stacks = training_stacks(learnt, rng, sizes.size, sizes.stacks)
    fusion = train_fusion(stacks, sizes, rng, RATE_FUSION)
    fused = fuse_all(fusion, stacks)
    regressor = train_regressor(fused, stacks, sizes, seed, RATE_REGRESS)
    if scale == "full":
        model = data / "model" if (data / "model").is_dir() else large.MODEL
        restorer = large.train_latent_restorer(model, fused, stacks, sizes, seed, device, 1e-5)
    else:
        restorer = train_restorer(fused, stacks, sizes, seed, RATE_RESTORE)
    cases = {
        name: [case_of(draw(scene, judged, side, name == "missing"), fusion) for _ in range(count)]
        for name in SIMULATED
    }
    folder = data / "real" if data and (data / "real").is_dir() else samples.locate("lytro-multifocus")
    real = real_stacks(folder, REAL_SIDE[scale]) if folder else []
    real = real[:2] if scale == "smoke" else real
    cases["lytro"] = [real_case(frames, fusion) for frames in real or [case.frames for case in cases["complete"]]]
    return Shared(restorer, regressor, cases)


@torch.no_grad()
def real_case(frames: Tensor, fusion: StackFusion) -> Case:
    """A stack without truth."""
    start = time.perf_counter()
    found = fusion(frames[None])
    seconds = time.perf_counter() - start
    found = Fusion(found.image[0], found.weights[0], found.logits[0])
    lacking = missing_focus_mask(frames, THRESHOLD)
    return Case(frames, found, seconds, trust_mask(lacking, depth_edges(found.weights), REACH), lacking, None)


def case_of(stack: FocusStack, fusion: StackFusion) -> Case:
    """A stack with its truth."""
    return Case(**{**vars(real_case(stack.frames, fusion)), "truth": stack})


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: Shared) -> dict[str, Any]:
    rows: dict[str, list[float]] = {}
    shown: dict[str, Any] = {}
    for number, case in enumerate(shared.cases[condition]):
        start = time.perf_counter()
        image = merged(arm, case, shared, 1000 * seed + number)
        row = {"seconds": time.perf_counter() - start + (0.0 if arm == "sml" else case.seconds)}
        row |= scores(image, case) if case.truth else {}
        if condition == "lytro":
            row["q_abf"] = float(edge_preservation(luma(case.frames), luma(image)))
        if arm == "gmff":
            row["invented"] = float((case.mask > 0).float().mean())
            if condition == "missing":
                row |= guessed(case, shared, 2 if scale == "smoke" else 4) if number < 3 else {}
        if seed == 0 and condition == "missing" and number == 0:
            shown = pictures(arm, image, case, shared)
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in rows.items()} | shown


@torch.no_grad()
def merged(arm: str, case: Case, shared: Shared, seed: int) -> Tensor:
    """The picture an arm makes of a stack, `(3, H, W)`."""
    fused = case.found.image
    if arm == "sml":
        return classical_fuse(case.frames, **SML).image
    if arm == "hard-select":
        return combine(case.frames, one_hot(case.found.logits))
    if arm == "stage1":
        return fused
    mask = torch.ones_like(case.mask) if arm.endswith("-nomask") else case.mask
    mask = trust_mask(case.lacking) if arm == "gmff-no-edges" else mask
    if arm.startswith("regress"):
        return fused + mask * (shared.regressor(fused[None])[0].clamp(0, 1) - fused)
    begin = "noise" if arm == "gmff-noise-start" else "image"
    return shared.restorer(fused, mask, STEPS, STRENGTH, seed, begin)


def scores(image: Tensor, case: Case) -> dict[str, float]:
    """Figures of a picture whose truth is known."""
    assert case.truth is not None
    truth, missing = case.truth.truth, case.truth.missing(MISSING)
    error = (image - truth).square().mean(0)
    energy, wanted = gradient_energy(image), gradient_energy(truth)
    smooth = F.avg_pool2d(wanted[None], 5, 1, 2)[0] < 1e-4
    found = {
        "psnr": float(psnr(image, truth)),
        "ssim": float(ssim(image, truth)),
        "psnr_focus": decibel(error[~missing]),
    }
    if case.truth.edge.any():
        found["edge_err"] = float((image - truth).abs().mean(0)[case.truth.edge].mean())
    if smooth.any():
        found["halluc"] = 1e4 * float(energy[smooth].mean())
    if missing.any():
        ratio = float(energy[missing].sum() / wanted[missing].sum())
        found |= {
            "psnr_missing": decibel(error[missing]),
            "sharp_missing": ratio,
            "sharp_gap": abs(float(np.log2(ratio))),
            "lpx_missing": float(gabor_distance(image[None], truth[None], full=True)[0][missing].mean()),
            "lpx_point_missing": float(
                gabor_distance(image[None], truth[None], pool=1, full=True)[0][missing].mean()
            ),
            "mask_recall": float((case.mask[missing] > 0.5).float().mean()),
        }  # fmt: skip
    return found


def guessed(case: Case, shared: Shared, count: int) -> dict[str, float]:
    """How far samples of the whole picture differ where nothing was in focus."""
    assert case.truth is not None
    spread = draws(shared.restorer, case.found.image, count, steps=STEPS, strength=STRENGTH).std(0).mean(0)
    return {"diversity": float(spread[case.truth.missing(MISSING)].mean())}


def gradient_energy(image: Tensor) -> Tensor:
    """Squared forward differences, mean over the colours, `(H, W)`."""
    padded = F.pad(image[None], (0, 1, 0, 1), mode="replicate")[0]
    across, down = padded[:, :-1, 1:] - image, padded[:, 1:, :-1] - image
    return (across.square() + down.square()).mean(0)


def decibel(errors: Tensor) -> float:
    """PSNR of squared errors."""
    return float(-10 * torch.log10(errors.mean().clamp(min=1e-12)))


def pictures(arm: str, image: Tensor, case: Case, shared: Shared) -> dict[str, Any]:
    """A window for the figure, about the middle of the largest missing part; colours from 0 to 255."""
    assert case.truth is not None
    weight = F.avg_pool2d(case.truth.missing(MISSING)[None].float(), SHOWN, 1)[0]
    top, left = divmod(int(weight.argmax()), weight.shape[1])
    place = (..., slice(top, top + SHOWN), slice(left, left + SHOWN))

    def listed(x: Tensor) -> list:
        return (255 * x[place]).round().tolist()

    if arm == "stage1":
        sharpest = case.truth.blur[:, *place[1:]].mean((1, 2)).argmin()
        return {
            "shown": listed(image), "shown_truth": listed(case.truth.truth),
            "shown_frame": listed(case.frames[sharpest]),
        }  # fmt: skip
    if arm == "gmff-nomask":
        spread = draws(shared.restorer, case.found.image, 4, steps=STEPS, strength=STRENGTH).std(0).mean(0)
        return {"shown": listed(image), "shown_spread": listed(spread)}
    return {"shown": listed(image)} if arm == "regress-nomask" else {}


@study.figure
def figure(evidence: Evidence) -> Any:
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(14, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.25))
    strip = [
        ("shown_frame", "stage1", "least blurred frame"), ("shown", "stage1", "fused (stage 1)"),
        ("shown", "regress-nomask", "regression"), ("shown", "gmff-nomask", "diffusion sample"),
        ("shown_truth", "stage1", "truth"), ("shown_spread", "gmff-nomask", "spread of samples"),
    ]  # fmt: skip
    for axis, (name, arm, title) in zip(above.subplots(1, len(strip)), strip, strict=True):
        axis.set_axis_off()
        axis.set_title(title, fontsize=9)
        held = evidence.series(name, arm, "missing")
        if held.size:
            picture = np.asarray(held[0])
            if picture.ndim == 3:
                axis.imshow(picture.transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
            else:
                axis.imshow(picture, cmap="magma")
    above.suptitle("A place that no frame has in focus", fontsize=10)
    panels: Sequence[tuple[str, str]] = [
        ("psnr_missing", "missing"), ("sharp_missing", "missing"), ("lpx_missing", "missing"), ("edge_err", "complete"),
        ("psnr", "complete"), ("q_abf", "lytro"),
    ]  # fmt: skip
    axes = below.subplots(1, len(panels), sharey=True)
    arms = list(ARMS)
    for axis, (metric, condition) in zip(axes, panels, strict=True):
        for row, arm in enumerate(arms):
            if not np.isfinite(evidence.values(metric, arm, condition)).any():
                continue
            mean, low, high = evidence.mean_interval(metric, arm, condition)
            colour = "C3" if arm.startswith("gmff") else "C1" if arm.startswith("regress") else "C0"
            axis.plot([low, high], [row, row], color=colour, lw=2)
            axis.plot(mean, row, "o", color=colour)
        if metric == "sharp_missing":
            axis.axvline(1, color="0.6", lw=1)
        axis.set_title(f"{condition}", fontsize=9)
        axis.set_xlabel(textwrap.fill(evidence.label(metric), 28), fontsize=8)
        axis.tick_params(labelsize=8)
        axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    return figure


@study.apply
def apply(
    stack: Path,
    out: Path = Path("fused.png"),
    restore: str = "",
    fusion: Path | None = None,
    classical: bool = False,
    register: bool = False,
    trust: bool = True,
    reduce: int = 0,
    threshold: float = THRESHOLD,
    strength: float = STRENGTH,
    steps: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Merge a focus stack into one picture that is sharp wherever a frame was, and mark what could not be.

    Writes OUT in the frames' bit depth and beside it OUT's name with -depth.png (16 bits, dark is the first frame),
    -missing.png (white where no frame is in focus), -invented.png (white where --restore made the pixels up) and
    -report.json. Nothing is invented without --restore. Memory does not grow with the number of pixels in the frames.

    Args:
        stack: folder of frames (jpg, png, tiff; 8 or 16 bits), sorted by name in order of focus; or a TIFF of pages.
        out: picture to write: .png or .tif, .jpg for 8 bits.
        restore: redraw what is out of focus everywhere, with the weights of a folder; `small` is a network that ships,
            trained on nine photographs: a demonstration.
        fusion: weights of stage 1 (stage1.safetensors); the ones that ship otherwise.
        classical: choose by the sum-modified Laplacian and a guided filter, without a network.
        register: first align the frames by scale and shift (focus breathing, a moved tripod).
        trust: confine --restore to places that no frame has in focus or that lie at depth edges.
        reduce: find weights on frames made smaller by this factor; 0: by 2 from 4 megapixels on, by 1 below.
        threshold: of the missing-focus mask; smaller marks less.
        strength: noise that --restore starts from, up to 1.
        steps: of sampling.
        seed: of the noise of --restore.
    """
    # Loaded by name: recorded evidence does not rest on it and does not go stale with it.
    using = require("assay.studies.imaging._focus_apply", "imaging")
    return using.run(stack, out, restore, fusion, classical, register, trust, reduce, threshold, strength, steps, seed)
