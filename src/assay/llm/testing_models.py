"""For tests: tiny models with random weights, saved in the official format. Their tokens are characters."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any


def tiny_text_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of one layer with its tokenizer, saved into a folder, which is returned."""
    import torch
    import transformers

    tokenizer, size = _characters()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(_words(size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_vision_model(folder: Path, seed: int = 0) -> Path:
    """A LLaVA that sees 16 x 16 pixels in four patches, with its processor, saved into a folder, which is returned."""
    import torch
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer, size = _characters("<image>")
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=_words(size), image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4, vision_feature_select_strategy="default",
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIP of 16 x 16 pixels and characters, with its processor, saved into a folder, which is returned."""
    import torch
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer, size = _characters()
    tokenizer.model_max_length = 32
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**shape, "vocab_size": size, "max_position_embeddings": 32, "eos_token_id": 1, "bos_token_id": 0},
        vision_config={**shape, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.CLIPModel(config).save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _characters(*special: str) -> tuple[Any, int]:
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    characters = ["<pad>", "<eos>", "<unk>", *special, *string.printable]
    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    if special:
        fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast, len(characters)


def _words(size: int) -> Any:
    import transformers

    return transformers.LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8192, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
