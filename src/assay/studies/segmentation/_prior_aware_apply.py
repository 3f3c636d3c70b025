"""`apply` of PANC: clicks and pictures in, masks, eigenvectors, overlays and a table out."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from assay.data.image.folder import IMAGE_SUFFIXES
from assay.data.image.mask_pairs import read_mask, read_rgb
from assay.errors import InputError
from assay.methods.segmentation.prior_aware_cut import PANC, Backbone, ClassBank, Link, PriorBank, UndecidedCut
from assay.methods.segmentation.prior_aware_cut import upsample as to_pixels
from assay.nn.gabor_tokens import GaborTokens
from assay.nn.token_extractor import TokenExtractor
from assay.studies.segmentation._prior_aware_points import Click, cell_at, check_inside, owner_of, read_clicks

MOST_TOKENS = 10_000
TAU = {"dino": 0.2, "gabor": 0.5}  # threshold of the affinity: TokenCut's, and what Gabor tokens need
STATISTICS_FROM = 100  # pictures that Gabor tokens take their statistics from
STATISTICS = "gabor."
COLOURS = ((230, 60, 60), (60, 130, 230), (60, 180, 90), (240, 180, 40), (160, 90, 200), (0, 190, 190))


def run(
    images: Path, points: Path | None, bank_file: Path | None, model: str | None, tokens: str, size: int, cell: int,
    kappa: float, link: Link, refine: bool, truth: Path | None, out: Path,
) -> dict[str, Any]:  # fmt: skip
    """Do what `apply` says."""
    if (points is None) == (bank_file is None):
        raise InputError("give either --points with clicks or --bank of an earlier run")
    if tokens == "dino" and model is None:
        raise InputError("give --model with a DINO folder or id, or --tokens gabor, which works offline but is weaker")
    if size < 32 or cell < 2 or not kappa > 0:
        raise InputError(
            f"expected --size of at least 32, --cell of at least 2 and --kappa above 0, got {size}, {cell}, {kappa}"
        )
    names = pictures_in(images)
    clicks = read_clicks(points) if points else []
    files = {click.file: owner_of(click, names) for click in clicks}
    shown = {name: load(images / name) for name in dict.fromkeys(files.values())}
    for click in clicks:
        check_inside(click, shown[files[click.file]])
    truths = {name: truth_file(truth, name) for name in names} if truth else {}
    held = load_bank(bank_file) if bank_file else None
    step = math.ceil(len(names) / STATISTICS_FROM)
    sample = (shown[name] if name in shown else load(images / name) for name in sorted({*shown, *names[::step]}))
    backbone = backbone_for(model if tokens == "dino" else None, size, cell, sample, held)
    features = {name: tokens_of(name, image, backbone) for name, image in shown.items()}
    cells = {click: cell_at(click, shown[files[click.file]], features[files[click.file]]) for click in clicks}
    bank = held or make_bank(clicks, [features[files[c.file]][cells[c]] for c in clicks], backbone)
    place = Writer(out, names, bank)
    method = PANC(kappa=kappa, link=link, tau=TAU[tokens])
    for name in names:  # one at a time: a folder may hold more than fits in memory
        image = load(images / name)
        x = features[name] if name in features else tokens_of(name, image, backbone)
        if bank.bg.shape[1] != x.shape[-1]:
            raise InputError(
                f"{bank_file}: tokens of size {bank.bg.shape[1]}, but these have {x.shape[-1]}; give that run's --model"
            )
        marks = {cells[c]: c.label != "background" for c in clicks if files[c.file] == name}
        expected = read_truth(truths[name], image) if truths else None
        place.add(name, image, x, method, marks, refine, expected)
    return place.finish()


def pictures_in(folder: Path) -> list[str]:
    """Names of the pictures below a folder, with their folders, sorted.

    Raises:
        InputError: no such folder, or no pictures in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a folder of pictures")
    root = folder.resolve()
    found = [
        file.relative_to(folder).as_posix()
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.resolve().is_relative_to(root)
    ]
    if not found:
        raise InputError(f"{folder}: no pictures in it; expected {', '.join(IMAGE_SUFFIXES)}")
    return found


def load(file: Path) -> Tensor:
    """A picture `(3, H, W)` in [0, 1]."""
    return torch.from_numpy(read_rgb(file))


def load_bank(file: Path) -> ClassBank:
    """A bank of an earlier run."""
    if not file.is_file():
        raise InputError(f"no such file or folder: {file}")
    return ClassBank.load(file)


def backbone_for(model: str | None, size: int, cell: int, sample: Iterable[Tensor], held: ClassBank | None) -> Backbone:
    """The transformer's tokens, or Gabor tokens with the statistics of the bank or of a sample of pictures."""
    if model is not None:
        return TokenExtractor(model, size, device="cuda" if torch.cuda.is_available() else "cpu")
    kept = {name.removeprefix(STATISTICS): value for name, value in (held.extra if held else {}).items()}
    if held and not kept:
        raise InputError("this bank was not made with Gabor tokens; give the --model it was made with")
    made = ShrunkTokens(GaborTokens.from_state(kept) if kept else GaborTokens(cell), size)
    if not kept:
        made.tokens.fit(made.shrink(image) for image in sample)
    return made


class ShrunkTokens:
    """Gabor tokens of an image whose longer side is at most `size` pixels."""

    def __init__(self, tokens: GaborTokens, size: int) -> None:
        self.tokens, self.size = tokens, size

    def shrink(self, image: Tensor) -> Tensor:
        """The image, made smaller where it is too large.

        Raises:
            InputError: a side is shorter than four cells.
        """
        cell = self.tokens.cell
        if min(image.shape[1:]) < 4 * cell:
            raise InputError(
                f"a picture of {image.shape[2]}x{image.shape[1]} pixels is smaller than 4 cells of {cell} pixels"
            )
        scale = self.size / max(image.shape[1:])
        if scale >= 1:
            return image
        sides = [max(4 * cell, round(side * scale)) for side in image.shape[1:]]
        return torch.nn.functional.interpolate(image[None], size=sides, mode="bilinear", antialias=True)[0]

    def __call__(self, image: Tensor) -> Tensor:
        return self.tokens(self.shrink(image))


def tokens_of(name: str, image: Tensor, backbone: Backbone) -> Tensor:
    """Tokens `(h, w, D)`, checked for their number."""
    found = backbone(image)
    count = found.shape[0] * found.shape[1]
    if count < 16 or min(found.shape[:2]) < 2:
        raise InputError(
            f"{name}: {found.shape[1]}x{found.shape[0]} tokens are too few; the picture is smaller than 4 patches"
        )
    if count > MOST_TOKENS:
        raise InputError(f"{name}: {count} tokens, more than {MOST_TOKENS}; give a smaller --size")
    return found


def make_bank(clicks: list[Click], tokens: list[Tensor], backbone: Backbone) -> ClassBank:
    """The bank of all clicks, classes in the order they first appear."""
    names = [name for name in dict.fromkeys(c.label for c in clicks) if name != "background"]

    def side(label: str) -> Tensor:
        return torch.stack([x for c, x in zip(clicks, tokens, strict=True) if c.label == label]).double()

    state = backbone.tokens.state() if isinstance(backbone, ShrunkTokens) else {}
    extra = {STATISTICS + name: value for name, value in state.items()}
    return ClassBank(tuple(names), tuple(side(name) for name in names), side("background"), extra).compact()


def truth_file(folder: Path, name: str) -> Path:
    """The true mask of a picture: same path in the folder, any suffix."""
    place = folder / name
    alike = sorted(place.parent.glob(f"{_escaped(place.stem)}.*")) if place.parent.is_dir() else []
    if len(alike) != 1:
        raise InputError(f"{folder}: {len(alike)} masks for {name}, expected one of the same name")
    return alike[0]


def read_truth(file: Path, image: Tensor) -> np.ndarray:
    """A true mask, of the picture's size."""
    mask, size = read_mask(file), tuple(image.shape[1:])
    if mask.shape != size:
        raise InputError(f"{file}: a mask of {mask.shape[1]}x{mask.shape[0]} for a picture of {size[1]}x{size[0]}")
    return mask


class Writer:
    """Cuts pictures one by one and writes what they give.

    Args:
        out: folder to write.
        names: of all pictures.
        bank: of one or several classes.
    """

    def __init__(self, out: Path, names: list[str], bank: ClassBank) -> None:
        self.out, self.bank, self.rows = out, bank, []
        stems = [Path(name).with_suffix("").as_posix() for name in names]
        self.stems = {n: s if stems.count(s) == 1 else n for n, s in zip(names, stems, strict=True)}

    def add(
        self, name: str, image: Tensor, tokens: Tensor, method: PANC, marks: dict[tuple[int, int], bool],
        refine: bool, truth: np.ndarray | None,
    ) -> None:  # fmt: skip
        """Cut one picture."""
        row: dict[str, Any] = {"file": name}
        if len(self.bank.names) == 1:
            labels, score, more = self._one(image, tokens, method, marks, refine)
        else:
            labels, score, more = self._several(image, tokens, method)
        row |= more
        if truth is not None:
            union = int(((labels > 0) | truth).sum())
            row["iou"] = round(int(((labels > 0) & truth).sum()) / union, 4) if union else 1.0
        self.rows.append(row)
        values = labels * 255 if len(self.bank.names) == 1 else labels
        self._save("masks", name, ".png", Image.fromarray(values.astype(np.uint8)))
        self._save("eigenvectors", name, ".tiff", Image.fromarray(score.astype(np.float32)))
        self._save("overlays", name, ".png", Image.fromarray(overlay(image, labels)))

    def finish(self) -> dict[str, Any]:
        """Write bank and table; the report."""
        self.bank.save(self.out / "bank.safetensors")
        with (self.out / "images.csv").open("w", newline="", encoding="utf-8") as handle:
            table = csv.DictWriter(handle, list(self.rows[0]))
            table.writeheader()
            table.writerows(self.rows)
        report: dict[str, Any] = {"images": len(self.rows), "classes": list(self.bank.names)}
        if "gap" in self.rows[0]:
            report["mean_gap"] = round(float(np.mean([row["gap"] for row in self.rows])), 4)
            report["undecided"] = sum(row["undecided"] for row in self.rows)
        if "iou" in self.rows[0]:
            report["miou"] = round(float(np.mean([row["iou"] for row in self.rows])), 4)
        return report

    def _one(self, image: Tensor, tokens: Tensor, method: PANC, marks: Any, refine: bool) -> tuple[Any, Any, Any]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UndecidedCut)
            cut = method(tokens, PriorBank(self.bank.tokens[0], self.bank.bg), marks)
        undecided = any(issubclass(w.category, UndecidedCut) for w in said)
        pixels = to_pixels(cut, image, refine=refine)
        labels = pixels.mask.numpy().astype(np.int64)
        more = {"foreground": round(float(labels.mean()), 4), "gap": round(cut.gap, 6), "undecided": int(undecided)}
        return labels, pixels.score.numpy(), more

    def _several(self, image: Tensor, tokens: Tensor, method: PANC) -> tuple[Any, Any, Any]:
        found = method.classes(tokens, self.bank)
        wide = torch.nn.functional.interpolate(
            found.closeness.permute(2, 0, 1)[None].double(), size=tuple(image.shape[1:]), mode="bilinear"
        )[0]
        winner = wide.argmax(dim=0).numpy()
        count = len(self.bank.names)
        labels = np.where(winner == count, 0, winner + 1)
        score = (wide[:count].amax(dim=0) - wide[count]).numpy()
        return labels, score, {
            f"share_{name}": round(float((labels == k + 1).mean()), 4) for k, name in enumerate(self.bank.names)
        }  # fmt: skip

    def _save(self, folder: str, name: str, suffix: str, picture: Image.Image) -> None:
        place = self.out / folder / f"{self.stems[name]}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture.save(place)


def overlay(image: Tensor, labels: np.ndarray) -> np.ndarray:
    """The picture with every class tinted and outlined, `(H, W, 3)` uint8."""
    shown = 255 * image.permute(1, 2, 0).numpy()
    for k in range(1, int(labels.max()) + 1):
        mask = labels == k
        colour = np.array(COLOURS[(k - 1) % len(COLOURS)], dtype=float)
        inner = mask.copy()
        inner[1:] &= mask[:-1]
        inner[:-1] &= mask[1:]
        inner[:, 1:] &= mask[:, :-1]
        inner[:, :-1] &= mask[:, 1:]
        shown[mask] = 0.65 * shown[mask] + 0.35 * colour
        shown[mask & ~inner] = colour
    return shown.round().astype(np.uint8)


def _escaped(stem: str) -> str:
    return "".join(f"[{c}]" if c in "[*?" else c for c in stem)
