"""One client for language and vision-language models.

    from assay import llm
    from assay.llm.messages import system, user

    model = llm.from_env()                                # ASSAY_LLM_URL, ASSAY_LLM_MODEL, ASSAY_LLM_KEY; None without
    model.chat([user("Which organ?", "slice.png")]).text
    model.chat([user(text)], schema=Summary).parsed       # a pydantic object, one repair retry
    model.chat_many(conversations, schema=Summary)        # many at once; an error in place of an answer
    model.logprobs([user(text)], top=5)[0].top            # {"A": -0.1, "B": -2.3}
    model.choose([user(text)], ["A", "B"])                # {"A": 0.9, "B": 0.1}
    model.usage                                           # requests, tokens, cost

`Client` speaks to any OpenAI-compatible server; `assay.llm.local.Local` runs a transformers model in this process;
`assay.llm.testing` holds a stub server and a recorder of answers for tests.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from assay.errors import InputError

if TYPE_CHECKING:
    from assay.llm.cache import Cache
    from assay.llm.model import Model


def from_env(*, cache: Cache | None = None) -> Model | None:
    """The model the environment names; None where it names none.

    `ASSAY_LLM_URL` and `ASSAY_LLM_MODEL` name a server (with `ASSAY_LLM_KEY` where it wants one);
    `ASSAY_LLM_MODEL=local:FOLDER_OR_ID` alone names a transformers model to run here.
    `ASSAY_LLM_CONCURRENCY` (default 16) bounds requests at once; `ASSAY_LLM_PRICE` such as `0.15,0.60` is the cost of a
    million prompt tokens and of a million completion tokens; `ASSAY_LLM_TIMEOUT` the seconds of one request (120).

    Raises:
        InputError: a variable cannot be used.
        MissingExtra: a local model without the extra `llm`.
    """
    url, name = os.environ.get("ASSAY_LLM_URL", "").strip(), os.environ.get("ASSAY_LLM_MODEL", "").strip()
    prices = _numbers("ASSAY_LLM_PRICE", "0,0", 2)
    (concurrency,) = _numbers("ASSAY_LLM_CONCURRENCY", "16", 1)
    (seconds,) = _numbers("ASSAY_LLM_TIMEOUT", "120", 1)
    if name.startswith("local:"):
        from assay.llm.local import Local

        return Local(name.removeprefix("local:"), cache=cache)
    if not url:
        return None
    if not name:
        raise InputError("ASSAY_LLM_URL is set but ASSAY_LLM_MODEL is not; set it to a model that the server offers")
    from assay.llm.client import Client
    from assay.net import Patience

    return Client(
        url,
        name,
        os.environ.get("ASSAY_LLM_KEY"),
        cache=cache,
        concurrency=int(concurrency),
        price=(prices[0], prices[1]),
        patience=Patience(seconds=seconds, bytes=64 << 20),
    )


def _numbers(variable: str, default: str, count: int) -> list[float]:
    text = os.environ.get(variable) or default
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(0 <= n < 1e9 for n in numbers):
        raise InputError(f"{variable}={text!r}; expected {count} number{'s with a comma between' * (count > 1)}")
    return numbers
