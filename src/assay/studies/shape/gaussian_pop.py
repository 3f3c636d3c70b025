"""GaussianPOP: prune Gaussians by the exact error that removing each one causes. (2602.06830)

A trained Gaussian scene is shrunk in rounds: score the survivors, drop the lowest, refine, score again. The arms differ
in the score alone. The scene is a furnished room covered with photographs, ray-cast exactly (so the images owe nothing
to splatting), to which 500 Gaussians are fitted from points on its surfaces; held-out views judge. The rates of the
refinement are tuned for the baseline at every kept share, on views of their own, and then used by every arm.

Conditions beside the room: `textured`, the same room with a photograph on its flat wall too; and, as a control,
`disjoint`, Gaussians that never overlap, where sum of weights and removal error must agree. Keeping 95 % is another.

What came out at pocket scale: the gain over the sum of weights grows as fewer are kept; the sum loses what is small
and stands in contrast, such as the fence (see the figure). The gain is as large in the textured room, so it does not
come from the flat wall. Scored once instead of in rounds, the removal error is no better than the sum: Gaussians that
stand in for one another all look free, and go together. The variant against the photographs is ahead before
refinement and behind after it. Pruning while training (C3) stays undecided: the means differ as the paper says, in
most rooms by much, but in one room the sum did slightly better, and five rooms are too few for so wide a spread.

At full scale the main scene is yours: `--data FOLDER` in the COLMAP layout (`sparse/0`, `images/` or `images_2|4|8/`)
with a trained `point_cloud/iteration_*/point_cloud.ply` if there is one; every 8th image is held out. Without a trained
scene, and for the arms that prune while training, Gaussians start from the COLMAP points and none is added.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from assay.data.scenes.cameras_json import read_cameras_json
from assay.data.scenes.colmap import read_colmap
from assay.data.scenes.posed_photos import colmap_cameras, fit_size, hold_out, read_photos
from assay.data.scenes.ray_cast import Scene, Texture, photo, room, room_cameras
from assay.data.scenes.splat_ply import read_splat_ply
from assay.errors import InputError
from assay.geometry.cameras import Camera, intrinsics, look_at, sphere_of_views
from assay.geometry.splat_render import render
from assay.geometry.splats import NEAR, Splats
from assay.lab import Better, Bound, Evidence, Gate, Same, Study
from assay.methods.shape.gaussian_pop import TrainingPruner, importance, prune, removal_error
from assay.metrics.image import psnr, ssim
from assay.nn.splat_training import Rates, train_splats

study = Study(
    paper="2602.06830",
    arms={
        "blend": "sum of blending weights over all views (LightGaussian), its refinement rates tuned",
        "pop": "exact removal error, scored anew in every round",
        "max_weight": "largest blending weight in any pixel (Mini-Splatting)",
        "sensitivity": "log determinant of the image's sensitivity to mean and scale (PUP-3DGS)",
        "opacity": "opacity alone",
        "random": "the floor: a random choice",
        "pop_oneshot": "ablation: exact removal error, scored once",
        "pop_target": "variant: change of the squared error against the photographs",
        "blend_train": "sum of blending weights, pruning at 40, 60 and 80 % of training",
        "pop_train": "exact removal error, pruning at 40, 60 and 80 % of training",
    },
    conditions={
        "scene": "textured room with one flat wall (pocket), your photographs (full)",
        "textured": "the room with a photograph on its flat wall too",
        "disjoint": "control: Gaussians that never overlap",
    },
    arm_conditions={
        "blend": ["scene", "textured", "disjoint"],
        "pop": ["scene", "textured", "disjoint"],
        **{
            arm: ["scene"]
            for arm in (
                *("max_weight", "sensitivity", "opacity", "random", "pop_oneshot", "pop_target"),
                *("blend_train", "pop_train"),
            )
        },
    },
    claims=[
        Better(
            "psnr_ft_mean",
            method="pop",
            baseline="blend",
            conditions=["scene"],
            paper="'consistently outperforms existing state-of-the-art pruning methods' (abstract); no number there",
        ),
        Better(
            "psnr_ft_mean",
            method="pop",
            baseline="pop_oneshot",
            conditions=["scene"],
            paper="'iterative error re-quantification for improved stability' (abstract)",
        ),
        Better(
            "psnr_end",
            method="pop_train",
            baseline="blend_train",
            conditions=["scene"],
            paper="'across both application scenarios' (abstract)",
        ),
        Better("psnr_ft_mean", method="pop", baseline="max_weight", conditions=["scene"]),
        Bound(
            "score_per_render",
            method="pop",
            at_most=3,
            conditions=["scene"],
            paper="'practical error calculation in a single forward pass' (abstract)",
        ),
        Same(
            "psnr_ft_at_95pct",
            method="pop",
            baseline="blend",
            margin=0.2,
            conditions=["scene"],
            expected="supported",
            text="control: with 95 % kept, POP and the sum of weights give the same PSNR within 0.2 dB",
        ),
        Bound(
            "rank_agreement",
            method="pop",
            at_least=0.95,
            conditions=["disjoint"],
            expected="supported",
            text="control: where Gaussians never overlap, POP ranks them as the sum of weights does",
        ),
        Same(
            "psnr_raw_at_40pct",
            method="pop",
            baseline="blend",
            margin=0.2,
            conditions=["disjoint"],
            expected="supported",
            text="control: where Gaussians never overlap, POP gains nothing over the sum of weights (0.2 dB)",
        ),
    ],
    gates=[
        Gate(
            "leave_one_out_difference",
            method="pop",
            condition="scene",
            at_most=1e-6,
            why="the score must be the error of leave-one-out rendering",
        )
    ],
    metrics={
        "psnr_ft_mean": "held-out PSNR, mean over kept shares (dB)",
        "psnr_ft_curve": "held-out PSNR after refinement (dB)",
        "psnr_end": "held-out PSNR after training (dB)",
        "psnr_ft_at_95pct": "held-out PSNR, 95 % kept (dB)",
        "psnr_raw_at_40pct": "held-out PSNR before refinement, 40 % kept (dB)",
        "psnr_fitted": "held-out PSNR of the full scene (dB)",
        "score_per_render": "seconds of scoring per second of rendering",
        "rank_agreement": "Spearman correlation with the sum of weights",
    },
    seeds={"pocket": 5, "full": 1},
    data=lambda scale: "real" if scale == "full" else "simulated",
    tolerance=2e-3,
    tolerances={
        "score_seconds": None,
        "render_seconds": None,
        "score_per_render": None,
        "leave_one_out_difference": None,
        "example": None,
    },
)


@dataclass(frozen=True)
class Protocol:
    """Sizes of a study. `keeps` are the shares of the claims; the control's 0.95 comes on top."""

    pixels: int
    gaussians: int
    fit_steps: int
    refine_steps: int
    train: int
    valid: int
    test: int
    rounds: int = 5
    keeps: tuple[float, ...] = (0.6, 0.4, 0.25)
    samples: int = 3
    factors: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    left_out: int = 20


SCALES = {
    "smoke": Protocol(24, 80, 30, 5, train=4, valid=1, test=2, samples=1, factors=(1.0,), left_out=4),
    "pocket": Protocol(48, 500, 400, 60, train=12, valid=3, test=7),
}
FULL = Protocol(1600, 0, 30_000, 5_000, train=0, valid=0, test=0, keeps=(0.5, 0.3, 0.1), factors=(0.3, 1.0))
CONTROL_KEEP = 0.95
POCKET_RATES = Rates(means=4e-3, quats=2e-2, log_scales=4e-2, opacity_logit=0.1, sh=2e-2)  # for hundreds of steps
SKY = (0.85, 0.9, 0.97)


@dataclass(frozen=True)
class Fitted:
    """A scene as all arms get it: views, the Gaussians training starts from, the trained ones, and tuned rates."""

    protocol: Protocol
    views: dict[str, tuple[list[Camera], list[Tensor]]]  # train, valid, test
    background: Tensor
    start: Splats
    trained: Splats
    rates: Rates
    refine_rates: dict[float, Rates]  # by kept share


@study.prepare
def prepare(seed: int, scale: str, device: str, data: Path | None) -> dict[str, Fitted]:
    small = SCALES.get(scale, SCALES["pocket"])
    simulated = tuned(simulated_scene(seed, small, flat_wall=True), seed)
    textured = replace(simulated_scene(seed, small, flat_wall=False), refine_rates=simulated.refine_rates)
    if scale == "full":
        return {"scene": tuned(photographed_scene(seed, FULL, device, data), seed), "textured": textured}
    return {"scene": simulated, "textured": textured}


@study.trial
def trial(arm: str, condition: str, seed: int, scale: str, shared: dict[str, Fitted]) -> dict[str, object]:
    if condition == "disjoint":
        return disjoint_trial(arm, seed)
    fitted = shared[condition]
    protocol = fitted.protocol
    if arm.endswith("_train"):
        return train_trial(fitted, arm.removesuffix("_train"), seed)
    found: dict[str, object] = {"psnr_fitted": quality(fitted.trained, fitted)[0]}
    control = [CONTROL_KEEP] if arm in ("pop", "blend") else []
    for keep in (*protocol.keeps, *control):
        percent = f"{round(100 * keep)}pct"
        refined, _ = simplified(fitted, arm, keep, seed, steps=protocol.refine_steps)
        found[f"psnr_ft_at_{percent}"], found[f"ssim_ft_at_{percent}"] = quality(refined, fitted)
        if condition == "scene" and keep in protocol.keeps:
            raw, _ = simplified(fitted, arm, keep, seed, steps=0)
            found[f"psnr_raw_at_{percent}"] = quality(raw, fitted)[0]
        if (
            keep == protocol.keeps[-1]
            and condition == "scene"
            and seed == 0
            and arm in ("blend", "pop")
            and scale != "full"
        ):
            found["example"] = pack(example_images(fitted, refined, with_truth=arm == "pop"))
    curve = [float(found[f"psnr_ft_at_{round(100 * k)}pct"]) for k in protocol.keeps]  # type: ignore[arg-type]
    found |= {"psnr_ft_curve": curve, "psnr_ft_mean": float(np.mean(curve))}
    found["area_under_curve"] = float(np.trapezoid(curve[::-1], protocol.keeps[::-1])) / (
        protocol.keeps[0] - protocol.keeps[-1]
    )
    if arm == "pop" and condition == "scene":
        found |= cost_and_exactness(fitted)
    return found


# The arms


def simplified(fitted: Fitted, arm: str, keep: float, seed: int, steps: int) -> tuple[Splats, Tensor]:
    """Post-training simplification: the same rounds and refinement steps in all for every arm."""
    rounds = 1 if arm == "pop_oneshot" else fitted.protocol.rounds
    cameras, images = fitted.views["train"]
    generator = torch.Generator().manual_seed(seed)
    kind: object = arm.removesuffix("_oneshot")
    if arm == "random":
        kind = lambda scene: torch.rand(len(scene), generator=generator).to(scene.means.device)  # noqa: E731

    def refine(scene: Splats, number: int) -> Splats:
        done, until = steps * number // rounds, steps * (number + 1) // rounds
        return train_splats(
            scene,
            cameras,
            images,
            until - done,
            generator=torch.Generator().manual_seed(1000 * seed + number),
            rates=fitted.refine_rates[keep],
            decay=False,
            pace=lambda i: 1 - (done + i) / steps,
            background=fitted.background,
        )

    return prune(
        fitted.trained,
        cameras,
        keep,
        rounds=rounds,
        kind=kind,  # type: ignore[arg-type]
        refine=refine if steps else None,
        background=fitted.background,
        target=images if arm == "pop_target" else None,
    )


def train_trial(fitted: Fitted, kind: str, seed: int) -> dict[str, object]:
    """Pruning while training, to the smallest share, from the start that the other arms' scene was trained from."""
    cameras, images = fitted.views["train"]
    pruner = TrainingPruner(fitted.protocol.keeps[-1], kind=kind, background=fitted.background)  # type: ignore[arg-type]
    scene = train_splats(
        fitted.start,
        cameras,
        images,
        fitted.protocol.fit_steps,
        generator=torch.Generator().manual_seed(seed),
        rates=fitted.rates,
        background=fitted.background,
        on_step=lambda i, total, scene: pruner.step(i, total, scene, cameras),
    )
    level, likeness = quality(scene, fitted)
    return {"psnr_end": level, "ssim_end": likeness, "left": float(len(scene))}


def cost_and_exactness(fitted: Fitted) -> dict[str, object]:
    """Seconds of scoring and of rendering the same views, and the score against leave-one-out rendering (float64)."""
    cameras, _ = fitted.views["train"]
    scene, background = fitted.trained, fitted.background

    def score() -> None:
        removal_error(scene, cameras, background=background)

    def forward() -> None:
        for camera in cameras:
            render(scene, camera, background, backend="torch")

    seconds: dict[str, list[float]] = {"score": [], "render": []}
    with torch.no_grad():
        for _ in range(5):
            for name, run in (("score", score), ("render", forward)):
                start = time.perf_counter()
                run()
                if scene.means.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[name].append(time.perf_counter() - start)
        precise, back = scene.to(dtype=torch.float64), background.double()
        few = cameras[:4]
        errors = removal_error(precise, few, background=back)
        order = errors.argsort(descending=True)[: len(scene) // 2]
        images = [render(precise, camera, back, backend="torch") for camera in few]
        worst = 0.0
        for k in order[:: max(1, len(order) // fitted.protocol.left_out)].tolist():
            rest = precise.select(torch.arange(len(scene), device=order.device) != k)
            changed = (render(rest, c, back, backend="torch") - i for c, i in zip(few, images, strict=True))
            truth = float(sum((d * d).sum() for d in changed))
            worst = max(worst, abs(truth - float(errors[k])) / truth)
    scoring, rendering = min(seconds["score"]), min(seconds["render"])
    return {
        "score_seconds": scoring,
        "render_seconds": rendering,
        "score_per_render": scoring / rendering,
        "leave_one_out_difference": worst,
    }


def quality(scene: Splats, fitted: Fitted, views: str = "test") -> tuple[float, float]:
    """Mean PSNR (dB) and SSIM over held-out views."""
    levels, likenesses = [], []
    with torch.no_grad():
        for camera, image in zip(*fitted.views[views], strict=True):
            ours = render(scene, camera, fitted.background).clamp(0, 1).permute(2, 0, 1)
            truth = image.to(ours).permute(2, 0, 1)
            levels.append(float(psnr(ours, truth)))
            likenesses.append(float(ssim(ours, truth)))
    return float(np.mean(levels)), float(np.mean(likenesses))


# Scenes


def simulated_scene(seed: int, protocol: Protocol, *, flat_wall: bool) -> Fitted:
    """A room covered with photographs, ray-cast; Gaussians start from points on what the training views see."""
    generator = torch.Generator().manual_seed(seed)
    place = room(generator, texels=64)
    if not flat_wall:
        wall = replace(place.solids[2], paint=Texture(photo("gravel", 64), 2.0))
        place = Scene([*place.solids[:2], wall, *place.solids[3:]], place.background)
    sizes = {"train": protocol.train, "valid": protocol.valid, "test": protocol.test}
    cameras = room_cameras(sum(sizes.values()), generator, width=protocol.pixels, height=protocol.pixels)
    shots = [place.render(camera, samples=protocol.samples) for camera in cameras]
    points, colors = [], []
    for camera, shot in zip(cameras[: protocol.train], shots, strict=False):
        hit = shot.depth.isfinite()
        points.append(camera.unproject(camera.pixel_centres()[hit], shot.depth[hit].float()))
        colors.append(shot.image[hit].float())
    chosen = torch.randperm(sum(map(len, points)), generator=generator)[: protocol.gaussians]
    noise = 0.02 * torch.randn(len(chosen), 3, generator=generator)  # about what triangulation leaves
    start = Splats.from_points(torch.cat(points)[chosen] + noise, torch.cat(colors)[chosen], opacity=0.5)
    images = [shot.image.float() for shot in shots]
    first, second = protocol.train, protocol.train + protocol.valid
    cuts = {"train": slice(0, first), "valid": slice(first, second), "test": slice(second, None)}
    views = {name: (cameras[cut], images[cut]) for name, cut in cuts.items()}
    return fit(protocol, views, torch.tensor(place.background), start, None, POCKET_RATES, seed)


def photographed_scene(seed: int, protocol: Protocol, device: str, data: Path | None) -> Fitted:
    """Photographs in the COLMAP layout, every 8th held out, and the trained scene where there is one."""
    if data is None:
        raise InputError("the full scale needs photographs: --data FOLDER with sparse/0 and images/")
    model = read_colmap(data)
    folder = next((data / n for n in ("images_4", "images_2", "images", "images_8") if (data / n).is_dir()), data)
    cameras, photos = read_photos(folder, colmap_cameras(model), longest=protocol.pixels)
    names = dict(zip(("train", "test"), hold_out(cameras), strict=True))
    names["valid"] = names["train"][4::8] or names["train"][:1]
    names["train"] = [name for name in names["train"] if name not in names["valid"]] or names["train"]
    views = {
        part: ([cameras[n].to(dtype=torch.float32) for n in chosen], [photos[n] for n in chosen])
        for part, chosen in names.items()
    }
    if len(model.points) < 4:
        raise InputError(f"{data}: the COLMAP model holds {len(model.points)} points; training starts from them")
    xyz, rgb = torch.from_numpy(model.points.xyz).float(), torch.from_numpy(model.points.rgb.copy()).float() / 255
    start = Splats.from_points(xyz, rgb, degree=3).to(device=device)
    clouds = sorted((data / "point_cloud").glob("iteration_*/point_cloud.ply"), key=lambda p: int(p.parent.name[10:]))
    trained = read_splat_ply(clouds[-1]).splats.to(device=device) if clouds else None
    return fit(protocol, views, torch.zeros(3, device=device), start, trained, Rates(), seed)


def fit(
    protocol: Protocol,
    views: dict[str, tuple[list[Camera], list[Tensor]]],
    background: Tensor,
    start: Splats,
    trained: Splats | None,
    rates: Rates,
    seed: int,
) -> Fitted:
    """The scene, trained from `start` if it is not."""
    if trained is None:
        trained = train_splats(
            start,
            *views["train"],
            protocol.fit_steps,
            generator=torch.Generator().manual_seed(seed),
            rates=rates,
            background=background,
        )
    return Fitted(protocol, views, background, start, trained, rates, {})


def tuned(fitted: Fitted, seed: int) -> Fitted:
    """At every kept share, the refinement rates with which the baseline does best on the validation views."""
    protocol, chosen = fitted.protocol, {}
    for keep in (*protocol.keeps, CONTROL_KEEP):
        levels = {}
        for factor in protocol.factors:
            rates = fitted.rates.times(factor)
            part, _ = simplified(
                replace(fitted, refine_rates={keep: rates}), "blend", keep, seed, protocol.refine_steps
            )
            levels[factor] = quality(part, fitted, "valid")[0]
        chosen[keep] = fitted.rates.times(max(levels, key=levels.__getitem__))
    return replace(fitted, refine_rates=chosen)


def disjoint_trial(arm: str, seed: int) -> dict[str, object]:
    """White Gaussians of one size on a grid over black, too far apart to overlap in any view; opacities differ."""
    generator = torch.Generator().manual_seed(seed)
    grid = torch.stack(torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij"), -1).reshape(-1, 2) - 3
    n = len(grid)
    opacity = 0.3 + 0.65 * torch.rand(n, generator=generator)
    scene = Splats(
        means=torch.cat([grid, torch.zeros(n, 1)], 1),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        log_scales=torch.full((n, 3), math.log(0.08)),
        opacity_logit=opacity.logit(),
        sh=torch.full((n, 1, 3), 0.5 / 0.28209479177387814),
    )
    offset = 2 * torch.rand(20, 2, generator=generator) - 1
    R, t = look_at(
        torch.cat([2.5 * offset, torch.full((20, 1), 10.0)], 1), torch.zeros(20, 3), torch.tensor([0, 1.0, 0])
    )
    K = intrinsics(64, 64, fov=50.0)
    cameras = [Camera(R[i], t[i], K, 64, 64) for i in range(20)]
    small, _ = prune(scene, cameras[:12], 0.4, kind=arm)  # type: ignore[arg-type]
    levels = [float(psnr(render(small, c).permute(2, 0, 1), render(scene, c).permute(2, 0, 1))) for c in cameras[12:]]
    scores = [importance(scene, cameras[:12], kind) for kind in (arm, "blend")]  # type: ignore[arg-type]
    return {"psnr_raw_at_40pct": float(np.mean(levels)), "rank_agreement": float(spearmanr(*scores).statistic)}


# Figure


def example_images(fitted: Fitted, scene: Splats, *, with_truth: bool) -> list[Tensor]:
    """A held-out view of the pruned scene; with the truth, and the unpruned scene painted by removal error."""
    camera, truth = fitted.views["test"][0][0], fitted.views["test"][1][0]
    with torch.no_grad():
        images = [render(scene, camera, fitted.background).clamp(0, 1)]
        if with_truth:
            errors = removal_error(fitted.trained, fitted.views["train"][0], background=fitted.background)
            share = errors.argsort().argsort().double() / (len(errors) - 1)
            paint = torch.from_numpy(plt.get_cmap("viridis")(share.numpy())[:, :3]).float()
            map_ = replace(fitted.trained, sh=((paint - 0.5) / 0.28209479177387814)[:, None])
            images += [truth, render(map_, camera, torch.ones(3)).clamp(0, 1)]
    return images


def pack(images: Sequence[Tensor]) -> list[list[list[int]]]:
    """Images `(H, W, 3)` as one number per pixel, red * 65536 + green * 256 + blue."""
    weights = torch.tensor([65536, 256, 1])
    return [((255 * image.cpu()).round().long() * weights).sum(-1).tolist() for image in images]


def unpack(image: np.ndarray) -> np.ndarray:
    """The inverse of `pack` for one image: `(H, W)` to `(H, W, 3)` bytes."""
    number = image.astype(np.int64)
    return np.stack([number >> 16, number >> 8 & 255, number & 255], -1).astype(np.uint8)


@study.figure
def figure(evidence: Evidence):
    protocol = SCALES.get(evidence.scale, FULL)
    shares = [100 * keep for keep in protocol.keeps]
    fig = plt.figure(figsize=(12, 4.6), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=(1.15, 1))
    ax = left.subplots()
    shown = [arm for arm in evidence.arms if not arm.endswith("_train")]
    colors = plt.get_cmap("tab10")(range(10))
    for arm, color in zip(shown, colors, strict=False):
        bands = [evidence.mean_interval(f"psnr_ft_at_{round(s)}pct", arm, "scene") for s in shares]
        mean, low, high = np.array(bands).T
        heavy = arm in ("pop", "blend")
        ax.plot(
            shares, mean, marker="o", ms=4, color=color, lw=2.4 if heavy else 1.2, label=arm, zorder=3 if heavy else 2
        )
        if heavy:
            ax.fill_between(shares, low, high, color=color, alpha=0.18, lw=0)
    fitted = evidence.mean_interval("psnr_fitted", "pop", "scene")[0]
    if np.isfinite(fitted):
        ax.axhline(fitted, color="0.5", ls="--", lw=1)
        ax.annotate("all Gaussians", (shares[-1], fitted), xytext=(0, 3), textcoords="offset points", color="0.4")
    ax.set(xlabel="Gaussians kept (%)", ylabel=evidence.label("psnr_ft_curve"), title="Pruned in rounds, then refined")
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    ax.grid(alpha=0.2)
    pop, blend = evidence.series("example", "pop", "scene"), evidence.series("example", "blend", "scene")
    if len(pop) and len(blend):
        last = f"{shares[-1]:.0f} % kept"
        panels = [
            ("held-out truth", pop[0][1]),
            ("removal error (rank, bright = high)", pop[0][2]),
            (f"sum of weights, {last}", blend[0][0]),
            (f"POP, {last}", pop[0][0]),
        ]
        for ax, (title, image) in zip(right.subplots(2, 2).flat, panels, strict=True):
            ax.imshow(unpack(image), interpolation="nearest")
            ax.set_title(title, fontsize=9)
            ax.set_axis_off()
    return fig


# Use on your own scene


@study.apply
def apply(
    scene: Path,
    out: Path = Path("small.ply"),
    keep: float = 0.3,
    cameras: Path | None = None,
    colmap: Path | None = None,
    images: Path | None = None,
    rounds: int = 5,
    refine: int = 0,
    score: Literal["pop", "pop_target", "blend", "max_weight", "opacity", "sensitivity"] = "pop",
    background: Literal["black", "white"] = "black",
    size: int = 800,
    views: int = 64,
) -> str:
    """Shrink a Gaussian splatting scene (.ply as the INRIA code writes it) with the least change to its images.

    Writes the smaller scene, report.json (sizes, and PSNR of the smaller against the full scene in every view) and
    figure.png beside it. Without --refine the kept Gaussians are byte for byte those of the input.

    Args:
        scene: the trained scene, point_cloud.ply.
        out: where the smaller scene goes.
        keep: share of the Gaussians to keep; above 1: their number.
        cameras: cameras.json that the trainer wrote beside the scene.
        colmap: COLMAP model (sparse/0) instead of cameras.json; without either, views are placed around the scene.
        images: folder of the photographs, for --refine and --score pop_target.
        rounds: how often the survivors are scored anew.
        refine: optimisation steps in all, spread over the rounds; needs --images.
        score: what ranks the Gaussians; pop is the removal error, pop_target that against the photographs.
        background: colour the scene was trained over.
        size: longest image side used, in pixels; smaller is faster.
        views: how many of the cameras are used at most.
    """
    started = time.perf_counter()
    if cameras and colmap:
        raise InputError("give --cameras or --colmap, not both")
    if rounds < 1 or refine < 0 or size < 16 or views < 1:
        raise InputError("--rounds and --views must be at least 1, --refine at least 0, --size at least 16")
    if images and not (cameras or colmap):
        raise InputError("--images needs their cameras: --cameras cameras.json or --colmap sparse/0")
    if (refine or score == "pop_target") and not images:
        raise InputError(f"{'--refine' if refine else '--score pop_target'} needs photographs: --images FOLDER")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    file = read_splat_ply(scene)
    full = file.splats.to(device=device)
    full.check()
    near, photos = NEAR, {}
    if cameras or colmap:
        named = read_cameras_json(cameras) if cameras else colmap_cameras(read_colmap(colmap, points=False))
        names = list(named)
        named = {n: named[n] for n in names[:: max(1, math.ceil(len(names) / views))]}
        if images:
            named, photos = read_photos(images, named, longest=size)
        named = {
            n: c.resized(*fit_size(c.width, c.height, size)).to(device=device, dtype=torch.float32)
            for n, c in named.items()
        }
        source = str(cameras or colmap)
    else:
        named, near = views_around(full, views, min(size, 400))
        source = "none given: views on two spheres around the scene"
        print(
            "warning: no cameras given; the scene is judged from spheres around it, not from where it was taken",
            file=sys.stderr,
        )
    back = torch.full((3,), 1.0 if background == "white" else 0.0, device=device)
    targets = [photos[n].to(device) for n in named] if photos else None
    views_used = list(named.values())

    def refined(part: Splats, number: int) -> Splats:
        done, until = refine * number // rounds, refine * (number + 1) // rounds
        assert targets is not None
        return train_splats(
            part,
            views_used,
            targets,
            until - done,
            generator=torch.Generator().manual_seed(number),
            decay=False,
            pace=lambda i: 1 - (done + i) / refine,
            background=back,
        )

    ranked = partial(importance, cameras=views_used, kind=score, background=back, target=targets, near=near)
    first = ranked(full)
    if score != "opacity" and not bool((first != first[0]).any()):
        raise InputError(f"no Gaussian of {scene} is seen in the {len(named)} views; do the cameras belong to it?")
    small, kept = prune(
        full,
        views_used,
        keep,
        rounds=rounds,
        kind=lambda part: first if part is full else ranked(part),
        refine=refined if refine else None,
    )
    result = file.select(kept.cpu().numpy())
    (result.with_splats(small) if refine else result).write(out)

    levels, against = {}, {"full": {}, "small": {}}
    worst = (math.inf, views_used[0], "")
    with torch.no_grad():
        for name, camera in named.items():
            before, after = (render(s, camera, back, near=near).clamp(0, 1).permute(2, 0, 1) for s in (full, small))
            levels[name] = float(psnr(after, before))
            if levels[name] <= worst[0]:
                worst = (levels[name], camera, name)
            if photos:
                truth = photos[name].to(after).permute(2, 0, 1)
                against["full"][name], against["small"][name] = float(psnr(before, truth)), float(psnr(after, truth))
    report = {
        "paper": study.paper,
        "scene": scene.name,
        "gaussians": {"before": len(full), "after": len(small)},
        "megabytes": {"before": scene.stat().st_size / 1e6, "after": out.stat().st_size / 1e6},
        "score": score,
        "rounds": rounds,
        "refine_steps": refine,
        "cameras": source,
        "psnr_small_against_full": summary(levels),
        **({f"psnr_{k}_against_photos": summary(v) for k, v in against.items()} if photos else {}),
        "seconds": round(time.perf_counter() - started, 1),
    }
    (out.parent / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    fig = apply_figure(full, small, first.cpu(), kept.cpu(), worst, back, near)
    fig.savefig(out.parent / "figure.png", dpi=120)
    plt.close(fig)
    megabytes = report["megabytes"]
    mean = report["psnr_small_against_full"]["mean"]
    return (
        f"{len(full)} -> {len(small)} Gaussians, {megabytes['before']:.2f} -> {megabytes['after']:.2f} MB; "
        f"{'same images' if mean is None else f'PSNR {mean:.2f} dB'} against the full scene over {len(levels)} views"
    )


def views_around(scene: Splats, count: int, size: int) -> tuple[dict[str, Camera], float]:
    """Views on two spheres about the median of the Gaussians, and a near limit that fits the scene's size."""
    centre = scene.means.median(0).values
    radius = float((scene.means - centre).norm(dim=1).median()) or 1.0
    K = intrinsics(size, size, fov=60.0).to(scene.means)
    outer = -(-count // 2)
    rings = [(outer, 3.0, "outer"), (count - outer, 1.2, "inner")]
    found = {
        f"{name}_{i}": camera
        for number, factor, name in rings
        if number
        for i, camera in enumerate(
            sphere_of_views(number, centre=centre, radius=factor * radius, K=K, width=size, height=size)
        )
    }
    return found, min(NEAR, 0.05 * radius)


def summary(levels: dict[str, float]) -> dict[str, object]:
    """Mean and single values in dB; None stands for images that are equal."""
    finite = [x for x in levels.values() if math.isfinite(x)]
    single = {name: x if math.isfinite(x) else None for name, x in levels.items()}
    return {"mean": float(np.mean(finite)) if finite else None, "views": single}


def apply_figure(
    full: Splats,
    small: Splats,
    first: Tensor,
    kept: Tensor,
    worst: tuple[float, Camera, str],
    background: Tensor,
    near: float,
):
    """The view that changed most, before and after, and the scores of the first round."""
    level, camera, name = worst
    with torch.no_grad():
        before, after = (render(s, camera, background, near=near).clamp(0, 1).cpu() for s in (full, small))
    fig, axes = plt.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
    change = (before - after).abs().mean(-1)
    for ax, image, title in zip(
        axes,
        (before, after, change),
        (f"all {len(full)} Gaussians, view {name}", f"{len(small)} kept ({level:.1f} dB)", "change (mean of channels)"),
        strict=False,
    ):
        shown = ax.imshow(image, cmap="magma", vmin=0)
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    fig.colorbar(shown, ax=axes[2], shrink=0.8)
    stays = torch.zeros(len(first), dtype=torch.bool)
    stays[kept] = True
    signed = bool((first < 0).any()) or not bool((first > 0).any())
    low, high = float(first.min() if signed else first[first > 0].min()), float(first.max())
    edges = np.linspace(low, high + 1e-9, 60) if signed else np.geomspace(low, 1.001 * high, 60)
    parts = [first[mask].clamp(min=low).numpy() for mask in (stays, ~stays)]
    axes[3].hist(parts, edges, stacked=True, label=["kept", "removed"], color=["tab:blue", "tab:orange"])
    unseen = "" if signed or bool((first > 0).all()) else " (leftmost: zero)"
    axes[3].set(xscale="linear" if signed else "log", xlabel=f"score in the first round{unseen}", ylabel="Gaussians")
    axes[3].legend(frameon=False)
    return fig
