"""Patches side by side, one row a point, as one .html file without outside parts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2rem;max-width:60rem}table{border-collapse:collapse}"
    "td,th{padding:.3rem .8rem;text-align:left}img{width:105px;height:105px;image-rendering:pixelated}"
    "tr+tr{border-top:1px solid #ddd}"
)


def write_patch_sheet(
    path: Path, title: str, note: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[NDArray]]]
) -> None:
    """Write a sheet.

    Args:
        path: the .html file.
        title, note: heading and one sentence under it.
        columns: heading of each picture column.
        rows: caption and pictures of each row; a picture is grey `(h, w)` with values 0 to 1, stretched to its range.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *columns))
    body = ""
    for caption, pictures in rows:
        cells = "".join(f"<td>{_picture(picture, name)}</td>" for picture, name in zip(pictures, columns, strict=True))
        body += f"<tr><td>{escape(caption)}</td>{cells}</tr>"
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1><p>{escape(note)}</p><table><tr>{head}</tr>{body}</table></html>\n"
    )
    Path(path).write_text(text, encoding="utf-8")


def _picture(values: NDArray, alt: str) -> str:
    from PIL import Image

    low, high = float(values.min()), float(values.max())
    grey = ((values - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
