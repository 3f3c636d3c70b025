"""The pages: how many a second from a warm server to eight clients at once, and what 20,000 requests add to its memory.

python -m benchmarks web
ASSAY_BENCH_REQUESTS=2000 python -m benchmarks web      # fewer, for a quick look
"""

from __future__ import annotations

import http.client
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks._measure import row

CLIENTS = 8
SECONDS = 10.0
REQUESTS = int(os.environ.get("ASSAY_BENCH_REQUESTS", "20000"))
PAPERS = 2_000
PER_DAY = 100
SETTLED = 0.25
"""After this share of the requests, the cache is full and memory must no longer grow."""


def rows() -> list[dict[str, Any]]:
    """One row a figure: what, value, unit, limit, ok."""
    with tempfile.TemporaryDirectory() as folder:
        days = _fill(Path(folder))
        process, port = _serve(Path(folder))
        try:
            rate = _rate(port, ["/", "/overview/", "/claims/", "/trends/", *(f"/day/{day}/" for day in days[:4])])
            growth = _growth(process.pid, port, days)
        finally:
            process.terminate()
            process.wait(20)
    varied = f"memory of the server over {REQUESTS} varied requests, once its cache is full: growth"
    return [
        row(f"warm pages to {CLIENTS} clients at once, one server process", rate, "pages/s", at_least=200),
        row(varied, growth, "MiB", at_most=16),
    ]


def _fill(home: Path) -> list[str]:
    """Generated digests; returns their days."""
    import numpy as np

    from assay.papers.digests import detect
    from assay.papers.digests.store import Store
    from benchmarks.digests import date, digest_text, timedelta

    rng = np.random.default_rng(0)
    days = []
    with Store(home / "digests.sqlite") as store:
        for place in range(0, PAPERS, PER_DAY):
            day = date(2026, 1, 1) + timedelta(days=place // PER_DAY)
            text = digest_text(rng, place, PER_DAY, day)
            store.add(detect.read(text.encode(), f"{day}.md"))
        return [day for day, _ in store.days()] or days


def _serve(home: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "assay.cli", "serve", "--port", "0"],
        env={**os.environ, "ASSAY_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r":(\d+)/", process.stdout.readline())
    if not found:
        raise RuntimeError("the server did not start")
    return process, int(found[1])


def _rate(port: int, paths: list[str]) -> float:
    """Pages a second of clients that keep their connections."""
    for path in paths:
        _get(http.client.HTTPConnection("127.0.0.1", port, timeout=60), path)
    done = [0] * CLIENTS
    end = time.perf_counter() + SECONDS

    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.perf_counter() < end:
            _get(connection, paths[(client + done[client]) % len(paths)])
            done[client] += 1

    start = time.perf_counter()
    _together(ask)
    return sum(done) / (time.perf_counter() - start)


def _growth(pid: int, port: int, days: list[str]) -> float:
    """MiB by which the server's memory is larger after all requests than after the first quarter of them."""
    first = int(REQUESTS * SETTLED)
    _ask_all(port, list(_varied(days, 0, first)))
    before = _memory(pid)
    _ask_all(port, list(_varied(days, first, REQUESTS)))
    return _memory(pid) - before


def _varied(days: list[str], first: int, last: int) -> Iterator[str]:
    """Requests as people and robots make them: pages, searches nobody made before, fragments, and what is not there."""
    from benchmarks.digests import VOCABULARY

    for number in range(first, last):
        chance = random.Random(number)
        word = VOCABULARY[chance.randrange(40, 3_000)]
        yield chance.choice(
            [
                "/",
                f"/day/{chance.choice(days)}/{chance.randrange(2, 6)}/",
                f"/zh/day/{chance.choice(days)}/",
                f"/paper/26{chance.randrange(1, 13):02d}.{10000 + chance.randrange(PAPERS)}/",
                f"/search/?q={quote(word)}",
                f"/search/?q={quote(word)}&category=cs.CV&page={chance.randrange(1, 4)}",
                f"/fragment?q={quote(word[:4])}",
                f"/nothing/{number}/",
            ]
        )


def _ask_all(port: int, paths: list[str]) -> None:
    def ask(client: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for path in paths[client::CLIENTS]:
            _get(connection, path)

    _together(ask)


def _get(connection: http.client.HTTPConnection, path: str) -> None:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    if answer.status not in {200, 404}:
        raise RuntimeError(f"{path}: {answer.status}")


def _together(work: Any) -> None:
    errors: list[BaseException] = []

    def guarded(client: int) -> None:
        try:
            work(client)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _memory(pid: int) -> float:
    """Resident memory of a process in MiB."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
