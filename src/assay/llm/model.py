"""What every language model here can do, wherever it runs: chat, fill a schema, give log-probabilities, count."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from assay.errors import AssayError
from assay.llm.schema import AnswerError, json_schema, parse, repair_message

if TYPE_CHECKING:
    from pydantic import BaseModel

    from assay.llm.cache import Cache

Message = Mapping[str, Any]
Parsed = TypeVar("Parsed")


class LLMError(AssayError):
    """A model could not be asked, or its server refused. The message never holds the key.

    Attributes:
        status: the HTTP status of the refusal; None where no answer came or no server is involved.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoForcedLogprobs(LLMError):
    """A model or its server cannot tell how likely a given text is; it may still give those of its own answers."""


@dataclass(frozen=True)
class Token:
    """One generated token, its natural log-probability, and the likeliest alternatives at its place."""

    text: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """All that an answer may depend on; a cache key is made of it.

    Attributes:
        schema: JSON schema the answer should fit; None for free text.
        top_logprobs: alternatives wanted per token; 0 for no log-probabilities.
        sample: number of the sample, so that repeated sampling is not answered from the cache.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    top_logprobs: int = 0
    sample: int = 0


@dataclass(frozen=True)
class ScoreRequest(Request):
    """A request for the log-probabilities of an answer that is given: `continuation`, word for word."""

    continuation: str = ""


@dataclass(frozen=True)
class Reply:
    """What a model gave for one request. `finish` is `stop`, `length` or what the server said."""

    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Answer(Generic[Parsed]):
    """An answer: its text, and with a schema the validated object.

    Attributes:
        cached: it came from the disk cache; nothing was asked.
        repaired: the first answer did not fit the schema, the second did.
    """

    text: str
    parsed: Parsed
    reply: Reply
    cached: bool = False
    repaired: bool = False


@dataclass
class Usage:
    """Running totals of a model object. `cost` is in the currency of the price given, 0 without one."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    repairs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def __str__(self) -> str:
        price = f", cost {self.cost:.4f}" if self.cost else ""
        return (
            f"{self.requests} requests ({self.retries} retried, {self.repairs} repaired), {self.cached} from the cache,"
            f" {self.prompt_tokens} + {self.completion_tokens} tokens{price}"
        )


class Model(ABC):
    """A chat model. Subclasses answer one request in `complete`; everything else is here.

    Args:
        name: the model's name, part of the cache key.
        cache: disk cache of answers; None asks every time.
        concurrency: requests at once in `chat_many`.
        price: cost of a million prompt tokens and of a million completion tokens.
    """

    def __init__(
        self,
        name: str,
        *,
        cache: Cache | None = None,
        concurrency: int = 16,
        price: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.name, self.cache, self.concurrency, self.price = name, cache, max(1, concurrency), price
        self.usage = Usage()
        self._counting = threading.Lock()

    @abstractmethod
    def complete(self, request: Request) -> Reply:
        """Answer one request, without cache and count.

        Raises:
            LLMError: the model cannot be reached or refuses.
        """

    def identity(self) -> str:
        """What tells this model from another with the same name, for the cache key."""
        return f"{type(self).__name__}:{self.name}"

    def chat(
        self,
        messages: Sequence[Message],
        schema: type[BaseModel] | None = None,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        sample: int = 0,
    ) -> Answer[Any]:
        """The model's answer to a conversation (see `assay.llm.messages`).

        With `schema`, a pydantic model, the answer is asked for in that form and validated; one that does not fit is
        sent back once with what was wrong.

        Raises:
            LLMError: the model cannot be reached or refuses.
            AnswerError: the second answer does not fit the schema either.
        """
        request = Request(
            tuple(messages),
            max_tokens,
            temperature,
            seed,
            tuple(stop),
            json_schema(schema) if schema else None,
            0,
            sample,
        )
        reply, cached = self._ask(request, keep=schema is None)
        if schema is None:
            return Answer(reply.text, None, reply, cached)
        try:
            answer = Answer(reply.text, parse(reply.text, schema), reply, cached)
        except AnswerError as error:
            cut = reply.finish == "length"
            longer = max_tokens * 2 if max_tokens and cut else max_tokens
            again = (*messages, *repair_message(reply.text, error, truncated=cut))
            with self._counting:
                self.usage.repairs += 1
            reply, cached = self._ask(replace(request, messages=again, max_tokens=longer), keep=False)
            answer = Answer(reply.text, parse(reply.text, schema), reply, cached, repaired=True)
        if not cached:
            self._keep(request, reply)
        return answer

    def chat_many(
        self,
        conversations: Sequence[Sequence[Message]],
        schema: type[BaseModel] | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> list[Answer[Any] | AssayError]:
        """`chat` for each conversation, `concurrency` at once; an error takes the place of its answer."""
        done = 0

        def one(messages: Sequence[Message]) -> Answer[Any] | AssayError:
            nonlocal done
            try:
                found: Answer[Any] | AssayError = self.chat(messages, schema, **options)
            except AssayError as error:
                found = error
            with self._counting:
                done += 1
                if progress:
                    progress(done, len(conversations))
            return found

        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            return list(pool.map(one, conversations))

    def logprobs(
        self, messages: Sequence[Message], *, top: int = 20, max_tokens: int = 1, sample: int = 0
    ) -> tuple[Token, ...]:
        """The tokens of a greedy answer with their log-probabilities and the `top` alternatives at each place.

        Raises:
            LLMError: as for `chat`, or the server gives no log-probabilities.
        """
        reply, _ = self._ask(Request(tuple(messages), max_tokens, top_logprobs=top, sample=sample))
        if not reply.tokens:
            raise LLMError(f"{self.name}: no log-probabilities came back; this server or model does not give them")
        return reply.tokens

    def score(self, messages: Sequence[Message], continuation: str) -> tuple[Token, ...]:
        """The tokens of a given answer, each with its log-probability given the conversation and those before it.

        Raises:
            NoForcedLogprobs: this server or model does not give them.
            LLMError: as for `chat`.
        """
        if not continuation.strip():
            return ()
        reply, _ = self._ask(ScoreRequest(tuple(messages), 1, continuation=continuation))
        if squeezed("".join(token.text for token in reply.tokens)) != squeezed(continuation):
            raise NoForcedLogprobs(f"{self.name}: gives no log-probabilities of a text it is handed")
        return reply.tokens

    def choose(self, messages: Sequence[Message], choices: Sequence[str], *, top: int = 20) -> dict[str, float]:
        """Probability of each choice as the first token of the answer, summing to 1 over the choices.

        A choice counts every alternative that equals it after stripping blanks, in either case ("A", " a"). Choices
        should differ in their first token. Where no choice is among the `top` alternatives, all are equally likely.

        Raises:
            LLMError: as for `logprobs`.
        """
        mass = dict.fromkeys(choices, 0.0)
        folded = {choice.strip().casefold(): choice for choice in choices}
        for text, logprob in self.logprobs(messages, top=top)[0].top.items():
            choice = folded.get(text.strip().casefold())
            if choice is not None:
                mass[choice] += math.exp(logprob)
        total = sum(mass.values())
        return {choice: value / total if total > 0 else 1 / len(mass) for choice, value in mass.items()}

    def _ask(self, request: Request, *, keep: bool = True) -> tuple[Reply, bool]:
        kept = self.cache.get(self._key(request)) if self.cache else None
        if kept is not None:
            with self._counting:
                self.usage.cached += 1
            return kept, True
        reply = self.complete(request)
        with self._counting:
            self.usage.requests += 1
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.completion_tokens += reply.completion_tokens
            self.usage.cost += (reply.prompt_tokens * self.price[0] + reply.completion_tokens * self.price[1]) / 1e6
        if keep:
            self._keep(request, reply)
        return reply, False

    def _keep(self, request: Request, reply: Reply) -> None:
        """Only replies that were of use are kept: one that fits no schema is asked for anew next time."""
        if self.cache:
            self.cache.put(self._key(request), reply)

    def _key(self, request: Request) -> dict[str, Any]:
        return {"model": self.identity(), **asdict(request)}


def squeezed(text: str) -> str:
    """A text without blanks and without the marks that tokenizers put for them."""
    return "".join(text.replace("\u2581", " ").replace("\u0120", " ").split())
