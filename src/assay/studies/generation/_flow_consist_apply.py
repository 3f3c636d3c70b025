"""`assay apply 2602.06346`: train a one-step generator on a user's pictures, measure one, or draw with one."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from assay import __version__
from assay.errors import InputError
from assay.methods.generation.flow_consist import FlowConsist, own_velocity, sample
from assay.metrics.distribution import frechet_distance
from assay.nn.flow import integrate
from assay.nn.two_time import TwoTimeDiffusers
from assay.studies.generation._flow_consist_images import Pictures, read_pictures, to_bytes, write_grid

PAPER = "2602.06346"
WARM, RECTIFY_WEIGHT, EMA = 0.5, 1.0, 0.999
DIRECTIONS = 32  # principal directions of the training pictures in which laws are compared
SELF_STEPS = 50


@dataclass(frozen=True)
class About:
    """What a model folder says of itself."""

    kind: str  # UNet2DModel or DiTTransformer2DModel
    settings: dict[str, Any]  # the diffusers model's own
    size: int
    channels: int
    classes: tuple[str, ...]


def run(
    images: Path, out: Path, size: int, steps: int, classes: str, channels: str, network: str, width: int, batch: int,
    learning_rate: float, guidance: float, load: Path | None, drawn: int, seed: int, device: str,
) -> dict[str, Any]:  # fmt: skip
    """What the study's `apply` does; arguments as there."""
    if steps < 1 or batch < 4 or drawn < 1 or width < 8 or width % 8 or not 0 < learning_rate < 1 or not guidance >= 1:
        raise InputError(
            f"--steps {steps} and --sample {drawn} must be at least 1, --batch {batch} at least 4, --width {width} a "
            f"multiple of 8, --learning-rate {learning_rate} in (0, 1), --guidance {guidance} at least 1"
        )
    if size < 8 or size % 8:
        raise InputError(f"--size {size}: expected a multiple of 8")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"--device {device}: no CUDA device is there")
    if model_folder(images) is not None:
        if load is not None:
            raise InputError(f"{images} is a model itself; give --load with a folder of pictures, or leave it out")
        net, about = load_model(images, device)
        return draw(net, about, out, drawn, seed)
    if guidance != 1 and classes == "none":
        raise InputError("--guidance needs --classes folders")
    net, about = load_model(load, device) if load is not None else (None, None)
    if about is not None:
        size, channels = about.size, "grey" if about.channels == 1 else "rgb"
    pictures = read_pictures(images, size, channels, classes == "folders")
    if about is not None and classes == "folders" and about.classes != pictures.classes:
        raise InputError(f"{images}: classes {', '.join(pictures.classes)}; the model knows {', '.join(about.classes)}")
    held = torch.randperm(len(pictures.x), generator=torch.Generator().manual_seed(seed))
    held, kept = held.split([max(len(held) // 10, 2 * DIRECTIONS), len(held) - max(len(held) // 10, 2 * DIRECTIONS)])
    if net is None:
        net, about = make(network, pictures, width, seed)
        losses = train(net.to(device), pictures, kept, steps, batch, learning_rate, guidance, seed)
        save_model(net, about, out / "model")
        with (out / "losses.csv").open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([["step", *losses[0]], *([i, *row.values()] for i, row in enumerate(losses))])
    assert about is not None
    said = draw(net, about, out, drawn, seed)
    report = {
        "pictures": {"train": len(kept), "held_out": len(held), "size": about.size, "channels": about.channels},
        "classes": list(about.classes),
        **measure(net, about, pictures, kept, held, seed),
        **said,
    }
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def make(network: str, pictures: Pictures, width: int, seed: int) -> tuple[TwoTimeDiffusers, About]:
    """A new U-Net or DiT for the pictures, or one that starts from published weights."""
    from diffusers import DiTTransformer2DModel, UNet2DModel

    _, channels, size, _ = pictures.x.shape
    classes = len(pictures.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network == "unet":
            levels = 3 if size % 4 == 0 and size >= 16 else 2
            model: nn.Module = UNet2DModel(
                sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=2, norm_num_groups=8,
                block_out_channels=tuple(width * min(2**i, 2) for i in range(levels)), attention_head_dim=8,
                down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * (levels - 1)),
                up_block_types=(*["AttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
                num_class_embeds=classes + 1 if classes else None,
            )  # fmt: skip
        elif network == "dit":
            model = DiTTransformer2DModel(
                num_attention_heads=max(width // 16, 1), attention_head_dim=32, in_channels=channels, num_layers=6,
                sample_size=size, patch_size=4 if size > 16 else 2, num_embeds_ada_norm=max(classes, 1),
            )  # fmt: skip
        else:
            model = _published(network)
            wanted = {"in_channels": channels, "sample_size": size}
            found = {name: model.config[name] for name in wanted}
            if found != wanted:
                raise InputError(
                    f"--network {network}: made for {found}, the pictures are {wanted}; see --size, --channels"
                )
        net = TwoTimeDiffusers(model)
    if classes and net.classes != classes:
        raise InputError(f"--network {network}: {net.classes} classes, but the pictures have {classes}")
    about = About(type(model).__name__, dict(model.config), size, channels, pictures.classes)
    return net, about


def _published(network: str) -> nn.Module:
    from diffusers import DiTTransformer2DModel, UNet2DModel

    problems = []
    for kind in (UNet2DModel, DiTTransformer2DModel):
        for inside in (None, "unet" if kind is UNet2DModel else "transformer"):
            try:
                name = kind.load_config(network, subfolder=inside).get("_class_name")
                if name == kind.__name__:
                    return kind.from_pretrained(network, subfolder=inside, use_safetensors=True)
            except Exception as error:  # whatever the hub or a damaged folder raises
                problems.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
    why = f" ({problems[0]})" if problems else ""
    raise InputError(
        f"--network {network}: expected unet, dit, or a diffusers UNet2DModel or DiTTransformer2DModel{why}"
    )


def train(
    net: TwoTimeDiffusers, pictures: Pictures, rows: Tensor, steps: int, batch: int, learning_rate: float,
    guidance: float, seed: int,
) -> list[dict[str, float]]:  # fmt: skip
    """Fit on the rows; the averaged weights are left in `net`."""
    device = next(net.parameters()).device
    flow = FlowConsist(
        net, warm=WARM, steps=steps, rectify_weight=RECTIFY_WEIGHT, rectify_batch=max(batch // 2, 2), ema=EMA,
        guidance=guidance if pictures.classes else 1.0, class_dropout=0.1 if pictures.classes else 0.0,
        null=net.null if pictures.classes else None, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    data = torch.Generator().manual_seed(seed + 1)

    def some() -> tuple[Tensor, Tensor | None, None]:
        at = rows[torch.randint(len(rows), (batch,), generator=data)]
        labels = None if pictures.labels is None else pictures.labels[at].to(device)
        return pictures.x[at].to(device), labels, None

    losses: list[dict[str, float]] = []
    flow.fit(
        some,
        learning_rate,
        seen=lambda _, parts: losses.append({k: round(float(v.detach()), 6) for k, v in parts.items()}),
    )
    if not all(np.isfinite(row["loss"]) for row in losses):
        raise InputError(
            f"training diverged at step {[np.isfinite(r['loss']) for r in losses].index(False)}; lower --learning-rate"
        )
    net.load_state_dict(flow.ema.average.state_dict())
    return losses


@torch.no_grad()
def in_parts(net: TwoTimeDiffusers, noise: Tensor, labels: Tensor | None, steps: int, ode: bool = False) -> Tensor:
    """Pictures of noises, 64 at a time: by jumps, or by the net's own ODE."""
    net, done = net.eval(), []
    device = next(net.parameters()).device
    for at in range(0, len(noise), 64):
        z = noise[at : at + 64].to(device)
        about = None if labels is None else labels[at : at + 64].to(device)
        times = torch.linspace(1, 0, steps + 1)
        done.append(
            (integrate(own_velocity(net, about), z, times, "heun") if ode else sample(net, z, steps, about)).cpu()
        )
    return torch.cat(done)


def noises(about: About, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Noise, and classes in turn where the model has them."""
    noise = torch.randn(n, about.channels, about.size, about.size, generator=torch.Generator().manual_seed(seed + 2))
    return noise, torch.arange(n) % len(about.classes) if about.classes else None


def draw(net: TwoTimeDiffusers, about: About, out: Path, n: int, seed: int) -> dict[str, Any]:
    """One-step pictures as samples.npz (`arr_0`, bytes, as the usual FID evaluators take them), and the grid."""
    noise, labels = noises(about, n, seed)
    out.mkdir(parents=True, exist_ok=True)
    arrays = {"arr_0": to_bytes(in_parts(net, noise, labels, 1))}
    if labels is not None:
        arrays["arr_1"] = labels.numpy()
    np.savez_compressed(out / "samples.npz", **arrays)
    few = None if labels is None else labels[:8]
    write_grid([in_parts(net, noise[:8], few, steps) for steps in (1, 2, 4)], out / "grid.png")
    return {"drawn": n, "network calls a picture": 1}


def measure(
    net: TwoTimeDiffusers, about: About, pictures: Pictures, kept: Tensor, held: Tensor, seed: int
) -> dict[str, Any]:
    """Drift of a jump against the net's own ODE, and Frechet distances to the held-out pictures."""
    x = pictures.x.flatten(1)
    mean = x[kept].mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the decomposition starts at random
        directions = torch.pca_lowrank(x[kept] - mean, min(DIRECTIONS, len(kept), x.shape[1]))[2]

    def features(rows: Tensor) -> Tensor:
        return (rows.flatten(1) - mean) @ directions

    n = len(held)
    noise, labels = noises(about, n, seed + 1)
    real, once = features(pictures.x[held]), in_parts(net, noise, labels, 1)
    few = None if labels is None else labels[:64]
    own = in_parts(net, noise[:64], few, SELF_STEPS, ode=True)
    same_size = kept[:n]
    found = {
        "one step": frechet_distance(features(once), real),
        "four steps": frechet_distance(features(in_parts(net, noise, labels, 4)), real),
        "training pictures (what equal laws give at this size)": frechet_distance(features(x[same_size]), real),
        "noise": frechet_distance(features(noise), real),
    }
    return {
        "frechet": {name: round(value, 4) for name, value in found.items()},
        "self_drift": round(float((once[:64] - own).square().mean().sqrt()), 5),
        "notes": [
            f"Frechet distances are in {directions.shape[1]} principal directions of the training pictures, with {n} "
            "pictures a side: compare them with that of training pictures, not with published FID figures",
            "self_drift is the RMS difference of a pixel (range -1 to 1) between a jump and the net's own 50-step ODE",
        ],
    }


def model_folder(path: Path) -> Path | None:
    """The folder with model and config below `path`, if there is one of this paper."""
    for folder in (path, path / "model"):
        try:
            if json.loads((folder / "config.json").read_text("utf-8")).get("paper") == PAPER:
                return folder
        except (OSError, ValueError, AttributeError):
            continue
    return None


def save_model(net: TwoTimeDiffusers, about: About, folder: Path) -> None:
    """Weights as safetensors and what they are as JSON."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()},
        folder / "model.safetensors",
    )
    said = {"paper": PAPER, "version": __version__, **asdict(about)}
    (folder / "config.json").write_text(json.dumps(said, indent=2, default=str) + "\n", encoding="utf-8")


def load_model(path: Path, device: str) -> tuple[TwoTimeDiffusers, About]:
    """What `save_model` wrote.

    Raises:
        InputError: no such model, or a damaged one.
    """
    import diffusers
    from safetensors.torch import load_file

    folder = model_folder(path)
    if folder is None:
        raise InputError(f"{path}: no model of {PAPER} in it; expected config.json and model.safetensors")
    try:
        said = json.loads((folder / "config.json").read_text("utf-8"))
        about = About(said["kind"], said["settings"], int(said["size"]), int(said["channels"]), tuple(said["classes"]))
        if about.kind not in ("UNet2DModel", "DiTTransformer2DModel"):
            raise ValueError(f"kind {about.kind}")
        net = TwoTimeDiffusers(getattr(diffusers, about.kind).from_config(about.settings))
        net.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:  # a damaged file raises many kinds
        raise InputError(f"{folder}: damaged model ({str(error).splitlines()[0]})") from error
    return net.to(device).eval(), about
