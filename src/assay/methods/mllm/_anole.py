"""Chameleon and Anole checkpoints as thinkers: transformers' classes, and what they lack to make pictures.

The language model writes picture codes itself; transformers' class masks them and has no picture decoder. Here logits
come from the trunk and the head directly, codes are made between the begin and end tokens of a picture, and the decoder
(the VQGAN one, whose weights travel in Anole's own conversion under `model.vqmodel.decoder.`) is loaded beside it.

Source: Chameleon (2405.09818), Anole (2407.06135), VQGAN (2012.09841); training settings of 2501.07542's public code
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from assay.errors import require
from assay.methods.mllm._picture_decoder import load_decoder
from assay.methods.mllm._token_discrepancy import codebook_distance, token_discrepancy

BEGIN, END = "<racm3:break>", "<eoss>"  # of a picture
STOP = "<reserved08706>"  # of a turn
IGNORED = -100
GREY = 0.0078  # Chameleon's own rescaling: pixel values of 0 to 255 become value * 0.0078 - 1


class Context(Protocol):
    segments: list[str | Tensor]


class AnoleSample(Protocol):
    context: tuple[str | Tensor, ...]
    target: str | Tensor


class AnoleThinker:
    """A Chameleon-class checkpoint that thinks in words and pictures.

    Args:
        path_or_id: folder or Hugging Face id, such as `"leloy/Anole-7b-v0.1-hf"`.
        device: where it runs. dtype: of the weights, such as `torch.bfloat16`; as stored when None.
        temperature: of the draws; 0 takes the likeliest.
        longest: tokens of one text at most.

    Attributes:
        image_length: codes of a picture. side: its pixels. distance: (N, N) of `codebook_distance`.

    Raises:
        ValueError: the checkpoint cannot be loaded, is no Chameleon model or names no picture tokens.
        MissingExtra: transformers is not installed.

    Source: 2501.07542
    """

    def __init__(
        self, path_or_id: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None,
        temperature: float = 1.0, longest: int = 128,
    ) -> None:  # fmt: skip
        transformers = require("transformers", "mllm")
        base = transformers.ChameleonForConditionalGeneration
        # The decoder's weights are no part of transformers' class; they are loaded below.
        known = type(base.__name__, (base,), {"_keys_to_ignore_on_load_unexpected": [r"vqmodel\.decoder\."]})
        try:
            self.model = known.from_pretrained(str(path_or_id), dtype=dtype or "auto", use_safetensors=True).to(device)
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(path_or_id))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path_or_id}: no Chameleon checkpoint ({str(error).splitlines()[0]})") from error
        self.model.eval()
        self.device, self.temperature, self.longest = device, temperature, longest
        mapping = self.model.model.vocabulary_mapping
        if not mapping.vocab_map or not mapping.image_tokens:
            raise ValueError(f"{path_or_id}: its vocabulary names no picture tokens (IMGIMG...)")
        vq = self.model.config.vq_config
        self.rows = vq.resolution // 2 ** (len(vq.channel_multiplier) - 1)
        self.side, self.image_length = vq.resolution, self.rows**2
        codebook = self.model.model.vqmodel.quantize.embedding.weight
        self.image_ids = torch.tensor([mapping.img2bpe[code] for code in range(len(codebook))], device=device)
        self._code_of = {number: code for code, number in enumerate(self.image_ids.tolist())}
        self.distance = codebook_distance(codebook.float())
        self.begin, self.end = self._special(BEGIN), self._special(END)
        stops = {self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids(STOP)}
        self.stops = {stop for stop in stops if stop is not None and stop != self.tokenizer.unk_token_id}
        self.decoder = load_decoder(path_or_id, vq, device)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, image_length) of square pictures (B, side, side, 3) of 0 to 1.

        Raises:
            ValueError: another size.
        """
        if images.shape[1:] != (self.side, self.side, 3):
            raise ValueError(f"pictures {tuple(images.shape)}: expected (B, {self.side}, {self.side}, 3)")
        weight = self.model.model.vqmodel.quantize.embedding.weight
        pixels = (images.to(weight) * 255 * GREY - 1).permute(0, 3, 1, 2)
        found = self.model.model.vqmodel.encode(pixels, return_dict=True).image_tokens
        return found.view(len(images), -1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Pictures (B, side, side, 3) of 0 to 1 of codes (B, image_length).

        Raises:
            ValueError: another number of codes, or the checkpoint came without a decoder.
        """
        if codes.shape[1] != self.image_length:
            raise ValueError(f"a picture of {codes.shape[1]} codes, expected {self.image_length}")
        if self.decoder is None:
            raise ValueError("this checkpoint has no picture decoder; Anole's conversion (leloy/Anole-7b-v0.1-hf) has")
        vq = self.model.model.vqmodel
        grid = vq.quantize.embedding(codes.to(self.device)).unflatten(1, (self.rows, self.rows)).permute(0, 3, 1, 2)
        pixels = self.decoder(vq.post_quant_conv(grid).to(next(self.decoder.parameters())))
        return ((pixels + 1) / GREY / 255).clamp(0, 1).permute(0, 2, 3, 1).float()

    def tokens(self, segments: Iterable[str | Tensor], first: bool = True) -> list[int]:
        """Token numbers of texts and pictures in their order; a picture stands between its begin and end tokens."""
        found = [self.tokenizer.bos_token_id] if first and self.tokenizer.bos_token_id is not None else []
        for segment in segments:
            if isinstance(segment, Tensor):
                if segment.numel() != self.image_length:
                    raise ValueError(f"a picture of {segment.numel()} codes, expected {self.image_length}")
                found += [self.begin, *self.image_ids[segment.flatten().to(self.device)].tolist(), self.end]
            else:
                found += self.tokenizer.encode(segment, add_special_tokens=False)
        return found

    def labelled(self, sample: AnoleSample) -> tuple[Tensor, Tensor]:
        """Tokens and labels of a training sample, (1, T) each; -100 everywhere but on the target."""
        context = self.tokens(sample.context)
        target = self.tokens([sample.target], first=False)
        if isinstance(sample.target, str) and self.stops:
            target.append(min(self.stops) if self.tokenizer.eos_token_id is None else self.tokenizer.eos_token_id)
        ids = torch.tensor([context + target], device=self.device)
        labels = ids.clone()
        labels[:, : len(context)] = IGNORED
        return ids, labels

    def logits(self, ids: Tensor, past: Any = None) -> tuple[Tensor, Any]:
        """Logits (B, T, V) with picture codes unmasked, and the cache of keys and values."""
        found = self.model.model(input_ids=ids, past_key_values=past, use_cache=past is not None)
        return self.model.lm_head(found.last_hidden_state), found.past_key_values

    def loss(self, sample: AnoleSample, discrepancy: float = 1.0, cross_entropy: float = 1.0) -> Tensor:
        """cross_entropy * L_CE + discrepancy * L_D of one sample; text always has the whole cross-entropy."""
        ids, labels = self.labelled(sample)
        logits = self.logits(ids)[0].float()
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        if isinstance(sample.target, Tensor):
            loss = cross_entropy * loss
        if discrepancy:
            loss = loss + discrepancy * token_discrepancy(logits, labels, self.image_ids, self.distance)
        return loss

    @torch.no_grad()
    def next_segment(
        self, context: Context, generator: torch.Generator | None = None, pictures: bool = True
    ) -> str | Tensor:
        """A text up to a picture or the end of a turn, or the (image_length,) codes of a picture.

        A picture is made when the model opens one, if `pictures` may be made; an empty text means that it had nothing
        more to say.
        """
        past = require("transformers", "mllm").DynamicCache(config=self.model.config)
        logits, past = self.logits(torch.tensor([self.tokens(context.segments)], device=self.device), past)
        made: list[int] = []
        while len(made) < self.longest:
            scores = logits[0, -1]
            if not pictures:
                scores = scores.index_fill(0, torch.tensor([self.begin], device=self.device), float("-inf"))
            number = self._draw(scores, text=True, generator=generator)
            if number == self.begin and not made:
                return self._picture(past, generator)
            if number == self.begin or number in self.stops:
                break
            made.append(number)
            logits, past = self.logits(torch.tensor([[number]], device=self.device), past)
        return self.tokenizer.decode(made, skip_special_tokens=True)

    def fine_tune(
        self, samples: Sequence[AnoleSample], *, epochs: int = 40, rate: float = 2e-4, discrepancy: float = 1.0,
        cross_entropy: float = 1.0, rank: int = 8, alpha: int = 16, dropout: float = 0.1, accumulation: int = 2,
        generator: torch.Generator | None = None,
    ) -> list[float]:  # fmt: skip
        """Low-rank training of q, k, v and o with the output head trained in full; the change is merged at the end.

        Gives the mean loss of every epoch. Defaults are those of the public code.
        """
        peft = require("peft", "mllm")
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            modules_to_save=["lm_head"],
        )  # fmt: skip
        seed = int(torch.randint(2**31, (1,), generator=generator))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            whole = peft.get_peft_model(self.model, config)
            self.model = whole.base_model.model
            whole.train()
            self.model.model.vqmodel.eval()
            optimizer = torch.optim.AdamW([p for p in whole.parameters() if p.requires_grad], lr=rate)
            history = []
            for _ in range(epochs):
                order = torch.randperm(len(samples), generator=generator).tolist()
                total = 0.0
                for place, number in enumerate(order):
                    loss = self.loss(samples[number], discrepancy, cross_entropy)
                    (loss / accumulation).backward()
                    total += float(loss.detach())
                    if (place + 1) % accumulation == 0 or place + 1 == len(order):
                        optimizer.step()
                        optimizer.zero_grad()
                history.append(total / len(samples))
        self.model = whole.merge_and_unload().eval()
        return history

    def _picture(self, past: Any, generator: torch.Generator | None) -> Tensor:
        number, codes = self.begin, []
        for _ in range(self.image_length):
            logits, past = self.logits(torch.tensor([[number]], device=self.device), past)
            number = self._draw(logits[0, -1], text=False, generator=generator)
            codes.append(self._code_of[number])
        return torch.tensor(codes)

    def _draw(self, logits: Tensor, text: bool, generator: torch.Generator | None) -> int:
        """A token among words (and the begin of a picture), or among picture codes."""
        allowed = torch.full_like(logits, float("-inf"), dtype=torch.float32)
        if text:
            allowed[:] = 0
            allowed[self.image_ids] = float("-inf")
            allowed[self.end] = float("-inf")
        else:
            allowed[self.image_ids] = 0
        scores = (logits.float() + allowed).cpu()
        if self.temperature == 0:
            return int(scores.argmax())
        return int(torch.multinomial((scores / self.temperature).softmax(-1), 1, generator=generator))

    def _special(self, name: str) -> int:
        number = self.model.config.vocabulary_map.get(name, self.tokenizer.convert_tokens_to_ids(name))
        if number is None or number == self.tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no {name}, which opens or closes a picture")
        return int(number)
