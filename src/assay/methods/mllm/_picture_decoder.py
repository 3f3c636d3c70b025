"""The VQGAN decoder of Chameleon pictures: what transformers' class lacks, named as published weights are.

Source: VQGAN (2012.09841), Chameleon (2405.09818); weights travel in Anole's conversion to transformers
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from assay.errors import require

DECODER = ("model.vqmodel.decoder.", "vqmodel.decoder.", "decoder.")


class PictureDecoder(nn.Module):
    """The VQGAN decoder, named as its published weights are: `up.0` is the finest level and is applied last.

    Args:
        config: a `ChameleonVQVAEConfig`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        parts = require("transformers.models.chameleon.modeling_chameleon", "mllm")
        block, attention = parts.ChameleonVQVAEEncoderResnetBlock, parts.ChameleonVQVAEEncoderAttnBlock
        width = config.base_channels * config.channel_multiplier[-1]
        attended, side = config.attn_resolutions or [], config.resolution // 2 ** (len(config.channel_multiplier) - 1)
        vanilla = config.attn_type == "vanilla"
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = (block(config, width, width) for _ in range(2))
        self.mid.attn_1 = attention(width) if vanilla else nn.Identity()
        levels = []
        for level in reversed(range(len(config.channel_multiplier))):
            stage, out = nn.Module(), config.base_channels * config.channel_multiplier[level]
            stage.block, stage.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(config.num_res_blocks + 1):
                stage.block.append(block(config, width, out))
                width = out
                if side in attended and vanilla:
                    stage.attn.append(attention(width))
            if level:
                stage.upsample = nn.Module()
                stage.upsample.conv = nn.Conv2d(width, width, 3, padding=1)
                side *= 2
            levels.insert(0, stage)
        self.up = nn.ModuleList(levels)
        self.norm_out = nn.GroupNorm(32, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, h, w) to pixels (B, 3, side, side) of about -1 to 1."""
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(self.conv_in(latent))))
        for stage in reversed(self.up):
            for number, block in enumerate(stage.block):
                h = block(h)
                if len(stage.attn):
                    h = stage.attn[number](h)
            if hasattr(stage, "upsample"):
                h = stage.upsample.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))


def load_decoder(place: str | Path, config: Any, device: str) -> PictureDecoder | None:
    """The decoder of a checkpoint; None where it holds none.

    Raises:
        ValueError: its weights do not fit the configuration.
    """
    found: dict[str, Tensor] = {}
    for file in _weight_files(place):
        with require("safetensors", "mllm").safe_open(str(file), "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dictionary
                prefix = next((p for p in DECODER if name.startswith(p)), None)
                if prefix is not None:
                    found[name.removeprefix(prefix)] = opened.get_tensor(name)
    if not found:
        return None
    decoder = PictureDecoder(config)
    try:
        decoder.load_state_dict(found)
    except RuntimeError as error:
        raise ValueError(f"{place}: the picture decoder does not fit: {str(error).splitlines()[0]}") from error
    return decoder.to(device).eval()


def _weight_files(place: str | Path) -> list[Path]:
    """Safetensors files of a folder or of a downloaded id that may hold the decoder."""
    folder = Path(place)
    if not folder.is_dir():
        hub = require("transformers.utils", "mllm")
        index = hub.cached_file(str(place), "model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        single = hub.cached_file(str(place), "model.safetensors", _raise_exceptions_for_missing_entries=False)
        source = index or single
        if source is None:
            return []
        folder = Path(source).parent
        if index:
            shards = {shard for name, shard in _index(Path(index)).items() if name.startswith(DECODER)}
            return [Path(hub.cached_file(str(place), shard)) for shard in sorted(shards)]
    index_file = folder / "model.safetensors.index.json"
    if index_file.is_file():
        shards = {shard for name, shard in _index(index_file).items() if name.startswith(DECODER)}
        return [folder / Path(shard).name for shard in sorted(shards)]
    return sorted(folder.glob("*.safetensors"))


def _index(file: Path) -> dict[str, str]:
    return json.loads(file.read_text(encoding="utf-8"))["weight_map"]
