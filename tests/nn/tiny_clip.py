"""A CLIP checkpoint of a few kilobytes in the official folder layout, with random weights."""

import json
from pathlib import Path

WORDS = [
    "a",
    "an",
    "the",
    "of",
    "photo",
    "cat",
    "dog",
    "bird",
    "red",
    "blue",
    "green",
    "house",
    "tree",
    "on",
    "in",
    "big",
    "small",
    "and",
]


def save_tiny_clip(folder: Path, kind: str = "clip", width: int = 16, seed: int = 0) -> Path:
    """Write a random CLIP or SigLIP model with tokenizer and image processor; gives back the folder."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(seed)
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    text = {
        "vocab_size": len(vocabulary), "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0, "projection_size": width,
    }  # fmt: skip
    vision = {
        "hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 16,
    }  # fmt: skip
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=width)
        model = transformers.CLIPModel(config)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        model_max_length=12,
    ).save_pretrained(folder)  # fmt: skip
    about = {
        "image_processor_type": "CLIPImageProcessor" if kind == "clip" else "SiglipImageProcessor",
        "do_resize": True, "do_rescale": True, "do_normalize": True, "rescale_factor": 1 / 255, "resample": 3,
        "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3],
    }  # fmt: skip
    if kind == "clip":
        about |= {
            "size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32},
            "do_convert_rgb": True,
        }  # fmt: skip
    else:
        about |= {"size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    return folder
