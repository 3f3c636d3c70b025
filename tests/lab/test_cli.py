"""Reading from the command line."""

import json
import subprocess
import sys

import pytest


def assay(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "assay.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_list_filters(toy):
    everything = toy.json("list")
    assert len(everything) == 118
    assert [row["id"] for row in toy.json("list", "--search", "gaussianpop")] == ["2602.06830"]
    areas = {row["area"] for row in toy.json("list", "--area", "shape")}
    assert areas == {"shape"}
    assert all(not row["runs"] for row in toy.json("list", "--planned"))
    assert toy.paper in toy.cli("list", "--runs").stdout


@pytest.mark.parametrize(
    "name",
    ["2602.06830", "arXiv:2602.06830v2", "ARXIV: 2602.06830", "https://arxiv.org/abs/2602.06830v1", "http://arxiv.org/pdf/2602.06830.pdf",
     "arxiv.org/html/2602.06830", "GaussianPOP", "gaussianpop: principled"],
)  # fmt: skip
def test_papers_are_found_by_any_of_their_names(name):
    done = assay("show", name, "--json")
    assert json.loads(done.stdout)["id"] == "2602.06830"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "2602.06831"], "2602.06830 GaussianPOP"),
        (["show", "gausian pop"], "GaussianPOP"),
        (["show", "e"], "titles"),
        (["list", "--area", "vision"], "vision_language"),
        (["list", "--verdict", "good"], "supported, contradicted, inconclusive"),
        (["apply", "nothing like this"], "nearest"),
        (["verify", "2602.06122"], "no recorded evidence"),
        (["run", "2602.06122"], "planned"),
        (["run"], "name a paper"),
        (["nonsense"], "nonsense"),
        (["show"], "paper"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, words):
    done = assay(*arguments)
    assert done.returncode == 2
    assert words.casefold() in done.stderr.casefold()
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_reading_commands_do_not_import_torch():
    code = """
import sys
from assay.cli import main
sys.argv = ["assay", *{!r}]
try:
    main()
except SystemExit:
    pass
assert not {{"torch", "scipy", "matplotlib"}} & sys.modules.keys(), "heavy import"
"""
    for arguments in (["--help"], ["list"], ["show", "2602.06830"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_show_says_what_is_second_hand(toy):
    assert "(second-hand figure)" in toy.cli("show", toy.paper).stdout


def test_report_is_self_contained_and_escaped(toy, tmp_path):
    toy.cli("run", toy.paper)
    out = tmp_path / "report"
    assert toy.cli("report", toy.paper, "--out", out).returncode == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "figure.png", "figure.svg", "report.html", "trials.csv", "verdicts.md", "verdicts.tex",
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert 'src="http' not in page
    assert "data:image/png;base64," in page
    assert len((out / "trials.csv").read_text().splitlines()) == 25
    assert (out / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert "\\toprule" in (out / "verdicts.tex").read_text()


def test_report_without_evidence_says_how_to_make_it(toy):
    done = toy.cli("report", toy.paper)
    assert done.returncode == 2
    assert f"assay run {toy.paper}" in done.stderr


@pytest.mark.parametrize("hook", ["def trial(arm, condition, seed, shared):", "def prepare(seed, scale):"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_missing_extra_is_named_when_a_hook_first_asks_for_it(toy, hook, jobs):
    path = toy.root / "assay_toy/study.py"
    path.write_text(path.read_text().replace(hook, f"{hook}\n    import no_such_library"))
    done = toy.cli("run", toy.paper, "--jobs", jobs)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("assay: no_such_library is not installed; install what")


def test_a_missing_extra_is_named(toy):
    (toy.root / "assay_toy/study.py").write_text("import no_such_library\n")
    done = toy.cli("run", toy.paper)
    assert done.returncode == 2
    assert "no_such_library is not installed" in done.stderr
    assert "pip install 'assay[labels]'" in done.stderr
