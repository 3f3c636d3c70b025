"""Log-probabilities of a given answer over the chat interface: vLLM's `prompt_logprobs`, asked for and read.

The answer goes in as the last message, to be continued (`continue_final_message`), and the log-probabilities of the
prompt's last tokens are its own. Servers that do not know the field leave it out or refuse it.
"""

from __future__ import annotations

from typing import Any

from assay.llm.model import NoForcedLogprobs, Reply, ScoreRequest, Token, squeezed


def forced_body(name: str, request: ScoreRequest) -> dict[str, Any]:
    """The body of a request for the log-probabilities of `request.continuation`."""
    return {
        "model": name,
        "messages": [*map(dict, request.messages), {"role": "assistant", "content": request.continuation}],
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 1,
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def forced_reply(data: Any, request: ScoreRequest) -> Reply:
    """The reply to `forced_body`: the tokens of the continuation, which are the last of the prompt.

    Raises:
        NoForcedLogprobs: the answer holds none, or its tokens do not spell the continuation.
    """
    data["choices"][0]["message"]  # a chat completion at all
    places = data.get("prompt_logprobs")
    if not places:
        raise NoForcedLogprobs("the server gives no prompt_logprobs")
    wanted, said, found = squeezed(request.continuation), "", list[Token]()
    for place in reversed(places):
        if len(said) >= len(wanted) or not place:
            break
        entry = next(iter(place.values()))  # the token that stands there comes before the likelier ones
        text = str(entry.get("decoded_token") or "")
        said = squeezed(text) + said
        found.append(Token(text, float(entry["logprob"])))
    if said != wanted:
        raise NoForcedLogprobs("the tokens of prompt_logprobs do not spell the text that was given")
    usage = data.get("usage") or {}
    return Reply(request.continuation, "stop", int(usage.get("prompt_tokens") or 0), 0, tuple(reversed(found)))


def word_logprobs(tokens: tuple[Token, ...], text: str, spans: list[tuple[int, int]]) -> list[float]:
    """log-probability of each word: the sum over the tokens that lie in it, a token counting where it starts.

    Args:
        tokens: of the text, in order; their texts spell it up to blanks. spans: start and end of each word in `text`.
    """
    place = [n for n, sign in enumerate(text) if squeezed(sign)]  # where the signs that are no blanks lie
    totals, used = [0.0] * len(spans), 0
    for token in tokens:
        length = len(squeezed(token.text))
        if not length:
            continue
        at = place[min(used, len(place) - 1)]
        end = place[min(used + length, len(place)) - 1]
        for number, (start, stop) in enumerate(spans):
            if start <= at < stop or (at < start <= end):  # a token may open with a sign before the word
                totals[number] += token.logprob
                break
        used += length
    return totals
