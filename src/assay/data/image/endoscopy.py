"""Capsule endoscopy: a simulator of labelled videos, and readers of Kvasir-Capsule and Galar.

The simulator draws, for a video with camera path c(t) over a strip of mucosa,

    I(x, t) = V(x) * [ (1 - a(t) m(u)) * M(u) + a(t) m(u) * L(u) ] + S(u) + noise,     u = x + c(t)

with M the mucosa (colour field, folds), m and L shape and colour of a finding, a(t) its visibility, V the vignette of
the capsule's light and S specular spots; bubbles and debris float before it, and frames where a finding comes into
view are blurred. A finding's label holds over its whole run, so frames at the ends of a run are truly ambiguous. Normal
mucosa has innocent red spots, pale spots, bumps and bubbles, so colour or shape alone does not tell a finding.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from assay.data.image.folder import IMAGE_SUFFIXES, DataError, LabelTable, table_of

CLASSES = ("normal", "angiectasia", "erosion", "blood", "polyp")

GALAR_FINDINGS = (
    "ulcer", "polyp", "active bleeding", "blood", "erythema", "erosion", "angiectasia",
    "inflammatory bowel disease", "foreign body", "esophagitis", "varices", "hematin", "celiac", "cancer",
    "lymphangioectasis",
)  # fmt: skip
"""Columns of Galar's label tables that mark a pathology; those that a table lacks are passed over."""

_ALIASES = {
    "Blood": "Blood - fresh",
    "Erythematous": "Erythema",
    "Foreign Bodies": "Foreign body",
    "Ileo-cecal valve": "Ileocecal valve",
    "Normal": "Normal clean mucosa",
    "Reduced Mucosal View": "Reduced mucosal view",
    "Ampulla of vater": "Ampulla of Vater",
}  # the official split files of Kvasir-Capsule shorten the folder names


@dataclass(frozen=True)
class CapsuleVideos:
    """Simulated frames with their truth.

    Attributes:
        images: (N, 3, S, S) float32 in [0, 1], videos one after another, frames in order.
        labels: (N,) index into `CLASSES`; 0 is normal.
        video, frame: (N,) video number and frame number in it.
        visibility: (N,) how much of the finding shows, 0 for normal frames.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    video: NDArray[np.int64]
    frame: NDArray[np.int64]
    visibility: NDArray[np.float32]


def simulate_videos(
    videos: int, rng: np.random.Generator, *, frames: int = 20, size: int = 40, abnormal: float = 0.15
) -> CapsuleVideos:
    """Videos with findings in runs of 3 to 10 frames.

    Args:
        videos: number of videos; each is a patient of its own.
        frames: frames per video, at least 12.
        size: side of a frame in pixels, at least 16.
        abnormal: expected share of frames with a finding, at most 6.5 / `frames` (one run a video).

    Raises:
        ValueError: an argument out of its range.
    """
    mean_run = 6.5
    if videos < 1 or frames < 12 or size < 16 or not 0 <= abnormal <= mean_run / frames:
        raise ValueError(
            f"need videos >= 1, frames >= 12, size >= 16 and abnormal in [0, {mean_run / frames:g}], "
            f"got {videos}, {frames}, {size} and {abnormal}"
        )
    with_run = rng.permutation(videos)[: round(videos * abnormal * frames / mean_run)]
    findings = {int(v): 1 + i % (len(CLASSES) - 1) for i, v in enumerate(with_run)}  # classes equally often
    images, labels, visibility = [], [], []
    for v in range(videos):
        finding = findings.get(v, 0)
        shown = np.zeros(frames, np.float32)
        run = slice(0, 0)
        if finding:
            length = int(rng.integers(3, 11))
            start = int(rng.integers(0, frames - length + 1))
            run = slice(start, start + length)
            shown[run] = _visibility(length, rng)
        images.append(_render(finding, shown, run, size, rng))
        labels.append(np.where(shown > 0, finding, 0))
        visibility.append(shown)
    number, frame = np.divmod(np.arange(videos * frames), frames)
    return CapsuleVideos(
        np.concatenate(images), np.concatenate(labels).astype(np.int64), number, frame, np.concatenate(visibility)
    )


def read_kvasir_capsule(root: Path, split: Path | None = None) -> LabelTable:
    """The labelled images of Kvasir-Capsule: `root/[labelled_images/]<finding>/<video>_<frame>.jpg`.

    Args:
        root: folder of the unpacked release.
        split: an official `split_0.csv` or `split_1.csv` (`filename,label`): only its images, with its labels under
            the folders' full names.

    Raises:
        DataError: no images in this layout, a split that names a missing image, or a file name without video and frame.
    """
    base = root / "labelled_images" if (root / "labelled_images").is_dir() else root
    if not base.is_dir():
        raise DataError(f"{base}: no such folder; expected the labelled images of Kvasir-Capsule")
    files = {p.name: p for p in sorted(base.glob("*/*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    if not files:
        raise DataError(f"{base}: no images; expected <finding>/<video>_<frame>.jpg")
    if split is None:
        chosen = [(name, path.parent.name) for name, path in files.items()]
    else:
        chosen = [(row["filename"], row["label"]) for row in _table(split, ("filename", "label"))]
    names, given, video, frame = [], [], [], []
    for name, label in chosen:
        if name not in files:
            raise DataError(f"{split}: names {name}, which is not below {base}")
        stem, _, number = Path(name).stem.rpartition("_")
        if not stem or not number.isdigit():
            raise DataError(f"{files[name]}: file name is not <video>_<frame>")
        names.append(files[name].relative_to(root).as_posix())
        given.append(_ALIASES.get(label, label))
        video.append(stem)
        frame.append(int(number))
    return table_of(names, given, root, video, video, np.array(frame))


def read_galar(
    root: Path,
    *,
    findings: Sequence[str] = GALAR_FINDINGS,
    task: Literal["anomaly", "finding"] = "anomaly",
    every: int = 1,
) -> LabelTable:
    """Frames of Galar: `root/Frames/<video>/frame_<6 digits>.PNG`, and `root/Labels/<video>.csv` of 0/1 and `frame`.

    Args:
        findings: columns that count as pathology; frames with two of them are left out for `task="finding"`.
        task: `"anomaly"`: classes `normal` and `anomaly`; `"finding"`: `normal` and the finding's name.
        every: keep one frame in so many (neighbouring frames are nearly equal).

    Raises:
        DataError: missing folders or columns, a cell that is not 0 or 1, or no frame that has both label and image.
    """
    tables = {p.stem.lstrip("0") or "0": p for p in sorted((root / "Labels").glob("*.csv")) if p.stem.isdigit()}
    folders = {p.name.lstrip("0") or "0": p for p in sorted((root / "Frames").glob("*")) if p.name.isdigit()}
    shared = sorted(tables.keys() & folders.keys(), key=int)
    if not shared:
        raise DataError(f"{root}: expected Frames/<video>/frame_000001.PNG with Labels/<video>.csv")
    names, given, video, frame = [], [], [], []
    for number in shared:
        rows = _table(tables[number], ("frame",))
        columns = [name for name in findings if rows and name in rows[0]]
        if not columns:
            raise DataError(f"{tables[number]}: no column of a finding (looked for {', '.join(findings)})")
        images = {p.stem.lower(): p for p in folders[number].iterdir() if p.suffix.lower() in IMAGE_SUFFIXES}
        for row in rows[::every]:
            image = images.get(f"frame_{int(_number(tables[number], row['frame'])):06d}")
            if image is None:
                continue
            present = [name for name in columns if _number(tables[number], row[name]) == 1]
            if task == "finding" and len(present) > 1:
                continue
            names.append(image.relative_to(root).as_posix())
            given.append(("anomaly" if task == "anomaly" else present[0]) if present else "normal")
            video.append(number)
            frame.append(int(_number(tables[number], row["frame"])))
    return table_of(names, given, root, video, video, np.array(frame))


def _visibility(length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Rises over the first frames of a run and falls over the last ones, never to zero."""
    rise, fall = rng.uniform(1, 3, size=2)
    at = np.arange(length) + 0.5
    return np.clip(np.minimum(at / rise, (length - at) / fall), 0.3, 1).astype(np.float32)


def _render(finding: int, shown: NDArray, run: slice, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Frames of one video, (T, 3, S, S)."""
    frames, margin = len(shown), size // 2
    world = size + 2 * margin
    mucosa = _mucosa(world, size, rng)
    path = ndimage.gaussian_filter1d(rng.normal(size=(frames, 2)).cumsum(axis=0), 1.5, axis=0) * size / 30
    path = np.clip(path - path.mean(axis=0), -margin + 1, margin - 1) + margin
    middle = np.clip(path[run].mean(axis=0) if finding else path.mean(axis=0), margin * 0.5, world - size)
    centre = middle + size / 2 + rng.uniform(-0.2, 0.2, size=2) * size
    shape, colour, shade = _finding(finding, world, size, centre, rng)
    yy, xx = np.mgrid[:size, :size]
    radius = np.hypot(yy - (size - 1) / 2, xx - (size - 1) / 2) / size
    light = np.clip(1.25 - rng.uniform(0.8, 1.3) * radius**2 * 2, 0.1, 1.2)
    floaters = _floaters(world, size, rng)
    out = np.empty((frames, 3, size, size), np.float32)
    for t in range(frames):
        cover = shown[t] * shape
        view = (1 - cover) * mucosa + cover * colour[:, None, None] * (mucosa.mean(axis=0) / mucosa.mean())
        view = np.clip(view + shown[t] * shade, 0, 1)
        drift = path[t] + rng.normal(scale=0.3, size=2)
        frame = _crop(view, path[t], size) * light
        frame = _float_before(frame, _crop(floaters, world - size - drift, size))
        if 0 < shown[t] < 0.7 or rng.random() < 0.06:  # motion blur, mostly as a finding comes and goes
            frame = ndimage.gaussian_filter(frame, (0, *rng.uniform(0.4, 1.6, size=2)))
        out[t] = frame * rng.uniform(0.88, 1.1) + rng.normal(scale=0.02, size=frame.shape)
    return np.clip(out, 0, 1)


def _mucosa(world: int, size: int, rng: np.random.Generator) -> NDArray:
    """Colour field with folds and innocent spots, (3, world, world)."""
    base = np.array([0.72, 0.45, 0.30]) + rng.normal(scale=[0.06, 0.05, 0.05])
    broad = _smooth(world, size / 5, rng)
    folds = np.abs(_smooth(world, size / 9, rng))  # ridges where the field changes sign
    fine = _smooth(world, size / 28, rng)
    tint = np.array([0.07, 0.05, 0.04])[:, None, None]
    field = base[:, None, None] + tint * broad - 0.10 * np.exp(-8 * folds) + 0.025 * fine
    for _ in range(rng.poisson(2.0)):  # innocent red or pale spots, bumps
        spot = _blob(world, rng.uniform(size * 0.3, world - size * 0.3, 2), size * rng.uniform(0.025, 0.06), rng)
        field = field + spot * rng.choice([-0.18, 0.14, 0.1]) * np.array([0.15, 1.0, 0.9])[:, None, None]
    return np.clip(field, 0.02, 1)


def _finding(
    finding: int, world: int, size: int, centre: NDArray, rng: np.random.Generator
) -> tuple[NDArray, NDArray, NDArray]:
    """Cover (world, world) in [0, 1], its colour (3,), and shading that is added, (3, world, world)."""
    name = CLASSES[finding]
    none = np.zeros((3, world, world))
    jitter = rng.normal(scale=0.03, size=3)
    if name == "angiectasia":  # small red patch with ragged, vessel-like edge
        patch = _blob(world, centre, size * rng.uniform(0.06, 0.11), rng)
        ragged = np.clip(patch * (1 + 0.8 * _smooth(world, 1.0, rng)), 0, 1)
        return 0.85 * ragged, np.array([0.70, 0.16, 0.14]) + jitter, none
    if name == "erosion":  # pale centre, red rim
        radius = size * rng.uniform(0.06, 0.12)
        rim, pale = _blob(world, centre, radius * 1.35, rng), _blob(world, centre, radius * 0.7, rng)
        tone = np.array([0.66, 0.22, 0.18]) + jitter
        return 0.75 * rim, tone, pale * np.array([0.22, 0.50, 0.40])[:, None, None]
    if name == "blood":  # broad dark red pool with uneven edge
        pool = _blob(world, centre, size * rng.uniform(0.16, 0.3), rng)
        pool = np.clip(pool * (1 + 0.6 * _smooth(world, size / 10, rng)), 0, 1)
        return 0.8 * pool, np.array([0.48, 0.09, 0.07]) + jitter, none
    if name == "polyp":  # a bump: lit on one side, shaded on the other
        radius = size * rng.uniform(0.10, 0.17)
        bump = _blob(world, centre, radius, rng)
        angle = rng.uniform(0, 2 * np.pi)
        gy, gx = np.gradient(ndimage.gaussian_filter(bump, radius / 4))
        relief = (np.cos(angle) * gx + np.sin(angle) * gy) * radius
        return 0.3 * bump, np.array([0.75, 0.42, 0.32]) + jitter, np.repeat(0.45 * relief[None], 3, axis=0)
    return none[0], np.zeros(3), none


def _blob(world: int, centre: NDArray, radius: float, rng: np.random.Generator) -> NDArray:
    """Soft ellipse, 1 inside and 0 outside, (world, world)."""
    yy, xx = np.mgrid[:world, :world]
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
    dy, dx = yy - centre[0], xx - centre[1]
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    distance = np.hypot(u / stretch, v * stretch)
    return 1 / (1 + np.exp(np.clip((distance - radius) / (0.15 * radius + 0.3), -30, 30)))


def _floaters(world: int, size: int, rng: np.random.Generator) -> NDArray:
    """What moves before the wall: light of bubbles and speculars [0], cover of debris [1], (2, world, world)."""
    layers = np.zeros((2, world, world))
    for _ in range(rng.poisson(4.0)):
        centre, radius = rng.uniform(0, world, 2), size * rng.uniform(0.03, 0.09)
        layers[0] += 0.35 * (_blob(world, centre, radius, rng) - _blob(world, centre, radius * 0.65, rng))
        layers[0] += 0.5 * _blob(world, centre - radius * 0.3, 0.6, rng)
    for _ in range(rng.poisson(3.0)):
        layers[1] += 0.6 * _blob(world, rng.uniform(0, world, 2), size * rng.uniform(0.02, 0.06), rng)
    for _ in range(rng.poisson(5.0)):
        layers[0] += 0.6 * _blob(world, rng.uniform(0, world, 2), 0.7, rng)
    return np.clip(layers, 0, 1)


def _float_before(frame: NDArray, floaters: NDArray) -> NDArray:
    debris = np.array([0.35, 0.30, 0.10])[:, None, None]
    return frame * (1 - floaters[1]) + debris * floaters[1] + floaters[0]


def _smooth(side: int, scale: float, rng: np.random.Generator) -> NDArray:
    """Gaussian random field with unit variance, (side, side)."""
    field = ndimage.gaussian_filter(rng.normal(size=(side, side)), scale, mode="wrap")
    return field / field.std()


def _crop(view: NDArray, corner: NDArray, size: int) -> NDArray:
    """Window (C, size, size) of (C, H, W) at a corner between pixels, bilinear."""
    top, left = np.clip(corner, 0, np.array(view.shape[1:]) - size - 1e-6)
    y, x = int(top), int(left)
    fy, fx = top - y, left - x
    window = np.pad(view[:, y : y + size + 1, x : x + size + 1], ((0, 0), (0, 1), (0, 1)), mode="edge")
    rows = (1 - fy) * window[:, :size] + fy * window[:, 1 : size + 1]
    return (1 - fx) * rows[:, :, :size] + fx * rows[:, :, 1 : size + 1]


def _table(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: unreadable CSV ({error})") from None
    for name in needed:
        if not rows or name not in rows[0]:
            raise DataError(f"{file}: no column {name!r} or no rows")
    return rows


def _number(file: Path, value: str | None) -> float:
    try:
        return float(value or 0)
    except ValueError:
        raise DataError(f"{file}: {value!r} is not a number") from None
