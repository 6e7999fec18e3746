"""Joining foreign names under a folder of ours, so that no name leads out of it. Touches no file's content."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from lib.errors import UnsafeInput

MAX_NAME_BYTES = 255
"""Longest single name that common file systems take."""


def check_name(name: str, *, field: str = "") -> str:
    """Return ``name`` if it is one plain file name: no separator, no ``..``, nothing that can't be printed.

    Raises: UnsafeInput, naming ``field`` (where the name came from).
    """
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise _unsafe(name, field=field, expected="a plain file name without path separators")
    if not name.isprintable():
        raise _unsafe(name, field=field, expected="printable characters")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise _unsafe(name, field=field, expected=f"at most {MAX_NAME_BYTES} bytes")
    return name


def safe_join(root: Path, *parts: str, field: str = "", allow_symlinks: bool = False) -> Path:
    """Join ``parts`` (relative, ``/`` allowed inside) under ``root`` and return the path; it need not exist.

    A part that is absolute, has a drive, NUL or ``..``, or (unless ``allow_symlinks``) a link on the way that leads
    out of ``root``, is refused. Empty parts count as nothing; the result may be ``root`` itself.

    Raises: UnsafeInput.
    """
    for part in parts:
        _check_part(part, field=field)
    path = root.joinpath(*(piece for part in parts for piece in part.replace("\\", "/").split("/")))
    if not allow_symlinks and not _inside(path, root):
        raise _unsafe("/".join(parts), field=field, expected="a path that stays inside its folder")
    return path


def _check_part(part: str, *, field: str) -> None:
    pure = PurePosixPath(part.replace("\\", "/"))
    if "\0" in part or pure.is_absolute() or PureWindowsPath(part).drive or ".." in pure.parts:
        raise _unsafe(part, field=field, expected="a relative path without '..'")


def _inside(path: Path, root: Path) -> bool:
    try:
        real, base = os.path.realpath(path), os.path.realpath(root)
    except OSError as error:  # a name too long, a loop of links
        raise UnsafeInput(f"the path can't be resolved: {error.strerror}") from error
    return os.path.commonpath((real, base)) == base


def _unsafe(name: str, *, field: str, expected: str) -> UnsafeInput:
    where = f"{field}: " if field else ""
    details = {"reason": "unsafe_path", "expected": expected} | ({"field": field} if field else {})
    return UnsafeInput(f"{where}{name[:80]!r} is not a safe path; expected {expected}", details=details)
