"""A home with digests, some of them hostile, and published evidence of two papers."""

from __future__ import annotations

import shutil

import pytest

from assay.lab import record
from assay.papers.digests.entry import Digest, Entry
from assay.papers.digests.store import Store
from assay.web.library import Library
from assay.web.pages import Site

SUPPORTED, CONTRADICTED = "2602.06674", "2602.06830"
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)></p><h1>\"'>"
BIDI = "\u202egnp.exe\u2066"
HOSTILE = Entry(
    id="2602.09999",
    title=f"{SCRIPT} hostile title {BIDI}",
    title_zh=f"标题 {SCRIPT}",
    authors=(SCRIPT, f"Eve {BIDI}", *(f"Author {n}" for n in range(3000))),
    categories=("cs.CV", '"><script>alert(3)</script>', "../../etc"),
    abstract=f"{SCRIPT} " + "x" * 1_000_000,
    abstract_zh=SCRIPT * 2000,
    tldr=f"{SCRIPT} & &amp; <a href='javascript:alert(4)'>",
    motivation='"' * 50_000,
    method="<" * 50_000,
    result="\x00\x07 &" * 1000,
    conclusion=SCRIPT,
    summary_language="en",
    summary_by=SCRIPT,
    comment=SCRIPT,
)
ODD = [
    Entry(id="hep-th/9901001", title="An old identifier", abstract="strings on a worldsheet", date="1999-01-02"),
    Entry(doi="10.1/a b?c#d/../e%2f..", title="An odd DOI", links={"abs": "javascript:alert(5)"}, abstract="odd"),
    Entry(doi="10.1/" + "y" * 400, title="A very long DOI", abstract="odd", links={"pdf": "https://example.org/a.pdf"}),
    Entry(title="No identifier at all", abstract="odd", links={"code": 'https://example.org/"onclick="x'}),
]
DAY = "2026-02-05"


def plain(number: int, day: str = DAY) -> Entry:
    """An ordinary entry with an abstract of ordinary, that is full, length."""
    return Entry(
        id=f"2602.{number:05d}",
        title=f"Diffusion models for segmentation of images, part {number}",
        title_zh=f"用于图像分割的扩散模型 {number}",
        authors=("Ada Lovelace", f"Grace Hopper{number % 7}", "José Núñez"),
        categories=("cs.CV",) if number % 3 else ("eess.IV", "cs.CV"),
        abstract="We study how noise that is added and taken away again draws the borders of organs. " * 23,
        abstract_zh="我们研究加入再去除的噪声如何勾勒器官的边界。" * 25,
        tldr="一种用于医学图像分割的扩散模型，结果优于强基线。" * 4,
        motivation="动机" * 60,
        method="方法" * 80,
        result="结果" * 60,
        conclusion="结论" * 60,
        summary_language="zh",
        date=day,
    )


def verdict(name: str, outcome: str, estimate: float, **changes: object) -> dict[str, object]:
    """A judged claim as evidence files hold it."""
    return {
        "name": name,
        "kind": "better",
        "sentence": f"accuracy of method is higher than that of baseline ({name})",
        "metric": "accuracy",
        "method": "method",
        "outcome": outcome,
        "region": "> 0",
        "paper": "+2 points",
        "estimate": estimate,
        "low": estimate - 0.01,
        "high": estimate + 0.01,
        "p": 0.01,
        "p_holm": 0.02,
        "p_sign_flip": None,
        "n": 5,
        "n_planned": 5,
        "method_mean": 0.8 + estimate,
        "baseline_means": {"baseline": 0.8},
        "baseline": "baseline",
        "expected": None,
        "control": None,
        "reason": "",
    } | changes


def evidence(paper: str, verdicts: list[dict[str, object]], *, trials: int = 10, data: str = "real") -> record.Record:
    """A record whose code is not the code that is here: it is stale."""
    return record.Record(
        format=1,
        paper=paper,
        scale="pocket",
        data=data,
        seeds=list(range(5)),
        arms={"method": "the method", "baseline": "tuned"},
        conditions={},
        arm_conditions={},
        metrics={"accuracy": "accuracy"},
        resampled=False,
        verdicts=verdicts,
        provenance=record.Provenance(
            package="0.1",
            code="0" * 16,
            python="3.11",
            libraries={},
            system="Linux",
            cpu="cpu",
            cores=2,
            device="cpu",
            recorded="2026-02-06",
            seconds=12.0,
        ),
        trials=[
            record.TrialRecord(
                arm="method" if n % 2 else "baseline",
                seed=n // 2 % 5,
                condition="",
                seconds=1.0,
                metrics={"accuracy": 0.8 + 0.001 * n} | {f"other metric {m}": 0.1234567 * m for m in range(30)},
            )
            for n in range(trials)
        ],
    )


@pytest.fixture(scope="session")
def digests(tmp_path_factory):
    """A store with digests of four days, made once."""
    path = tmp_path_factory.mktemp("digests") / "digests.sqlite"
    with Store(path) as store:
        known = [Entry(id=SUPPORTED, title="Known here", categories=("cs.CV",), abstract="crowd labels")]
        store.add(Digest("jsonl", "one", DAY, [*map(plain, range(1, 101)), *known]))
        store.add(Digest("jsonl", "two", "2026-02-06", [HOSTILE, plain(200, "2026-02-06")]))
        store.add(Digest("jsonl", "odd", "", ODD))
    return path


@pytest.fixture
def home(assay_home, digests, tmp_path, monkeypatch):
    """A home with digests, and evidence of two papers."""
    folder = tmp_path / "evidence"
    monkeypatch.setenv("ASSAY_EVIDENCE", str(folder))
    control = verdict("N1", "supported", 0.0, kind="same", region="within ±0.02", expected="supported", control="held")
    record.write(evidence(SUPPORTED, [verdict("C1", "supported", 0.05), control]))
    record.write(
        evidence(CONTRADICTED, [verdict("C1", "contradicted", -0.2)] * 40, trials=3000, data="real and simulated")
    )
    assay_home.mkdir()
    shutil.copyfile(digests, assay_home / "digests.sqlite")
    return assay_home


@pytest.fixture
def site(home):
    return Site(Library(home / "digests.sqlite"))
