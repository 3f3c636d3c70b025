"""The local arXiv server, for every test here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("arxiv_server", Path(__file__).with_name("arxiv_server.py"))
arxiv_server = sys.modules["arxiv_server"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(arxiv_server)


@pytest.fixture
def arxiv(monkeypatch):
    """A running server without papers; Assay asks it instead of arXiv."""
    with arxiv_server.serve([]) as running:
        for name, path in (("API", "/api/query"), ("RSS", "/rss"), ("OAI", "/oai")):
            monkeypatch.setenv(f"ASSAY_ARXIV_{name}", running.url + path)
        yield running
