"""A file written anew from pieces of another one: what ``metadata`` and ``containers`` plan, done in small reads."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import BinaryIO

Span = tuple[int, int]
"""From and to (exclusive) in the file that is read."""
Piece = Span | bytes | int
"""A part of the file, bytes instead of it, or so many zero bytes."""
_STEP = 1 << 20


class Malformed(Exception):
    """A file is not built as its kind says, or cut off."""


def read_exactly(file: BinaryIO, start: int, size: int) -> bytes:
    """Raises: Malformed where the file ends before."""
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise Malformed("the file is cut off")
    return data


def unchanged(pieces: Iterable[Piece], size: int) -> bool:
    """Whether the pieces are the whole file as it is."""
    at = 0
    for piece in pieces:
        if not isinstance(piece, tuple) or piece[0] != at:
            return False
        at = piece[1]
    return at == size


def write(pieces: Sequence[Piece], file: BinaryIO, target: Path) -> None:
    """Write ``target``, which appears only when it is complete. Raises: OSError."""
    with arriving(target) as part, part.open("wb") as out:
        for piece in pieces:
            for data in _data(piece, file):
                out.write(data)


@contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """Yield a path to write to, beside ``target``, which it becomes in one step when the block ends well."""
    part = target.with_name(f"{target.name}.{get_ident()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _data(piece: Piece, file: BinaryIO) -> Iterable[bytes]:
    if isinstance(piece, bytes):
        yield piece
        return
    start, end = piece if isinstance(piece, tuple) else (0, piece)
    file.seek(start)
    for at in range(start, end, _STEP):
        size = min(_STEP, end - at)
        yield file.read(size) if isinstance(piece, tuple) else bytes(size)
