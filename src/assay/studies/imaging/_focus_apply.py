"""`apply` of GMFF: a folder of frames in; the fused picture, a depth map and what was invented out."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from assay.errors import InputError
from assay.methods.imaging._focus_register import move, transforms
from assay.methods.imaging.focus_fusion import (
    Restorer,
    StackFusion,
    fuse_tiles,
    luma,
    misregistration,
    trust_mask,
)
from assay.studies.imaging._focus_files import WRITABLE, Frames, open_stack, write_picture
from assay.studies.imaging._focus_models import SHIPPED, load_fusion, load_restorer

HALF_FROM = 4_000_000  # pixels from which weights are found at half the size
TOKENS = 5_000_000  # pixels of all frames in one tile with its margin
PATCH, OVERLAP = 256, 32  # of stage 2
MOST_FRAMES = 500


def run(
    stack: Path, out: Path, restore: str, fusion: Path | None, classical: bool, register: bool, trust: bool,
    reduce: int, threshold: float, strength: float, steps: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Do what `apply` says."""
    if out.suffix.lower() not in WRITABLE:
        raise InputError(f"--out {out.name}: expected a picture that ends in {', '.join(WRITABLE)}")
    if classical and fusion is not None:
        raise InputError("give --classical or --fusion, not both")
    if reduce < 0 or not threshold > 0 or not 0 < strength <= 1 or steps < 1:
        raise InputError(
            "expected --reduce of at least 0, --threshold above 0, --strength in 0..1 and --steps of at least 1,"
            f" got {reduce}, {threshold}, {strength}, {steps}"
        )
    if not trust and not restore:
        raise InputError("--no-trust needs --restore: without weights for stage 2 nothing is restored")
    restorer = restorer_from(restore) if restore else None
    network = None if classical else load_fusion(fusion) if fusion else load_fusion()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".frames-") as scratch:
        frames = open_stack(stack, Path(scratch), resize=register)
        if len(frames.files) > MOST_FRAMES:
            raise InputError(f"{stack}: {len(frames.files)} frames, more than {MOST_FRAMES}")
        small, block = frames.small(512)
        shift = misregistration(small) * block
        report: dict[str, Any] = {"frames": list(frames.names), "width": frames.width, "height": frames.height,
                                  "bits": frames.depth, "largest_shift_px": round(shift, 2)}  # fmt: skip
        if register:
            report["aligned"] = align(frames, small, block)
        elif shift > max(1.0, 0.5 * block):
            report["warning"] = f"frames seem shifted by up to {shift:.1f} pixels; try --register"
        step = reduce or (2 if frames.height * frames.width > HALF_FROM else 1)
        image, depth, missing, edge = fuse(frames, network, step, threshold)
    mask = np.zeros(missing.shape, np.float32)
    if restorer is not None:
        wanted = trust_mask(torch.from_numpy(missing), torch.from_numpy(edge), reach=0) if trust else None
        mask = np.ones_like(mask) if wanted is None else wanted.numpy()
        image = restored(image, mask, restorer, 2**frames.depth - 1, strength, steps, seed)
    stem = out.with_suffix("")
    write_picture(out, image)
    write_picture(Path(f"{stem}-depth.png"), (depth * (65535 / (len(frames.files) - 1))).round().astype(np.uint16))
    write_picture(Path(f"{stem}-missing.png"), missing.astype(np.uint8) * 255)
    write_picture(Path(f"{stem}-invented.png"), np.ceil(mask * 255).astype(np.uint8))
    report |= {
        "rule": "classical" if classical else "network", "weights_found_at": f"1/{step}",
        "missing_share": round(float(missing.mean()), 4),
        "restored": restore or "no", "invented_share": round(float((mask > 0).mean()), 4),
    }  # fmt: skip
    Path(f"{stem}-report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return {name: value for name, value in report.items() if name not in ("frames", "aligned")}


def restorer_from(where: str) -> Restorer:
    """`small` (ships with this package), a folder with restorer.safetensors, or a diffusion model's folder.

    Raises:
        InputError: none of these.
    """
    if where == "small":
        return load_restorer(SHIPPED / "restorer.safetensors")
    folder = Path(where)
    if (folder / "restorer.safetensors").is_file():
        return load_restorer(folder / "restorer.safetensors")
    if not (folder / "unet").is_dir():
        raise InputError(
            f"--restore {where}: no weights there; expected `small`, a folder with restorer.safetensors, or a diffusion"
            " model's folder (unet/, vae/, ...) with control.safetensors"
        )
    if not (folder / "control.safetensors").is_file():
        raise InputError(f"{folder}: no control.safetensors; without a trained branch the model would ignore the stack")
    try:
        return Restorer.from_pretrained(folder, load_file(folder / "control.safetensors"))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"{folder}: unusable diffusion model ({str(error).splitlines()[0]})") from error


def align(frames: Frames, small: Tensor, block: int) -> list[dict[str, float]]:
    """Align unpacked frames onto the middle one, in place; what was done to each."""
    kind = np.uint8 if frames.depth == 8 else np.uint16
    done = []
    for index, (scale, dy, dx) in enumerate(transforms(luma(small))):
        done.append({"scale": round(scale, 5), "down": round(dy * block, 2), "right": round(dx * block, 2)})
        if index == len(frames.files) // 2:
            continue
        one = Frames((frames.names[index],), (frames.files[index],), frames.height, frames.width, frames.depth)
        moved = move(one.read(0, frames.height, 0, frames.width)[0], scale, dy * block, dx * block)
        pixels = (moved.permute(1, 2, 0) * (2**frames.depth - 1)).round().numpy().astype(kind)
        pixels.tofile(frames.files[index])
    return done


def fuse(frames: Frames, network: StackFusion | None, reduce: int, threshold: float) -> tuple[NDArray, ...]:
    """Fused picture in the frames' bit depth, depth index, missing focus and reach of depth edges."""
    top = 2**frames.depth - 1
    image = np.empty((frames.height, frames.width, 3), np.uint8 if frames.depth == 8 else np.uint16)
    depth = np.empty(image.shape[:2], np.float32)
    missing, edge = (np.empty(image.shape[:2], bool) for _ in range(2))
    side = max(64, int((TOKENS / len(frames.files)) ** 0.5 - 144) // 8 * 8)
    tiles = fuse_tiles(
        frames.read, frames.height, frames.width, network, tile=min(side, 512), reduce=reduce, threshold=threshold
    )
    for tile in tiles:
        place = np.s_[tile.top : tile.top + tile.depth.shape[0], tile.left : tile.left + tile.depth.shape[1]]
        image[place] = (tile.image.clamp(0, 1) * top).round().permute(1, 2, 0).numpy().astype(image.dtype)
        depth[place], missing[place], edge[place] = tile.depth, tile.missing, tile.edge
    return image, depth, missing, edge


def restored(
    image: NDArray, mask: NDArray, restorer: Restorer, top: int, strength: float, steps: int, seed: int
) -> NDArray:
    """Stage 2 where the mask asks for it, patch by patch; patches fade into one another."""
    height, width = mask.shape
    ramp = np.minimum(np.arange(PATCH + 2 * OVERLAP) + 1, np.arange(PATCH + 2 * OVERLAP)[::-1] + 1)
    ramp = np.clip(ramp / (2 * OVERLAP), 0, 1).astype(np.float32)
    total, share = np.zeros((height, width, 3), np.float32), np.zeros((height, width, 1), np.float32)
    for y in range(0, height, PATCH):
        for x in range(0, width, PATCH):
            y0, y1, x0, x1 = (
                max(0, y - OVERLAP),
                min(height, y + PATCH + OVERLAP),
                max(0, x - OVERLAP),
                min(width, x + PATCH + OVERLAP),
            )
            if not mask[y0:y1, x0:x1].any():
                continue
            patch = torch.from_numpy(image[y0:y1, x0:x1].astype(np.float32) / top).permute(2, 0, 1)
            made = restorer(patch, steps=steps, strength=strength, seed=seed).permute(1, 2, 0).numpy()
            weight = ramp[y0 - y + OVERLAP : y1 - y + OVERLAP, None] * ramp[x0 - x + OVERLAP : x1 - x + OVERLAP]
            total[y0:y1, x0:x1] += made * weight[..., None]
            share[y0:y1, x0:x1] += weight[..., None]
    sample = total / np.maximum(share, 1e-6) * top
    kept = mask[..., None]
    made = np.where(kept > 0, image + kept * (sample - image), image)
    return made.round().clip(0, top).astype(image.dtype)
