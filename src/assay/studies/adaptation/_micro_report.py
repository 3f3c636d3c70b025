"""Footprints on boards, and the trained network on disk, for `assay apply 2602.06523`."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from assay import __version__
from assay.errors import InputError
from assay.methods.adaptation.micro_conv_lstm import MicroBiConvLSTM, flash_bytes, macs, ram_bytes

BOARDS = {  # RAM and flash in KB
    "Cortex-M0, 8 KB RAM, 32 KB flash": (8, 32),
    "Cortex-M0+, 32 KB RAM, 256 KB flash": (32, 256),
    "Cortex-M4, 256 KB RAM, 1 MB flash": (256, 1024),
}
CODE_KB = 4.0  # the C code itself, compiled for size, measured once on a 64-bit desktop and rounded up


@dataclass(frozen=True)
class Trained:
    """A network with what its input needs: names, window (seconds, samples a second) and standardisation `(C, 1)`."""

    net: MicroBiConvLSTM
    classes: tuple[str, ...]
    channels: tuple[str, ...]
    seconds: float
    rate: float
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    @property
    def steps(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.rate)

    def standardised(self, x: NDArray) -> torch.Tensor:
        """Windows (N, C, T) as the network wants them."""
        return torch.from_numpy(((x - self.mean) / self.std).astype(np.float32))


def footprint(net: MicroBiConvLSTM, steps: int) -> list[dict[str, Any]]:
    """Flash, RAM and work of one window, in 32 and in 8 bits, and the boards where the 8-bit network fits."""
    rows = []
    for bits in (32, 8):
        flash, ram = flash_bytes(net, bits) / 1024, ram_bytes(net, steps, bits) / 1024
        fits = [name for name, (most_ram, most) in BOARDS.items() if ram <= most_ram / 2 and flash + CODE_KB <= most]
        rows.append({
            "bits": bits, "constants_kb": round(flash, 2), "ram_kb": round(ram, 2), "macs": macs(net, steps),
            "fits (half the RAM left free)": "; ".join(fits) or "none",
        })  # fmt: skip
    return rows


def save(trained: Trained, folder: Path) -> None:
    """Write model.safetensors and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    net = trained.net
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    config = {
        "paper": "2602.06523", "assay": __version__, "classes": trained.classes, "channels": trained.channels,
        "seconds": trained.seconds, "rate": trained.rate, "mean": trained.mean.ravel().tolist(),
        "std": trained.std.ravel().tolist(),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Trained:
    """Read what `save` wrote.

    Raises:
        InputError: not such a folder.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("paper") != "2602.06523":
            raise InputError(f"{folder}: config.json is of paper {config.get('paper')}, expected 2602.06523")
        net = MicroBiConvLSTM(len(config["channels"]), len(config["classes"])).eval()
        net.load_state_dict(load_file(folder / "model.safetensors"))
        mean, std = (np.array(config[k], dtype=np.float32)[:, None] for k in ("mean", "std"))
        if len(mean) != len(config["channels"]) or len(std) != len(mean):
            raise InputError(f"{folder}: config.json has {len(mean)} means for {len(config['channels'])} channels")
        return Trained(
            net, tuple(config["classes"]), tuple(config["channels"]), float(config["seconds"]),
            float(config["rate"]), mean, std,
        )  # fmt: skip
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: no model folder of this paper ({str(error).splitlines()[0]})") from error


def confusion(truth: NDArray, said: NDArray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each true class, a column for each said one."""
    k = len(classes)
    table = np.bincount(truth * k + said, minlength=k * k).reshape(k, k)
    return [
        {"true \\ said": name, **{c: int(n) for c, n in zip(classes, row, strict=True)}}
        for name, row in zip(classes, table, strict=True)
    ]


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of equal keys."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
