"""A page of small pictures with captions, in one HTML file that needs nothing else."""

from __future__ import annotations

import html
import io
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

STYLE = """body{font:14px system-ui,sans-serif;margin:2em;color:#222}h1{font-size:1.3em}
ol{list-style:none;padding:0;display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:14px}
li{border:1px solid #ddd;border-radius:6px;padding:8px;overflow-wrap:anywhere}
img{width:100%;image-rendering:pixelated;border-radius:4px}b{font-weight:600}small{color:#666}
i{display:block;height:5px;background:#c33;border-radius:3px;margin-top:6px}"""


@dataclass(frozen=True)
class Card:
    """One picture with its text.

    Attributes:
        image: (3, H, W) in [0, 1], or None.
        title: in bold.
        lines: below it, in grey.
        bar: length of a red bar in [0, 1], such as a probability.
    """

    image: NDArray[np.float32] | None
    title: str
    lines: tuple[str, ...] = ()
    bar: float = 0.0


def write_contact_sheet(file: Path, heading: str, text: str, cards: Iterable[Card]) -> None:
    """Write the page; every text is escaped, pictures are embedded as JPEG."""
    items = []
    for card in cards:
        picture = "" if card.image is None else f'<img alt="" src="data:image/jpeg;base64,{_jpeg(card.image)}">'
        lines = "".join(f"<br><small>{html.escape(line)}</small>" for line in card.lines)
        width = 100 * min(max(card.bar, 0.0), 1.0)
        bar = f'<i style="width:{width:.0f}%"></i>'
        items.append(f"<li>{picture}<b>{html.escape(card.title)}</b>{lines}{bar}</li>")
    head = html.escape(heading)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{head}</title><style>{STYLE}</style>'
        f"<h1>{head}</h1><p>{html.escape(text)}</p><ol>{''.join(items)}</ol></html>\n"
    )
    file.write_text(page, encoding="utf-8")


def _jpeg(image: NDArray[np.float32]) -> str:
    from PIL import Image

    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=85)
    return b64encode(buffer.getvalue()).decode()
