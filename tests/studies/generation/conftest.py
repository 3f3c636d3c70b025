"""A FLUX pipeline small enough for a test, saved in the format of the published ones."""

import json

import pytest
import torch

WORDS = ["a", "corgi", "on", "beach", "cat", "the", "red", "ball"]


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory):
    """Folder of a tiny random `FluxPipeline`: transformer of 2 + 2 blocks, 4 latent channels, 16 pixels a token."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

    root = tmp_path_factory.mktemp("flux")
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    vae = AutoencoderKL(
        sample_size=32, in_channels=3, out_channels=3, block_out_channels=(4, 4, 4, 4), layers_per_block=1,
        latent_channels=4, norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1,
        scaling_factor=0.8, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    letters = [chr(c) for c in range(97, 123)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (root / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (root / "merges.txt").write_text("#version: 0.2\n")
    clip_words = CLIPTokenizer(str(root / "vocab.json"), str(root / "merges.txt"), model_max_length=77)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(pieces), hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=4,
            projection_dim=32, bos_token_id=len(pieces) - 2, eos_token_id=len(pieces) - 1, pad_token_id=1,
        )
    )  # fmt: skip
    t5_words = T5TokenizerFast(tokenizer_object=_t5_tokenizer(), extra_ids=0, pad_token="<pad>", eos_token="</s>")
    t5 = T5EncoderModel(
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4, decoder_start_token_id=0)
    )
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, text_encoder=clip, tokenizer=clip_words,
        text_encoder_2=t5, tokenizer_2=t5_words, transformer=transformer,
    )  # fmt: skip
    folder = root / "pipeline"
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _t5_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [(chr(c), -5.0) for c in range(97, 123)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer
