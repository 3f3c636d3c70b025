"""Errors that the command line shows in one line, and the import of optional libraries."""

from __future__ import annotations

import importlib
from types import ModuleType


class AssayError(Exception):
    """Something the user can mend. The command line prints it in one line and exits with 2."""


class InputError(AssayError):
    """A file or option given by the user cannot be used. Says what was given and what was expected."""


class UnknownName(AssayError):
    """A name that is not one of the choices; the message lists them or the nearest ones."""


class StoreError(AssayError):
    """The evidence store or an evidence file cannot be read or written."""


class MissingExtra(AssayError):
    """A library of an optional extra is not installed. Says how to install it."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of Assay installs it.

    Args:
        module: dotted module name, such as `"SimpleITK"`.
        extra: name of the extra in pyproject.toml, such as `"geometry3d"`.

    Raises:
        MissingExtra: `module` (or a library it needs) is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) or module
        raise MissingExtra(f"{missing} is not installed; install it with: pip install 'assay[{extra}]'") from error
