"""Summaries: 1,000 through a stub of a language model on loopback that takes 100 ms an answer, 16 at once.

python -m benchmarks summaries
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from benchmarks._measure import row

COUNT, LATENCY, CONCURRENCY, LIMIT = 1000, 0.1, 16, 8.0

_STUB = f"""
import json, sys, time
from assay.llm.testing import Sent, completion, serve
fields = ("tldr", "motivation", "method", "result", "conclusion")
body = completion(json.dumps({{name: "A sentence of ordinary length that says what was done." for name in fields}}))
with serve(lambda request: Sent(body, delay={LATENCY})) as stub:
    print(stub.url, flush=True)
    sys.stdin.read()
"""


def rows() -> list[dict[str, Any]]:
    """Seconds for a thousand summaries; the stub runs in a process of its own, as a server does."""
    from assay.llm.client import Client
    from assay.papers.digests.entry import Entry
    from assay.papers.summaries import summarise

    abstract = "Scenes are hard. We propose a method. It gains four points. Code is available. " * 4
    entries = [Entry(id=f"2602.{i:05d}", title=f"Paper {i}", abstract=abstract) for i in range(COUNT)]
    server = subprocess.Popen([sys.executable, "-c", _STUB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        client = Client(server.stdout.readline().strip(), "stub", concurrency=CONCURRENCY)
        summarise(entries[:CONCURRENCY], client)
        start = time.perf_counter()
        made, report = summarise(entries, client)
        seconds = time.perf_counter() - start
    finally:
        server.stdin.close()
        server.wait()
    if len(made) != COUNT or report.by_model != COUNT:
        raise RuntimeError(f"{report.by_model} of {COUNT} summaries came from the stub: {report.reasons}")
    start = time.perf_counter()
    summarise(entries)
    extractive = time.perf_counter() - start
    what = f"{COUNT} summaries, stub with {1000 * LATENCY:.0f} ms, {CONCURRENCY} at once"
    return [
        row(what, seconds, "s", at_most=LIMIT),
        row(f"{COUNT} extractive summaries", extractive, "s"),
    ]
