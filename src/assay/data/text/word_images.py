"""Labelled pictures of words as recognition trainers keep them: a folder with `gt.txt`, or an LMDB.

| form | content |
|---|---|
| folder | pictures and `gt.txt`: path relative to it, a tab, the text, in UTF-8 |
| LMDB | keys `num-samples`, `image-%09d` (encoded picture) and `label-%09d` (UTF-8 text), counted from 1 |
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assay.errors import InputError, require

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


def read_gt(file: Path) -> list[tuple[Path, str]]:
    """Pictures and texts named by a `gt.txt` (path, tab, text).

    Raises:
        InputError: unreadable file, a line without a tab, a path out of the file's folder, or a missing picture.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 lines of path, tab, text ({error})") from error
    root = file.parent.resolve()
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, text = line.partition("\t")
        picture = (file.parent / name).resolve()
        if not tab or not text:
            raise InputError(f"{file}, line {number}: expected a path, a tab and the text, got {line[:60]!r}")
        if not picture.is_relative_to(root):
            raise InputError(f"{file}, line {number}: {name} lies outside of {file.parent}")
        if not picture.is_file():
            raise InputError(f"{file}, line {number}: there is no picture {name}")
        rows.append((file.parent / name, text))
    if not rows:
        raise InputError(f"{file}: no lines of path, tab, text in it")
    return rows


def list_pictures(folder: Path) -> list[Path]:
    """Pictures below a folder, sorted; hidden files are skipped, as are links that lead out of it.

    Raises:
        InputError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with pictures of words")
    root = folder.resolve()
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.resolve().is_relative_to(root)
    ]
    if not found:
        raise InputError(f"{folder}: no pictures in it; expected {', '.join(SUFFIXES)}")
    return found


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB (H, W, 3); transparency is laid over white.

    Raises:
        InputError: not a picture that Pillow reads, or of more pixels than it takes for safe.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return _rgb(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a picture that can be read ({error})") from error


def _rgb(picture: object) -> NDArray[np.uint8]:
    from PIL import Image

    assert isinstance(picture, Image.Image)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    elif picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        picture = Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))
    return np.asarray(picture.convert("RGB"))


class WordLmdb:
    """Writes an LMDB of word pictures, sample by sample; use as a context manager.

    Args:
        path: folder of the LMDB; made where it is missing.
        most_bytes: size the LMDB may grow to; it takes only what it holds.
        extra: the extra of Assay that the message names when lmdb is missing.
    """

    def __init__(self, path: Path, most_bytes: int = 1 << 40, extra: str = "detection") -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._env = require("lmdb", extra).open(str(path), map_size=most_bytes)
        self._waiting: list[tuple[bytes, bytes]] = []
        self.count = 0

    def add(self, picture: bytes, text: str) -> None:
        """One encoded picture (PNG or JPEG) and its text."""
        self.count += 1
        self._waiting += [(b"image-%09d" % self.count, picture), (b"label-%09d" % self.count, text.encode())]
        if len(self._waiting) >= 2000:
            self._flush()

    def _flush(self) -> None:
        with self._env.begin(write=True) as transaction:
            for key, value in self._waiting:
                transaction.put(key, value)
        self._waiting.clear()

    def __enter__(self) -> WordLmdb:
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.append((b"num-samples", str(self.count).encode()))
        self._flush()
        self._env.close()


def read_lmdb(path: Path, extra: str = "detection") -> Iterator[tuple[NDArray[np.uint8], str]]:
    """Pictures (H, W, 3) and texts of an LMDB of word pictures, in order.

    Raises:
        InputError: no LMDB, no `num-samples` in it, or a sample that is missing or cannot be read.
    """
    from PIL import Image

    lmdb = require("lmdb", extra)
    if not (path / "data.mdb").is_file():
        raise InputError(f"{path}: no LMDB folder (data.mdb is missing)")
    try:
        env = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise InputError(f"{path}: not an LMDB ({error})") from error
    with env, env.begin() as transaction:
        count = transaction.get(b"num-samples")
        if count is None or not count.isdigit():
            raise InputError(f"{path}: no key num-samples; expected an LMDB of a text recognition set")
        for number in range(1, int(count) + 1):
            picture, text = transaction.get(b"image-%09d" % number), transaction.get(b"label-%09d" % number)
            if picture is None or text is None:
                raise InputError(f"{path}: sample {number} of {int(count)} is missing")
            try:
                with Image.open(io.BytesIO(picture)) as opened:
                    yield _rgb(opened), text.decode()
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise InputError(f"{path}: sample {number} is not a picture with a UTF-8 text ({error})") from error


def write_gt(file: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Lines of path, tab, text."""
    file.write_text("".join(f"{name}\t{text}\n" for name, text in rows), encoding="utf-8")


def reader_input(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A word picture as readers take it: grey (height, width) uint8, the ratio kept where there is room.

    A picture more than one and a half times as high as wide is first turned by 90 degrees counter-clockwise. It is
    brought to the height, and to `used_width`; what remains on the right has its mean grey.
    """
    from PIL import Image

    picture = Image.fromarray(image).convert("L")
    if picture.height > 1.5 * picture.width:
        picture = picture.transpose(Image.Transpose.ROTATE_90)
    used = used_width(picture.height, picture.width, height, width)
    small = np.asarray(picture.resize((used, height), Image.Resampling.BILINEAR))
    found = np.full((height, width), round(float(small.mean())), dtype=np.uint8)
    found[:, :used] = small
    return found


def used_width(high: int, wide: int, height: int, width: int) -> int:
    """Columns that a picture of high x wide pixels takes in a reader's input of height x width."""
    return int(np.clip(round(wide * height / high), 1, width))
