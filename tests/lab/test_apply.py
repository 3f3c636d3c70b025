"""`apply` on the command line: its options come from the signature, its output comes whole or not at all."""

import pytest

from assay.lab.apply import parse_docstring, staged


def test_help_is_made_from_signature_and_docstring(toy):
    text = toy.cli("apply", toy.paper, "--help").stdout
    assert "Scale numbers." in text
    assert "a text file, one number a line." in text
    for option in ("--out", "--scale", "--names", "--strict"):
        assert option in text
    assert "2.0" in text


def test_options_and_siblings(toy, tmp_path):
    (tmp_path / "in.txt").write_text("1 2 3")
    out = tmp_path / "deep" / "er" / "out.txt"
    done = toy.cli("apply", toy.paper, tmp_path / "in.txt", "--scale", 3, "--names", "a", "--names", "b", "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.read_text() == "3.0 6.0 9.0"
    assert out.with_name("beside.txt").read_text() == "beside"
    assert sorted(p.name for p in out.parent.iterdir()) == ["beside.txt", "out.txt"]
    assert "count: 3" in done.stdout
    assert "['a', 'b']" in done.stdout


def test_bad_input_leaves_nothing_half_written(toy, tmp_path):
    (tmp_path / "in.txt").write_text("")
    old = tmp_path / "out.txt"
    old.write_text("before")
    done = toy.cli("apply", toy.paper, tmp_path / "in.txt", "--strict", "--out", old)
    assert done.returncode == 2
    assert "holds no number" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert old.read_text() == "before"
    fresh = tmp_path / "new" / "folder" / "out.txt"
    assert toy.cli("apply", toy.paper, tmp_path / "in.txt", "--strict", "--out", fresh).returncode == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["in.txt", "--nonsense"], ["in.txt", "--scale", "many"], ["missing.txt"], ["in.txt", "more.txt"]]
)
def test_wrong_arguments_are_one_line(toy, tmp_path, arguments):
    (tmp_path / "in.txt").write_text("1")
    done = toy.cli("apply", toy.paper, *[tmp_path / a if a.endswith(".txt") else a for a in arguments])
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_folder_is_merged_into_one_that_is_there(tmp_path):
    out = tmp_path / "result"
    out.mkdir()
    (out / "kept.txt").write_text("kept")
    (out / "replaced.txt").write_text("old")
    with staged(out) as stage:
        stage.mkdir()
        (stage / "replaced.txt").write_text("new")
    assert {p.name: p.read_text() for p in out.iterdir()} == {"kept.txt": "kept", "replaced.txt": "new"}


def test_nothing_appears_when_the_block_raises(tmp_path):
    out = tmp_path / "result.txt"

    def half_way():
        with staged(out) as stage:
            stage.write_text("half")
            assert not out.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_way()
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "assay-home"])


def test_docstring_sections():
    summary, described = parse_docstring(
        "Do it.\n\nMore.\n\nArgs:\n    a: first\n        line\n    b_c (int): second\n\nReturns:\n    x: no"
    )
    assert summary == "Do it.\n\nMore."
    assert described == {"a": "first line", "b_c": "second"}
