"""Language models as evidence models: captions of a video, and how likely each word is given frames and texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from assay.errors import InputError
from assay.llm import from_env
from assay.llm.client import Client
from assay.llm.forced import word_logprobs
from assay.llm.local_vision import LocalVision
from assay.llm.messages import user
from assay.llm.model import Model, NoForcedLogprobs
from assay.methods.evaluation.vi_sil import Query, Summary, content_positions, word_spans, words

TOP = 20
MASK = "____"
DESCRIBE = "Describe in detail everything that happens in this video: who, what, which colours, how many, where, when."
GUESS = "There is a video that you cannot see. Write a detailed description that it might have."
RETELL = "This is a summary of a video: {text}\nDescribe in detail everything that happens in the video."
FILL = (
    "Below is a description of the video in which words are replaced by {mask}."
    " Answer with the word that stands at the first {mask}, and nothing else.\n\n{text}"
)


def named_model(model: str | None, name: str | None) -> Model:
    """The model a user names: a server's address, a folder or id of a local model, or the environment's.

    Args:
        model: `http(s)://...`, `local:FOLDER_OR_ID`, a folder, or None. name: the model's name on a server.

    Raises:
        InputError: nothing is named, or it cannot be used.
    """
    import os

    if model is None:
        named = os.environ.get("ASSAY_LLM_MODEL", "")
        found = LocalVision(named.removeprefix("local:")) if named.startswith("local:") else from_env()
        if found is None:
            raise InputError("no model is named: give --model http://SERVER/v1 --name NAME, or --model FOLDER")
        return found
    if model.startswith(("http://", "https://")):
        name = name or os.environ.get("ASSAY_LLM_MODEL")
        if not name:
            raise InputError(f"--model {model}: name the model on that server with --name")
        return Client(model, name, os.environ.get("ASSAY_LLM_KEY"))
    place = model.removeprefix("local:")
    if not model.startswith("local:") and not Path(place).is_dir():
        raise InputError(f"--model {model}: expected http(s)://SERVER/v1, a folder, or local:ID")
    return LocalVision(place)


class ModelEvidence:
    """An evidence model of ViSIL behind a chat model that sees pictures.

    Frames of a summary are what `assay.llm.messages.user` takes. Forced: the caption is handed in as the answer, and
    the log-probabilities of its tokens are summed within words. Masked: a content word and all later ones are hidden,
    and the word is looked up among the first token's `TOP` likeliest; it counts when the token is the word, or opens it
    with three letters or half of it; outside the list it gets minus infinity, so that the floor decides.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def captions(self, video: Summary, count: int, most_words: int) -> list[str]:
        """Descriptions of the video, the first the likeliest, the others sampled.

        Raises:
            InputError: the model says nothing.
        """
        tokens = 2 * most_words
        texts = [self.model.chat([_asked(DESCRIBE, video)], max_tokens=tokens).text]
        texts += [
            self.model.chat([_asked(DESCRIBE, video)], max_tokens=tokens, temperature=1.0, seed=n, sample=n).text
            for n in range(1, count)
        ]
        found = [text.strip() for text in texts if content_positions(text)]
        if not found:
            raise InputError(f"{self.model.name} gave no description of the video with any content word")
        return found

    def logprobs(self, queries: Sequence[Query]) -> list[list[float]]:
        """Forced log-probabilities.

        Raises:
            NoForcedLogprobs: the model or its server does not give them.
        """
        return self._each(self._forced, queries)

    def masked_logprobs(self, queries: Sequence[Query]) -> list[list[float]]:
        """Log-probabilities of filling in.

        Raises:
            LLMError: the server gives no log-probabilities at all.
        """
        return self._each(self._masked, queries)

    def can_force(self) -> bool:
        """Whether log-probabilities of a given text can be had."""
        try:
            self.model.score([user("Say a word.")], "yes")
        except NoForcedLogprobs:
            return False
        return True

    def _forced(self, query: Query) -> list[float]:
        tokens = self.model.score([_prompt(query.evidence)], query.caption)
        found = word_logprobs(tokens, query.caption, word_spans(query.caption))
        return [min(found[n], 0.0) for n in query.positions]

    def _masked(self, query: Query) -> list[float]:
        spans, content = word_spans(query.caption), set(content_positions(query.caption))
        names = words(query.caption)
        found = []
        for position in query.positions:
            text, last = "", 0
            for number, (start, end) in enumerate(spans):
                hidden = number >= position and (number in content or number == position)
                text += query.caption[last:start] + (MASK if hidden else query.caption[start:end])
                last = end
            question = FILL.format(mask=MASK, text=text + query.caption[last:])
            top = self.model.logprobs([_prompt(query.evidence, question)], top=TOP)[0].top
            mass = sum(math.exp(p) for token, p in top.items() if _opens(token, names[position]))
            found.append(min(math.log(mass), 0.0) if mass > 0 else -math.inf)
        return found

    def _each(self, one: Callable[[Query], list[float]], queries: Sequence[Query]) -> list[list[float]]:
        with ThreadPoolExecutor(self.model.concurrency) as pool:
            return list(pool.map(one, queries))


def _prompt(evidence: Summary | None, question: str = "") -> dict[str, Any]:
    if evidence is None or evidence.empty:
        return user(f"{GUESS}\n\n{question}".strip() if question else GUESS)
    ask = RETELL.format(text=evidence.text) if (evidence.text or "").strip() else DESCRIBE
    return _asked(f"{ask}\n\n{question}".strip() if question else ask, evidence)


def _asked(question: str, evidence: Summary) -> dict[str, Any]:
    return user(question, *(evidence.frames or ()))


def _opens(token: str, word: str) -> bool:
    said, meant = token.strip().strip("\u2581\u0120\"'.,").casefold(), word.casefold()
    return bool(said) and (said == meant or (meant.startswith(said) and len(said) >= min(3, (len(meant) + 1) // 2)))
