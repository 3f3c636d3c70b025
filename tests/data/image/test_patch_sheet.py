"""Sheets of patches: what stands in them is escaped, and the pictures are those given."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from assay.data.image.patch_sheet import write_patch_sheet


def test_pictures_and_words(tmp_path):
    ramp = np.linspace(0.2, 0.6, 12).reshape(3, 4)
    write_patch_sheet(
        tmp_path / "s.html", "A <b>", "note & more", ("left", "right"), [("<script>", (ramp, ramp[:, ::-1]))]
    )
    text = (tmp_path / "s.html").read_text()
    assert "<script>" not in text
    assert "A &lt;b&gt;" in text
    assert "note &amp; more" in text
    pictures = [Image.open(io.BytesIO(base64.b64decode(b))) for b in re.findall(r"base64,([^\"]+)", text)]
    stretched = ((ramp - 0.2) / 0.4 * 255).round().astype(np.uint8)
    assert np.array_equal(np.asarray(pictures[0]), stretched)
    assert np.array_equal(np.asarray(pictures[1]), stretched[:, ::-1])
    with pytest.raises(ValueError):
        write_patch_sheet(tmp_path / "s.html", "", "", ("left",), [("", (ramp, ramp))])
