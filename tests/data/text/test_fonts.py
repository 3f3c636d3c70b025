"""Finding font files."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL")

from assay.data.text import fonts
from assay.errors import InputError


def test_bundled_faces_are_text_faces_that_freetype_reads() -> None:
    found = fonts.bundled()
    assert {"DejaVuSans", "STIXGeneral", "cmr10"} <= set(found)
    assert not {"LastResortHE-Regular", "cmsy10", "cmex10", "STIXSizOneSymReg"} & set(found)
    assert fonts.unreadable(found["cmr10"].read_bytes()) is None


def test_font_packages_are_found_by_what_they_announce() -> None:
    found = fonts.installed(["font-caladea"])
    if not found:
        pytest.skip("font-caladea is not installed")
    assert set(found) == {"Caladea-Regular", "Caladea-Bold", "Caladea-Italic", "Caladea-BoldItalic"}
    assert set(found) <= set(fonts.installed())
    assert fonts.installed(["no-such-package"]) == {}


def test_a_users_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    data = fonts.bundled()["cmr10"].read_bytes()
    (tmp_path / "sub" / "name with blank é.TTF").write_bytes(data)
    (tmp_path / "broken.otf").write_bytes(b"not a font")
    found, refused = fonts.read_folder(tmp_path)
    assert found == {"sub/name with blank é.TTF": data}
    assert list(refused) == ["broken.otf"]
    assert "FreeType" in refused["broken.otf"]


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "out.ttf").symlink_to(fonts.bundled()["cmr10"])
    with pytest.raises(InputError, match="leads out"):
        fonts.read_folder(tmp_path / "in")


def test_folders_without_fonts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        fonts.read_folder(tmp_path / "none")
    with pytest.raises(InputError, match="no readable font"):
        fonts.read_folder(tmp_path)
