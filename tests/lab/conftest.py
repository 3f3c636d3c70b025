"""A plug-in package with a toy study, found through its entry point."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from joblib.externals.loky import get_reusable_executor

from assay.lab import code
from assay.papers import catalogue

PAPER = "2603.00001"

METHOD = '''
"""A toy method."""


def gain():
    return 1.0
'''

STUDY = '''
"""A toy study: the method adds `gain` to noise."""

import os
import time
from pathlib import Path

import numpy as np
from assay_toy.method import gain

from assay.lab import Better, Same, Study

study = Study(
    paper="2603.00001",
    arms={"baseline": "noise", "method": "noise and a gain", "copy": "noise again"},
    claims=[
        Better("score", method="method", baseline="baseline", paper="1.0"),
        Same("score", method="copy", baseline="baseline", margin=0.1, expected="supported"),
    ],
    conditions=("easy", "hard"),
    metrics={"score": "score (points)"},
    seeds=4,
    tolerances={"seconds": None},
)


@study.prepare
def prepare(seed, scale):
    return {"noise": np.random.default_rng(seed).normal(size=3), "global": float(np.random.rand())}


@study.trial
def trial(arm, condition, seed, shared):
    with open(os.environ.get("TOY_LOG", os.devnull), "a") as log:
        log.write(f"{arm} {condition} {seed}\\n")
    wanted = os.environ.get("TOY_BAD", "")
    if wanted and wanted.split(":")[1:] == [arm, condition, str(seed)]:
        kind = wanted.split(":")[0]
        if kind == "raise":
            raise RuntimeError("the toy broke")
        if kind == "hang":
            while True:
                time.sleep(0.01)
        if kind == "die":
            os._exit(9)
    time.sleep(float(os.environ.get("TOY_SLEEP", 0)))
    hard = 0.5 if condition == "hard" else 1.0
    jitter = 0.01 * np.random.rand()
    score = shared["noise"][0] + (gain() * hard + jitter if arm == "method" else 0.0)
    return {"score": score, "curve": shared["noise"], "global": shared["global"], "seconds": time.perf_counter()}


@study.figure
def figure(evidence):
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots()
    for arm in evidence.arms:
        axes.plot(evidence.seeds, evidence.values("score", arm), label=arm)
    return drawing


@study.apply
def apply(
    numbers: Path, out: Path = Path("out.txt"), scale: float = 2.0, names: list[str] | None = None, strict: bool = False
):
    """Scale numbers.

    A second paragraph.

    Args:
        numbers: a text file, one number
            a line.
        scale: factor.
        names: may be given several times.
    """
    values = [float(line) for line in numbers.read_text().split()]
    out.parent.joinpath("beside.txt").write_text("beside")
    out.write_text("half")
    if strict and not values:
        raise ValueError(f"{numbers} holds no number")
    out.write_text(" ".join(str(scale * value) for value in values))
    return {"count": len(values), "names": names}
'''

CARD = f'''
[[paper]]
area = "labels"
id = "{PAPER}"
title = "A toy <script>alert(1)</script> paper"
authors = ["A. Uthor"]
month = "2026-03"
file = "toy"
idea = "Adding a gain makes the score larger."
claims = [{{ text = "The score grows by one point.", figure = "1.0", source = "second-hand" }}]
[paper.links]
abs = "https://arxiv.org/abs/{PAPER}"
pdf = "https://arxiv.org/pdf/{PAPER}"
'''


@dataclass
class Toy:
    """The toy package on disk, and the command line with it in sight."""

    root: Path
    env: dict[str, str]
    paper: str = PAPER

    def cli(self, *arguments, **env):
        """Run `assay` in a process of its own."""
        command = [sys.executable, "-m", "assay.cli", *map(str, arguments)]
        return subprocess.run(
            command, env={**self.env, **env}, capture_output=True, text=True, timeout=300, check=False
        )

    def popen(self, *arguments, **env):
        """Start `assay` as the leader of a process group."""
        command = [sys.executable, "-m", "assay.cli", *map(str, arguments)]
        return subprocess.Popen(
            command, env={**self.env, **env}, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def json(self, *arguments, **env):
        done = self.cli(*arguments, "--json", **env)
        return json.loads(done.stdout)

    @property
    def log(self):
        """Names of the trials that were really run."""
        path = Path(self.env["TOY_LOG"])
        return path.read_text().splitlines() if path.exists() else []

    def edit_method(self, old, new):
        path = self.root / "assay_toy/method.py"
        path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def toy(tmp_path, monkeypatch, assay_home):
    root = tmp_path / "plugin"
    files = {
        "assay_toy/__init__.py": "",
        "assay_toy/method.py": METHOD,
        "assay_toy/study.py": STUDY,
        "assay_toy/card.toml": CARD,
        "assay_toy-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: assay-toy\nVersion: 1.0\n",
        "assay_toy-1.0.dist-info/entry_points.txt": f"[assay.studies]\n{PAPER} = assay_toy.study\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())
    monkeypatch.syspath_prepend(str(root))
    for name in ("TOY_BAD", "TOY_SLEEP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "toy.log"))
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("ASSAY_EVIDENCE", str(tmp_path / "evidence"))
    _forget()
    yield Toy(root, dict(os.environ))
    _forget()
    for name in [name for name in sys.modules if name.split(".")[0] == "assay_toy"]:
        del sys.modules[name]


def _forget():
    """Drop what this process and its reusable workers remember of another test's package."""
    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    for cached in (catalogue.plugins, catalogue.cards, catalogue._read, code._root_of):
        cached.cache_clear()
