"""Font files: matplotlib's own, those of PyPI font packages, and a user's folder. As bytes, which any renderer takes.

Nothing of a package is imported or run: its files are found through its metadata.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from assay.errors import InputError

SUFFIXES = (".ttf", ".otf", ".ttc")
GROUPS = ("fonts_ttf", "fonts_otf")  # entry points by which a distribution says that it carries fonts
# matplotlib's text faces; the rest of its folder are symbols, sizes of brackets and a face of last resort.
TEXT_FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmr10", "cmb10", "cmss10", "cmtt10", "cmti10")


def bundled() -> dict[str, Path]:
    """Text faces inside matplotlib: DejaVu, STIX and Computer Modern; file name without suffix -> file."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return {file.stem: file for file in sorted(folder.glob("*.ttf")) if file.stem.startswith(TEXT_FACES)}


def installed(packages: Iterable[str] | None = None) -> dict[str, Path]:
    """Font files of installed PyPI font packages (such as `font-roboto`); file name without suffix -> file.

    Of a face that comes both as .ttf and as .otf the .ttf is taken.

    Args:
        packages: distribution names to look into; None: every distribution that announces fonts.
    """
    wanted = None if packages is None else {name.lower().replace("_", "-") for name in packages}
    found: dict[str, Path] = {}
    for package in distributions():
        name = (package.metadata["Name"] or "").lower().replace("_", "-")
        if name not in wanted if wanted is not None else not _announces(package):
            continue
        for file in package.files or ():
            if file.suffix.lower() in SUFFIXES and (file.suffix.lower() != ".otf" or file.stem not in found):
                found[file.stem] = Path(str(package.locate_file(file)))
    return {name: found[name] for name in sorted(found) if found[name].is_file()}


def load(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Contents of font files by name."""
    return {name: path.read_bytes() for name, path in files.items()}


def read_folder(folder: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """A user's font files below `folder`, at any depth, and those that cannot be used with the reason.

    Names are paths relative to the folder. Links that lead out of the folder are refused.

    Returns:
        fonts by name, reasons by name.

    Raises:
        InputError: no such folder, or no readable font in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with .ttf, .otf or .ttc files")
    fonts: dict[str, bytes] = {}
    refused: dict[str, str] = {}
    root = folder.resolve()
    for file in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES):
        name = file.relative_to(folder).as_posix()
        if not file.resolve().is_relative_to(root):
            refused[name] = "a link that leads out of the folder"
            continue
        try:
            data = file.read_bytes()
        except OSError as error:
            refused[name] = str(error)
            continue
        if (reason := unreadable(data)) is None:
            fonts[name] = data
        else:
            refused[name] = reason
    if not fonts:
        first = next(iter(refused.items()), None)
        raise InputError(f"{folder}: no readable font" + (f" ({first[0]}: {first[1]})" if first else " file in it"))
    return fonts, refused


def unreadable(data: bytes) -> str | None:
    """Why these bytes are no usable font, or None."""
    from PIL import ImageFont

    try:
        ImageFont.truetype(io.BytesIO(data), 16).getmask("a")
    except (OSError, ValueError) as error:
        return f"not a font that FreeType reads ({error})"
    return None


def _announces(package: Distribution) -> bool:
    return any(point.group in GROUPS for point in package.entry_points)
