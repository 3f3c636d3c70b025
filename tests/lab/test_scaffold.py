"""`assay new`: stubs that pass smoke at once, in a checkout or as a package of their own."""

import json
import os
import subprocess
import sys

import pytest

from assay.errors import InputError
from assay.lab import scaffold

ARGUMENTS = ("2603.01234", "generation", "my_method")


def test_a_package_of_ones_own_installs_and_runs(tmp_path):
    paths = scaffold.write_stubs(*ARGUMENTS, title='A "quoted" title', out=tmp_path / "mine")
    assert all(path.is_file() for path in paths)
    site = tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        tmp_path / "mine",
    ]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-m", "assay.cli", "run", "arXiv:2603.01234", "--scale", "smoke", "--json"],
        env=env, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    [report] = json.loads(done.stdout)
    assert report["failed"] == 0
    assert [verdict["outcome"] for verdict in report["verdicts"]] == ["inconclusive"]
    shown = subprocess.run(
        [sys.executable, "-m", "assay.cli", "show", "2603.01234"], env=env, capture_output=True, text=True, check=True
    )
    assert "A 'quoted' title" in shown.stdout
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "mine/tests"],
        env=env, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout


def test_into_a_checkout(tmp_path, monkeypatch):
    cards = tmp_path / "src/assay/papers/cards"
    cards.mkdir(parents=True)
    (cards / "generation.toml").write_text("")
    monkeypatch.setattr(scaffold, "checkout_folder", lambda: tmp_path)
    paths = scaffold.write_stubs(*ARGUMENTS)
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == {
        "src/assay/methods/generation/my_method.py",
        "src/assay/studies/generation/my_method.py",
        "tests/methods/generation/test_my_method.py",
        "src/assay/papers/cards/generation.toml",
    }
    for path in paths[:3]:
        compile(path.read_text(), str(path), "exec")
    with pytest.raises(InputError, match="is there already"):
        scaffold.write_stubs(*ARGUMENTS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("not an id", "generation", "x"), "not an arXiv id"),
        (("2603.01234", "vision", "x"), "unknown area"),
        (("2603.01234", "generation", "../x"), "not a module name"),
        (("2602.06830", "shape", "x"), "in the catalogue already"),
    ],
)
def test_bad_names(tmp_path, arguments, words):
    with pytest.raises(InputError, match=words):
        scaffold.write_stubs(*arguments, out=tmp_path / "x")
    assert not (tmp_path / "x").exists()
