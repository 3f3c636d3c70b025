"""The same study on a local two-worker Ray cluster and in local processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """`ray start --head` with two CPUs, on a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    folder = f"/tmp/ray-{os.getpid()}"  # Ray's sockets need a short path
    options = ["--head", "--num-cpus=2", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}",
               "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    subprocess.run([ray, "start", *options], check=True, capture_output=True, timeout=120)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    yield
    subprocess.run([ray, "stop", "--force"], capture_output=True, timeout=60, check=False)


def test_ray_and_local_give_identical_metrics(toy, cluster, tmp_path):
    address = {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}
    there = toy.cli("run", toy.paper, "--engine", "ray", "--jobs", 2, "--out", tmp_path / "ray", **address)
    assert there.returncode == 0, there.stderr
    here = toy.cli("run", toy.paper, "--jobs", 2, "--out", tmp_path / "local", ASSAY_HOME=str(tmp_path / "home2"))
    assert here.returncode == 0, here.stderr
    assert len(toy.log) == 48
    assert _numbers(tmp_path / "ray") == _numbers(tmp_path / "local")


def test_no_cluster_is_one_line(toy):
    done = toy.cli("run", toy.paper, "--engine", "ray", RAY_ADDRESS="")
    assert done.returncode == 2
    assert "ray start --head" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def _numbers(folder):
    rows = [line.split(",") for line in (folder / "trials.csv").read_text().splitlines()]
    drop = [i for i, name in enumerate(rows[0]) if name == "seconds"]
    return sorted([cell for i, cell in enumerate(row) if i not in drop] for row in rows)
