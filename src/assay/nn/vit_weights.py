"""Weights of Hugging Face `ViT`, `DeiT` and `Dinov2` models in this package's `ViT`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from assay.nn.vit import ViT, ViTOptions

# Names of transformers 5 and of 4.x, read as one; applied in this order.
_NAMES = (
    (r"^(vit|deit|dinov2)\.", ""),
    (r"^embeddings\.patch_embeddings\.projection\.", "patches."),
    (r"^embeddings\.position_embeddings$", "positions"),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.(layernorm_before|norm1)\.", ".norm1."),
    (r"\.(layernorm_after|norm2)\.", ".norm2."),
    (r"\.attention\.(attention\.)?(q_proj|query)\.", ".attention.query."),
    (r"\.attention\.(attention\.)?(k_proj|key)\.", ".attention.key."),
    (r"\.attention\.(attention\.)?(v_proj|value)\.", ".attention.value."),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attention.out."),
    (r"\.(mlp\.fc1|intermediate\.dense)\.", ".mlp.0."),
    (r"^(blocks\.\d+)\.(mlp\.fc2|output\.dense)\.", r"\1.mlp.2."),
    (r"\.layer_scale([12])\.lambda1$", r".scale\1.factor"),
    (r"^layernorm\.", "norm."),
    (r"^(classifier|cls_classifier)\.", "head."),
    (r"^distillation_classifier\.", "distillation_head."),
)
_UNUSED = ("mask_token", "pooler.")
_SPECIAL = ("embeddings.cls_token", "embeddings.distillation_token")


def from_hugging_face(model: nn.Module) -> ViT:
    """A `ViT` with the weights and the outputs of a Hugging Face model, in eval mode.

    Args:
        model: `ViTModel`, `DeiTModel`, `Dinov2Model`, or their `...ForImageClassification` (DeiT also
            `...WithTeacher`, whose two heads are averaged).

    Raises:
        ValueError: another kind of model, a gated MLP, or another activation than GELU.
    """
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in ("vit", "deit", "dinov2"):
        raise ValueError(f"cannot read a {kind} model; give a ViT, DeiT or Dinov2 of Hugging Face")
    if config.hidden_act != "gelu" or getattr(config, "use_swiglu_ffn", False):
        raise ValueError(f"cannot read a {kind} model with another MLP than GELU's")
    given: dict[str, Tensor] = {}
    special: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        plain = re.sub(_NAMES[0][0], "", name)
        if plain in _SPECIAL:
            special[plain] = value
        elif not any(word in plain for word in _UNUSED):
            given[_translated(plain)] = value
    given["special_tokens"] = torch.cat([special[name] for name in _SPECIAL if name in special], dim=1)
    size = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
    head = given.get("head.weight")
    both = head is not None and head.shape[1] == 2 * config.hidden_size
    ours = ViT(
        ViTOptions(
            image_size=tuple(size), patch=config.patch_size, width=config.hidden_size, depth=config.num_hidden_layers,
            heads=config.num_attention_heads, classes=0 if head is None else len(head), channels=config.num_channels,
            hidden=given["blocks.0.mlp.0.weight"].shape[0], readout="class+mean" if both else "class",
            distillation=len(special) == 2, layer_scale=1.0 if "blocks.0.scale1.factor" in given else None,
            eps=config.layer_norm_eps,
        )
    )  # fmt: skip
    if ours.distillation_head is not None and "distillation_head.weight" not in given:
        ours.distillation_head = None  # DeiTForImageClassification reads the class token alone
    if not getattr(config, "qkv_bias", True):
        for name in ("query", "key", "value"):
            for i in range(config.num_hidden_layers):
                given[f"blocks.{i}.attention.{name}.bias"] = torch.zeros(config.hidden_size)
    ours.load_state_dict(given)
    return ours.to(next(model.parameters()).dtype).eval()


def _translated(name: str) -> str:
    for pattern, ours in _NAMES[1:]:
        name = re.sub(pattern, ours, name)
    return name
