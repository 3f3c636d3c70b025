"""Answers kept on disk, found again by the content of what was asked."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from assay.llm.model import Reply


class Cache:
    """A folder of answers: one small JSON file each, named by the SHA-256 of the request.

    Several processes may share it: a file appears whole or not at all. A file that cannot be read counts as missing.
    What was asked is not stored, only its hash; a key of a server is never part of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def get(self, key: dict[str, Any]) -> Reply | None:
        """The kept reply to a request; None where there is none."""
        from assay.llm.model import Reply, Token

        try:
            kept = json.loads(self._path(key).read_text(encoding="utf-8"))
            tokens = tuple(Token(text, logprob, top) for text, logprob, top in kept["tokens"])
            return Reply(kept["text"], kept["finish"], kept["prompt_tokens"], kept["completion_tokens"], tokens)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: dict[str, Any], reply: Reply) -> None:
        """Keep a reply; a full or read-only disk loses the cache, not the answer."""
        row = {
            "text": reply.text,
            "finish": reply.finish,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "tokens": [(token.text, token.logprob, dict(token.top)) for token in reply.tokens],
        }
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(row, file)
            os.replace(name, path)
        except OSError:
            return

    def _path(self, key: dict[str, Any]) -> Path:
        canonical = json.dumps(key, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"
