"""Reading and writing Gaussian scenes in the `.ply` layout of the INRIA 3DGS code, which most trainers and viewers use.

One vertex is a Gaussian: `x y z`, `f_dc_0..2`, `f_rest_*` (channel by channel), `opacity`, `scale_0..2`, `rot_0..3`
(w x y z), all before activation; normals and further columns are carried along. What is not changed is written back
byte for byte.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from assay.errors import InputError
from assay.geometry.splats import Splats

PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
POSITION = ("x", "y", "z")
COLOR = ("f_dc_0", "f_dc_1", "f_dc_2")
SCALE = ("scale_0", "scale_1", "scale_2")
ROTATION = ("rot_0", "rot_1", "rot_2", "rot_3")
NORMAL = ("nx", "ny", "nz")
HEADER_LIMIT = 1 << 20


@dataclass(frozen=True)
class SplatPly:
    """A splat file: its header, its rows as they lie in the file, and what follows them.

    Attributes:
        header: header lines without line ends, as read.
        rows: one structured row per Gaussian, in file order.
        rest: bytes of elements after the vertices, carried along.
    """

    header: tuple[str, ...]
    rows: np.ndarray
    rest: bytes = b""

    @property
    def splats(self) -> Splats:
        """The Gaussians as float32 tensors (copies)."""
        names = rest_names(self.rows.dtype.names or ())
        sh = torch.cat([self._columns(COLOR)[:, None], self._columns(names).reshape(len(self.rows), 3, -1).mT], 1)
        return Splats(
            means=self._columns(POSITION),
            quats=self._columns(ROTATION),
            log_scales=self._columns(SCALE),
            opacity_logit=self._columns(("opacity",))[:, 0],
            sh=sh,
        )

    def select(self, index: np.ndarray) -> SplatPly:
        """The file with the rows of an index or mask only, each byte for byte as it was."""
        return replace(self, rows=self.rows[index])

    def with_splats(self, splats: Splats) -> SplatPly:
        """The file with new parameters in the same rows; other columns stay.

        Raises:
            ValueError: another number of Gaussians or another degree than the file has.
        """
        names = rest_names(self.rows.dtype.names or ())
        if len(splats) != len(self.rows) or 3 * (splats.sh.shape[1] - 1) != len(names):
            raise ValueError(f"{len(splats)} Gaussians of degree {splats.degree} do not fit the file's rows")
        rows = self.rows.copy()
        for name, column in zip(_names(len(names)), _table(splats).T, strict=True):
            if name in (rows.dtype.names or ()):
                rows[name] = column
        return replace(self, rows=rows)

    def write(self, path: Path) -> None:
        """Write the file; the number of vertices in the header is brought up to date."""
        lines = [
            f"element vertex {len(self.rows)}" if line.split()[:2] == ["element", "vertex"] else line
            for line in self.header
        ]
        with Path(path).open("wb") as file:
            file.write(("\n".join(lines) + "\n").encode("ascii", "surrogateescape"))
            self.rows.tofile(file)
            file.write(self.rest)

    def _columns(self, names: tuple[str, ...]) -> torch.Tensor:
        table = np.empty((len(self.rows), len(names)), np.float32)
        for i, name in enumerate(names):
            table[:, i] = self.rows[name]
        return torch.from_numpy(table)


def read_splat_ply(path: Path) -> SplatPly:
    """Read a splat file.

    Raises:
        InputError: not a binary little-endian ply of Gaussians; the message names what is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a Gaussian scene (.ply)")
    with path.open("rb") as file:
        header = _read_header(file, path)
        dtype, count = _vertex_type(header, path)
        if count == 0:
            raise InputError(f"{path}: the scene is empty (element vertex 0)")
        if os.fstat(file.fileno()).st_size - file.tell() < count * dtype.itemsize:
            raise InputError(f"{path}: the file ends early; its header promises {count} Gaussians")
        rows = np.fromfile(file, dtype, count)
        rest = file.read()
    found = dtype.names or ()
    missing = [n for n in (*POSITION, *COLOR, "opacity", *SCALE, *ROTATION) if n not in found]
    if missing:
        hint = " (a compressed ply; export it uncompressed)" if "packed_position" in found else ""
        raise InputError(f"{path}: not a Gaussian splat file, property {missing[0]} is missing{hint}")
    if len(rest_names(found)) not in (0, 9, 24, 45):
        given = len(rest_names(found))
        raise InputError(f"{path}: {given} f_rest properties; expected 0, 9, 24 or 45 (degree 0 to 3)")
    return SplatPly(tuple(header), rows, rest)


def splat_ply(splats: Splats) -> SplatPly:
    """A new file of Gaussians in the INRIA layout, with normals of zero."""
    names = _names(3 * (splats.sh.shape[1] - 1), normals=True)
    dtype = np.dtype([(name, "<f4") for name in names])
    rows = np.zeros(len(splats), dtype)
    for name, column in zip((n for n in names if n not in NORMAL), _table(splats).T, strict=True):
        rows[name] = column
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splats)}"]
    return SplatPly((*header, *(f"property float {name}" for name in names), "end_header"), rows)


def write_splat_ply(splats: Splats, path: Path) -> None:
    """Write Gaussians in the INRIA layout (float32)."""
    splat_ply(splats).write(path)


def rest_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The `f_rest_*` among column names, by number."""
    numbers = sorted(int(n[7:]) for n in names if n.startswith("f_rest_") and n[7:].isdigit())
    return tuple(f"f_rest_{i}" for i in numbers)


def _names(rest: int, normals: bool = False) -> tuple[str, ...]:
    between = NORMAL if normals else ()
    return (*POSITION, *between, *COLOR, *(f"f_rest_{i}" for i in range(rest)), "opacity", *SCALE, *ROTATION)


def _table(splats: Splats) -> np.ndarray:
    """All parameters in file order without normals, `(N, 14 + rest)` float32."""
    s = splats.detach().to(device="cpu", dtype=torch.float32)
    higher = s.sh[:, 1:].mT.reshape(len(s), -1)
    return torch.cat([s.means, s.sh[:, 0], higher, s.opacity_logit[:, None], s.log_scales, s.quats], 1).numpy()


def _read_header(file, path: Path) -> list[str]:
    lines: list[str] = []
    while not lines or lines[-1] != "end_header":
        line = file.readline(4096)
        if not line.endswith(b"\n") or file.tell() > HEADER_LIMIT or (not lines and line.strip() != b"ply"):
            raise InputError(f"{path}: not a ply file (no header from 'ply' to 'end_header')")
        lines.append(line.rstrip(b"\r\n").decode("ascii", "surrogateescape"))
    return lines


def _vertex_type(header: list[str], path: Path) -> tuple[np.dtype, int]:
    formats = [line.split()[1:2] for line in header if line.startswith("format ")]
    if formats != [["binary_little_endian"]]:
        given = formats[0][0] if formats and formats[0] else "none"
        raise InputError(f"{path}: ply format {given}; expected binary_little_endian")
    elements = [i for i, line in enumerate(header) if line.startswith("element ")]
    words = header[elements[0]].split() if elements else []
    if len(words) != 3 or words[1] != "vertex" or not words[2].isdigit():
        raise InputError(
            f"{path}: the first element of the ply is {' '.join(words[1:2]) or 'missing'}; expected vertex"
        )
    stop = elements[1] if len(elements) > 1 else len(header)
    columns: list[tuple[str, str]] = []
    for line in header[elements[0] + 1 : stop]:
        words = line.split()
        if words[:1] != ["property"]:
            continue
        if len(words) != 3 or words[1] not in PLY_TYPES or words[2] in dict(columns):
            raise InputError(f"{path}: cannot read the vertex property {' '.join(words[1:])!r}")
        columns.append((words[2], "<" + PLY_TYPES[words[1]]))
    return np.dtype(columns), int(header[elements[0]].split()[2])
