"""A vision-language model of transformers, run in this process, with the interface of the client."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.errors import InputError, require
from assay.llm.cache import Cache
from assay.llm.local import Local, continuation_tokens, forced_tokens
from assay.llm.model import LLMError, Model, Reply, Request, ScoreRequest
from assay.llm.schema import instruction


class LocalVision(Local):
    """A model that sees pictures, from a folder or by its Hugging Face id; log-probabilities are exact.

    Args:
        name: folder of a saved image-text-to-text model with its processor, or an id such as
            `HuggingFaceTB/SmolVLM-500M-Instruct`.
        device, max_new_tokens, cache: as for `Local`.

    Raises:
        MissingExtra: the extra `llm` (torch, transformers) is not installed.
        InputError: no such model, or it cannot be loaded.
    """

    def __init__(
        self, name: str | Path, *, device: str = "auto", max_new_tokens: int = 1024, cache: Cache | None = None
    ) -> None:
        torch, transformers = require("torch", "llm"), require("transformers", "llm")
        Model.__init__(self, str(name), cache=cache, concurrency=1)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        progress = transformers.utils.logging
        shown = progress.is_progress_bar_enabled()
        progress.disable_progress_bar()
        try:
            self.processor = transformers.AutoProcessor.from_pretrained(str(name))
            self.network = transformers.AutoModelForImageTextToText.from_pretrained(str(name)).to(device).eval()
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"vision-language model {name} cannot be loaded: {reason}") from error
        finally:
            if shown:
                progress.enable_progress_bar()
        if not hasattr(self.processor, "tokenizer"):
            raise InputError(f"vision-language model {name} has no processor for pictures and words")
        self.tokenizer = self.processor.tokenizer
        self.device, self.max_new_tokens = device, max_new_tokens
        self._turn = threading.Lock()

    def complete(self, request: Request) -> Reply:
        import torch

        inputs = self._inputs(request)
        length = inputs["input_ids"].shape[1]
        if isinstance(request, ScoreRequest):
            given, pieces = continuation_tokens(self.tokenizer, request.continuation)
            with self._turn, torch.inference_mode():
                logits = self.network(**_longer(inputs, given)).logits
            return forced_tokens(logits, given, pieces, request.continuation)
        wanted = request.max_tokens or self.max_new_tokens
        sampled = request.temperature > 0
        options: dict[str, Any] = {"do_sample": sampled} | ({"temperature": request.temperature} if sampled else {})
        if request.stop:
            options |= {"stop_strings": list(request.stop), "tokenizer": self.tokenizer}
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        with self._turn, torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed((request.seed or 0) * 1_000_003 + request.sample)
            out = self.network.generate(
                **inputs, max_new_tokens=wanted, output_logits=True, return_dict_in_generate=True,
                pad_token_id=pad if pad is not None else 0, **options,
            )  # fmt: skip
        made = out.sequences[0, length:].tolist()
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        for stop in request.stop:
            text = text.split(stop, 1)[0]
        finish = "length" if len(made) >= wanted and made[-1] != self.tokenizer.eos_token_id else "stop"
        return Reply(text, finish, length, len(made), self._tokens(made, out.logits, request.top_logprobs))

    def _inputs(self, request: Request) -> dict[str, Any]:
        messages: list[dict[str, Any]] = []
        pictures: list[Any] = []
        for message in request.messages:
            parts = []
            for part in _parts(message):
                if part["type"] == "text":
                    parts.append(dict(part))
                else:
                    pictures.append(_picture(part))
                    parts.append({"type": "image"})
            messages.append({"role": str(message["role"]), "content": parts})
        if request.schema:
            words = instruction(dict(request.schema))
            messages.append({"role": "user", "content": [{"type": "text", "text": words}]})
        if getattr(self.processor, "chat_template", None):
            text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        else:
            sign = getattr(self.processor, "image_token", "<image>")
            lines = [f"{m['role']}: " + "".join(sign if p["type"] == "image" else p["text"] for p in m["content"])
                     for m in messages]  # fmt: skip
            text = "\n".join(lines) + "\nassistant:"
        try:
            found = self.processor(images=pictures or None, text=[text], return_tensors="pt")
        except ValueError as error:
            raise LLMError(f"{self.name}: {str(error).splitlines()[0][:200]}") from error
        return {name: value.to(self.device) for name, value in found.items() if hasattr(value, "to")}


def _longer(inputs: dict[str, Any], given: list[int]) -> dict[str, Any]:
    """Inputs with tokens appended; whatever runs beside the tokens grows along."""
    import torch

    ids = inputs["input_ids"]
    tail = torch.tensor([given], device=ids.device)
    longer = dict(inputs)
    for name, value in inputs.items():
        if name == "input_ids":
            longer[name] = torch.cat([value, tail], 1)
        elif value.shape == ids.shape:
            more = torch.ones_like(tail) if name == "attention_mask" else torch.zeros_like(tail)
            longer[name] = torch.cat([value, more.to(value.dtype)], 1)
    return longer


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _picture(part: Mapping[str, Any]) -> Any:
    """The picture of a message part, as PIL."""
    from PIL import Image, UnidentifiedImageError

    url = part.get("image_url", {}).get("url", "") if part.get("type") == "image_url" else ""
    if not url.startswith("data:image/") or ";base64," not in url:
        raise LLMError("a local model takes pictures as files or arrays only, not by address")
    try:
        return Image.open(io.BytesIO(base64.b64decode(url.partition(";base64,")[2]))).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise LLMError("a picture of the message cannot be read") from error
