"""The source a study's trials depend on, and its content hash."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# What declares, runs and judges a study does not change what its trials compute.
_OUTSIDE = ("assay.lab", "assay.errors", "assay.papers", "assay.web", "assay.cli")
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]+)|import[ \t]+([\w., \t]+))", re.MULTILINE
)


def code_hash(module: str) -> str:
    """Hash of the source of a study and of every module of this package that it imports, directly or not.

    The lab itself is left out: a change in how trials are stored or judged does not make them another trial.
    """
    return hash_of(code_files(module))


def code_files(module: str) -> dict[str, Path]:
    """Module name -> file, for a study and what it imports from its own package and from `assay`, sorted by name."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name == "assay" or name.startswith(_OUTSIDE):
            continue  # "assay" itself holds the version, which an output may carry: raising it is no other trial
        path = _file_of(name)
        if path is None:
            continue
        found[name] = path
        waiting.extend(name for name in _read(path)[1] if name.split(".")[0] in {"assay", module.split(".")[0]})
    return dict(sorted(found.items()))


def hash_of(files: dict[str, Path]) -> str:
    """Hash of named files: of names and contents, not of places or times."""
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0".encode())
        digest.update(_read(path)[0])
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def _read(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """Content of a file and the modules it imports; read again when it was written since."""
    status = path.stat()
    return _read_at(path, status.st_mtime_ns, status.st_size)


@cache
def _read_at(path: Path, _written: int, _size: int) -> tuple[bytes, tuple[str, ...]]:
    content = path.read_bytes()
    return content, tuple(dict.fromkeys(_imported(content.decode("utf-8"))))


def _imported(source: str) -> Iterator[str]:
    for base, names, plain in _IMPORT.findall(source):
        if base:
            yield base
            yield from (f"{base}.{name.split()[0]}" for name in names.strip("()").split(",") if name.split())
        else:
            yield from (name.split()[0] for name in plain.split(",") if name.split())


def _file_of(name: str) -> Path | None:
    top, *rest = name.split(".")
    root = _root_of(top)
    if root is None:
        return None
    if root.is_file():
        return root if not rest else None
    path = root.joinpath(*rest)
    if rest and path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if (path / "__init__.py").is_file() else None


@cache
def _root_of(package: str) -> Path | None:
    """Folder of a top-level package, or file of a top-level module."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin
