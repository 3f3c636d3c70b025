"""Full scale of FlowConsist's study: ImageNet in the latents of Stable Diffusion's autoencoder, with a DiT.

`--data` is the folder that holds ImageNet's `train` and `val`, one folder of JPEGs a class (for `val` of the official
layout: sorted into class folders, as usual), also as `ILSVRC/Data/CLS-LOC`. Distances are Frechet distances in the
features of DINOv2 against the validation pictures; the official FID-50k is had from `samples.npz` of `apply` with the
usual evaluator and the ADM reference batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assay.data.image.folder import load_image, read_class_folders
from assay.errors import InputError
from assay.nn.two_time import TwoTimeDiffusers
from assay.studies.generation._flow_consist_arms import Batch, Images, Plan, Task, begin, generator

PLAN = Plan(400_000, 0.7, 256, 0, 4.5, 64, 1e-4, early=0.2, ema=0.9999)


@dataclass(frozen=True)
class Sizes:
    """Of the first rung, DiT-B/2 for 80 epochs at batch 256; XL/2 is layers 28, heads 16, head width 72."""

    size: int = 256
    plan: Plan = PLAN
    layers: int = 12
    heads: int = 12
    head_width: int = 64
    patch: int = 2
    tested: int = 50_000
    autoencoder: str = "stabilityai/sd-vae-ft-ema"
    features: str = "facebook/dinov2-base"


SIZES = Sizes()


def latents_task(data: Path | None, seed: int, device: str) -> Task:
    """ImageNet latents with the common start of the arms.

    Raises:
        InputError: no data folder, or none of the layout.
    """
    from diffusers import DiTTransformer2DModel

    if data is None:
        raise InputError("full scale needs --data FOLDER with ImageNet's train and val in class folders")
    sizes = SIZES
    root = next((r for r in (data, data / "ILSVRC/Data/CLS-LOC") if (r / "train").is_dir()), None)
    if root is None or not (root / "val").is_dir():
        raise InputError(f"{data}: expected train and val (or ILSVRC/Data/CLS-LOC with them), one folder a class")
    latents, labels = encoded(root / "train", sizes, device)
    classes = int(labels.max()) + 1
    torch.manual_seed(seed)
    net = TwoTimeDiffusers(
        DiTTransformer2DModel(
            num_attention_heads=sizes.heads, attention_head_dim=sizes.head_width, num_layers=sizes.layers,
            in_channels=latents.shape[1], sample_size=latents.shape[2], patch_size=sizes.patch,
            num_embeds_ada_norm=classes,
        )
    ).to(device)  # fmt: skip

    def draw(g: torch.Generator) -> Batch:
        rows = torch.randint(len(latents), (sizes.plan.batch,), generator=g)
        return latents[rows].float().to(device), labels[rows].to(device), None

    noise = torch.randn(sizes.tested, *latents.shape[1:], generator=generator(seed, 5))
    images = Images(*reference(root / "val", sizes, device), labels=torch.arange(sizes.tested) % classes)
    return begin(
        sizes.plan, seed, net, draw, noise=noise, images=images,
        settings={"class_dropout": 0.1, "null": net.null, "guidance": 1.5},
    )  # fmt: skip


@lru_cache(maxsize=1)
def encoded(folder: Path, sizes: Sizes, device: str) -> tuple[Tensor, Tensor]:
    """All pictures below the folder as scaled latents `(N, 4, S/8, S/8)` in half precision, kept in memory."""
    table, vae = read_class_folders(folder), autoencoder(sizes.autoencoder, device)
    found = []
    with torch.no_grad():
        for at in range(0, len(table), 64):
            rows = range(at, min(at + 64, len(table)))
            x = torch.stack([torch.from_numpy(load_image(table.path(i), sizes.size)) for i in rows]).to(device)
            found.append((vae.encode(2 * x - 1).latent_dist.mode() * vae.config.scaling_factor).half().cpu())
    return torch.cat(found), torch.from_numpy(table.labels)


@lru_cache(maxsize=2)
def autoencoder(name: str, device: str) -> Any:
    """Stable Diffusion's autoencoder by id or folder."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(name, use_safetensors=True).to(device).eval()


@lru_cache(maxsize=2)
def reference(folder: Path, sizes: Sizes, device: str) -> tuple[Tensor, Any]:
    """Features of the validation pictures, and the function that gives those of latents (features pass through)."""
    from transformers import AutoModel

    eye = AutoModel.from_pretrained(sizes.features, use_safetensors=True).to(device).eval()
    vae, table = autoencoder(sizes.autoencoder, device), read_class_folders(folder)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    side = eye.config.image_size if eye.config.image_size < 225 else 224

    @torch.no_grad()
    def seen(x: Tensor) -> Tensor:
        x = torch.nn.functional.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        return eye((x - mean) / std).last_hidden_state[:, 0].cpu()

    @torch.no_grad()
    def features(x: Tensor) -> Tensor:
        if x.ndim == 2:
            return x
        parts = (vae.decode(rows.to(device) / vae.config.scaling_factor).sample for rows in x.split(32))
        return torch.cat([seen((part + 1) / 2) for part in parts])

    held = []
    for at in range(0, len(table), 32):
        rows = range(at, min(at + 32, len(table)))
        held.append(
            seen(torch.stack([torch.from_numpy(load_image(table.path(i), sizes.size)) for i in rows]).to(device))
        )
    return torch.cat(held), features
