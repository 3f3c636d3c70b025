"""A causal language model of transformers, run in this process, with the interface of the client."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.errors import InputError, require
from assay.llm.cache import Cache
from assay.llm.model import LLMError, Model, Reply, Request, ScoreRequest, Token
from assay.llm.schema import instruction


class Local(Model):
    """A text model from a folder or by its Hugging Face id. Log-probabilities are exact; one request at a time.

    Args:
        name: folder of a saved model with its tokenizer, or an id such as `Qwen/Qwen2.5-0.5B-Instruct`.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        max_new_tokens: length of an answer where the request names none.
        cache: see `Model`.

    Raises:
        MissingExtra: the extra `llm` (torch, transformers) is not installed.
        InputError: no such model, or it cannot be loaded.
    """

    def __init__(
        self, name: str | Path, *, device: str = "auto", max_new_tokens: int = 1024, cache: Cache | None = None
    ) -> None:
        torch, transformers = require("torch", "llm"), require("transformers", "llm")
        super().__init__(str(name), cache=cache, concurrency=1)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(name))
            self.network = transformers.AutoModelForCausalLM.from_pretrained(str(name)).to(device).eval()
        except (OSError, ValueError, ImportError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(f"model {name} cannot be loaded: {reason}") from error
        self.device, self.max_new_tokens = device, max_new_tokens
        self._turn = threading.Lock()

    def complete(self, request: Request) -> Reply:
        import torch

        if isinstance(request, ScoreRequest):
            return self._score(request)
        ids = self._prompt(request)
        wanted = request.max_tokens or self.max_new_tokens
        longest = getattr(self.network.config, "max_position_embeddings", None)
        if longest and ids.shape[1] + wanted > longest:
            wanted = longest - ids.shape[1]
            if wanted < 1:
                raise LLMError(f"{self.name}: prompt of {ids.shape[1]} tokens; the model takes {longest}")
        sampled = request.temperature > 0
        options: dict[str, Any] = {"do_sample": sampled, "max_new_tokens": wanted, "output_logits": True}
        if sampled:
            options["temperature"] = request.temperature
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        with self._turn, torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed((request.seed or 0) * 1_000_003 + request.sample)
            out = self.network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                return_dict_in_generate=True,
                pad_token_id=pad if pad is not None else 0,
                **({"stop_strings": list(request.stop), "tokenizer": self.tokenizer} if request.stop else {}),
                **options,
            )
        made = out.sequences[0, ids.shape[1] :].tolist()
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        for stop in request.stop:
            text = text.split(stop, 1)[0]
        finish = "length" if len(made) >= wanted and made[-1] != self.tokenizer.eos_token_id else "stop"
        return Reply(text, finish, ids.shape[1], len(made), self._tokens(made, out.logits, request.top_logprobs))

    def _score(self, request: ScoreRequest) -> Reply:
        import torch

        ids = self._prompt(request)
        given, pieces = continuation_tokens(self.tokenizer, request.continuation)
        longest = getattr(self.network.config, "max_position_embeddings", None)
        if longest and ids.shape[1] + len(given) > longest:
            raise LLMError(f"{self.name}: prompt of {ids.shape[1] + len(given)} tokens; the model takes {longest}")
        whole = torch.cat([ids, torch.tensor([given], device=ids.device)], 1)
        with self._turn, torch.inference_mode():
            logits = self.network(whole, attention_mask=torch.ones_like(whole)).logits
        return forced_tokens(logits, given, pieces, request.continuation)

    def _prompt(self, request: Request) -> Any:
        messages = [{"role": str(m["role"]), "content": _text_only(m)} for m in request.messages]
        if request.schema:
            messages.append({"role": "user", "content": instruction(dict(request.schema))})
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return self.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids.to(self.device)
        text = "\n".join(f"{m['role']}: {m['content']}" for m in messages) + "\nassistant:"
        return self.tokenizer(text, return_tensors="pt").input_ids.to(self.device)

    def _tokens(self, made: list[int], logits: Any, top: int) -> tuple[Token, ...]:
        if not top:
            return ()
        found = []
        for token, row in zip(made, logits, strict=True):
            logprobs = row[0].float().log_softmax(-1)
            best = logprobs.topk(min(top, logprobs.numel()))
            names = {
                self.tokenizer.decode([i]): p
                for p, i in zip(best.values.tolist()[::-1], best.indices.tolist()[::-1], strict=True)
            }
            found.append(Token(self.tokenizer.decode([token]), logprobs[token].item(), dict(reversed(names.items()))))
        return tuple(found)


def continuation_tokens(tokenizer: Any, text: str) -> tuple[list[int], list[str]]:
    """Token numbers of a text that goes on from a prompt, and the part of the text that each stands for."""
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [max(end, 0) for _, end in found["offset_mapping"]]
        return list(found["input_ids"]), [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return ids, [tokenizer.decode([i]) for i in ids]


def forced_tokens(logits: Any, given: list[int], pieces: list[str], continuation: str) -> Reply:
    """The reply to a `ScoreRequest` from the logits (1, T, V) of a row that ends with the `given` tokens."""
    rows = logits[0, -len(given) - 1 : -1].float().log_softmax(-1)
    values = [rows[n, token].item() for n, token in enumerate(given)]
    tokens = tuple(Token(piece, value) for piece, value in zip(pieces, values, strict=True))
    return Reply(continuation, "stop", logits.shape[1] - len(given), 0, tokens)


def _text_only(message: Mapping[str, Any]) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    if any(part.get("type") != "text" for part in content):
        raise LLMError("a local text model cannot see pictures; name a server with ASSAY_LLM_URL")
    return "\n".join(part["text"] for part in content)
