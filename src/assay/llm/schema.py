"""Answers that fit a pydantic model: the JSON in what a model wrote, validated; what to say when it does not fit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from assay.errors import AssayError

if TYPE_CHECKING:
    from pydantic import BaseModel

    Schema = TypeVar("Schema", bound=BaseModel)

_THOUGHT_ENDS = ("</think>", "</thinking>")
_LONGEST = 1 << 20


class AnswerError(AssayError):
    """A model's answer does not fit the schema asked for; says where."""


def json_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a pydantic model in the strict form servers ask for: closed objects, every field required."""
    found = schema.model_json_schema()
    for part in (found, *found.get("$defs", {}).values()):
        if part.get("type") == "object":
            part["additionalProperties"] = False
            part["required"] = list(part.get("properties", {}))
    return found


def parse(text: str, schema: type[Schema]) -> Schema:
    """The first JSON object in `text` (alone, fenced, or among words) that fits `schema`.

    Raises:
        AnswerError: there is none; the message says what is wrong with the nearest.
    """
    from pydantic import ValidationError

    wrong = "no JSON object in the answer"
    for value in _objects(text[:_LONGEST]):
        try:
            return schema.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            wrong = f"{'.'.join(map(str, first['loc'])) or 'the object'}: {first['msg']}"
    raise AnswerError(f"the model's answer does not fit {schema.__name__}: {wrong}")


def repair_message(text: str, error: AnswerError, *, truncated: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two messages that send an answer back to be mended."""
    why = "it was cut off before its end; be shorter" if truncated else str(error)
    return (
        {"role": "assistant", "content": text[:8000]},
        {"role": "user", "content": f"That could not be used: {why}. Answer again with nothing but the JSON object."},
    )


def instruction(schema: dict[str, Any]) -> str:
    """Words that ask for the schema, for servers without structured output."""
    return "Answer with nothing but one JSON object that fits this JSON schema:\n" + json.dumps(
        schema, ensure_ascii=False
    )


def _objects(text: str) -> list[dict[str, Any]]:
    """JSON objects in `text`, in order; at most 20 openings are tried, so that a wall of braces costs little."""
    decoder, found = json.JSONDecoder(), []
    for end_of_thought in _THOUGHT_ENDS:
        text = text.rpartition(end_of_thought)[2]
    start, tries = text.find("{"), 0
    while start != -1 and tries < 20:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
            found.append(value)
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    return found
