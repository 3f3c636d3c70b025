"""LCF3D: does an image detector clean up and complete a lidar detector, without training them together? (2601.09812)

A ray-cast street gives a lidar scan and a small image of the same objects. Poles, posts, bins and bushes look like
people to the lidar, but not to the camera. For each seed a lidar detector, an image detector and a Frustum Localizer
are trained once; every arm then works on the same detections. `lidar_only` and `score_fusion` (matched boxes rescored,
the others kept at a lower score) are tuned on validation streets with nine settings each, as the method is.

Test conditions: the training sensors; 16 beams on a lower mount (points stay relative to the road, as a careful
user would have them); night, in which the image detector fails and the method must not win; a calibration off by 2
degrees. Precision counts centres within 0.5, 1 and 2 m on the ground.

Rescoring is a strong rival here. A heat-map detector reports nearly every object at some low score, so that keeping
unconfirmed boxes far down the list costs little precision, while the veto also loses what the image detector does not
see, and little is left for the cascade to recover. The veto pays where unconfirmed boxes must not be reported at all,
which an average precision does not reward; false alarms at a fixed recall do.

At full scale frames come from a KITTI object folder given with `--data`: `training/`, `ImageSets/train.txt` and
`val.txt`, and results of the user's detectors in KITTI files under `lidar/` and `image/` (other conditions:
`lidar_shift/`, `image_night/`; a condition without its folder is not measured).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from assay.data.scenes import street as scenes
from assay.errors import InputError
from assay.geometry.boxes3d import bev_iou, nms_bev
from assay.geometry.lidar_camera import Calibration
from assay.lab import Better, Bound, Gate, NotWorse, Study
from assay.methods.driving.frustum_localizer import Crops, FrustumLocalizer, fit_localizer
from assay.methods.driving.late_cascade_fusion import (
    KITTI,
    Boxes2D,
    Boxes3D,
    FusionOptions,
    LateCascadeFusion,
    join_crops,
    training_crops,
)
from assay.metrics.boxes import box_average_precision
from assay.metrics.detection3d import (
    KittiFrame,
    distance_average_precision,
    distance_hits,
    kitti_average_precision,
    precision_recall,
)
from assay.nn.detectors import ImageDetector, PillarDetector
from assay.studies.driving import _late_cascade_kitti as kitti

CLASSES = ("Pedestrian", "Cyclist", "Car")
SMALL = (0, 1)
DISTANCES = (0.5, 1.0, 2.0)
BEV_IOU = (0.25, 0.25, 0.5)
LEAST = 0.05  # score below which a detector reports nothing


@dataclass(frozen=True)
class Size:
    """Streets and training steps of a scale."""

    train: int
    validation: int
    test: int
    lidar_steps: int
    image_steps: int
    localizer_steps: int
    points: int = 128


SIZES = {
    "smoke": Size(train=8, validation=4, test=6, lidar_steps=4, image_steps=4, localizer_steps=4),
    "pocket": Size(train=250, validation=40, test=80, lidar_steps=250, image_steps=350, localizer_steps=300),
    "full": Size(train=0, validation=0, test=0, lidar_steps=0, image_steps=0, localizer_steps=12_000, points=1024),
}

study = Study(
    paper="2601.09812",
    arms={
        "lidar_only": "the lidar detector, score threshold and suppression tuned",
        "score_fusion": "matched boxes rescored, the others kept at a tuned factor; no recovery",
        "late_only": "matching and veto, no recovery",
        "cascade_only": "all lidar boxes as they are, and recovered ones",
        "lcf": "LCF3D",
        "lcf_no_likelihood": "LCF3D, localizer without the points' likelihood",
        "lcf_class_match": "LCF3D, boxes matched within a class only",
        "oracle_2d": "LCF3D with perfect 2-D boxes (upper bound)",
    },
    conditions={
        "same": "sensors as in training",
        "shift": "16 beams, mounted 0.4 m lower",
        "night": "control: the image detector fails",
        "miscalibrated": "calibration off by 2 degrees",
    },
    claims=[
        Better(
            "map_small",
            method="lcf",
            baseline="lidar_only",
            conditions=["same"],
            text="LCF3D finds pedestrians and cyclists better than the lidar detector alone",
            paper="significant gains over lidar-only detection, above all pedestrians and cyclists on KITTI (abstract)",
        ),
        Better(
            "fp_per_frame",
            method="lcf",
            baseline="lidar_only",
            higher=False,
            conditions=["same"],
            text="at the recall of the lidar detector's best operating point LCF3D has fewer false alarms",
            paper="late fusion removes false lidar detections (abstract)",
        ),
        Better(
            "recall_small",
            method="lcf",
            baseline="late_only",
            conditions=["same"],
            text="cascade fusion recovers pedestrians and cyclists that matching alone loses",
            paper="frustum proposals recover missed objects (abstract)",
        ),
        Better(
            "recovered_precision",
            method="lcf",
            baseline="lidar_only",
            baseline_metric="entering_precision",
            conditions=["same"],
            text="recovered boxes are right more often than the lidar boxes that enter the fusion",
        ),
        Better(
            "map_small",
            method="lcf",
            baseline="lidar_only",
            conditions=["shift"],
            text="with other sensors than in training LCF3D is better than the lidar detector alone",
            paper="helps when sensors at test time differ from those at training (abstract)",
        ),
        NotWorse(
            "gain_small",
            method="lcf",
            margin=0.02,
            conditions=["shift"],
            baseline_conditions=["same"],
            text="the gain over lidar alone is at least as large with other sensors as with the same (margin 0.02)",
            paper="domain generalisation (abstract)",
        ),
        Better(
            "map_small",
            method="lcf",
            baseline="score_fusion",
            conditions=["same", "shift"],
            text="veto and recovery are worth more than rescoring the same boxes",
        ),
        Bound(
            "crowded_ms",
            method="lcf",
            at_most=20.0,
            conditions=["same"],
            text="fusing 50 boxes a side and 120,000 points takes at most 20 ms of one core",
            paper="real-time (title)",
        ),
        Better(
            "map_small",
            method="lcf",
            baseline="score_fusion",
            conditions=["night"],
            text="control: with a failing image detector the veto does not beat rescoring",
            expected="not supported",
        ),
    ],
    gates=[
        Gate(
            "map_small", method="lidar_only", condition="same", at_least=0.15, why="the lidar detector has not learnt"
        ),
        Gate(
            "image_ap", method="lcf", condition="same", at_least=0.5, why="the image detector does not recognise well"
        ),
        Gate(
            "reached",
            method="lcf",
            condition="same",
            at_least=1.0,
            why="LCF3D does not reach the recall at which false alarms are compared",
            claims=["C2"],
        ),
    ],
    metrics={
        "map_small": "AP of pedestrian and cyclist (centres within 0.5, 1, 2 m)",
        "gain_small": "AP of pedestrian and cyclist over lidar alone",
        "ap_pedestrian": "AP of pedestrian",
        "ap_cyclist": "AP of cyclist",
        "ap_car": "AP of car",
        "ap40_small": "AP of pedestrian and cyclist (BEV IoU 0.25, 40 recalls)",
        "recall_small": "recall of pedestrian and cyclist (1 m)",
        "fp_per_frame": "false alarms a frame at the lidar detector's recall",
        "reached": "whether that recall is reached (1: yes)",
        "recovered_precision": "share of recovered pedestrians and cyclists that are right (1 m)",
        "entering_precision": "the same share of lidar boxes that enter the fusion",
        "image_ap": "AP of the 2-D boxes (IoU 0.4, pedestrian and cyclist)",
        "fusion_ms": "fusion time a frame (ms of one core)",
        "crowded_ms": "fusion time, 50 boxes a side, 120,000 points (ms of one core)",
    },
    seeds={"pocket": 5, "full": 3},
    data=lambda scale: "real" if scale == "full" else "simulated",
    tolerances={"fusion_ms": None, "crowded_ms": None},
    tolerance=2e-2,
    time_limit={"prepare": 3600.0, "full": 86400.0},
)


@dataclass
class Frame:
    """What the arms see of a frame, and the truth.

    Attributes:
        points: `(P, 4)`.
        lidar, image: detections.
        calib: as the fusion believes it.
        gold, gold_labels, gold_rects: labelled objects `(N, 7)`, `(N,)`, `(N, 4)`.
    """

    points: Tensor
    lidar: Boxes3D
    image: Boxes2D
    calib: Calibration
    gold: Tensor
    gold_labels: Tensor
    gold_rects: Tensor


@dataclass
class Tuned:
    """Settings found on validation frames.

    Attributes:
        least3d: threshold of lidar boxes when used alone; suppression: overlap left among them.
        operating: score of the lidar detector's best F1 on pedestrians and cyclists.
        score_fusion, lcf: options of these arms.
    """

    least3d: float = LEAST
    suppression: float = 0.1
    operating: float = 0.3
    score_fusion: FusionOptions = field(default_factory=FusionOptions)
    lcf: FusionOptions = field(default_factory=FusionOptions)


@dataclass
class Shared:
    """What all arms of a seed use."""

    frames: dict[str, list[Frame]]
    localizers: dict[bool, FrustumLocalizer | None]  # with and without likelihood
    tuned: Tuned
    points: int
    alone: dict[str, tuple[Outcome, float]] = field(default_factory=dict)  # lidar only, by condition


@dataclass
class Outcome:
    """Detections of an arm over all frames: boxes `(N, 7)`, scores, labels, frame numbers `(N,)`, sources."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    frames: np.ndarray
    sources: np.ndarray


@study.prepare
def prepare(seed, scale, data=None):
    """Train the detectors and the localizers, detect in every condition, tune on validation frames."""
    size = SIZES[scale]
    generator = torch.Generator().manual_seed(seed)
    if scale == "full":
        if data is None:
            raise InputError("the full scale needs --data: a KITTI object folder with results under lidar/ and image/")
        frames, validation, crops = kitti.study_frames(Path(data), Frame, size.points, generator)
        if crops is None:
            raise InputError(f"{data}: no training object has enough points to train a localizer with")
        localizers = {
            True: _train_localizer(crops, size, generator, backbone="pointnet2"),
            False: _train_localizer(_without_likelihood(crops), size, generator, backbone="pointnet2"),
        }
        return Shared(frames, localizers, _tune(validation, localizers[True], size.points), size.points)

    base = 1_000_000 * (seed + 1)
    train = [_record(base + i) for i in range(size.train)]
    lidar_net = _train_lidar(train, size.lidar_steps, generator)
    image_net = _train_image(train, size.image_steps, generator)
    crops = join_crops(
        training_crops(
            record.points, record.gold, record.labels, record.rects, _calibration(), copies=4, count=size.points,
            generator=generator,
        )
        for record in train
    )  # fmt: skip
    localizers = {
        True: _train_localizer(crops, size, generator),
        False: _train_localizer(_without_likelihood(crops), size, generator),
    }
    validation = [_frame(_record(base + 500_000 + i), lidar_net, image_net) for i in range(size.validation)]
    tuned = _tune(validation, localizers[True], size.points)

    frames = {condition: [] for condition in study.conditions}
    rng = np.random.default_rng([seed, 7])
    wrong = Calibration(
        torch.from_numpy(scenes.StreetCamera().matrices()[0]),
        torch.from_numpy(scenes.jittered(scenes.StreetCamera().matrices()[1], yaw=2.0)),
        _calibration().image_size,
    )
    for i in range(size.test):
        record = _record(base + 700_000 + i)
        same = _frame(record, lidar_net, image_net)
        thin = scenes.scan_street(record.street, scenes.fewer_beams(scenes.Lidar(), 16, lower=0.4))
        points = torch.from_numpy(thin.points)
        dark = torch.from_numpy(scenes.at_night(record.image.numpy(), rng))
        frames["same"].append(same)
        frames["shift"].append(replace(same, points=points, lidar=_detect_lidar(lidar_net, points)))
        frames["night"].append(replace(same, image=_detect_image(image_net, dark)))
        frames["miscalibrated"].append(replace(same, calib=wrong))
    return Shared(frames, localizers, tuned, size.points)


@study.trial
def trial(arm, condition, seed, scale, shared):
    """Fuse every test frame of a condition and score the result."""
    frames = shared.frames.get(condition, [])
    if not frames:
        return {name: float("nan") for name in study.metrics}
    start = time.thread_time()
    found = run_arm(arm, frames, shared)
    seconds = time.thread_time() - start
    if condition not in shared.alone:
        outcome = run_arm("lidar_only", frames, shared)
        shared.alone[condition] = outcome, _map_small(outcome, frames)
    alone, alone_ap = shared.alone[condition]
    result = measure(found, frames)
    result["gain_small"] = result["map_small"] - alone_ap
    result["fusion_ms"] = 1000 * seconds / len(frames)
    small = alone.scores[np.isin(alone.labels, SMALL)]
    recall = _recall_above(alone, frames, shared.tuned.operating) if len(small) else 0.0
    result["fp_per_frame"], result["reached"] = _false_alarms(found, frames, recall)
    entering = _lidar_outcome(frames, shared.tuned, shared.tuned.lcf.least3d[0])
    result["entering_precision"] = _precision(entering, frames)
    recovered = found.sources == "recovered"
    result["recovered_precision"] = _precision(_select(found, recovered), frames) if recovered.any() else float("nan")
    result["recovered_per_frame"] = float(recovered.sum() / len(frames))
    result["image_ap"] = _image_ap(frames)
    if arm == "lcf" and condition == "same":
        result["crowded_ms"] = crowded_time(shared.localizers[True], shared.tuned.lcf, shared.points)
    return result


@study.figure
def figure(evidence):
    """Precision-recall of pedestrians, and AP of the small classes by condition."""
    arms = ["lidar_only", "score_fusion", "late_only", "lcf"]
    colours = dict(zip([*arms, "oracle_2d"], ["#7a7a7a", "#d98c21", "#5aa9d6", "#1b5e9c", "#b9cbd9"], strict=True))
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained", width_ratios=[1, 1.5])
    for arm in arms:
        curves = evidence.series("curve_pedestrian", arm, "same")
        if curves.size:
            left.plot(np.linspace(0, 1, curves.shape[1]), curves.mean(0), color=colours[arm], label=arm, lw=2)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Pedestrian, centre within 1 m")
    left.legend(frameon=False, loc="lower left")
    shown = [*arms, "oracle_2d"]
    for k, arm in enumerate(shown):
        for x, condition in enumerate(evidence.conditions):
            mean, low, high = evidence.mean_interval("map_small", arm, condition)
            error = [[mean - low], [high - mean]] if np.isfinite(low) else None
            label = arm if x == 0 else None
            right.bar(x + (k - 2) * 0.16, mean, 0.15, yerr=error, color=colours[arm], label=label, ecolor="#333333")
    right.set_xticks(range(len(evidence.conditions)), evidence.conditions)
    right.set(ylabel="AP of pedestrian and cyclist", title="By condition (mean and 95 % interval over seeds)")
    right.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return fig


@study.apply
def apply(
    kitti_root: Path,
    boxes3d: Path,
    boxes2d: Path,
    out: Path = Path("fused"),
    model: Path | None = None,
    train: bool = False,
    backbone: Literal["pointnet2", "pointnet"] = "pointnet2",
    steps: int = 3000,
    match_iou: float = 0.4,
    least3d: list[float] = [0.2, 0.3, 0.3],  # noqa: B006  (the command line shows it)
    least2d: list[float] = [0.4, 0.4, 0.5],  # noqa: B006
    keep_out_of_view: float | None = None,
    cluster: Literal["off", "components", "cliques"] = "off",
    categories: list[str] = ["1=Pedestrian", "2=Cyclist", "3=Car"],  # noqa: B006
    draw: bool = True,
    seed: int = 0,
):
    """Fuse the results of a lidar detector and an image detector on KITTI frames.

    Writes OUT/data/FRAME.txt (KITTI result files), OUT/sources.csv (where each box came from), OUT/report.json, and
    with --draw OUT/overlay/FRAME.png. Without a localizer only late fusion runs.

    Args:
        kitti_root: folder with velodyne/, calib/ and image_2/ (or with training/ that has them).
        boxes3d: folder of KITTI result files of the lidar detector, one a frame.
        boxes2d: folder of KITTI result files of the image detector, or a COCO results .json.
        out: folder for the result.
        model: folder OUT/model of an earlier run with --train.
        train: train a localizer on label_2 first; it is kept in OUT/model.
        backbone: network of the localizer to train.
        steps: training steps.
        match_iou: overlap in the image that makes a pair.
        least3d: least score of lidar boxes: pedestrian, cyclist, car.
        least2d: least score of image boxes: pedestrian, cyclist, car.
        keep_out_of_view: keep lidar boxes outside the image from this score on; none are kept when not given.
        cluster: match groups of overlapping lidar boxes.
        categories: COCO category ids and their class, for a .json.
        draw: write overlay pictures.
        seed: of the training.
    """
    for name, values in (("least3d", least3d), ("least2d", least2d)):
        if len(values) != len(CLASSES):
            raise InputError(f"--{name} needs three numbers (pedestrian, cyclist, car); got {len(values)}")
    if model is not None and train:
        raise InputError("give either --model or --train")
    options = replace(
        KITTI, match_iou=match_iou, least3d=tuple(least3d), least2d=tuple(least2d), out_of_view=keep_out_of_view,
        cluster=None if cluster == "off" else cluster,
    )  # fmt: skip
    return kitti.fuse_folder(
        kitti_root,
        boxes3d,
        boxes2d,
        out,
        options,
        model=model,
        training=kitti.Training(backbone, steps, seed) if train else None,
        categories=categories,
        draw=draw,
    )


def run_arm(arm: str, frames: Sequence[Frame], shared: Shared) -> Outcome:
    """Detections of an arm on frames."""
    tuned = shared.tuned
    if arm == "lidar_only":
        return _lidar_outcome(frames, tuned, tuned.least3d)
    options, localizer = tuned.lcf, shared.localizers[True]
    if arm == "score_fusion":
        options, localizer = tuned.score_fusion, None
    elif arm == "late_only":
        localizer = None
    elif arm == "cascade_only":
        options = replace(options, unmatched_factor=1.0, fuse_labels=False)
    elif arm == "lcf_no_likelihood":
        options, localizer = replace(options, use_likelihood=False), shared.localizers[False]
    elif arm == "lcf_class_match":
        options = replace(options, match_classes=True)
    elif arm == "oracle_2d":
        frames = [replace(frame, image=_perfect(frame)) for frame in frames]
    fusion = LateCascadeFusion(localizer, options, localizer_points=shared.points)
    found = [fusion(f.points, _suppressed(f.lidar, tuned.suppression), f.image, f.calib) for f in frames]
    return _outcome(found, [f.source for f in found])


def measure(found: Outcome, frames: Sequence[Frame]) -> dict[str, float | list[float]]:
    """AP of every class, recall, and the precision-recall curve of pedestrians."""
    gold, labels, numbers = _gold(frames)
    result: dict[str, float | list[float]] = {}
    ap, ap40 = [], []
    hits, total = 0, 0
    for k, name in enumerate(CLASSES):
        mine, true = found.labels == k, labels == k
        if not true.any():
            raise RuntimeError(f"no {name} in {len(frames)} frames")
        given = (found.boxes[mine, :2], found.scores[mine], found.frames[mine], gold[true, :2], numbers[true])
        ap.append(distance_average_precision(*given, distances=DISTANCES))
        ap40.append(_ap40(found, mine, gold[true], numbers[true], len(frames), BEV_IOU[k]))
        result[f"ap_{name.lower()}"] = ap[-1]
        one = distance_hits(*given, 1.0)
        if k in SMALL:
            hits, total = hits + int(one.sum()), total + int(true.sum())
        if k == 0:
            precision, recall, _ = precision_recall(one, given[1], int(true.sum()))
            grid = np.linspace(0, 1, 51)
            result["curve_pedestrian"] = (
                np.interp(grid, recall, precision, right=0).tolist() if len(recall) else [0.0] * len(grid)
            )
    result["map_small"] = float(np.mean([ap[k] for k in SMALL]))
    result["ap40_small"] = float(np.mean([ap40[k] for k in SMALL]))
    result["recall_small"] = hits / total
    return result


def crowded_frame(seed: int = 0, boxes: int = 50, points: int = 120_000, lost: int = 10) -> Frame:
    """A KITTI-sized frame for timing: `boxes` detections a side, of which `lost` on each side have no partner."""
    rng = np.random.default_rng(seed)
    P, T = scenes.StreetCamera(width=1242, height=375).matrices()
    calib = Calibration(torch.from_numpy(P), torch.from_numpy(T), (375, 1242))
    angle, away = rng.uniform(-np.pi, np.pi, points), rng.uniform(3, 60, points)
    cloud = np.stack([away * np.cos(angle), away * np.sin(angle), rng.uniform(0, 2, points), rng.random(points)], 1)

    def some(count):
        angle, away = rng.uniform(-0.7, 0.7, count), rng.uniform(8, 35, count)
        flat = np.zeros(count)
        size = [flat + 1.2, flat + 0.8, flat + 1.7]
        place = [away * np.cos(angle), away * np.sin(angle), flat + 0.85]
        return torch.tensor(np.stack([*place, *size, rng.uniform(-3, 3, count)], 1), dtype=torch.float32)

    from assay.geometry.lidar_camera import project_boxes

    b3 = some(boxes)
    b2 = torch.cat([project_boxes(b3, calib)[0][lost:], project_boxes(some(lost), calib)[0]]).float()
    labels, scores = torch.from_numpy(rng.integers(0, 2, boxes)), torch.full((boxes,), 0.9)
    return Frame(
        torch.tensor(cloud, dtype=torch.float32),
        Boxes3D(b3, scores, labels),
        Boxes2D(b2, scores, labels),
        calib,
        b3,
        labels,
        b2,
    )


def crowded_time(localizer: FrustumLocalizer | None, options: FusionOptions, points: int, repeats: int = 15) -> float:
    """Milliseconds of one core for fusing a crowded frame, the least of several rounds: what others run counts less."""
    frame = crowded_frame()
    fusion = LateCascadeFusion(localizer, options, localizer_points=points)
    spent = []
    for _ in range(repeats):
        start = time.thread_time()
        fusion(frame.points, frame.lidar, frame.image, frame.calib)
        spent.append(time.thread_time() - start)
    return 1000 * min(spent)


@dataclass
class _Record:
    """A street as its sensors see it, with the labels that count: those that at least five rays meet in the image."""

    street: scenes.Street
    points: Tensor
    image: Tensor
    gold: Tensor
    labels: Tensor
    rects: Tensor
    visible: Tensor


def _record(seed: int) -> _Record:
    street = scenes.make_street(seed)
    scan, view = scenes.scan_street(street), scenes.photograph(street)
    counts = (scan.hits >= 5) & (view.visible > 0.1)
    return _Record(
        street,
        torch.from_numpy(scan.points),
        torch.from_numpy(view.image),
        torch.from_numpy(street.boxes[counts]).float(),
        torch.from_numpy(street.labels[counts]),
        torch.from_numpy(view.rects[counts]).float(),
        torch.from_numpy(view.visible[counts]),
    )


def _calibration() -> Calibration:
    camera = scenes.StreetCamera()
    P, T = camera.matrices()
    return Calibration(torch.from_numpy(P), torch.from_numpy(T), (camera.height, camera.width))


def _frame(record: _Record, lidar_net: PillarDetector, image_net: ImageDetector) -> Frame:
    lidar, image = _detect_lidar(lidar_net, record.points), _detect_image(image_net, record.image)
    return Frame(record.points, lidar, image, _calibration(), record.gold, record.labels, record.rects)


def _train_lidar(train: Sequence[_Record], steps: int, generator: torch.Generator) -> PillarDetector:
    """Train the detector from above, on streets and their mirror images."""

    def batch(net, rows, mirror):
        sign = torch.tensor([1.0, -1.0 if mirror else 1.0, 1.0, 1.0])
        turn = torch.tensor([1.0, sign[1], 1.0, 1.0, 1.0, 1.0, sign[1]])
        return net.loss(
            [train[i].points * sign for i in rows],
            [train[i].gold * turn for i in rows],
            [train[i].labels for i in rows],
        )

    return _train(PillarDetector(len(CLASSES)), batch, len(train), steps, 4, generator)


def _train_image(train: Sequence[_Record], steps: int, generator: torch.Generator) -> ImageDetector:
    """Train the image detector, on pictures and their mirror images; hidden objects are not asked for."""

    def batch(net, rows, mirror):
        images = torch.stack([train[i].image for i in rows])
        shown = [train[i].visible > 0.3 for i in rows]
        rects = [train[i].rects[s] for i, s in zip(rows, shown, strict=True)]
        if mirror:
            images = images.flip(-1)
            rects = [
                torch.stack([images.shape[-1] - r[:, 2], r[:, 1], images.shape[-1] - r[:, 0], r[:, 3]], 1)
                for r in rects
            ]
        return net.loss(images, rects, [train[i].labels[s] for i, s in zip(rows, shown, strict=True)])

    return _train(ImageDetector(len(CLASSES)), batch, len(train), steps, 8, generator)


def _train(net, batch, count: int, steps: int, size: int, generator: torch.Generator):
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps + 1)
    for _ in range(steps):
        rows = torch.randint(count, (size,), generator=generator).tolist()
        mirror = bool(torch.rand((), generator=generator) < 0.5)
        loss = batch(net, rows, mirror)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return net.eval()


def _train_localizer(crops, size: Size, generator: torch.Generator, backbone="pointnet") -> FrustumLocalizer:
    net = FrustumLocalizer(len(CLASSES), 5, backbone=backbone)
    quick = backbone == "pointnet"  # the published rate needs its 100 passes
    fit_localizer(
        net,
        crops,
        steps=size.localizer_steps,
        batch=16 if quick else 32,
        lr=2e-3 if quick else 5e-4,
        generator=generator,
    )
    return net


def _without_likelihood(crops: Crops) -> Crops:
    return crops._replace(points=torch.cat([crops.points[..., :4], torch.ones_like(crops.points[..., :1])], -1))


def _detect_lidar(net: PillarDetector, points: Tensor) -> Boxes3D:
    return Boxes3D(*net.detect(points, least=LEAST))


def _detect_image(net: ImageDetector, image: Tensor) -> Boxes2D:
    boxes, scores, labels = net.detect(image, least=LEAST)
    size = torch.tensor([image.shape[2], image.shape[1]] * 2)
    boxes = torch.minimum(boxes.clamp(min=0), size)
    kept = (boxes[:, 2:] - boxes[:, :2]).amin(1) > 0
    return Boxes2D(boxes[kept], scores[kept], labels[kept])


def _perfect(frame: Frame) -> Boxes2D:
    return Boxes2D(frame.gold_rects, torch.ones(len(frame.gold_rects)), frame.gold_labels)


def _suppressed(lidar: Boxes3D, iou: float) -> Boxes3D:
    kept = nms_bev(lidar.boxes, lidar.scores, iou, lidar.labels)
    return Boxes3D(lidar.boxes[kept], lidar.scores[kept], lidar.labels[kept])


def _lidar_outcome(frames: Sequence[Frame], tuned: Tuned, least: float) -> Outcome:
    kept = []
    for frame in frames:
        boxes = _suppressed(frame.lidar, tuned.suppression)
        good = boxes.scores >= least
        kept.append(Boxes3D(boxes.boxes[good], boxes.scores[good], boxes.labels[good]))
    return _outcome(kept, [["lidar"] * len(boxes) for boxes in kept])


def _outcome(found: Sequence[Boxes3D], sources: Sequence[Sequence[str]]) -> Outcome:
    return Outcome(
        boxes=torch.cat([f.boxes for f in found]).double().numpy(),
        scores=torch.cat([f.scores for f in found]).double().numpy(),
        labels=torch.cat([f.labels for f in found]).numpy(),
        frames=np.repeat(np.arange(len(found)), [len(f) for f in found]),
        sources=np.array([word for words in sources for word in words], dtype=object),
    )


def _select(found: Outcome, rows: np.ndarray) -> Outcome:
    return Outcome(*(part[rows] for part in vars(found).values()))


def _gold(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    gold = torch.cat([f.gold for f in frames]).double().numpy()
    labels = torch.cat([f.gold_labels for f in frames]).numpy()
    return gold, labels, np.repeat(np.arange(len(frames)), [len(f.gold) for f in frames])


def _map_small(found: Outcome, frames: Sequence[Frame]) -> float:
    gold, labels, numbers = _gold(frames)
    values = []
    for k in SMALL:
        mine, true = found.labels == k, labels == k
        given = (found.boxes[mine, :2], found.scores[mine], found.frames[mine], gold[true, :2], numbers[true])
        values.append(distance_average_precision(*given, distances=DISTANCES))
    return float(np.mean(values))


def _small_hits(found: Outcome, frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray, int]:
    """Hits (1 m, right class) and scores of pedestrian and cyclist boxes, and how many there are to find."""
    gold, labels, numbers = _gold(frames)
    hits, scores = [], []
    for k in SMALL:
        mine, true = found.labels == k, labels == k
        hits.append(
            distance_hits(
                found.boxes[mine, :2], found.scores[mine], found.frames[mine], gold[true, :2], numbers[true], 1.0
            )
        )
        scores.append(found.scores[mine])
    return np.concatenate(hits), np.concatenate(scores), int(np.isin(labels, SMALL).sum())


def _precision(found: Outcome, frames: Sequence[Frame]) -> float:
    hits, _, _ = _small_hits(found, frames)
    return float(hits.mean()) if len(hits) else float("nan")


def _recall_above(found: Outcome, frames: Sequence[Frame], score: float) -> float:
    hits, scores, total = _small_hits(found, frames)
    return float(hits[scores >= score].sum() / total)


def _false_alarms(found: Outcome, frames: Sequence[Frame], recall: float) -> tuple[float, float]:
    """Wrong small boxes a frame at the first score that reaches a recall, and 1.0; all of them and 0.0 if none does."""
    hits, scores, total = _small_hits(found, frames)
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(hits[order])
    enough = np.flatnonzero(right >= recall * total - 1e-9)
    last = enough[0] if len(enough) else len(hits) - 1
    wrong = (last + 1 - right[last]) if len(hits) else 0
    return float(wrong / len(frames)), float(len(enough) > 0)


def _image_ap(frames: Sequence[Frame]) -> float:
    values = []
    numbers = np.arange(len(frames))
    for k in SMALL:
        mine = [(f.image.labels == k).numpy() for f in frames]
        true = [(f.gold_labels == k).numpy() for f in frames]
        values.append(
            box_average_precision(
                np.concatenate([f.image.boxes.numpy()[m] for f, m in zip(frames, mine, strict=True)]),
                np.concatenate([f.image.scores.numpy()[m] for f, m in zip(frames, mine, strict=True)]),
                np.concatenate([f.gold_rects.numpy()[t] for f, t in zip(frames, true, strict=True)]),
                images=np.repeat(numbers, [m.sum() for m in mine]),
                gold_images=np.repeat(numbers, [t.sum() for t in true]),
                threshold=0.4,
            )
        )
    return float(np.mean(values))


def _ap40(found: Outcome, mine: np.ndarray, gold: np.ndarray, numbers: np.ndarray, frames: int, iou: float) -> float:
    parts = []
    for i in range(frames):
        rows = mine & (found.frames == i)
        a, b = torch.from_numpy(found.boxes[rows]), torch.from_numpy(gold[numbers == i])
        overlap = bev_iou(a, b).numpy()
        zero = np.zeros
        parts.append(KittiFrame(overlap, found.scores[rows], zero(len(a), int), zero(len(b), int), zero(len(a), bool)))
    return kitti_average_precision(parts, iou)


def _tune(frames: Sequence[Frame], localizer: FrustumLocalizer | None, points: int) -> Tuned:
    """Nine settings for each of `lidar_only`, `score_fusion` and `lcf`, by AP of the small classes."""
    tuned = Tuned()

    def score(arm: str, candidate: Tuned) -> float:
        return _map_small(run_arm(arm, frames, Shared({}, {True: localizer}, candidate, points)), frames)

    def best(arm: str, candidates: list[Tuned]) -> Tuned:
        return max(candidates, key=lambda candidate: score(arm, candidate))

    tuned = best(
        "lidar_only",
        [replace(tuned, least3d=a, suppression=b) for a, b in product((LEAST, 0.1, 0.2), (0.05, 0.2, 0.5))],
    )
    hits, scores, total = _small_hits(_lidar_outcome(frames, tuned, tuned.least3d), frames)
    if len(hits):
        precision, recall, levels = precision_recall(hits, scores, total)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
        tuned = replace(tuned, operating=float(levels[f1.argmax()]))
    all3 = (LEAST,) * 3
    tuned = best(
        "score_fusion",
        [
            replace(tuned, score_fusion=replace(KITTI, least3d=all3, least2d=(a,) * 3, unmatched_factor=b))
            for a, b in product((0.1, 0.2, 0.3), (0.1, 0.3, 0.6))
        ],
    )
    return best(
        "lcf",
        [
            replace(tuned, lcf=replace(KITTI, least3d=(a,) * 3, least2d=(b,) * 3))
            for a, b in product((LEAST, 0.1, 0.2), (0.1, 0.2, 0.3))
        ],
    )
